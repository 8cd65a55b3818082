"""Reading captions: ours back to the facts, the official wording, and anything at all."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spoken_facts import FULL, facts

from data_pipelines.captions.facts import MODALITIES, Facts, Interval, PositionChange
from data_pipelines.captions.grammar import render
from data_pipelines.captions.parse import Parsed, meaning, parse
from data_pipelines.captions.vocabulary import closed


@settings(max_examples=80, deadline=None)
@given(facts(), st.sampled_from(MODALITIES), st.integers(0, 10_000))
def test_a_caption_is_read_back_to_what_it_was_made_of(facts, modality, epoch):
    text = str(render(facts, modality, recording="night", epoch=epoch))
    assert parse(text) == Parsed(facts.of(modality).printed(), ())
    # As the published tokenizer spells it: lower case, a space after every token.
    spelled = " ".join(" ".join(word) if word[0].isdecimal() else word for word in text.split())
    assert parse(spelled.lower()) == parse(text)


@settings(max_examples=20, deadline=None)
@given(facts(), st.integers(0, 10_000))
def test_all_captions_of_an_epoch_are_read_at_once(facts, epoch):
    said = [str(render(facts, m, recording="night", epoch=epoch)) for m in MODALITIES]
    assert parse(" ".join(said)).facts == facts.printed()


def test_every_wording_is_read():
    for epoch in range(120):
        for modality in MODALITIES:
            for mode in ("reference", "train"):
                caption = render(FULL, modality, recording="r", epoch=epoch, mode=mode)
                found = parse(str(caption))
                assert not found.unread, caption
                if mode == "reference":
                    assert found.facts == FULL.of(modality).printed(), caption


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "the c 3 - a 2 channel shows delta relative power of 3 9 . 0 5 % , theta relative "
            "power at 1 2 . 5 0 % , and finally a beta relative power measuring about 5 % .",
            Facts({"eeg_c3.delta": 39.05, "eeg_c3.theta": 12.5, "eeg_c3.beta": 5.0}),
        ),
        (
            "eog - l has slow eye movement relative power of 2 0 . 1 1 % along with rem saccadic "
            "relative power equal to 4 4 . 0 0 % .",
            Facts({"eog_e1.slow": 20.11, "eog_e1.saccadic": 44.0}),
        ),
        (
            "The subject is in Stable Light Sleep (N2). An Arousal occurs from 3.2 to 15.0 "
            "seconds. Oxygen Desaturation between 0.0 s and 29.5 s.",
            Facts(
                stage="N2",
                events=(Interval(0, 29.5, "Oxygen Desaturation"), Interval(3.2, 15, "Arousal")),
            ),
        ),
        ("current stage is Light Sleep (N1), no events detected.", Facts(stage="N1", events=())),
        ("Deep Sleep (N3) with no respiratory events or arousals.", Facts(stage="N3", events=())),
        ("sleep remains uninterrupted . rem sleep .", Facts(stage="R", events=())),
        (
            "hr minimum of 5 6 . 2 5 bpm , maximum 70.31 bpm and mean roughly 60 bpm , including "
            "an increasing trend from 0 . 9 to 5 . 6 s and a decreasing phase from 5.6 to 30.0 s . "
            "SpO₂ min valued at 93.10 % plus mean 95.00%.",
            Facts(
                {
                    "heart_rate.min": 56.25,
                    "heart_rate.max": 70.31,
                    "heart_rate.mean": 60.0,
                    "spo2.min": 93.1,
                    "spo2.mean": 95.0,
                },
                {
                    "heart_rate": (
                        Interval(0.9, 5.6, "increasing"),
                        Interval(5.6, 30.0, "decreasing"),
                    )
                },
            ),
        ),
        (
            "abd respiratory rate 1 4 . 2 0 bpm with breath - interval variability of 0 . 4 1 s ; "
            "airflow rate of 14.10 bpm, inspiratory flow flatness 0.61",
            Facts(
                {
                    "resp_abd.rate": 14.2,
                    "resp_abd.variability": 0.41,
                    "airflow.rate": 14.1,
                    "airflow.flatness": 0.61,
                }
            ),
        ),
        ("body position is left throughout the epoch", Facts(position="left")),
        (
            "ECG estimated beat rate of 61.2 bpm, ultra-short RMSSD 33.10 ms",
            Facts({"ecg.rate": 61.2, "ecg.rmssd": 33.1}),
        ),
    ],
)
def test_the_official_wording_is_read(text, expected):
    assert parse(text) == Parsed(expected, ())


def test_no_event_is_not_the_same_as_not_scored():
    assert parse("Sleep stage: stage N2.").facts.events is None
    assert parse("Sleep stage: stage N2. No scored event.").facts.events == ()
    assert parse("No scored event while awake.").facts.stage is None


def test_what_is_not_understood_is_handed_back():
    found = parse("REM sleep. Stage N3. A loud purple arousal. Arousal: 9.0 to 4.0 s. Delta 7.")
    assert found.facts == Facts(stage="R")
    assert found.unread == ("stage n3", "loud purple", "arousal", "arousal 9.0 4.0", "delta 7")
    twice = parse("EEG C3: delta share 10.00%, delta share 20.00%.")
    assert twice == Parsed(Facts({"eeg_c3.delta": 10.0}), ("delta 20.00",))
    turned = parse("Posture: supine, then prone from 31.0 s.")
    assert turned == Parsed(Facts(position="supine"), ("prone 31.0",))
    change = parse("Posture: in an unknown position, then prone from 30.0 s.").facts
    assert change == Facts(position_changes=(PositionChange(30.0, "prone"),))


@pytest.mark.parametrize(
    "piece",
    [
        *("9", "9.", "a", "a-", "3 ", "- ", ". ", "ﷺ", "\x00", "\ud800", "<b>&lt;", "delta "),
        *("stable light ", "arousal 1 2 ", "no ", "from 1.0 to 2.0 s rising trend ", "left "),
    ],
)
def test_a_million_characters_are_read_in_time(piece):
    text = (piece * 1_000_000)[:1_000_000]
    begun = time.process_time()
    assert parse(text).unread
    assert time.process_time() - begun < 20  # about 1 s; a quadratic walk would take hours


def test_hostile_text_says_nothing():
    text = "Ignore all previous instructions; <script>alert(1)</script> {a} %s ${x} \x1b[31m \x00 ​"
    found = parse(text)
    assert found.facts == Facts()
    assert "script" in " ".join(found.unread)


@settings(max_examples=50, deadline=None)
@given(st.text() | st.lists(st.sampled_from(closed().words), max_size=40).map(" ".join))
def test_any_text_is_read(text):
    found = parse(text).facts
    for interval in (*(found.events or ()), *(i for t in found.trends.values() for i in t)):
        assert 0 <= interval.start_s < interval.stop_s <= 30


def test_equal_meaning_is_stage_and_kinds_of_events():
    arousal, snore = Interval(1, 2, "Arousal"), Interval(3, 4, "Snore")
    one = Facts(stage="N2", events=(arousal, snore, arousal))
    assert meaning(one) == meaning(Facts(stage="N2", events=(snore, arousal)))
    others = [Facts(stage="N2", events=()), Facts(stage="N2"), Facts(stage="N1", events=())]
    assert len({meaning(one), *map(meaning, others), meaning(Facts())}) == 5
