"""Losses as pure functions of arrays.

Shapes: B batch, S seconds, L tokens, T samples, Z features. Those of signals are one number per
row, a mean over what is valid in it; a row in which nothing is valid gives 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Return [B]: the mean of ``values`` [B, ...] where ``mask`` (same shape) is not 0."""
    axes = tuple(range(1, values.ndim))
    mask = mask.astype(values.dtype)
    # where, not a product: a NaN that does not count must not spread.
    total = jnp.sum(jnp.where(mask > 0, values, 0) * mask, axes)
    return total / jnp.maximum(jnp.sum(mask, axes), 1e-9)


def time_l1(estimate: jax.Array, target: jax.Array, valid: jax.Array) -> jax.Array:
    """Return [B]: mean absolute error of samples.

    Args:
        estimate, target: [B, T].
        valid: bool [B, S], S divides T; samples of other seconds do not count.
    """
    return masked_mean(jnp.abs(estimate - target), _samples(valid, target.shape[1]))


def stft_magnitude(signal: jax.Array, window: int) -> jax.Array:
    """Return the short-time spectrum's magnitude, float32 [B, F, window // 2 + 1].

    Hann windows a quarter of their length apart, none of them past an end, scaled so that white
    noise of variance 1 has mean square 1 in every bin.

    Args:
        signal: [B, T].
        window: samples, a multiple of 4, at most T.

    Raises:
        ValueError: the window is longer than the signal or no multiple of 4.
    """
    length = signal.shape[1]
    if window % 4 or window > length:
        raise ValueError(
            f"a window of {window} samples does not fit {length} samples in steps of a quarter:"
            " use a multiple of 4 that is not longer than the crop"
        )
    hop = window // 4
    # Frames are four quarters each; slices of a reshaped array, where an index array would gather.
    quarters = signal[:, : length // hop * hop].reshape(signal.shape[0], -1, hop)
    frames = quarters.shape[1] - 3
    cut = jnp.concatenate([quarters[:, i : i + frames] for i in range(4)], axis=-1)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    hann = jnp.asarray(hann / np.sqrt(np.sum(hann**2)), jnp.float32)
    spectrum = jnp.fft.rfft(cut.astype(jnp.float32) * hann[None, None])
    power = spectrum.real**2 + spectrum.imag**2
    return jnp.sqrt(power + 1e-12)  # the gradient of a bare root has no bound at 0


def stft_distance(
    estimate: jax.Array,
    target: jax.Array,
    valid: jax.Array,
    *,
    windows: Sequence[int],
    floor: float,
) -> jax.Array:
    """Return [B]: distance of magnitude spectra, mean over resolutions.

    At each resolution: mean ``|log max(A, floor) - log max(B, floor)|`` plus mean ``(A - B)^2``
    over bins and frames. Multi-resolution as in arXiv 1910.11480; log L1 and linear L2 as in
    EnCodec, arXiv 2210.13438, section 3.4, on linear instead of mel frequency.

    Args:
        estimate, target: [B, T].
        valid: bool [B, S], S divides T; a frame counts when all seconds it touches are valid.
        windows: samples, each a multiple of 4.
        floor: magnitude below which nothing is compared; ``stft_magnitude`` has the unit. Signals
            that were low-passed are empty in some bins, whose logarithms are noise.

    Raises:
        ValueError: a window does not fit T.
    """
    mask = _samples(valid, target.shape[1])
    total = jnp.zeros(target.shape[0])
    for window in windows:
        a, b = stft_magnitude(estimate, window), stft_magnitude(target, window)
        counted = _whole_frames(mask, window)[..., None]
        log = jnp.abs(jnp.log(jnp.maximum(a, floor)) - jnp.log(jnp.maximum(b, floor)))
        total += masked_mean(log + (a - b) ** 2, jnp.broadcast_to(counted, a.shape))
    return total / max(len(windows), 1)


def _samples(valid: jax.Array, length: int) -> jax.Array:
    if length % valid.shape[1]:
        raise ValueError(f"{valid.shape[1]} seconds do not divide {length} samples")
    return jnp.repeat(valid, length // valid.shape[1], axis=1)


def _whole_frames(mask: jax.Array, window: int) -> jax.Array:
    """Return bool [B, F]: frames whose every sample counts."""
    hop = window // 4
    quarters = mask[:, : mask.shape[1] // hop * hop].reshape(mask.shape[0], -1, hop).all(-1)
    frames = quarters.shape[1] - 3
    return jnp.stack([quarters[:, i : i + frames] for i in range(4)]).all(0)


def unit(x: jax.Array) -> jax.Array:
    """Return ``x`` float32 with its last axis scaled to length 1; a vector of zeros stays."""
    x = x.astype(jnp.float32)
    squares = jnp.sum(x**2, -1, keepdims=True)
    # The smallest length is 1e-12. Not a root of the squares: its gradient at 0 would be NaN.
    return x * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))


def info_nce(
    x: jax.Array,
    y: jax.Array,
    counted: jax.Array,
    *,
    temperature: float,
    weights: jax.Array | None = None,
    same: jax.Array | None = None,
    hard_scale: float = 0.0,
    pos_margin: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """Return what it costs each row to find its own among the others, at each token.

    ``-log (exp g_i / sum_j w_ij exp g_ij)`` with ``g_ij = (cos(x_i, y_j) - m h_ij) / T`` and
    ``g_i = g_ii = (cos(x_i, y_i) + p) / T``; InfoNCE (arXiv 1807.03748) without w and h, and with
    those of ``dash_weights`` the loss of sleep2vec (arXiv 2602.13857).
    Logits and sums are float32, whatever the inputs are. No gradient reaches w and h.

    Args:
        x: anchors, [B, L, Z], of any length.
        y: [B, L, Z]; row i belongs to row i of x, and the others are its negatives.
        counted: bool [B, L]; other entries are no negatives, and cost 0.
        temperature: T.
        weights: w, float32 [B, B], the anchor's row first; its diagonal is the positives'.
        same: h, bool or float32 [B, B].
        hard_scale: m.
        pos_margin: p.

    Returns:
        float32 [B, L], in nats; and whether the largest cosine was the right one, bool [B, L].
    """

    def one_way(x, y):
        # The anchors' rows stay where they are on a mesh; all of y comes to them.
        cosines = jnp.einsum("blz,clz->blc", unit(x), unit(y), precision=jax.lax.Precision.HIGHEST)
        there = counted.T[None]  # [1, L, B]
        own = jnp.eye(len(x), dtype=bool)
        logits = cosines / temperature + own[:, None].astype(jnp.float32) * pos_margin / temperature
        right = jnp.sum(jnp.where(own[:, None], logits, 0.0), -1)
        if weights is not None:
            logits += jnp.log(jnp.maximum(jax.lax.stop_gradient(weights), SMALLEST_WEIGHT))[:, None]
        if same is not None:
            logits -= hard_scale / temperature * same.astype(jnp.float32)[:, None]
        lowest = jnp.finfo(jnp.float32).min
        logits = jnp.where(there | own[:, None], logits, lowest)
        cost = jax.nn.logsumexp(logits, axis=-1) - right
        best = jnp.argmax(jnp.where(there, cosines, lowest), -1)
        hit = best == jnp.arange(len(x))[:, None]
        return jnp.where(counted, cost, 0.0), hit & counted

    # Logits are B^2 L numbers: recomputed for the backward pass, not kept.
    return jax.checkpoint(one_way)(x, y)


def nt_xent(
    x: jax.Array,
    y: jax.Array,
    counted: jax.Array,
    *,
    temperature: float,
    apart: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return what it costs both views of each row to find each other among all views of all rows.

    NT-Xent (SimCLR, arXiv 2002.05709): of 2 N unit vectors, the anchor's partner against all others
    but itself, ``log sum_k exp(cos(a, k) / T) - cos(a, p) / T``, in float32.

    Args:
        x, y: two views, [N, Z] each, of any length.
        counted: bool [N]; other rows are no negatives, and cost 0.
        temperature: T.
        apart: bool [N, N], rows that are no negatives of each other, as two channels of one epoch;
            its diagonal is not looked at.

    Returns:
        float32 [N], the mean of both anchors of a row, in nats; and the share of them, float32 [N],
        to which the partner is the nearest (ties are its own).
    """
    own = jnp.eye(len(x), dtype=bool)
    known = counted[None] if apart is None else counted[None] & ~apart
    lowest = jnp.finfo(jnp.float32).min

    def one_way(x, y):
        # The anchors' rows stay where they are on a mesh; all others come to them.
        cosines = [jnp.matmul(x, z.T, precision=jax.lax.Precision.HIGHEST) for z in (y, x)]
        right = jnp.diagonal(cosines[0])
        others = jnp.concatenate([jnp.where(known & ~own, z, lowest) for z in cosines], axis=1)
        every = jnp.concatenate([others, right[:, None]], axis=1) / temperature
        cost = jax.nn.logsumexp(every, axis=1) - right / temperature
        return cost, (right >= others.max(1)).astype(jnp.float32)

    x, y = unit(x), unit(y)
    cost, hit = (0.5 * (a + b) for a, b in zip(one_way(x, y), one_way(y, x)))
    return jnp.where(counted, cost, 0.0), jnp.where(counted, hit, 0.0)


def pairing(
    x: jax.Array,
    y: jax.Array,
    counted: jax.Array,
    *,
    scale: jax.Array | float,
    alike: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return what it costs each row to find its partner, both ways: the contrast of CLIP.

    CLIP is arXiv 2103.00020. ``-log softmax_j(scale cos(x_i, y_j))`` at the partner, or the mean of
    it over all rows that are ``alike``; the mean of both ways, in float32.

    Args:
        x, y: [N, Z] each, of any length; row i belongs to row i.
        counted: bool [N]; other rows are no negatives, and cost 0.
        scale: of cosines.
        alike: bool [N, N], symmetric, rows that are right answers too; each is alike itself.

    Returns:
        float32 [N], in nats; and the share of both ways, float32 [N], in which the partner is the
        nearest (ties are its own).
    """
    own = jnp.eye(len(x), dtype=bool)
    right = (own if alike is None else alike | own) & counted[None]
    shares = right / jnp.maximum(right.sum(1, keepdims=True), 1)

    def one_way(x, y):
        # The anchors' rows stay where they are on a mesh; all others come to them.
        cosines = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
        there = jnp.where(counted[None], cosines, -1.0)
        logits = jnp.where(counted[None], scale * cosines, jnp.finfo(jnp.float32).min)
        kept = jax.nn.log_softmax(logits, axis=1)
        cost = -jnp.where(right, shares * kept, 0.0).sum(1)
        return cost, (jnp.diagonal(cosines) >= there.max(1)).astype(jnp.float32)

    x, y = unit(x), unit(y)
    cost, hit = (0.5 * (a + b) for a, b in zip(one_way(x, y), one_way(y, x)))
    return jnp.where(counted, cost, 0.0), jnp.where(counted, hit, 0.0)


def sigmoid_pairing(
    x: jax.Array,
    y: jax.Array,
    counted: jax.Array,
    *,
    scale: jax.Array | float,
    bias: jax.Array | float,
    alike: jax.Array | None = None,
) -> jax.Array:
    """Return what it costs to tell each row's partners from all others: SigLIP, arXiv 2303.15343.

    ``sum_j log(1 + exp(-z_ij (scale cos(x_i, y_j) + bias)))``, z being 1 for partners, else -1.

    Args:
        x, y, counted, alike: as ``pairing`` has them.
        scale, bias: of cosines.

    Returns:
        float32 [N], in nats.
    """
    own = jnp.eye(len(x), dtype=bool)
    sign = jnp.where(own if alike is None else alike | own, 1.0, -1.0)
    cosines = jnp.matmul(unit(x), unit(y).T, precision=jax.lax.Precision.HIGHEST)
    cost = jax.nn.softplus(-sign * (scale * cosines + bias))
    return jnp.where(counted[:, None] & counted[None], cost, 0.0).sum(1)


def hidden_error(predicted: jax.Array, target: jax.Array, hidden: jax.Array) -> jax.Array:
    """Return [N]: mean squared error of the hidden tokens of each row, over their features.

    Args:
        predicted, target: [N, T, D].
        hidden: bool [N, T].
    """
    return masked_mean(((predicted - target) ** 2).mean(-1), hidden)


def smooth_l1(error: jax.Array) -> jax.Array:
    """Return the Huber loss of errors, of any shape: half their square up to 1, then linear."""
    size = jnp.abs(error)
    return jnp.where(size < 1, 0.5 * size**2, size - 0.5)


def spread(tokens: jax.Array, counted: jax.Array) -> jax.Array:
    """Return the variance of each feature over all tokens of the rows that count, float32 [D].

    It is what a predictor that always says the mean would get as its squared error; where it falls
    towards 0, targets have collapsed. No gradient passes.

    Args:
        tokens: [N, T, D].
        counted: bool [N].
    """
    tokens = jax.lax.stop_gradient(tokens).astype(jnp.float32)
    weight = counted[:, None, None].astype(jnp.float32)
    count = jnp.maximum(weight.sum() * tokens.shape[1], 1.0)
    mean = (tokens * weight).sum((0, 1), keepdims=True) / count
    return ((tokens - mean) ** 2 * weight).sum((0, 1)) / count


SMALLEST_WEIGHT = 1e-6  # what the code form keeps below every weight


def dash_weights(
    age: jax.Array,
    sex: jax.Array,
    site: jax.Array,
    night: jax.Array,
    counted: jax.Array,
    *,
    sigma_age: float = 20.0,
    alpha_sex: float = 0.8,
    site_same: float = 1.3,
    site_different: float = 0.8,
    missing: str = "remove",
    form: str = "code",
) -> tuple[jax.Array, jax.Array]:
    """Return how much each row weighs as another's negative: sleep2vec, arXiv 2602.13857.

    Those of like age, sex and site weigh more, those of the same night next to nothing. As in the
    official code: ``r = clip(exp(-|age_i - age_j| / sigma) * sex, 0, 1) * site + 1e-6``, 1e-6 for
    the same night, scaled so that an anchor's negatives of other nights weigh 1 in the mean, and
    the positive 1. An anchor without any such negative keeps r for those of its night.

    Args:
        age: int32 or float32 [B], years; negative where unknown.
        sex: int32 [B], negative where unknown.
        site: int32 [B]; what is unknown is a site of its own.
        night: int32 [B].
        counted: bool [B]; other rows are nobody's negatives.
        sigma_age: years.
        alpha_sex: weight of the other sex.
        site_same, site_different: weights of sites.
        missing: what an unknown age or sex makes of a pair: ``"remove"``, as in the code, nearly
            removes it; ``"neutral"`` gives it the mean of the anchor's known ones.
        form: ``"code"``; ``"paper"`` is the equation as the paper has it, in which the positive
            is weighted like the others, those of the same night keep their weight, and each row's
            mean is 1.

    Returns:
        w float32 [B, B], anchors first; h bool [B, B], those of the same night.

    Raises:
        ValueError: another ``missing`` or ``form``.
    """
    if missing not in ("remove", "neutral") or form not in ("code", "paper"):
        raise ValueError(
            f"missing={missing!r}, form={form!r}: missing is 'remove' or 'neutral', form is"
            " 'code' or 'paper'"
        )
    age = age.astype(jnp.int32).astype(jnp.float32)  # whole years, as in the code
    known = (age >= 0) & (sex >= 0)
    known = known[:, None] & known[None]
    other = ~jnp.eye(len(age), dtype=bool)
    alike = jnp.exp(-jnp.abs(age[:, None] - age[None]) / sigma_age)
    alike *= jnp.where(sex[:, None] == sex[None], 1.0, alpha_sex)
    among = known & other & counted[None]
    if missing == "neutral":
        count = among.sum(1, keepdims=True)
        mean = jnp.sum(jnp.where(among, alike, 0.0), 1, keepdims=True) / jnp.maximum(count, 1)
        alike = jnp.where(known, alike, jnp.where(count > 0, mean, 1.0))
    else:
        alike = jnp.where(known, alike, 0.0)
    place = jnp.where(site[:, None] == site[None], site_same, site_different)
    same = (night[:, None] == night[None]) & other
    raw = jnp.clip(alike, 0.0, 1.0) * place
    if form == "paper":
        raw += SMALLEST_WEIGHT * same
        total = jnp.sum(jnp.where(counted[None], raw, 0.0), 1, keepdims=True)
        return raw * counted.sum() / jnp.maximum(total, SMALLEST_WEIGHT), same
    raw = jnp.where(other, raw + SMALLEST_WEIGHT, 1.0)
    negatives = other & ~same & counted[None]
    alone = ~negatives.any(1, keepdims=True)
    negatives = jnp.where(alone, other & counted[None], negatives)
    weights = jnp.where(same & ~alone, SMALLEST_WEIGHT, raw)
    total = jnp.sum(jnp.where(negatives, weights, 0.0), 1, keepdims=True)
    mean = total / (negatives.sum(1, keepdims=True) + SMALLEST_WEIGHT)
    weights /= jnp.maximum(mean, SMALLEST_WEIGHT)
    return jnp.where(other, weights, 1.0), same


def cox_partial_likelihood(
    risk: jax.Array, time: jax.Array, event: jax.Array, counted: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return Cox's negative log partial likelihood as sums over labels, ties after Breslow.

    Of each label, the mean over its events i of ``log sum_{j: t_j >= t_i} exp(r_j) - r_i``. The
    weight is how many labels have an event: the mean over those is sum / weight.

    Args:
        risk: [B, K], the log risk of each label.
        time: [B, K], until the event, or until nothing more is known.
        event: bool [B, K].
        counted: bool [B, K].

    Returns:
        Two float32 scalars.
    """
    risk = jnp.where(counted, risk.astype(jnp.float32), 0.0)
    at_risk = (time[None] >= time[:, None]) & counted[None]  # [event i, other j, K]
    there = jnp.where(at_risk, risk[None], -jnp.inf)
    event = event & counted
    # whoever has the event is at risk itself; for others the sum may be empty
    there = jnp.where(event[:, None], there, 0.0)
    cost = jnp.where(event, jax.nn.logsumexp(there, axis=1) - risk, 0.0)
    events = event.sum(0)
    each = cost.sum(0) / jnp.maximum(events, 1)
    return each.sum(), (events > 0).sum().astype(jnp.float32)
