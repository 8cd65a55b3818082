"""Simulated sequences of stages: near the counted and published figures, and whole when short."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.synthetic import draw_subject
from data_pipelines.synthetic.stages import N1, N2, N3, TRANSITIONS, R, W, simulate_stages
from data_pipelines.synthetic.subjects import stream


@pytest.fixture(scope="module")
def nights():
    people = [draw_subject(5, i) for i in range(120)]
    return [simulate_stages(stream(5, "test", i), 8.0, p) for i, p in enumerate(people)], people


def asleep(stages):
    return stages[stages != W]


def test_shares_of_stages_are_those_of_the_counted_nights(nights):
    shares = [np.bincount(asleep(s), minlength=5)[1:] / len(asleep(s)) for s in nights[0]]
    # The 60 Dreem nights: N1 7.3, N2 58.6, N3 14.4, REM 19.7 % of sleep.
    np.testing.assert_allclose(np.mean(shares, 0), [0.073, 0.586, 0.144, 0.197], atol=0.05)
    assert np.std(shares, axis=0)[1] > 0.04  # people differ


def test_changes_of_stage_have_the_counted_shares(nights):
    counts = np.zeros((5, 5))
    for stages in nights[0]:
        stages = stages[np.argmax(stages > 0) :]
        change = np.flatnonzero(np.diff(stages))
        np.add.at(counts, (stages[change], stages[change + 1]), 1)
    wanted = TRANSITIONS / TRANSITIONS.sum(1, keepdims=True)
    got = counts / counts.sum(1, keepdims=True)
    # What follows N2 depends on the time since REM and on the person, so it is looser.
    np.testing.assert_allclose(got[[W, N1, N3, R]], wanted[[W, N1, N3, R]], atol=0.04)
    np.testing.assert_allclose(got[N2], wanted[N2], atol=0.12)


def test_cycles_are_those_of_a_night(nights):
    latencies, gaps, early, rem_late = [], [], [], []
    for stages in nights[0]:
        onset = np.argmax(stages > 0)
        rem = np.flatnonzero(stages == R)
        latencies.append((rem[0] - onset) / 2)
        new = rem[np.diff(rem, prepend=-100) > 60]
        gaps += list(np.diff(new) / 2)
        deep = np.flatnonzero(stages == N3)
        early.append(np.mean(deep < len(stages) / 2))
        rem_late.append(np.mean(rem > len(stages) / 2))
    # Carskadon and Dement (Normal human sleep): first REM after 80-100 min, cycles of about 90 min,
    # N3 in the first half of the night, REM in the second.
    assert 70 < np.median(latencies) < 115
    assert 70 < np.median(gaps) < 110
    assert np.mean(early) > 0.6
    assert np.mean(rem_late) > 0.55


def test_age_adds_wake():
    def wake_min(age):
        person = [draw_subject(1, i, age=age) for i in range(60)]
        nights = [simulate_stages(stream(1, "age", i), 8.0, p) for i, p in enumerate(person)]
        return np.mean([np.sum(s[np.argmax(s > 0) :] == W) / 2 for s in nights])

    # Boulos et al. 2019: 9.7 min per decade, 95 % interval 6.9 to 12.4.
    slope = (wake_min(75) - wake_min(25)) / 5
    assert 5 < slope < 16


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), hours=st.floats(0.06, 3.4))
def test_short_nights_hold_all_stages(seed, hours):
    stages = simulate_stages(stream(seed), hours, draw_subject(seed, 0))
    assert len(stages) == int(hours * 120)
    assert set(stages) == {W, N1, N2, N3, R}
    assert stages.dtype == np.int8


@pytest.mark.parametrize("hours", [0.0, 0.05, -1, 25, float("nan")])
def test_lengths_without_sense_are_refused(hours):
    with pytest.raises(ValueError, match=r"between 0\.06 h"):
        simulate_stages(stream(0), hours, draw_subject(0, 0))
