"""InfoNCE and its weights against worked numbers, a plain loop, and what must hold.

The numbers are of the official implementation, run by others; see ``CASES``.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypnos_jax import losses

info_nce = jax.jit(losses.info_nce)
dash_weights = jax.jit(losses.dash_weights, static_argnames=("missing", "form"))

# Four windows, two tokens, three features, not of unit length.
A = np.float32(
    [
        [[1, 0, 0], [1, 1, 0]],
        [[1, 1, 0], [0, 1, 0]],
        [[0, 1, 1], [0, 1, 1]],
        [[0, 0, 1], [1, 0, 1]],
    ]
)
B = np.float32(
    [
        [[1, 0.5, 0], [1, 0, 0]],
        [[1, 0, 0], [0, 1, 0.5]],
        [[0, 1, 0], [0, 0.5, 1]],
        [[0, 0.5, 1], [1, 0, 0]],
    ]
)
FACTS = {
    "age": (40, 40, 60, 50),
    "sex": (1, 1, 0, 1),
    "site": (0, 0, 0, 1),
    "night": (0, 0, 1, 2),
}
APART = (0, 1, 2, 3)
UNKNOWN = (-1, -1, -1, -1)


def weights_of(facts=None, counted=(True,) * 4, **options):
    facts = FACTS | (facts or {})
    arrays = (jnp.asarray(facts[name], jnp.int32) for name in FACTS)
    return dash_weights(*arrays, jnp.asarray(counted), **options)


def mean_loss(x=A, y=B, weights=None, same=None, **options):
    counted = np.ones(x.shape[:2], bool)
    options = {"temperature": 0.2, "hard_scale": 0.1, **options}
    ways = [
        info_nce(*pair, counted, weights=weights, same=same, **options)[0].mean()
        for pair in ((x, y), (y, x))
    ]
    return 0.5 * (ways[0] + ways[1])


def dash(x=A, y=B, facts=None, form="code", **options):
    return mean_loss(x, y, *weights_of(facts, form=form), **options)


CASES = {
    "defaults": (lambda: dash(), 0.571921),
    "plain InfoNCE": (lambda: mean_loss(), 0.874064),
    "a margin for the positive": (lambda: dash(pos_margin=0.3), 0.178397),
    "T = 0.1": (lambda: dash(temperature=0.1), 0.599394),
    "the first token": (lambda: dash(A[:, :1], B[:, :1]), 0.488368),
    "the first token, plain": (lambda: mean_loss(A[:, :1], B[:, :1]), 1.047792),
    "the first token, no margin": (lambda: dash(A[:, :1], B[:, :1], hard_scale=0.0), 0.488369),
    "nights differ": (lambda: dash(facts={"night": APART}), 0.949365),
    "the margin alone": (lambda: mean_loss(same=weights_of()[1]), 0.790829),
    "a margin of 1 alone": (lambda: mean_loss(same=weights_of()[1], hard_scale=1.0), 0.580452),
    "nothing known": (
        lambda: dash(facts={"age": UNKNOWN, "sex": UNKNOWN, "site": (0,) * 4, "night": APART}),
        0.874064,
    ),
    "one age unknown": (lambda: dash(facts={"age": (40, 40, -1, 50), "night": APART}), 0.938623),
    "all of one night": (
        lambda: dash(
            facts={"age": (40,) * 4, "sex": (1,) * 4, "site": (0,) * 4, "night": (0,) * 4}
        ),
        0.632033,
    ),
    "two by two": (
        lambda: dash(
            facts={
                "age": (40, 40, 60, 60),
                "sex": (1, 1, 0, 0),
                "site": (0, 0, 1, 1),
                "night": (0, 0, 1, 1),
            }
        ),
        0.411527,
    ),
    "the paper's equation": (lambda: dash(form="paper"), 1.044175),
}


@pytest.mark.parametrize("name", CASES)
def test_worked_numbers(name):
    compute, expected = CASES[name]
    assert float(compute()) == pytest.approx(expected, abs=2e-6)


def test_worked_weights():
    found, same = weights_of()
    expected = [
        [1, 2.305e-6, 0.881739, 1.118262],
        [2.305e-6, 1, 0.881739, 1.118262],
        [0.995158, 0.995158, 1, 1.009685],
        [1.071429, 1.071429, 0.857143, 1],
    ]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.argwhere(same).tolist() == [[0, 1], [1, 0]]
    found, _ = weights_of({"age": (40, 40, -1, 50), "night": APART})
    np.testing.assert_allclose(found[3], [1.499999, 1.499999, 3.09e-6, 1], atol=2e-6)
    np.testing.assert_allclose(found[2], 1, atol=2e-6)


def test_worked_costs_of_each_anchor():
    weights, same = weights_of()
    there = np.ones((4, 2), bool)
    options = {"temperature": 0.2, "weights": weights, "same": same, "hard_scale": 0.1}
    one, _ = info_nce(A, B, there, **options)
    expected = [
        [0.022591, 0.807886],
        [0.713021, 0.101665],
        [1.514856, 0.699436],
        [0.033695, 1.034369],
    ]
    np.testing.assert_allclose(one, expected, atol=2e-6)
    other, _ = info_nce(B, A, there, **options)
    np.testing.assert_allclose(other[:, 0], [0.0599, 0.056657, 0.719587, 0.786634], atol=2e-6)


def test_worked_gradients():
    grads = jax.jit(jax.grad(lambda a, b: dash(a, b), argnums=(0, 1)))(A, B)
    norms = [float(jnp.linalg.norm(g.reshape(-1))) for g in grads]
    assert norms == pytest.approx([0.418625, 0.663459], abs=2e-6)


def test_constant_embeddings_cost_the_logarithm_of_the_batch():
    ones = np.ones((4, 2, 3), np.float32)
    assert float(mean_loss(ones, ones)) == pytest.approx(np.log(4), abs=1e-6)
    assert float(dash(ones, ones, {"night": APART})) == pytest.approx(np.log(4), abs=2e-6)
    assert float(dash(ones, ones)) == pytest.approx(1.242454, abs=2e-6)  # two share a night


def loop(x, y, weights, same, temperature, margin):
    """The definition, one anchor at a time, in float64."""
    costs = np.zeros(x.shape[:2])
    x, y = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (x, y))
    for i in range(len(x)):
        for t in range(x.shape[1]):
            total = 0.0
            for j in range(len(x)):
                g = x[i, t] @ y[j, t] / temperature
                if j != i:
                    g += np.log(max(weights[i, j], 1e-6)) - margin * same[i, j] / temperature
                total += np.exp(g)
            costs[i, t] = np.log(total) - x[i, t] @ y[i, t] / temperature
    return costs


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(3, 1, 2), (5, 3, 4)]))
def test_a_plain_loop_agrees(seed, shape):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, *shape)).astype(np.float32)
    rows = shape[0]
    facts = [rng.integers(-1, high, rows) for high in (90, 2, 3, 3)]
    weights, same = dash_weights(*map(jnp.asarray, facts), jnp.ones(rows, bool))
    options = {"temperature": 0.2, "weights": weights, "same": same, "hard_scale": 0.1}
    found, _ = info_nce(x, y, np.ones(shape[:2], bool), **options)
    weights, same = np.asarray(weights), np.asarray(same)
    expected = loop(x.astype(float), y.astype(float), weights, same, 0.2, 0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    negatives = ~np.eye(rows, dtype=bool) & ~same
    for i in np.flatnonzero(negatives.any(1)):
        assert float(weights[i][negatives[i]].mean()) == pytest.approx(1, abs=1e-5)


def test_directions_may_be_swapped():
    assert float(dash(A, B)) == pytest.approx(float(dash(B, A)), abs=1e-7)


def test_what_is_not_counted_is_nobodys_negative():
    counted = np.array([True, True, False, True])
    few = {name: tuple(np.array(x)[counted]) for name, x in FACTS.items()}
    weights, same = weights_of(counted=counted)
    there = np.repeat(counted[:, None], 2, 1)
    options = {"temperature": 0.2, "hard_scale": 0.1}
    found, hits = info_nce(A, B, there, weights=weights, same=same, **options)
    arrays = (jnp.asarray(few[name], jnp.int32) for name in FACTS)
    weights, same = dash_weights(*arrays, jnp.ones(3, bool))
    alone, _ = info_nce(
        A[counted], B[counted], there[counted], weights=weights, same=same, **options
    )
    np.testing.assert_allclose(found[counted], alone, rtol=1e-5)
    assert not found[~counted].any()
    assert not hits[~counted].any()


def test_the_nearest_is_found_by_cosine_alone():
    own = np.broadcast_to(np.eye(5, dtype=np.float32)[:, None], (5, 3, 5))
    there = np.ones((5, 3), bool)
    assert info_nce(own, own, there, temperature=0.2)[1].all()
    assert not info_nce(own, np.roll(own, 1, 0), there, temperature=0.2)[1].any()


def test_an_unknown_age_or_sex_may_count_as_an_average_one():
    facts = {"age": (40, 40, -1, 50), "night": APART, "site": (0,) * 4}
    found = np.asarray(weights_of(facts, missing="neutral")[0])
    known = np.asarray(weights_of({**facts, "age": (40, 40, 60, 50)})[0])
    assert found[0, 2] == pytest.approx(1, abs=1e-5)  # the mean of the others
    assert found[0, 1] > found[0, 2] > found[0, 3]
    assert known[0, 2] != pytest.approx(1, abs=0.1)


def test_zeros_have_a_gradient():
    zeros = jnp.zeros((3, 2, 4))
    grads = jax.jit(jax.grad(lambda x: mean_loss(x, zeros)))(zeros)
    assert np.isfinite(grads).all()


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="missing='drop', form='code'"):
        weights_of(missing="drop")
