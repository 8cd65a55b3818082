"""The algebra of sweeps, by its laws."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.grids import axis, chain, product, where, zipped


def grids(letter):
    """Grids over keys of their own, so that any two may be merged."""
    keys = st.sampled_from([f"{letter}.{i}" for i in range(3)])
    runs = st.dictionaries(keys, st.integers(0, 9), max_size=3)
    return st.lists(runs, max_size=4)


quick = settings(deadline=None, max_examples=40)
A, B, C = grids("a"), grids("b"), grids("c")


@quick
@given(A, B, C)
def test_product_is_associative_and_has_a_unit(a, b, c):
    assert product(product(a, b), c) == product(a, product(b, c)) == product(a, b, c)
    assert product(a, [{}]) == product([{}], a) == product(a) == a
    assert len(product(a, b, c)) == len(a) * len(b) * len(c)


@quick
@given(A, A, B)
def test_product_distributes_over_chain(a, more, b):
    assert product(chain(a, more), b) == chain(product(a, b), product(more, b))
    assert len(chain(a, more)) == len(a) + len(more)


@quick
@given(A, B)
def test_product_has_every_pair_once_the_last_grid_fastest(a, b):
    assert product(a, b) == [{**left, **right} for left in a for right in b]


@quick
@given(A)
def test_zipped_pairs_runs_by_place(a):
    b = [{"b": i} for i in range(len(a))]
    assert zipped(a, b) == [{**left, **right} for left, right in zip(a, b)]
    with pytest.raises(ValueError, match="equally long"):
        zipped(a, [*b, {}])


@quick
@given(A, B)
def test_where_keeps_order_and_commutes_with_chain(a, b):
    some = lambda run: sum(run.values()) % 2 == 0
    assert where(some, chain(a, b)) == chain(where(some, a), where(some, b))
    assert all(map(some, where(some, a)))
    assert where(lambda run: True, a) == a and where(lambda run: False, a) == []


@quick
@given(A, B)
def test_nothing_that_was_given_is_changed(a, b):
    before = [dict(run) for run in a]
    out = chain(product(a, b), where(lambda run: True, a))
    for run in out:
        run["new"] = 1
    assert a == before


def test_two_grids_may_not_set_the_same_key():
    with pytest.raises(ValueError, match=r"\['x'\]"):
        product(axis("x", 1, 2), axis("x", 3))
    with pytest.raises(ValueError, match=r"\['x'\]"):
        zipped([{"x": 1}], [{"x": 1}])


def test_an_axis_names_its_values_and_names_are_joined():
    grid = product(axis("a.b", 1e15, stem="c"), axis("d", 64, 128, stem="d"), axis("e", True))
    assert grid == [
        {"a.b": 1e15, "d": 64, "e": True, "stem": "c1e+15-d64"},
        {"a.b": 1e15, "d": 128, "e": True, "stem": "c1e+15-d128"},
    ]
