"""The RQ-Transformer over quantised epochs: it looks back alone, and its codebooks follow."""

import jax
import numpy as np
import pytest

from hypnos_jax.objectives.epoch_next_token import EpochNextToken

ROWS, TOKENS, CODES = 4, 10, 8
MODALITIES = tuple({"name": n, "rate_hz": 1, "frames": 5} for n in ("eeg", "eog"))
MODEL = {
    "modalities": MODALITIES,
    "dim": 16,
    "layers": 1,
    "heads": 2,
    "local_window": 4,
    "wide_every": 0,
    "depth_dim": 8,
    "depth_layers": 1,
    "depth_heads": 2,
    "chunk": 10,
}


def nights(seed=0):
    rng = np.random.default_rng(seed)
    valid = np.ones((ROWS, TOKENS, 2), bool)
    valid[0, 6:] = False
    return {
        **{
            f"signal/{m['name']}": rng.integers(-300, 300, (ROWS, TOKENS, 5)).astype(np.int16)
            for m in MODALITIES
        },
        "scale": np.full((ROWS, 2), 0.01, np.float32),
        "present": valid.any(1),
        "valid": valid,
        "weight": np.ones(ROWS, np.float32),
    }


def test_codes_follow_the_data_and_rows_look_back_alone():
    objective = EpochNextToken(MODEL, levels=2, codes=CODES)
    variables = jax.jit(objective.init)(jax.random.key(0), nights())

    @jax.jit
    def see(variables, seed):
        keys = dict(zip(("dropout", "crp", "vq"), jax.random.split(jax.random.key(seed), 3)))
        loss, new = objective.apply(variables, nights(), train=True, rngs=keys, mutable=["vq"])
        return loss, {**variables, **new}

    for seed in range(3):  # a level a batch
        loss, variables = see(variables, seed)
    assert all(x["initialised"].all() for x in variables["vq"].values())
    assert float(loss.weight) == 2 * (6 + 3 * TOKENS)
    nats = float(loss.total / loss.weight)
    assert nats == pytest.approx(np.log(CODES), rel=0.2)
    each = [float(x / w) for name, (x, w) in loss.metrics.items() if name.startswith("loss/")]
    assert np.mean(each) == pytest.approx(nats, rel=1e-5)

    embed = jax.jit(lambda batch: objective.apply(variables, batch, method="embed"))
    before = embed(nights())
    assert before.rows.shape == (ROWS, TOKENS, 2, 16) and not before.rows[0, 6:].any()
    other = nights()
    other["signal/eeg"][2, 5] = -other["signal/eeg"][2, 5]
    after = embed(other)
    np.testing.assert_array_equal(after.rows[2, :5], before.rows[2, :5])
    assert np.abs(after.rows[2, 5] - before.rows[2, 5]).max() > 1e-4
