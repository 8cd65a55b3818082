"""Recordings to embeddings by contrastive towers: a vector per modality and 30-s token.

recording -> modalities -> windows of tokens -> tokenizer and trunk, one modality at a time. The
summary of a token is the mean over the modalities that hold signal in it, which is what equal gates
would give (sleep2vec, arXiv 2602.13857: there is no attention across modalities).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import flax.errors
import jax
import numpy as np

from data_pipelines.builders.recording_night import PrepareRecording
from data_pipelines.recipes import recipe_of_model
from data_pipelines.recordings.base import RecordingError
from data_pipelines.store import ChannelSignal, NightEntry, NightStore
from data_pipelines.windows import TOKEN_S, modalities_of
from hypnos_jax import plugins
from hypnos_jax.export.model import LoadedModel, ModelError, load_model
from hypnos_jax.export.programs import WINDOW_TOKENS
from hypnos_jax.inference.embedding import RecordingEmbedding
from hypnos_jax.inference.token_embedder import wanted_names

FEWEST_VALID = 0.5  # share of a token's seconds that must hold signal, as in the sources


class ModalityEmbedder:
    """Towers, compiled once for many recordings.

    Attributes:
        model: the loaded model.
        modalities: {name, rate_hz, frames} each.
        window_tokens: that see one another; as in training.
        recipe: that its signals are made by.
        checksum: of the model.
        dtype: of the products.
        width: H.
    """

    def __init__(
        self,
        model: str | os.PathLike | LoadedModel,
        *,
        dtype: str | None = None,
        window_tokens: int | None = None,
    ):
        """Load a model.

        Args:
            model: what ``export.load_model`` takes.
            dtype: of the products, ``"float32"`` or ``"bfloat16"``; None is what it was trained in.
            window_tokens: tokens that see one another; None is what it was trained on.

        Raises:
            ModelError: no model, or one of modalities that are not known here.
        """
        self.model = load_model(model)
        objective = self.model.objective
        key = plugins.network_key(plugins.current(self.model.config["objective"]))
        network = getattr(objective, key)
        if dtype is not None:
            network = {**network, "dtype": dtype}
            objective = objective.clone(**{key: network})
        self.dtype = network.get("dtype", "float32")
        self.modalities = self.model.config["modalities"]
        self.recipe = recipe_of_model(self.model.config)
        for row in self.modalities:
            known = self.recipe.rows.get(row["name"])
            if known is None or known.rate_hz != row["rate_hz"]:
                raise ModelError(
                    f"the model reads {row['name']!r} at {row['rate_hz']} Hz; known are"
                    f" {[(m.name, m.rate_hz) for m in self.recipe.rows.values()]}"
                )
        trained = self.model.config["data"].get("window_tokens", WINDOW_TOKENS)
        self.window_tokens, self.checksum = window_tokens or trained, self.model.checksum
        self.width = network["dim"]
        self._variables = jax.device_put(self.model.variables)
        self._encode = jax.jit(
            lambda variables, *given: objective.apply(variables, *given, method="encode"),
            static_argnums=4,
        )

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
        return PrepareRecording(self.recipe, tuple(names), mains_hz=mains_hz, aliases=aliases)

    def embed_signals(
        self, signals: Mapping[str, ChannelSignal], *, recording: str = ""
    ) -> RecordingEmbedding:
        """Embed modalities of one recording.

        Args:
            signals: name -> modality, any subset of the model's; all are cut to the shortest.
            recording: its name.

        Raises:
            RecordingError: no modality, or none of a whole token.
        """
        signals = {name: signals[name] for name in self.names() if name in signals}
        if not signals:
            raise RecordingError(f"{recording}: none of the model's modalities {self.names()}")
        tokens = min(len(signal.valid) for signal in signals.values()) // TOKEN_S
        if not tokens:
            raise RecordingError(f"{recording} is shorter than one token of {TOKEN_S} s")
        found, valid = {}, {}
        for name, signal in signals.items():
            seconds = signal.valid[: tokens * TOKEN_S].reshape(tokens, TOKEN_S)
            valid[name] = seconds.mean(axis=1) >= FEWEST_VALID
            frames = signal.samples[: tokens * TOKEN_S * signal.rate_hz].reshape(tokens, -1)
            found[name] = self._windows(self.names().index(name), frames, valid[name])
        there = np.stack([valid[name] for name in found])[..., None]
        each = np.stack(list(found.values()))
        mean = (each * there).sum(0) / np.maximum(there.sum(0), 1)
        return RecordingEmbedding(
            recording=recording,
            times_s=np.arange(tokens, dtype=np.float32) * TOKEN_S,
            modalities={name: rows.astype(np.float16) for name, rows in found.items()},
            epochs=mean.astype(np.float16),
            model=self.checksum,
        )

    def _windows(self, modality: int, frames: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Float32 [E, H] of ``frames`` [E, F], window after window; 0 where there is no signal."""
        tokens, length = len(frames), self.window_tokens
        count = -(-tokens // length)
        beyond = count * length - tokens
        frames = np.pad(frames, ((0, beyond), (0, 0))).astype(np.float32)
        there = np.pad(valid, (0, beyond)).reshape(count, length)
        out = []
        # One window a call: a night of any length takes one compilation.
        for window, seen in zip(frames.reshape(count, 1, length, -1), there[:, None]):
            try:
                rows = self._encode(self._variables, window, np.ones(1, np.float32), seen, modality)
            except flax.errors.FlaxError as error:
                raise ModelError(f"the variables do not fit the objective: {error}") from error
            out.append(np.asarray(rows)[0])
        return np.concatenate(out)[:tokens] * valid[:, None]

    def embed_night(
        self, store: NightStore, night: NightEntry, names: Sequence[str] | None = None
    ) -> RecordingEmbedding:
        """Embed a night of a store of modalities.

        Args:
            store: of modalities.
            night: one of its nights.
            names: only these modalities; all by default.

        Raises:
            PipelineError: the store holds something else.
            RecordingError: the night has none of the modalities.
        """
        there = {modality.name for modality in modalities_of(store, (), "the model")}
        names = [n for n in self.names(names) if n in night.channels and n in there]
        signals = {
            name: ChannelSignal(
                name,
                store.rate_hz(name),
                store.signal(night, name, 0, night.duration_s),
                store.valid(night, name, 0, night.duration_s),
                store.tracks(night, name, 0, night.duration_s),
            )
            for name in names
        }
        return self.embed_signals(signals, recording=night.recording)
