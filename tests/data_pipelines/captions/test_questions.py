"""Questions in words, and what a text says beside what was measured."""

import csv
import json

import pytest

from data_pipelines.captions import epoch_table
from data_pipelines.captions.agreement import differences
from data_pipelines.captions.facts import MODALITIES, Facts, Interval
from data_pipelines.captions.grammar import render
from data_pipelines.captions.parse import parse
from data_pipelines.captions.question import Question, read_question
from hypnos_jax.reports.night_page import write_page

DESATURATION, AROUSAL = ("Oxygen Desaturation",), ("Arousal",)


@pytest.mark.parametrize(
    "text, found",
    [
        (
            "oxygen desaturation without arousal in REM",
            Question("R", (DESATURATION,), AROUSAL),
        ),
        ("REM sleep.", Question("R")),
        ("arousal or hypopnea", Question(wanted=(("Arousal", "Hypopnea"),))),
        ("deep sleep without any event", Question("N3", nothing=True)),
        ("no arousal but with hypopnea", Question(wanted=(("Hypopnea",),), unwanted=AROUSAL)),
        ("delta share of 70 %", None),  # more than stage and events
        ("arousal without arousal", None),
        ("N2 and N3", None),
        ("<script>alert(1)</script>", None),
        ("", None),
        ("hypopnea " * 200_000, None),
    ],
)
def test_what_a_question_asks_for(text, found):
    assert read_question(text) == found


def test_a_question_is_said_as_captions_say_it():
    question = read_question("apnea without arousal in N2")
    kinds = set()
    for caption in question.captions():
        read = parse(str(caption))
        assert read.unread == ()
        assert question.agrees(read.facts)
        kinds |= {event.kind for event in read.facts.events}
    assert kinds == {"Obstructive Apnea", "Central Apnea", "Mixed Apnea"}
    assert {parse(str(c)).facts.events for c in read_question("N2").captions()} == {None}


def test_an_epoch_is_what_is_asked_for_or_not_or_unknown():
    question = Question("R", (DESATURATION,), AROUSAL)
    falls = Interval(2, 20, "Oxygen Desaturation")
    assert question.agrees(Facts(stage="R", events=(falls,)))
    assert not question.agrees(Facts(stage="R", events=(falls, Interval(5, 9, "Arousal"))))
    assert not question.agrees(Facts(stage="N2", events=(falls,)))
    assert question.agrees(Facts(stage="R", events=None)) is None
    assert question.agrees(Facts(events=(falls,))) is None


FACTS = Facts(
    {"eeg_c3.delta": 48.0, "spo2.min": 94.0, "airflow.rate": 14.2},
    {"spo2": (Interval(1.9, 20.6, "decreasing"),)},
    position="supine",
    stage="N2",
    events=(Interval(4.0, 12.0, "Hypopnea"),),
)


@pytest.mark.parametrize("modality", MODALITIES)
def test_captions_of_the_facts_do_not_differ_from_them(modality):
    text = str(render(FACTS, modality, recording="a", epoch=3))
    assert differences(parse(text), FACTS, modality) == []


@pytest.mark.parametrize(
    "modality, text, differ",
    [
        ("brain", "EEG C3: delta share of 52.90%.", []),  # within 5 points
        (
            "brain",
            "EEG C3: delta share of 53.10%.",
            ["eeg_c3.delta 53.10 % said, 48.00 measured"],
        ),
        (
            "brain",
            "EEG C4: delta share of 48.00%.",
            ["eeg_c4.delta 48.00 % said, not measured"],
        ),
        ("heart", "SpO2: minimum of 91.00%.", ["spo2.min 91.00 % said, 94.00 measured"]),
        (
            "stage_event",
            "The sleeper is in REM sleep. Hypopnea: 5.0 to 12.0 s. Arousal: 3.0 to 9.0 s.",
            ["stage R said, N2 scored", "Arousal 3.0-9.0 s said, not scored"],
        ),
        (
            "stage_event",
            "The sleeper is in stage N2. No scored event.",
            ["Hypopnea 4.0-12.0 s scored, not said"],
        ),
        ("position_muscle", "The body is prone.", ["prone said, supine measured"]),
    ],
)
def test_what_differs_is_told(modality, text, differ):
    assert differences(parse(text), FACTS, modality) == differ


def test_what_a_model_wrote_stands_beside_the_facts_and_is_marked_and_escaped(tmp_path):
    captions = {
        name: str(render(FACTS, name, recording="a", epoch=0)) for name in epoch_table.CAPTIONS
    }
    rows = [epoch_table.Row(epoch, FACTS, captions, ()) for epoch in range(3)]
    wrong = {"stage_event": "<script>1</script> The sleeper is in REM sleep."}
    made = epoch_table.with_generated(rows, [captions | wrong, None])
    assert made[0].differences[0] == "stage R said, N2 scored"
    assert made[1:] == rows[1:]
    epoch_table.write_table(tmp_path / "epochs.csv", made)
    epoch_table.write_json(tmp_path / "epochs.json", made, {})
    write_page(tmp_path / "night.html", made, {}, None)
    with open(tmp_path / "epochs.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["generated.stage_event"] for row in table] == [wrong["stage_event"], "", ""]
    document = json.loads((tmp_path / "epochs.json").read_text())["epochs"]
    assert document[0]["generated_differs"] == list(made[0].differences)
    page = (tmp_path / "night.html").read_text()
    assert "<script>1" not in page and "&lt;script&gt;1" in page
    assert "stage R said, N2 scored" in page and "model&#39;s guesses" in page.replace("'", "&#39;")
