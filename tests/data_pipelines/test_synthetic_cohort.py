"""Simulated cohorts on disk: a user's kind of files, same bytes, resumable, never mixed."""

import csv
import datetime
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from data_pipelines import participants, scoring, splits
from data_pipelines.channels import resolve
from data_pipelines.recipes.hypnos import EIGHT
from data_pipelines.recordings import opening
from data_pipelines.recordings.edf_writer import EdfSignal, write_edf
from data_pipelines.synthetic import draw_subject, plan_cohort, simulate_night, write_cohort
from data_pipelines.synthetic.sites import SITES, channels_of, record, site_named
from data_pipelines.synthetic.subjects import stream

NIGHTS = 8
START = datetime.datetime(1985, 1, 1, 22, 15, 0)


def contents(folder):
    return {p.name: p.read_bytes() for p in pathlib.Path(folder).iterdir() if p.is_file()}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    return folder, write_cohort(folder, NIGHTS, seed=5, hours=0.2)


def test_recordings_open_with_rates_units_and_all_channels(cohort):
    folder, names = cohort
    assert len(names) == NIGHTS == len(set(names))
    sites = set()
    for name in names:
        recording = opening.open_recording(folder / f"{name}.edf")
        site = site_named(name.split("-")[0])
        sites.add(site.name)
        assert recording.duration_s == 720
        assert 21 * 3600 < recording.start_of_day_s < 24 * 3600
        leads = {lead.label: lead for lead in site.leads}
        assert set(recording.labels) <= set(leads)
        assert len(recording.labels) >= len(leads) - 1
        kinds = site.rates
        expected = {"eeg": kinds["eeg"], "eog": kinds["eog"], "ecg": kinds["ecg"], "spo2": 1}
        for index, label in enumerate(recording.labels):
            kind = leads[label].parts[0][0].split("_")[0]
            if kind in expected:
                assert recording.sfreq_hz(index) == expected[kind]
        resolution = resolve.resolve(recording.labels)
        lost = 8 - sum(name in resolution.bindings for name in EIGHT)
        assert lost <= (2 if site.name == "birch" else 1)  # a lost mastoid takes two channels
        assert resolution.unused == [] or lost
    assert sites == {site.name for site in SITES}


def test_mne_reads_the_same_signals(cohort):
    mne = pytest.importorskip("mne")
    folder, names = cohort
    for name in names[:5]:
        raw = mne.io.read_raw_edf(folder / f"{name}.edf", verbose="error")
        recording = opening.open_recording(folder / f"{name}.edf")
        label = next(x for x in raw.ch_names if "C4" in x or x == "M1")
        index = recording.labels.index(label)
        if recording.sfreq_hz(index) != raw.info["sfreq"]:
            continue  # mne brings every channel to the fastest rate
        ours = recording.read(index, 10, 20)
        start, stop = raw.time_as_index([10, 20])
        np.testing.assert_allclose(raw[label, start:stop][0][0] * 1e6, ours, atol=1e-6)


def test_scoring_beside_is_found_and_read(cohort):
    folder, names = cohort
    forms = set()
    for planned in plan_cohort(NIGHTS, 5, 0.2):
        path = folder / f"{planned.recording}.edf"
        site = site_named(planned.site)
        recording = opening.open_recording(path)
        found = scoring.find_scoring(path)
        forms.add(found.suffix)
        read = scoring.read_scoring(found, recording=recording)
        night = simulate_night(
            5,
            0.2,
            subject=draw_subject(5, planned.subject_index),
            night=planned.night,
            rates=site.rates,
            channels=(),
        )
        np.testing.assert_array_equal(read.stages, night.scoring.stages)
        written = [e for e in night.scoring.events if e.kind in ("hypopnea", "arousal")]
        back = [e for e in read.events if e.kind in ("hypopnea", "arousal")]
        assert [e.kind for e in back] == [e.kind for e in written]
        for one, other in zip(back, written, strict=True):
            assert one.onset_s == pytest.approx(other.onset_s, abs=0.06)
            assert one.duration_s == pytest.approx(other.duration_s, abs=0.06)
    assert forms == {".edf", ".xml", ".annot"}


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.name)
def test_units_labels_and_polarity_decode_to_the_same_signal(tmp_path, site):
    rates = dict.fromkeys(("eeg", "eog", "emg", "ecg", "leg"), 128) | {"resp": 32, "flow": 32}
    night = simulate_night(3, 0.1, rates=rates)
    path = tmp_path / "night.edf"
    write_edf(path, record(stream(0), night, site, clean=True), START)
    recording = opening.open_recording(path)
    resolution = resolve.resolve(recording.labels)
    for name in EIGHT:
        values, sfreq = opening.read_channel(recording, resolution.bindings[name])
        assert sfreq == night.rates[name]
        wanted = night.signals[name]
        if name.startswith("resp"):  # arbitrary units: the same shape
            assert np.corrcoef(values, wanted)[0, 1] > 0.9999
        elif name == "ecg" and site.flipped_ecg:
            np.testing.assert_allclose(values, -wanted, atol=0.3)
        else:
            np.testing.assert_allclose(values, wanted, atol=0.3)  # uV; a step is 0.1 or 0.25


def test_hum_and_losses_are_there():
    site = site_named("dahlia")
    night = simulate_night(3, 0.1, rates=site.rates, channels=channels_of(site))
    noisy, clean = (record(stream(1), night, site, clean=clean) for clean in (False, True))
    hum = noisy[0].samples * 1e6 - clean[0].samples * 1e6
    spectrum = np.abs(np.fft.rfft(hum[:2000]))
    assert np.argmax(spectrum) == 50 * 10  # 50 Hz at bins of 0.1 Hz
    lost = 0
    for i in range(60):
        labels = [s.label for s in record(stream(i), night, site)]
        lost += len(labels) < len(site.leads)
    assert 1 <= lost <= 20


def test_same_arguments_same_bytes_whatever_the_processes(cohort, tmp_path):
    write_cohort(tmp_path, NIGHTS, seed=5, hours=0.2, jobs=2)
    assert contents(tmp_path) == contents(cohort[0])


def test_hash_randomisation_does_not_enter(tmp_path):
    made = []
    for salt in ("1", "2"):
        folder = tmp_path / salt
        command = [sys.executable, "-m", "launch.synthesize", f"--output={folder}"]
        command += ["--nights=2", "--seed=9", "--hours=0.07"]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONHASHSEED": salt}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "2/2" in done.stderr
        made.append(contents(folder))
    assert made[0] == made[1]


def test_resumes_where_it_stopped(tmp_path):
    first = write_cohort(tmp_path, 3, seed=2, hours=0.07)
    before = contents(tmp_path)
    lost = tmp_path / f"{first[1]}.edf"
    lost.rename(tmp_path / f".{first[1]}.edf.partial-0")  # as a kill between two renames leaves it
    kept = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob(f"{first[0]}*")}
    finished = []
    write_cohort(tmp_path, 3, seed=2, hours=0.07, finished=finished.append)
    assert finished == first
    assert contents(tmp_path) == before
    assert kept == {p.name: p.stat().st_mtime_ns for p in tmp_path.glob(f"{first[0]}*")}


def test_a_larger_cohort_begins_with_the_same_nights(tmp_path):
    small = write_cohort(tmp_path, 2, seed=2, hours=0.07)
    bytes_before = (tmp_path / f"{small[0]}.edf").read_bytes()
    large = write_cohort(tmp_path, 4, seed=2, hours=0.07)
    assert large[:2] == small
    assert (tmp_path / f"{small[0]}.edf").read_bytes() == bytes_before


def test_participants_are_a_subject_map_with_age_and_sex(cohort):
    folder, names = cohort
    people = participants.match([participants.read_table(folder / "participants.csv")], names)
    subjects = people.subjects
    assert sorted(subjects) == sorted(names)
    assert not people.findings
    assert len(set(subjects.values())) < NIGHTS  # somebody stayed for two nights
    with open(folder / "participants.csv") as file:
        for row in csv.DictReader(file):
            assert 18 <= int(row["age"]) <= 85
            assert row["sex"] in "FM"
            assert row["site"] == row["recording"].split("-")[0]


def test_another_cohort_is_not_mixed_in(tmp_path):
    write_cohort(tmp_path, 1, seed=2, hours=0.07)
    with pytest.raises(ValueError, match="another cohort"):
        write_cohort(tmp_path, 1, seed=3, hours=0.07)
    own = tmp_path / "own"
    own.mkdir()
    (own / "mine.edf").write_bytes(b"0")
    with pytest.raises(ValueError, match="already holds recordings"):
        write_cohort(own, 1, seed=3, hours=0.07)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"nights": 0}, "nights is 0"),
        ({"hours": 0.01}, "hours is 0.01"),
        ({"hours": float("nan")}, "hours is nan"),
        ({"labels": "/no/such/folder"}, "not a folder"),
        ({"stretch": True}, "a stretch can be taken of labels alone"),
    ],
)
def test_nonsense_is_refused_before_anything_is_written(tmp_path, arguments, match):
    output = tmp_path / "new"
    arguments = {"nights": 1, "hours": 0.1, "seed": 0, **arguments}
    with pytest.raises(ValueError, match=match):
        write_cohort(output, **arguments)
    assert not output.exists()


def test_stages_and_events_of_given_labels_are_followed(tmp_path):
    labels = tmp_path / "labels"
    labels.mkdir()
    stages = np.repeat(np.array([0, 1, 2, -1, 3, 2, 4, 0], np.int8), [4, 2, 9, 1, 8, 3, 9, 2])
    apnea = scoring.Event("apnea_obstructive", 400.0, 30.0)
    given = scoring.Scoring(stages, [apnea], "test")
    scoring.write_edf_annotations(labels / "one.edf", given, start=START)
    (labels / "notes.md").write_text("not a scoring")
    output = tmp_path / "cohort"
    (name,) = write_cohort(output, 1, seed=4, hours=8, labels=labels)
    path = output / f"{name}.edf"
    recording = opening.open_recording(path)
    assert recording.duration_s == len(stages) * 30
    read = scoring.read_scoring(scoring.find_scoring(path), recording=recording)
    np.testing.assert_array_equal(read.stages, stages)
    assert [e.onset_s for e in read.events if e.kind.startswith("apnea")] == [400.0]
    flow = resolve.resolve(recording.labels).bindings["airflow"]
    values, rate = opening.read_channel(recording, flow)
    during = values[int(405 * rate) : int(428 * rate)]
    before = values[int(370 * rate) : int(395 * rate)]
    assert np.std(during) < 0.3 * np.std(before)

    # Of a stretch: so many epochs in a row, with the events that begin in it.
    (name,) = write_cohort(tmp_path / "cut", 1, seed=4, hours=0.1, labels=labels, stretch=True)
    path = tmp_path / "cut" / f"{name}.edf"
    recording = opening.open_recording(path)
    read = scoring.read_scoring(scoring.find_scoring(path), recording=recording)
    assert recording.duration_s == 360
    starts = [k for k in range(len(stages) - 11) if (stages[k : k + 12] == read.stages).all()]
    assert len(starts) == 1
    inside = 30 * starts[0] <= 400 < 30 * starts[0] + 360
    found = [e.onset_s for e in read.events if e.kind.startswith("apnea")]
    assert found == [400.0 - 30 * starts[0]] * inside


def test_a_folder_without_scorings_is_refused(tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "notes.md").write_text("nothing")
    with pytest.raises(ValueError, match="holds no scored night"):
        write_cohort(tmp_path / "out", 1, seed=0, hours=1, labels=tmp_path / "labels")


def test_a_real_hypnogram_is_followed(tmp_path, test_data):
    labels = tmp_path / "labels"
    labels.mkdir()
    source = test_data / "sleep-edf" / "SC4001EC-Hypnogram.edf"
    (labels / source.name).write_bytes(source.read_bytes())
    (name,) = write_cohort(tmp_path / "out", 1, seed=0, hours=1, labels=labels)
    path = tmp_path / "out" / f"{name}.edf"
    read = scoring.read_scoring(scoring.find_scoring(path)).stages
    real = scoring.read_scoring(source).stages
    first = np.flatnonzero(real > 0)[0] - 60
    np.testing.assert_array_equal(read, real[first : first + len(read)])
    assert len(read) > 840  # about 8 h


def test_edf_fields_are_checked(tmp_path):
    good = EdfSignal("C3-M2", "uV", 10, np.zeros(20, np.float32), -100, 100)
    write_edf(tmp_path / "a.edf", [good], START)
    long_label = EdfSignal("a label of far too many letters", "uV", 10, np.zeros(20), -1, 1)
    with pytest.raises(ValueError, match=r"b.edf: .*31 > 16"):
        write_edf(tmp_path / "b.edf", [long_label], START)
    other = EdfSignal("C4-M1", "uV", 10, np.zeros(30), -1, 1)
    with pytest.raises(ValueError, match="all must be as long"):
        write_edf(tmp_path / "c.edf", [good, other], START)


def test_few_subjects_fill_all_splits():
    names = {draw_subject(0, planned.subject_index).name for planned in plan_cohort(6, 0, 1.0)}
    assert {splits.split_of(name) for name in names} == set(splits.SPLITS)
