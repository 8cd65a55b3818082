"""Timing levels beside a tokenizer's codes: stored, read, scored, streamed, exported, generated."""

import functools

import jax
import numpy as np
import pytest
import tiny_models

from data_pipelines.builders.night_builder import write_store
from data_pipelines.pipeline import PipelineError
from data_pipelines.recipes.hypnos import RECIPE, ROWS
from data_pipelines.signals.causal import preprocess_channel
from data_pipelines.signals.timing import TimingStream, describe
from data_pipelines.sources.token_windows import open_source
from data_pipelines.store import Night, NightStore, StoreError
from hypnos_jax.export.card import CARD
from hypnos_jax.export.model import ModelError, load_model, signal_types
from hypnos_jax.export.write import export
from hypnos_jax.inference.embed import Embedder, Stream
from hypnos_jax.inference.generate import generate
from hypnos_jax.inference.tokenize_nights import tokenize_nights
from hypnos_jax.interop.hypnos_config import BundleError, modality
from hypnos_jax.models.code_axis import CodeAxis

SECONDS = 66
RATES = {"ecg": 256, "resp_abd": 32}
EEG = {"name": "eeg_c3", "levels": 2, "codes": 16, "channel_id": 0, "group": "eeg"}
ECG = {"name": "ecg", "levels": 5, "codes": 16, "channel_id": 5, "group": "ecg"} | describe("ecg")
BELT = {"name": "resp_abd", "levels": 3, "codes": 0, "channel_id": 6, "group": "resp"}
MODALITIES = [ECG, BELT | describe("resp")]


@functools.cache
def signals():
    """A heart at 75 a minute, breath of 4 s, and noise."""
    made = {}
    for name, rate in RATES.items():
        t = np.arange(SECONDS * rate) / rate
        wave = np.random.default_rng(rate).standard_normal(len(t))
        if name == "ecg":
            wave = 0.1 * wave + 20 * np.exp(-0.5 * (((t + 0.4) % 0.8 - 0.4) / 0.012) ** 2)
        if name == "resp_abd":
            wave = 0.1 * wave + np.sin(2 * np.pi * t / 4)
        made[name] = 100 * wave
    return made


def prepared():
    return {
        name: preprocess_channel(x, RATES[name], ROWS[name], mains_hz=None)
        for name, x in signals().items()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Nights, tokenizers of two types, tokens with timing of two, and a model of these tokens."""
    folder = tmp_path_factory.mktemp("timing")

    def night(kept):
        channels = {name: channel for name, channel in prepared().items() if name in kept}
        return Night(
            "-".join(kept), kept[0], "train", channels, np.full(2, -1, np.int8), qc={}, metadata={}
        )

    items = {"ecg-resp_abd": ("ecg", "resp_abd"), "resp_abd": ("resp_abd",)}
    write_store(
        folder / "nights",
        kind="signals",
        items=items,
        make_night=night,
        recipe=RECIPE.identity,
        progress=False,
    )
    tiny_models.write_tokenizers(folder / "tokenizers", ("ecg",))
    given = folder / "nights", folder / "tokenizers", folder / "tokens"
    tokenize_nights(*given, timing=["ecg", "resp"])
    config = tiny_models.rq_config(folder / "tokens", MODALITIES)
    variables = tiny_models.random_variables(config, tiny_models.token_batch(modalities=MODALITIES))
    tiny_models.write_run(folder / "run", config, variables)
    export(folder / "run", folder / "export", programs=False)
    return folder


@pytest.fixture(scope="module")
def embedder(folder):
    return Embedder(folder / "export")


def test_a_token_store_holds_timing_levels_after_those_of_the_tokenizer(folder):
    store = NightStore(folder / "tokens")
    assert [(row["name"], row["levels"], row["codes"]) for row in store.modalities] == [
        ("ecg", 5, 16),
        ("resp_abd", 3, 0),
        ("resp_thx", 3, 0),
    ]
    assert store.manifest["provenance"]["timing"] == {"ecg": "beats 1", "resp": "breaths 1"}
    night, other = store.nights
    codes = store.codes(night, 0, SECONDS)
    signal = NightStore(folder / "nights")
    for name in ("ecg", "resp_abd"):
        kept = signal.channel(signal.nights[0], name)
        row = next(row for row in MODALITIES if row["name"] == name)
        own = TimingStream(row["group"], kept.rate_hz).push(kept.samples, kept.valid)
        assert (own[40:, :2] > 0).all()
        last = store.columns([{**row, "levels": 3}])
        np.testing.assert_array_equal(codes[:, last], own)
    # An absent signal has no timing codes, and is as absent as before.
    assert (store.codes(other, 0, SECONDS)[:, store.columns([ECG])] == 0).all()
    assert store.present(other).tolist() == [False, True, False]
    with pytest.raises(StoreError):
        tokenize_nights(folder / "nights", folder / "tokenizers", folder / "tokens", timing=["ecg"])


def test_a_source_reads_timing_levels_only_when_asked_to(folder):
    store = NightStore(folder / "tokens")
    for timing, count in {"": 2, "beside": 11, "alone": 9}.items():
        source = open_source(store, split="train", seed=0, window_s=32, timing=timing)
        rows = source.describe()["modalities"]
        assert [row["name"] for row in rows if "timing" in row] == (
            ["ecg", "resp_abd", "resp_thx"] if timing else []
        )
        batch = next(source.batches(2, 0, 2, 0))
        assert batch["codes"].shape == (2, 32, count)
        assert count == sum(row["levels"] for row in rows)
    with pytest.raises(PipelineError, match="config.data.timing is 'on'"):
        open_source(store, split="train", seed=0, timing="on")
    with pytest.raises(PipelineError, match="no code of a tokenizer of .'resp_abd'"):
        open_source(store, split="train", seed=0, modalities=("ecg", "resp_abd"))


def test_timing_levels_are_scored_apart():
    rows = [EEG, *MODALITIES]
    config = tiny_models.rq_config(modalities=rows)
    batch = tiny_models.token_batch(modalities=rows)
    variables = tiny_models.random_variables(config, batch)
    objective = tiny_models.make_objective(config)
    depth = variables["params"]["network"]["depth"]
    assert depth["ecg_head_bias"].shape == (2, 16)
    assert depth["ecg_timing_head_bias"].shape == (3, 41)
    assert "resp_head_bias" not in depth and depth["resp_timing_head_bias"].shape == (3, 41)
    for name, x in depth.items():
        if name.endswith(("head_kernel", "head_bias")):
            x[:] = 0
    axis = CodeAxis(tuple(objective.modalities))
    assert [(own.start, own.stop) for own in axis.timing] == [(2, 2), (4, 7), (7, 10)]
    loss = jax.jit(objective.apply)(variables, batch)
    metrics = {name: float(total / weight) for name, (total, weight) in loss.metrics.items()}
    of_tokens, of_timing = np.log(16), np.log(41)
    expected = {
        "loss/eeg_c3": of_tokens,
        "loss/ecg": (2 * of_tokens + 3 * of_timing) / 5,
        "loss/ecg_timing": of_timing,
        "loss/resp_abd": of_timing,
        "loss/resp_abd_timing": of_timing,
        "loss/level_0": of_tokens,
        "loss/level_1": of_tokens,
    }
    found = {name: x for name, x in metrics.items() if name.startswith("loss/")}
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_stream_makes_the_timing_codes_of_the_whole_recording(embedder, tmp_path):
    channels = prepared()
    codes = embedder.tokenize(channels)
    assert {name: x.shape for name, x in codes.items()} == {
        "ecg": (SECONDS, 5),
        "resp_abd": (SECONDS, 3),
    }
    expected = embedder.embed_codes(codes).modalities
    stream, rows, rng = Stream(embedder, RATES, mains_hz=None), [], np.random.default_rng(0)
    at = 0
    while at < SECONDS:
        stop = min(SECONDS, at + int(rng.integers(5, 40)))
        given = {n: x[at * RATES[n] : stop * RATES[n]] for n, x in signals().items()}
        rows += stream.push(given)
        stream.save(tmp_path / "state.npz")
        stream, at = Stream.restore(embedder, tmp_path / "state.npz"), stop
    rows += stream.close()
    assert len(rows) == SECONDS
    for name, own in expected.items():
        found = np.array([row.modalities[name] for row in rows])
        np.testing.assert_allclose(found, own.astype(np.float32), atol=4e-3)


@pytest.mark.slow
def test_generation_draws_timing_codes_and_decodes_the_others(embedder):
    made = generate(embedder, 6, modalities=["ecg"], temperature=1.0, top_p=1.0)
    assert made.codes["ecg"].shape == (6, 5)
    assert made.codes["ecg"][:, :2].max() < 16 < made.codes["ecg"][:, 2:].max() < 41
    assert made.signals["ecg"].shape == (6 * 128,)
    with pytest.raises(ModelError, match="resp_abd.*no waveform"):
        generate(embedder, 6)


def test_an_export_says_what_made_its_timing_codes(folder, embedder):
    model = load_model(folder / "export")
    assert model.config["modalities"] == MODALITIES and signal_types(model) == ["ecg"]
    assert (
        "`ecg`: last_interval, interval_before, since_beat"
        in (folder / "export" / CARD).read_text()
    )
    with pytest.raises(BundleError, match="ecg has timing levels"):
        modality(ECG)
    store = NightStore(folder / "tokens")
    embedder.check_tokens(store)
    store.modalities[0]["timing_by"] = "beats 0"
    with pytest.raises(ModelError, match="beats 0"):
        embedder.check_tokens(store)


def test_timing_levels_can_stand_alone(folder, tmp_path):
    tokenize_nights(folder / "nights", None, tmp_path / "tokens", timing=["ecg"])
    store = NightStore(tmp_path / "tokens")
    assert [(row["name"], row["levels"]) for row in store.modalities] == [("ecg", 3)]
    assert [night.recording for night in store.nights] == ["ecg-resp_abd"]  # the other has no ECG
    with pytest.raises(PipelineError, match="no code of a tokenizer"):
        open_source(store, split="train", seed=0)
