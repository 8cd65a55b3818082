"""Nights made of epochs: an event over an edge is one, and indices are by hours of sleep."""

import math

import numpy as np
import pytest

from data_pipelines.captions.facts import Interval
from data_pipelines.scoring import Event
from hypnos_jax.probing.night_indices import agreement, indices, merged, scored_events


def test_events_are_joined_over_edges_alone():
    epochs = [
        (Interval(20, 29.4, "Hypopnea"), Interval(25, 30, "Arousal")),
        (Interval(0.3, 30, "Hypopnea"), Interval(2, 5, "Arousal"), Interval(5.5, 8, "Arousal")),
        (Interval(0, 4, "Hypopnea"), Interval(0, 3, "Central Apnea")),
        None,
        (Interval(0, 10, "Hypopnea"),),
    ]
    assert merged(epochs) == [
        Interval(20, 64, "Hypopnea"),
        Interval(25, 30, "Arousal"),
        Interval(32, 35, "Arousal"),
        Interval(35.5, 38, "Arousal"),
        Interval(60, 63, "Central Apnea"),
        Interval(120, 130, "Hypopnea"),
    ]


def test_what_is_cut_into_epochs_is_joined_again():
    scoring = [Event("hypopnea", 50.0, 75.0), Event("arousal", 121.0, 9.0), Event("lights", 0, 1)]
    whole = scored_events(scoring)
    cut = [
        tuple(
            Interval(max(e.start_s - 30 * n, 0), min(e.stop_s - 30 * n, 30), e.kind)
            for e in whole
            if e.start_s < 30 * (n + 1) and e.stop_s > 30 * n
        )
        for n in range(6)
    ]
    assert merged(cut) == whole


def test_indices_are_events_that_touch_sleep_by_its_hours():
    stages = np.array([0] * 60 + [2] * 120 + [-1] * 60)  # an hour of sleep
    events = [
        Interval(100, 110, "Hypopnea"),  # awake
        Interval(1795, 1805, "Central Apnea"),  # into sleep
        Interval(2000, 2020, "Hypopnea"),
        Interval(2000, 2003, "Arousal"),
        Interval(9000, 9020, "Oxygen Desaturation"),  # after the end
    ]
    found = indices(stages, events)
    assert found == {"tst_h": 1.0, "ahi": 2.0, "odi": 0.0, "arousal_index": 1.0}
    assert math.isnan(indices(stages * 0, events)["ahi"])


def test_agreement_is_absolute():
    """ICC(2,1) of Shrout and Fleiss, by hand for a shift of one: 10/11 of the pairs 0 to 10."""
    truth = [
        {"tst_h": 1.0, "ahi": x, "odi": x, "arousal_index": math.nan} for x in (0.0, 5.0, 10.0)
    ]
    said = [own | {"ahi": own["ahi"] + 1.0} for own in truth]
    found = agreement(truth, said)
    # Mean squares: nights 50, raters 1.5, rest 0; ICC = 50 / (50 + 2 * 1.5 / 3).
    assert found["ahi"]["icc"] == pytest.approx(50 / 51)
    assert found["ahi"]["bias"] == found["ahi"]["mae"] == 1.0
    assert found["odi"]["icc"] == 1.0
    assert found["arousal_index"]["nights"] == 0 and math.isnan(found["arousal_index"]["icc"])
