"""The report of laws: names of runs and metrics cannot become markup."""

import csv
import dataclasses
import html

import numpy as np
import pytest

from hypnos_jax.laws import report, runs

pytest.importorskip("matplotlib")


@pytest.mark.parametrize(
    "label", ["<script>alert(1)</script>", "\"><img src=x onerror='a()'>", "{{ 7 * 7 }}{% raw %}"]
)
def test_a_label_shows_as_it_is_wherever_it_stands(tmp_path, label):
    path, metric = tmp_path / "points.csv", f"eval/probe/{label}"
    losses = np.linspace(3, 2, 6)
    rows = [[1e6 * 2**i, 1e8, x, 1e12, 1 - x / 4] for i, x in enumerate(losses)]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["params", "data", "loss", "flops", metric], *rows])
    table = runs.Table.of_csv(path)
    table = dataclasses.replace(
        table, names=[label] * 6, metric=label, what=label, left_out={label: label}
    )
    report.write(table, tmp_path, only=["probe"], probes=[metric])
    page = (tmp_path / "laws.html").read_text()
    assert html.unescape(page).count(label) >= 6 + 2 + 1 + 2 + 2
    assert label not in page or label.startswith("{{")
    assert "<img src=x" not in page and "<script" not in page
    assert 'class="n"' in page  # numbers of the same table
