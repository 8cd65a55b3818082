"""No person who is judged is learnt from or chosen by, in any pipeline of real nights.

A pipeline's data sets are stood in for by small made-up ones of the same layout, put into arrays by
the scripts of ``benchmarks/real`` and prepared; then the stores' manifests are read.
"""

import collections
import runpy
import sys

import numpy as np
import pytest
from launch_commands import ROOT

from data_pipelines.builders import arrays, arrays_folder
from data_pipelines.builders.night_builder import write_store
from data_pipelines.store import NightStore
from hypnos_jax import config as configs
from launch.steps import load_pipeline

PIPELINES = sorted((ROOT / "configs/pipelines").glob("real_*.py"))


def beats(seed, minutes):
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.uniform(0.7, 1.1, minutes * 66)), rng


def write_apnea_ecg(folder, people, seed):
    for person in people:
        times, rng = beats([seed, person], 20)
        np.savez(
            folder / f"a{person:02d}.npz",
            beat_min=(times / 60).astype(np.float32),
            hr_hz=(1 / np.diff(times, prepend=0)).astype(np.float32),
            apnea=rng.integers(0, 2, 20).astype(np.int8),
            subject=np.int16(person),
            age=np.int16(50),
            sex=np.array("M"),
        )


def write_mmash(folder, people, seed):
    for person in people:
        times, _ = beats([seed, person, 1], 70)
        np.savez(
            folder / f"user{person:02d}.npz",
            rr_time_s=times.astype(np.int32),
            ibi_ms=(np.diff(times, prepend=0) * 1000).astype(np.uint16),
            sleep=np.array([[10, 3700, 20, 60, 1]], np.float32),
            age=np.int16(30),
            sex=np.array("M"),
        )


def write_bandpower(folder, people, seed):
    rng = np.random.default_rng(seed)
    count = 12 * len(people)
    np.savez(
        folder / "bandpower.npz",
        x=rng.standard_normal((count, 3, 10)).astype(np.float16),
        y=rng.integers(-1, 5, count).astype(np.int8),
        night=np.array([f"SC4{person:02d}1" for person in people]),
        subject=np.array([f"{person:02d}" for person in people]),
        start=np.arange(0, count + 1, 12),
    )


def write_walch(folder, people, seed):
    rng = np.random.default_rng(seed)
    count = 12 * len(people)
    np.savez(
        folder / "walch.npz",
        **{key: rng.random(count) for key in ("count", "hr", "cosine", "circadian")},
        time_h=np.tile([*range(8), *range(10, 14)], len(people)) / 120,  # two epochs are gone
        stage=rng.integers(0, 6, count).astype(np.int8),
        subject=np.array([str(person) for person in people]),
        start=np.arange(0, count + 1, 12),
    )


def write_ichi14(folder, people, seed):
    rng = np.random.default_rng(seed)
    (folder / "patients.csv").write_text("ID,gender,age\n001,w,40\n")
    for person in people:
        axes = {key: rng.integers(100, 150, 900).astype(np.uint8) for key in "xyz"}
        np.savez(
            folder / f"p{person:03d}.npz",
            t_s=(np.arange(900) / 10).astype(np.float32),
            run=np.full(900, 10, np.uint8),
            light=np.zeros(900, np.uint16),
            gt=np.repeat([6, 3, 1], 300).astype(np.int8),
            **axes,
        )


SETS = {  # script -> folder of the data set, and what writes one like it
    "apnea_ecg_rr": ("apnea-ecg-rr", write_apnea_ecg),
    "mmash": ("mmash", write_mmash),
    "sleep_edf_bandpower": ("sleep-edf-bandpower", write_bandpower),
    "walch_features": ("walch-features", write_walch),
    "ichi14_wrist": ("ichi14-wrist", write_ichi14),
}


def write_sets(root, people, seed):
    for folder, write in SETS.values():
        (root / folder).mkdir(parents=True)
        write(root / folder, people, seed)
    return root


def run_script(monkeypatch, name, output, **options):
    words = [f"--{key}={value}" for key, value in options.items()]
    monkeypatch.setattr(sys, "argv", [name, *words, f"--output={output}"])
    runpy.run_module(f"benchmarks.real.{name}", run_name="__main__")


def prepare(folder, output):
    told = arrays_folder.read_declaration(folder)
    items, left = arrays_folder.find_nights(folder, told)
    recipe = arrays.measured(tuple(told.recipe.rows.values()), items, output)
    make_night = arrays.ReadArrays(tuple(recipe.rows.values()), told.stage_codes)
    summary = write_store(
        output,
        kind="signals",
        items=items,
        make_night=make_night,
        recipe=recipe.identity,
        progress=False,
    )
    assert not (left or summary.rejected)
    return NightStore(output)


def splits_of(nights):
    found = collections.defaultdict(set)
    for night in nights:
        found[night.subject].add(night.split)
    return found


def options_of(step):
    own = ("set", "data", "test", "folds", "fold")
    return {key: step.arguments[key] for key in own if key in step.arguments}


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_people_given_as_test_are_judged_and_nothing_else(path, tmp_path, monkeypatch):
    data = write_sets(tmp_path / "data", range(8), 0)
    told = []
    for seed in (1, 2):  # other nights of the people who are judged
        test = write_sets(tmp_path / f"test{seed}", range(20, 23), seed)
        steps = load_pipeline(str(path), {"data": str(data), "test": str(test)})
        made = [step for step in steps if step.command == "real_arrays"]
        if not made:
            pytest.skip(f"{path.stem} reads recordings: the test below holds its trainings to it")
        output, nights = tmp_path / f"store{seed}", {}
        for step in made:
            own = options_of(step)
            name = own.pop("set")
            run_script(monkeypatch, name, tmp_path / f"{name}{seed}", **own)
            store = prepare(tmp_path / f"{name}{seed}", output)
            nights[name] = [x for x in store.nights if x.metadata["site"] == SETS[name][0]]
        told.append(store.recipe)
        by_person = splits_of(store.nights)
        assert all(len(splits) == 1 for splits in by_person.values())
        judged = {who for who, splits in by_person.items() if splits == {"test"}}
        assert len(judged) == 3 and all(who[-2:] in ("20", "21", "22") for who in judged)
        assert {"train", "validation"} <= {night.split for night in store.nights}
    # Nor do their nights change how others are scaled.
    assert told[0] == told[1]
    # A person in both is refused.
    both = options_of(made[0]) | {"test": str(data)}
    name = both.pop("set")
    with pytest.raises(SystemExit, match="is in --data and in --test"):
        run_script(monkeypatch, name, tmp_path / "both", **both)


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_trainings_learn_from_training_people_and_choose_by_validation_people(path):
    steps = load_pipeline(str(path), {"data": "DATA", "test": "TEST"})
    trainings = [step for step in steps if step.command == "train"]
    assert trainings
    for step in steps:
        if any("TEST" in str(value) for value in step.arguments.values()):
            assert step.command in ("real_arrays", "prepare_nights"), step  # says the splits
    for step in trainings:
        file, _, argument = step.arguments["config"].partition(":")
        config = configs.resolve(runpy.run_path(str(ROOT / file))["get_config"](argument))
        own = {k[7:]: v for k, v in step.arguments.items() if k.startswith("config.")}
        config = configs.change(config, own)
        assert config["data"].get("trained_on", "train") == "train"
        for name, evaluator in config["evals"].items():
            in_training = evaluator["every"] != "job"
            assert not in_training or evaluator.get("split", "validation") == "validation", name
        best = config["checkpoints"]["best_metric"]
        if best:
            evaluator = config["evals"][best.split("/")[1]]
            assert evaluator.get("split", "validation") == "validation"


@pytest.mark.parametrize("name", [name for name in SETS if name != "mmash"])
def test_without_test_people_every_person_is_judged_in_one_fold(name, tmp_path, monkeypatch):
    data, judged = write_sets(tmp_path / "data", range(7), 0), []
    for fold in range(3):
        output = tmp_path / f"fold{fold}"
        run_script(monkeypatch, name, output, data=data, folds=3, fold=fold)
        items, _ = arrays_folder.find_nights(output)
        by_person = splits_of(items.values())
        assert all(len(splits) == 1 for splits in by_person.values())
        judged += [who for who, splits in by_person.items() if splits == {"test"}]
    assert len(judged) == len(set(judged)) == 7
    store = prepare(output, tmp_path / "store")
    stages = [store.stages(night).tolist() for night in store.nights]
    assert len(stages) == 7
    if name == "ichi14_wrist":
        assert stages == [[0, 1, 3]] * 7
    if name == "walch_features":
        assert all(len(x) == 14 and x[8:10] == [-1, -1] for x in stages)


def test_without_labels_nobody_is_judged(tmp_path, monkeypatch):
    data = write_sets(tmp_path / "data", range(3), 0)
    run_script(monkeypatch, "mmash", tmp_path / "out", data=data)
    items, _ = arrays_folder.find_nights(tmp_path / "out")
    assert "test" not in {night.split for night in items.values()}
