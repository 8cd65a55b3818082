"""Several people's stages in one file: told apart, never mixed."""

import json

import numpy as np
import pytest
import tiny_recordings
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines import recipes
from data_pipelines.builders.recording_night import Pending, PrepareRecording
from data_pipelines.scoring import Event, ScoringError, align, read_consensus, read_scoring
from data_pipelines.scoring.formats.edf_annotations import scoring_from_annotations
from data_pipelines.scoring.record import make_scoring
from data_pipelines.scoring.scorers import letters_of

NAMES = ("W", "N1", "N2", "N3", "R")
FIRST, SECOND = "WW112233RRW2", "WW122233RR22"
AGREED = "WW1-2233RR-2"


def rows(letters, text="Sleep stage {}", duration=30):
    return [
        (30 * epoch, duration, text.format(NAMES["W123R".index(letter)]))
        for epoch, letter in enumerate(letters)
        if letter != "-"
    ]


def runs(letters, text="Sleep stage {}"):
    """One row a stretch of a stage."""
    edges = [
        e for e in range(len(letters) + 1) if letters[e : e + 1] != letters[e - 1 : e] or not e
    ]
    return [
        (30 * a, 30 * (b - a), text.format(NAMES["W123R".index(letters[a])]))
        for a, b in zip(edges, edges[1:])
    ]


def read(annotations):
    return scoring_from_annotations("night.edf", annotations, source="edf_annotations")


def people(found):
    return [letters_of(row) for row in found.scorers]


def differ(found):
    return [finding for finding in found.findings if finding.kind == "several_scorers"]


LAYOUTS = {
    "one after the other": rows(FIRST) + rows(SECOND),
    "row by row": [row for pair in zip(rows(FIRST), rows(SECOND)) for row in pair],
    "runs": runs(FIRST) + runs(SECOND),
    "runs and epochs": runs(FIRST) + rows(SECOND),
    "marks": rows(FIRST, duration=None) + rows(SECOND, duration=None),
    "tokens": rows(FIRST, duration=1) + rows(SECOND, duration=1),
    "named after @@": rows(FIRST, "Sleep stage {}@@Scorer1") + rows(SECOND, "{}@@Scorer2"),
    "people after @@": runs(FIRST, "{}@@Anna") + runs(SECOND, "{}@@Ben"),
    "named before": runs(FIRST, "Scorer A: {}") + runs(SECOND, "Scorer B: {}"),
    "named behind": runs(FIRST, "Stage {} (rater 1)") + runs(SECOND, "Stage {} (rater 2)"),
    "changes, named": [(at, None, text) for at, _, text in runs(FIRST, "{} Expert1")]
    + [(at, None, text) for at, _, text in runs(SECOND, "{} Expert2")]
    + [(330, None, "N2 Expert2")],
    "rounded": [(at - 0.5, 31, text) for at, _, text in rows(FIRST)] + rows(SECOND),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_people_in_one_list_of_annotations(layout):
    found = read(LAYOUTS[layout])
    assert letters_of(found.stages)[:12] == AGREED
    assert [row[:12] for row in people(found)] == [FIRST, SECOND]
    assert [finding.count for finding in differ(found)] == [2]
    assert differ(found)[0].seconds == 60


@given(st.lists(st.text("W123R-", min_size=8, max_size=8), min_size=2, max_size=5), st.booleans())
@settings(max_examples=60, deadline=None)
def test_scorers_come_out_as_they_went_in(letters, together):
    letters = ["W2" + row for row in letters]
    lists = [rows(row, f"Scorer {n}: {{}}") for n, row in enumerate(letters)]
    annotations = [row for person in lists for row in person]
    if together:
        annotations.sort(key=lambda row: row[0])
    found = read(annotations)
    length = max(len(row.rstrip("-")) for row in letters)
    expected = ""
    for epoch in range(length):
        given = {row[epoch] for row in letters} - {"-"}
        expected += given.pop() if len(given) == 1 else "-"
    assert letters_of(found.stages) == expected
    if len(set(letters)) == len(letters) and all("-" not in row for row in letters):
        assert people(found) == letters


def table(first, second):
    lines = [f"{at}\t{long}\t{text}\n" for at, long, text in rows(first) + rows(second)]
    return "onset\tduration\ttrial_type\n" + "".join(lines)


def nsrr(first, second):
    blocks = ""
    for letters in (first, second):
        events = "".join(
            "<ScoredEvent><EventType>Stages|Stages</EventType>"
            f"<EventConcept>{text}|0</EventConcept><Start>{at}</Start><Duration>{long}</Duration>"
            "</ScoredEvent>"
            for at, long, text in rows(letters)
        )
        blocks += f"<ScoredEvents>{events}</ScoredEvents>"
    return f"<PSGAnnotation>{blocks}</PSGAnnotation>"


def luna(first, second):
    lines = [
        f"{text}\t.\t.\t{at}\t{at + long}\t.\n" for at, long, text in rows(first) + rows(second)
    ]
    return "".join(lines)


@pytest.mark.parametrize(
    ("name", "write"), [("a_events.tsv", table), ("a-nsrr.xml", nsrr), ("a.annot", luna)]
)
def test_a_flag_takes_one_of_several(tmp_path, name, write):
    path = tmp_path / name
    path.write_text(write(FIRST, SECOND))
    assert letters_of(read_scoring(path).stages) == AGREED
    for number, letters in enumerate((FIRST, SECOND), 1):
        found = read_scoring(path, scorer=number)
        assert letters_of(found.stages) == letters
        assert not differ(found)
        assert f"scorer {number} of 2" in found.notes[-1]
    with pytest.raises(ScoringError, match="holds 2 scorers; number 3"):
        read_scoring(path, scorer=3)
    path.write_text(write(FIRST, ""))
    assert letters_of(read_scoring(path, scorer=1).stages) == FIRST
    assert read_scoring(path).scorers == ()


@pytest.mark.parametrize(
    "annotations",
    [
        rows(FIRST) + rows(FIRST),  # written twice
        [(at - 1, 32, text) for at, _, text in rows(FIRST)],  # rounded
        [(at, 31.5, text) for at, _, text in rows(FIRST)],
        [(0, 3600, "Sleep stage ?"), *rows(FIRST)],
        rows(FIRST, "Sleep stage {}@@EEG C3-A2"),
        rows(FIRST, "{}@@C3")[::2] + rows(FIRST, "{}@@C4")[1::2],  # the channel that was looked at
        rows(FIRST, "{}@@Anna")[:6] + rows(FIRST, "{}@@Ben")[6:],  # two shifts of one night
        [*rows(FIRST), (95, 4, "Movement")],
    ],
)
def test_one_person_stays_one(annotations):
    found = read(annotations)
    assert letters_of(found.stages)[:12] == FIRST
    assert not found.scorers
    assert not differ(found)


def test_a_correction_is_told_and_is_no_person():
    found = read([*rows(FIRST), (90, 30, "Sleep stage N3")])
    assert letters_of(found.stages) == "WW1-2233RRW2"
    assert found.scorers == ()
    assert len(differ(found)) == 1


def test_whose_is_whose_is_not_told_by_the_alphabet():
    first, second = "W12211RR3322W1R2", "1W1122RR3W2W121W"
    by_file = rows(first) + rows(second)
    assert people(read(by_file)) == [first, second]
    by_text = sorted(by_file, key=lambda row: (row[0], row[2]))
    found = read(by_text)
    assert letters_of(found.stages) == letters_of(read(by_file).stages)
    assert found.scorers == ()
    assert differ(found)
    # Where the file names them, their order says nothing.
    named = rows(first, "{} Scorer1") + rows(second, "{} Scorer2")
    named.sort(key=lambda row: (row[0], row[2]))
    assert people(read(named)) == [first, second]


def test_whose_is_whose_is_not_told_by_the_longer_run():
    first, second = "W1122R" * 6, "22RW11" * 6
    by_file = runs(first) + runs(second)
    assert people(read(by_file)) == [first, second]
    found = read(sorted(by_file, key=lambda row: row[:2]))
    assert found.scorers == ()
    assert letters_of(found.stages) == letters_of(read(by_file).stages)


def test_changes_of_several_people_without_names_are_refused():
    first = [(at, None, text) for at, _, text in runs("WW11112222RR")]
    second = [(at, None, text) for at, _, text in runs("22WW11122RRR")]
    with pytest.raises(ScoringError, match="several people"):
        read(first + second)
    with pytest.raises(ScoringError, match="more than 6 stages at the same time"):
        read([(at, 600, text) for at, _, text in rows("W1" * 10)])


def test_events_of_several_people_do_not_count_as_scored():
    both = [(at, 30, stage) for letters in (FIRST, SECOND) for at, stage in _stages(letters)]
    own = [Event("hypopnea", 60.0, 20.0), Event("apnea_central", 200.0, 15.0)]
    others = [Event("hypopnea", 64.0, 18.0)]
    assert make_scoring("a", "b", runs=both, events=own).events_scored is True
    found = make_scoring("a", "b", runs=both, events=own + others)
    assert found.events_scored is False
    # Overlaps of one person's events are that person's.
    alone = [(at, 30, stage) for at, stage in _stages(FIRST)]
    assert make_scoring("a", "b", runs=alone, events=own + others).events_scored is True
    # A file that is written twice has each event once.
    assert make_scoring("a", "b", runs=alone * 2, events=own * 2).events == own


def _stages(letters):
    return [(30.0 * epoch, "W123R".index(letter)) for epoch, letter in enumerate(letters)]


def test_lists_of_several_people_keep_each_beside_the_consensus(tmp_path):
    codes = [["W123R".index(letter) for letter in letters] for letters in (FIRST, SECOND, FIRST)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(codes))
    found = read_scoring(path, code_book="dod")
    assert letters_of(found.stages) == FIRST
    assert people(found) == [FIRST, SECOND, FIRST]
    assert letters_of(read_scoring(path, code_book="dod", scorer=2).stages) == SECOND
    paths = []
    for number, own in enumerate(codes):
        paths.append(tmp_path / f"{number}.json")
        paths[-1].write_text(json.dumps(own))
    found = read_consensus(paths)
    assert people(found) == [FIRST, SECOND, FIRST]
    longer, _ = align(found, 400.0)
    assert people(longer) == [f"{letters}-" for letters in (FIRST, SECOND, FIRST)]
    shorter, _ = align(found, 90.0)
    assert people(shorter) == [FIRST[:3], SECOND[:3], FIRST[:3]]


def test_a_night_keeps_every_scorer_and_takes_the_one_asked_for(tmp_path):
    path = tiny_recordings.write_edf(tmp_path / "night.edf", seconds=360)
    beside = tmp_path / "night_events.tsv"
    beside.write_text(table(FIRST, SECOND))
    recipe = recipes.find_recipe("hypnos")
    how = {"mains_hz": 50}
    night = PrepareRecording(recipe, ("ecg",), **how)(Pending("night", path, scoring=beside))
    assert letters_of(night.stages) == AGREED
    assert night.metadata["scorers"] == [FIRST, SECOND]
    assert [finding["kind"] for finding in night.qc["findings"]].count("several_scorers") == 1
    night = PrepareRecording(recipe, ("ecg",), scorer=2, **how)(
        Pending("night", path, scoring=beside)
    )
    assert letters_of(night.stages) == SECOND
    assert np.array_equal(night.metadata["scorers"], [FIRST, SECOND])
