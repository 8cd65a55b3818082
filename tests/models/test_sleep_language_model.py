"""The network of SleepLM: counts of parameters, and numbers that the official modules gave."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from hypnos_jax.interop.hypnos_names import Entry
from hypnos_jax.interop.sleeplm import variable_shapes
from hypnos_jax.interop.sleeplm_names import FREQS, cut, entries, joined
from hypnos_jax.models.sleep_language_model import SleepLanguageModel

TEN = tuple({"name": f"c{i}", "rate_hz": 64, "frames": 1920} for i in range(10))
SMALL = {
    "modalities": TEN[:3],
    "width": 8,
    "heads": 2,
    "patch": 4,
    "conv_dim": 6,
    "blocks": 1,
    "memory_tokens": 2,
    "embed_dim": 5,
    "text_layers": 1,
    "decoder_layers": 1,
    "vocab_size": 11,
    "context": 6,
    "reconstruct": False,
    "legacy_mask": True,
}


def test_the_published_sizes_have_the_published_counts():
    counts = {"": 0, "signals": 0, "text": 0, "decoder": 0, "signal_decoder": 0}
    for name, shape in variable_shapes({"modalities": TEN}).items():
        part = name.split("/")[2]
        counts["" if part == "logit_scale" else part] += math.prod(shape)
    assert sum(counts.values()) == 402_549_409
    assert counts["signal_decoder"] == 17_141_376
    assert (counts["signals"], counts["text"]) == (53_736_480, 123_592_704)
    assert counts["decoder"] - 5 * 768 - 768 == 208_074_240  # its conditions are counted apart


def by_rule(name, x):
    """The fill of the worked example, in the layout of the official code."""
    if name == FREQS:
        return np.array([0.1, -0.2], np.float32)
    if "norm" in name or "ln_" in name:
        return np.full(x.shape, float(name.endswith("weight")), np.float32)
    if name.endswith("bias"):
        return np.zeros(x.shape, np.float32)
    if name == "channel_embeddings":
        return 0.1 * np.arange(1, 1 + x.size, dtype=np.float32).reshape(x.shape)
    return (0.2 * np.sin(np.arange(1.0, 1 + x.size))).reshape(x.shape).astype(np.float32)


def test_the_numbers_are_those_of_the_official_modules():
    own: list[Entry] = list(entries(SMALL))
    flat = {name: np.zeros(shape, np.float32) for name, shape in variable_shapes(SMALL).items()}
    theirs = joined({entry.theirs: entry.give(flat[entry.ours]) for entry in own})
    filled = cut({name: by_rule(name, x) for name, x in theirs.items()})
    for entry in own:
        entry.take(filled[entry.theirs], flat[entry.ours])
    params = {}
    for name, x in flat.items():
        *path, last = name.split("/")[2:]
        place = params
        for key in path:
            place = place.setdefault(key, {})
        place[last] = x

    def everything(network, signals, ids):
        text, hidden = network.text(ids)
        memory = network.signals(signals)[1]
        made = network.decode_hidden(hidden[:, :-1], memory, jnp.array([[0, 1]]))
        shown = jnp.array([[True, True, False]])
        masked = [network.encode_signals(x, shown)[1] for x in (signals, signals.at[:, 2].add(3))]
        return text, hidden, memory, network.logits(made), masked

    network = SleepLanguageModel(**SMALL)
    signals = np.cos(0.3 * np.arange(48, dtype=np.float32)).reshape(1, 3, 16)
    ids = np.array([[9, 3, 10, 0, 0, 0]])
    found = jax.jit(lambda *given: network.apply({"params": params}, *given, method=everything))(
        jnp.asarray(signals), ids
    )
    text, hidden, memory, logits, (first, second) = found

    def close(found, *expected):
        printed = 5e-7  # the last of six decimals
        atol = 1e-5 * np.abs(expected).max() + printed
        np.testing.assert_allclose(found, expected, atol=atol, rtol=0)

    close(
        memory[0, 0],
        *(0.011372, -0.036479, -0.000757, 0.036699, -0.009923, -0.033812, 0.019762, 0.028061),
    )
    close(text[0], -0.967283, -0.829193, 0.071253, 0.906190, 0.907980)
    close(
        hidden[0, 1],
        *(0.065651, -0.118269, 0.022912, 0.145370, -0.055988, -0.104610, 0.157285, 0.152177),
    )
    close(logits[0, 0, :6], 0.591235, -0.313064, -0.929533, -0.691394, 0.182410, 0.888507)
    close(logits[0, 2, :4], -0.232460, -0.592291, -0.407572, 0.151867)
    np.testing.assert_array_equal(first, second)  # nobody looks at a channel that is not shown
    assert np.abs(first - memory).max() > 1e-4
