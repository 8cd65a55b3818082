"""A night that goes on: rows and a task's answers, token by token, of a causal model of windows.

The state of the model passes from token to token, so that memory and the time of a token stay the
same however long the night is, and every row equals that of the whole night in one window. A model
that was trained on shorter windows so looks further back than it did in training.

What comes in is *prepared* (recipe, units and rate as ``PrepareRecording`` makes them), and that
cannot be done as the night goes on in the same way: recipes scale a channel by the quantiles of its
whole night, and filter it forwards and backwards. Scale by an earlier night of the person or by a
first stretch of this one, and filter forwards alone; rows then differ from the offline ones by as
much as the signals do.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.files import atomic_write
from hypnos_jax.export.model import ModelError
from hypnos_jax.objectives import AnswersTask, ContinuesWindows
from hypnos_jax.tasks import find_task


@flax.struct.dataclass
class StreamedTokens:
    """What a model makes of the tokens of one push.

    Attributes:
        rows: float32 [n, M, D], zeros where not valid; M is 1 where the model fuses modalities.
        valid: bool [n, M], where a row rests on signal.
        answers: float32 [n, ...], of a model that answers a task by token: probabilities of the
            classes, or of each output of a binary task; None for any other model.
    """

    rows: np.ndarray
    valid: np.ndarray
    answers: np.ndarray | None


def make_step(objective: nn.Module) -> Callable:
    """Return what passes one token, compiled once for every night of a model.

    Returns:
        ``(variables, state, batch) -> (StreamedTokens [1, 1, ...], state)``.

    Raises:
        ModelError: the model has no state, or looks at what comes later.
    """
    kind = type(objective).__name__
    if not isinstance(objective, ContinuesWindows):
        raise ModelError(f"a {kind} cannot be streamed: it does not go on from window to window")
    if not objective.causal:
        raise ModelError(
            f"this {kind} is not causal, so it cannot be streamed:"
            f" {getattr(objective, 'seen', '')}. With a causal context, or none, on a backbone that"
            " encodes each token alone, it can"
        )
    task = find_task(objective.task) if isinstance(objective, AnswersTask) else None

    def onward(module, batch):
        found, answers = module.embed_onward(batch), None
        if task is not None and not task.by_night:
            answers = _probabilities(module.answers(found.rows), task.kind)
        return StreamedTokens(found.rows, found.valid, answers)

    def step(variables, cache, batch):
        given = {**variables, **cache}
        return objective.apply(given, batch, method=onward, mutable=["cache"])

    return jax.jit(step)


class WindowStream:
    """One night as it goes on; of ``WindowEmbedder.stream``.

    Attributes:
        seen: tokens that were pushed.
    """

    def __init__(
        self,
        step: Callable,
        variables: dict,
        shapes: Mapping[str, tuple],
        modalities: Sequence[Mapping[str, Any]],
        names: Sequence[str],
        model: str,
    ):
        """Begin a night.

        Args:
            step: from ``make_step``.
            variables: on the device.
            shapes: of a batch, as ``embed_shapes`` of its source has them.
            modalities: rows {name, frames, ...} that the model reads.
            names: those of them that the night has.
            model: what tells the model from others, for saved streams.
        """
        self.seen = 0
        self._step, self._variables = step, variables
        self._names, self._model = list(names), model
        self._frames = {row["name"]: row["frames"] for row in modalities}
        self._places = {row["name"]: i for i, row in enumerate(modalities)}
        self._shapes = {
            name: (dtype, [1, *(1 if n == "T" else n for n in shape)], "T" in shape)
            for name, (dtype, *shape) in shapes.items()
        }
        shapes = jax.eval_shape(step, variables, {}, self._batch())[1]
        self._cache = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def push(
        self, signals: Mapping[str, np.ndarray], valid: Mapping[str, np.ndarray] | None = None
    ) -> StreamedTokens:
        """Take the next tokens and return their rows.

        Args:
            signals: name -> prepared samples [n * frames] of whole tokens, equally many of each.
                Those of the night's modalities that are left out hold no signal this time, nor do
                tokens with a sample that is not finite.
            valid: name -> bool [n], tokens that hold signal; all by default.

        Raises:
            ValueError: no signals, one that the night does not have, or no whole tokens, equally
                many of each; nothing was taken.
        """
        tokens = {name: self._tokens(name, samples) for name, samples in signals.items()}
        counts = {name: len(x) for name, x in tokens.items()}
        if len(set(counts.values())) != 1:
            raise ValueError(
                f"tokens of each modality: {counts}; give equally many, of one or more"
            )
        there = {name: np.isfinite(x).all(1) for name, x in tokens.items()}
        for name, own in (valid or {}).items():
            if name not in there or np.shape(own) != there[name].shape:
                raise ValueError(f"valid[{name!r}] must be a bool for each of its tokens {counts}")
            there[name] = there[name] & np.asarray(own, bool)
        found = []
        for i in range(next(iter(counts.values()))):
            batch = self._batch()
            for name in tokens:
                if there[name][i]:
                    batch[f"signal/{name}"][0, 0] = tokens[name][i]
                    batch["valid"][0, 0, self._places[name]] = True
            out, self._cache = self._step(self._variables, self._cache, batch)
            found.append(jax.device_get(out))
            self.seen += 1
        return jax.tree.map(lambda *own: np.concatenate([x[0] for x in own]), *found)

    def save(self, path: str | os.PathLike) -> None:
        """Write all that the next rows depend on as ``.npz`` (no pickle), whole or not at all."""
        state = {"model": np.array(self._model), "names": np.array(self._names)}
        state |= {"seen": np.int64(self.seen)}
        kept = jax.tree.leaves(jax.device_get(self._cache))
        state |= {f"state/{i}": x for i, x in enumerate(kept)}
        with atomic_write(path) as file:
            np.savez(file, **state)

    def restore(self, path: str | os.PathLike) -> None:
        """Go on with a night that ``save`` wrote.

        Raises:
            ValueError: the file is damaged or none of these, or of another model or other names.
        """
        leaves, shape = jax.tree.flatten(self._cache)
        try:
            with np.load(path, allow_pickle=False) as file:
                model, names, seen = str(file["model"]), file["names"].tolist(), int(file["seen"])
                if (model, names) != (self._model, self._names):
                    raise ValueError(f"it is of {names} and the model {model[:12]}...")
                # A file holds bfloat16 as bytes of no type.
                kept = [file[f"state/{i}"].view(x.dtype) for i, x in enumerate(leaves)]
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} holds no such night of this model: {error}") from error
        self._cache, self.seen = jax.tree.unflatten(shape, map(jnp.asarray, kept)), seen

    def _tokens(self, name, samples):
        """Samples as tokens, float32 [n, frames]."""
        if name not in self._names:
            raise ValueError(f"the night has no modality {name!r}; it has {self._names}")
        samples, frames = np.asarray(samples, np.float32), self._frames[name]
        if samples.ndim != 1 or not len(samples) or len(samples) % frames:
            raise ValueError(
                f"{name} has the shape {samples.shape}; give whole tokens of {frames} samples, one"
                " after the other"
            )
        return samples.reshape(-1, frames)

    def _batch(self):
        """A batch of one token without signal."""
        batch = {
            name: (np.zeros if over_time else np.ones)(shape, dtype)
            for name, (dtype, shape, over_time) in self._shapes.items()
        }
        batch["present"][0] = [name in self._names for name in self._places]
        return batch


def _probabilities(outputs, kind):
    if kind == "classes":
        return jax.nn.softmax(outputs, axis=-1)
    return jax.nn.sigmoid(outputs) if kind == "binary" else outputs
