"""Bundles against the published package itself, in both directions."""

import datetime
import functools

import jax
import numpy as np
import pytest
from tiny_models import (
    MODALITIES,
    make_objective,
    random_variables,
    rq_config,
    rvq_config,
    signal_batch,
    token_batch,
)

from data_pipelines.recordings.edf_writer import EdfSignal, write_edf
from hypnos_jax.export.model import load_model, make_model
from hypnos_jax.export.write import export_published
from hypnos_jax.inference.embed import Embedder, embed_recording
from hypnos_jax.inference.tokenizer import Tokenizer
from hypnos_jax.models.rvq_tokenizer import RvqTokenizer

published = pytest.importorskip(
    "published",
    reason="could not import 'hypnos': to compare with it, pip install torch==2.13.0 "
    "pyedflib==0.1.42; pip install --no-deps hypnos==0.1.0",
)
S = 20  # seconds
DRAWS = range(47, 59)  # seeds of random configurations: the first twelve with every choice
QUICK = {52}  # of them, in a twentieth of the time


def assert_same_codes(ours, theirs, latents, books):
    """Codes [B, S, K] agree, but for a few where two codewords are equally near to within 1e-5."""
    assert (ours != theirs).any(-1).mean() < 0.01
    for row, second in np.argwhere((ours != theirs).any(-1)):
        left = latents[row, second]
        for k, book in enumerate(books):
            a, b = ours[row, second, k], theirs[row, second, k]
            near = [np.sum((left - book[code]) ** 2) for code in (a, b)]
            size = max(*near, np.sum(left**2))  # distances are differences of such terms
            assert abs(near[0] - near[1]) <= 1e-5 * size, (row, second, k)
            if a != b:
                break  # what is left from here on differs
            left = left - book[a]


def compare_tokenizer(ours, theirs, seed=0):
    """Codes and decoded signals of a loaded tokenizer and the package's."""
    network = RvqTokenizer(**ours.objective.model)
    inner = {name: tree["tokenizer"] for name, tree in ours.variables.items()}
    x = np.random.default_rng(seed).normal(size=(2, S * network.hop)).astype(np.float32)

    @jax.jit
    def both(variables, x):
        codes = network.apply(variables, x, method="encode")
        return codes, network.apply(variables, codes, method="decode")

    codes, signal = map(np.asarray, both(inner, x))
    latents, expected = published.encode(theirs, x)
    assert_same_codes(codes, expected, latents, published.codebooks(theirs))
    decoded = published.decode(theirs, codes)
    np.testing.assert_allclose(signal, decoded, atol=1e-4 * np.abs(decoded).max())
    return codes


def random_batch(rows, seed=0):
    """Codes of a model's modalities, in rows with some of the modalities, the first with all."""
    rng = np.random.default_rng(seed)
    present = rng.random((3, len(rows))) < 0.7
    present[0] = True
    codes = [rng.integers(0, row["codes"], (3, S, row["levels"])) for row in rows]
    return {
        **token_batch(3, S, rows),
        "codes": np.concatenate(codes, -1).astype(np.int32),
        "present": present,
        "channel_ids": np.tile([row["channel_id"] for row in rows], (3, 1)).astype(np.int32),
    }


def compare_model(ours, theirs, seed=0):
    """Loss and embeddings of a loaded model and the package's."""
    batch = random_batch(ours.config["modalities"], seed)

    @jax.jit
    def both(variables, batch):
        loss = ours.objective.apply(variables, batch)
        return loss.total / loss.weight, ours.objective.apply(variables, batch, method="embed").rows

    loss, embedded = both(ours.variables, batch)
    expected_loss, context = published.run(theirs, batch)
    assert float(loss) == pytest.approx(expected_loss, rel=1e-5)
    for i in range(len(ours.config["modalities"])):
        here = batch["present"][:, i]
        np.testing.assert_allclose(embedded[here, :, i], context[here, i], atol=1e-4)


@pytest.mark.parametrize(
    "seed", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in DRAWS]
)
def test_a_published_model_answers_the_same_and_goes_back_unchanged(tmp_path, seed):
    config = published.draw_config(seed)
    model, tokenizers = published.build(config, seed)
    path = tmp_path / "hypnos.safetensors"
    published.save(path, config, model, tokenizers, every_name=seed % 2 == 0)
    ours = load_model(path)
    compare_model(ours, model, seed)
    stems = {row["name"]: row["tokenizer"] for row in config["modalities"]}
    there = {row["group"]: tokenizers[stems[row["name"]]] for row in ours.config["modalities"]}
    for group, tokenizer in ours.tokenizers.items():
        codes = compare_tokenizer(tokenizer, there[group], seed)
        assert len(np.unique(codes)) > 3

    again = export_published(ours, tmp_path / "again.safetensors", "hypnos")
    assert again.checksum == ours.checksum
    before, after = (published.load(tmp_path / f"{x}.safetensors") for x in ("hypnos", "again"))
    pairs = [(before[0], after[0]), *((before[1][name], after[1][name]) for name in before[1])]
    for one, other in pairs:
        one, other = published.weights(one), published.weights(other)
        assert set(one) == set(other)
        for name, x in one.items():
            if "rope" not in name:  # its tables are made anew
                np.testing.assert_array_equal(other[name], x, err_msg=name)
    # and so are windows, paddings and whatever else no tensor tells
    batch = random_batch(ours.config["modalities"], seed)
    (loss, context), (other, theirs) = (published.run(x[0], batch) for x in (before, after))
    assert other == pytest.approx(loss, rel=1e-5)
    here = batch["present"]
    np.testing.assert_allclose(theirs[here], context[here], atol=1e-4)
    for name, tokenizer in before[1].items():
        x = np.random.default_rng(seed).normal(size=(2, S * tokenizer.samples_per_token))
        latents, codes = published.encode(tokenizer, x.astype(np.float32))
        _, others = published.encode(after[1][name], x.astype(np.float32))
        assert_same_codes(others, codes, latents, published.codebooks(tokenizer))
        signals = [published.decode(own, codes) for own in (tokenizer, after[1][name])]
        np.testing.assert_allclose(signals[1], signals[0], atol=1e-4 * np.abs(signals[0]).max())


def test_the_draws_above_hold_every_choice_that_there_is():
    def choices(seeds):
        found = set()
        for config in map(published.draw_config, seeds):
            weights = config["model_kwargs"].pop("modality_loss_weights", None)
            found.add(("weights", weights is None))
            specs = config["tokenizers"].values()
            rows = [config["model_kwargs"], *(spec["tokenizer_kwargs"] for spec in specs)]
            found |= {(key, str(value)) for row in rows for key, value in row.items()}
            found |= {("name", row["name"]) for row in config["modalities"]}
        return found

    assert choices(DRAWS) == choices(range(300))


def tiny_tokenizers(**options):
    """Tokenizers of all that ``MODALITIES`` needs, as loaded models."""
    out = {}
    for seed, group in enumerate(("eeg", "ecg", "resp")):
        config = rvq_config(group, 8, (4, 2))
        config["objective"]["model"] |= options
        variables = random_variables(config, signal_batch(8), seed)
        variables["vq"]["tokenizer"]["quantizer"]["counts"][:] = 2
        out[group] = make_model(config, variables, 3, tokenizers={})
    return out


OURS = [
    {"tie_heads": True, "modality_every": 0},
    {"depth_tables": "projected", "ffn": "gelu", "wide_every": 0, "masking": "isolate"},
    {"depth_tables": "backbone", "depth_dim": 16, "ffn_dim": 21, "depth_ffn_dim": 19, "xsa": True},
]


@pytest.mark.parametrize(
    "options", [pytest.param(OURS[0], marks=pytest.mark.slow), *OURS[1:]], ids=str
)
def test_a_model_made_here_answers_the_same_in_the_package(tmp_path, options):
    config = rq_config(**options)
    config["objective"]["modality_weights"] = [["ecg", 3.0]]
    tokenizers = tiny_tokenizers(strict_causal=False)
    ours = make_model(config, random_variables(config, token_batch()), 3, tokenizers=tokenizers)
    export_published(ours, tmp_path / "hypnos.safetensors", "hypnos")
    model, theirs, meta = published.load(tmp_path)
    assert [row.name for row in meta.modalities] == [row["name"] for row in MODALITIES]
    compare_model(ours, model)
    if options is OURS[0]:
        compare_tokenizer(tokenizers["resp"], theirs["resp_abd"])


def train(config, steps=6):
    """A tokenizer after some steps of gradient descent on noise, its codebooks in use."""
    objective = make_objective(config)
    variables = random_variables(config, signal_batch(8))
    variables["vq"] = jax.tree.map(np.zeros_like, variables["vq"])
    keys = {name: jax.random.key(0) for name in objective.rng_streams}

    @jax.jit
    def step(variables, signal):
        def loss(params):
            batch = {**signal_batch(8, 4, S), "signal": signal}
            state = {**variables, "params": params}
            out, new = objective.apply(state, batch, train=True, rngs=keys, mutable=["vq"])
            return out.total / out.weight, new

        grads, new = jax.grad(loss, has_aux=True)(variables["params"])
        params = jax.tree.map(lambda x, g: x - 0.01 * g, variables["params"], grads)
        return {"params": params, **new}

    for i in range(steps):
        signal = np.random.default_rng(i).normal(size=(4, S * 8)).astype(np.float32)
        variables = step(variables, signal)
    return jax.tree.map(np.asarray, variables)


@pytest.mark.slow
def test_a_strict_tokenizer_is_written_but_for_its_first_seconds(tmp_path, caplog):
    """What it sees is what the released alignment sees of the signal one sample later."""
    tokenizers = tiny_tokenizers()
    config = rvq_config("ecg", 8, (4, 2))
    tokenizers["ecg"] = make_model(config, train(config), 6, tokenizers={})
    config = rq_config()
    ours = make_model(config, random_variables(config, token_batch()), 3, tokenizers=tokenizers)
    export_published(ours, tmp_path / "hypnos.safetensors", "hypnos")
    assert "first" in caplog.text and "of a recording" in caplog.text
    _, theirs, _ = published.load(tmp_path)
    tokenizer = Tokenizer(tokenizers["ecg"])
    signal = np.random.default_rng(9).normal(size=(2, 200 * 8)).astype(np.float32)
    codes = tokenizer.encode(signal)
    assert len(np.unique(codes)) > 8  # training did start the codebooks
    latents, expected = published.encode(theirs["ecg"], signal)
    later = slice(tokenizer.reach, None)
    assert_same_codes(
        codes[:, later], expected[:, later], latents[:, later], published.codebooks(theirs["ecg"])
    )
    away = np.abs(tokenizer.latents(signal) - latents).max(-1) / np.abs(latents).max()
    assert away[:, later].max() < 1e-4
    assert away.max() > 1e-2  # the seconds that the warning is about
    decoded = published.decode(theirs["ecg"], codes.astype(int))
    apply = jax.jit(functools.partial(tokenizers["ecg"].objective.apply, method="decode"))
    np.testing.assert_allclose(
        apply(tokenizers["ecg"].variables, codes.astype(np.int32)),
        decoded,
        atol=1e-4 * np.abs(decoded).max(),
    )


LABELS = {"C3-M2": ("eeg_c3", "uV", 128), "ECG": ("ecg", "uV", 200), "ABD": ("resp_abd", "", 32)}


def write_recording(path, seconds=120):
    """Noise, beats and breaths, of which each channel is what its label says."""
    rng = np.random.default_rng(0)
    signals = []
    for label, (_, unit, rate_hz) in LABELS.items():
        t = np.arange(seconds * rate_hz) / rate_hz
        samples = 20 * rng.standard_normal(len(t))
        if label == "ECG":
            samples += 1000 * (np.mod(t, 0.9) < 0.03)
        if label == "ABD":
            samples = np.sin(2 * np.pi * 0.25 * t) + 0.001 * samples
        largest = 2 * np.abs(samples).max()
        signals.append(EdfSignal(label, unit, rate_hz, samples, -largest, largest))
    write_edf(path, signals, datetime.datetime(1985, 1, 1, 22))


def test_a_recording_is_embedded_as_the_package_embeds_it(tmp_path):
    sizes = {"n_filters": 2, "n_residual_layers": 1, "num_quantizers": 2, "codebook_size": 16}
    sizes |= {"embed_dim": 8, "attention_depth": 1, "window_size": 8, "pad_mode": "constant"}
    sizes |= {"in_channels": 1, "causal": True, "attention_heads": 2}
    config = published.draw_config(0) | {"modalities": [], "tokenizers": {}}
    config["model_kwargs"] |= {"sliding_window": 8, "modality_loss_weights": None}
    for name, rate_hz, ratios in (
        ("eeg_c3", 128, [4, 4, 4, 2]),
        ("ecg", 128, [4, 4, 4, 2]),
        ("resp_abd", 32, [4, 4, 2]),
        ("resp_thx", 32, [4, 4, 2]),
    ):
        published.add_modality(config, name, sample_rate=rate_hz, ratios=ratios, **sizes)
    bundle = published.save(tmp_path / "hypnos.safetensors", config, *published.build(config))
    write_recording(tmp_path / "night.edf")
    expected, codes = published.embed_edf(tmp_path / "night.edf", bundle)
    embedder = Embedder(bundle)
    ours = embed_recording(embedder, tmp_path / "night.edf", mains_hz=50)
    assert set(ours.modalities) == set(expected) == {name for name, _, _ in LABELS.values()}
    for name, rows in expected.items():
        np.testing.assert_allclose(ours.modalities[name], rows, atol=2e-3, rtol=2e-3)
