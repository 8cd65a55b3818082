"""Checkpoints of the official sleep2vec code: its outputs, both directions, bad files."""

import subprocess
import sys
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from hypnos_jax import config as configs
from hypnos_jax import losses, plugins
from hypnos_jax.export.model import ModelError, load_model
from hypnos_jax.export.write import export, export_published
from hypnos_jax.interop import formats, sleep2vec

NAME = "sleep2vec_small"


@pytest.fixture(scope="module")
def tensors(parity):
    spec = parity.json(NAME)
    sizes = {"dim": spec["config"]["hidden"], "heads": spec["config"]["heads"]}
    found = parity.weights(spec["entries"]) | sleep2vec.derived(sizes)
    assert {name: list(x.shape) for name, x in found.items()} == {
        row["name"]: row["shape"] for row in spec["entries"]
    }
    return found


@pytest.fixture
def path(tensors, tmp_path):
    file = tmp_path / "towers.safetensors"
    safetensors.numpy.save_file(tensors, file)
    return file


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_the_outputs_are_those_of_the_official_code(parity, path):
    part, _ = sleep2vec.read(path)
    objective = dict(part.objective)
    golden, channels = parity.arrays(NAME), parity.json(NAME)["config"]["channels"]
    model = plugins.load("objectives", objective.pop("name"))(**configs.frozen(objective))
    network, towers = towers_of(part)
    assert model.model == configs.frozen(part.objective["model"])
    valid = jnp.asarray(np.arange(10)[None] < np.array([[10], [10], [7], [4]]))
    projected = {}
    for key, frames in channels.items():
        x = parity.wave(zlib.crc32(key.encode()) % 97, 4, 10, frames)
        i = network.index(sleep2vec.NAMES[key])
        close(network.apply(towers, x, i, method="tokenize"), golden[f"{key}/tokens"])
        hidden, _ = network.apply(towers, x, i, valid, method="encode")
        close(hidden, golden[f"{key}/hidden"])
        projected[key] = losses.unit(network.apply(towers, hidden, valid, method="project"))
    pair = [projected[key] for key in ("heartbeat", "spo2")]
    for key in ("heartbeat", "spo2"):
        close(projected[key], golden[f"projection/{key}"])
    options = {"temperature": 0.2, "weights": jnp.asarray(golden["loss_w"])}
    every = np.ones((4, 10), bool)
    costs = [losses.info_nce(*ways, every, **options)[0].mean() for ways in (pair, pair[::-1])]
    assert float(sum(costs) / 2) == pytest.approx(float(golden["loss"]), abs=1e-5)


def test_the_cls_token_stands_before_the_tokens_as_in_the_official_code(tensors, path, tmp_path):
    # There CLS is joined to the projected tokens at place 0, and always valid. So towers whose CLS
    # is the projection of a token do what towers without do where that token comes first.
    plain, x = sleep2vec.read(path)[0], np.ones((2, 5, 120), np.float32)
    x[:, 1:] = np.random.default_rng(0).standard_normal((2, 4, 120))
    valid = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)
    network, variables = towers_of(plain)
    i = network.index(sleep2vec.NAMES["heartbeat"])
    tokens = network.apply(variables, x, i, method="tokenize")
    expected, none = network.apply(variables, tokens, valid, method="contextualize")
    projected = tokens[0, 0] @ tensors["embedding_projection.weight"].T
    first = np.asarray(projected + tensors["embedding_projection.bias"])
    safetensors.numpy.save_file({**tensors, sleep2vec.CLS: first}, tmp_path / "cls.safetensors")
    with_cls = sleep2vec.read(tmp_path / "cls.safetensors")[0]
    network, variables = towers_of(with_cls)
    hidden, cls = network.apply(variables, tokens[:, 1:], valid[:, 1:], method="contextualize")
    assert none is None and with_cls.objective["model"]["cls"]
    close(cls, expected[:, 0])
    close(hidden[valid[:, 1:]], expected[:, 1:][valid[:, 1:]])


def towers_of(part):
    variables = {name: tree["towers"] for name, tree in part.variables.items()}
    return sleep2vec.ModalityTowers(**configs.frozen(part.objective["model"])), variables


@pytest.mark.parametrize("cls", [False, True])
def test_what_is_written_is_what_was_read(tensors, tmp_path, cls):
    extra = {sleep2vec.CLS: np.arange(48, dtype=np.float32)} if cls else {}
    safetensors.numpy.save_file(tensors | extra, tmp_path / "towers.safetensors")
    part, _ = sleep2vec.read(tmp_path / "towers.safetensors")
    sleep2vec.write(tmp_path / "again.safetensors", part)
    again = safetensors.numpy.load_file(tmp_path / "again.safetensors")
    assert again.keys() == (tensors | extra).keys()
    for name, x in (tensors | extra).items():
        np.testing.assert_array_equal(again[name], x)


def test_a_training_checkpoint_gives_its_averages(tensors, path, tmp_path):
    both = {f"model.{name}": np.zeros_like(x) for name, x in tensors.items()}
    both |= {f"ema_model.{name}": x for name, x in tensors.items()}
    safetensors.numpy.save_file(both, tmp_path / "both.safetensors")
    found = sleep2vec.read(tmp_path / "both.safetensors")[0].variables
    expected = sleep2vec.read(path)[0].variables
    np.testing.assert_array_equal(
        found["params"]["towers"]["input"]["kernel"],
        expected["params"]["towers"]["input"]["kernel"],
    )


def test_files_of_pytorch_are_read_without_running_them(tensors, path, tmp_path):
    torch = pytest.importorskip("torch")
    state = {f"model.{name}": torch.from_numpy(np.array(x)) for name, x in tensors.items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "last.ckpt")
    assert "torch" not in run("print('torch' in sys.modules)", tmp_path / "last.ckpt")
    found = sleep2vec.read(tmp_path / "last.ckpt")[0].variables
    expected = sleep2vec.read(path)[0].variables
    np.testing.assert_array_equal(
        found["params"]["towers"]["mask_embedding"], expected["params"]["towers"]["mask_embedding"]
    )

    class Hostile:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    torch.save({"state_dict": state, "extra": Hostile()}, tmp_path / "hostile.pt")
    with pytest.raises(sleep2vec.StateDictError, match="hostile.pt cannot be read as weights"):
        sleep2vec.read(tmp_path / "hostile.pt")
    assert not (tmp_path / "ran").exists()
    (tmp_path / "broken.pt").write_bytes(b"no checkpoint")
    with pytest.raises(sleep2vec.StateDictError, match="broken.pt cannot be read as weights"):
        sleep2vec.read(tmp_path / "broken.pt")


def run(code, path):
    """What some code prints after reading a checkpoint in a fresh process."""
    program = (
        f"import sys\nfrom hypnos_jax.interop import sleep2vec\nsleep2vec.read({str(path)!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", program + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.replace("False", "")


EEG = "tokenizer_mapping.eeg_original.hidden_layer.weight"
BIAS = "encoder.encoder.layer.1.attention.self.key.bias"


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda t: t.pop(BIAS), f"lacks the tensor '{BIAS}'"),
        (lambda t: t.pop(sleep2vec.ANGLES), "lacks the tensor 'encoder.encoder.embed_positions"),
        (lambda t: t.pop(sleep2vec.COUNTERS[0]), "lacks the tensor 'proj_head.bn1.num_batches"),
        (
            lambda t: t.update(cls=np.zeros(3, np.float32)),
            "'cls' of which the model knows nothing",
        ),
        (
            lambda t: t.update({BIAS: np.zeros(5, np.float32)}),
            rf"'{BIAS}' has shape \(5,\); \(48,\)",
        ),
        (lambda t: t.update({BIAS: np.full(48, np.nan, np.float32)}), f"'{BIAS}' holds NaN"),
        (lambda t: t.update({sleep2vec.ANGLES: t[sleep2vec.ANGLES] + 1}), "not the table of sines"),
        (
            lambda t: t.update({EEG.replace("eeg", "meg"): t.pop(EEG)}),
            "tokenizer of 'meg_original'",
        ),
    ],
)
def test_every_tensor_must_have_its_place(tensors, tmp_path, change, reason):
    changed = dict(tensors)
    change(changed)
    file = tmp_path / "changed.safetensors"
    safetensors.numpy.save_file(changed, file)
    with pytest.raises(sleep2vec.StateDictError, match=reason) as error:
        sleep2vec.read(file)
    assert "changed.safetensors" in str(error.value)


def test_what_the_format_does_not_have_is_not_written(path, tmp_path):
    part, _ = sleep2vec.read(path)
    rows = [{"name": "snore", "rate_hz": 4, "frames": 120}]
    changes = (
        ({"projection_depth": 3}, "model.projection_depth=3"),
        ({"modalities": rows}, "'snore' is"),
    )
    for change, reason in changes:
        objective = {**part.objective, "model": {**part.objective["model"], **change}}
        with pytest.raises(sleep2vec.StateDictError, match=reason):
            sleep2vec.write(tmp_path / "x", formats.Part(objective, part.variables))
    assert not list(tmp_path.glob("*x*"))


def test_models_go_out_and_come_back_by_the_commands_functions(path, tmp_path):
    model = load_model(path)
    assert model.config["objective"]["name"] == "dash_infonce"
    folder = export(path, tmp_path / "export", programs=False)
    assert folder.checksum == model.checksum
    again = export_published(tmp_path / "export", tmp_path / "x.safetensors", "sleep2vec")
    assert again.checksum == model.checksum
    with pytest.raises(ModelError, match="a file of hypnos is of a model of rq_next_token"):
        export_published(tmp_path / "export", tmp_path / "y.safetensors", "hypnos")
