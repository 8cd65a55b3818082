"""Scores of captions on worked numbers: slots, intervals, leakage, and a perfect description."""

import math

import numpy as np
import pytest

from data_pipelines.captions.facts import Facts, Interval
from hypnos_jax.probing import caption_rivals, caption_scores

TRUTH = Facts(
    {"eeg_c3.delta": 60.0, "eeg_c3.alpha": 8.0, "ecg.rate": 61.5, "airflow.rate": 15.0},
    {"heart_rate": (Interval(0.0, 15.0, "increasing"),)},
    position="supine",
    stage="N2",
    events=(Interval(2.0, 12.0, "Arousal"), Interval(10.0, 30.0, "Hypopnea", after=True)),
)


def test_what_the_facts_say_scores_one():
    found = caption_scores.score([TRUTH] * 2, [caption_rivals.captions_of(TRUTH)] * 2)
    ones = ("slot_f1", "said_f1", "stage_accuracy", "position_accuracy")
    assert [found[name] for name in ones] == [1.0] * 4
    for kind, count in (("events", 4), ("trends", 2)):
        own = found[kind]
        assert own["f1_iou30"] == own["f1_iou50"] == own["mean_iou"] == 1.0
        assert own["onset_mae_s"] == own["offset_mae_s"] == 0.0
        assert own["there"] == own["said"] == count
    assert [found[name] for name in ("hallucination_rate", "gated_said", "leakage", "unread")] == [
        0.0
    ] * 4
    assert found["slots"]["eeg_c3.delta"] == {"mae": 0.0, "f1": 1.0, "there": 2, "said": 2}


def test_slots_count_by_value_and_gated_ones_are_made_up():
    said = {
        "brain": "EEG C3: delta share of 66.00%, alpha share of 10.00%. Left EOG: slow eye movement"
        " share of 12.00%. The sleeper is in REM sleep.",
        "stage_event": "The sleeper is in wakefulness. No scored event.",
    }
    found = caption_scores.score([TRUTH], [said])
    # Delta is 6 points off and alpha 2: of 2 that are there and 3 that are said, one is right. The
    # modalities that nobody asked of (heart, breathing) do not count.
    assert found["slot_f1"] == pytest.approx(2 / 5)
    assert found["said_f1"] == pytest.approx(4 / 5)
    assert found["hallucination_rate"] == pytest.approx(1 / 3)
    assert found["slots"]["eeg_c3.delta"]["mae"] == pytest.approx(6.0)
    # What a caption says of another modality is no answer to it: it leaked.
    assert found["stage_accuracy"] == 0.0
    assert found["leakage"] == pytest.approx(1 / 5)
    assert math.isnan(found["position_accuracy"])
    assert found["events"]["said"] == 0 and found["events"]["f1_iou30"] == 0.0


def test_words_that_mean_nothing_are_counted():
    found = caption_scores.score([TRUTH], [{"brain": "Zorp zorp the EEG ."}])
    assert found["unread"] == pytest.approx(2 / 5)


def test_intervals_of_a_kind_are_matched_by_the_largest_overlap_first():
    there = [Interval(0, 10, "Arousal"), Interval(12, 20, "Arousal"), Interval(0, 30, "Hypopnea")]
    said = [Interval(4, 16, "Arousal"), Interval(5, 10, "Arousal"), Interval(0, 10, "Snore")]
    pairs = caption_scores.matched(there, said)
    # (5, 10) with (0, 10): 0.5; (4, 16) with (12, 20): 4 of 16. One pair each.
    assert pairs == [(there[0], said[1]), (there[1], said[0])]
    found = caption_scores.interval_scores([(there, said)])
    assert found["f1_iou50"] == found["f1_iou30"] == pytest.approx(2 / 6)
    assert found["mean_iou"] == pytest.approx((0.5 + 0.25) / 2)
    assert (found["onset_mae_s"], found["offset_mae_s"]) == (5.0, 0.0)


def test_rivals_say_what_their_training_epochs_have():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((80, 3))
    train = [
        Facts(
            {"eeg_c3.delta": 40 + 5 * row[0], **({"ecg.rate": 60.0} if row[1] > 0 else {})},
            stage="N2" if row[2] > 0 else "W",
            events=(Interval(5 + row[0], 15 + row[0], "Arousal"),) if row[1] > 0 else (),
        )
        for row in x
    ]
    same = caption_rivals.nearest(x, train, x[:9])
    assert same == train[:9]
    told = caption_rivals.probed(x, train, x)
    found = caption_scores.score(train, [caption_rivals.captions_of(own) for own in told])
    assert found["slots"]["eeg_c3.delta"]["mae"] < 0.3
    assert found["stage_accuracy"] > 0.95
    assert found["events"]["f1_iou50"] > 0.9 and found["hallucination_rate"] < 0.05
    always = caption_rivals.majority(train)
    assert always.numbers["eeg_c3.delta"] == pytest.approx(np.median(40 + 5 * x[:, 0]))
    assert always.events == ()


def test_common_words_are_scored_where_the_packages_are():
    found, missing = caption_scores.text_scores(["a b c d e"], ["a b c d e"])
    for name, best in (("bleu", 100.0), ("chrf", 100.0), ("rouge_l", 1.0)):
        assert name not in found or found[name] == pytest.approx(best)
    assert len(found) == 3 - (2 * ("sacrebleu" in missing) + ("rouge-score" in missing))
