"""Checkpoints of the official SleepLM code: its outputs, both directions, bad files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from hypnos_jax import config as configs
from hypnos_jax.interop import formats, sleeplm
from hypnos_jax.interop.sleeplm_names import copies, frequencies
from hypnos_jax.models.sleep_language_model import SleepLanguageModel

NAME = "sleeplm_small"
SIZES = {"width": 64, "heads": 4, "blocks": 2}


@pytest.fixture(scope="module")
def tensors(parity):
    spec = parity.json(NAME)
    found = parity.weights([row for row in spec["entries"] if "alias_of" not in row])
    freqs = found["biosignals.shared_channel_rope.freqs"]
    found |= frequencies(SIZES) | dict.fromkeys(copies(SIZES), freqs)
    assert {name: list(x.shape) for name, x in found.items()} == {
        row["name"]: row["shape"] for row in spec["entries"]
    }
    return found


@pytest.fixture
def path(tensors, tmp_path):
    file = tmp_path / "sleeplm.safetensors"
    safetensors.numpy.save_file(tensors, file)
    return file


def close(found, expected, of=1e-5):
    np.testing.assert_allclose(found, expected, atol=of * np.abs(expected).max(), rtol=0)


def test_the_outputs_are_those_of_the_official_code(parity, path):
    part, _ = formats.recognise(path).read(path)
    assert part.recipe == "sleeplm" and part.objective["model"]["legacy_mask"]
    golden = parity.arrays(NAME)
    model = SleepLanguageModel(**configs.frozen(part.objective["model"]))

    def everything(network, x, ids, conditions):
        x = jnp.concatenate([x, x[:1].at[:, 3].set(0)])  # a channel of zeros
        embedding, memory = network.encode_signals(x)
        text, hidden = network.encode_text(ids)
        twice = jnp.concatenate([hidden[:, :-1]] * 2)
        asked = jnp.concatenate([conditions, jnp.full((2, 2), -1)])
        made = network.decode_hidden(twice, jnp.concatenate([memory[:2]] * 2), asked)
        made, bare = made[:2], made[2:]
        cost = network.caption_cost(made, ids[:, 1:])
        return {
            "embedding": embedding,
            "memory": memory,
            "text": text,
            "hidden": hidden,
            "logits": network.logits(made),
            "bare": network.logits(bare),
            "cost": cost[0].sum() / (ids[:, 1:] != 0).sum(),
            "reconstruction": network.reconstruct_signals(memory),
            "scale": jnp.exp(network.logit_scale),
        }

    variables = {"params": part.variables["params"]["network"]}
    given = [golden[name] for name in ("x", "ids", "conditions")]
    found = jax.jit(lambda *given: model.apply(variables, *given, method=everything))(*given)
    close(found["memory"][:2], golden["memory"])
    close(found["embedding"][:2], golden["signal_embedding"])
    close(found["memory"][2:], golden["zero_channel/memory"])
    close(found["embedding"][2:], golden["zero_channel/signal_embedding"])
    close(found["text"], golden["text_embedding"])
    close(found["hidden"], golden["text_hidden"])
    close(found["logits"][:, :12, :200], golden["decoder_logits"])
    close(found["bare"][:, :12, :200], golden["decoder_logits_all_padding_condition"])
    whole = jax.nn.logsumexp(found["logits"], axis=-1)
    close(whole, golden["decoder_logits_logsumexp"])
    close(found["cost"], golden["caption_loss"])
    close(found["reconstruction"][:2], golden["reconstruction"])
    close(found["reconstruction"][2:, :, ::16], golden["zero_channel/reconstruction_every16"])
    close(found["scale"], golden["logit_scale_exp"])


def test_what_is_written_is_what_was_read(tensors, path, tmp_path):
    part, _ = sleeplm.read(path)
    sleeplm.write(tmp_path / "again.safetensors", part)
    again = safetensors.numpy.load_file(tmp_path / "again.safetensors")
    assert again.keys() == tensors.keys()
    for name, x in tensors.items():
        np.testing.assert_array_equal(again[name], x)


def test_a_checkpoint_may_lack_the_part_that_rebuilds_signals_and_nothing_else(
    tensors, tmp_path, caplog
):
    def read(found):
        safetensors.numpy.save_file(found, tmp_path / "m.safetensors")
        return sleeplm.read(tmp_path / "m.safetensors")[0]

    released = {n: x for n, x in tensors.items() if not n.startswith("signal_decoder.")}
    part = read({f"module.{name}": x for name, x in released.items()})
    assert not part.objective["model"]["reconstruct"]
    assert "signal_decoder" not in part.variables["params"]["network"]
    for name in ("text.cls_emb", "signal_decoder.to_signal.0.bias", "channel_embeddings"):
        with pytest.raises(formats.FormatError, match=name):
            read({n: x for n, x in tensors.items() if n != name})
    with pytest.raises(formats.FormatError, match="stranger"):
        read(tensors | {"stranger": np.zeros(3, np.float32)})
    (shared, *_) = copies(SIZES)
    with pytest.raises(formats.FormatError, match="share"):
        read(tensors | {shared: tensors[shared] + 1})


@pytest.mark.slow
def test_a_file_of_pytorch_is_read(tensors, tmp_path):
    torch = pytest.importorskip("torch")
    file = tmp_path / "model_checkpoint.pt"
    wrapped = {f"module.{name}": torch.from_numpy(np.array(x)) for name, x in tensors.items()}
    torch.save({"epoch": 3, "state_dict": wrapped}, file)
    part, _ = formats.recognise(file).read(file)
    words = part.variables["params"]["network"]["text"]["words"]
    np.testing.assert_array_equal(words, tensors["text.token_embedding.weight"])
