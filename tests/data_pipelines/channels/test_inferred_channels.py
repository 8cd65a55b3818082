"""Channels that were bound by inference, and those that were not: what a user is told."""

import numpy as np
import pytest

from data_pipelines.channels import resolve
from data_pipelines.channels.quality import check_quality
from data_pipelines.recordings.memory import ArrayRecording


def findings(labels, **kwargs):
    rng = np.random.default_rng(0)
    # Ten microvolts suit every kind of voltage here, and no two channels are the same.
    signals = {label: (rng.normal(0, 10, 2_000), 200) for label in labels}
    recording = ArrayRecording(signals)
    quality = check_quality(recording, resolve.resolve(recording.labels, **kwargs))
    assert all(channel.status == "ok" for channel in quality.channels.values())
    return [(x.kind, x.what, x.note) for x in quality.findings]


@pytest.mark.parametrize(
    "labels, what, why",
    [
        (["C3"], "eeg_c3 from C3", "taken as referenced by the recorder"),
        (["LOC"], "eog_e1 from LOC", "no reference electrode in the file"),
        (["EEG F4"], "eeg_f4 from EEG F4", "no reference electrode in the file"),
        (["C3-M1"], "eeg_c3 from C3-M1", "referenced to M1, not to the contralateral M2"),
        (["C4-A2"], "eeg_c4 from C4-A2", "not to the contralateral M1"),
        (["C3:M1+M2"], "eeg_c3 from C3:M1+M2", "referenced to linked"),
        (["O1-Cz"], "eeg_o1 from O1-Cz", "derivation against Cz, not against M2"),
        (["C4-O2"], "eeg_c4 from C4-O2", "derivation against O2"),
        (["M2-C2"], "eeg_c3 from M2-C2", "a known typing error"),
        (["Masseter_1"], "emg_chin from Masseter_1", "nothing better is in the file"),
        (["Chin2"], "emg_chin from Chin2", "not bipolar"),
        (["1", "2", "F", "1-2", "1-F", "2-F"], "emg_chin from 1-F", "known by standing together"),
    ],
)
def test_what_was_inferred_is_one_finding_a_channel(labels, what, why):
    ((kind, about, note),) = findings(labels)
    assert (kind, about) == ("inferred_channel", what)
    assert why in note and note.startswith(what.split()[0])


@pytest.mark.parametrize(
    "labels, kwargs",
    [
        (["C3-M2", "C4:M1", "F3M2", "M1-O2", "EOG LOC-A2"], {}),
        (["C3", "C4", "E1", "E2", "M1", "M2"], {}),
        (["E1-M2", "E2-M2"], {}),  # both eyes against one mastoid, as the AASM also allows
        (["L Chin", "R Chin", "ECG", "LAT", "RAT"], {}),
        (["Chin1-Chin2"], {}),
        (["Kanal 1"], {"aliases": {"eeg_c3": ["Kanal 1"]}}),
        (["EEG", "EMG"], {"cohort": "shhs"}),
    ],
)
def test_what_a_label_or_a_user_says_is_no_finding(labels, kwargs):
    assert not findings(labels, **kwargs)


def test_stand_ins_of_a_cohort_are_told():
    labels = ["EEG Fpz-Cz", "EEG Pz-Oz", "EOG horizontal"]
    assert [what for _, what, _ in findings(labels, cohort="sleep_edf")] == [
        "eeg_c3 from EEG Fpz-Cz",
        "eeg_c4 from EEG Pz-Oz",
        "eog_e1 from EOG horizontal",
    ]


def test_the_montage_is_told_with_the_channels():
    labels = [f"E{n}" for n in range(1, 33)] + ["EMG Chin"]
    assert [(kind, what) for kind, what, _ in findings(labels)] == [
        ("foreign_montage", "an EGI geodesic sensor net")
    ]
