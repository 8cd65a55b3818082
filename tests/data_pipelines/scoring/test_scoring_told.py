"""Scorings that look whole and are not: words, people and marks of which a user must hear."""

import json

import edf_files
import pytest

from data_pipelines.recordings.opening import open_recording
from data_pipelines.scoring import ScoringError, read_beside, read_scoring
from data_pipelines.scoring.formats.edf_annotations import scoring_from_annotations
from data_pipelines.scoring.scorers import letters_of
from data_pipelines.scoring.words.vocabulary import stage_of

FIRST, SECOND = "WW112233RRW2", "W1122222RRWW"
WORDS = dict(zip("W123R", ["Wake", "N1", "N2", "N3", "REM"]))


def read(rows):
    return scoring_from_annotations("a.edf", rows, source="edf_annotations")


def epochs(letters=FIRST):
    return [(30 * at, 30, WORDS[letter]) for at, letter in enumerate(letters)]


def changes(letters):
    starts = [at for at in range(len(letters)) if letters[at] != letters[at - 1 : at]]
    return [(30 * at, None, WORDS.get(letters[at], "Qwertz")) for at in starts]


def told(found):
    return {finding.kind for finding in found.findings}


# --- events ---------------------------------------------------------------------------------------

VAGUE = {
    "no word of the tables": ("Qwertz", 12, 1),
    "an event": ("Event", 12, 1),
    "an event in French": ("Événement", 12, 1),
    "of breathing": ("Respiratory", 12, 1),
    "of breathing, short": ("Resp", 12, 1),
    "of breathing, event": ("Resp. event", 12, 1),
    "moments of one text": ("AO", None, 6),
    "breathing of another kind": ("Cheyne-Stokes respiration", 60, 1),
    "hypoventilation": ("Hypoventilation", 60, 1),
}


@pytest.mark.parametrize("vague", VAGUE)
def test_an_event_that_may_be_an_apnea_leaves_no_night_free_of_them(vague):
    text, length, times = VAGUE[vague]
    rows = [(41.5 + 20 * place, length, text) for place in range(times)]
    found = read([*epochs(), (200, 5, "Arousal"), *rows])
    assert [event.kind for event in found.events] == ["arousal"]
    assert found.events_scored == ("arousal",)
    if vague not in ("breathing of another kind", "hypoventilation"):
        assert told(found) == {"unknown_event"}


def test_other_breathing_beside_an_apnea_leaves_the_night_scored():
    found = read([*epochs(), (41, 60, "Hypoventilation"), (120, 12, "Obstructive apnea")])
    assert found.events_scored is True and not found.findings


def test_a_button_pressed_without_duration_is_no_event():
    found = read([*epochs(), (41, None, "Event"), (200, 5, "Arousal")])
    assert found.events_scored is True and not found.findings


def test_a_class_of_luna_that_says_nothing_takes_its_instance(tmp_path):
    path = tmp_path / "a.annot"
    stages = "".join(f"{word}\t.\t.\t{at}\t{at + long}\t.\n" for at, long, word in epochs())
    for label, instance, scored in (
        ("event", "obstructive_apnea", True),
        ("event", "Qwertz", ("arousal",)),
        ("resp", "AO", ("arousal",)),
        ("respiratory", "Qwertz", ("arousal",)),
    ):
        path.write_text(f"{stages}{label}\t{instance}\t.\t65\t77\t.\narousal\t.\t.\t200\t205\t.\n")
        found = read_scoring(path)
        assert found.events_scored == scored, (label, instance)
        assert ("unknown_event" in told(found)) == (scored is not True)


def test_apneas_of_one_kind_that_overlap_are_told():
    twice = [(65, 12, "Obstructive apnea"), (67, 15, "Obstructive apnea"), (200, 12, "Hypopnea")]
    assert told(read([*epochs(), *twice])) == {"several_scorers"}
    once = [(65, 12, "Obstructive apnea"), (70, 15, "Desaturation"), (75, 12, "Hypopnea")]
    assert not read([*epochs(), *once]).findings


# --- stages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, stage",
    [
        ("Sommeil lent N1", 1),
        ("Sommeil lent 2", 2),
        ("Sommeil lent stade 3", 3),
        ("Sommeil lent léger N2", 2),
        ("Sommeil lent profond", 3),
        ("Sommeil lent profond N3", 3),
        ("SLP", 3),
        ("Sommeil lent", None),
        ("Sommeil lent léger", None),
        ("SP", None),
        ("Étape 2", 2),
        ("Faza 2", 2),
        ("Fáze N3", 3),
    ],
)
def test_french_and_slavic_words_for_stages(text, stage):
    assert stage_of(text) == stage


def test_an_unknown_word_ends_a_stage_where_one_mark_alone_has_a_duration():
    rows = changes("WW11...33RRW")
    found = read([(0, 30, "Wake"), (30, None, "Wake"), *rows[1:]])
    assert letters_of(found.stages) == "WW11---33RRW"
    assert told(found) == {"unknown_stage"}


def test_marks_with_one_longer_among_them_are_told():
    rows = [(30 * at, 60 if at == 4 else 1, WORDS[x]) for at, x in enumerate(FIRST) if at % 2 == 0]
    found = read(rows)
    assert letters_of(found.stages) == "----22-----"
    assert told(found) == {"stage_marks"}


def test_a_list_of_epochs_in_names_keeps_what_is_known(tmp_path):
    path = tmp_path / "a.eannot"
    path.write_text("".join(f"{WORDS.get(letter, 'Qwertz')}\n" for letter in "WW11...33RRW"))
    found = read_scoring(path)
    assert letters_of(found.stages) == "WW11---33RRW"
    assert told(found) == {"unknown_stage"}
    path.write_text("Qwertz\nfoo\nWake\n")
    with pytest.raises(ScoringError, match="line 1 is not the name of a stage"):
        read_scoring(path)


# --- several people -------------------------------------------------------------------------------


def test_changes_of_two_people_that_agree_wherever_they_meet_are_refused():
    with pytest.raises(ScoringError, match="several people's changes"):
        read(sorted(changes(FIRST) + changes(SECOND), key=lambda row: row[0]))
    again = sorted(changes(FIRST) * 2, key=lambda row: row[0])
    assert letters_of(read(again).stages) == FIRST  # every mark twice is one person's


def test_luna_rows_until_the_next_of_two_people(tmp_path):
    path = tmp_path / "a.annot"
    both = zip(FIRST, SECOND)
    path.write_text(
        "".join(
            f"{WORDS[x]}\t.\t.\t{30 * at}\t...\t.\n" for at, pair in enumerate(both) for x in pair
        )
    )
    found = read_scoring(path)
    assert letters_of(found.stages) == "W-1-22--RRW-"
    assert told(found) == {"several_scorers"}


def test_a_second_column_of_stages_is_told(tmp_path):
    path = tmp_path / "a_events.tsv"
    for other, kinds in ((SECOND, {"several_scorers"}), (FIRST, set())):
        rows = [
            f"{30 * at}\t30\t{WORDS[a]}\t{WORDS[b]}" for at, (a, b) in enumerate(zip(FIRST, other))
        ]
        path.write_text("\n".join(["onset\tduration\tstage\tstage_2", *rows]))
        found = read_scoring(path)
        assert letters_of(found.stages) == FIRST and told(found) == kinds
    path.write_text(
        "\n".join(
            [
                "onset\tduration\ttrial_type\tvalue",
                *(f"{30 * at}\t30\t{WORDS[a]}\tn/a" for at, a in enumerate(FIRST)),
            ]
        )
    )
    assert not read_scoring(path).findings


def test_columns_of_stages_without_names_of_people_say_so(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("".join(f"{WORDS[a]}\t{WORDS[b]}\n" for a, b in zip(FIRST, SECOND)))
    with pytest.raises(ScoringError, match="several scorers"):
        read_scoring(path)


def test_two_stagings_of_one_kind_in_rml_are_told(tmp_path):
    path = tmp_path / "a.rml"
    names = {"W": "Wake", "1": "NonREM1", "2": "NonREM2", "3": "NonREM3", "R": "REM"}

    def staging(letters):
        rows = [f'<Stage Type="{names[x]}" Start="{30 * at}"/>' for at, x in enumerate(letters)]
        return f"<NeuroAdultAASMStaging>{''.join(rows)}</NeuroAdultAASMStaging>"

    for second, kinds in ((SECOND, {"several_scorers"}), (FIRST, set())):
        path.write_text(
            f"<PatientStudy><Duration>360</Duration><UserStaging>{staging(FIRST)}</UserStaging>"
            f"<UserStaging>{staging(second)}</UserStaging></PatientStudy>"
        )
        found = read_scoring(path)
        assert letters_of(found.stages) == FIRST and told(found) == kinds


def test_the_consensus_of_a_list_of_lists_says_that_it_is_one(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([[WORDS[x] for x in row] for row in (FIRST, SECOND)]))
    assert "the consensus of 2 scorers, who differ in 5 epochs" in read_scoring(path).notes


def test_stages_within_a_recording_that_differ_from_those_beside_it_are_told(tmp_path):
    path = tmp_path / "a.edf"
    records = [edf_files.onset(at, (at, 30, word)) for at, _, word in epochs()]
    signals = [
        edf_files.signal("C3-M2", edf_files.ramp(12, 30)),
        edf_files.annotations(records),
    ]
    edf_files.write(path, signals, record_s="30", reserved="EDF+C")
    (tmp_path / "a.txt").write_text("".join(f"{WORDS[x]}\n" for x in SECOND))
    found, _ = read_beside(path, recording=open_recording(path))
    assert letters_of(found.stages) == SECOND
    assert told(found) == {"several_scorers"}
