"""Sweeps before anything starts: names, budgets, and every key of every sweep that ships."""

import collections
import dataclasses
import json
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypnos_jax.config import ConfigError, flat
from hypnos_jax.jobs import sweeps
from hypnos_jax.jobs.sweep_costs import ask_cost

ROOT = pathlib.Path(__file__).parents[2]
RQ = "configs/hypnos/rq_transformer.py:test"
SHIPPED = sorted(path for path in (ROOT / "configs/sweeps").glob("*.py") if path.stem != "__init__")
VARIANTS = {
    "isoflop": ("smoke", "cpu", "gpu", "full"),
    "model_data": ("smoke", "cpu", "full", "smoke,repeated"),
    "modality_diversity": ("smoke", "cpu", "full", "smoke,tokens", "cpu,tokens", "full,tokens"),
    "tokenizer_rate": ("smoke", "cpu", "full", "smoke,resp"),
}
COST = {"flops_per_step": 4e6, "channel_seconds_per_step": 2048.0}

quick = settings(deadline=None, max_examples=50)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)
dicts = st.dictionaries(st.text("abc.", min_size=1, max_size=6), values, max_size=6)


# --- names


@quick
@given(dicts, st.randoms(use_true_random=False))
def test_a_name_does_not_change_with_order_or_spelling(run, random):
    run = {"config": RQ, **run}
    keys = list(run)
    random.shuffle(keys)
    spelled = {key: _spelled(run[key]) for key in keys}
    assert sweeps.name_of(spelled) == sweeps.name_of(run)


def _spelled(value):
    """The same value as another program might have written it."""
    if isinstance(value, list):
        return tuple(map(_spelled, value))
    if isinstance(value, int) and not isinstance(value, bool) and float(value) == value:
        return float(value)
    return value


@quick
@given(dicts, st.text("abc.", min_size=1, max_size=6), st.integers(0, 9))
def test_another_value_is_another_name(run, key, value):
    run = {"config": RQ, **run}
    if sweeps.canonical(run.get(key)) != value or isinstance(run.get(key), bool):
        assert sweeps.name_of({**run, key: value}) != sweeps.name_of(run)


def test_names_are_those_of_earlier_versions():
    """A changed name would begin every run of every sweep anew: do not change these."""
    run = {"config": RQ, "stem": "c1e+09-d64", "budget.flops": 1e9, "objective.model.dim": 64}
    assert sweeps.name_of(run) == "c1e09-d64-f3e2f17c"
    run = {"config": RQ, "data.modalities": ("ecg", "eeg_c3"), "optim.learning_rate": 3e-4}
    assert sweeps.name_of(run) == "modalities-ecg-eeg-c3-learning-da913228"


def test_places_do_not_count_and_other_data_do():
    run = {"config": RQ, "stem": "a", "train.steps": 3}
    places = {
        "data.path": "/elsewhere",
        "mesh.fsdp": 4,
        "logs.every": 1,
        "watchdog.step_s": 7.0,
        "evals.probe.nights": "/elsewhere",
    }
    assert sweeps.name_of({**run, **places}) == sweeps.name_of(run)
    assert sweeps.name_of({**run, "data.nights": 5}) != sweeps.name_of(run)


@quick
@given(st.text(max_size=60))
def test_every_name_is_one_of_a_kubernetes_job(stem):
    name = sweeps.name_of({"config": RQ, "stem": stem})
    pod = f"{name}-evaluate-0-0-abcde"
    assert len(pod) <= 63 and name[0].isalpha() and name[-1].isalnum()
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


# --- budgets


@quick
@given(st.sampled_from(sorted(sweeps.UNITS)), st.floats(1, 1e5), st.floats(0.001, 0.5))
def test_a_budget_becomes_the_nearest_number_of_steps(key, steps, share):
    per_step = COST[sweeps.UNITS[key]]
    given_ = {"config": RQ, key: steps * per_step, "budget.warmup_share": share}
    found = sweeps.resolved(given_, sweeps.read_config(RQ, {}), COST)
    assert abs(found["train.steps"] - steps) <= 0.5 + 1e-9 * steps
    assert found["optim.warmup_steps"] == max(1, round(share * found["train.steps"]))
    assert not any(name.startswith("budget.") for name in found)


@pytest.mark.parametrize("steps, count", [(100, 4), (7, 3), (5, 9)])
def test_checkpoints_are_evaluated_and_no_more_than_asked_for(steps, count):
    config = sweeps.read_config(RQ, {"train.steps": steps})
    run = {"config": RQ, "train.steps": steps, "budget.checkpoints": count}
    found = sweeps.resolved(run, config, COST)
    assert found["checkpoints.every"] == found["evals.val.every"] == max(1, -(-steps // count))
    assert "evals.probe.every" not in found  # a job's
    assert sweeps.read_config(RQ, found)["train"]["steps"] == steps


@pytest.mark.parametrize(
    "run, message",
    [
        ({"budget.flop": 1}, "unknown key budget.flop: did you mean 'budget.flops'"),
        ({"budget.flops": 0}, "no number above 0"),
        ({"budget.flops": "1e9"}, "no number above 0"),
        ({"budget.flops": 1e9, "train.steps": 4}, "budget.flops and train.steps"),
        ({"budget.flops": 1e9, "budget.channel_seconds": 4}, "each says how many"),
        ({"objective.model.dmi": 4}, "objective.model.dmi is no key.*objective.model.dim"),
        ({"objective.model": 4}, "is a section"),
        ({"train.steps": 4.5}, "train.steps=4.5 does not fit"),
        ({"objective.model.qk_norm": "perhaps"}, "qk_norm='perhaps' does not fit"),
        ({"config": "configs/hypnos/rq_transformer.py:huge"}, "no size 'huge'"),
        ({"config": "configs/hypnos/nothing.py"}, "there is no file"),
        ({"data.nights": {1, 2}}, "plain values"),
    ],
)
def test_a_wrong_key_names_sweep_run_and_key_before_anything_starts(tmp_path, run, message):
    runs = [{"config": RQ, "train.steps": 2}, {"config": RQ, "seed": 1, **run}]
    with pytest.raises(ConfigError, match=rf"(?s)my sweep, run 1.*{message}"):
        sweeps.expand("my sweep", runs, given={}, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_same_run_twice_is_an_error(tmp_path):
    runs = [{"config": RQ, "seed": 1, "train.steps": 2}] * 2
    with pytest.raises(ConfigError, match="s, run 1: it is the same as run 0"):
        sweeps.expand("s", runs, given={}, folder=tmp_path)
    runs[1] = {**runs[1], "data.path": "elsewhere", "stem": runs[1].get("stem", "")}
    with pytest.raises(ConfigError, match="the same as run 0"):
        sweeps.expand("s", runs, given={}, folder=tmp_path)


def test_a_budget_of_less_than_a_step_is_an_error():
    with pytest.raises(ConfigError, match="less than half a step"):
        sweeps.resolved({"config": RQ, "budget.flops": 1e6}, sweeps.read_config(RQ, {}), COST)


def test_data_that_are_not_here_are_asked_for():
    config = json.dumps(sweeps.read_config(RQ, {}))
    with pytest.raises(ConfigError, match="'/pods/tokens' is not there.*--data_here"):
        ask_cost(config, "/pods/tokens")


# --- flags


@pytest.mark.parametrize(
    "key, value",
    [
        ("objective.model.qk_norm", False),
        ("optim.learning_rate", 1e-05),
        ("optim.learning_rate", 2),
        ("train.steps", 7),
        ("data.path", "/a place/with 'quotes' and, commas"),
        ("objective.model.masking", "bernoulli"),
        ("data.modalities", ("ecg",)),
        ("data.modalities", ["ecg", "eeg_c3"]),
        ("data.modalities", ()),
        ("logs.profile", (3, 5)),
        ("data.fill", (("objective.model.modalities", "modalities"),)),
    ],
)
def test_a_value_comes_through_the_command_line(key, value):
    towers = key == "data.modalities"
    file = "configs/sleep2vec/pretrain.py:test" if towers else RQ
    found = flat(sweeps.read_config(file, {key: value}))[key]
    assert found == json.loads(json.dumps(value))


# --- what was begun goes on as it began


def test_a_run_that_was_begun_keeps_its_steps_and_cost(tmp_path, monkeypatch):
    run = {"config": RQ, "stem": "a", "budget.flops": 1e9, "budget.checkpoints": 2}
    old = sweeps.PlannedRun(
        sweeps.name_of(run), run, RQ, {"train.steps": 11, "data.path": "/old"}, 11, COST
    )
    sweeps.write_sweep(tmp_path, "s", {}, [old])
    data = tmp_path / "tokens"
    data.mkdir()
    monkeypatch.chdir(tmp_path)  # the runs begin elsewhere
    given_ = {"data.path": "tokens", "evals.probe.nights": "tokens"}
    [new] = sweeps.expand("s", [run], given=given_, folder=tmp_path)
    assert new.name == old.name and new.steps == 11 and new.cost == COST
    assert new.overrides == {"train.steps": 11, **dict.fromkeys(given_, str(data))}
    sweeps.write_sweep(tmp_path, "s", given_, [new])
    written = sweeps.read_sweep(tmp_path)
    assert written["sweep"] == "s" and written["set"] == given_
    assert written["runs"] == [json.loads(json.dumps(dataclasses.asdict(new)))]
    [other] = sweeps.expand("s", [run], given={}, folder=tmp_path, seen="/shared/s")
    assert other.overrides["data.path"] == "/shared/s/synthetic/token_windows"


def test_a_folder_is_of_one_sweep(tmp_path):
    sweeps.write_sweep(tmp_path, "one", {}, [])
    sweeps.check_folder(tmp_path, "one")
    with pytest.raises(ConfigError, match="holds the sweep one, not other"):
        sweeps.check_folder(tmp_path, "other")
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(ConfigError, match="sweep.json"):
        sweeps.read_sweep(tmp_path)


# --- the sweeps that ship


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_run_of_every_size_has_good_keys_and_a_name_of_its_own(path):
    for size in VARIANTS.get(path.stem, ("smoke", "cpu", "full")):
        _, runs = sweeps.load_sweep(f"{path.relative_to(ROOT)}:{size}")
        assert len({sweeps.name_of(run) for run in runs}) == len(runs)
        for run in runs:
            sweeps.check_budgets(run)
            config = sweeps.read_config(
                run["config"],
                {k: v for k, v in run.items() if k not in ("config", "stem", *sweeps.BUDGETS)},
            )
            found = sweeps.resolved(
                run, config, {"flops_per_step": 1e3, "channel_seconds_per_step": 1.0}
            )
            assert found.keys() <= flat(config).keys()
    with pytest.raises(ConfigError, match="no size 'huge'"):
        sweeps.load_sweep(f"{path}:huge")


@pytest.mark.parametrize("size", ["cpu", "gpu", "full"])
def test_isoflop_has_at_least_four_budgets_of_five_sizes_and_all_else_equal(size):
    _, runs = sweeps.load_sweep(f"configs/sweeps/isoflop.py:{size}")
    budgets = collections.defaultdict(list)
    for run in runs:
        budgets[run["budget.flops"]].append(run)
    assert len(budgets) >= 4
    for same in budgets.values():
        assert len({run["objective.model.dim"] for run in same}) == len(same) >= 5
        for key in same[0].keys() - {"stem", "optim.learning_rate"}:
            if not key.startswith("objective.model."):
                assert len({run[key] for run in same}) == 1, key


@pytest.mark.parametrize("size", ["cpu", "cpu,tokens"])
def test_modalities_grow_around_what_all_runs_are_judged_by(size):
    _, runs = sweeps.load_sweep(f"configs/sweeps/modality_diversity.py:{size}")
    tokens = size.endswith("tokens")
    chosen = [run["data.modalities"] for run in runs]
    assert {len(names) for names in chosen} == set(range(1 if tokens else 2, 9))
    judged = {"eeg_c3"} if tokens else {"eeg", "ecg"}
    assert all(judged <= set(names) and len(set(names)) == len(names) for names in chosen)
    signal = {  # of each modality, in steps
        run["train.steps"] * (1 if tokens else 2 / len(run["data.modalities"])) for run in runs
    }
    assert max(signal) - min(signal) <= 1
