"""The command that fits laws, as a user calls it."""

import csv
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from hypnos_jax.laws import runs

ROOT = pathlib.Path(__file__).parent.parent.parent


def fit_laws(*flags):
    return subprocess.run(
        [sys.executable, "-m", "launch.fit_laws", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def write_points(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def test_a_table_of_runs_becomes_a_report_that_needs_no_other_file(tmp_path):
    rng, rows = np.random.default_rng(0), []
    for flops in np.geomspace(1e12, 3e13, 4):
        for params in 0.06 * flops**0.5 * np.geomspace(0.2, 5, 5):
            data = flops / 6 / params
            loss = (1.7 + 40 / params**0.35 + 300 / data**0.37) * np.exp(0.003 * rng.normal())
            rows.append([params, data, loss, flops, 1 - 0.2 * loss])
    header = ["params", "data", "loss", "budget", "eval/probe/stage/kappa"]
    write_points(tmp_path / "points.csv", header, rows)
    corpus = ("--budget_flops=1e14", "--nights=100", "--hours=8", "--channels=1")
    out = tmp_path / "out"
    done = fit_laws(f"--points={tmp_path}/points.csv", f"--output={out}", *corpus)
    assert done.returncode == 0, done.stderr
    assert "With 1e+14 FLOPs and 100 nights of 8 h and 1 channels: train" in done.stdout
    assert "borrowed from language models" in done.stdout  # 2.88e6 units are too few
    found = json.loads((out / "laws.json").read_text())
    assert set(found) >= {"isoflop", "parametric", "holdout", "probe", "recommendation"}
    assert 0.4 < found["isoflop"]["a"]["low"] < found["isoflop"]["a"]["high"] < 0.65
    assert found["recommendation"]["epochs"]["value"] > 1
    page = (out / "laws.html").read_text()
    assert not re.search(r"(src|href)=['\"](?!data:)", page)
    assert page.count("data:image/png") == len(list(out.glob("*.png"))) == 4
    for words in ("Recommendation", "What was run", "What to doubt", "borrowed", "row 20"):
        assert words in page
    again = runs.Table.of_csv(out / "runs.csv")
    np.testing.assert_allclose(again.points.loss, [row[2] for row in rows])
    assert np.isinf(again.points.unique).all()
    assert "the corpus is taken as 2.88e+06 units of data" in done.stdout


def test_runs_that_carry_no_law_make_a_report_that_says_so(tmp_path):
    path, out = tmp_path / "points.csv", tmp_path / "out"
    rows = [[1e6, 1e8, 2.0 + i, 10**i] for i in range(4)]
    write_points(path, ["params", "data", "loss", "flops"], rows)
    done = fit_laws(f"--points={path}", f"--output={out}", "--law=isoflop,parametric")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("None: these runs carry no law of size and data.")
    page = (out / "laws.html").read_text()
    assert "Not fitted: 4 runs for 5 parameters" in page
    assert "Not fitted: no budget has three sizes" in page


def test_what_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "points.csv"
    write_points(path, ["params", "loss"], [[1, 2]])
    with pytest.raises(ValueError, match=r"points.csv has no column data"):
        runs.Table.of_csv(path)
    write_points(path, ["params", "data", "loss"], [[1, "many", 2]])
    with pytest.raises(ValueError, match=r"points.csv, column data: .*many"):
        runs.Table.of_csv(path)
    write_points(path, ["params", "data", "loss"], [[1, 0, 2]])
    with pytest.raises(ValueError, match=r"data of the runs must be 1 numbers above 0"):
        runs.Table.of_csv(path)
