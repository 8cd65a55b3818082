"""Cells of a night and the means around them, against the plainest way to say the same."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from hypnos_jax.heads.cells import around, cells_of, silenced


@hypothesis.given(st.integers(1, 40), st.sampled_from([1, 3, 9, 31]), st.integers(0, 2**31))
def test_means_around_are_those_of_the_cells_that_are_known(count, span, seed):
    rng = np.random.default_rng(seed)
    cells = rng.normal(size=(count, 3)).astype(np.float32)
    cells[rng.random(cells.shape) < 0.3] = np.nan
    found = around(cells, (span,))
    np.testing.assert_array_equal(found[:, :3], cells)
    for i in range(count):
        own = cells[max(i - span // 2, 0) : i + span // 2 + 1]
        for k in range(3):
            known = own[np.isfinite(own[:, k]), k]
            want = known.mean() if len(known) else np.nan
            np.testing.assert_allclose(found[i, 3 + k], want, rtol=1e-4, atol=1e-5)


def test_a_cell_is_the_mean_of_its_rows_with_signal():
    rows = np.arange(1, 15, dtype=np.float16).reshape(7, 2)
    rows[1] = 0  # no signal
    found = cells_of({"a": rows, "b": rows * 0}, ("a", "b", "c"), 1.0, 3.0)
    assert found.shape == (2, 6)
    np.testing.assert_allclose(found[:, :2], [[3, 4], [9, 10]])
    assert np.isnan(found[:, 2:]).all()


@pytest.mark.parametrize(
    "options, what", [((2.0, 3.0), "not whole rows of 2 s"), ((60.0, 30.0), "rows of 60 s")]
)
def test_cells_that_are_no_whole_rows_are_refused(options, what):
    with pytest.raises(ValueError, match=what):
        cells_of({"a": np.ones((7, 2))}, ("a",), *options)
    with pytest.raises(ValueError, match="none of"):
        cells_of({"a": np.ones((7, 2))}, ("b",), 1.0, 3.0)


def test_rows_without_signal_are_silent():
    rows = np.ones((4, 2), np.float16)
    valid = {"a": np.array([1, 0, 1, 1], bool), "b": np.array([0, 0, 1, 0], bool)}
    found = silenced({"a": rows, "b": rows, "fused": rows}, valid, 1.0)
    assert [x[:, 0].tolist() for x in found.values()] == [[1, 0, 1, 1], [0, 0, 1, 0], [1, 0, 1, 1]]
    longer = {"a": np.repeat([False, True, False], 30)}
    assert silenced({"a": np.ones((4, 1))}, longer, 30.0)["a"][:, 0].tolist() == [0, 1, 0, 0]
    assert silenced({"a": rows}, {}, 1.0)["a"] is rows
