"""Embeddings of signals as they arrive, one a second, in constant memory.

The same chain as ``embed.embed_recording``: preprocessing (``data_pipelines.signals.streaming``),
tokens, backbone; each keeps what it needs of the past, and nothing is run twice. Row for row it
equals the offline embedding before that is rounded to float16, within 1e-5, where the preprocessing
can: see ``data_pipelines.signals.streaming`` for gaps and flat stretches. Apart from these it
differs in that

- a second whose latent lies on the border between two codewords may round to the other one;
- channels are used as they are given: no label is resolved, no reference subtracted, no unit or
  polarity corrected, and the mains frequency is told, not inferred.
"""

from __future__ import annotations

import dataclasses
import fractions
import os
import zipfile
from collections.abc import Mapping

import flax.traverse_util
import jax
import numpy as np

from data_pipelines.files import atomic_write
from data_pipelines.recipes.hypnos import ROWS
from data_pipelines.signals.streaming import ChannelStream
from hypnos_jax.inference.surprise import column_names, columns
from hypnos_jax.inference.token_embedder import Embedder
from hypnos_jax.models.code_axis import CodeAxis

AHEAD_S = 600  # ours: seconds that one channel may run ahead of another


@dataclasses.dataclass(frozen=True)
class StreamRow:
    """Embeddings of one second.

    Attributes:
        second: counted from the stream's start.
        modalities: name -> float32 [D].
        mean: float32 [D], the mean over the modalities.
        valid: name -> whether the second held signal.
        surprise: name -> how unexpected the second was, as ``RecordingSurprise.columns`` names it;
            None where the embedder does not tell it.
    """

    second: int
    modalities: dict[str, np.ndarray]
    mean: np.ndarray
    valid: dict[str, bool]
    surprise: dict[str, dict[str, float]] | None = None


class Stream:
    """Embed channels block by block.

    The first row comes after a minute, with the backlog: the rolling z-score starts from the
    statistics of the first 60 s. After that a row comes with each second, as soon as every channel
    has been heard to its end and the resampler's fraction of a second beyond; with a
    tokenizer that is not strictly causal, as the published ones, for a second longer: it reads one
    sample of the next.
    """

    def __init__(
        self,
        embedder: Embedder,
        rates_hz: Mapping[str, fractions.Fraction | float],
        *,
        mains_hz: int | None,
        running: Mapping[str, tuple[float, float]] | None = None,
    ):
        """Begin.

        Args:
            embedder: the model.
            rates_hz: modality -> samples per second that will be pushed; those not named are
                absent.
            mains_hz: 50 or 60, the frequency of the power line; None notches nothing.
            running: ``running`` of an earlier recording by these sensors, to start from instead
                of waiting 60 s; the first minutes' rows then differ from the offline ones.

        Raises:
            ModelError: the model is not one of codes, or lacks a tokenizer.
            ValueError: no modality, or one that the model does not have; or a value above is none
                of these.
        """
        self._embedder, self._mains_hz = embedder, mains_hz
        self._names = embedder.names(list(rates_hz))
        unknown = sorted(set(running or ()) - set(self._names))
        if unknown or not self._names:
            raise ValueError(
                f"running has {unknown[0]!r}, which rates_hz has not"
                if unknown
                else f"rates_hz is empty; give the rate of one or more of {embedder.names()}"
            )
        self._channels = {
            name: ChannelStream(
                ROWS[name],
                rates_hz[name],
                mains_hz=mains_hz,
                running=(running or {}).get(name),
            )
            for name in self._names
        }
        rows = embedder.modalities
        axis = CodeAxis(rows)
        self._columns = dict(zip(axis.names, axis.columns))
        self._groups = {
            rows[members[0]]["group"]: [axis.names[i] for i in members if axis.names[i] in rates_hz]
            for members in axis.groups.values()
        }
        self._groups = {group: names for group, names in self._groups.items() if names}
        tokenizers = embedder.piecewise(self._names)
        # A strict tokenizer's first sample is a zero; another waits for one of the next second
        # instead. What has timing codes alone waits for nothing.
        self._strict = {
            name: name not in tokenizers or tokenizers[name].strict_causal for name in self._names
        }
        timings = {name: embedder.timing(name) for name in self._names}
        self._timings = {name: own for name, own in timings.items() if own is not None}
        self._silence = {
            "codes": np.zeros((1, 1, axis.width), np.int32),
            "present": np.array([[name in self._names for name in axis.names]]),
            "channel_ids": np.array([[row["channel_id"] for row in rows]], np.int32),
            "valid": np.zeros((1, 1, len(rows)), bool),
            "tracks": np.zeros((1, 1, len(rows), 2), np.float32),
        }
        self._places = {name: axis.names.index(name) for name in self._names}
        context, cache = embedder.advance(self._silence)  # BOS
        # All that changes but for the channels': arrays in nested dicts, for a file.
        self._state = {
            "second": np.int64(0),
            "samples": {n: np.zeros(int(strict), np.float32) for n, strict in self._strict.items()},
            "timing": {
                name: np.zeros((0, len(embedder.row(name)["timing"])), np.uint16)
                for name in self._timings
            },
            "valid": {name: np.zeros(0, bool) for name in self._names},
            "tracks": {name: np.zeros((0, 2), np.float32) for name in self._names},
            "tokenizers": {},
            "backbone": cache,
            "context": context,
        }
        self._ended = False

    @property
    def running(self) -> dict[str, tuple[float, float]]:
        """Rolling mean and standard deviation of each channel that has got so far, in its unit."""
        found = {name: channel.running for name, channel in self._channels.items()}
        return {name: pair for name, pair in found.items() if pair is not None}

    def push(self, samples: Mapping[str, np.ndarray]) -> list[StreamRow]:
        """Take the next samples of some channels, and return the rows that they complete.

        Args:
            samples: name -> [T] of any length, in the unit that ``ROWS`` states (electrical
                channels in microvolts, EEG and EOG against the mastoid of the other side); NaN
                for samples that were lost. Channels may come at different times.

        Raises:
            ValueError: an unknown channel, not [T], or the stream has ended: nothing was taken.
                Or a channel has run ahead of another by more than 600 s: the samples were taken.
        """
        if self._ended:
            raise ValueError("the stream has ended; begin another")
        unknown = sorted(set(samples) - set(self._names))
        if unknown:
            raise ValueError(f"the stream has no channel {unknown[0]!r}; it has {self._names}")
        blocks = {name: np.asarray(block, np.float64) for name, block in samples.items()}
        for name, block in blocks.items():
            if block.ndim != 1:
                raise ValueError(f"{name} has the shape {block.shape}; give one channel [T]")
        for name, block in blocks.items():
            self._hear(self._channels[name].push(block))
        queued = {name: len(valid) for name, valid in self._state["valid"].items()}
        ahead, behind = max(queued, key=queued.get), min(queued, key=queued.get)
        if queued[ahead] - queued[behind] > AHEAD_S:
            raise ValueError(
                f"{ahead} is {queued[ahead] - queued[behind]} s ahead of {behind}: push NaN for"
                " samples that were lost"
            )
        return self._rows()

    def close(self) -> list[StreamRow]:
        """Return the rows that are left of the whole seconds heard, and end the stream."""
        for name, channel in self._channels.items():
            self._hear(channel.close())
            if not self._strict[name]:
                samples = self._state["samples"]
                samples[name] = np.append(samples[name], np.float32(0))
        self._ended = True
        return self._rows()

    def save(self, path: str | os.PathLike) -> None:
        """Write all that the next rows depend on as ``.npz`` (no pickle), whole or not at all."""
        state = {
            **self._state,
            "model": np.array(f"{self._embedder.checksum} {self._embedder.dtype}"),
            "mains_hz": np.int64(self._mains_hz or 0),
            "rates_hz": {n: np.array(str(c.sfreq)) for n, c in self._channels.items()},
            "channels": {name: channel.state() for name, channel in self._channels.items()},
            "timings": {name: timing.state() for name, timing in self._timings.items()},
        }
        flat = flax.traverse_util.flatten_dict(state, sep="/")
        with atomic_write(path) as file:
            np.savez(file, **flat)

    @classmethod
    def restore(cls, embedder: Embedder, path: str | os.PathLike) -> Stream:
        """Return the stream that was saved, to go on with the next samples.

        Args:
            embedder: of the same model and dtype.
            path: a file that ``save`` wrote.

        Raises:
            ValueError: the file is damaged or none of these, or of another model or dtype.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                state = flax.traverse_util.unflatten_dict(dict(file), sep="/")
            checksum, dtype = str(state["model"]).split()
        except (EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} holds no saved stream, or half of one: {error!r}") from error
        if (checksum, dtype) != (embedder.checksum, embedder.dtype):
            raise ValueError(
                f"{path} is of the model {checksum[:12]}... in {dtype}, not of"
                f" {embedder.checksum[:12]}... in {embedder.dtype}; begin a stream anew"
            )
        rates = {name: fractions.Fraction(str(x)) for name, x in state["rates_hz"].items()}
        stream = cls(embedder, rates, mains_hz=int(state["mains_hz"]) or None)
        for name, channel in stream._channels.items():
            channel.restore(state["channels"][name])
        for name, timing in stream._timings.items():
            timing.restore(state["timings"][name])
        # A file holds bfloat16 as bytes of no type, and no empty dict: before the first row there
        # are no tokenizers' caches.
        state["backbone"] = jax.tree.map(
            lambda own, kept: kept.view(own.dtype), stream._state["backbone"], state["backbone"]
        )
        stream._state = {name: state.get(name, {}) for name in stream._state}
        return stream

    def _hear(self, channel):
        for name, new in (
            ("samples", channel.samples),
            ("valid", channel.valid),
            ("tracks", channel.tracks),
        ):
            queue = self._state[name]
            queue[channel.name] = np.concatenate([queue[channel.name], new])
        if channel.name in self._timings:
            new = self._timings[channel.name].push(channel.samples, channel.valid)
            queue = self._state["timing"]
            queue[channel.name] = np.concatenate([queue[channel.name], new])

    def _rows(self):
        """Make the rows of all seconds that every channel has been heard to the end of."""
        rows, samples = [], self._state["samples"]
        first = int(self._state["second"] == 0)
        while all(len(samples[name]) >= ROWS[name].rate_hz + first for name in self._names):
            rows.append(self._row(first))
            first = 0
        return rows

    def _row(self, first):
        state, valid = self._state, {}
        # New arrays each time: the program that reads them may still run when the next row is made.
        batch = {name: x.copy() for name, x in self._silence.items()}
        for group, names in self._groups.items():
            taken = [self._take("samples", name, ROWS[name].rate_hz + first) for name in names]
            codes = [[] for _ in names]
            if self._embedder.with_waveform(names):
                tokenizer = self._embedder.tokenizer(names[0])
                found, state["tokenizers"][group] = tokenizer.encode_next(
                    np.stack(taken), state["tokenizers"].get(group)
                )
                codes = [[own[0]] for own in found]
            for name, parts in zip(names, codes):
                if name in self._timings:
                    parts.append(self._take("timing", name, 1)[0])
                batch["codes"][0, 0, self._columns[name]] = np.concatenate(parts)
                valid[name] = bool(self._take("valid", name, 1)[0])
                batch["valid"][0, 0, self._places[name]] = valid[name]
                batch["tracks"][0, 0, self._places[name]] = self._take("tracks", name, 1)[0]
        before = state["context"]
        state["context"], state["backbone"] = self._embedder.advance(batch, state["backbone"])
        lag = self._embedder.objective.embed_lag
        context = np.asarray(before if lag else state["context"])[0, :, -1]
        modalities = {name: context[place] for name, place in self._places.items()}
        second = int(state["second"])
        state["second"] = np.int64(second + 1)
        mean = np.mean(list(modalities.values()), axis=0)
        return StreamRow(second, modalities, mean, valid, self._surprise(batch, before))

    def _surprise(self, batch, before):
        if not self._embedder.tells_surprise:
            return None
        found = columns(self._embedder.surprise(batch, before))[0, 0]
        names = column_names(self._embedder.objective.level_groups)
        return {
            name: dict(zip(names, found[place].tolist())) for name, place in self._places.items()
        }

    def _take(self, kind, name, count):
        queue = self._state[kind]
        taken, queue[name] = queue[name][:count], queue[name][count:]
        return taken
