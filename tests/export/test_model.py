"""Exports: the same bits back, the same checksum, and no damaged or foreign folder trusted."""

import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from tiny_models import make_objective, random_variables, rq_config, token_batch, write_run

from hypnos_jax.export.model import ModelError, load_model
from hypnos_jax.export.write import export


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    config = rq_config()
    write_run(workdir, config, random_variables(config, token_batch()))
    return workdir


@pytest.fixture
def exported(run, tmp_path):
    export(run, tmp_path / "model", programs=False)
    return tmp_path / "model"


def test_an_export_is_the_run_bit_for_bit(run, exported):
    ours, theirs = load_model(run), load_model(exported)
    same = jax.tree.map(
        lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), ours.variables, theirs.variables
    )
    assert all(jax.tree.leaves(same))
    assert ours.checksum == theirs.checksum
    assert theirs.step == 3
    embed = lambda model: model.objective.apply(model.variables, token_batch(), method="embed")
    assert np.array_equal(embed(ours).rows, embed(theirs).rows)


def test_an_export_is_read_without_this_package(exported):
    config = json.loads((exported / "config.json").read_text())
    tensors = safetensors.numpy.load_file(exported / "model.safetensors")
    assert set(tensors) == set(config["tensors"])
    assert all(name.startswith("params/") for name in tensors)
    assert config["objective"]["name"] == "rq_next_token"
    assert [row["name"] for row in config["channels"]] == ["eeg_c3", "eeg_c4", "ecg", "resp_abd"]
    assert config["channels"][3]["rate_hz"] == 32
    make_objective(config)


def test_exporting_again_replaces_the_export_and_nothing_else(run, exported, tmp_path):
    (exported / "stray").write_text("x")
    export(exported, exported, programs=False)
    files = ["README.md", "config.json", "model.safetensors", "run.json"]
    assert sorted(p.name for p in exported.iterdir()) == files
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(ModelError, match="is no export"):
        export(run, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").exists()


def rewrite(folder, change):
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    change(tensors)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")


BIAS = "params/network/backbone/final_norm/norm/bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(BIAS), f"model.safetensors has no tensor '{BIAS}'"),
        (lambda t: t.update({BIAS: t[BIAS][:3].copy()}), rf"'{BIAS}' is float32 \[3\]"),
        (lambda t: t.update({BIAS: t[BIAS].astype(np.float16)}), "is float16"),
        (lambda t: t.update({BIAS: t[BIAS] + 1}), "was changed"),
        (lambda t: t.update({"params/more": np.zeros(1)}), "'params/more' that config.json"),
    ],
)
def test_changed_tensors_are_named(exported, change, message):
    rewrite(exported, change)
    with pytest.raises(ModelError, match=message):
        load_model(exported)


def test_a_flipped_bit_is_found(exported):
    path = exported / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 4
    path.write_bytes(data)
    with pytest.raises(ModelError, match="checksum"):
        load_model(exported)


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_a_truncated_file_is_damaged(exported, size):
    path = exported / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ModelError, match="model.safetensors is damaged"):
        load_model(exported)


def test_a_changed_objective_is_found(exported):
    path = exported / "config.json"
    config = json.loads(path.read_text())
    config["objective"]["model"]["heads"] = 4
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="checksum"):
        load_model(exported)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not the config"),
        ("[]", "is not the config"),
        ('{"format": "other/9"}', "reads 'hypnos_jax.model/1'"),
        ('{"format": "hypnos_jax.model/1"}', "lacks"),
    ],
)
def test_a_foreign_config_is_refused(exported, text, message):
    (exported / "config.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        load_model(exported)


def test_folders_without_a_model_say_so(exported, tmp_path):
    with pytest.raises(ModelError, match="not a folder"):
        load_model(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="holds no model"):
        load_model(tmp_path / "empty")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ModelError, match="no complete checkpoint"):
        load_model(tmp_path / "run")
    (exported / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="model.safetensors is missing"):
        load_model(exported)


def test_a_step_is_chosen(run, exported, tmp_path):
    export(run, tmp_path / "third", step=3, programs=False)
    assert load_model(tmp_path / "third").checksum == load_model(exported).checksum
    with pytest.raises(ModelError, match="checkpoints/2 cannot be trusted"):
        export(run, tmp_path / "second", step=2)
    with pytest.raises(ModelError, match="no run's workdir, so it has no step 3"):
        export(exported, tmp_path / "again", step=3)


def test_a_damaged_checkpoint_is_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match="no complete checkpoint"):
        load_model(tmp_path / "run")


def test_two_tokenizers_of_a_type_are_not_guessed_between(run, tmp_path):
    for name in ("eeg", "eeg-old"):
        (tmp_path / "tokenizers" / name).mkdir(parents=True)
        config = {"objective": {"name": "rvq_reconstruction", "signal_type": "eeg"}}
        (tmp_path / "tokenizers" / name / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="eeg-old are both tokenizers of eeg"):
        export(run, tmp_path / "model", tokenizers=tmp_path / "tokenizers")


def test_missing_tokenizers_are_named(run, tmp_path):
    (tmp_path / "tokenizers").mkdir()
    with pytest.raises(ModelError, match=r"no tokenizer for \['ecg', 'eeg', 'resp'\]"):
        export(run, tmp_path / "model", tokenizers=tmp_path / "tokenizers")
    assert not (tmp_path / "model").exists()
