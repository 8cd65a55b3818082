"""The published tokenizer of SleepLM (Xu et al. 2026): the byte-pair encoding of CLIP.

Its 48,894 merges come with the package ``open_clip_torch``, of which one file is read and no code
is run; ``tokenizers`` does the merging. The official code also repairs broken characters (ftfy),
which captions do not have.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import html
import importlib.util
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from data_pipelines.captions.grammar import Caption
from data_pipelines.captions.vocabulary import closed

MERGES = 48_894  # of the file's 262,145 lines
SIZE = 2 * 256 + MERGES + 2  # ids: letters, letters that end a word, merges, start and end
_FILE = "bpe_simple_vocab_16e6.txt.gz"
# Words, single digits, and runs of other symbols.
_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
_SPACED_NAME = re.compile(r"\b(n|c|e|spo) ([1-4])\b")  # "n 2"
_END_OF_WORD = "</w>"
_INSTALL = "pip install -e '.[clip]'"


class ClipTokenizer:
    """The byte-pair encoding of CLIP, with the interface of ``vocabulary.Vocabulary``.

    Attributes:
        size: ``SIZE``: 49,408.
        pad, sot, eot: 0, 49,406, 49,407.
        identity: SHA-256 of the merges, in hexadecimal.

    Args:
        merges: the file ``bpe_simple_vocab_16e6.txt.gz``; None: of the installed package.

    Raises:
        ModuleNotFoundError: ``tokenizers`` or the merges are not installed; it says how to.
    """

    pad = 0

    def __init__(self, merges: pathlib.Path | None = None) -> None:
        try:
            import tokenizers
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"the published tokenizer needs the package tokenizers: {_INSTALL}"
            ) from error
        text = gzip.decompress((merges or _installed()).read_bytes()).decode()
        lines = text.split("\n")[1 : MERGES + 1]
        pairs = [(first, second) for first, second in map(str.split, lines)]
        letters = _letters()
        entries = [*letters, *(letter + _END_OF_WORD for letter in letters)]
        entries += [first + second for first, second in pairs]
        self._words = entries
        self.sot, self.eot = len(entries), len(entries) + 1
        self.size = len(entries) + 2
        self.identity = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        self._tokenizer = tokenizers.Tokenizer(
            tokenizers.models.BPE(
                vocab={word: number for number, word in enumerate(entries)},
                merges=pairs,
                end_of_word_suffix=_END_OF_WORD,
            )
        )
        self._tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
            [
                tokenizers.pre_tokenizers.Split(
                    tokenizers.Regex(_PATTERN), behavior="removed", invert=True
                ),
                tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        self._bytes = {letter: number for number, letter in zip(_order(), letters, strict=True)}

    def ids(self, text: str) -> list[int]:
        """Return the ids of a text, without start and end."""
        text = html.unescape(html.unescape(text))
        text = " ".join(text.split()).lower().encode(errors="replace").decode()
        return self._tokenizer.encode(text).ids

    def encode(self, text: Caption | str, length: int) -> np.ndarray:
        """Return int32 [length]: start, the text, end, padding.

        A ``Caption`` that is too long loses whole sentences at its end; any other text is cut, as
        the official code cuts, with the end as the last id.
        """
        if length < 3:
            raise ValueError(f"length is at least 3 tokens, got {length}")
        clauses = list(text.clauses) if isinstance(text, Caption) else [text]
        ids = self.ids(" ".join(clauses))
        while len(ids) > length - 2 and len(clauses) > 1:
            clauses.pop()
            ids = self.ids(" ".join(clauses))
        row = np.full(length, self.pad, np.int32)
        ids = [self.sot, *ids[: length - 2], self.eot]
        row[: len(ids)] = ids
        return row

    def spelled(self, ids: Sequence[int] | np.ndarray) -> str:
        """Return the text of ids up to the first end, as the official code spells it.

        It is in lower case and has a space after each token: "3 9 . 0 5 %".
        """
        numbers = np.asarray(ids).ravel().tolist()
        if self.eot in numbers:
            numbers = numbers[: numbers.index(self.eot)]
        while numbers and numbers[-1] == self.pad:  # which is also the exclamation mark
            numbers.pop()
        words = [self._words[number] for number in numbers if 0 <= number < self.sot]
        parts = "".join(words).split(_END_OF_WORD)
        letters = (bytes(self._bytes[letter] for letter in part) for part in parts)
        return " ".join(part.decode(errors="replace") for part in letters).strip()

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Return the text of ids up to the first end, with the spaces and capitals of captions."""
        text = _SPACED_NAME.sub(r"\1\2", self.spelled(ids))
        return closed().restored(text.replace(" - ", "-"))


def _installed() -> pathlib.Path:
    """Return the file of merges in the installed package, without importing it."""
    spec = importlib.util.find_spec("open_clip")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := pathlib.Path(folder) / _FILE).exists():
            return path
    raise ModuleNotFoundError(
        f"the published tokenizer needs the merges that open_clip_torch carries: {_INSTALL}, or, "
        "without PyTorch, pip install --no-deps open_clip_torch"
    )


@functools.cache
def _order() -> tuple[int, ...]:
    """Return the 256 bytes in the order of CLIP's list: those that print first."""
    printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return (*printing, *(byte for byte in range(256) if byte not in printing))


def _letters() -> list[str]:
    """Return the letter of each byte of ``_order``."""
    return [chr(byte) if place < 188 else chr(68 + place) for place, byte in enumerate(_order())]
