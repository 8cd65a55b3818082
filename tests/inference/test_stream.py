"""Signals that arrive in blocks are embedded as the whole recording is."""

import fractions

import numpy as np
import pytest
from tiny_models import (
    MODALITIES,
    random_variables,
    rq_config,
    rvq_config,
    signal_batch,
    token_batch,
    write_run,
    write_tokenizers,
)

from data_pipelines.recipes.hypnos import ROWS
from data_pipelines.signals.causal import preprocess_channel
from hypnos_jax.export.model import ModelError
from hypnos_jax.export.write import export
from hypnos_jax.inference.embed import Embedder, Stream

RATES = {"eeg_c3": 256, "eeg_c4": 200, "ecg": fractions.Fraction(256, 3), "resp_abd": 25}
SECONDS = 75


def write_model(folder, **model):
    write_tokenizers(folder / "tokenizers")
    config = rq_config(**model)
    write_run(folder / "run", config, random_variables(config, token_batch()))
    export(folder / "run", folder / "export", tokenizers=folder / "tokenizers", programs=False)
    return folder / "export"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def embedder(bundle):
    return Embedder(bundle)


@pytest.fixture(scope="module")
def signals():
    made = {}
    for i, (name, rate) in enumerate(RATES.items()):
        rng = np.random.default_rng(i)
        t = np.arange(int(SECONDS * fractions.Fraction(rate))) / float(rate)
        made[name] = 100 + 30 * rng.standard_normal(len(t)) + 40 * np.sin(2 * np.pi * 0.3 * t)
    return made


def offline(embedder, signals):
    """name -> float32 [S, D] of one pass, before the embedder rounds it to float16."""
    prepared = {
        name: preprocess_channel(x, RATES[name], ROWS[name], mains_hz=50)
        for name, x in signals.items()
    }
    kept, chunks = [], embedder.chunks

    def keep(*arguments):
        kept.extend(chunks(*arguments))
        return kept

    embedder.chunks = keep
    embedder.embed_signals(prepared)
    del embedder.chunks
    return {name: np.concatenate([piece[name] for piece in kept]) for name in signals}


def blocks(signals, seed):
    """The signals cut at random, channel by channel, in a random order of time."""
    rng = np.random.default_rng(seed)
    at = dict.fromkeys(signals, 0)
    while any(at[name] < len(x) for name, x in signals.items()):
        name = rng.choice([*signals])
        count = int(rng.integers(0, 9 * RATES[name]))
        yield {name: signals[name][at[name] : at[name] + count]}
        at[name] = min(at[name] + count, len(signals[name]))


def assert_equal(rows, expected):
    assert [row.second for row in rows] == [*range(SECONDS)]
    for name, own in expected.items():
        np.testing.assert_allclose([row.modalities[name] for row in rows], own, atol=1e-5)
    mean = np.mean([*expected.values()], axis=0)
    np.testing.assert_allclose([row.mean for row in rows], mean, atol=1e-5)
    assert all(row.valid == dict.fromkeys(expected, True) for row in rows)


@pytest.mark.parametrize("lag", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_stream_gives_the_rows_of_the_offline_embedding(bundle, signals, lag):
    embedder = Embedder(bundle, lag=lag)
    stream = Stream(embedder, RATES, mains_hz=50)
    rows = [row for block in blocks(signals, 3) for row in stream.push(block)]
    rows += stream.close()
    assert_equal(rows, offline(embedder, signals))
    with pytest.raises(ValueError, match="has ended"):
        stream.push({})


def test_a_stream_goes_on_where_it_was_saved(embedder, signals, tmp_path):
    names = ["ecg", "resp_abd"]
    signals = {name: signals[name] for name in names}
    stream = Stream(embedder, {name: RATES[name] for name in reversed(names)}, mains_hz=50)
    rows = []
    for i, block in enumerate(blocks(signals, 5)):
        rows += stream.push(block)
        if i % 7 == 0:
            stream.save(tmp_path / "state.npz")
            stream = Stream.restore(embedder, tmp_path / "state.npz")
    rows += stream.close()
    assert_equal(rows, offline(embedder, signals))
    assert [x.name for x in tmp_path.iterdir()] == ["state.npz"]


@pytest.mark.slow
def test_the_state_of_a_model_in_bfloat16_is_kept(signals, tmp_path):
    embedder = Embedder(write_model(tmp_path, dtype="bfloat16"))
    rows = []
    for kept in (False, True):
        stream = Stream(embedder, {"ecg": RATES["ecg"]}, mains_hz=50)
        stream.push({"ecg": signals["ecg"][:5500]})
        if kept:
            stream.save(tmp_path / "state.npz")
            stream = Stream.restore(embedder, tmp_path / "state.npz")
        rows.append(stream.push({"ecg": signals["ecg"][5500:]}))
    assert len(rows[0]) == len(rows[1]) > 5
    assert all(np.array_equal(a.mean, b.mean) for a, b in zip(*rows))


def test_the_released_alignment_waits_for_a_sample_more(tmp_path, signals):
    config = rvq_config("ecg")
    config["objective"]["model"]["strict_causal"] = False
    write_run(tmp_path / "tokenizers" / "ecg", config, random_variables(config, signal_batch()))
    config = rq_config(modalities=[MODALITIES[2]], use_tracks=True)
    variables = random_variables(config, token_batch(modalities=[MODALITIES[2]]))
    write_run(tmp_path / "run", config, variables)
    export(
        tmp_path / "run", tmp_path / "export", tokenizers=tmp_path / "tokenizers", programs=False
    )
    embedder = Embedder(tmp_path / "export", lag=False)
    stream = Stream(embedder, {"ecg": RATES["ecg"]}, mains_hz=50)
    heard = {"ecg": signals["ecg"]}
    early = stream.push({"ecg": signals["ecg"][: 71 * 256 // 3]})
    rows = early + stream.push({"ecg": signals["ecg"][71 * 256 // 3 :]}) + stream.close()
    assert len(early) == 69  # 70 s are prepared
    assert_equal(rows, offline(embedder, heard))


def test_running_averages_save_the_wait_and_a_lost_channel_is_told(embedder, signals):
    stream = Stream(embedder, {"ecg": RATES["ecg"]}, mains_hz=50)
    assert stream.running == {}
    stream.push({"ecg": signals["ecg"]})
    again = Stream(embedder, {"ecg": 256}, mains_hz=50, running=stream.running)
    rows = again.push({"ecg": np.full(256 * 3, np.nan)})
    rows += again.push({"ecg": 100 + np.random.default_rng(0).standard_normal(256 * 3)})
    assert [row.valid["ecg"] for row in rows] == [False] * 3 + [True] * 2
    assert all(np.isfinite(row.mean).all() for row in rows)


def test_a_channel_that_stops_takes_no_other_with_it(embedder, signals):
    """Its samples are told to be lost; what the others have told of their seconds stays."""
    stop_s = 65
    told = {name: signals[name] for name in ("ecg", "resp_abd")}
    lost = {**told, "resp_abd": told["resp_abd"].copy()}
    lost["resp_abd"][stop_s * 25 :] = np.nan
    rows = []
    for own in (told, lost):
        stream = Stream(embedder, {name: RATES[name] for name in own}, mains_hz=50)
        rows.append([*stream.push(own), *stream.close()])
    assert [row.valid["resp_abd"] for row in rows[1]] == [True] * stop_s + [False] * 10
    assert all(row.valid["ecg"] for row in rows[1])
    for one, other in zip(*(own[:stop_s] for own in rows)):
        np.testing.assert_allclose(one.mean, other.mean, atol=1e-5)
    assert all(np.isfinite(row.mean).all() for row in rows[1])


def test_what_cannot_be_streamed_is_refused(embedder, bundle, tmp_path):
    with pytest.raises(ValueError, match="no modality 'emg_chin'"):
        Stream(embedder, {"emg_chin": 128}, mains_hz=50)
    with pytest.raises(ValueError, match="rates_hz is empty"):
        Stream(embedder, {}, mains_hz=50)
    running = {"eeg_c3": (0.0, 1.0), "ecg": (0.0, 1.0)}
    with pytest.raises(ValueError, match="running has 'eeg_c3'"):
        Stream(embedder, {"ecg": 128}, mains_hz=50, running=running)
    stream = Stream(embedder, {"ecg": 128, "resp_abd": 32}, mains_hz=50)
    with pytest.raises(ValueError, match="no channel 'eeg_c3'"):
        stream.push({"eeg_c3": np.zeros(3)})
    with pytest.raises(ValueError, match="ecg is 700 s ahead of resp_abd"):
        stream.push({"ecg": np.random.default_rng(0).standard_normal(700 * 128)})
    stream = Stream(embedder, {"ecg": 128}, mains_hz=50)
    stream.save(tmp_path / "state.npz")
    (tmp_path / "other").mkdir()
    other = Embedder(write_model(tmp_path / "other", qk_norm=False))
    with pytest.raises(ValueError, match="is of the model"):
        Stream.restore(other, tmp_path / "state.npz")
    whole = (tmp_path / "state.npz").read_bytes()
    np.savez(tmp_path / "rows.npz", rows=np.zeros(3))
    for damaged in (b"", whole[:50], whole[: len(whole) // 2], b"x" * 100):
        (tmp_path / "half.npz").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"half\.npz holds no saved stream"):
            Stream.restore(embedder, tmp_path / "half.npz")
    with pytest.raises(ValueError, match=r"rows\.npz holds no saved stream"):
        Stream.restore(embedder, tmp_path / "rows.npz")
    with pytest.raises(ValueError, match="in float32, not of .* in bfloat16"):
        Stream.restore(Embedder(embedder.model, dtype="bfloat16"), tmp_path / "state.npz")


def test_a_block_of_another_shape_takes_nothing(embedder):
    stream = Stream(embedder, {"ecg": 128, "resp_abd": 32}, mains_hz=50)
    noise = np.random.default_rng(0).standard_normal((2, 70 * 128))
    with pytest.raises(ValueError, match=r"resp_abd has the shape \(2, 10\)"):
        stream.push({"ecg": noise[0], "resp_abd": np.zeros((2, 10))})
    begun = Stream(embedder, {"ecg": 128, "resp_abd": 32}, mains_hz=50)
    rows = [s.push({"ecg": noise[0], "resp_abd": noise[1, : 70 * 32]}) for s in (stream, begun)]
    assert len(rows[0]) == len(rows[1]) > 60
    np.testing.assert_array_equal(rows[0][-1].mean, rows[1][-1].mean)


def test_tokenizers_that_mirror_the_samples_to_come_are_refused(embedder, monkeypatch):
    monkeypatch.setattr(type(embedder.tokenizer("ecg")), "padding", "reflect")
    with pytest.raises(ModelError, match="padding='reflect'"):
        Stream(embedder, {"ecg": 128}, mains_hz=50)
