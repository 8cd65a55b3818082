"""Embeddings: any length in chunks, any subset of the modalities, from files to files."""

import numpy as np
import pytest
from tiny_models import MODALITIES, random_variables, rq_config, token_batch

from hypnos_jax.export.model import make_model
from hypnos_jax.inference.embed import Embedder, epoch_means

SECONDS = 150


@pytest.fixture(scope="module")
def model():
    config = rq_config()
    return make_model(config, random_variables(config, token_batch()), step=3)


@pytest.fixture(scope="module")
def codes():
    rng = np.random.default_rng(5)
    return {row["name"]: rng.integers(0, 16, (SECONDS, 2)) for row in MODALITIES}


@pytest.fixture(scope="module")
def whole(model):
    """An embedder that takes everything in one pass."""
    return Embedder(model, chunk_s=10_000)


@pytest.fixture(scope="module")
def single(whole, codes):
    return whole.embed_codes(codes)


def exact(embedder, codes):
    """The embeddings before they are rounded to 16 bits, name -> [S, D]."""
    whole = {**{k: np.asarray(v)[0] for k, v in token_batch(1, SECONDS).items()}}
    whole["codes"] = np.concatenate([codes[row["name"]] for row in MODALITIES], axis=1)
    whole["channel_ids"] = np.array([row["channel_id"] for row in MODALITIES])

    def read(start, stop):
        out = dict(whole)
        for name in ("codes", "valid", "tracks"):
            rows = whole[name][start:stop]
            out[name] = np.pad(rows, [(0, stop - start - len(rows))] + [(0, 0)] * (rows.ndim - 1))
        return out

    pieces = list(embedder.chunks(read, SECONDS))
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


@pytest.mark.parametrize("chunk_s", [7, 60])
def test_chunks_equal_a_single_pass(model, whole, codes, chunk_s):
    chunked = Embedder(model, chunk_s=chunk_s, generates=False)
    assert chunked.reach == 7 + 15
    rows_of, pieces = exact(whole, codes), exact(chunked, codes)
    for name, rows in rows_of.items():
        assert rows.shape == (SECONDS, 16)
        np.testing.assert_allclose(pieces[name], rows, atol=1e-5)


def test_shapes_types_and_means(model, codes, single):
    assert list(single.modalities) == [row["name"] for row in MODALITIES]
    assert all(rows.dtype == np.float16 for rows in single.modalities.values())
    assert np.array_equal(single.times_s, np.arange(SECONDS))
    assert single.epochs.shape == (5, 16)
    mean = np.mean([rows.astype(np.float64) for rows in single.modalities.values()], axis=0)
    np.testing.assert_allclose(single.epochs[1], mean[30:60].mean(0), atol=2e-3)
    assert single.model == model.checksum


def test_an_absent_modality_is_not_returned_and_its_codes_do_not_matter(whole, codes):
    fewer = whole.embed_codes({name: codes[name] for name in ("ecg", "eeg_c4")})
    assert list(fewer.modalities) == ["eeg_c4", "ecg"]
    again = whole.embed_codes({"eeg_c4": codes["eeg_c4"], "ecg": codes["ecg"]})
    assert np.array_equal(fewer.epochs, again.epochs)


def test_the_order_given_does_not_matter(whole, codes, single):
    backwards = whole.embed_codes(dict(reversed(codes.items())))
    assert list(backwards.modalities) == list(single.modalities)
    for name, rows in single.modalities.items():
        assert np.array_equal(backwards.modalities[name], rows)


def test_modalities_are_cut_to_the_shortest(whole, codes, single):
    uneven = {**codes, "ecg": codes["ecg"][:100]}
    cut = whole.embed_codes(uneven)
    assert cut.epochs.shape == (3, 16)
    for name, rows in cut.modalities.items():
        np.testing.assert_allclose(rows, single.modalities[name][:100], atol=2e-3)


def test_timing(model, whole, codes):
    changed = {name: own.copy() for name, own in codes.items()}
    changed["ecg"][60] += 1
    changed["ecg"] %= 16
    for embedder, first in ((whole, 61), (Embedder(model, chunk_s=10_000, lag=False), 60)):
        before, after = (embedder.embed_codes(x).modalities["ecg"] for x in (codes, changed))
        assert np.array_equal(before[:first], after[:first])
        assert not np.array_equal(before[first], after[first])


def test_saved_files_need_no_pickle(single, tmp_path):
    single.save(tmp_path / "night.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["night.npz"]
    with np.load(tmp_path / "night.npz", allow_pickle=False) as file:
        assert set(file) == {*single.modalities, "epochs", "times_s", "model"}
        assert str(file["model"]) == single.model
        assert np.array_equal(file["ecg"], single.modalities["ecg"])


def test_a_recording_shorter_than_an_epoch_has_none():
    assert epoch_means(np.ones((29, 4))).shape == (0, 4)
    assert epoch_means(np.ones((61, 4))).shape == (2, 4)
