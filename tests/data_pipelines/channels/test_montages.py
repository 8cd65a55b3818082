"""Electrode systems told by their labels together: what must not bind, and what must go on to."""

import warnings

import hypothesis
import pytest
from hypothesis import strategies as st

from data_pipelines.channels.montages import SYSTEMS, TEN_FIVE, find_foreign
from data_pipelines.channels.resolve import resolve

HEAD = {
    *("eeg_c3", "eeg_c4", "eeg_f3", "eeg_f4", "eeg_o1", "eeg_o2"),
    *("eog_e1", "eog_e2", "eog_horizontal"),
}
PHYSIOLOGY = ["ECG", "Abdomen", "SpO2"]


def bank(letter, last, first=1):
    return [f"{letter}{number}" for number in range(first, last + 1)]


def words(text):
    return text.split()


PSG = words("F3 F4 C3 C4 O1 O2 M1 M2 E1 E2 Chin1 Chin2 LAT RAT") + PHYSIOLOGY
CLINICAL = words("Fp1 Fp2 F7 F3 Fz F4 F8 T3 C3 Cz C4 T4 T5 P3 Pz P4 T6 O1 O2 A1 A2")


def banks(**last):
    return [label for letter, number in last.items() for label in bank(letter, number)]


BIOSEMI = {
    8: banks(A=8),
    16: banks(A=16),
    32: banks(A=32),
    64: banks(A=32, B=32),
    128: banks(A=32, B=32, C=32, D=32),
    160: banks(A=32, B=32, C=32, D=32, E=32),
    256: banks(A=32, B=32, C=32, D=32, E=32, F=32, G=32, H=32),
}
EGI = {count: bank("E", count) for count in (16, 20, 32, 33, 64, 65, 128, 129, 256, 257)}
SHAFTS = {
    "letters": banks(A=10, B=12, C=8, F=8, O=10, TP=10),
    "short ones": banks(A=4, B=4, C=4, D=4, E=4),
    "only what the 10-10 system has": banks(F=10, C=6, P=10),
    "one": banks(F=8),
    "left and right": banks(**{"A'": 12, "C'": 10, "A": 12, "C": 10, "E'": 8, "E": 8}),
    "words": banks(LOC=8, ROC=8, LAT=8, RAT=8, PG=6),
    "grid": banks(A=64, O=6),
    "thinned out": ["A1", "A2", "A5", "A9", "B3", "B11", "B12", "C3", "C4", "D4", "D12", "E1"],
}


def written(labels, *, prefix="", suffix="", case=str, digits=1):
    """The labels as one of the recorders writes them."""
    found = []
    for label in labels:
        letters = label.rstrip("0123456789")
        number = label[len(letters) :]
        found.append(case(f"{prefix}{letters}{number.zfill(digits)}{suffix}"))
    return found


SPELLINGS = [
    {},
    {"case": str.lower},
    {"case": str.upper},
    {"prefix": "EEG "},
    {"prefix": "EEG ", "suffix": "-Ref"},
    {"prefix": "EEG_"},
    {"prefix": "POL "},
    {"prefix": "1-"},
    {"suffix": "-Ref"},
    {"suffix": "-Cz"},
    {"suffix": "-AVG"},
    {"digits": 2},
    {"digits": 3},
]


def each(systems):
    """Every size in plain spelling, and every spelling in one size, the next each time."""
    sizes = [*systems]
    return [({}, size) for size in sizes] + [
        (spelling, sizes[n % len(sizes)]) for n, spelling in enumerate(SPELLINGS) if spelling
    ]


def heads(labels, **kwargs):
    return HEAD & resolve(labels, **kwargs).bindings.keys()


def told(labels, **kwargs):
    return [x.what for x in resolve(labels, **kwargs).findings if x.kind == "foreign_montage"]


@pytest.mark.parametrize("spelling, count", each(BIOSEMI), ids=str)
def test_biosemi_banks_bind_no_electrode(count, spelling):
    labels = written(BIOSEMI[count], **spelling) + bank("EXG", 8) + ["Status", *PHYSIOLOGY]
    assert not heads(labels)
    assert resolve(labels).bindings.keys() == {"ecg", "resp_abd", "spo2"}
    assert told(labels) == [SYSTEMS[1].name if count > 16 else SYSTEMS[-1].name]


@pytest.mark.parametrize("spelling, count", each(EGI), ids=str)
def test_nets_bind_no_eyes(count, spelling):
    labels = written(EGI[count], **spelling) + ["Cz", "VREF", *PHYSIOLOGY]
    assert not heads(labels)
    assert told(labels) == ["an EGI geodesic sensor net"]


@pytest.mark.parametrize("spelling, kind", each(SHAFTS), ids=str)
def test_depth_electrodes_bind_nothing_of_the_head(kind, spelling):
    labels = written(SHAFTS[kind], **spelling) + PHYSIOLOGY
    assert not heads(labels)
    assert not {"emg_leg_l", "emg_leg_r"} & resolve(labels).bindings.keys()
    assert len(told(labels)) == 1


def test_bipolar_contacts_of_shafts():
    shafts = ("A", "C", "LAT", "E", "LOC", "F")
    labels = [f"{s}{n}-{s}{n + 1}" for s in shafts for n in range(1, 8)]
    assert not resolve(labels).bindings
    assert told(labels)


def test_contacts_against_one_contact_are_no_derivation_of_the_10_20_system():
    labels = [f"{shaft}{n}-A2" for shaft in "BC" for n in range(1, 11)]
    assert not resolve(labels).bindings


def test_nihon_kohden_names_contacts_twice():
    """It writes EEG before the names that it knows and POL before the others."""
    shaft = [
        "POL C1",
        "POL C2",
        "EEG C3-Ref",
        "EEG C4-Ref",
        *written(bank("C", 12, 5), prefix="POL "),
    ]
    ears = ["EEG A1-Ref", "EEG A2-Ref", *written(bank("A", 10, 3), prefix="POL ")]
    assert not resolve(shaft + ears).bindings


@pytest.mark.parametrize(
    "labels, name",
    [
        ([str(n) for n in range(1, 62)], "electrodes that are only numbered"),
        ([f"EEG {n:03d}" for n in range(1, 61)] + ["EOG 061"], "electrodes that are only numbered"),
        ([f"EEG{n}" for n in range(1, 17)], "electrodes that are only numbered"),
        (bank("A", 248), "MEG sensors"),
        ([f"MEG {n:04d}" for n in range(111, 144)], "MEG sensors"),
    ],
)
def test_other_systems_are_named(labels, name):
    assert not resolve(labels).bindings
    assert told(labels) == [name]


def test_every_label_of_it_says_why_and_one_finding_says_what_to_do():
    resolution = resolve(BIOSEMI[128])
    assert len(resolution.unused) == 128
    assert all("a BioSemi cap" in why for _, why in resolution.unused)
    (finding,) = resolution.findings
    assert finding.kind == "foreign_montage"
    assert "--aliases=FILE" in finding.note and "128 labels" in finding.note


def test_a_users_aliases_still_win():
    aliases = {"eeg_c3": [{"label": "D19", "minus": "EXG1"}], "eog_e1": ["A1"]}
    resolution = resolve([*BIOSEMI[128], "EXG1"], aliases=aliases)
    assert {x: b.label for x, b in resolution.bindings.items()} == {"eeg_c3": "D19", "eog_e1": "A1"}
    assert resolve(EGI[128], aliases={"eog_e1": ["E125"]}).bindings.keys() == {"eog_e1"}


def test_a_cohort_whose_labels_are_documented_still_binds():
    assert heads(["EEG1", "EEG2", "EEG3"] + bank("X", 12), cohort="mesa") == {"eeg_c4"}


# --- two systems in one recording -----------------------------------------------------------------


@pytest.mark.parametrize(
    "labels, bound",
    [
        # Scalp electrodes beside shafts: a letter that runs on is a shaft, the others stay.
        (banks(A=12, B=10, LA=8) + ["Fz", "Cz", "Pz", "C3", "C4", "O1", "O2"], "C3 C4 O1 O2"),
        (banks(LA=8, LH=8, RA=8, RH=8) + ["C3", "C4", "A1", "A2", "E1", "E2"], "C3 C4 E1 E2"),
        (banks(G=64, LT=6) + ["C3", "C4", "M1", "M2"], "C3 C4"),
        # In doubt: shaft C may have four contacts, so C3 is not used and F3 is.
        (banks(A=12, B=10, C=4) + ["Fz", "Cz", "F3", "F4"], "F3 F4"),
        # Electrodes that the user gave names of the 10-20 system.
        (banks(A=32, B=32) + ["C3", "C4", "M1", "M2"], "C3 C4"),
        (EGI[64] + ["C3", "C4", "M1", "M2"], "C3 C4"),
        # A ready derivation against the ear of the other side says what it is.
        (bank("A", 8) + ["C3-A2", "C4A1", "E1-A2"], "C3-A2 C4A1 E1-A2"),
        # What is left of banks of which electrodes were taken out.
        (["A1", "A2", "A19", "B22", "C3", "C4", "D4", "D19"], ""),
        (["E1", "E2", "E9", "E24", "E36", "E104"], ""),
        (["A1", "A2", "C3", "C4", "C21"], ""),
        # A number that no bank has is no electrode.
        (["C3", "C99", "X1"], "C3"),
    ],
)
def test_what_stays_beside_another_system(labels, bound):
    bindings = resolve(labels).bindings
    assert {bindings[name].label for name in HEAD & bindings.keys()} == set(bound.split())


# --- recordings of the 10-20 system ---------------------------------------------------------------

INPUTS = {
    "none": [],
    "bipolar inputs": ["B1", "B2"],
    "four bipolar inputs": bank("B", 4),
    "auxiliary ones": bank("X", 16) + bank("DC", 16) + bank("AUX", 8),
    "leads": bank("V", 6) + bank("ECG", 12) + bank("EMG", 8),
    "four eyes": ["E3", "E4", "EOG3", "EOG4"],
    "copies of what is not there": ["C4-Cz2", "A1-A22", "E12-M2"],
    "one slip": ["A3", "C7"],
    "more of the head": ["C1", "C2", "C5", "C6", "F1", "F2", "T1", "T2", "P1", "P2"],
    "free inputs of Natus": [f"C{n}" for n in range(23, 129)],
    "a few free inputs": ["EEG C57-REF", "EEG C58-REF", "EEG C59-REF"],
    "numbered": bank("EEG", 4) + ["1", "2", "3"],
}


@pytest.mark.parametrize("extra", [*INPUTS])
@pytest.mark.parametrize("montage", [PSG, CLINICAL], ids=["PSG", "clinical"])
def test_polygraphs_with_many_inputs_bind_as_without_them(montage, extra):
    plain = resolve(montage).bindings
    bindings = resolve(montage + INPUTS[extra]).bindings
    for name in HEAD & plain.keys():
        assert (bindings[name].label, bindings[name].reference_label) == (
            plain[name].label,
            plain[name].reference_label,
        )
    assert not told(montage + INPUTS[extra])


@pytest.mark.parametrize(
    "name",
    words(
        """standard_1005 standard_1020 standard_postfixed standard_primed standard_prefixed
        biosemi16 biosemi32 biosemi64 easycap-M1 brainproducts-RNP-BA-128"""
    ),
)
def test_published_caps_of_the_10_20_system_bind(name):
    """As mne lists them; the eyes and the ECG are put beside."""
    mne = pytest.importorskip("mne")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # some of these names are to change
        labels = mne.channels.make_standard_montage(name).ch_names
    labels = [*labels, "E1", "E2", "ECG", *bank("EXG", 8), "Status"]
    bindings = resolve(labels).bindings
    assert {bindings["eeg_c3"].label, bindings["eeg_c4"].label} == {"C3", "C4"}
    assert {"eog_e1", "eog_e2", "ecg", "eeg_o1", "eeg_f3"} <= bindings.keys()
    assert not told(labels)


@pytest.mark.parametrize(
    "name",
    words(
        """biosemi128 biosemi160 biosemi256 EGI_256 GSN-HydroCel-32 GSN-HydroCel-64_1.0
        GSN-HydroCel-65_1.0 GSN-HydroCel-128 GSN-HydroCel-129 GSN-HydroCel-256 GSN-HydroCel-257
        easycap-M10 easycap-M43 mgh60 mgh70"""
    ),
)
def test_published_layouts_of_other_systems_do_not(name):
    mne = pytest.importorskip("mne")
    labels = mne.channels.make_standard_montage(name).ch_names
    assert not resolve(labels).bindings
    assert len(told(labels)) == 1


def test_rows_of_letters_of_the_old_10_10_system():
    """Rows B, D, E and H lie between those of the 10-20 system: E1 is no eye, and C3 is C3."""
    rows = [
        f"{row}{n}" for row, last in zip("BDEH", (4, 8, 8, 4)) for n in (*range(1, last + 1), "z")
    ]
    bindings = resolve(CLINICAL + bank("C", 6) + rows).bindings
    assert bindings["eeg_c3"].label == "C3" and "eog_e1" not in bindings


# --- properties -----------------------------------------------------------------------------------

OTHERS = st.sampled_from([*BIOSEMI.values(), *EGI.values(), *SHAFTS.values()])


@hypothesis.given(OTHERS, st.sampled_from(SPELLINGS), st.randoms(use_true_random=False))
@hypothesis.settings(deadline=None, max_examples=60)
def test_order_and_missing_electrodes_do_not_matter(labels, spelling, rng):
    """Every tenth contact, from anywhere on, is bad and left out."""
    first = rng.randrange(10)
    kept = written([x for n, x in enumerate(labels) if n % 10 != first], **spelling)
    rng.shuffle(kept)
    assert not heads(kept + PHYSIOLOGY)
    assert resolve(kept + PHYSIOLOGY).bindings["ecg"].label == "ECG"


@pytest.mark.parametrize("first", range(10))
def test_short_shafts_with_a_bad_contact_each_bind_nothing(first):
    """Three contacts are left of two of the five, and no letter runs past those of a cap."""
    kept = [x for n, x in enumerate(SHAFTS["short ones"]) if n % 10 != first]
    assert not heads(kept + PHYSIOLOGY)
    assert told(kept + PHYSIOLOGY)


TEN_TEN = [
    f"{letters}{number}"
    for letters, numbers in TEN_FIVE.items()
    if letters not in ("e", "a", "m", "tp", "loc", "roc", "pg")
    for number in numbers
] + ["Fz", "Cz", "Pz", "Oz", "FCz", "CPz"]


@hypothesis.given(
    st.lists(st.sampled_from(TEN_TEN), unique=True), st.randoms(use_true_random=False)
)
@hypothesis.settings(deadline=None)
def test_any_part_of_a_ten_five_cap_with_its_midline_binds(extra, rng):
    labels = [*dict.fromkeys([*PSG, "Cz", *extra])]
    rng.shuffle(labels)
    assert not told(labels)
    assert resolve(labels).bindings["eeg_c3"].reference_label == "M2"


@hypothesis.given(st.lists(st.text(max_size=16) | st.sampled_from(PSG + BIOSEMI[160]), max_size=60))
@hypothesis.settings(deadline=None)
def test_whatever_is_blocked_is_not_bound(labels):
    foreign = find_foreign(labels)
    bindings = resolve(labels).bindings.values()
    used = {b.index for b in bindings} | {b.reference for b in bindings}
    assert foreign is None or not used & foreign.blocked.keys()


def test_letters_of_the_table_are_lower_case_and_of_one_kind():
    assert all(letters == letters.casefold() and numbers for letters, numbers in TEN_FIVE.items())
    assert all(system.source for system in SYSTEMS)
    assert SYSTEMS[-1].families is None, "the last row fits whatever the others do not"
