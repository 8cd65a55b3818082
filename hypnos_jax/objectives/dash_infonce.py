"""Cross-modal contrast under one trunk: sleep2vec, arXiv 2602.13857, and its DASH-InfoNCE."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax import losses
from hypnos_jax.models.modality_towers import ModalityTowers, dequantized
from hypnos_jax.objectives import Embedding, Loss

SIGNALS = ("signal_a", "signal_b")


class DashInfonce(nn.Module):
    """Let each window find itself in another modality, token by token, among the whole batch.

    Two modalities of each window pass tokenizer, trunk and projection; the loss is the mean over
    tokens, windows and both directions of ``losses.info_nce``, whose negatives are the other
    windows of the *global* batch at the same token, weighted by ``losses.dash_weights``. It is ln B
    where everything is equal.

    Differs from the official code unless ``as_released``: tokens without signal neither cost, nor
    serve as negatives, nor enter the head's statistics; evaluation masks nothing.

    Attributes:
        model: keyword arguments of ``ModalityTowers``.
        temperature: T.
        weighting: ``"dash"``, or ``"none"`` for plain InfoNCE.
        hard_scale, pos_margin: margins of ``losses.info_nce``.
        sigma_age, alpha_sex, site_same, site_different, missing, form: see ``losses.dash_weights``.
        history: what a window shares with its near-duplicates: ``"night"`` or ``"subject"``.
        groups: parts of the batch that are contrasted each for itself, as devices that do not talk
            would; ``model.groups`` does the same for the head's statistics.
        as_released: count every token, absent ones and the CLS position too.
    """

    model: dict[str, Any]
    temperature: float = 0.2
    weighting: str = "dash"
    hard_scale: float = 0.1
    pos_margin: float = 0.0
    sigma_age: float = 20.0
    alpha_sex: float = 0.8
    site_same: float = 1.3
    site_different: float = 0.8
    missing: str = "remove"
    form: str = "code"
    history: str = "night"
    groups: int = 1
    as_released: bool = False

    token_s = 30.0
    causal = False
    embed_data = "modality_nights"
    seen = "a row has seen its whole window of tokens, those after it too, and no other modality"
    title = (
        "contrastive towers of sleep signals (sleep2vec, arXiv 2602.13857): a tower a modality"
        " under one shared trunk"
    )
    rng_streams = ("dropout", "mask")
    couples_batch = True
    averaged = ("batch_stats",)

    def setup(self):
        self.towers = ModalityTowers(**self.model)

    def __call__(self, batch: dict[str, jax.Array], *, train: bool = False) -> Loss:
        """Return the loss and its parts as sums over tokens; see ``represent`` and ``contrast``.

        Args:
            batch: ``signal_a``, ``signal_b`` int16 [B, L, F], ``scale`` float32 [B, 2], ``valid``
                bool [B, L, 2], ``pair`` int32 [B, 2] (the first row's counts for all), ``age``,
                ``sex``, ``site``, ``night``, ``subject`` int32 [B], ``weight`` float32 [B].
            train: mask tokens, draw dropout, and move the head's statistics.

        Returns:
            Metrics: ``accuracy``, the share of tokens whose nearest other-modal token is their
            own, by cosine alone, mean of both directions; ``chance``, of guessing.

        Raises:
            ValueError: ``groups`` does not divide B, or an attribute has an unknown value.
        """
        return self.contrast(self.represent(batch, train=train), batch, train=train)

    def contrast(
        self, hidden: jax.Array, batch: dict[str, jax.Array], *, train: bool = False
    ) -> Loss:
        """Return the call's loss, from what ``represent`` returns of all rows of the batch.

        The projection belongs here, as its statistics are the whole batch's.
        """
        if self.weighting not in ("dash", "none") or self.history not in ("night", "subject"):
            raise ValueError(
                f"weighting={self.weighting!r}, history={self.history!r}: weighting is 'dash' or"
                " 'none', history is 'night' or 'subject'"
            )
        rows = batch["weight"] > 0
        counted = batch["valid"].all(-1) & rows[:, None]
        if self.as_released:  # the CLS position too
            counted = jnp.broadcast_to(rows[:, None], (len(rows), hidden.shape[2]))
        first, second = (
            self.towers.project(hidden[:, slot], counted, train=train) for slot in (0, 1)
        )
        cost, hits = self._contrast(batch, first, second, counted)
        # As long as the loss: what a guess among the windows there are would get.
        there = self._cut(counted).sum(1, keepdims=True).astype(jnp.float32)
        guess = jnp.where(self._cut(counted), 1.0 / jnp.maximum(there, 1.0), 0.0)
        weight = counted.sum().astype(jnp.float32)
        metrics = {"accuracy": (hits.sum(), weight), "chance": (guess.sum(), weight)}
        return Loss(cost.sum(), weight, metrics)

    def represent(self, batch: dict[str, jax.Array], *, train: bool = False) -> jax.Array:
        """Return what the trunk makes of both modalities, [B, 2, L, H]; see the call.

        As released, CLS comes before the tokens.
        """
        valid = batch["valid"] & (batch["weight"] > 0)[:, None, None]
        tokens = []
        for slot, name in enumerate(SIGNALS):
            modality = batch["pair"][0, slot]
            signal = dequantized(batch[name], batch["scale"][:, slot])
            own = self.towers.tokenize(signal, modality, train=train)
            tokens.append(self.towers.mask(own, modality, valid[..., slot]) if train else own)
        # Side by side through the trunk, which knows no modality: one program and larger products.
        # Row by row, so that no row leaves its device.
        pairs = jnp.stack(tokens, axis=1).reshape(-1, *tokens[0].shape[1:])
        seen = jnp.moveaxis(valid, -1, 1).reshape(-1, valid.shape[1])
        hidden, cls = self.towers.contextualize(pairs, seen, train=train)
        if self.as_released and cls is not None:
            hidden = jnp.concatenate([cls[:, None], hidden], axis=1)
        return hidden.reshape(len(valid), 2, *hidden.shape[1:])

    def _cut(self, x):
        """[B, ...] -> [groups, B / groups, ...]."""
        if len(x) % self.groups:
            raise ValueError(f"groups={self.groups} do not divide {len(x)} rows")
        return x.reshape(self.groups, -1, *x.shape[1:])

    def _contrast(self, batch, first, second, counted):
        """Mean cost and hits of both directions, [groups, B / groups, L]."""

        def one(batch, x, y, counted):
            weights = same = None
            if self.weighting == "dash":
                weights, same = losses.dash_weights(
                    batch["age"],
                    batch["sex"],
                    batch["site"],
                    batch[self.history],
                    batch["weight"] > 0,
                    sigma_age=self.sigma_age,
                    alpha_sex=self.alpha_sex,
                    site_same=self.site_same,
                    site_different=self.site_different,
                    missing=self.missing,
                    form=self.form,
                )
            ways = [
                losses.info_nce(
                    *pair,
                    counted,
                    temperature=self.temperature,
                    weights=weights,
                    same=same,
                    hard_scale=self.hard_scale,
                    pos_margin=self.pos_margin,
                )
                for pair in ((x, y), (y, x))
            ]
            return [0.5 * (a.astype(jnp.float32) + b.astype(jnp.float32)) for a, b in zip(*ways)]

        facts = ("age", "sex", "site", self.history, "weight")
        given = ({name: batch[name] for name in facts}, first, second, counted)
        if self.groups == 1:
            return [x[None] for x in one(*given)]
        return jax.vmap(one)(*jax.tree.map(self._cut, given))

    @property
    def modalities(self) -> list[dict]:
        """The rows of what is read."""
        return self.model["modalities"]

    def embed(self, batch: dict[str, jax.Array]) -> Embedding:
        """Return what the trunk makes of every token of every modality, float32 [B, L, M, H].

        Args:
            batch: of ``modality_nights``: ``signal/<name>`` [B, L, f] of each modality, ``scale``
                float32 [B, M], ``present`` bool [B, M], ``valid`` bool [B, L, M].
        """
        hidden, valid, _ = self.towers.encode_tokens(batch)
        return Embedding(hidden * valid[..., None], valid)

    def encode(
        self, signal: jax.Array, scale: jax.Array, valid: jax.Array, modality: jax.Array | int
    ) -> jax.Array:
        """Return what the trunk makes of windows of one modality, float32 [B, L, H].

        Args:
            signal: int16 [B, L, F or more].
            scale: float32 [B].
            valid: bool [B, L].
            modality: its place among ``model["modalities"]``.
        """
        return self.towers.encode(dequantized(signal, scale), modality, valid)[0]

    def project(
        self, signal: jax.Array, scale: jax.Array, valid: jax.Array, modality: jax.Array | int
    ) -> jax.Array:
        """Return what is compared, float32 [B, L, Z] of length 1; see ``encode``."""
        return losses.unit(self.towers.project(self.encode(signal, scale, valid, modality), valid))
