"""Events on a grid by each rule against a loop over its cells, and what nobody scored."""

import types

import numpy as np
import pytest
from hypothesis import given, strategies

from data_pipelines import labels
from data_pipelines.labels import (
    APNEAS,
    AROUSAL_CAUSES,
    AROUSALS,
    BREATHING,
    EVENT_LABELS,
    HYPOPNEAS,
    EventLabel,
)
from data_pipelines.scoring import Event

# Eighths of a second are exact, so that a loop and sums of arrays agree about every tie.
EIGHTHS = strategies.integers(-80, 8 * 400).map(lambda x: x / 8)
EVENTS = strategies.lists(
    strategies.tuples(EIGHTHS, strategies.integers(0, 8 * 100).map(lambda x: x / 8)), max_size=8
)


def fake(stages=(), events=(), seconds=150, scored=True, **facts):
    store = types.SimpleNamespace(
        stages=lambda night: np.array(stages, np.int8), events=lambda night: list(events)
    )
    metadata = {"events_scored": scored}
    return store, types.SimpleNamespace(duration_s=seconds, metadata=metadata, labels=facts)


def slowly(rule, spans, low, high):
    """Whether the cell from ``low`` to ``high`` s counts, as the rule is said in words."""
    if rule.startswith("more_than"):
        moments = np.arange(low + 1 / 16, high, 1 / 8)
        inside = [any(a <= t < a + d for a, d in spans) for t in moments]
        return sum(inside) / 8 > {"more_than_10s": 10, "more_than_3s": 3}[rule]
    if rule == "midpoint":
        size = high - low
        return any(round(a / size) * size <= low < round((a + d) / size) * size for a, d in spans)
    least = {"overlap": 5, "overlap_10s": 10}[rule]
    for a, d in spans:
        overlap = min(a + d, high) - max(a, low)
        touches = a // (high - low) * (high - low) <= low <= a + d
        if touches and overlap >= min(least, d / 2):
            return True
    return False


@pytest.mark.parametrize("rule", sorted(labels.RULES))
@given(EVENTS, strategies.integers(0, 400))
def test_a_rule_is_what_a_loop_over_the_cells_says(rule, spans, seconds):
    grids = (1, 30) if rule == "midpoint" else (30,)
    store, night = fake(events=[Event("hypopnea", *span) for span in spans], seconds=seconds)
    for grid_s in grids:
        found = labels.events(store, night, BREATHING, rule, grid_s)
        edges = range(0, seconds // grid_s * grid_s, grid_s)
        assert found.tolist() == [slowly(rule, spans, at, at + grid_s) for at in edges]
        assert found.dtype == np.int8


@pytest.mark.parametrize(
    ("length_s", "expected"),
    [(16.0, "midpoint"), (10.0, "overlap_10s"), (10.5, "overlap_10s more_than_10s")],
)
def test_rules_differ_by_the_events_that_they_lose(length_s, expected):
    onset = 44.0 if expected == "midpoint" else 47.0
    store, night = fake(events=[Event("hypopnea", onset, length_s)], seconds=60)
    found = {rule: labels.events(store, night, BREATHING, rule)[1] for rule in labels.RULES}
    expected = {*expected.split(), "overlap", "more_than_3s"}
    if length_s == 16:
        expected |= {"overlap_10s", "more_than_10s"}
    assert {rule for rule, value in found.items() if value} == expected


def test_times_in_tenths_are_not_longer_than_they_are():
    onsets = [tenths / 10 for tenths in range(200)]
    assert any(onset + 10.0 - onset > 10 for onset in onsets)
    for onset in onsets:
        store, night = fake(events=[Event("hypopnea", onset, 10.0)], seconds=30)
        assert labels.events(store, night, BREATHING, "more_than_10s").tolist() == [0]


def test_labels_by_epoch_of_sleep():
    events = [Event("hypopnea", 34.0, 12.0), Event("apnea_central", 58.0, 20.0)]
    events += [Event("arousal", 95.0, 4.0), Event("hypopnea", 1000.0, 12.0)]
    store, night = fake([0, 2, 2, 3, -1], events)
    assert labels.stages(store, night).tolist() == [0, 2, 2, 3, -1]
    of = lambda kinds, **how: EventLabel(kinds, "overlap", **how).of(store, night).tolist()
    assert of(BREATHING) == [-1, 1, 1, 0, -1]
    assert of(APNEAS) == [-1, 0, 1, 0, -1]
    assert of(HYPOPNEAS) == [-1, 1, 0, 0, -1]
    assert of(HYPOPNEAS, asleep=False) == [0, 1, 0, 0, 0]
    assert of(HYPOPNEAS, without=APNEAS) == [-1, 1, -1, 0, -1]
    assert of(AROUSALS) == [-1, 0, 0, 1, -1]


def test_every_label_of_events_is_by_a_rule_that_is_there():
    events = [Event("hypopnea", 31.0, 13.0), Event("apnea_mixed", 75.0, 15.0)]
    store, night = fake([2, 0, 2, 2], events, seconds=120)
    found = {name: label.of(store, night).tolist() for name, label in EVENT_LABELS.items()}
    assert found["apnea"] == [0, -1, 1, 0]
    assert found["apnea_only"] == found["apnea_only_more_than_10s"] == [0, -1, 1, 0]
    assert found["apnea_only_midpoint"] == [0, -1, 1, 0]
    assert found["hypopnea_only_official"] == [0, 0, 0, 0]  # 31 s and 44 s round to one edge
    assert found["apnea_only_official"] == [0, 0, 1, 0]  # wake counts
    assert found["hypopnea_only_without_apnea"] == [0, -1, -1, 0]


@pytest.mark.parametrize(
    ("onset_s", "length_s", "midpoint", "overlap_10s", "more_than_10s"),
    [
        (31, 13, [], [1], [1]),  # the official code loses it
        (16, 13, [], [0], [0]),
        (75, 15, [2], [2], [2]),
        (17, 10, [], [0], []),
        (40, 12, [1], [1], [1]),
        (50, 12, [], [1], []),
    ],
)
def test_an_event_in_its_epochs(onset_s, length_s, midpoint, overlap_10s, more_than_10s):
    store, night = fake(events=[Event("hypopnea", onset_s, length_s)], seconds=120)
    for rule, expected in (
        ("midpoint", midpoint),
        ("overlap_10s", overlap_10s),
        ("more_than_10s", more_than_10s),
    ):
        found = np.flatnonzero(labels.events(store, night, HYPOPNEAS, rule)).tolist()
        # Said in the code's own words: rounded half to even, the last one not included.
        if rule == "midpoint":
            span = range(round(onset_s / 30), round((onset_s + length_s) / 30))
            assert list(span) == found
        assert found == expected, rule


def test_what_nobody_looked_for_is_unknown():
    events = [Event("arousal", 31.0, 10.0), Event("leg_movement", 31.0, 10.0)]
    for scored, known in (
        (False, ""),
        (True, "apnea arousal leg_movement"),
        (["arousal"], "arousal"),
        (["apnea"], "apnea"),
    ):
        store, night = fake(events=events, seconds=60, scored=scored)
        for name, kinds in (
            ("apnea", APNEAS),
            ("arousal", AROUSALS),
            ("leg_movement", ("leg_movement",)),
        ):
            expected = [0, int(name != "apnea")] if name in known else [-1, -1]
            assert labels.events(store, night, kinds).tolist() == expected


def test_an_event_that_is_apnea_or_hypopnea_tells_of_neither():
    events = [Event("apnea_hypopnea", 0.0, 60.0), Event("apnea_mixed", 30.0, 20.0)]
    store, night = fake(events=events, seconds=90)
    assert labels.events(store, night, BREATHING).tolist() == [1, 1, 0]
    assert labels.events(store, night, APNEAS).tolist() == [-1, 1, 0]
    assert labels.events(store, night, HYPOPNEAS).tolist() == [-1, -1, 0]
    assert labels.events(store, night, AROUSALS).tolist() == [0, 0, 0]


def test_an_event_of_an_epoch_is_known_by_epoch_and_not_by_second():
    events = [Event("hypopnea", 30.0, 30.0, "epoch"), Event("hypopnea", 40.0, 12.0)]
    store, night = fake(events=events, seconds=90)
    assert labels.events(store, night, BREATHING).tolist() == [0, 1, 0]
    by_second = labels.events(store, night, BREATHING, "midpoint", 1)
    assert by_second.tolist() == [0] * 30 + [-1] * 10 + [1] * 12 + [-1] * 8 + [0] * 30


def test_arousals_are_told_apart_by_cause():
    events = [Event("arousal", 1.0, 5.0, "leg_movement"), Event("arousal", 31.0, 5.0)]
    store, night = fake(events=events, seconds=60)
    for cause in AROUSAL_CAUSES:
        found = labels.events(store, night, AROUSALS, cause=cause)
        assert found.tolist() == [int(cause == "leg_movement"), 1]


def test_scoring_of_another_length():
    assert labels.stages(*fake([2, 2])).tolist() == [2, 2, -1, -1, -1]
    assert labels.stages(*fake([2] * 9)).tolist() == [2] * 5


def test_a_rhythm_is_known_where_it_is_one_of_two():
    found = [labels.rhythm(*fake(rhythm=name)).tolist() for name in "NA~"]
    assert found == [[0], [1], [-1]]
    assert labels.rhythm(*fake()).tolist() == [-1]


def test_a_rule_that_is_none_is_refused():
    store, night = fake(events=[Event("hypopnea", 1.0, 20.0)])
    with pytest.raises(ValueError, match="no rule 'touch' for labels of events; there are"):
        labels.events(store, night, BREATHING, "touch")
    with pytest.raises(ValueError, match="no cell of 1 s can overlap an event by 5 s"):
        labels.events(store, night, BREATHING, "overlap", 1)
