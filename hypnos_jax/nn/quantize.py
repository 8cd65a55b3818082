"""Residual vector quantisation with codebooks that follow their points instead of a gradient.

Level k replaces the residual that levels before it left by the nearest of its V codewords. A
codeword is a running mean of the vectors assigned to it. SoundStream, arXiv 2107.03312, section
III-C; the constants are those of Mimi, arXiv 2410.00037.

The codebooks live in the variable collection ``"vq"`` and change only in a training forward with
that collection mutable. Under ``jax.jit`` a batch is one global array however many devices hold it,
so the plain sums over it here are sums over the mesh: XLA inserts the all-reduce.

Shapes: N vectors (of a whole global batch), K levels, V codes per level, C width.
"""

from __future__ import annotations

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

# Accelerators multiply float32 in 8 or 10 bits of mantissa unless told otherwise, and the nearest
# codeword would depend on the machine.
EXACT = "highest"
SMALLEST_COUNT = 1e-5


@flax.struct.dataclass
class Quantized:
    """Result of a forward pass of ``ResidualQuantizer``, in training or evaluation.

    Attributes:
        values: float32 [..., C], the sum of the codewords, with the estimator's gradient.
        codes: int32 [..., K]; 0 at levels that are not initialised yet or dropped.
        commitment: float32 [...], squared distance of each level's input from its codeword, mean
            over C and over active levels; its gradient reaches the input alone.
    """

    values: jax.Array
    codes: jax.Array
    commitment: jax.Array


class ResidualQuantizer(nn.Module):
    """K levels of V codewords of width C.

    Attributes:
        dim: C.
        levels: K.
        codes: V.
        decay: of the running counts and sums of vectors; a codeword is ``sum / max(count, 1e-5)``.
        rotation: pass gradients through the rotation that takes each level's input onto its
            codeword (arXiv 2410.06424) instead of straight through the summed output.
        dropout: p; a batch uses ``max(1, floor(K (1 - u p)))`` levels, u uniform.
        expire_every: training forwards between searches for dead codes.
        expire_below: a code is dead below this share of the level's mean count.
        lloyd_steps: iterations of k-means when a level is initialised.
    """

    dim: int
    levels: int
    codes: int
    decay: float = 0.99
    rotation: bool = False
    dropout: float = 0.0
    expire_every: int = 5
    expire_below: float = 0.1
    lloyd_steps: int = 50

    def setup(self):
        shape = (self.levels, self.codes)
        spread = nn.with_logical_partitioning(jnp.zeros, ("levels", "codes"))
        self.state = {
            "counts": self.variable("vq", "counts", spread, shape),
            "sums": self.variable("vq", "sums", spread, (*shape, self.dim)),
            "initialised": self.variable("vq", "initialised", jnp.zeros, self.levels, bool),
            # Assignments since the start, untouched by the replacement of dead codes, which
            # flatters whatever is computed from ``counts``.
            "usage": self.variable("vq", "usage", spread, shape),
            "step": self.variable("vq", "step", jnp.zeros, (), jnp.int32),
        }

    def __call__(
        self, x: jax.Array, weight: jax.Array | None = None, *, train: bool = False
    ) -> Quantized:
        """Quantise every vector; when training, let the codebooks follow.

        In training, each level with points in the batch is first initialised by k-means if the one
        before it was already initialised when the batch came. Then, in this order: assign, replace
        dead codes, update the running means. Outputs use the codewords of the assignment.

        Args:
            x: [..., C]; quantised in float32.
            weight: [...], 0 for vectors that must not enter any statistic (padding, seconds
                without signal), else positive.
            train: update ``"vq"``; draws from the stream ``"vq"``.
        """
        width = x.shape[-1]
        state = {name: variable.value for name, variable in self.state.items()}
        points = x.astype(jnp.float32).reshape(-1, width)
        used = jnp.ones(points.shape[0]) if weight is None else (weight > 0).reshape(-1)
        used = used.astype(jnp.float32)
        fixed = jax.lax.stop_gradient(points)
        if train and not self.is_initializing():
            key, drop = jax.random.split(self.make_rng("vq"))
            share = 1 - self.dropout * jax.random.uniform(drop)
            active = jnp.maximum(1, jnp.floor(self.levels * share)).astype(jnp.int32)
            new, codes, words, on = self._follow(state, fixed, used, key, active)
            for name, variable in self.state.items():
                variable.value = new[name]
        else:
            codes, words, on = self._assign(state, fixed)
        # on [K]: 1 for levels that quantise in this batch.
        before = jnp.cumsum(words, 0) - words  # what levels 0..k-1 explain, [K, N, C]
        inputs = points[None] - before
        distance = jnp.mean((inputs - words) ** 2, -1)
        commitment = jnp.einsum("kn,k->n", distance, on) / jnp.maximum(on.sum(), 1)
        if self.rotation:
            values = jnp.sum(rotate(inputs, words) * on[:, None, None], 0)
        else:
            values = points + jax.lax.stop_gradient(words.sum(0) - points)
        lead = x.shape[:-1]
        return Quantized(
            values.reshape(x.shape), codes.T.reshape(*lead, self.levels), commitment.reshape(lead)
        )

    def dequantize(self, codes: jax.Array) -> jax.Array:
        """Return the sums of codewords, float32 [..., C], of ``codes`` int [..., K]."""
        books = codebooks({name: variable.value for name, variable in self.state.items()})
        rows = codes.reshape(-1, self.levels).T
        words = jax.vmap(lambda book, row: book[row])(books, rows)
        return words.sum(0).reshape(*codes.shape[:-1], self.dim)

    def perplexity(self) -> jax.Array:
        """Return [K]: exp of the entropy of each level's running counts; at most V."""
        return jnp.exp(entropy(self.state["counts"].value))

    def usage(self, codes: jax.Array, counted: jax.Array) -> dict[str, jax.Array]:
        """Return how often each code occurs in ``codes`` [..., K] where ``counted`` bool [...].

        Returns:
            ``counts`` float32 [K, V]; ``trained`` [K, V], raw assignments since the start of
            training; ``perplexity`` [K].
        """
        weight = counted.reshape(-1, 1).astype(jnp.float32)
        rows = codes.reshape(-1, self.levels).T
        counts = jax.vmap(lambda row: (jax.nn.one_hot(row, self.codes) * weight).sum(0))(rows)
        return {
            "counts": counts,
            "trained": self.state["usage"].value,
            "perplexity": self.perplexity(),
        }

    def _assign(self, state, points):
        """Codes [K, N], codewords [K, N, C] and initialised levels [K] under fixed codebooks."""

        def level(residual, book):
            words, ready = book
            code = jnp.where(ready, nearest(residual, words), 0)
            word = words[code] * ready
            return residual - word, (code, word)

        ready = state["initialised"]
        _, (codes, words) = jax.lax.scan(level, points, (codebooks(state), ready))
        return codes, words, ready.astype(jnp.float32)

    def _follow(self, state, points, used, key, active):
        """As ``_assign``, and the state after the batch; levels from ``active`` on are dropped."""
        step = state["step"] + 1
        any_point = used.sum() > 0
        was_ready = state["initialised"]
        may_start = jnp.concatenate([jnp.ones(1, bool), was_ready[:-1]])

        def level(residual, inputs):
            counts, sums, usage, ready, may_start, index, key = inputs
            start_key, expire_key = jax.random.split(key)
            on = index < active
            start = on & may_start & ~ready & any_point
            counts, sums = jax.lax.cond(
                start,
                lambda: kmeans(start_key, residual, used, self.codes, self.lloyd_steps),
                lambda: (counts, sums),
            )
            ready = ready | start
            on = on & ready
            book = sums / jnp.maximum(counts, SMALLEST_COUNT)[:, None]
            code = jnp.where(on, nearest(residual, book), 0)
            word = book[code] * on
            # assigned; now expire, then follow
            mean = counts.mean()
            look = on & any_point & (step % self.expire_every == 0)
            dead = look & (counts < self.expire_below * mean)
            fresh = residual[draw(expire_key, used, self.codes)]
            counts = jnp.where(dead, mean, counts)
            sums = jnp.where(dead[:, None], fresh * mean, sums)
            seen, total = tally(residual, code, used, self.codes)
            counts_new = self.decay * counts + (1 - self.decay) * seen
            sums_new = self.decay * sums + (1 - self.decay) * total
            # A batch without a single point must leave everything as it is.
            moves = on & any_point
            counts = jnp.where(moves, counts_new, counts)
            sums = jnp.where(moves, sums_new, sums)
            usage = usage + jnp.where(moves, seen, 0)
            return residual - word, (counts, sums, usage, ready, code, word, on)

        _, (counts, sums, usage, ready, codes, words, on) = jax.lax.scan(
            level,
            points,
            (
                state["counts"],
                state["sums"],
                state["usage"],
                was_ready,
                may_start,
                jnp.arange(self.levels),
                jax.random.split(key, self.levels),
            ),
        )
        new = {
            "counts": counts,
            "sums": sums,
            "initialised": ready,
            "usage": usage,
            "step": jnp.where(any_point, step, state["step"]),
        }
        return new, codes, words, on.astype(jnp.float32)


def codebooks(state: dict[str, jax.Array]) -> jax.Array:
    """Return the codewords [K, V, C] of a ``"vq"`` state; zeros at levels not initialised."""
    words = state["sums"] / jnp.maximum(state["counts"], SMALLEST_COUNT)[..., None]
    return words * state["initialised"][:, None, None]


def entropy(counts: jax.Array) -> jax.Array:
    """Return [...]: the entropy, in nats, of the shares of ``counts`` [..., V]; 0 of no counts."""
    shares = counts / jnp.maximum(counts.sum(-1, keepdims=True), 1e-9)
    return -jnp.sum(shares * jnp.log(jnp.maximum(shares, 1e-12)), -1)


def nearest(points: jax.Array, words: jax.Array) -> jax.Array:
    """Return int32 [N]: for each of ``points`` [N, C] the nearest row of ``words`` [V, C].

    Euclidean, float32; the first of equals.
    """
    # |x - w|^2 without |x|^2, about the codewords' centre: a common offset would cancel badly.
    centre = words.mean(0, keepdims=True)
    points, words = points - centre, words - centre
    products = jnp.matmul(points, words.T, precision=EXACT)
    return jnp.argmin(jnp.sum(words**2, -1)[None] - 2 * products, axis=-1).astype(jnp.int32)


def tally(points, code, used, codes: int) -> tuple[jax.Array, jax.Array]:
    """Return how many used points each code got, [V], and their vectors' sums, [V, C]."""
    # A product with indicators, not a scatter: sums come out in the same order on every machine,
    # and split over devices like any other product.
    chosen = jax.nn.one_hot(code, codes) * used[:, None]
    return chosen.sum(0), jnp.matmul(chosen.T, points, precision=EXACT)


def draw(key: jax.Array, used: jax.Array, count: int) -> jax.Array:
    """Return ``count`` random indices of used points, distinct as long as there are enough."""
    order = jnp.argsort(jnp.where(used > 0, jax.random.uniform(key, used.shape), 2.0))
    there = jnp.maximum(jnp.sum(used > 0), 1)
    return order[jnp.arange(count) % there]


def kmeans(
    key: jax.Array, points: jax.Array, used: jax.Array, codes: int, steps: int
) -> tuple[jax.Array, jax.Array]:
    """Cluster the used points by Lloyd's algorithm from random points.

    A cluster that gets no point starts anew from a random one.

    Args:
        key: for the draws.
        points: float32 [N, C].
        used: float32 [N], 0 or 1.
        codes: V clusters.
        steps: iterations.

    Returns:
        Sizes [V] and vector sums [V, C] of the clusters; an empty one counts 1.
    """
    first, rest = jax.random.split(key)

    def means(key, words):
        size, total = tally(points, nearest(points, words), used, codes)
        fresh = points[draw(key, used, codes)]
        empty = size == 0
        size = jnp.where(empty, 1.0, size)
        return size, jnp.where(empty[:, None], fresh, total)

    def lloyd(carry, key):
        size, total = carry
        return means(key, total / size[:, None]), None

    start = (jnp.ones(codes), points[draw(first, used, codes)])
    return jax.lax.scan(lloyd, start, jax.random.split(rest, steps))[0]


def rotate(x: jax.Array, onto: jax.Array) -> jax.Array:
    """Return ``onto``, with the gradient of x rotated and rescaled onto it.

    With unit vectors e of x and q of ``onto`` and r = (e + q) / |e + q|, the map is
    ``|onto| / |x| (x - 2 r r'x + 2 q e'x)``, held constant in the backward pass. Rotation trick,
    arXiv 2410.06424, section 4.

    Args:
        x, onto: float32 [..., C].
    """
    small = 1e-6

    def norm(v):
        return jnp.sqrt(jnp.sum(v**2, -1, keepdims=True) + small**2)

    def along(v):
        return jnp.sum(v * x, -1, keepdims=True)

    size_x, size_q = (jax.lax.stop_gradient(norm(v)) for v in (x, onto))
    e, q = (jax.lax.stop_gradient(v) for v in (x / size_x, onto / size_q))
    r = (e + q) / norm(e + q)
    turned = (x - 2 * r * along(r) + 2 * q * along(e)) * (size_q / size_x)
    # Opposite directions have no unique rotation; the value is the codeword's in any case.
    return turned + jax.lax.stop_gradient(onto - turned)
