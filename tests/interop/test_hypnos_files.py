"""Bundles as files: what is written is read back bit for bit, and nothing damaged is trusted."""

import dataclasses
import json
import pathlib
import shutil
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from tiny_models import (
    random_variables,
    rq_config,
    rvq_config,
    signal_batch,
    token_batch,
    write_run,
    write_tokenizers,
)

from hypnos_jax.export.model import ModelError, load_model, make_model
from hypnos_jax.export.write import export, export_published
from hypnos_jax.inference.embed import Embedder


@pytest.fixture(scope="module")
def model():
    """A model of tokens with its tokenizers of the released alignment, as it is in memory."""
    tokenizers = {}
    for seed, group in enumerate(("eeg", "ecg", "resp")):
        config = rvq_config(group, 8, (4, 2))
        config["objective"]["model"]["strict_causal"] = False
        variables = random_variables(config, signal_batch(8), seed)
        state = variables["vq"]["tokenizer"]["quantizer"]
        state["counts"], state["usage"] = np.abs(state["counts"]), np.ones_like(state["usage"])
        state["initialised"][1] = state["sums"][1] = False  # a level that training has not reached
        tokenizers[group] = make_model(config, variables, 3, tokenizers={})
    config = rq_config(channel_rows=8)
    return make_model(config, random_variables(config, token_batch()), 3, tokenizers=tokenizers)


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "hypnos.safetensors"
    export_published(model, path, "hypnos")
    return path


@pytest.fixture
def bundle(written, tmp_path):
    return pathlib.Path(shutil.copy(written, tmp_path))


def rewrite(path, change=lambda tensors: None, edit=lambda config: None):
    """Write the file again with changed tensors, and an edited config."""
    with safetensors.safe_open(path, framework="numpy") as file:
        config = json.loads(file.metadata()["config"])
    tensors = safetensors.numpy.load_file(path)
    change(tensors)
    edited = edit(config)
    metadata = {"config": edited if isinstance(edited, str) else json.dumps(config)}
    safetensors.numpy.save_file(tensors, path, metadata=metadata)


def same(ours, theirs):
    equal = jax.tree.map(
        lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), ours.variables, theirs.variables
    )
    return all(jax.tree.leaves(equal))


def test_a_model_comes_back_bit_for_bit_with_its_tokenizers(model, bundle):
    back = load_model(bundle.parent)  # the folder will do
    assert same(model, back)
    assert back.config["modalities"] == model.config["modalities"]
    for name, tokenizer in model.tokenizers.items():
        tokenizer.variables["vq"]["tokenizer"]["quantizer"]["step"] *= 0  # not in the file
        assert same(tokenizer, load_model(back.tokenizers[name]))


def test_a_bundle_is_exported_as_a_folder_of_ours(bundle, tmp_path):
    loaded = load_model(bundle)
    folder = export(bundle, tmp_path / "export", programs=False)
    assert folder.checksum == loaded.checksum
    assert sorted(path.name for path in (tmp_path / "export" / "tokenizers").iterdir()) == [
        "ecg",
        "eeg",
        "resp",
    ]
    again = export_published(tmp_path / "export", tmp_path / "again.safetensors", "hypnos")
    assert again.checksum == loaded.checksum
    codes = {"ecg": np.random.default_rng(0).integers(0, 16, (40, 2))}
    one, other = (Embedder(model).embed_codes(codes) for model in (bundle, tmp_path / "export"))
    assert one.model == other.model
    np.testing.assert_array_equal(one.modalities["ecg"], other.modalities["ecg"])


def test_a_run_needs_its_tokenizers_and_the_released_layout(tmp_path):
    config = rq_config()
    write_run(tmp_path / "run", config, random_variables(config, token_batch()))
    with pytest.raises(ModelError, match=r"no tokenizer of \['ecg', 'eeg', 'resp'\]"):
        export_published(tmp_path / "run", tmp_path / "bundle.safetensors", "hypnos")
    write_tokenizers(tmp_path / "tokenizers")
    whole = {"tokenizers": tmp_path / "tokenizers"}
    made = export_published(tmp_path / "run", tmp_path / "bundle.safetensors", "hypnos", **whole)
    assert made.variables["params"]["network"]["channel_embedding"].shape == (8, 16)
    with pytest.raises(ModelError, match="is of rvq_reconstruction"):
        export_published(tmp_path / "tokenizers" / "ecg", tmp_path / "bundle.safetensors", "hypnos")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ModelError, match="notes.txt exists and is no file of hypnos"):
        export_published(tmp_path / "run", tmp_path / "notes.txt", "hypnos", **whole)
    export(tmp_path / "run", tmp_path / "export", programs=False)
    with pytest.raises(ModelError, match="no readable config"):
        load_model(tmp_path / "export" / "model.safetensors")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_tracks": True}, "use_tracks=True"),
        ({"depth_dim": 16}, "depth_dim=16 is dim"),
        ({"depth_dim": 16, "depth_tables": "backbone", "tie_heads": True}, "not both"),
    ],
)
def test_what_the_package_cannot_be_is_refused(model, tmp_path, options, message):
    config = rq_config(**options)
    variables = random_variables(config, token_batch())
    ours = make_model(config, variables, 3, tokenizers=model.tokenizers)
    with pytest.raises(ModelError, match=message):
        export_published(ours, tmp_path / "hypnos.safetensors", "hypnos")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_a_bundle_in_half_precision_is_read_as_what_it_holds(model, bundle, dtype):
    def halve(tensors):
        for name, x in tensors.items():
            tensors[name] = x.astype(dtype) if x.dtype == np.float32 else x

    rewrite(bundle, halve)
    params = jax.tree.map(lambda x: x.astype(dtype).astype(np.float32), model.variables["params"])
    assert same(dataclasses.replace(model, variables={"params": params}), load_model(bundle))


WEIGHT = "model/token_embeddings.ecg.1.weight"
USAGE = "tok/ecg/quantizer.quantizers.0.usage_count"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(WEIGHT), f"no tensor '{WEIGHT}'"),
        (lambda t: t.update({WEIGHT: t[WEIGHT][:3].copy()}), rf"'{WEIGHT}' is \[3, 16\]"),
        (lambda t: t.update({WEIGHT: t[WEIGHT].astype(int)}), f"'{WEIGHT}' is int64"),
        (lambda t: t.update({USAGE: t[USAGE][:3].copy()}), rf"'{USAGE}' is \[3\]"),
        (lambda t: t.update({"model/cls": np.zeros(1)}), "'model/cls' that its config"),
        (lambda t: t.update({"tok/ecg/x": np.zeros(1)}), "'tok/ecg/x' that its config"),
        (
            lambda t: t["model/temporal_transformer.rope.freqs"].fill(2),
            "rope.freqs' are not rotary positions",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(bundle, change, message):
    rewrite(bundle, change)
    with pytest.raises(ModelError, match=message):
        load_model(bundle)


def edit_model(**values):
    return lambda config: config["model_kwargs"].update(values)


def edit_tokenizer(**values):
    return lambda config: config["tokenizers"]["ecg"]["tokenizer_kwargs"].update(values)


def edit_row(**values):
    return lambda config: config["modalities"][2].update(values)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda config: "{", "no readable config"),
        (lambda config: "[]", "lacks"),
        (lambda config: config.pop("tokenizers") and None, r"lacks \['tokenizers'\]"),
        (lambda config: config.update(model_target="a.Mamba"), "model_target='a.Mamba'"),
        (edit_model(moe=8), "model_kwargs.moe=8 is not known"),
        (edit_model(qk_norm="yes"), "model_kwargs.qk_norm='yes' is not of the type"),
        (edit_model(use_cls=True), r"use_cls=True .* supported: \[False\]"),
        (edit_model(causal=False), r"causal=False .* supported: \[True\]"),
        (edit_model(temporal_heads=3), "heads=3 does not divide"),
        (edit_model(modality_loss_weights={"x": 1.0}), "has 'x', no modality"),
        (edit_model(embed_dim=32), "its config implies"),
        (edit_tokenizer(mode="vae"), r"mode='vae' .* supported: \['discrete'\]"),
        (edit_tokenizer(norm="batch"), "tokenizers.ecg.tokenizer_kwargs.norm='batch'"),
        (edit_tokenizer(activation="tanh"), "activation='tanh' .* supported: .*'elu'"),
        (edit_tokenizer(pad_mode="circular"), "pad_mode='circular'"),
        (edit_tokenizer(in_channels=2), "in_channels=2"),
        (edit_tokenizer(num_quantizers=3), "num_quantizers=3, but 2 for ecg"),
        (edit_row(channels=["Fz"]), "channels='Fz' .* supported: .*'C3'"),
        (edit_row(preprocess_modality="eeg"), "preprocess_modality='eeg'"),
        (edit_row(token_duration_sec=0.5), "token_duration_sec=0.5"),
        (edit_row(tokenizer="other"), "tokenizer='other' is not in tokenizers"),
        (edit_row(channels=["C3"], preprocess_modality="eeg"), "channel of two modalities"),
    ],
)
def test_a_config_that_cannot_be_represented_is_refused_by_name(bundle, edit, message):
    rewrite(bundle, edit=edit)
    with pytest.raises(ModelError, match=message):
        load_model(bundle)


def test_a_bundle_beside_a_run_does_not_hide_it(bundle, tmp_path):
    write_run(tmp_path / "run", rq_config(), random_variables(rq_config(), token_batch()))
    shutil.copy(bundle, tmp_path / "run" / "hypnos.safetensors")
    assert load_model(tmp_path / "run").checksum != load_model(bundle).checksum
    assert "checkpoints" in {path.name for path in (tmp_path / "run").iterdir()}


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_a_truncated_bundle_is_damaged(bundle, size):
    bundle.write_bytes(bundle.read_bytes()[:size])
    with pytest.raises(ModelError, match="damaged or no safetensors"):
        load_model(bundle)


def test_a_hub_repository_is_fetched_by_its_name(bundle, monkeypatch):
    asked = []

    def download(*names):
        asked.append(names)
        return str(bundle)

    hub = types.SimpleNamespace(hf_hub_download=download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    expected = load_model(bundle).checksum
    assert load_model("some-one/a.model").checksum == expected
    assert load_model("hf://some-one/a.model").checksum == expected
    assert asked == [("some-one/a.model", "hypnos.safetensors")] * 2

    def fail(*_):
        raise OSError("offline")

    hub.hf_hub_download = fail
    with pytest.raises(ModelError, match="some-one/a.model is no file or folder .* offline"):
        load_model("some-one/a.model")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelError, match=r"pip install 'hypnos_jax\[interop\]'"):
        load_model("some-one/a.model")
