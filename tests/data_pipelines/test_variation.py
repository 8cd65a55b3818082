"""Training signals vary in sign, size and speed; evaluation reads them as they are."""

import fractions

import numpy as np
import pytest

from data_pipelines import pipeline
from data_pipelines.signals.resampling import resample
from data_pipelines.store import NightStore
from data_pipelines.synthetic import write_tiny_modalities, write_tiny_nights
from data_pipelines.variation import Variation, at_rate, seconds_needed


@pytest.fixture(scope="module")
def signals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signals") / "store"
    write_tiny_nights(folder, 1, nights=2, minutes=4)
    return folder


@pytest.fixture(scope="module")
def modalities(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modalities") / "store"
    write_tiny_modalities(folder, 1)
    return folder


def crops(path, split="train", **options):
    given = {"signal_type": "resp", "crop_s": 20, "seed": 3, **options}
    return pipeline.load("signal_crops", path=path, split=split, **given)


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_draws_are_functions_of_seed_and_number_and_within_bounds():
    variation = Variation(flip=0.25, gain=0.2, rate=0.1, seed=5)
    numbers = np.arange(20_000)
    factors, rates = variation.factors(numbers, 2), variation.rates(numbers)
    np.testing.assert_array_equal(factors[7000:], variation.factors(numbers[7000:], 2))
    assert abs((factors < 0).mean() - 0.25) < 0.02
    assert np.exp(-0.2) <= abs(factors).min() < 0.83 and 1.2 < abs(factors).max() <= np.exp(0.2)
    assert abs(np.corrcoef(factors[:, 0], factors[:, 1])[0, 1]) < 0.05  # apart from each other
    assert (rates.min(), rates.max()) == (round(128 * np.exp(-0.1)), round(128 * np.exp(0.1)))
    assert (factors != Variation(flip=0.25, gain=0.2, seed=6).factors(numbers, 2)).mean() > 0.9
    for wrong in ({"flip": 1.5}, {"gain": -1}, {"rate": 0.5}):
        with pytest.raises(pipeline.PipelineError, match=f"config.data.{next(iter(wrong))}="):
            Variation(**wrong)


def test_a_tone_at_another_rate_is_another_tone():
    rate_hz, seconds, rate = 32, 20, 140  # 140 / 128 times as fast
    time = np.arange(seconds_needed(seconds, rate) * rate_hz) / rate_hz
    valid = np.ones(len(time) // rate_hz, bool)
    valid[4] = False  # which becomes a part of two seconds
    tone = np.sin(2 * np.pi * time).astype(np.float32)
    found, there = at_rate(tone, valid, rate, seconds)
    assert found.shape == (seconds * rate_hz,) and there.shape == (seconds,)
    assert np.flatnonzero(~there).tolist() == [3, 4]
    assert not found[3 * rate_hz : 5 * rate_hz].any()
    faster = np.sin(2 * np.pi * np.arange(seconds * rate_hz) / rate_hz * rate / 128)
    inner = slice(6 * rate_hz, 18 * rate_hz)  # the ends feel the filter
    np.testing.assert_allclose(found[inner], faster[inner], atol=0.01)


def test_crops_vary_in_training_alone(signals):
    plain, varied = crops(signals), crops(signals, flip=0.5, gain=0.2, rate=0.1)
    same(next(plain.evaluation_batches(4)), next(varied.evaluation_batches(4)))
    same(crops(signals, gain=0.0).examples(0, 8), plain.examples(0, 8))
    batch = varied.examples(0, 40)
    same({k: v[8:] for k, v in batch.items()}, varied.examples(8, 40))  # for any hosts and step
    again, before = varied.examples(40, 80), plain.examples(0, 40)
    assert batch["signal"].shape == before["signal"].shape
    assert batch["valid"].mean() > 0.9 and np.isfinite(again["signal"]).all()
    only_signs = crops(signals, flip=1.0).examples(0, 8)
    np.testing.assert_array_equal(only_signs["signal"], -before["signal"][:8])


def test_a_varied_crop_is_its_second_of_the_night_at_that_rate(signals):
    source, numbers = crops(signals, rate=0.1), np.arange(12)
    store, rates = NightStore(signals), Variation(rate=0.1, seed=3).rates(np.arange(12))
    assert len(set(rates)) > 4
    batch, (stretches, starts) = source.examples(0, 12), source.draws(0, 12)
    found = [(n, name) for name in ("resp_abd", "resp_thx") for n in store.select("train", name)]
    for row in numbers:
        night, name = found[stretches[row]]
        seconds = seconds_needed(20, int(rates[row]))
        start = min(starts[row], night.duration_s - seconds)
        whole = store.signal(night, name, start, start + seconds)
        expected = resample(whole, fractions.Fraction(int(rates[row])), 128)[:640]
        valid = np.repeat(batch["valid"][row], 32)
        np.testing.assert_allclose(batch["signal"][row][valid], expected[valid], atol=1e-4)


@pytest.mark.parametrize("name", ["modality_nights", "modality_pairs"])
def test_windows_vary_waves_and_no_levels(modalities, name):
    given = {"path": modalities, "split": "train", "seed": 3, "window_tokens": 8}
    plain, flipped = pipeline.load(name, **given), pipeline.load(name, **given, flip=1.0)
    names = [modality["name"] for modality in plain.describe()["modalities"]]
    waves = np.array([row not in ("ibi", "spo2", "airflow") for row in names])
    for step in range(4):
        before, after = (source.rows(step, 8, 0, 8) for source in (plain, flipped))
        of = waves[before["pair"][0]] if "pair" in before else waves
        np.testing.assert_array_equal(after["scale"], np.where(of, -1, 1) * before["scale"])
        rest = before.keys() - {"scale"}
        same({key: after[key] for key in rest}, {key: before[key] for key in rest})
    same(next(plain.evaluation_batches(4)), next(flipped.evaluation_batches(4)))
