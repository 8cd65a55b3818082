"""Oxygen saturation of a night: definitions, artefacts, real samples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.recordings.opening import open_recording
from hypnos_jax.scored.oximetry import Saturation, measures


def night(*pieces):
    """Seconds of pieces (percent, length)."""
    return np.concatenate([np.full(length, percent, float) for percent, length in pieces])


def odi(samples, rate_hz=1, stages=None):
    found = measures(Saturation.of(samples, rate_hz), stages)
    return [record["counts"]["desaturations"] for record in found["odi"]]


def test_a_desaturation_is_a_drop_below_the_two_minutes_before_for_ten_seconds():
    assert odi(night((96, 120), (93, 10), (96, 60))) == [1, 0]
    assert odi(night((96, 120), (92, 10), (96, 60))) == [1, 1]
    assert odi(night((96, 120), (93, 9), (96, 60))) == [0, 0]
    # The baseline is a mean: 60 s at 97 and 60 s at 95 make 96.
    assert odi(night((97, 60), (95, 60), (93, 20), (96, 60))) == [1, 0]
    # One that lasts is one, however long: the baseline is that of its beginning.
    assert odi(night((96, 120), (92, 600), (96, 60))) == [1, 1]
    assert odi(night(*[(96, 120), (92, 20)] * 5)) == [5, 5]
    # Too little before it to know a baseline.
    assert odi(night((96, 20), (92, 20), (96, 60))) == [0, 0]


def test_numbers_of_a_night_are_those_of_sleep_where_sleep_is_known():
    steps = (84, 10), (88, 20), (92, 30), (96, 240), (92, 60), (88, 50), (92, 10), (96, 180)
    samples = night(*steps)
    asleep = np.array([0] * 2 + [1] * 14 + [0] * 4)
    found = measures(Saturation.of(samples, 1.0), asleep)
    assert found["counted"] == "sleep" and found["usable_share"] == 1
    assert found["nadir"] == 88 and found["hours"] == pytest.approx(420 / 3600)
    assert found["t90"]["minutes"] == pytest.approx(50 / 60)
    assert found["t90"]["share"] == pytest.approx(50 / 420)
    assert found["mean"] == pytest.approx((96 * 300 + 92 * 70 + 88 * 50) / 420)
    assert found["odi"][0]["value"] == pytest.approx(1 / (420 / 3600))
    whole = measures(Saturation.of(samples, 1.0), None)
    assert whole["counted"] == "recording" and whole["nadir"] == 84
    nothing = measures(Saturation.of(np.full(600, 127.0), 1.0), asleep)
    assert nothing["mean"] is None and nothing["odi"][0]["value"] is None
    assert nothing["reason"] == "no usable second of sleep"
    assert nothing["left_out_s"]["out_of_range"] == 600


def test_an_artefact_is_left_out_and_not_a_desaturation():
    clean = night((96, 400))
    for mark in (0, 127, np.nan, -11.9):
        broken = clean.copy()
        broken[200:230] = mark
        found = measures(Saturation.of(broken, 1.0), None)
        assert [x["counts"]["desaturations"] for x in found["odi"]] == [0, 0]
        assert found["nadir"] == 96 and found["usable_share"] == pytest.approx(370 / 400)
    slipped = clean.copy()
    slipped[200:230] = 60  # within the range, but no blood falls by 36 points in a second
    assert measures(Saturation.of(slipped, 1.0), None)["left_out_s"]["jump"] == 4


def same(one, other):
    if isinstance(one, dict):
        return all(same(one[name], other[name]) for name in other)
    if isinstance(one, list):
        return all(map(same, one, other))
    return one == pytest.approx(other) if isinstance(one, float) else one == other


saturations = st.lists(
    st.tuples(st.sampled_from([np.nan, 0, 75, 86, 90, 93, 95, 96, 97]), st.integers(1, 150)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(saturations, st.sampled_from([1, 3, 4, 25.6]))
def test_measures_hold_whatever_the_signal(pieces, rate_hz):
    seconds = night(*pieces)
    found = measures(Saturation.of(seconds, 1), None)
    three, four = found["odi"]
    assert four["counts"]["desaturations"] <= three["counts"]["desaturations"]
    falls = Saturation.of(seconds, 1).desaturations(3)
    assert (falls[:, 1] - falls[:, 0] >= 10).all() and (falls[1:, 0] >= falls[:-1, 1]).all()
    if found["mean"] is None:
        assert three["value"] is None and three["reason"]
        return
    assert 50 <= found["nadir"] <= found["mean"] <= 100
    assert 0 <= found["t90"]["share"] <= 1 and 0 < found["usable_share"] <= 1
    # Held samples at another rate tell the same; more of what cannot be used changes nothing.
    at = np.arange(int(len(seconds) * rate_hz))
    again = measures(Saturation.of(seconds[(at / rate_hz + 1e-9).astype(int)], rate_hz), None)
    whole = int(len(at) / rate_hz + 1e-6)
    if whole == len(seconds):
        assert same(again, found)
    longer = measures(Saturation.of(np.append(seconds, np.full(60, np.nan)), 1), None)
    for name in ("mean", "nadir", "hours", "odi", "t90"):
        assert longer[name] == found[name]


def test_a_real_oximeter_at_three_samples_a_second(test_data):
    recording = open_recording(test_data / "nox-a1" / "subject1.edf")
    place = recording.labels.index("Saturation")
    saturation = Saturation.of(recording.read(place), recording.sfreq_hz(place))
    found = measures(saturation, None)
    assert len(saturation.percent) == 120 and found["usable_share"] > 0.9
    assert 85 <= found["nadir"] <= found["mean"] <= 100
