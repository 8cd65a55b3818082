"""Tokens and signals to embeddings by a model of tokens: a vector a second and modality.

channels -> tokens -> backbone, the models piece by piece with what they need of the past kept
(``hypnos_jax.models.token_chunks``), so that a night of any length takes bounded memory and equals
a single pass. Source: Hypnos, arXiv 2606.09605, section 6 of its released library's behaviour: the
embedding is the backbone's last norm; the summary of a second is the unweighted mean over the
modalities that are present; an epoch is the mean of its 30 rows.

Timing: row t is the state from which second t is predicted. It has seen the seconds before t and
not t itself, as released; ``lag=False`` lets it see second t too.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.core
import flax.errors
import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.builders.recording_night import PrepareRecording
from data_pipelines.recipes import recipe_of_model
from data_pipelines.recipes.hypnos import ROWS
from data_pipelines.recordings.base import RecordingError
from data_pipelines.signals.timing import TimingStream, tokenizer_levels
from data_pipelines.store import ChannelSignal, NightEntry, NightStore, StoreError
from hypnos_jax.export.model import LoadedModel, ModelError, load_model
from hypnos_jax.inference.embedding import RecordingEmbedding, epoch_means, wanted_names
from hypnos_jax.inference.read_window import read_window
from hypnos_jax.inference.surprise import RecordingSurprise, column_names, columns
from hypnos_jax.inference.tokenizer import Tokenizer
from hypnos_jax.models.rq_transformer import RqTransformer
from hypnos_jax.models.token_chunks import CHUNK_S, Example, carry, cut, embed_tokens
from hypnos_jax.objectives import EmbedsInPieces, Surprise, TellsSurprise

DECODER = {"project_out", "decoder_transformer", "decoder"}  # of ``RvqTokenizer``


class Embedder:
    """A model of tokens with its tokenizers, compiled once for many recordings.

    Attributes:
        model: the loaded model.
        objective: the model's, with the lag that was asked for.
        modalities: {name, levels, codes, channel_id, group} in the order of the code axis, and
            ``timing``, ``timing_codes``, ``timing_by`` of those with timing levels.
        checksum: of the model and its tokenizers.
        dtype: of the backbone's products.
        lag: whether row t has seen the seconds before t alone.
        width: D.
        tells_surprise: whether embeddings come with their surprise.
    """

    def __init__(
        self,
        model: str | os.PathLike | LoadedModel,
        *,
        chunk_s: int = CHUNK_S,
        lag: bool | None = None,
        dtype: str | None = None,
        generates: bool = True,
        surprise: bool = False,
    ):
        """Load a model.

        Args:
            model: what ``export.load_model`` takes: a run's folder, an export's folder, a bundle.
            chunk_s: seconds per pass of the backbone; bounds the memory, changes no result. A
                backbone without windows takes 2048 s whatever this says.
            lag: see the module; None is what the model was configured with.
            dtype: of the backbone's products, ``"float32"`` or ``"bfloat16"``; None likewise.
            generates: keep also what only generation uses, the depth transformer and the decoders:
                a third of the weights.
            surprise: tell also how unexpected each second was, which needs the depth transformer:
                about twice the time.

        Raises:
            ModelError: no model, or not one of tokens; or it has no likelihood of tokens, and
                ``surprise`` is asked for.
        """
        self.model, self.tells_surprise = load_model(model), surprise
        if not generates:
            self.model = _without_generation(self.model, depth=surprise)
        self.modalities = self.model.config["modalities"]
        if not isinstance(self.model.objective, EmbedsInPieces):
            raise ModelError(
                f"{type(self.model.objective).__name__} reads no tokens; this needs a model of"
                " tokens, such as one of configs/hypnos/rq_transformer.py"
            )
        if surprise and not isinstance(self.model.objective, TellsSurprise):
            raise ModelError(
                f"{type(self.model.objective).__name__} has no likelihood of tokens: it cannot tell"
                " their surprise"
            )
        if chunk_s < 1:
            raise ValueError(f"chunk_s={chunk_s}; give 1 or more seconds")
        self.checksum, self.chunk_s = self.model.checksum, chunk_s
        objective = self.model.objective
        if lag is not None:
            objective = objective.clone(embed_lag=lag)
        if dtype is not None:
            objective = objective.clone(model={**objective.model, "dtype": dtype})
        self.objective, self.dtype = objective, objective.model.get("dtype", "float32")
        self.reach, self.lag = objective.reach, objective.embed_lag
        self.width = objective.model["dim"]
        self._variables = jax.device_put(self.model.variables)
        self._tokenizers = {}

    def names(self, wanted: Sequence[str] | None = None) -> list[str]:
        """Return the model's modalities, or those of them that are wanted.

        Raises:
            ValueError: one that the model does not have.
        """
        return wanted_names(self.modalities, wanted)

    def prepare(
        self, names: Sequence[str], *, mains_hz: int | None, aliases: dict[str, list] | None
    ) -> PrepareRecording:
        """Return what makes the night of a recording; picklable."""
        recipe = recipe_of_model(self.model.config)
        return PrepareRecording(recipe, tuple(names), mains_hz=mains_hz, aliases=aliases)

    def tokenize(self, channels: Mapping[str, ChannelSignal]) -> dict[str, np.ndarray]:
        """Return name -> codes [S, K] of some preprocessed channels, cut to the shortest.

        Channels that share a tokenizer pass it together; timing codes come after its own.

        Raises:
            ModelError: the model carries no tokenizer for one, or one that does not fit.
            ValueError: timing codes are made in another way here than the model's were.
        """
        seconds = min(len(channel.valid) for channel in channels.values())
        samples = {
            name: channel.samples[: seconds * ROWS[name].rate_hz]
            for name, channel in channels.items()
        }
        groups, codes = {}, {name: [] for name in channels}
        for name in self.with_waveform(channels):
            groups.setdefault(id(self.tokenizer(name)), []).append(name)
        for names in groups.values():
            signals = np.stack([samples[name] for name in names])
            for name, own in zip(names, self.tokenizer(names[0]).encode(signals)):
                codes[name].append(own)
        for name, channel in channels.items():
            timing = self.timing(name)
            if timing is not None:
                codes[name].append(timing.push(samples[name], channel.valid[:seconds]))
        return {name: np.concatenate(parts, axis=1) for name, parts in codes.items()}

    def row(self, name: str) -> dict[str, Any]:
        """Return what ``modalities`` says of one."""
        return next(row for row in self.modalities if row["name"] == name)

    def with_waveform(self, names: Sequence[str]) -> list[str]:
        """Return those of some modalities that have codes of a tokenizer, not of timing alone."""
        return [name for name in names if tokenizer_levels(self.row(name))]

    def timing(self, name: str) -> TimingStream | None:
        """Return what makes a modality's timing codes, at its first second; None: it has none.

        Raises:
            ValueError: they are made in another way here than the model's were.
        """
        made_by = self.row(name).get("timing_by")
        row = ROWS[name]
        return made_by and TimingStream(row.signal_type, row.rate_hz, made_by)

    def tokenizer(self, name: str) -> Tokenizer:
        """Return the tokenizer of a modality.

        Raises:
            ModelError: the model carries none for it, or one that does not fit.
        """
        row = self.row(name)
        group, rate_hz = row["group"], ROWS[name].rate_hz
        if group not in self._tokenizers:
            if group not in self.model.tokenizers:
                raise ModelError(
                    f"the model carries no tokenizer of {group}: it was trained on tokens"
                    " without them; export it with --tokenizers=DIR"
                )
            self._tokenizers[group] = Tokenizer(load_model(self.model.tokenizers[group]))
        found = self._tokenizers[group]
        if found.rate_hz != rate_hz:
            raise ModelError(
                f"the tokenizer of {group} reads {found.rate_hz} Hz; {name} is prepared at"
                f" {rate_hz} Hz"
            )
        levels = tokenizer_levels(row)
        if (found.levels, found.codes) != (levels, row["codes"]):
            raise ModelError(
                f"the tokenizer of {group} makes {found.levels} x {found.codes} levels x codes; the"
                f" model takes {levels} x {row['codes']} of {name}"
            )
        return found

    @functools.cached_property
    def network(self) -> tuple[RqTransformer, dict[str, Any]]:
        """The RQ-Transformer alone, and its variables."""
        objective = self.objective
        variables = {name: tree["network"] for name, tree in self._variables.items()}
        # Hashable, so that equal networks share compiled programs.
        modalities = tuple(flax.core.FrozenDict(row) for row in objective.model["modalities"])
        return RqTransformer(**{**objective.model, "modalities": modalities}), variables

    def piecewise(self, names: Sequence[str]) -> dict[str, Tokenizer]:
        """Return the tokenizers of some modalities, if they and the model can take pieces.

        Raises:
            ModelError: one is missing or does not fit; something looks back without a window, so
                that no cache can hold what it sees, or pads with samples to come; or the model is
                no RQ-Transformer.
        """
        network, _ = self.network
        tokenizers = {name: self.tokenizer(name) for name in self.with_waveform(names)}
        reaches = {"the model": network.reach} | {n: t.reach for n, t in tokenizers.items()}
        if None in reaches.values():
            endless = next(name for name, reach in reaches.items() if reach is None)
            raise ModelError(
                f"{endless} looks back without a window: it cannot be run second by second"
            )
        for name, tokenizer in tokenizers.items():
            if tokenizer.padding == "reflect":
                raise ModelError(
                    f"the tokenizer of {name} pads with the mirrored samples to come"
                    " (padding='reflect'): it cannot be run second by second"
                )
        return tokenizers

    def advance(
        self, batch: Example, cache: dict[str, Any] | None = None
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Run the backbone over the next seconds of tokens that come in pieces.

        Args:
            batch: of these seconds, as ``RqTransformer.advance`` takes it.
            cache: what this returned for the seconds before, which is consumed. None begins: in
                place of the first second stands BOS.

        Returns:
            float32 [B, M, S, D], the state after each of the seconds; and the cache.

        Raises:
            ModelError: the model's variables do not fit it.
        """
        network, variables = self.network
        try:
            return carry(functools.partial(_advance, network, self.reach is not None), variables)(
                batch, cache
            )
        except flax.errors.FlaxError as error:
            raise ModelError(f"the model's variables do not fit its objective: {error}") from error

    def surprise(self, batch: Example, context: jax.Array) -> Surprise:
        """Return how unexpected seconds of tokens were.

        Args:
            batch: of these seconds, as ``RqTransformer`` takes it.
            context: float32 [B, M, S, D], of ``advance``: of the second before each.
        """
        return self._surprise(self._variables, batch, jnp.moveaxis(context, 1, 2))

    @functools.cached_property
    def _surprise(self):
        return jax.jit(functools.partial(self.objective.apply, method="surprise"))

    def check_tokens(self, store: NightStore) -> None:
        """Compare a token store's tokenizers with the model's.

        Raises:
            ModelError: other tokenizers made these tokens, or a modality of the model is missing or
                has other levels.
        """
        missing = set(self.names()) - {row["name"] for row in store.modalities}
        if missing:
            raise ModelError(
                f"{store.path} has no tokens of {sorted(missing)}; the model needs them"
            )
        try:
            store.columns(self.modalities)
        except StoreError as error:
            raise ModelError(str(error)) from error
        made = store.manifest["provenance"].get("tokenizers", {})
        for name, digest in self.model.config["tokenizers"].items():
            if name in made and made[name]["checksum"] != digest:
                raise ModelError(
                    f"{store.path} holds tokens of another {name} tokenizer than the model's"
                )

    def embed_signals(
        self, signals: dict[str, ChannelSignal], *, recording: str = ""
    ) -> RecordingEmbedding:
        """Embed preprocessed channels of one recording.

        Args:
            signals: name -> channel, any subset of the model's; all are cut to the shortest.
            recording: its name.

        Raises:
            RecordingError: no channel, or one without a single second.
            ModelError: a tokenizer that is missing or does not fit.
        """
        signals = {name: signals[name] for name in self.names() if name in signals}
        if not signals:
            raise RecordingError(f"{recording}: none of the model's modalities {self.names()}")
        for name, channel in signals.items():
            if not len(channel.valid):
                raise RecordingError(f"{recording}: {name} is shorter than one second: no token")
        codes = self.tokenize(signals)
        valid = {name: channel.valid for name, channel in signals.items()}
        tracks = {name: channel.tracks for name, channel in signals.items()}
        return self.embed_codes(codes, valid=valid, tracks=tracks, recording=recording)

    def embed_codes(
        self,
        codes: dict[str, np.ndarray],
        *,
        valid: dict[str, np.ndarray] | None = None,
        tracks: dict[str, np.ndarray] | None = None,
        recording: str = "",
    ) -> RecordingEmbedding:
        """Embed the tokens of one recording.

        Args:
            codes: name -> [S, K], any subset of the model's modalities; cut to the shortest.
            valid: name -> bool [S], seconds that hold signal; all by default.
            tracks: name -> float32 [S, 2] as in ``ChannelSignal``; zeros by default.
            recording: its name.
        """
        seconds = min(len(own) for own in codes.values())
        count = len(self.modalities)
        whole = {
            "codes": np.zeros((seconds, sum(row["levels"] for row in self.modalities)), np.int32),
            "present": np.array([row["name"] in codes for row in self.modalities]),
            "channel_ids": np.array([row["channel_id"] for row in self.modalities], np.int32),
            "valid": np.zeros((seconds, count), bool),
            "tracks": np.zeros((seconds, count, 2), np.float32),
            "weight": np.float32(1),
        }
        column = 0
        for i, row in enumerate(self.modalities):
            name, stop = row["name"], column + row["levels"]
            if name in codes:
                whole["codes"][:, column:stop] = codes[name][:seconds]
                whole["valid"][:, i] = True if valid is None else valid[name][:seconds]
                if tracks is not None:
                    whole["tracks"][:, i] = tracks[name][:seconds]
            column = stop
        names = [name for name in self.names() if name in codes]
        return self.collect(functools.partial(cut, whole), seconds, names, recording=recording)

    def collect(
        self,
        read: Callable[[int, int], Example],
        seconds: int,
        names: Sequence[str],
        *,
        recording: str = "",
    ) -> RecordingEmbedding:
        """Embed the tokens that ``read`` gives, as ``embed_tokens`` wants it.

        Args:
            read: (start_s, stop_s) -> example.
            seconds: S.
            names: the modalities that are present in the examples.
            recording: its name.
        """
        # Rows are written where they stay: pieces in lists would be there twice at the end.
        rows, pooled, done, told = {}, None, 0, []
        for piece in self.chunks(read, seconds):
            if self.tells_surprise:
                piece, surprise = piece
                told.append(columns(surprise))
            own = {name: piece[name] for name in names}
            mean = np.mean(list(own.values()), axis=0)
            if pooled is None:
                pooled = np.empty((seconds, mean.shape[-1]), np.float32)
                rows = {name: np.empty(pooled.shape, np.float16) for name in names}
            here = slice(done, done + len(mean))
            pooled[here], done = mean, here.stop
            for name in names:
                rows[name][here] = own[name]
        return RecordingEmbedding(
            recording=recording,
            times_s=np.arange(seconds, dtype=np.float32),
            modalities=rows,
            epochs=epoch_means(pooled).astype(np.float16),
            model=self.checksum,
            surprise=self._of_recording(np.concatenate(told), names) if told else None,
        )

    def _of_recording(self, values, names):
        """Of [S, M, C]."""
        every = self.names()
        own = {name: values[:, every.index(name)] for name in names}
        return RecordingSurprise(column_names(self.objective.level_groups), own)

    def embed_night(
        self, store: NightStore, night: NightEntry, names: Sequence[str] | None = None
    ) -> RecordingEmbedding:
        """Embed a night of a store, of signals or of tokens.

        Args:
            store: of signals, or of tokens made by the model's own tokenizers.
            night: one of its nights.
            names: only these modalities; all by default.

        Raises:
            RecordingError: the night has none of the modalities.
            ModelError: the tokens are not the model's.
        """
        names = [name for name in self.names(names) if name in night.channels]
        if not names or not night.duration_s:
            raise RecordingError(f"{night.recording} has none of the modalities {self.names()}")
        seconds = night.duration_s
        if store.kind == "signals":
            signals = {name: store.channel(night, name) for name in names}
            return self.embed_signals(signals, recording=night.recording)
        self.check_tokens(store)
        asked = np.isin(self.names(), names)

        def read(start: int, stop: int) -> Example:
            window = read_window(store, night, self.modalities, start, stop)
            return {**window, "present": asked, "valid": window["valid"] & asked}

        return self.collect(read, seconds, names, recording=night.recording)

    def chunks(self, read: Callable[[int, int], Example], seconds: int) -> Iterator[Example]:
        """Yield name -> float32 [n, D] over the seconds of ``read``; see ``embed_tokens``.

        With ``tells_surprise`` a pair of it and the ``Surprise`` [n, M, G] of the same seconds.
        """

        def step(batch, cache, after=None):
            context, cache = self.advance(batch, cache)
            rows = {name: context[:, i] for i, name in enumerate(self.names())}
            return rows if after is None else (rows, self.surprise(after, context)), cache

        options = {"lag": self.lag, "reach": self.reach, "chunk_s": self.chunk_s}
        options["coming"] = self.tells_surprise
        yield from embed_tokens(step, read, seconds, **options)


def _without_generation(model, depth):
    """The model without the weights that only generation uses, or with its depth transformer."""

    def cut(model, part, names):
        params = dict(model.variables["params"])
        if part in params:
            params[part] = {k: v for k, v in params[part].items() if k not in names}
        return dataclasses.replace(model, variables={**model.variables, "params": params})

    tokenizers = {
        name: cut(load_model(own), "tokenizer", DECODER) for name, own in model.tokenizers.items()
    }
    left_out = set() if depth else {"depth"}
    return dataclasses.replace(cut(model, "network", left_out), tokenizers=tokenizers)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _advance(network, keep, variables, cache, batch, first):
    return network.apply(
        {**variables, **cache},
        batch,
        first=first,
        method="advance",
        mutable=["cache"] if keep else [],
    )
