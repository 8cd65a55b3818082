"""Signal nights to token nights: what is kept, what resumes, what is refused."""

import hashlib
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny_models

from data_pipelines import pipeline
from data_pipelines.builders.night_builder import write_store
from data_pipelines.scoring import Event
from data_pipelines.store import ChannelSignal, Night, NightStore, StoreError
from hypnos_jax.export.model import ModelError, load_model
from hypnos_jax.inference.tokenize_nights import EncodeNight, tokenize_nights
from hypnos_jax.inference.tokenizer import Tokenizer, TokenizerError

ROOT = pathlib.Path(__file__).parents[2]
BELTS, EEG = ("resp_abd", "resp_thx"), ("eeg_c3",)


def make_night(item):
    name, seconds, channels = item
    rng = np.random.default_rng(sum(map(ord, name)))
    signals = {}
    for channel in channels:
        rate = 32 if channel.startswith("resp") else 128
        valid = np.ones(seconds, bool)
        valid[3] = False
        samples = rng.normal(size=seconds * rate).astype(np.float32)
        tracks = rng.normal(size=(seconds, 2)).astype(np.float32)
        signals[channel] = ChannelSignal(channel, rate, samples, valid, tracks)
    return Night(
        name,
        f"subject-{name}",
        "train",
        signals,
        np.array([0, 2], np.int8),
        [Event("arousal", 10.0, 5.0)],
        {"af": "yes"},
        {"site": "here"},
    )


def write_nights(folder, items):
    write_store(
        folder,
        kind="signals",
        items={item[0]: item for item in items},
        make_night=make_night,
        progress=False,
    )
    return folder


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    tiny_models.write_tokenizers(folder, ("resp",))
    return folder


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    items = [("a", 70, BELTS), ("b", 90, BELTS[1:]), ("c", 64, (*BELTS, "eeg_c3"))]
    return write_nights(tmp_path_factory.mktemp("nights"), items)


def contents(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).digest() for f in files}


def test_a_token_store_holds_codes_and_all_the_rest(nights, tokenizers, tmp_path):
    output = tmp_path / "tokens"
    summary = tokenize_nights(nights, tokenizers, output)
    assert summary.added == ["a", "b", "c"] and not summary.rejected
    store, source = NightStore(output), NightStore(nights)
    store.verify()
    assert [(m["name"], m["channel_id"], m["levels"]) for m in store.modalities] == [
        ("resp_abd", 6, 2),
        ("resp_thx", 7, 2),
    ]
    tokenizer = Tokenizer(load_model(tokenizers / "resp"))
    assert store.manifest["provenance"]["tokenizers"]["resp"]["checksum"] == tokenizer.checksum
    for night, old in zip(store.nights, source.nights, strict=True):
        seconds = night.duration_s
        assert seconds == old.duration_s and night.subject == old.subject
        assert night.labels == {"af": "yes"} and night.metadata["site"] == "here"
        np.testing.assert_array_equal(store.stages(night), source.stages(old))
        assert store.events(night) == source.events(old)
        codes = store.codes(night, 0, seconds)
        for i, channel in enumerate(BELTS):
            there = channel in old.channels
            assert store.present(night)[i] == there
            own = codes[:, 2 * i : 2 * i + 2]
            if not there:
                assert not own.any() and not store.token_valid(night, 0, seconds)[:, i].any()
                continue
            signal = source.signal(old, channel, 0, seconds)
            np.testing.assert_array_equal(own, tokenizer.encode(signal[None])[0])
            valid = store.token_valid(night, 0, seconds)[:, i]
            np.testing.assert_array_equal(valid, source.valid(old, channel, 0, seconds))
            tracks = store.token_tracks(night, 0, seconds)[:, i]
            np.testing.assert_array_equal(tracks, source.tracks(old, channel, 0, seconds))
    beside = load_model(output / "tokenizers" / "resp")
    assert beside.checksum == tokenizer.checksum


def test_an_interrupted_run_ends_in_the_same_bytes(nights, tokenizers, tmp_path, monkeypatch):
    tokenize_nights(nights, tokenizers, tmp_path / "whole")
    encode = EncodeNight.__call__

    def killed(self, night):
        if night.recording == "b":
            raise SystemExit
        return encode(self, night)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(EncodeNight, "__call__", killed)
        tokenize_nights(nights, tokenizers, tmp_path / "again")
    done = []
    with monkeypatch.context() as patch:
        counted = lambda self, night: done.append(night.recording) or encode(self, night)
        patch.setattr(EncodeNight, "__call__", counted)
        tokenize_nights(nights, tokenizers, tmp_path / "again")
    assert done == ["b", "c"]
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")
    summary = tokenize_nights(nights, tokenizers, tmp_path / "again")
    assert summary.kept == ["a", "b", "c"] and not summary.added


def test_nights_that_no_tokenizer_reads_are_rejected(tokenizers, tmp_path):
    nights = write_nights(tmp_path / "nights", [("a", 40, BELTS), ("z", 40, EEG)])
    summary = tokenize_nights(nights, tokenizers, tmp_path / "tokens")
    assert summary.added == ["a"]
    assert summary.rejected[0][0] == "z" and "eeg_c3" in summary.rejected[0][1]


def test_what_does_not_fit_is_refused(nights, tokenizers, tmp_path):
    output = tmp_path / "tokens"
    tokenize_nights(nights, tokenizers, output)
    before = contents(output)
    other = tmp_path / "other"
    config = tiny_models.rvq_config("resp", 32, (4, 4, 2))
    variables = tiny_models.random_variables(config, tiny_models.signal_batch(32), seed=9)
    tiny_models.write_run(other / "resp", config, variables)
    with pytest.raises(StoreError, match="another tokenizer"):
        tokenize_nights(nights, other, output)
    assert contents(output) == before
    with pytest.raises(StoreError, match="holds tokens"):
        tokenize_nights(output, tokenizers, tmp_path / "x")
    with pytest.raises(StoreError, match="not a store"):
        tokenize_nights(tmp_path / "none", tokenizers, tmp_path / "x")
    slow = tmp_path / "slow"
    config = tiny_models.rvq_config("resp", 16, (4, 2, 2))
    variables = tiny_models.random_variables(config, tiny_models.signal_batch(16))
    tiny_models.write_run(slow / "resp", config, variables)
    with pytest.raises(TokenizerError, match=r"reads 16 Hz.*32 Hz"):
        tokenize_nights(nights, slow, tmp_path / "x")
    damaged = tmp_path / "damaged"
    shutil.copytree(output / "tokenizers", damaged)
    (damaged / "resp" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(ModelError):
        tokenize_nights(nights, damaged, tmp_path / "x")


@pytest.mark.slow
def test_kill_9_and_the_same_command_again(tokenizers, tmp_path):
    items = [(f"night{i:02}", 2000, BELTS) for i in range(24)]
    nights = write_nights(tmp_path / "nights", items)
    command = [sys.executable, "-m", "launch.tokenize_nights", f"--nights={nights}"]
    command += [f"--tokenizers={tokenizers}"]
    subprocess.run([*command, f"--output={tmp_path / 'whole'}"], cwd=ROOT, check=True)
    output = tmp_path / "again"
    for enough in (2, 7, 15):
        process = subprocess.Popen([*command, f"--output={output}"], cwd=ROOT)
        while process.poll() is None and len(list(output.glob(".work/nights/*.npz"))) < enough:
            time.sleep(0.005)
        process.kill()
        process.wait()
    subprocess.run([*command, f"--output={output}"], cwd=ROOT, check=True)
    assert contents(output) == contents(tmp_path / "whole")


def test_a_training_window_draws_among_shifted_grids(nights, tokenizers, tmp_path):
    output = tmp_path / "tokens"
    tokenize_nights(nights, tokenizers, output, shifts=4)
    assert sorted(p.name for p in (output / "phases").iterdir()) == ["0.25", "0.5", "0.75"]
    source, grid = NightStore(nights), NightStore(output / "phases" / "0.25")
    tokenizer = Tokenizer(load_model(tokenizers / "resp"))
    for night, old in zip(grid.nights, source.nights, strict=True):
        seconds = night.duration_s
        signal = source.signal(old, "resp_thx", 0, seconds)
        late = np.append(signal[8:], np.zeros(8, np.float32))  # a quarter of a second at 32 Hz
        codes = grid.codes(night, 0, seconds)[:, 2:4]
        np.testing.assert_array_equal(codes, tokenizer.encode(late[None])[0])
        valid = grid.token_valid(night, 0, seconds)[:, 1]
        assert np.flatnonzero(~valid).tolist() == [2, 3, seconds - 1]  # second 3 is not
        tracks, own = (
            grid.token_tracks(night, 0, seconds)[:, 1],
            source.tracks(old, "resp_thx", 0, seconds),
        )
        np.testing.assert_allclose(tracks[10], 0.75 * own[10] + 0.25 * own[11], rtol=1e-5)

    def windows(split="train", **options):
        given = {"path": output, "split": split, "seed": 1, "window_s": 16, **options}
        return pipeline.load("token_windows", **given)

    one, four = windows(phases=1), windows()
    np.testing.assert_array_equal(one.draws(0, 99), four.draws(0, 99))  # the same windows
    batch = four.examples(0, 99)
    np.testing.assert_array_equal(batch["codes"][50:], four.examples(50, 99)["codes"])
    stores = [NightStore(output), *(NightStore(p) for p in sorted((output / "phases").iterdir()))]
    drawn = []
    for row, (night, start) in enumerate(zip(*four.draws(0, 99))):
        span = int(start), int(start) + 16
        found = [
            np.array_equal(store.codes(store.nights[night], *span), batch["codes"][row])
            for store in stores
        ]
        assert any(found)
        drawn.append(found.index(True))
    assert min(np.bincount(drawn, minlength=4)) > 10  # each of four about 25 times
    assert set(four.describe()["phases"]) == {"0.25", "0.5", "0.75"}
    assert "phases" not in one.describe()
    first = next(four.evaluation_batches(4))  # as the first grid has them
    np.testing.assert_array_equal(first["codes"], next(one.evaluation_batches(4))["codes"])
    with pytest.raises(pipeline.PipelineError, match="has 4; tokenize its nights with --shifts=9"):
        windows(phases=9)
    with pytest.raises(TokenizerError, match="no whole number of samples of resp_.* give 2, 4"):
        tokenize_nights(nights, tokenizers, tmp_path / "odd", shifts=5)
