"""A small published network trained from scratch on the labels: the row that every probe must beat.

The network of Chambon et al. 2018 (arXiv 1707.03321), about ten thousand numbers: channels mixed,
then twice a convolution over half a second with 8 filters and a maximum over an eighth, and one
layer to the stages, epoch by epoch. Signals are those of the store. How many passes are made is
chosen on validation people; penalty and rate are the paper's or ours and are not searched.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from data_pipelines.store import EPOCH_S, NightEntry, NightStore

KINDS = ("eeg", "eog", "emg")
CLASSES, BATCH = 5, 128
MOST_EPOCHS = 12_000  # ours: of scored sleep that are trained on; as many as fit into memory
PASSES, PATIENCE = 40, 5


class SmallNetwork(nn.Module):
    """[B, T, C] samples at ``rate_hz`` to logits [B, 5]."""

    rate_hz: int

    @nn.compact
    def __call__(self, samples, train: bool = False):
        rows, length, channels = samples.shape
        x = nn.Dense(channels)(samples)
        x = jnp.moveaxis(x, 2, 1).reshape(rows * channels, length, 1)
        for _ in range(2):
            x = nn.relu(nn.Conv(8, (self.rate_hz // 2,))(x))
            pool = max(self.rate_hz // 8, 2)
            x = nn.max_pool(x, (pool,), strides=(pool,))
        x = nn.Dropout(0.25, deterministic=not train)(x.reshape(rows, -1))
        return nn.Dense(CLASSES)(x)


def channels_of(store: NightStore) -> list[str]:
    """Return the channels of EEG, EOG and EMG that have the rate of the first EEG; none without."""
    rates = {c["name"]: c["rate_hz"] for c in store.manifest.get("channels", [])}
    own = {name: rate for name, rate in rates.items() if name.startswith(KINDS)}
    first = next((rate for name, rate in own.items() if name.startswith("eeg")), None)
    return [name for name, rate in own.items() if rate == first]


def epochs_of(store: NightStore, night: NightEntry, channels: Sequence[str]) -> np.ndarray:
    """Return the samples of the whole epochs, float16 [E, T, C]; 0 where a channel is missing."""
    count, rate = night.duration_s // EPOCH_S, store.rate_hz(channels[0])
    rows = [store.signal(night, name, 0, count * EPOCH_S) for name in channels]
    return np.stack(rows, -1).astype(np.float16).reshape(count, EPOCH_S * rate, len(channels))


def train_and_answer(
    store: NightStore,
    train: Sequence[NightEntry],
    validation: Sequence[NightEntry],
    test: Sequence[NightEntry],
    *,
    seed: int = 0,
) -> tuple[dict[str, np.ndarray], dict]:
    """Train a network and return its answers.

    Args:
        store: of signals, with ``channels_of``.
        train, validation: nights whose stages it learns, and those that choose the passes; without
            labels for the latter a tenth of the former's epochs.
        test: nights that it answers.
        seed: of the weights and of the order.

    Returns:
        Recording -> logits float32 [E, 5]; and ``parameters passes epochs channels``.
    """
    channels = channels_of(store)
    rng = np.random.default_rng(seed)
    x, y = _labelled(store, train, channels, rng, MOST_EPOCHS)
    held_x, held_y = _labelled(store, validation, channels, rng, MOST_EPOCHS // 4)
    if not len(held_y):
        order, part = rng.permutation(len(y)), max(len(y) // 10, 1)
        held_x, held_y = x[order[:part]], y[order[:part]]
        x, y = x[order[part:]], y[order[part:]]
    network = SmallNetwork(store.rate_hz(channels[0]))
    batch = min(BATCH, len(y))
    variables = network.init(jax.random.key(seed), jnp.zeros((batch, *x.shape[1:])))
    optimizer = optax.adam(1e-3)
    state = optimizer.init(variables)

    @jax.jit
    def step(variables, state, rows, labels, key):
        def loss(variables):
            logits = network.apply(variables, rows, train=True, rngs={"dropout": key})
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        change, state = optimizer.update(jax.grad(loss)(variables), state)
        return optax.apply_updates(variables, change), state

    apply = jax.jit(network.apply)

    def answer(variables, rows):
        padded = np.zeros((-(-len(rows) // batch) * batch, *rows.shape[1:]), np.float16)
        padded[: len(rows)] = rows
        parts = [
            apply(variables, padded[i : i + batch].astype(np.float32))
            for i in range(0, len(padded), batch)
        ]
        return np.concatenate([*parts, np.zeros((0, CLASSES), "f4")])[: len(rows)]

    best, since, kept, passes = np.inf, 0, variables, 0
    for number in range(1, PASSES + 1):
        order = rng.permutation(len(y))
        for i in range(0, len(y) - batch + 1, batch):
            own, key = order[i : i + batch], jax.random.key(rng.integers(2**31))
            rows = x[own].astype(np.float32)
            variables, state = step(variables, state, rows, y[own], key)
        logits = answer(variables, held_x)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, held_y).mean()
        if loss < best:
            best, since, kept, passes = float(loss), 0, variables, number
        elif (since := since + 1) == PATIENCE:
            break
    said = {night.recording: answer(kept, epochs_of(store, night, channels)) for night in test}
    count = sum(leaf.size for leaf in jax.tree.leaves(kept))
    told = {"parameters": int(count), "passes": passes, "epochs": len(y), "channels": channels}
    return said, told


def _labelled(store, nights, channels, rng, most):
    """Scored epochs of nights, at most so many, equally many of each night."""
    xs, ys = [], []
    for night in nights:
        stages = store.stages(night)[: night.duration_s // EPOCH_S]
        places = np.flatnonzero(stages >= 0)
        share = -(-most // max(len(nights), 1))
        places = np.sort(rng.permutation(places)[:share])
        if len(places):
            xs.append(epochs_of(store, night, channels)[places])
            ys.append(stages[places].astype(np.int64))
    if not xs:
        return np.zeros((0, 0, len(channels)), np.float16), np.zeros(0, np.int64)
    return np.concatenate(xs), np.concatenate(ys)
