"""Nights that are series: what a folder of arrays becomes, and what is wrong with one."""

import csv
import itertools
import pathlib
import pickle
import tempfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from data_pipelines import pipeline, recipes
from data_pipelines.builders import arrays, arrays_folder
from data_pipelines.builders.night_builder import write_store
from data_pipelines.recipes.arrays import Series, series_of
from data_pipelines.splits import split_of
from data_pipelines.store import NightStore
from data_pipelines.synthetic import write_tiny_modalities

POWERS = """
[series.powers]
values = 3
clip = 4
[series.hr]
events = "beats"
step_s = 10
scaling = "none"
[stages]
codes = { 1 = "N3", 5 = "R", 6 = "W", 7 = "none" }
[events]
scored = ["apnea"]
"""
COLUMNS = ("file", "subject", "night", "split", "age", "sex", "asthma", "ward")
EPOCHS = 6


def night(seed=0, epochs=EPOCHS, **changes):
    rng = np.random.default_rng(seed)
    own = {
        "powers": rng.standard_normal((epochs, 3)) * [1, 10, 100] + 5,
        "beats": np.arange(0, epochs * 30, 0.8),
        "stages": np.array([6, 1, 5, 7, 9, 1][:epochs]),
    }
    return {key: x for key, x in (own | changes).items() if x is not None}


def write(folder, nights, rows=None, declared=POWERS, events=()):
    folder.mkdir(exist_ok=True)
    for name, own in nights.items():
        np.savez(folder / f"{name}.npz", **own)
    rows = rows or [{"file": f"{name}.npz", "subject": name} for name in nights]
    with open(folder / "index.csv", "w", newline="") as file:
        index = csv.DictWriter(file, dict.fromkeys(itertools.chain(COLUMNS, *rows)))
        index.writeheader()
        index.writerows(rows)
    if events:
        text = "\n".join(["night,kind,onset_s,duration_s", *events])
        (folder / "events.csv").write_text(text)
    (folder / "series.toml").write_text(declared)
    return folder


def prepare(folder, output):
    """The store, rejects and findings of the run, as ``prepare_nights`` makes them."""
    told, found = arrays_folder.read_declaration(folder), []
    items, left = arrays_folder.find_nights(folder, told, found)
    recipe = arrays.measured(tuple(told.recipe.rows.values()), items, output)
    summary = write_store(
        output,
        kind="signals",
        items=items,
        make_night=arrays.ReadArrays(tuple(recipe.rows.values()), told.stage_codes),
        left_aside=left,
        recipe=recipe.identity,
        progress=False,
    )
    store = NightStore(output) if (output / "manifest.json").is_file() else None
    return store, dict(summary.rejected), found


def batch_of(store, split="train", **options):
    source = pipeline.find_source("modality_nights").open_source(
        store, split=split, seed=0, window_tokens=EPOCHS, **options
    )
    return source, next(source.evaluation_batches(1))


def test_a_folder_of_arrays_becomes_nights_that_sources_read(tmp_path):
    own = night()
    own["powers"][2, 1] = np.nan
    own["beats"] = own["beats"][(own["beats"] < 30) | (own["beats"] >= 52)]
    rows = [
        {
            "file": "a.npz",
            "subject": "p",
            "night": "n1",
            "split": "train",
            "age": "61",
            "sex": "F",
            "asthma": "1",
            "ward": "St. Mary",
        }
    ]
    events = ["n1,Hypopnea,40,20", "n1,apnea_hypopnea,60,60", "n1,Zzz,0,1", "n9,hypopnea,0,9"]
    store, rejects, found = prepare(
        write(tmp_path / "in", {"a": own}, rows, events=events), tmp_path / "store"
    )
    assert not rejects
    entry = store.nights[0]
    assert (entry.recording, entry.subject, entry.duration_s) == ("n1", "p", EPOCHS * 30)
    assert entry.metadata["age"] == 61 and entry.metadata["sex"] == "female"
    assert entry.metadata["outcomes"] == {"asthma": 1.0} and "ward" not in entry.metadata
    assert [(e.kind, e.onset_s) for e in store.events(entry)] == [
        ("hypopnea", 40.0),
        ("apnea_hypopnea", 60.0),
    ]
    assert store.stages(entry).tolist() == [0, 3, 4, -1, -1, 3]
    assert [f["what"] for f in entry.qc["findings"]] == ["9"]  # a code that nobody declared
    told = {finding.what: finding.count for finding in found}
    assert told["column ward"] == told["events of other nights"] == 1 and len(told) == 3

    source, batch = batch_of(store, events=("hypopnea_only",))
    assert [(m["name"], m["frames"]) for m in source.describe()["modalities"]] == [
        ("powers", 3),
        ("hr", 3),
    ]
    powers = batch["signal/powers"][0] * batch["scale"][0, 0]
    low, middle, high = np.quantile(np.delete(own["powers"], 2, 0), (0.25, 0.5, 0.75), axis=0)
    wanted = np.clip((own["powers"] - middle) / (high - low) * arrays.IQR_OF_NORMAL, -4, 4)
    wanted[2] = 0
    np.testing.assert_allclose(powers, wanted, atol=4 / 32000)
    # A value is missing in one epoch, beats in another.
    assert batch["valid"][0].T.tolist() == [
        [True, True, False, True, True, True],
        [True, False, True, True, True, True],
    ]
    rate = batch["signal/hr"][0] * batch["scale"][0, 1]
    assert np.allclose(rate[[0, 2, 3, 4]], 75, atol=0.01) and not rate[1].any()
    assert batch["apnea"][0].sum() == 80 and batch["event/hypopnea_only"][0, 1] == 1
    # The recipe is found again, without the folder, from the store and from what carries it.
    recipe = recipes.recipe_of_store(store)
    assert recipe.rows["powers"].values == 3 and recipe.identity == store.recipe
    assert pickle.loads(pickle.dumps(recipe)).rows == recipe.rows

    # A night in memory gives the batches that the store gives.
    signals = {name: store.channel(entry, name) for name in entry.channels}
    (again,) = pipeline.find_source("modality_nights").recording_batches(
        signals,
        data={"window_tokens": EPOCHS},
        modalities=source.describe()["modalities"],
    )
    np.testing.assert_allclose(again["signal/powers"][0], powers, rtol=1e-6)
    assert (again["valid"] == batch["valid"]).all()


def test_a_global_scaling_is_of_training_nights_and_stays_when_nights_are_added(tmp_path):
    declared = '[series.level]\nstep_s = 1\nscaling = "global"\nclip = 0\n'
    nights = {
        "a": {"level": np.linspace(0, 10, 120)},
        "b": {"level": np.linspace(1000, 2000, 120)},
    }
    rows = [
        {"file": "a.npz", "subject": "a", "split": "train"},
        {"file": "b.npz", "subject": "b", "split": "test"},
    ]
    store, _, _ = prepare(write(tmp_path / "in", nights, rows, declared), tmp_path / "store")
    row = recipes.recipe_of_store(store).rows["level"]
    assert row.center == (5,) and row.scale[0] == pytest.approx(5 / 1.349, 1e-5)
    (b,) = store.select("test")
    assert store.signal(b, "level", 0, 1)[0] == pytest.approx((1000 - 5) / row.scale[0], 1e-3)
    nights["c"] = {"level": np.linspace(-900, 900, 120)}
    rows.append({"file": "c.npz", "subject": "c", "split": "train"})
    more, rejects, _ = prepare(write(tmp_path / "in", nights, rows, declared), tmp_path / "store")
    assert len(more.nights) == 3 and not rejects
    assert recipes.recipe_of_store(more).rows["level"] == row


def test_nights_that_cannot_be_read_are_rows_with_reasons(tmp_path):
    wrong = {
        "shape": night(powers=np.zeros((EPOCHS, 4))),
        "text": night(powers=np.array(["x"] * EPOCHS)),
        "infinite": night(powers=np.full((EPOCHS, 3), np.inf)),
        "longer": night(powers=np.zeros((EPOCHS + 3, 3))),
        "back": night(beats=np.array([1.0, 0.5])),
        "nothing": {"other": np.zeros(3)},
        "empty": night(powers=np.full((EPOCHS, 3), np.nan), beats=np.zeros(0)),
        "objects": night(powers=np.array([object()] * EPOCHS)),
    }
    folder = write(tmp_path / "in", {"good": night()} | wrong)
    (folder / "cut.npz").write_bytes((folder / "good.npz").read_bytes()[:200])
    with open(folder / "index.csv", "a", newline="") as file:
        for row in ("cut.npz,c", "gone.npz,g", "good.npz,x", ",y", "z.npz,", "notes.txt,w"):
            file.write(f"{row}\r\n")
        other = "test" if split_of("good") != "test" else "train"
        file.write(f"other.npz,good,,{other}\r\n")
    store, rejects, _ = prepare(folder, tmp_path / "store")
    assert [n.recording for n in store.nights] == ["good"]
    for name, reason in {
        "shape": "powers: 4 numbers a step; series.toml says powers.values=3",
        "text": "'powers' is of type",
        "infinite": "'powers' is infinite at step 0",
        "longer": "'powers' lasts 270 s and 'stages' 180 s",
        "back": "'beats' goes back after event 0",
        "nothing": "none of powers, beats",
        "empty": "no series has any value",
        "objects": "never loaded",
        "cut": "cut.npz: not an NPZ file",
        "gone": "gone.npz: not an NPZ file that can be read (No such file",
        "good.npz": "index.csv, line 13: a second night called 'good'",
        "line 14": "index.csv, line 14: no file",
        "z.npz": "index.csv, line 15: no subject",
        "notes.txt": "index.csv, line 16: file='notes.txt'",
        "other.npz": "line 17: split",
    }.items():
        assert reason in rejects[name], rejects[name]
    assert len(rejects) == 15


@pytest.mark.parametrize(
    ("declared", "named"),
    [
        ("", "no table [series.NAME]"),
        ("[series.x]\nsteps = 3", "series.x.steps: no such key"),
        ("[series.x]\nstep_s = 7", "series.x.step_s=7"),
        ("[series.x]\nrate_hz = 1\nstep_s = 1", "series.x: give step_s or rate_hz"),
        ("[series.x]\nrate_hz = 0", "series.x.rate_hz=0"),
        ("[series.X]", "'X'"),
        ("[series.x]\nvalues = 0", "series.x.values=0"),
        ('[series.x]\nscaling = "z"', "series.x.scaling='z'"),
        ("[series.x]\nclip = -1", "series.x.clip=-1"),
        ('[series.x]\nevents = "beats"\ncolumns = ["x"]', "series.x: give events or columns"),
        ('[series.x]\nevents = "beats"\nmake = "power"', "series.x.make='power'"),
        ("[series.x]\n[stages]\ncodes = { 1 = 'S1' }", "stages.codes.1='S1'"),
        ("[series.x]\n[events]\nscored = ['snore']", "events.scored: 'snore'"),
        ("[series.x\n", "series.toml"),
        ("series = 3", "series: must be a table"),
    ],
)
def test_a_declaration_that_is_wrong_is_told_by_its_key(tmp_path, declared, named):
    (tmp_path / "series.toml").write_text(declared)
    with pytest.raises(arrays_folder.ArraysError, match="series.toml") as error:
        arrays_folder.read_declaration(tmp_path)
    assert named in str(error.value)


def test_a_parquet_file_is_read_as_an_npz_file_is(tmp_path):
    pa, pq = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))

    own = night(stages=np.array(["W", "N3", "REM", "Snoozing", "N2", "W"]))
    own["powers"][1] = np.nan
    declared = (
        '[series.powers]\nvalues = 3\ncolumns = ["first", "rest"]\n[series.hr]\nevents = "beats"'
    )
    own = own | {"first": own["powers"][:, 0], "rest": own["powers"][:, 1:]}
    rows = [{"file": f"{n}", "subject": n} for n in ("a.npz", "b.parquet")]
    folder = write(tmp_path / "in", {"a": own}, rows, declared)
    longest = len(own["beats"])
    columns = {
        "first": [None if np.isnan(x) else x for x in own["first"]],
        "rest": [None if np.isnan(x).any() else x.tolist() for x in own["rest"]],
        "stages": own["stages"].tolist(),
        "beats": own["beats"].tolist(),
    }
    columns = {key: x + [None] * (longest - len(x)) for key, x in columns.items()}
    pq.write_table(pa.table(columns), folder / "b.parquet")
    store, rejects, _ = prepare(folder, tmp_path / "store")
    assert not rejects
    a, b = (store.nights[i] for i in (0, 1))
    assert a.duration_s == b.duration_s
    assert store.stages(a).tolist() == store.stages(b).tolist() == [0, 3, 4, -1, 2, 0]
    for name in ("powers", "hr"):
        one, other = store.channel(a, name), store.channel(b, name)
        np.testing.assert_array_equal(one.samples, other.samples)
        np.testing.assert_array_equal(one.valid, other.valid)


@hypothesis.given(
    steps=st.sampled_from([0.25, 1.0, 10.0, 15.0, 30.0]),
    values=st.integers(1, 47),
    tokens=st.integers(1, 5),
    missing=st.integers(0, 2**16),
    seed=st.integers(0, 99),
)
@hypothesis.settings(max_examples=40, deadline=None)
def test_every_value_comes_back_at_its_place_and_what_is_missing_does_not(
    steps, values, tokens, missing, seed
):
    row = series_of({"name": "x", "step_s": steps, "values": values, "scaling": "none"})
    rng = np.random.default_rng(seed)
    given = rng.standard_normal((tokens * row.steps, values))
    gone = np.random.default_rng(missing).random(len(given)) < 0.3
    given[gone, rng.integers(values)] = np.nan
    hypothesis.assume(not gone.all())
    made = read(row, x=given)
    samples = made.channels["x"].samples.reshape(tokens, -1)
    assert not samples[:, row.frames :].any()
    there = 2 * (~gone).reshape(tokens, -1).sum(1) >= row.steps
    assert (made.channels["x"].valid.reshape(tokens, 30) == there[:, None]).all()
    wanted = np.where((~gone & np.repeat(there, row.steps))[:, None], given, 0)
    got = samples[:, : row.frames].reshape(given.shape)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def read(row, **own):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "n.npz"
        np.savez(path, **own)
        return arrays.ReadArrays((row,))(arrays_folder.ArrayNight("n", path, "p", "train", {}))


@hypothesis.given(
    gaps=st.lists(st.floats(0.05, 6.0), min_size=2, max_size=80),
    step_s=st.sampled_from([0.25, 1.0, 5.0, 30.0]),
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_intervals_of_events_are_means_over_the_time_they_cover(gaps, step_s):
    times = np.cumsum([0.0, *gaps])
    row = series_of({"name": "x", "events": "e", "make": "interval", "step_s": step_s})
    steps = int(times[-1] / step_s) + 2
    made = arrays.from_events(times, row, steps)
    assert made.shape == (steps,)
    fine = np.arange(steps * 200) * (step_s / 200) + step_s / 400
    at = np.searchsorted(times, fine, side="right")
    inside = (at > 0) & (at < len(times))
    gap = np.where(inside, np.diff(times)[np.clip(at - 1, 0, len(gaps) - 1)], np.nan)
    gap[(gap < row.shortest_s) | (gap > row.longest_s)] = np.nan
    known = ~np.isnan(gap.reshape(steps, -1))
    for i in range(steps):
        share = known[i].mean()
        if abs(share - 0.5) > 0.02:
            assert np.isnan(made[i]) == (share < 0.5)
            if share > 0.5:
                mean = np.nanmean(gap.reshape(steps, -1)[i])
                assert made[i] == pytest.approx(mean, rel=0.05)


def test_the_tiny_store_has_the_rows_of_the_example(tmp_path):
    write_tiny_modalities(tmp_path / "tiny", recipe="arrays")
    store = NightStore(tmp_path / "tiny")
    rows = recipes.recipe_of_store(store).rows
    assert all(isinstance(row, Series) and row.frames == 10 for row in rows.values())
    _, batch = batch_of(store)
    assert batch["signal/eog"].shape == (1, EPOCHS, 10)
    assert (batch["signal/eog"].std(axis=1) > 1000).all()
