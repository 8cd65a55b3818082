"""Labels of real montages and what they bind to; the rules on duplicates and references."""

import json
import re

import hypothesis
import pytest
from hypothesis import strategies as st

from data_pipelines.channels import table
from data_pipelines.channels.labels import normalise
from data_pipelines.channels.resolve import AliasError, load_aliases, resolve
from data_pipelines.recordings.opening import open_recording


def bound(labels, **kwargs):
    """``{channel: label, or "label - reference", with a leading minus where inverted}``."""
    text = {}
    for name, b in resolve(labels, **kwargs).bindings.items():
        reference = "" if b.reference_label is None else f" - {b.reference_label}"
        text[name] = ("-" if b.scale < 0 else "") + b.label + reference
    return text


def reason(label, labels=None, **kwargs):
    unused = dict(resolve(labels or [label], **kwargs).unused)
    return unused[label]


ALONE = {
    "eeg_c3": """C3 | C3-A2 | C3-M2 | C3_M2 | C3:M2 | C3/A2 | C3M2 | C3A2 | C3 - A2 | c3-a2
        | EEG C3-A2 | EEG_C3-M2 | EEG C3-Ref | C3-M1 | C3-A1 | C3-O1 | C3-Cz | C3-P3 | C3-AVG
        | C3:M1:M2 | C3:M1-M2 | C3:M1+M2 | EEG (C3-O1) | CENTRAL | L_CENT | PSG_C3 | EEG_C3-A22
        | C3-M2_PDS | EEG(sec) C3""",
    "eeg_c4": """C4 | C4-A1 | C4-M1 | C4_M1 | C4:M1 | C4/A1 | C4M1 | EEG C4-A1 | C4-M2 | C4-A2
        | EEG (C4-A1) | R_CENT | C4.1 | PSG_C4 | EEG_C4-A12 | C4-P4""",
    "eeg_f3": "F3 | F3-A2 | F3M2 | F3:M2 | EEG F3-M2 | F3-AVG | FRONTAL | PSG_F3",
    "eeg_f4": "F4 | F4-A1 | F4M1 | EEG F4-M1 | F4-C4",
    "eeg_o1": "O1 | O1-A2 | 01-A2 | O1_M2 | O1M2 | O1-x | OCC | L_OCC | PSG_O1",
    "eeg_o2": "O2 | O2-A1 | 02-A1 | O2M1 | EEG (O2-A1) | PSG_O2",
    "eog_e1": """EOG(L) | EOG-L | EOGl | EOG_L | EOG L | L-EOG | LEOG | LEOG-M2 | E1 | E1-M2 | E1M2
        | E1:M1 | E1_(LEOG) | E1 (LEOG) | LOC | LOC-A2 | LOC/A2 | EOG LOC-A2 | EEG_LOC-M2 | EEG_E1
        | EOG Left | EOG1 | EOG1:A2 | EOG.1 | EOG-links | EOGG | eogl-a2 | PSG_EOGL | POL PG1""",
    "eog_e2": """EOG(R) | EOGr512 | REOG-M1 | E2 | E2-M1 | E2-M2 | ROC | ROC-A2 | EOG_ROC-M1 | EOG2
        | EEG_ROC-M1 | EOG-rechts | EOGD | eogr-a1 | PSG_EOGR""",
    "eog_horizontal": "EOG horizontal | PSG_EOG | E1:E2",
    "eeg_fpz_cz": "EEG Fpz-Cz",
    "eeg_pz_oz": "EEG Pz-Oz",
    "emg_chin": """CHIN | Chin | EMG submental | EMG Chin | EMG_Chin | EMG_SM | EMG_CHIN1-CHIN2
        | Chin EMG | CHINEMG | Chin1 | Chin1-Chin2 | Chin 1-Chin 2 | Chin-1-Chin-2 | LChin | L Chin
        | Rchiin | Chin-Ctr | L Chin-R Chin | Kinn | Queixo a | PSG_EMG | Masseter_1""",
    "ecg": """ECG | EKG | ECG1 | EKG2 | ECG L | ECGR | ECG L-ECG R | ECG1-ECG2 | ECg2 | ECG II
        | ECG_II2 | ECGII-0 | ECG IIHF | ECG_V | EKG_#1 | EKG-L | EKG_L-Cz | EKG8 | ECG EKG2-EKG
        | EEG_EKG1 | EKG_EG | ECG ECG1 | MLII | V5 | LLEG1-EKG2 | EEG EKG-Ref""",
    "resp_abd": """ABDO RES | Abdo RES | ABDO EFFORT | Abdo | ABDOM | Abdmn | Abdomen | Abdominal
        | Abd | AbdDC | p.Abdomen | Effort ABD | Effort_ABD | RIP Abdomen | RIP.Abdom | Bauch
        | Abdomen CaL | Resp_Abdominal | EEG_Abd | Resp (abdominal) | PSG_ABD | Inductance Abdom""",
    "resp_thx": """THOR RES | THOR EFFORT | Thor | THOR.1 | Thoracic | Thorax | Chest | CHEST #1
        | ChestDC | Chest Effort | Effort THO | THO | RIP Thora | RIP.Thrx | Thorax_EG
        | Resp_Thoracic | EEG_Chest | Resp (chest) | PSG_THOR | Inductance Thora""",
    "airflow": "AIRFLOW | Airflow1 | NEW AIR | Flow Th | Thermistor | Resp oro-nasal | AIRFLOW-0",
    "nasal_pressure": "Cannula Flow | NASAL PRES | Nasal Pressure | N.Press | PTAF | PSG_CAN",
    "spo2": "SpO2 | SaO2 | Sa02 | SAT | SpO2 B-B | SpO2_EG | SpO2-0 | PSG_SPO2",
    "heart_rate": "H.R. | HR | Heart Rate_CU | PR | Pulse | Pulse_Rate | Derived HR | BPM",
    "ppg": "Pleth | PPG | Finger PPG | RD-Pleth_EG | Pulse Waveform | HB_PULSE",
    "position": "POSITION | Pos | BPOS | Body | Pro_Tech_Positio | Lage",
    "emg_leg_l": "LEG(L) | Leg L | L_Leg | LLEG | LAT | LAT1-LAT2 | Leg_1 | Bein Links | PLMl",
    "emg_leg_r": "LEG(R) | RLeg | RAT | Leg 2 | Bein Rechts | Jambe droite",
    "snore": "Snore | SNORE | Snoring Sensor | Snoring2 | Snore-db | PSNORE | MIC-3 | Schnarchen",
}
INVERTED = {
    "eeg_c3": "M2-C3 | M2:C3 | A2:C3 | M2-C2",
    "eeg_c4": "M1-C4 | M1:C4",
    "eeg_f3": "M2-F3",
    "eeg_o1": "M2-O1",
    "eog_e1": "M2:E1 | M1:E1 | A2:EOG1",
}
REFUSED = {
    "generic": """EEG | EEG(sec) | EEG2 | EEG 3 | EMG | EMG1 | EMG1-EMG2 | EOG | Flow | RR | DC01
        | LEG""",
    "impedance": "C3 Impédance | C3-M2 (Imp) | Jambe droite Imp | ECG Impédance",
    "status": "OX stat | STAT | SpO2-Quality | Status",
    "battery": "Battery | Voltage (core)",
    "marker": "Event marker",
    "unused": "unused | x",
    "positive-airway": """CPAP Flow | CPAP_Flow | C-Flow | CFLOW | PAP_FLOW | Flow_Patient | CPress
        | Leak""",
    "sum": "SUM | RIP Sum Cal | XFlow | THOR+ABDO | Resp (sum)",
    "hemispheres": "C3:C4 | C4:C3",
    "scalp": "Fp1 | Fp2-F4 | EEG T3-Ref",
    "carbon": "CAP | EtCO2",
    "not in the table": """Wombat | C3Q | C12 | XC3-M2 | MyECG | ECGs | Abdomenal effort
        | SpO2 trend | 77""",
}


def cases(groups):
    return [
        (key, label)
        for key, text in groups.items()
        for label in re.split(r"\s*\|\s*", text.strip())
    ]


@pytest.mark.parametrize("channel, label", cases(ALONE))
def test_a_label_alone_in_a_file(channel, label):
    assert bound([label]) == {channel: label}


@pytest.mark.parametrize("channel, label", cases(INVERTED))
def test_inverted_derivations(channel, label):
    assert bound([label]) == {channel: f"-{label}"}


@pytest.mark.parametrize("why, label", cases(REFUSED))
def test_labels_that_are_not_bound_say_why(why, label):
    assert bound([label]) == {}
    assert why in reason(label)


# --- duplicates and references --------------------------------------------------------------------


def test_a_ready_derivation_comes_before_its_electrodes():
    assert bound(["C3", "M2", "M1", "C3-M2", "M2-C3"]) == {"eeg_c3": "C3-M2"}
    assert "ranks before" in reason("C3", ["C3", "M2", "C3-M2"])


def test_electrodes_are_referenced_to_the_other_side():
    labels = ["C3", "C4", "E1", "E2", "F3", "F4", "O1", "O2", "A1", "A2"]
    found = bound(labels)
    assert found["eeg_c3"] == "C3 - A2"
    assert found["eeg_c4"] == "C4 - A1"
    assert found["eog_e1"] == "E1 - A2"
    assert found["eog_e2"] == "E2 - A1"
    assert found["eeg_o1"] == "O1 - A2"
    assert found["eeg_f4"] == "F4 - A1"


def test_other_names_of_the_mastoids():
    assert bound(["C3", "TP10"]) == {"eeg_c3": "C3 - TP10"}
    assert bound(["EEG C3-Ref", "EEG A2-Ref"]) == {"eeg_c3": "EEG C3-Ref - EEG A2-Ref"}
    assert bound(["LOC", "EEG_A2"]) == {"eog_e1": "LOC - EEG_A2"}


def test_without_any_mastoid_the_recorder_is_trusted():
    resolution = resolve(["C3", "LOC"])
    assert resolution.bindings["eeg_c3"].reference is None
    assert resolution.bindings["eeg_c3"].notes == ("no reference electrode in the file",)


def test_the_wrong_mastoid_alone_drops_the_channel():
    assert bound(["C3", "C4", "M1"]) == {"eeg_c4": "C4 - M1"}
    assert reason("C3", ["C3", "C4", "M1"]) == "unreferenced: needs M2, and the file holds only M1"
    assert bound(["C3", "A1-A2"]) == {}


def test_a_ready_derivation_against_the_wrong_mastoid_is_noted():
    resolution = resolve(["C3-M1"])
    assert resolution.bindings["eeg_c3"].notes == ("referenced to M1, not to the contralateral M2",)
    assert bound(["C3-M1", "C3", "M2"]) == {"eeg_c3": "C3 - M2"}


def test_second_copies_come_second():
    assert bound(["EEG_C4-A12", "EEG_C4-A1"]) == {"eeg_c4": "EEG_C4-A1"}
    assert bound(["ECG_II2", "ECG_II"]) == {"ecg": "ECG_II"}
    assert bound(["Snore2", "Snore"]) == {"snore": "Snore"}
    assert bound(["C3-M2", "C3-M2"]) == {"eeg_c3": "C3-M2"}


def test_ranks_within_a_channel():
    assert bound(["Inductance Abdom", "Abdomen CaL", "Abdomen"]) == {"resp_abd": "Abdomen"}
    assert bound(["ECG2", "ECG1", "ECG1-ECG2"]) == {"ecg": "ECG1-ECG2"}
    assert bound(["Masseter_1", "Chin1"]) == {"emg_chin": "Chin1"}


@pytest.mark.parametrize(
    "labels, wanted",
    [
        (["L Chin", "R Chin"], "R Chin - L Chin"),
        (["Chin1", "Chin2", "Chin3"], "Chin1 - Chin2"),
        (["Chin3", "Chin1"], "Chin1 - Chin3"),
        (["Lchin", "Cchin"], "Cchin - Lchin"),
        (["Chin1", "Chin2", "Chin1-Chin2"], "Chin1-Chin2"),
        (["L Chin", "R Chin", "EMG Chin"], "EMG Chin"),
        (["Chin2"], "Chin2"),
        (["1", "2", "F", "1-2", "1-F", "2-F"], "1-F"),
    ],
)
def test_chin(labels, wanted):
    assert bound(labels) == {"emg_chin": wanted}


def test_bare_digits_are_chin_electrodes_on_nox_only():
    assert bound(["1", "2", "F"]) == {}
    assert "Nox" in reason("1")


def test_two_ecg_electrodes_make_a_lead():
    assert bound(["ECG L", "ECG R"]) == {"ecg": "ECG L - ECG R"}
    assert bound(["ECG L", "ECG R", "ECG"]) == {"ecg": "ECG"}


def test_cpap_flow_stays_out_of_airflow():
    assert bound(["CPAP Flow", "Airflow"]) == {"airflow": "Airflow"}


def test_unreadable_channels_make_way():
    resolution = resolve(["C3-M2", "C3", "M2"], unreadable={0: "flat header"})
    assert resolution.bindings["eeg_c3"].label == "C3"
    assert resolution.unused == [("C3-M2", "cannot be read: flat header")]


def test_an_unreadable_mastoid_is_not_taken_for_none():
    resolution = resolve(["C3", "M2"], unreadable={1: "flat header"})
    assert resolution.bindings == {}
    assert "needs M2, and the file holds only M2 (bad)" in dict(resolution.unused)["C3"]


# --- cohorts and users' aliases -------------------------------------------------------------------


def test_generic_labels_bind_in_their_cohort_only():
    labels = ["EEG", "EEG(sec)", "EMG", "EOG(L)", "ECG", "THOR RES"]
    assert set(bound(labels)) == {"eog_e1", "ecg", "resp_thx"}
    found = bound(labels, cohort="shhs")
    assert found["eeg_c4"] == "EEG"
    assert found["eeg_c3"] == "EEG(sec)"
    assert found["emg_chin"] == "EMG"
    assert "cohort (shhs)" in reason("EEG")


def test_the_same_label_differs_between_cohorts():
    labels = ["EEG1", "EEG2", "EEG3", "Flow"]
    assert bound(labels, cohort="mesa") == {"eeg_c4": "EEG3", "nasal_pressure": "Flow"}
    assert bound(labels, cohort="shhs") == {"eeg_c3": "EEG2"}
    assert bound(labels) == {}


def test_labels_that_mean_nothing_here_in_a_cohort():
    assert "Fz-Cz in MESA" in reason("EEG1", cohort="mesa")
    assert "piezo" in reason("Leg", cohort="mesa")


def test_chin_electrodes_of_a_cohort():
    assert bound(["EMG1", "EMG2", "EMG3"], cohort="cfs") == {"emg_chin": "EMG1 - EMG2"}
    assert bound(["EMG1"], cohort="cfs") == {"emg_chin": "EMG1"}
    assert bound(["EMG1", "EMG2", "EMG3"]) == {}


def test_alternatives_come_in_their_order():
    resolution = resolve(["C3", "C3-M1", "M2", "C3-M2", "C4"])
    alternatives = resolution.alternatives["eeg_c3"]
    assert [b.label for b in alternatives] == ["C3", "C3-M1"]
    assert "eeg_c4" not in resolution.alternatives


def test_sleep_edf_stand_ins_are_named_as_such():
    labels = ["EEG Fpz-Cz", "EEG Pz-Oz", "EOG horizontal"]
    assert set(bound(labels)) == {"eeg_fpz_cz", "eeg_pz_oz", "eog_horizontal"}
    resolution = resolve(labels, cohort="sleep_edf")
    assert set(resolution.bindings) == {"eeg_c3", "eeg_c4", "eog_e1"}
    assert all("stand-in" in b.notes[0] for b in resolution.bindings.values())


def test_an_unknown_cohort_lists_the_known():
    with pytest.raises(ValueError, match="unknown cohort 'shss'; there are .*shhs"):
        resolve([], cohort="shss")


@pytest.mark.parametrize(
    "name, text",
    [
        (
            "a.toml",
            'eeg_c3 = ["Kanal 1"]\necg = ["X9"]\n'
            'emg_chin = [{label = "X5", minus = "X6", invert = true}]',
        ),
        (
            "a.json",
            json.dumps(
                {
                    "eeg_c3": ["Kanal 1"],
                    "ecg": ["X9"],
                    "emg_chin": [{"label": "X5", "minus": "X6", "invert": True}],
                }
            ),
        ),
    ],
)
def test_an_alias_file_comes_first(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    aliases = load_aliases(path)
    labels = ["C3-M2", "kanal_1", "X5", "X6", "ECG", "x9"]
    assert bound(labels, aliases=aliases) == {
        "eeg_c3": "kanal_1",
        "emg_chin": "-X5 - X6",
        "ecg": "x9",
    }


def test_an_alias_that_is_not_there_changes_nothing():
    assert bound(["C3-M2"], aliases={"eeg_c3": ["Kanal 1"]}) == {"eeg_c3": "C3-M2"}


def test_an_alias_can_bind_a_generic_label():
    assert bound(["EEG", "EMG"], aliases={"eeg_c4": ["EEG"]}) == {"eeg_c4": "EEG"}


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "not valid JSON"),
        ("[]", "a table of channel names is needed"),
        ('{"C3": ["x"]}', "'C3' is not a channel; there are eeg_c3"),
        ('{"eeg_c3": "x"}', "eeg_c3: a list of labels is needed"),
        ('{"eeg_c3": [7]}', "7 is neither a label nor a table"),
        ('{"eeg_c3": [" - "]}', "label must be a label"),
        ('{"eeg_c3": [{"label": "a", "plus": "b"}]}', "unknown key 'plus'"),
        ('{"eeg_c3": [{"label": "a", "invert": 1}]}', "invert is true or false"),
        ('{"eeg_c3": [{"minus": "a"}]}', "needs a label"),
        ('{"eeg_c3": ["K1"], "eeg_c4": ["k_1"]}', "claimed by both eeg_c3 and eeg_c4"),
    ],
)
def test_a_wrong_alias_file_says_what_is_wrong(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(AliasError, match=re.escape(message)) as caught:
        load_aliases(path)
    assert str(path) in str(caught.value)


def test_an_alias_file_that_cannot_be_read(tmp_path):
    with pytest.raises(AliasError, match="cannot be read"):
        load_aliases(tmp_path / "none.toml")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(AliasError, match="not UTF-8"):
        load_aliases(tmp_path / "b.toml")


# --- real montages --------------------------------------------------------------------------------


def test_every_label_of_the_nox_montage(test_data):
    labels = open_recording(test_data / "nox-a1/subject1.edf").labels
    resolution = resolve(labels)
    assert {name: b.label for name, b in resolution.bindings.items()} == {
        "eeg_c3": "C3-M2",
        "eeg_c4": "C4-M1",
        "eog_e1": "E1-M2",
        "eog_e2": "E2-M1",
        "emg_chin": "1-F",
        "ecg": "ECG",
        "resp_abd": "Abdomen",
        "resp_thx": "Chest",
        "eeg_f3": "F3-M2",
        "eeg_f4": "F4-M1",
        "eeg_o1": "O1-M2",
        "eeg_o2": "O2-M1",
        "airflow": "Airflow",
        "nasal_pressure": "Nasal Pressure",
        "spo2": "Saturation",
        "heart_rate": "Heart Rate",
        "ppg": "Pulse Waveform",
        "emg_leg_l": "Left Leg",
        "emg_leg_r": "Right Leg",
        "snore": "Snoring",
    }
    assert not [why for _, why in resolution.unused if "not in the table" in why]
    assert sum("impedance" in why for _, why in resolution.unused) == 26


def test_the_montage_of_the_bitbrain_nights(test_data):
    path = next((test_data / "boas").rglob("*acq-psg_channels.tsv"))
    labels = [line.split("\t")[0] for line in path.read_text().splitlines()[1:]]
    found = bound(labels)
    assert found["eeg_c3"] == "PSG_C3"
    assert found["emg_chin"] == "PSG_EMG"


def test_the_headers_of_the_polysomnographic_database(test_data):
    labels = ["ECG", "BP", "EEG (C4-A1)", "Resp (nasal)", "Resp (chest)", "EOG (right)", "EMG"]
    assert bound(labels, cohort="slpdb") == {
        "eeg_c4": "EEG (C4-A1)",
        "eog_e2": "EOG (right)",
        "emg_chin": "EMG",
        "ecg": "ECG",
        "resp_thx": "Resp (chest)",
        "airflow": "Resp (nasal)",
    }


# --- properties -----------------------------------------------------------------------------------

KNOWN = sorted(
    {label for _, label in cases(ALONE) + cases(INVERTED) + cases(REFUSED)}
    | {"M1", "M2", "A1", "A2", "A1-A2", "1", "2", "F", "1-F", "1-2", "2-F"}
)
LABELS = st.lists(st.sampled_from(KNOWN) | st.text(max_size=16), max_size=40)


@hypothesis.given(labels=LABELS, cohort=st.sampled_from([None, *table.COHORTS]))
@hypothesis.settings(deadline=None)
def test_no_label_is_two_channels_and_none_is_forgotten(labels, cohort):
    resolution = resolve(labels, cohort=cohort)
    primary = [b.index for b in resolution.bindings.values()]
    assert len(primary) == len(set(primary))
    references = {b.reference for b in resolution.bindings.values()} - {None}
    assert not references & set(primary)
    assert len(resolution.unused) == len(labels) - len(references | set(primary))
    for name, b in resolution.bindings.items():
        assert name == b.channel and labels[b.index] == b.label
        assert b.reference is None or labels[b.reference] == b.reference_label
    assert all(why for _, why in resolution.unused)


@hypothesis.given(labels=LABELS, seed=st.randoms(use_true_random=False))
@hypothesis.settings(deadline=None)
def test_the_order_of_a_file_does_not_matter(labels, seed):
    """Only equal forms of one label are decided by position."""
    forms = {normalise(label): label for label in labels}
    labels = list(forms.values())
    shuffled = seed.sample(labels, len(labels))
    first, second = resolve(labels).bindings, resolve(shuffled).bindings
    assert set(first) == set(second)


@hypothesis.given(
    label=st.sampled_from([label for _, label in cases(ALONE)]),
    extra=st.sampled_from(["Wombat", "zz", "Qual", "trend"]),
    in_front=st.booleans(),
)
def test_a_label_inside_a_longer_one_does_not_match(label, extra, in_front):
    assert bound([extra + label if in_front else label + extra]) == {}
    assert bound([f"{extra} {label}" if in_front else f"{label} {extra}"]) == {}
