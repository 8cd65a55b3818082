"""Splits: stable, about the asked shares, and no person in two of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines import splits


def test_a_split_never_changes():
    # Written down once: a change here moves people between train and test for every user.
    names = ["SC400", "SC401", "sub-1", "shhs-200001", "a", "é", "", "X" * 300]
    assert [splits.split_of(name) for name in names] == EXPECTED


EXPECTED = [
    "train",
    "train",
    "validation",
    "train",
    "train",
    "train",
    "train",
    "test",
]


@given(st.text(max_size=20), st.text(max_size=5))
def test_shares_of_zero_stay_empty(subject, salt):
    assert splits.split_of(subject, fractions=(1, 0, 0), salt=salt) == "train"
    assert splits.split_of(subject, fractions=(0, 0, 1), salt=salt) == "test"
    assert splits.split_of(subject, fractions=(0.9, 0.1, 0), salt=salt) != "test"
    assert splits.split_of(subject, fractions=(0.9, 0, 0.1), salt=salt) != "validation"


def test_shares_are_about_as_asked_and_salt_makes_another_split():
    people = [f"person {number}" for number in range(5000)]
    found = [splits.split_of(person) for person in people]
    assert abs(found.count("train") / 5000 - 0.8) < 0.02
    assert abs(found.count("validation") / 5000 - 0.1) < 0.015
    assert found != [splits.split_of(person, salt="again") for person in people]


@pytest.mark.parametrize(
    "fractions", [(1,), (0.5, 0.5, 0.5), (1.2, -0.1, -0.1), (float("nan"),) * 3]
)
def test_impossible_shares_are_refused(fractions):
    with pytest.raises(ValueError, match="sum to 1"):
        splits.split_of("a", fractions=fractions)


@pytest.mark.parametrize(
    ("recording", "subject"),
    [
        ("SC4001E0-PSG", "SC400"),
        ("SC4002E0-PSG", "SC400"),
        ("SC4191E0", "SC419"),
        ("ST7132J0-PSG", "ST713"),
        ("slp01a", "slp01"),
        ("slp01b", "slp01"),
        ("SLP01A", "slp01"),
        ("sc4002e0-psg", "SC400"),
        ("slp14", "slp14"),
        ("shhs1-200001", "shhs-200001"),
        ("shhs2-200001", "shhs-200001"),
        ("mros-visit2-aa0001", "mros-aa0001"),
        ("chat-followup-300001", "chat-300001"),
        ("sof-visit-8-00001", "sof-00001"),
        ("wsc-visit1-10119-nsrr", "wsc-10119"),
        ("abc-month09-900001", "abc-900001"),
        ("bestair-baseline-400001", "bestair-400001"),
        ("mesa-sleep-0001", "mesa-sleep-0001"),
        ("Sub-01_night1", "sub-01"),
        ("SUB-01_night2", "sub-01"),
        ("sub-1_task-Sleep_acq-psg_eeg", "sub-1"),
        ("cassette/SC4002E0-PSG", "SC400"),
        ("shhs2/shhs2-200001", "shhs-200001"),
        ("a/night", "a/night"),
        ("A00001", "A00001"),
        ("my night 1", "my night 1"),
    ],
)
def test_cohort_names_tell_the_person(recording, subject):
    assert splits.subject_of(recording) == subject


def test_a_published_list_is_read_as_it_is(tmp_path):
    path = tmp_path / "splits.csv"
    path.write_text("\ufeffrecording,split,note\na.edf,Train,x\nfolder/b,val,\nc.BDF,test,\n")
    assert splits.read_splits(path) == {"a": "train", "b": "validation", "c": "test"}
    folds = tmp_path / "folds.tsv"
    folds.write_text("recording\tfold\n" + "".join(f"n{i}\t{i % 5 + 1}\n" for i in range(10)))
    found = splits.read_splits(folds, fold="5")
    assert [name for name, split in found.items() if split == "test"] == ["n4", "n9"]
    assert [name for name, split in found.items() if split == "validation"] == ["n0", "n5"]
    assert sum(split == "train" for split in found.values()) == 6


@pytest.mark.parametrize(
    "text, fold, message",
    [
        ("recording,part\na,train\n", None, "expected the columns recording,split"),
        ("recording,fold\na,1\n", None, "--fold=NAME"),
        ("recording,split\na,trian\n", None, "line 2: 'a', 'trian'"),
        ("recording,split\na,train\na.edf,test\n", None, "line 3: 'a' is in two splits"),
        ("recording,fold\na,1\nb,2\nc,3\n", "4", "no fold '4'"),
        ("recording,fold\na,1\nb,2\n", "1", "three or more"),
        ("", None, "expected the columns"),
    ],
)
def test_a_list_that_says_no_split_is_refused(tmp_path, text, fold, message):
    path = tmp_path / "splits.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        splits.read_splits(path, fold)
