"""Signals of any length to codes in bounded memory: chunked inference, nothing computed twice.

The network keeps what each piece needs of those before it, so the codes are those of a single pass
over the whole signal.
"""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import jax
import numpy as np

from hypnos_jax.export.model import load_model
from hypnos_jax.models.rvq_tokenizer import RvqTokenizer
from hypnos_jax.objectives import Tokenizes

CHUNK_S = 900  # ours
SHORTEST_S = 32
DECODED_S = 64  # ours: seconds decoded at once


class TokenizerError(ValueError):
    """A model that is no tokenizer, or not one that fits."""


class Tokenizer:
    """A trained tokenizer, ready to encode whole channels.

    Attributes:
        signal_type: what it was trained on.
        rate_hz: samples per second of its input; a token is one second.
        levels, codes: K and V.
        reach: seconds of the past that a token depends on, at most; None for all of them, where
            whole channels are encoded in one pass, whose memory grows with their length squared.
        checksum: of the model.
    """

    def __init__(self, model, *, dtype: str = "float32"):
        """Take a model from ``hypnos_jax.export.model.load_model``.

        Args:
            model: a ``LoadedModel`` of the objective ``rvq_reconstruction``.
            dtype: of the products. Not the one it was trained in: in bfloat16 the codes of close
                calls depend on where a chunk starts.

        Raises:
            TokenizerError: another objective, or tokens that are not one second long.
        """
        objective = model.objective
        if not isinstance(objective, Tokenizes):
            raise TokenizerError(
                f"a {type(objective).__name__} is no tokenizer; train one with"
                " configs/hypnos/rvq_tokenizer.py"
            )
        if objective.token_s != 1.0:
            raise TokenizerError(
                f"the {objective.signal_type} tokenizer has tokens of {objective.token_s} s; all"
                " modalities must share tokens of 1 s"
            )
        self.signal_type, self.rate_hz = objective.signal_type, objective.rate_hz
        self.checksum, self.step = model.checksum, model.step
        # The network alone, so that tokenizers of equal shape share one compiled program.
        self._network = RvqTokenizer(**{**objective.model, "dtype": dtype})
        inner = {name: tree["tokenizer"] for name, tree in model.variables.items()}
        self._variables = jax.device_put(inner)
        self.levels, self.codes = self._network.levels, self._network.codes
        self.reach = self._network.reach

    def encode(self, signals: np.ndarray, *, chunk_s: int = CHUNK_S) -> np.ndarray:
        """Return the codes of some channels, uint16 [C, S, K].

        Args:
            signals: float32 [C, S x rate_hz], as prepared nights hold them.
            chunk_s: seconds encoded at once.

        Raises:
            TokenizerError: a length that is not whole seconds, or codes that 16 bits cannot hold.
        """
        if self.codes > 2**16:
            raise TokenizerError(f"{self.codes} codes per level do not fit 16 bits")
        return self._run("encode_next", signals, chunk_s).astype(np.uint16)

    def latents(self, signals: np.ndarray, *, chunk_s: int = CHUNK_S) -> np.ndarray:
        """Return the vectors before quantisation, float32 [C, S, D]; arguments as ``encode``."""
        return self._run("latents_next", signals, chunk_s)

    def encode_next(
        self, signals: np.ndarray, cache: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the codes, uint16 [C, n, K], of signals that come in pieces, and what to hand on.

        Args:
            signals: float32 [C, n x rate_hz], the first piece one sample longer; how these pieces
                lie to the seconds is told by ``RvqTokenizer.latents_next``.
            cache: what the piece before returned, None for the first.
        """
        codes, cache = self._next("encode_next", signals, cache)
        return np.asarray(codes).astype(np.uint16), cache

    @property
    def padding(self) -> str:
        """What stands before the first sample; see ``nn.conv.Conv``."""
        return self._network.padding

    @property
    def strict_causal(self) -> bool:
        """Whether a token is complete with the last sample of its second; else one sample late."""
        return self._network.strict_causal

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Return the signals, float32 [C, S x rate_hz], of codes [C, S, K].

        Runs in pieces, of which each takes up where the one before ended; in one pass where the
        layers see the whole past.
        """
        seconds = codes.shape[1]
        length = _power_of_two(seconds)
        if self.reach is not None:
            length = min(DECODED_S, length)
        pieces, cache = [], None
        for at in range(0, seconds, length):
            piece = np.zeros((len(codes), length, self.levels), np.int32)
            piece[:, : seconds - at] = codes[:, at : at + length]
            found, cache = self._next("decode", piece, cache)
            pieces.append(np.asarray(found))
        return np.concatenate(pieces, axis=1)[:, : seconds * self.rate_hz]

    def _run(self, method: str, signals: np.ndarray, chunk_s: int) -> np.ndarray:
        signals = np.asarray(signals, np.float32)
        hop, length = self.rate_hz, signals.shape[1]
        if length % hop or not length:
            raise TokenizerError(
                f"a {self.signal_type} signal of {length} samples is not whole seconds at {hop} Hz"
            )
        seconds = length // hop
        piece = chunk_s
        if seconds <= chunk_s or self.reach is None:
            piece = max(SHORTEST_S, _power_of_two(seconds))  # few shapes, each compiled once
        # Zeros: the first sample of a strictly causal tokenizer, and what is beyond the end.
        front, whole = int(self.strict_causal), -(-seconds // piece) * piece * hop
        signals = np.pad(signals, ((0, 0), (front, 1 - front + whole - length)))
        found, cache = [], None
        for start in range(0, whole, piece * hop):
            block = signals[:, start + (start > 0) : start + piece * hop + 1]
            part, cache = self._next(method, block, cache)
            found.append(np.asarray(part))
        return np.concatenate(found, axis=1)[:, :seconds]

    def _next(self, method, x, cache):
        variables = {**self._variables, **(cache or {})}
        return _apply(self._network, method, self.reach is not None, variables, x)


def encode_signal(model, signal: np.ndarray, **options) -> np.ndarray:
    """Return the codes, uint16 [S, K], of one channel, float32 [S x rate]; see ``Tokenizer``."""
    return Tokenizer(model).encode(np.asarray(signal)[None], **options)[0]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _apply(network: RvqTokenizer, method: str, keep: bool, variables: dict[str, Any], x: jax.Array):
    return network.apply(variables, x, method=method, mutable=["cache"] if keep else [])


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()


def load_tokenizers(folder: str | pathlib.Path) -> dict[str, tuple[pathlib.Path, Tokenizer]]:
    """Return signal type -> (folder, tokenizer) of every model in the folders of ``folder``.

    Args:
        folder: holds one run's workdir or export per signal type, under any names.

    Raises:
        ModelError: a folder that holds no model that can be trusted.
        TokenizerError: no model there, two of one signal type, or one that is no tokenizer.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise TokenizerError(f"{folder} is not a folder of tokenizers")
    found: dict[str, tuple[pathlib.Path, Tokenizer]] = {}
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            continue
        tokenizer = Tokenizer(load_model(path))
        if tokenizer.signal_type in found:
            raise TokenizerError(
                f"{found[tokenizer.signal_type][0]} and {path} are both tokenizers of"
                f" {tokenizer.signal_type}; leave one"
            )
        found[tokenizer.signal_type] = (path, tokenizer)
    if not found:
        raise TokenizerError(f"{folder} holds no tokenizer: give a folder of runs or exports")
    return found
