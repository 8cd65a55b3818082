"""Next-token prediction over RVQ codes: Hypnos, arXiv 2606.09605, as released."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax.models.code_axis import CodeAxis
from hypnos_jax.models.rq_transformer import RqTransformer
from hypnos_jax.objectives import Embedding, Loss, Surprise


class RqNextToken(nn.Module):
    """Cross-entropy of the next second's codes, all modalities in parallel.

    The loss is the mean over modalities that any row of the global batch has, of the mean over
    their valid seconds, of the mean over levels. Within one second modalities are taken as
    independent given the past. At the start each level costs ln V nats.

    Attributes:
        model: keyword arguments of ``RqTransformer``.
        modality_weights: (name, weight) pairs in place of equal weights; 1 for those not named.
        embed_lag: ``embed``'s row t has seen the seconds before t alone (as released); False: it
            has seen second t as well.
    """

    model: dict[str, Any]
    modality_weights: tuple[tuple[str, float], ...] = ()
    embed_lag: bool = True

    token_s = 1.0
    causal = True
    embed_data = "token_windows"
    title = (
        "a multi-modal RQ-Transformer of sleep (Hypnos, arXiv 2606.09605), trained to predict the"
        " next second's codes of every sensor"
    )
    rng_streams = ("dropout", "crp")
    couples_batch = False

    def setup(self):
        self.network = RqTransformer(**self.model)

    @nn.nowrap
    def names(self) -> list[str]:
        """The modalities' names, in the order of the M axis."""
        return [m["name"] for m in self.model["modalities"]]

    @nn.nowrap
    def weigh(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Add ``scale`` float32 [B, M]: what one valid second of a row and modality counts for.

        The sum of scale over all valid seconds of the global batch is the number of its rows that
        are not padding, so that ``Loss.total / Loss.weight`` is the mean described above however
        the rows are cut into micro-batches.

        Raises:
            ValueError: a modality weight names no modality.
        """
        unknown = [name for name, _ in self.modality_weights if name not in self.names()]
        if unknown:
            raise ValueError(f"modality_weights has {unknown[0]!r}; there are {self.names()}")
        given = dict(self.modality_weights)
        weights = jnp.asarray([given.get(name, 1.0) for name in self.names()], jnp.float32)
        rows = batch["weight"].astype(jnp.float32)
        seconds = self._seconds(batch).sum(0)  # [M]
        weights = jnp.where(seconds > 0, weights, 0.0)
        each = weights / jnp.maximum(weights.sum(), 1e-9) / jnp.maximum(seconds, 1e-9)
        real = jnp.sum(rows > 0).astype(jnp.float32)
        return {**batch, "scale": real * rows[:, None] * each[None]}

    @nn.nowrap
    def _seconds(self, batch):
        """Valid seconds of each row and modality times the row's weight, float32 [B, M]."""
        valid = batch["valid"] & batch["present"][:, None]
        return valid.sum(1).astype(jnp.float32) * batch["weight"][:, None]

    def __call__(self, batch: dict[str, jax.Array], *, train: bool = False) -> Loss:
        """Return the loss and its parts as sums.

        Args:
            batch: as ``RqTransformer`` takes it, with ``valid`` bool [B, S, M], ``weight`` float32
                [B], and ``scale`` where ``weigh`` has seen the global batch; without, these rows
                are taken for all of it.
            train: draw dropout and the modality groups.

        Returns:
            Metrics: ``loss`` and ``accuracy`` per modality (``loss/ecg``), per level of the
            tokenizers from 0 (``loss/level_0``), and per modality of its timing levels, where it
            has some (``loss/ecg_timing``); ``max_logit``, the largest absolute logit of a row,
            averaged over rows; ``log_partition``, the mean log normaliser of the logits.
        """
        if "scale" not in batch:
            batch = self.weigh(batch)
        # NaN of a wrong code must reach the loss, but not through seconds that do not count.
        counted = batch["valid"] & (batch["weight"] > 0)[:, None, None]
        total, scores = self.network(batch, counted * batch["scale"][:, None], train=train)
        counted &= scores["present"][:, None]
        axis = CodeAxis(self.model["modalities"])
        columns = axis.columns
        rows = batch["weight"].astype(jnp.float32)[:, None]

        def keep(x, i):
            return jnp.where(counted[..., i, None], x[..., columns[i]], 0.0)

        metrics = {}
        levels = {}
        for i, name in enumerate(self.names()):
            nll, hit = (keep(scores[key], i).sum(1) for key in ("nll", "hit"))  # [B, K]
            weight = jnp.sum(counted[..., i].sum(1, keepdims=True) * rows)
            metrics[f"loss/{name}"] = (jnp.sum(nll.mean(-1, keepdims=True) * rows), weight)
            metrics[f"accuracy/{name}"] = (jnp.sum(hit.mean(-1, keepdims=True) * rows), weight)
            timing = axis.timing[i].stop - axis.timing[i].start
            plain = nll.shape[-1] - timing
            for key, x in (("loss", nll), ("accuracy", hit)) if timing else ():
                mean = x[:, plain:].mean(-1, keepdims=True)
                metrics[f"{key}/{name}_timing"] = (jnp.sum(mean * rows), weight)
            for k in range(plain):
                for key, x in (("loss", nll), ("accuracy", hit)):
                    before = levels.get(f"{key}/level_{k}", (0.0, 0.0))
                    now = (jnp.sum(x[:, k, None] * rows), weight)
                    levels[f"{key}/level_{k}"] = (before[0] + now[0], before[1] + now[1])
        metrics |= levels

        count = len(columns)
        largest = [keep(scores["max_logit"], i).max((1, 2)) for i in range(count)]
        largest = jnp.stack(largest).max(0)
        real = (batch["weight"] > 0).astype(jnp.float32)
        metrics["max_logit"] = (jnp.sum(largest * real), real.sum())
        partition = sum(jnp.sum(keep(scores["log_partition"], i).mean(-1)) for i in range(count))
        metrics["log_partition"] = (partition, counted.sum().astype(jnp.float32))
        return Loss(total, real.sum(), metrics)

    @property
    def modalities(self) -> list[dict]:
        """The rows of what is read."""
        return self.model["modalities"]

    def embed(self, batch: dict[str, jax.Array]) -> Embedding:
        """Return each modality's context, float32 [B, S, M, D]; valid where it is present.

        The depth transformer is not run. With ``embed_lag`` row t has seen the seconds before t.
        """
        return self._embedding(batch, self.network.context(batch, lag=self.embed_lag))

    def embed_next(self, batch: dict[str, jax.Array], first: jax.Array | bool) -> Embedding:
        """Return ``embed``'s rows of seconds that come in pieces; see ``RqTransformer.advance``."""
        return self._embedding(batch, self.network.advance(batch, first=first))

    @property
    def level_groups(self) -> tuple[str, ...]:
        """Names of the groups of levels that ``surprise`` is told of."""
        return tuple(CodeAxis(self.model["modalities"]).level_groups)

    def surprise(self, batch: dict[str, jax.Array], rows: jax.Array) -> Surprise:
        """Return how unexpected a batch's codes were after ``rows`` of the seconds before each."""
        axis = CodeAxis(self.model["modalities"])
        there = batch["valid"] & batch["present"][:, None]

        def sums(x):
            found = []
            for columns in axis.level_groups.values():  # of each modality
                own = [
                    x[..., list(c)].sum(-1) if c else jnp.full(x.shape[:2], jnp.nan)
                    for c in columns
                ]
                found.append(jnp.where(there, jnp.stack(own, axis=-1), jnp.nan))
            return jnp.stack(found, axis=-1)

        return Surprise(*map(sums, self.network.surprise(jnp.moveaxis(rows, 2, 1), batch["codes"])))

    def _embedding(self, batch, context):
        """Of contexts [B, M, S, D], which rest on the past: a gap in it does not make them void."""
        present = jnp.broadcast_to(
            batch["present"][:, None], (*context.shape[::2], context.shape[1])
        )
        return Embedding(jnp.moveaxis(context, 1, 2), present)

    @property
    def seen(self) -> str:
        """What a row of ``embed`` has seen."""
        seconds = (
            "the seconds before t and not t itself"
            if self.embed_lag
            else "second t and those before it"
        )
        return f"row t has seen {seconds}"

    @property
    def reach(self) -> int | None:
        """Seconds of the past that an embedding depends on; see ``RqTransformer.reach``."""
        return RqTransformer(**self.model).reach
