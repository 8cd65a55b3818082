"""Surprise: worked numbers, only the past is seen, in pieces and in streams, files, features."""

import jax
import numpy as np
import pytest
from test_stream import RATES, SECONDS, blocks, write_model
from tiny_models import MODALITIES, random_variables, rq_config, token_batch

from data_pipelines.recipes.hypnos import ROWS
from data_pipelines.signals.causal import preprocess_channel
from hypnos_jax.export.model import ModelError, make_model
from hypnos_jax.inference.embed import Embedder, Stream, embed_recording, open_embedder
from hypnos_jax.inference.embed_folder import embed_folder
from hypnos_jax.inference.estimator import SleepEmbedder
from hypnos_jax.inference.surprise import statistics

LENGTH = 70
# The ECG with one timing level of five codes.
TIMED = [
    {**row, "levels": 3, "timing": ("since",), "timing_codes": 5} if row["name"] == "ecg" else row
    for row in MODALITIES
]


@pytest.fixture(scope="module")
def codes():
    rng = np.random.default_rng(5)
    return {row["name"]: rng.integers(0, 16, (LENGTH, 2)) for row in MODALITIES}


@pytest.fixture(scope="module")
def variables():
    return random_variables(rq_config(), token_batch())


@pytest.fixture(scope="module")
def embedder(variables):
    return Embedder(make_model(rq_config(), variables, step=3), chunk_s=32, surprise=True)


@pytest.fixture(scope="module")
def told(embedder, codes):
    return embedder.embed_codes(codes).surprise


def with_heads(variables, change):
    """The variables with ``change(name, array)`` in place of those of the heads."""

    def one(path, x):
        name = path[-1].key
        return change(name, x) if "head" in name else x

    return jax.tree.map_with_path(one, variables)


def test_what_uniform_and_known_shares_cost(codes):
    """The ECG: code 0 three times as likely as each other; level 1: of two codes alone. Its timing
    and all other modalities: uniform."""

    def change(name, x):
        x = np.zeros_like(x)
        if name == "ecg_head_bias":
            x[0, 0] = np.log(3)
            x[1, 2:] = -np.inf
        return x

    codes = {name: np.minimum(own, [15, 1]) for name, own in codes.items()}
    codes["ecg"] = np.hstack([codes["ecg"], np.arange(LENGTH)[:, None] % 5])
    variables = random_variables(rq_config(modalities=TIMED), token_batch(modalities=TIMED))
    model = make_model(rq_config(modalities=TIMED), with_heads(variables, change), step=3)
    surprise = Embedder(model, chunk_s=32, surprise=True).embed_codes(codes).surprise
    assert surprise.columns == ["nll", "entropy", "timing_nll", "timing_entropy"]
    for name in ("eeg_c3", "resp_abd"):  # log V a level
        expected = np.full((LENGTH, 2), 2 * np.log(16))
        np.testing.assert_allclose(surprise.modalities[name][:, :2], expected, atol=1e-5)
        assert np.isnan(surprise.modalities[name][:, 2:]).all()
    timing = np.full((LENGTH, 2), np.log(5))
    np.testing.assert_allclose(surprise.modalities["ecg"][:, 2:], timing, atol=1e-5)
    found = surprise.modalities["ecg"][:, :2] - timing
    usual = codes["ecg"][:, 0] == 0
    assert 0 < usual.sum() < LENGTH
    expected = np.where(usual, np.log(18 / 3), np.log(18)) + np.log(2)
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-5)
    entropy = 3 / 18 * np.log(18 / 3) + 15 / 18 * np.log(18) + np.log(2)
    np.testing.assert_allclose(found[:, 1], np.full(LENGTH, entropy), atol=1e-5)


@pytest.mark.slow
def test_surprise_is_the_loss_of_each_second(embedder, told, codes):
    """The mean over levels, as the objective counts it, whatever the pieces were."""
    batch = {k: np.asarray(v) for k, v in token_batch(1, LENGTH).items()}
    batch["codes"] = np.concatenate([codes[m["name"]] for m in MODALITIES], axis=1)[None]
    batch["channel_ids"] = np.array([[m["channel_id"] for m in MODALITIES]])
    loss = jax.jit(embedder.objective.apply)(embedder.model.variables, batch)
    for name, values in told.modalities.items():
        total, weight = loss.metrics[f"loss/{name}"]
        np.testing.assert_allclose(2 * total / weight, values[:, 0].mean(), rtol=1e-5)


def test_a_second_is_judged_by_the_past_and_its_lower_levels_alone(embedder, told, codes):
    later = {name: own.copy() for name, own in codes.items()}
    later["eeg_c3"][40:] = 15 - later["eeg_c3"][40:]
    later["ecg"][41:] = 15 - later["ecg"][41:]
    found = embedder.embed_codes(later).surprise.modalities
    for name, values in told.modalities.items():
        np.testing.assert_array_equal(found[name][:40], values[:40])
    # Another modality of the same second tells nothing of this one.
    np.testing.assert_array_equal(found["ecg"][40], told.modalities["ecg"][40])
    assert (found["ecg"][41] != told.modalities["ecg"][41]).any()


@pytest.mark.slow
@pytest.mark.parametrize("chunk_s, seconds", [(10_000, LENGTH), (32, 64)])
def test_neither_lag_nor_pieces_change_it(variables, told, codes, chunk_s, seconds):
    model = make_model(rq_config(), variables, step=3)
    other = Embedder(model, chunk_s=chunk_s, lag=False, generates=False, surprise=True)
    found = other.embed_codes({name: own[:seconds] for name, own in codes.items()}).surprise
    for name, values in found.modalities.items():
        np.testing.assert_allclose(values, told.modalities[name][:seconds], atol=1e-4)


def test_seconds_without_signal_have_none_and_do_not_enter_statistics(embedder, told, codes):
    valid = {name: np.ones(LENGTH, bool) for name in codes}
    valid["ecg"][35:40] = False
    found = embedder.embed_codes(codes, valid=valid).surprise
    assert np.isnan(found.modalities["ecg"][35:40]).all()
    kept = np.delete(told.modalities["ecg"], np.r_[35:40], axis=0)
    np.testing.assert_allclose(found.whole()["ecg"], statistics(kept), rtol=1e-5)


def test_statistics_of_worked_numbers():
    values = np.array([[1.0, np.nan], [2.0, np.nan], [3.0, np.nan], [np.nan, np.nan]], np.float32)
    found = statistics(values)
    np.testing.assert_allclose(found[:6], [2, np.sqrt(2 / 3), 2, 2.5, 2.8, 2.94], rtol=1e-6)
    assert np.isnan(found[6:]).all()


def test_a_recording_shorter_than_an_epoch_has_statistics_of_the_whole(embedder, codes):
    found = embedder.embed_codes({name: own[:25] for name, own in codes.items()}).surprise
    assert found.by_epoch()["ecg"].shape == (0, 12)
    assert np.isfinite(found.whole()["ecg"]).all()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.mark.slow
def test_a_stream_tells_what_the_whole_recording_tells(bundle):
    signals = {}
    for i, (name, rate) in enumerate(RATES.items()):
        rng = np.random.default_rng(i)
        signals[name] = 100 + 30 * rng.standard_normal(int(SECONDS * rate))
    model = open_embedder(bundle, surprise=True)
    prepared = {
        name: preprocess_channel(x, RATES[name], ROWS[name], mains_hz=50)
        for name, x in signals.items()
    }
    expected = model.embed_signals(prepared).surprise
    stream = Stream(model, RATES, mains_hz=50)
    rows = [row for block in blocks(signals, seed=3) for row in stream.push(block)]
    rows += stream.close()
    for name, values in expected.modalities.items():
        found = [[row.surprise[name][column] for column in expected.columns] for row in rows]
        np.testing.assert_allclose(found, values, atol=1e-4)


@pytest.mark.slow
def test_files_and_features_hold_it(bundle, tmp_path):
    rng = np.random.default_rng(0)
    ecg = {"ecg": (20 * rng.standard_normal(65 * 128), 128)}
    whole = embed_recording(bundle, ecg, mains_hz=50, surprise=True)
    whole.save(tmp_path / "night.npz")
    with np.load(tmp_path / "night.npz", allow_pickle=False) as file:
        assert file["surprise_columns"].tolist() == ["nll", "entropy"]
        assert file["surprise_statistics"].tolist()[:3] == ["nll_mean", "nll_sd", "nll_p50"]
        seconds, epochs = file["surprise/ecg"], file["surprise_epochs/ecg"]
        assert seconds.shape == (65, 2) and epochs.shape == (2, 12)
        np.testing.assert_allclose(epochs[1, 0], seconds[30:60, 0].mean(), rtol=1e-5)
        np.testing.assert_allclose(
            file["surprise_recording/ecg"][8], np.median(seconds[:, 1]), rtol=1e-5
        )
    one = SleepEmbedder(bundle, features="surprise", modalities=["ecg"], mains_hz=50)
    both = SleepEmbedder(bundle, features="both", modalities=["ecg"], mains_hz=50)
    rows = one.fit_transform([ecg])
    np.testing.assert_allclose(rows[0], whole.surprise.whole()["ecg"], rtol=1e-5)
    np.testing.assert_array_equal(both.fit_transform([ecg])[0, -12:], rows[0])


def test_an_embedder_opened_without_it_is_refused(variables, tmp_path):
    model = open_embedder(make_model(rq_config(), variables, step=3))
    with pytest.raises(ModelError, match="cannot tell the surprise"):
        embed_folder(model, tmp_path, tmp_path / "out", surprise=True)
