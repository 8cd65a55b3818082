"""Generation: it follows the model, the prompt and the seed, and can be read back from its file."""

import dataclasses
import datetime
import pathlib
import subprocess
import sys

import flax.linen as nn
import jax
import numpy as np
import pytest
from tiny_models import MODALITIES, random_variables, rq_config, token_batch, write_run
from tiny_models import write_tokenizers as write_tiny_tokenizers

from data_pipelines.channels import resolve
from data_pipelines.recipes.hypnos import ROWS
from data_pipelines.recordings.edf_writer import EdfSignal, write_edf
from data_pipelines.recordings.opening import open_recording
from data_pipelines.signals.causal import preprocess_channel
from data_pipelines.signals.rolling_scale import compress, expand, last_scale
from data_pipelines.store import ChannelSignal
from hypnos_jax.export.model import ModelError, make_model
from hypnos_jax.export.write import export
from hypnos_jax.inference.embed import Embedder
from hypnos_jax.inference.generate import Prompt, generate, read_prompt

ROOT = pathlib.Path(__file__).parents[2]
NAMES = [row["name"] for row in MODALITIES]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """An export of a tiny model with its tokenizers."""
    folder = tmp_path_factory.mktemp("model")
    write_tiny_tokenizers(folder / "tokenizers")
    config = rq_config()
    write_run(folder / "run", config, random_variables(config, token_batch()))
    export(folder / "run", folder / "export", tokenizers=folder / "tokenizers", programs=False)
    return folder / "export"


@pytest.fixture(scope="module")
def embedder(bundle):
    return Embedder(bundle)


def prompt_of(seconds, names=NAMES, seed=0):
    """Noise as a prepared recording has it."""
    rng = np.random.default_rng(seed)
    made = {}
    for name in names:
        rate = ROWS[name].rate_hz
        samples = rng.standard_normal(seconds * rate).astype(np.float32)
        by_second = samples.reshape(seconds, rate)
        tracks = np.stack([3 + 50 * by_second.mean(1), np.log(50 * by_second.std(1))], axis=1)
        made[name] = ChannelSignal(
            name, rate, samples, np.ones(seconds, bool), tracks.astype(np.float32)
        )
    return Prompt(made, start_of_day_s=3600.0)


@pytest.mark.parametrize(
    "heard_s", [0, *(pytest.param(long, marks=pytest.mark.slow) for long in (20, 600))]
)
def test_at_temperature_zero_each_code_is_the_likeliest_of_the_offline_pass(embedder, heard_s):
    prompt = prompt_of(heard_s) if heard_s else None
    made = generate(embedder, 9, prompt=prompt, temperature=0)
    codes = made.codes
    if prompt:
        heard = embedder.tokenize({name: prompt.channels[name] for name in NAMES})
        codes = {name: np.concatenate([heard[name], own]) for name, own in codes.items()}

    def score(model, batch):
        return model.depth.logits(model.context(batch), batch["codes"])

    network, variables = embedder.network
    batch = {
        "codes": np.concatenate([codes[name] for name in NAMES], axis=1)[None].astype(np.int32),
        "present": np.ones((1, len(NAMES)), bool),
        "channel_ids": np.array([[row["channel_id"] for row in MODALITIES]], np.int32),
    }
    found = jax.jit(nn.apply(score, network))(variables, batch)
    for group, logits in found.items():
        members = [row["name"] for row in MODALITIES if row["group"] == group]
        for name, own in zip(members, np.asarray(logits)[0, :, heard_s:]):
            chosen = np.take_along_axis(own, made.codes[name][..., None].astype(int), -1)[..., 0]
            np.testing.assert_allclose(chosen, own.max(-1), atol=1e-5)

    # and the waveform is that of all codes in one pass, without a seam
    for name in NAMES:
        tokenizer = embedder.tokenizer(name)
        whole = tokenizer.decode(codes[name][None])[0]
        tail = np.concatenate([made.lead[name], made.signals[name]])
        assert len(tail) == (min(heard_s, 10) + 9) * tokenizer.rate_hz
        np.testing.assert_allclose(tail, whole[len(whole) - len(tail) :], atol=1e-4)


def test_the_first_second_of_a_cold_start_depends_on_its_beginning_alone():
    config = rq_config()
    variables = random_variables(config, token_batch())

    def codes(changed):
        rng = np.random.default_rng(9)
        params = dict(variables["params"]["network"])
        for name in changed:
            params[name] = rng.normal(0, 3, params[name].shape).astype(np.float32)
        embedder = Embedder(make_model(config, {"params": {"network": params}}, step=0))
        embedder.tokenizer = lambda name: Silent(ROWS[name].rate_hz)
        made = generate(embedder, 6).codes
        return np.concatenate([made[name] for name in NAMES], axis=1)

    tables = [f"{group}_code_embedding" for group in ("eeg", "ecg", "resp")]
    begins = [f"{group}_bos_embedding" for group in ("eeg", "ecg", "resp")]
    plain, other, begun = codes([]), codes(tables), codes(begins)
    assert np.array_equal(plain[0], other[0])
    assert not np.array_equal(plain[1:], other[1:])
    assert not np.array_equal(plain[0], begun[0])


class Silent:
    """A tokenizer whose waveforms nobody looks at."""

    reach, padding = 0, "zero"

    def __init__(self, rate_hz):
        self.rate_hz = rate_hz

    def decode(self, codes):
        return np.zeros((1, codes.shape[1] * self.rate_hz), np.float32)


def test_the_seed_and_the_prompt_decide(embedder):
    def drawn(**options):
        made = generate(embedder, 6, **options)
        return np.concatenate([made.codes[name] for name in NAMES], axis=1)

    heard, other = prompt_of(20), prompt_of(20, seed=1)
    first = drawn(prompt=heard, seed=3)
    assert np.array_equal(first, drawn(prompt=heard, seed=3))
    assert not np.array_equal(first, drawn(prompt=heard, seed=4))
    assert not np.array_equal(first, drawn(prompt=other, seed=3))


def test_only_what_is_asked_for_is_made(embedder):
    made = generate(embedder, 2, modalities=["resp_abd", "eeg_c3"])
    assert [*made.codes] == [*made.signals] == ["eeg_c3", "resp_abd"]
    assert {name: len(x) for name, x in made.signals.items()} == {"eeg_c3": 256, "resp_abd": 64}
    assert all(own.shape == (2, 2) for own in made.codes.values())
    heard = prompt_of(5, names=["ecg", "eeg_c4"])
    assert [*generate(embedder, 1, prompt=heard).codes] == ["eeg_c4", "ecg"]
    with pytest.raises(ValueError, match="eeg_c3"):
        generate(embedder, 1, prompt=heard, modalities=["eeg_c3", "ecg"])
    with pytest.raises(ValueError, match="no modality 'emg_chin'"):
        generate(embedder, 1, modalities=["emg_chin"])
    with pytest.raises(ValueError, match="top_p=0"):
        generate(embedder, 1, top_p=0)


def test_a_model_that_reads_amplitudes_cannot_be_run_ahead():
    config = rq_config(use_tracks=True)
    embedder = Embedder(make_model(config, random_variables(config, token_batch()), step=0))
    with pytest.raises(ModelError, match="amplitude"):
        generate(embedder, 1)


def test_a_model_without_a_window_cannot_be_run_ahead(embedder):
    config = rq_config(wide_window=None)
    model = make_model(config, random_variables(config, token_batch()), step=0)
    endless = Embedder(dataclasses.replace(model, tokenizers=embedder.model.tokenizers))
    with pytest.raises(ModelError, match="without a window"):
        generate(endless, 1)


@pytest.mark.parametrize("heard_s", [0, 20])
def test_the_file_holds_what_was_made(embedder, tmp_path, heard_s):
    made = generate(embedder, 4, prompt=prompt_of(heard_s) if heard_s else None)
    made.write_edf(tmp_path / "generated.edf")
    recording = open_recording(tmp_path / "generated.edf")
    bindings = resolve.resolve(recording.labels).bindings
    assert [*bindings] == NAMES
    assert recording.start_of_day_s == (3600 if heard_s else 0)
    for name, binding in bindings.items():
        samples, unit = made.in_unit(name, made.signals[name])
        assert unit == recording.unit(binding.index) == (ROWS[name].unit if heard_s else "z")
        step = 1.02 * np.abs(samples).max() / 32767
        np.testing.assert_allclose(recording.read(binding.index), samples, atol=0.51 * step)
        if heard_s:  # the prompt above is 50 times its z-score
            np.testing.assert_allclose(samples, 3 + 50 * expand(made.signals[name]), rtol=1e-3)


def test_the_scale_of_the_end_takes_the_z_score_back():
    rng = np.random.default_rng(1)
    signal = 40 * rng.standard_normal(128 * 200) * (1 + np.linspace(0, 2, 128 * 200))
    signal[128 * 195] += 3000
    prepared = preprocess_channel(signal, 128, ROWS["ecg"], mains_hz=None)
    mean, std = last_scale(prepared)
    log_std = prepared.tracks[-5:, 1]
    last = mean + std * expand(prepared.samples.reshape(200, 128)[-5:])
    np.testing.assert_allclose(np.log(last.std(1)), log_std, atol=0.1)
    far = np.array([-30.0, -8.0, 0.5, 9.0, 200.0])
    np.testing.assert_allclose(expand(compress(far)), far, rtol=1e-12)


def write_recording(path, seconds=90):
    rng = np.random.default_rng(0)
    t = np.arange(seconds * 128) / 128
    beats = 20 * rng.standard_normal(len(t)) + 1000 * (np.mod(t, 0.9) < 0.03)
    eeg = 20 * rng.standard_normal(len(t))
    signals = [EdfSignal("ECG", "uV", 128, beats, -3000, 3000)]
    signals += [EdfSignal("C3-M2", "uV", 128, eeg, -500, 500)]
    write_edf(path, signals, datetime.datetime(1985, 1, 1, 22))
    return path


def test_a_prompt_ends_where_it_is_told(embedder, tmp_path):
    path = write_recording(tmp_path / "night.edf")
    prompt = read_prompt(embedder, path, start_s=70, mains_hz=50)
    assert {name: len(c.valid) for name, c in prompt.channels.items()} == {"eeg_c3": 70, "ecg": 70}
    assert prompt.start_of_day_s == 22 * 3600 + 70
    assert len(prompt.channels["ecg"].samples) == 70 * 128
    for start_s in (0, 91):
        with pytest.raises(ValueError, match="from 1 to 90 s"):
            read_prompt(embedder, path, start_s=start_s, mains_hz=50)
    with pytest.raises(ValueError, match="resp_abd: no label"):
        read_prompt(embedder, path, ["ecg", "resp_abd"], mains_hz=50)


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "launch.generate", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_the_command_writes_a_recording_and_a_picture(bundle, tmp_path):
    path = write_recording(tmp_path / "night.edf")
    out = tmp_path / "out"
    told = [f"--model={bundle}", f"--input={path}", f"--output={out}", "--seconds=3"]
    done = command(*told, "--start_s=60", "--modalities=ecg")
    assert done.returncode == 0, done.stderr
    assert "3 s of ecg" in done.stdout
    assert open_recording(out / "generated.edf").start_of_day_s == 22 * 3600 + 60
    assert (out / "generated.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(x.name for x in out.iterdir()) == ["generated.edf", "generated.png"]
    refused = command(*told, "--start_s=600")
    assert refused.returncode == 1
    assert "start_s=600" in refused.stderr and "Traceback" not in refused.stderr
