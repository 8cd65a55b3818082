"""Recordings to embeddings by models that see windows of a night: any objective's ``embed``.

recording -> the signals of its recipe -> windows -> ``embed``, one window after the other. The
summary of an epoch is the mean over the rows that rest on signal, modality by modality alike.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence

import flax.errors
import jax
import numpy as np

from data_pipelines import pipeline
from data_pipelines.builders.recording_night import PrepareRecording
from data_pipelines.recipes import recipe_of_model, recipe_of_store
from data_pipelines.recordings.base import RecordingError
from data_pipelines.store import ChannelSignal, NightEntry, NightStore
from hypnos_jax import plugins
from hypnos_jax.export.model import LoadedModel, ModelError, load_model
from hypnos_jax.inference.embedding import (
    RecordingEmbedding,
    mean_over_modalities,
    valid_epoch_means,
    wanted_names,
)
from hypnos_jax.inference.window_stream import WindowStream, make_step

FUSED = "fused"  # name of rows that are not of one modality


class WindowEmbedder:
    """A model that reads windows, compiled once for many recordings.

    Attributes:
        model: the loaded model.
        modalities: {name, rate_hz, ...} each.
        recipe: how recordings are prepared for it.
        checksum: of the model.
        dtype: of the products.
    """

    def __init__(self, model: str | os.PathLike | LoadedModel, *, dtype: str | None = None):
        """Load a model.

        Args:
            model: what ``export.load_model`` takes.
            dtype: of the products, ``"float32"`` or ``"bfloat16"``; None is what it was trained in.

        Raises:
            ModelError: no model, one whose source does not embed recordings, or one of modalities
                that its recipe does not make.
        """
        self.model = load_model(model)
        objective = self.model.objective
        self._source = pipeline.find_source(objective.embed_data)
        if "recording_batches" not in vars(self._source):
            raise ModelError(
                f"a {type(objective).__name__} reads batches of {objective.embed_data}, which are"
                " not cut from single recordings: it embeds no recordings"
            )
        key = plugins.network_key(plugins.current(self.model.config["objective"]))
        network = getattr(objective, key, {})
        if dtype is not None:
            network = {**network, "dtype": dtype}
            objective = objective.clone(**{key: network})
        self.dtype = network.get("dtype", "float32")
        self.modalities = self.model.config["modalities"]
        self.recipe = recipe_of_model(self.model.config)
        for row in self.modalities:
            made = self.recipe.rows.get(row["name"])
            if made is None or made.rate_hz != row["rate_hz"]:
                raise ModelError(
                    f"the model reads {row['name']!r} at {row['rate_hz']} Hz; the recipe"
                    f" {self.recipe.name} makes"
                    f" {[(m.name, m.rate_hz) for m in self.recipe.rows.values()]}"
                )
        self.checksum = self.model.checksum
        self._objective, self._variables = objective, jax.device_put(self.model.variables)
        self._embed = jax.jit(functools.partial(objective.apply, method="embed"))

    @functools.cached_property
    def _onward(self):
        return make_step(self._objective)

    @functools.cached_property
    def width(self) -> int:
        """D."""
        length = self._source.window_tokens(self.model.config["data"])
        batch = {
            name: jax.ShapeDtypeStruct((1, *(length if n == "T" else n for n in shape)), dtype)
            for name, (dtype, *shape) in self._source.embed_shapes(self.modalities).items()
        }
        return jax.eval_shape(self._embed, self._variables, batch).rows.shape[-1]

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

    def stream(self, names: Sequence[str] | None = None) -> WindowStream:
        """Return a night that goes on, to push the next prepared tokens of; see ``window_stream``.

        Args:
            names: modalities that the night has; all of the model's by default.

        Raises:
            ModelError: the model looks at what comes later.
            ValueError: a modality that the model does not have.
        """
        return WindowStream(
            self._onward,
            self._variables,
            self._source.embed_shapes(self.modalities),
            self.modalities,
            self.names(names),
            f"{self.checksum} {self.dtype}",
        )

    def embed_signals(
        self, signals: Mapping[str, ChannelSignal], *, recording: str = ""
    ) -> RecordingEmbedding:
        """Embed signals of one recording.

        Args:
            signals: name -> modality, any subset of the model's; all are cut to the shortest.
            recording: its name.

        Raises:
            RecordingError: no modality, or none of a whole token.
        """
        signals = {name: signals[name] for name in self.names() if name in signals}
        data = self.model.config["data"]
        pieces = []
        try:
            windows = self._source.recording_batches(signals, data=data, modalities=self.modalities)
            for batch in windows:
                tokens = int(batch.pop("tokens")[0])
                found = jax.device_get(self._embed(self._variables, batch))
                pieces.append((found.rows[0, :tokens], found.valid[0, :tokens]))
        except flax.errors.FlaxError as error:
            raise ModelError(f"the variables do not fit the objective: {error}") from error
        except RecordingError as error:
            raise RecordingError(f"{recording}: {error}") from None
        rows, valid = (np.concatenate(parts) for parts in zip(*pieces))  # [L, M, D], [L, M]
        rows = rows * valid[..., None]
        token_s = self._objective.token_s
        if rows.shape[1] == len(self.modalities):
            own = {row["name"]: rows[:, i] for i, row in enumerate(self.modalities)}
            own = {name: own[name] for name in own if name in signals}
        else:
            own = {FUSED: rows[:, 0]}
        return RecordingEmbedding(
            recording=recording,
            times_s=np.arange(len(rows), dtype=np.float32) * token_s,
            modalities={name: x.astype(np.float16) for name, x in own.items()},
            epochs=mean_over_modalities(*valid_epoch_means(rows, valid, token_s)).astype(
                np.float16
            ),
            model=self.checksum,
        )

    def embed_night(
        self, store: NightStore, night: NightEntry, names: Sequence[str] | None = None
    ) -> RecordingEmbedding:
        """Embed a night of a store of the recipe's signals.

        Args:
            store: of signals.
            night: one of its nights.
            names: only these modalities; all by default.

        Raises:
            ModelError: the store holds tokens, or signals of another recipe.
            RecordingError: the night has none of the modalities.
        """
        if store.kind != "signals" or recipe_of_store(store).name != self.recipe.name:
            raise ModelError(
                f"{store.path} holds {store.kind} of the recipe {recipe_of_store(store).name}; the"
                f" model reads signals of {self.recipe.name}: prepare the recordings with"
                f" launch.prepare_nights --recipe={self.recipe.name}"
            )
        names = [name for name in self.names(names) if name in night.channels]
        signals = {name: store.channel(night, name) for name in names}
        return self.embed_signals(signals, recording=night.recording)
