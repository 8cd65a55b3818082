"""Folders that are links, as DataLad and shared disks have them: read once, and loops end."""

import os

import pytest
import tiny_recordings
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines import files
from data_pipelines.builders import folder, nsrr
from data_pipelines.recordings.base import RecordingError
from data_pipelines.recordings.opening import open_recording


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def found_in(path):
    """Names of the recordings below a folder, further files, and what was told by count."""
    findings = []
    items, doubles = folder.find_recordings(path, findings=findings)
    return sorted(items), doubles, {finding.what: finding.count for finding in findings}


def test_without_links_nothing_is_told_and_names_are_paths(tmp_path):
    for name in ("b.edf", "a/x.EDF", "a/.hidden.edf", ".git/annex/y.edf", "a/b/c.Bdf", "x.hea"):
        touch(tmp_path / name)
    assert found_in(tmp_path) == (["a/b/c", "a/x", "b", "x"], [], {})


def test_tables_of_people_in_folders_below_are_told_where_the_folder_has_none(tmp_path):
    for name in ("a/sub-1_eeg.edf", "a/participants.tsv", "b/Participants.TSV"):
        touch(tmp_path / name)
    assert found_in(tmp_path)[2] == {"tables of participants in folders below": 2}
    touch(tmp_path / "participants.csv")
    assert found_in(tmp_path)[2] == {}


def test_a_linked_folder_is_read_under_the_name_of_the_link(tmp_path):
    touch(tmp_path / "lab/disk/p1/n.edf")
    touch(tmp_path / "in/own.edf")
    (tmp_path / "in/linked").symlink_to(tmp_path / "lab/disk", target_is_directory=True)
    (tmp_path / "lab/disk/relative").symlink_to("../more")
    touch(tmp_path / "lab/more/m.edf")
    names, _, told = found_in(tmp_path / "in")
    assert names == ["linked/p1/n", "linked/relative/m", "own"]
    assert told == {"links to folders that were followed": 2}
    # So does a folder that is given by a link itself.
    (tmp_path / "door").symlink_to("in")
    assert found_in(tmp_path / "door")[0] == names


LOOPS = {
    "itself": {"in/loop": "."},
    "parent": {"in/loop": ".."},
    "root": {"in/loop": "/"},
    "by another": {"in/one": "../out", "out/back": "../in"},
    "two in a circle": {"in/one": "../out", "out/two": "../far", "far/three": "../out"},
    "deep": {"in/real/up": "../../in/real"},
}


@pytest.mark.parametrize("links", LOOPS.values(), ids=LOOPS)
def test_loops_end_and_are_told(tmp_path, links):
    for name in ("in/real/n.edf", "out/o.edf", "far/f.edf"):
        touch(tmp_path / name)
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    names, _, told = found_in(tmp_path / "in")
    assert names.count("real/n") == 1
    assert len({os.path.realpath(tmp_path / "in" / f"{name}.edf") for name in names}) == len(names)
    assert told["links to folders that are there already or hold this one, so not followed"] == 1


def test_a_folder_reached_twice_counts_once_by_its_own_name(tmp_path):
    touch(tmp_path / "in/z/n.edf")
    (tmp_path / "in/a").symlink_to("z")
    names, doubles, told = found_in(tmp_path / "in")
    assert (names, doubles) == (["z/n"], [])
    assert told == {"links to folders that are there already or hold this one, so not followed": 1}
    touch(tmp_path / "far/sub/f.edf")
    (tmp_path / "in/k").symlink_to("../far/sub")
    (tmp_path / "in/l").symlink_to("../far")
    names, _, told = found_in(tmp_path / "in")
    assert names == ["k/f", "z/n"]
    assert told["links to folders that were followed"] == 2


def test_links_to_one_file_are_one_night(tmp_path):
    touch(tmp_path / ".git/annex/objects/key.edf")
    for name in ("b.edf", "a.edf"):
        (tmp_path / name).symlink_to(".git/annex/objects/key.edf")
    touch(tmp_path / "z.edf")
    (tmp_path / "c.edf").symlink_to("z.edf")
    names, doubles, told = found_in(tmp_path)
    assert names == ["a", "z"]
    assert dict(doubles) == {
        "b.edf": "is a link to the same file as a.edf",
        "c.edf": "is a link to the same file as z.edf",
    }
    assert told == {"links to a recording that is there already, so counted once": 2}


def test_files_that_are_not_fetched_are_named_and_counted(tmp_path):
    touch(tmp_path / "here.edf")
    for name in ("one.edf", "two.EDF", "one-nsrr.xml"):
        (tmp_path / name).symlink_to(f".git/annex/objects/{name}")
    (tmp_path / "itself.edf").symlink_to("itself.edf")
    (tmp_path / "gone").symlink_to("/nowhere/at/all")
    items, _ = folder.find_recordings(tmp_path)
    assert sorted(items) == ["here", "itself", "one", "two"]
    for name in ("one", "two"):
        with pytest.raises(RecordingError, match="datalad get"):
            open_recording(items[name].path)
    with pytest.raises(RecordingError):
        open_recording(items["itself"].path)
    assert found_in(tmp_path)[2] == {
        "links that lead nowhere (.edf)": 3,
        "links that lead nowhere (.xml)": 1,
        "links that lead nowhere (no suffix)": 1,
    }


def test_an_nsrr_cohort_of_links_has_its_people(tmp_path):
    edfs = tmp_path / "far" / "edfs"
    for visit in (1, 2):
        tiny_recordings.write_edf(edfs / f"shhs{visit}/shhs{visit}-200001.edf", seconds=2)
    tiny_recordings.write_edf(edfs / "shhs1/shhs1-200009.edf", seconds=2)
    cohort = tmp_path / "shhs"
    (cohort / "polysomnography").mkdir(parents=True)
    (cohort / "polysomnography/edfs").symlink_to("../../far/edfs")
    (edfs / "again").symlink_to("shhs1")
    touch(cohort / "datasets/a.csv").write_text("nsrrid,visitnumber,nsrr_age\n200001,1,55\n")
    findings = []
    items = nsrr.find_recordings(cohort, findings=findings)
    assert sorted(items) == ["shhs1-200001", "shhs1-200009", "shhs2-200001"]
    assert items["shhs1-200001"].metadata == {"age": 55.0, "cohort": "shhs"}
    told = {finding.what: finding.count for finding in findings}
    assert told == {
        "links to folders that are there already or hold this one, so not followed": 1,
        "recordings without a row": 1,
    }


TREES = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("abcd"), st.sampled_from("abc")), max_size=6
)


@given(TREES)
def test_any_links_end_and_no_file_is_read_twice(tmp_path_factory, links):
    root = tmp_path_factory.mktemp("tree")
    for name in "abc":
        touch(root / name / "n.edf")
    for place, name, target in links:
        link = root / place / f"l{name}"
        if not link.is_symlink():
            link.symlink_to(root / target)
    below = files.walk(root / "a")
    assert below.paths == sorted(below.paths)
    recordings = [path for path in below.paths if path.suffix == ".edf"]
    real = {os.path.realpath(path) for path in recordings}
    assert len(real) == len(recordings) and root / "a/n.edf" in recordings
    links_there = [path for path in below.paths if path.is_symlink()]
    assert sorted([*below.followed, *below.known]) == sorted(links_there)


@pytest.mark.parametrize(
    "name",
    [
        *("participants (1).csv", "Participants_final.csv", "participants.csv.txt", "Subjects.tsv"),
        *("participant.csv", "patients.xlsx", "Probanden 2024.csv", "demographics.ods"),
    ],
)
def test_a_table_that_is_called_almost_as_it_should_be_is_told(tmp_path, name):
    touch(tmp_path / "n.edf")
    touch(tmp_path / name)
    assert found_in(tmp_path)[2] == {"files that may be tables of participants": 1}
    # A table that is read is not in want of another.
    touch(tmp_path / "participants.csv")
    assert not found_in(tmp_path)[2]


@pytest.mark.parametrize("name", ["subject_01.csv", "patient1.txt", "n.csv", "sub/subjects.csv"])
def test_scorings_are_no_tables_of_participants(tmp_path, name):
    touch(tmp_path / "n.edf")
    touch(tmp_path / name)
    assert not found_in(tmp_path)[2]
