"""A backbone and a context of a few lines, to be fine-tuned, embedded and streamed; an objective to
be probed."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax import plugins
from hypnos_jax.objectives import Embedding

ROUGH = ("eeg", "ecg")  # what ``Roughness`` reads


def matrix(*names):
    return nn.with_logical_partitioning(nn.initializers.lecun_normal(), names)


class Pieces(nn.Module):
    """A linear map of each modality, their mean: one fused row a token, of that token alone."""

    modalities: tuple
    width: int = 8
    dropout: float = 0.0

    title, causal = "linear maps of signals", True

    @nn.compact
    def encode_tokens(self, batch, kept=None, *, train=False):
        valid = batch["valid"] & batch["present"][:, None]
        if kept is not None:
            valid &= kept
        total = 0
        for i, row in enumerate(self.modalities):
            x = batch[f"signal/{row['name']}"] * batch["scale"][:, i, None, None]
            kernel = self.param(row["name"], matrix("embed", "mlp"), (row["frames"], self.width))
            total += jnp.where(valid[..., i, None], x.astype(jnp.float32) @ kernel, 0.0)
        total /= jnp.maximum(valid.sum(2), 1)[..., None]
        total = nn.Dropout(self.dropout, deterministic=not train)(total)
        return total[:, :, None], valid.any(2, keepdims=True), None


class PastMean(nn.Module):
    """A running mean of what was valid, seen through a matrix: a causal context, wide or narrow."""

    width: int = 8

    causal = True

    @nn.compact
    def __call__(self, x, valid, *, train=False):
        def step(mean, now):
            x, there = now
            mean = jnp.where(there[:, None], 0.7 * mean + 0.3 * x, mean)
            return mean, mean

        first = jnp.zeros((x.shape[0], x.shape[-1]))
        if self.is_mutable_collection("cache") and not self.is_initializing():
            kept = self.variable("cache", "mean", lambda: first)
            first = kept.value
        last, means = jax.lax.scan(step, first, (x.swapaxes(0, 1), valid.T))
        if self.is_mutable_collection("cache") and not self.is_initializing():
            kept.value = last
        kernel = self.param("kernel", matrix("embed", "mlp"), (x.shape[-1], self.width))
        return jnp.tanh(means.swapaxes(0, 1)) @ kernel


def know(monkeypatch):
    """Let configs name the two ``pieces`` and ``past_mean``."""
    load, toys = plugins.load, {"pieces": Pieces, "past_mean": PastMean}
    monkeypatch.setattr(plugins, "load", lambda *asked: toys.get(asked[1]) or load(*asked))


class Roughness(nn.Module):
    """Of each token how rough its signal is, times a parameter: at 0 nothing is told."""

    def setup(self):
        self.gain = self.param("gain", nn.initializers.zeros, ())

    token_s, causal, embed_data, title = 30.0, True, "modality_nights", "a measure of roughness"
    modalities = tuple({"name": name} for name in ROUGH)

    def embed(self, batch):
        rows = []
        for i, name in enumerate(ROUGH):
            x = batch[f"signal/{name}"].astype(jnp.float32) * batch["scale"][:, i, None, None]
            steps = [jnp.abs(x[..., k:] - x[..., :-k]).mean(-1) for k in (1, 4, 16, 64)]
            rows.append(self.gain * jnp.log(1e-3 + jnp.stack(steps, -1)))
        valid = batch["valid"] & batch["present"][:, None]
        return Embedding(jnp.stack(rows, 2) * valid[..., None], valid)
