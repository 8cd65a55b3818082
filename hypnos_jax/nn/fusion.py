"""From one vector a modality to one, from one a step to one, and the heads that read them."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax.nn.batch_norm import BatchNorm
from hypnos_jax.nn.linear import zeros_init
from hypnos_jax.nn.transformer import Linear
from hypnos_jax.sharding import keep_rows

FUSIONS = ("gated_scalar", "mean", "concat")
POOLINGS = ("mean", "attention")
HIDDEN = 256  # width of ``MlpHead``, whatever it reads


class ModalityFusion(nn.Module):
    """Fuse the modalities that are there.

    ``"gated_scalar"``: their mean by weights ``softmax(g)``, one learnt scalar a modality, at 0
    first, so that it begins as ``"mean"``; ``"concat"``: side by side, zeros where one is missing.
    A single modality passes as it is, without parameters. After sleep2vec, arXiv 2602.13857, where
    the softmax is over all modalities always; here over those that are there.

    Attributes:
        kind: one of ``FUSIONS``.
    """

    kind: str = "gated_scalar"

    @nn.compact
    def __call__(self, x: jax.Array, there: jax.Array) -> jax.Array:
        """Return [..., H] (concat: [..., M H]) of ``x`` [..., M, H] where ``there`` [..., M].

        Raises:
            ValueError: no such kind.
        """
        if self.kind not in FUSIONS:
            raise ValueError(f"fusion={self.kind!r}; it is one of {FUSIONS}")
        count = x.shape[-2]
        if count == 1:
            return x[..., 0, :]
        if self.kind == "concat":
            kept = jnp.where(there[..., None], x, 0)
            return kept.reshape(*x.shape[:-2], -1)
        gates = jnp.zeros(count)
        if self.kind == "gated_scalar":
            gates = self.param("gates", zeros_init("modality"), (count,))
        gates = jnp.broadcast_to(gates, there.shape)
        return jnp.einsum("...m,...mh->...h", masked_softmax(gates, there), x)


class Pooling(nn.Module):
    """Fuse the steps that are there: their mean, or by learnt weights ``softmax(v tanh(W x))``.

    Attributes:
        kind: one of ``POOLINGS``.
    """

    kind: str = "mean"

    @nn.compact
    def __call__(self, x: jax.Array, there: jax.Array) -> jax.Array:
        """Return [B, H] of ``x`` [B, L, H] where ``there`` [B, L].

        Raises:
            ValueError: no such kind.
        """
        if self.kind not in POOLINGS:
            raise ValueError(f"pooling={self.kind!r}; it is one of {(*POOLINGS, 'cls')}")
        scores = jnp.zeros(there.shape)
        if self.kind == "attention":
            dim = x.shape[-1]
            hidden = jnp.tanh(Linear(("embed", "mlp"), dim, dim, bias=True, name="hidden")(x))
            scores = Linear(("mlp", None), dim, 1, name="score")(hidden)[..., 0]
        return jnp.einsum("bl,blh->bh", masked_softmax(scores, there), x)


def masked_softmax(scores: jax.Array, there: jax.Array) -> jax.Array:
    """Return the softmax over the last axis where ``there``, 0 elsewhere and where nothing is."""
    scores = jnp.where(there, scores.astype(jnp.float32), -jnp.inf)
    top = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
    # Where nothing is there the top is -inf, and inf - inf would be NaN.
    powers = jnp.where(there, jnp.exp(scores - jnp.where(jnp.isfinite(top), top, 0.0)), 0.0)
    return powers / jnp.maximum(powers.sum(-1, keepdims=True), 1e-30)


class ClassificationHead(nn.Module):
    """``Linear(ELU(dropout(Linear(ELU(x)))))``, as sleep2vec's code has it, float32.

    Attributes:
        outputs: how many numbers.
        dropout: rate.
    """

    outputs: int
    dropout: float = 0.1

    @nn.compact
    def __call__(self, x: jax.Array, there: jax.Array, *, train: bool = False) -> jax.Array:
        """Return [..., outputs] of ``x`` [..., H]; see ``HEADS``."""
        dim, names = x.shape[-1], ("embed", "mlp")
        x = keep_rows(Linear(names, dim, dim, bias=True, name="hidden")(jax.nn.elu(x)))
        x = jax.nn.elu(nn.Dropout(self.dropout, deterministic=not train)(x))
        return Linear(names, dim, self.outputs, bias=True, name="out")(x)


class RegressionHead(nn.Module):
    """``Linear(dropout(ELU(Linear(x))))``, as sleep2vec's code has it, float32.

    Attributes:
        outputs: how many numbers.
        dropout: rate.
    """

    outputs: int
    dropout: float = 0.1

    @nn.compact
    def __call__(self, x: jax.Array, there: jax.Array, *, train: bool = False) -> jax.Array:
        """Return [..., outputs] of ``x`` [..., H]; see ``HEADS``."""
        dim, names = x.shape[-1], ("embed", "mlp")
        x = jax.nn.elu(keep_rows(Linear(names, dim, dim, bias=True, name="hidden")(x)))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Linear(names, dim, self.outputs, bias=True, name="out")(x)


class MlpHead(nn.Module):
    """Twice ``dropout(ELU(batch norm(Linear)))`` of 256, and a linear map; as SynthSleepNet's code
    has it (arXiv 2502.17481; there the rate is 0.5), float32.

    Attributes:
        outputs: how many numbers.
        dropout: rate.
    """

    outputs: int
    dropout: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, there: jax.Array, *, train: bool = False) -> jax.Array:
        """Return [..., outputs] of ``x`` [..., H]; see ``HEADS``."""
        names, shape = ("embed", "mlp"), there.shape
        x, there = (a.reshape(len(a), -1, *a.shape[len(shape) :]) for a in (x, there))
        for i in range(2):
            linear = Linear(names, x.shape[-1], HIDDEN, bias=True, name=f"hidden_{i}")
            x = BatchNorm(name=f"norm_{i}")(keep_rows(linear(x)), there, train=train)
            x = nn.Dropout(self.dropout, deterministic=not train)(jax.nn.elu(x))
        x = Linear(names, HIDDEN, self.outputs, bias=True, name="out")(x)
        return x.reshape(*shape, self.outputs)


class LinearHead(nn.Module):
    """``Linear(dropout(x))``, float32.

    Attributes:
        outputs: how many numbers.
        dropout: rate.
    """

    outputs: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, there: jax.Array, *, train: bool = False) -> jax.Array:
        """Return [..., outputs] of ``x`` [..., H]; see ``HEADS``."""
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Linear(("embed", "mlp"), x.shape[-1], self.outputs, bias=True, name="out")(x)


# By name. All are called with x [..., H] and where it counts, bool [...]: batch norm has its
# statistics of that, and the others do not look at it.
HEADS = {"elu": ClassificationHead, "mlp": MlpHead, "linear": LinearHead}
