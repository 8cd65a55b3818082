"""Recordings to embeddings as users get there: files, folders, stores, resumed and refused."""

import datetime
import json
import zipfile

import numpy as np
import pytest
from tiny_models import MODALITIES, random_variables, rq_config, token_batch, write_run
from tiny_models import write_tokenizers as write_tiny_tokenizers

from data_pipelines.builders.night_builder import write_store
from data_pipelines.builders.recording_night import Pending, PrepareRecording
from data_pipelines.recipes.hypnos import RECIPE
from data_pipelines.recordings.base import RecordingError
from data_pipelines.recordings.edf_writer import EdfSignal, write_edf
from hypnos_jax.export.model import ModelError, load_model
from hypnos_jax.export.write import export
from hypnos_jax.inference.embed import Embedder, embed_recording
from hypnos_jax.inference.embed_folder import embed_folder
from hypnos_jax.inference.tokenize_nights import tokenize_nights

LABELS = {"C3-M2": ("uV", 128, 20), "C4-M1": ("uV", 128, 20), "ECG": ("uV", 128, 300)}
LABELS["ABD"] = ("", 32, 1)
NAMES = dict(zip(LABELS, ("eeg_c3", "eeg_c4", "ecg", "resp_abd")))


def write_recording(path, *, seconds=120, seed=0, without=()):
    """Noise, beats and breaths; every channel is what its label says."""
    rng = np.random.default_rng(seed)
    signals = []
    for label, (unit, rate_hz, size) in LABELS.items():
        t = np.arange(seconds * rate_hz) / rate_hz
        samples = size * rng.standard_normal(len(t))
        if label == "ECG":
            samples = 20 * rng.standard_normal(len(t)) + 1000 * (np.mod(t, 0.9) < 0.03)
        if label == "ABD":
            samples = np.sin(2 * np.pi * 0.25 * t) + 0.02 * rng.standard_normal(len(t))
        if label not in without:
            signals.append(EdfSignal(label, unit, rate_hz, samples, -20 * size, 20 * size))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_edf(path, signals, datetime.datetime(1985, 1, 1, 22))
    return path


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    write_tiny_tokenizers(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(tokenizers, tmp_path_factory):
    """An export of a tiny model with its tokenizers."""
    folder = tmp_path_factory.mktemp("model")
    config = rq_config()
    write_run(folder / "run", config, random_variables(config, token_batch()))
    export(folder / "run", folder / "export", tokenizers=tokenizers, programs=False)
    return folder / "export"


@pytest.fixture(scope="module")
def embedder(bundle):
    return Embedder(bundle)


@pytest.mark.slow
def test_a_recording_of_four_channels(bundle, embedder, tmp_path):
    path = write_recording(tmp_path / "night.edf")
    found = embed_recording(bundle, path, mains_hz=50)
    assert found.recording == "night"
    assert list(found.modalities) == [row["name"] for row in MODALITIES]
    for rows in found.modalities.values():
        assert rows.shape == (120, 16)
        assert rows.dtype == np.float16
        assert np.isfinite(rows).all()
    assert found.epochs.shape == (4, 16)
    assert found.model == load_model(bundle).checksum

    without = write_recording(tmp_path / "without.edf", without=["ABD"])
    fewer = embed_recording(embedder, without, mains_hz=50)
    assert set(found.modalities) - set(fewer.modalities) == {"resp_abd"}
    asked = embed_recording(embedder, path, ["eeg_c3", "eeg_c4", "ecg"], mains_hz=50)
    for name, rows in fewer.modalities.items():
        assert np.array_equal(asked.modalities[name], rows)


def test_an_mne_raw_is_a_recording(embedder, tmp_path):
    mne = pytest.importorskip("mne")
    path = write_recording(tmp_path / "night.edf", without=["ABD"])
    raw = mne.io.read_raw_edf(path, verbose="error")
    ours, theirs = (embed_recording(embedder, x, mains_hz=50) for x in (path, raw))
    for name, rows in ours.modalities.items():
        np.testing.assert_allclose(theirs.modalities[name], rows, atol=0.05)


def test_the_store_of_nights_and_of_tokens_give_what_the_recording_gives(
    embedder, tokenizers, tmp_path
):
    path = write_recording(tmp_path / "in" / "night.edf")
    names = tuple(row["name"] for row in MODALITIES)
    write_store(
        tmp_path / "nights",
        kind="signals",
        items={"night": Pending("night", path, scoring=False)},
        make_night=PrepareRecording(RECIPE, names, mains_hz=50),
        progress=False,
    )
    tokenize_nights(tmp_path / "nights", tokenizers, tmp_path / "tokens")
    embed_folder(embedder, tmp_path / "in", tmp_path / "a", mains_hz=50, progress=False)
    embed_folder(embedder, tmp_path / "nights", tmp_path / "b", progress=False)
    embed_folder(embedder, tmp_path / "tokens", tmp_path / "c", progress=False)
    a, b, c = (np.load(tmp_path / x / "night.npz") for x in "abc")
    assert set(a) == set(b) == set(c) == {*names, "epochs", "times_s", "model"}
    for name in names:
        # stored signals are rounded to 16 bits, so a code may differ here and there
        assert np.mean(np.all(np.isclose(a[name], b[name], atol=2e-2), axis=1)) > 0.8
        np.testing.assert_allclose(b[name], c[name], atol=2e-3)

    ecg = embed_folder(
        embedder, tmp_path / "tokens", tmp_path / "d", modalities=["ecg"], progress=False
    )
    assert ecg.added == ["night"]
    assert set(np.load(tmp_path / "d" / "night.npz")) == {"ecg", "epochs", "times_s", "model"}


def test_a_folder_is_resumed_and_bad_recordings_are_listed(embedder, tmp_path, capsys):
    source, output = tmp_path / "in", tmp_path / "out"
    for n in range(3):
        write_recording(source / f"part{n % 2}" / f"n{n}.edf", seed=n, seconds=61)
    (source / "broken.edf").write_bytes(b"0" * 300)
    write_recording(source / "legs.edf", without=list(LABELS)[:3])

    def run(**options):
        return embed_folder(embedder, source, output, mains_hz=50, progress=False, **options)

    first = run(modalities=["ecg", "eeg_c3"], jobs=2)
    assert first.added == ["part0/n0", "part0/n2", "part1/n1"]
    assert sorted(name for name, _ in first.rejected) == ["broken", "legs"]
    lines = [json.loads(x) for x in (output / "rejects.jsonl").read_text().splitlines()]
    assert [tuple(line.values()) for line in lines] == first.rejected
    before = (output / "part0" / "n0.npz").stat().st_mtime_ns

    half = output / "part0" / "n2.npz"
    half.write_bytes(half.read_bytes()[:1000])
    again = run(modalities=["ecg", "eeg_c3"])
    assert again.added == ["part0/n2"]
    assert again.kept == ["part0/n0", "part1/n1"]
    assert (output / "part0" / "n0.npz").stat().st_mtime_ns == before
    more = run()
    assert more.kept == []
    assert set(more.added) >= {"part0/n0", "part0/n2", "part1/n1", "legs"}
    assert not list(output.rglob("*partial*"))


def test_the_command(bundle, tmp_path):
    import subprocess
    import sys

    write_recording(tmp_path / "in" / "a.edf", seconds=45)
    words = [sys.executable, "-m", "launch.embed", f"--model={bundle}", "--modalities=ecg,eeg_c3"]
    done = subprocess.run(
        [*words, f"--input={tmp_path / 'in' / 'a.edf'}", f"--output={tmp_path / 'out'}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "1 recordings embedded" in done.stdout
    with np.load(tmp_path / "out" / "a.npz", allow_pickle=False) as file:
        assert file["ecg"].shape == (45, 16)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "b.edf").write_bytes(b"x")
    done = subprocess.run(
        [*words, f"--input={tmp_path / 'bad'}", f"--output={tmp_path / 'out2'}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert json.loads((tmp_path / "out2" / "rejects.jsonl").read_text())["recording"] == "b"


def test_what_cannot_be_embedded_says_why(embedder, bundle, tokenizers, tmp_path):
    path = write_recording(tmp_path / "night.edf")
    with pytest.raises(ValueError, match="no modality 'ppg'"):
        embed_recording(embedder, path, ["ppg"])
    with pytest.raises(RecordingError, match="no such file"):
        embed_recording(embedder, tmp_path / "nothing.edf")
    with pytest.raises(ModelError, match="reads no tokens"):
        Embedder(tokenizers / "ecg")
    with pytest.raises(ValueError, match="holds no recordings"):
        embed_folder(embedder, bundle, tmp_path / "out", progress=False)


def test_tokenizers_must_fit(tokenizers, tmp_path):
    path = write_recording(tmp_path / "night.edf", seconds=30)
    config = rq_config(modalities=[{**row, "levels": 3} for row in MODALITIES])
    batch = token_batch(modalities=config["objective"]["model"]["modalities"])
    write_run(tmp_path / "run", config, random_variables(config, batch))
    with pytest.raises(ModelError, match="carries no tokenizer of eeg"):
        embed_recording(tmp_path / "run", path)
    with pytest.raises(ModelError, match="'levels': 2, .*; the model takes 3 x 16 levels x codes"):
        export(tmp_path / "run", tmp_path / "export", tokenizers=tokenizers, programs=False)
    write_run(tmp_path / "fits", rq_config(), random_variables(rq_config(), token_batch()))
    export(tmp_path / "fits", tmp_path / "export", tokenizers=tokenizers, programs=False)
    name = tmp_path / "export" / "tokenizers" / "ecg" / "config.json"
    name.write_text(name.read_text().replace('"checksum": "', '"checksum": "0'))
    with pytest.raises(ModelError, match="is not the tokenizer"):
        load_model(tmp_path / "export")


def test_the_archive_says_what_it_was_made_with(embedder, tmp_path):
    write_recording(tmp_path / "in" / "a.edf", seconds=31)
    embed_folder(embedder, tmp_path / "in", tmp_path, modalities=["ecg"], progress=False)
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        settings = json.loads(archive.comment)
    assert settings["modalities"] == ["ecg"]
    assert settings["model"] == embedder.checksum
