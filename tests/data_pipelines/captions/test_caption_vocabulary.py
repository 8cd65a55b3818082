"""Integers of captions and back: the closed vocabulary and the published byte-pair encoding."""

import gzip
import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spoken_facts import FULL, facts

from data_pipelines.captions.clip_tokenizer import SIZE, ClipTokenizer
from data_pipelines.captions.facts import MODALITIES
from data_pipelines.captions.grammar import render
from data_pipelines.captions.parse import parse
from data_pipelines.captions.vocabulary import Vocabulary

WORDS = Vocabulary()
EVERY = (*MODALITIES, "global")


def test_the_list_never_changes():
    # A change of the list makes every exported model of captions one of another vocabulary.
    assert (WORDS.size, WORDS.pad, WORDS.sot, WORDS.eot) == (321, 0, 1, 2)
    assert WORDS.identity == "3a1768d5682031670d04c6656dff2661286c1dd79ca7d2d70999d2208dda00d7"


@settings(max_examples=40, deadline=None)
@given(facts(), st.sampled_from(EVERY), st.integers(0, 10_000), st.booleans())
def test_captions_survive(facts, modality, epoch, trains):
    mode = "train" if trains else "reference"
    caption = render(facts, modality, recording="r", epoch=epoch, mode=mode)
    ids = WORDS.encode(caption, 500)
    assert WORDS.unknown not in ids
    assert WORDS.decode(ids) == str(caption)
    np.testing.assert_array_equal(WORDS.encode(str(caption).upper(), 500), ids)


def test_too_long_a_caption_loses_whole_sentences():
    caption = render(FULL, "brain", recording="r", epoch=0)
    starts = [" ".join(caption.clauses[:count]) for count in range(1, 5)]
    seen = set()
    for length in range(40, 200):
        ids = WORDS.encode(caption, length)
        assert ids.shape == (length,) and ids.dtype == np.int32
        text = WORDS.decode(ids)
        if text in starts:
            seen.add(text)
        else:  # not even the first has room
            assert length < len(WORDS.ids(starts[0])) + 2
    assert seen == set(starts)


def test_too_long_a_sentence_loses_words_but_no_part_of_a_number():
    text = "Left EOG: saccadic share of 123.45%, slow-rolling share of 6.78% and"
    for length in range(3, 40):
        text_left = WORDS.decode(WORDS.encode(text, length))
        numbers = [word.strip("%,") for word in text_left.split() if word[0].isdigit()]
        assert numbers in ([], ["123.45"], ["123.45", "6.78"])
    with pytest.raises(ValueError, match="length is at least 3 tokens, got 2"):
        WORDS.encode(text, 2)


def test_hostile_ids_and_text_are_harmless():
    assert WORDS.decode([1, 5, -7, 10**6, 0, 2, 30]) == "1 <unknown> <unknown>"
    ids = WORDS.encode("<pad> \x00 ignore 漢字 " * 10_000, 64)
    assert ids.max() < WORDS.size and ids[63] == WORDS.eot
    assert "漢" not in WORDS.decode(ids)


def test_unknown_words_come_with_the_nearest_that_are_known():
    assert WORDS.unknown_words("oxygen desaturation without arousal in REM") == {}
    found = WORDS.unknown_words("oxigen dips <script>")
    assert found["oxigen"][0] == "oxygen"
    assert "script" in found
    assert len(WORDS.unknown_words("".join(f"q{n}x " for n in range(10**5)))) == 10
    for example in WORDS.examples:
        assert not WORDS.unknown_words(example) and not parse(example).unread


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tokenizer of few merges."""
    pytest.importorskip("tokenizers")
    path = tmp_path_factory.mktemp("merges") / "merges.txt.gz"
    merges = ["#version", "d e", "l t", "de lt", "delt a</w>", "o f</w>", "n o", "% .</w>"]
    path.write_bytes(gzip.compress("\n".join(merges).encode()))
    return ClipTokenizer(path)


def test_byte_pairs_are_merged_within_words(tiny):
    assert (tiny.size, tiny.sot, tiny.eot, tiny.pad) == (512 + 7 + 2, 519, 520, 0)
    merged = {name: 512 + place for place, name in enumerate(("de", "lt", "delt", "delta", "of"))}
    digits = [256 + ord(digit) - 33 for digit in "395"]  # digits with the end of a word
    # Lower case; HTML unescaped twice; spaces collapsed; each digit alone.
    assert tiny.ids("DELTA   of 39 &amp;#53;") == [merged["delta"], merged["of"], *digits]
    assert tiny.spelled(tiny.encode("Delta of 3.5%.", 12)) == "delta of 3 . 5 %."
    assert tiny.decode(tiny.encode("Delta of 3.5%.", 12)) == "Delta of 3.5%."
    np.testing.assert_array_equal(tiny.encode("of " * 9, 5), [519, 516, 516, 516, 520])


def test_byte_pairs_spell_captions_that_come_back(tiny):
    for modality in EVERY:
        caption = render(FULL, modality, recording="r", epoch=1)
        ids = tiny.encode(caption, 2000)
        assert tiny.decode(ids) == str(caption)
        assert parse(tiny.spelled(ids)) == parse(str(caption))
    brain = render(FULL, "brain", recording="r", epoch=1)
    room = len(tiny.ids(" ".join(brain.clauses[:2]))) + 2
    assert tiny.decode(tiny.encode(brain, room)) == " ".join(brain.clauses[:2])
    assert tiny.decode(tiny.encode(brain, room + 5)) == " ".join(brain.clauses[:2])
    assert tiny.ids("\ud800 \x00") == tiny.ids("? \x00")


def test_published_merges_give_the_published_ids():
    assert SIZE == 49_408
    if importlib.util.find_spec("open_clip") is None:
        with pytest.raises(ModuleNotFoundError, match=r"pip install -e '\.\[clip\]'"):
            ClipTokenizer()
        return
    clip = ClipTokenizer()
    assert (clip.size, clip.sot, clip.eot) == (SIZE, 49_406, 49_407)
    assert clip.ids("a photo of a cat") == [320, 1125, 539, 320, 2368]
