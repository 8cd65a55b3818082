"""Captions written with a cache beside the whole prefix passed again; beams; a grammar."""

import itertools

import flax.linen as nn
import jax
import numpy as np
import pytest

from data_pipelines.captions import automaton
from data_pipelines.captions.vocabulary import closed
from hypnos_jax.inference.caption_decoding import CaptionWriter, Decoding, Grammar
from hypnos_jax.models.sleep_language_model import SleepLanguageModel

ROWS = tuple({"name": f"c{i}", "rate_hz": 64, "frames": 1920} for i in range(2))
SOT, EOT, ROW_COUNT = 1, 2, 3
SIZES = {
    "width": 8,
    "heads": 2,
    "patch": 480,
    "conv_dim": 4,
    "blocks": 1,
    "memory_tokens": 3,
    "embed_dim": 4,
    "text_layers": 1,
    "decoder_layers": 1,
    "reconstruct": False,
}
CONDITIONS = np.array([[0, -1], [4, 2], [-1, -1]])


def made(**options):
    """A network with large weights at random, its variables, and memories."""
    network = SleepLanguageModel(ROWS, **SIZES, **options)
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), method="whole"))
    rng = np.random.default_rng(5)
    variables = jax.tree.map(
        lambda x: rng.normal(0, 0.7, x.shape).astype(np.float32), nn.unbox(shapes)
    )
    return network, variables, rng.normal(size=(ROW_COUNT, 3, 8)).astype(np.float32)


def whole_prefix(network, variables):
    """A function of ids [B, X] that gives all log-probabilities, without any cache."""

    def call(network, ids, memory):
        hidden = network.encode_text(ids)[1]
        return network.logits(network.decode_hidden(hidden, memory, CONDITIONS))

    return jax.jit(
        lambda ids, memory: jax.nn.log_softmax(network.apply(variables, ids, memory, method=call))
    )


def test_greedy_with_a_cache_is_the_whole_prefix_again():
    network, variables, memory = made(vocab_size=11, context=9)
    writer = CaptionWriter(network, Decoding(SOT, EOT, shortest=4))
    found, scores = writer(variables, memory, CONDITIONS)
    for legacy_mask in (False, True):
        again = whole_prefix(network.clone(legacy_mask=legacy_mask), variables)
        ids, total = greedily(again, memory)
        np.testing.assert_array_equal(found, ids)
        np.testing.assert_allclose(scores, total, rtol=1e-4)


def greedily(again, memory):
    """The likeliest words one by one, and their log-probability."""
    ids, done, total = np.zeros((3, 9), np.int32), np.zeros(3, bool), np.zeros(3)
    ids[:, 0] = SOT
    for place in range(1, 9):
        logp = np.array(again(ids, memory)[:, place - 1])
        logp[:, [0, SOT]] = -np.inf
        if place < 4:
            logp[:, EOT] = -np.inf
        word = logp.argmax(1) if place < 8 else np.full(3, EOT)
        ids[:, place] = np.where(done, 0, word)
        total += np.where(done, 0, logp[np.arange(3), word])
        done |= word == EOT
    return ids, total


def test_enough_beams_find_the_best_of_all_captions():
    network, variables, memory = made(vocab_size=6, context=4)
    found, scores = CaptionWriter(network, Decoding(SOT, EOT, beams=13))(
        variables, memory, CONDITIONS
    )
    again, best = whole_prefix(network, variables), [(-np.inf,)] * 3
    for count in (0, 1, 2):
        for words in itertools.product((3, 4, 5), repeat=count):
            ids = np.zeros((3, 4), np.int32)
            ids[:, : count + 2] = SOT, *words, EOT
            logp = np.asarray(again(ids, memory))
            for row in range(3):
                total = sum(logp[row, i, ids[row, i + 1]] for i in range(count + 1))
                best[row] = max(best[row], (total / (count + 1) ** 0.6, total, tuple(ids[row])))
    assert [tuple(row) for row in found] == [row[2] for row in best]
    np.testing.assert_allclose(scores, [row[1] for row in best], rtol=1e-4)


def test_a_grammar_keeps_any_model_to_valid_captions():
    words = closed()
    network, variables, memory = made(vocab_size=words.size, context=48)
    rules = automaton.automaton("stage_event")
    grammar = Grammar(rules.tables, rules.start(), automaton.allowed, automaton.advance)
    writer = CaptionWriter(network, Decoding(words.sot, words.eot, beams=2), grammar)
    for ids in writer(variables, memory, CONDITIONS)[0]:
        assert rules.accepts(words.decode(ids)), words.decode(ids)


def test_options_that_exclude_each_other_are_refused():
    network = SleepLanguageModel(ROWS, **SIZES, vocab_size=6, context=4)
    with pytest.raises(ValueError, match="context of 4"):
        CaptionWriter(network, Decoding(SOT, EOT, length=5))
    with pytest.raises(ValueError, match="official"):
        CaptionWriter(network, Decoding(SOT, EOT, beams=3, official=True))
