"""Runs that begin from other weights, with parts of them frozen or slower."""

import json
import shutil

import jax
import numpy as np
import pytest
from toy_objective import install, toy_config

from hypnos_jax import checkpoint, config, optim, param_paths, train, warm_start
from hypnos_jax.runtime import orbax_files


@pytest.fixture(autouse=True, scope="module")
def toy():
    with pytest.MonkeyPatch.context() as monkeypatch:
        install(monkeypatch)
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A finished run of 4 steps."""
    return run(tmp_path_factory.mktemp("source"))


def run(workdir, **changes):
    options = {key.replace("__", "."): value for key, value in changes.items()}
    options = {"train.steps": 4, "checkpoints.every": 2, "evals": {}, **options}
    assert train.train(config.change(config.resolve(toy_config()), options), workdir) == 0
    return workdir


def variables(workdir, step=None):
    return checkpoint.restore_variables(workdir, step)[2]


def test_patterns_name_paths_below_them_and_take_back():
    tree = {"towers": {"trunk": {"kernel": 1, "lora_a": 2}, "head": 3}, "tower": 4}
    found = param_paths.matching(tree, ("towers", "!*/lora_?"), "key")
    assert found == {
        "towers": {"trunk": {"kernel": True, "lora_a": False}, "head": True},
        "tower": False,
    }
    with pytest.raises(ValueError, match="key: 'trunk' names none of .*towers/trunk/kernel"):
        param_paths.matching(tree, ("trunk",), "key")


def test_a_run_begins_from_the_averages_of_another_and_resumes_without_it(source, tmp_path):
    there = tmp_path / "there"
    shutil.copytree(source, there)
    begun = {"train__init_from": str(there), "optim__learning_rate": 0.0}
    workdir = run(tmp_path / "begun", train__steps=2, **begun)
    ours, theirs = variables(workdir), variables(there)
    jax.tree.map(np.testing.assert_array_equal, ours["params"], theirs["params"])
    assert ours["seen"]["rows"] == theirs["seen"]["rows"] + 2 * 8  # other collections too
    shutil.rmtree(there)
    run(workdir, train__steps=4, **begun)
    meta = orbax_files.load_meta(workdir / "checkpoints" / "4")
    provenance = meta["init_from"]
    assert provenance["step"] == 4
    assert provenance["copied"] == 5
    assert len(provenance["checksum"]) == 64


def test_a_run_begins_from_several_sources_of_which_each_owns_its_arrays(source, tmp_path):
    other = run(tmp_path / "other", seed=7)
    parts = [
        {"source": str(source), "subtrees": [["kernel"] * 2]},
        {"source": str(other), "subtrees": [["out"] * 2, ["bias"] * 2]},
    ]
    kept = {"train__steps": 1, "optim__learning_rate": 0.0}
    workdir = run(tmp_path / "begun", train__init_from=parts, **kept)
    ours, first, second = (variables(x)["params"] for x in (workdir, source, other))
    np.testing.assert_array_equal(ours["kernel"], first["kernel"])
    np.testing.assert_array_equal(ours["out"], second["out"])
    assert not np.array_equal(first["out"], second["out"])
    provenance = orbax_files.load_meta(workdir / "checkpoints" / "1")["init_from"]
    assert [(x["source"], x["copied"]) for x in provenance] == [(str(source), 1), (str(other), 2)]
    refused = lambda parts: run(tmp_path / "refused", train__init_from=parts, **kept)
    twice = [parts[0], {"source": str(other)}]  # all of it
    names = f"{source} and {other} both claim params/kernel .1 arrays"
    with pytest.raises(warm_start.WarmStartError, match=names):
        refused(twice)
    # As JSON, as a command line has it; and an optional source of what is not here stays unread.
    missing = {"source": str(tmp_path / "none"), "subtrees": [["out", "towers"]]}
    given = json.dumps([*parts, {**missing, "optional": True}])
    again = run(tmp_path / "again", train__init_from=given, **kept)
    jax.tree.map(
        np.testing.assert_array_equal, variables(again)["params"], variables(workdir)["params"]
    )
    with pytest.raises(ValueError, match="none"):
        refused([*parts, missing])
    with pytest.raises(ValueError, match="none"):
        refused([{**missing, "subtrees": [["out", "out"]], "optional": True}])
    with pytest.raises(warm_start.WarmStartError, match="no JSON"):
        refused("[{]")
    with pytest.raises(config.ConfigError, match=r"init_from\[1\].subtree: did you mean"):
        refused([parts[0], {"source": str(other), "subtree": []}])


def test_a_subtree_is_copied_whole_or_refused_by_name(source, tmp_path):
    copied = run(tmp_path / "one", train__init_from=str(source), train__init_subtrees=[["out"] * 2],
                 train__steps=1, optim__learning_rate=0.0)  # fmt: skip
    ours, theirs = variables(copied)["params"], variables(source)["params"]
    np.testing.assert_array_equal(ours["out"], theirs["out"])
    assert not np.array_equal(ours["kernel"], theirs["kernel"])
    begin = lambda **more: run(tmp_path / "refused", train__init_from=str(source), **more)
    with pytest.raises(ValueError, match="nothing lies below 'towers'; there are .*params/out"):
        begin(train__init_subtrees=[["towers", "towers"]])
    with pytest.raises(ValueError, match="params/toy is not there"):
        begin(train__init_subtrees=[["toy", "out"]])
    wider = {"objective__width": 16, "train__init_subtrees": [["kernel"] * 2, ["bias"] * 2]}
    with pytest.raises(
        ValueError, match=r"1 of 2 .*params/kernel is \[4, 8\] there, \[4, 16\] here"
    ):
        begin(**wider)
    wider |= {"train__init_fresh": ["kernel"], "train__init_subtrees": [["bias"] * 2]}
    begin(**wider)


def test_what_is_frozen_stays_and_has_no_moments(tmp_path):
    frozen = {"optim__freeze": ["kernel", "bias"], "optim__learning_rate": 0.1}
    workdir = run(tmp_path / "whole", **frozen)
    first, last = (variables(workdir, step)["params"] for step in (2, 4))
    np.testing.assert_array_equal(first["kernel"], last["kernel"])  # the average's too
    assert not np.array_equal(first["out"], last["out"])
    shutil.copytree(workdir, tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "4")
    resumed = variables(run(tmp_path / "cut", **frozen))
    jax.tree.map(np.testing.assert_array_equal, resumed, variables(workdir))
    with pytest.raises(ValueError, match="config.optim.freeze: 'trunk' names none"):
        run(tmp_path / "none", optim__freeze=["trunk"])
    with pytest.raises(ValueError, match="leaves nothing to train"):
        run(tmp_path / "all", optim__freeze=["*"])
    params = {"kernel": np.ones((2, 3)), "out": np.ones(3)}
    tx = optim.make_optimizer(lambda _: 1.0, {"kernel": True, "out": False}, freeze=("kernel",))
    sizes = [x.size for x in jax.tree.leaves(tx.init(params))]
    assert sum(sizes) == 2 * 3 + 2  # moments of `out`, and two counters


@pytest.mark.parametrize("accumulate", [1, 2])
def test_frozen_collections_stay_while_others_move(tmp_path, accumulate):
    options = {"train__accumulate": accumulate, "train__batch_size": 16}
    workdir = run(tmp_path / "run", optim__freeze=["seen:slots", "kernel"], **options)
    first, last = variables(workdir, 2), variables(workdir, 4)
    np.testing.assert_array_equal(last["seen"]["slots"], 0)
    assert last["seen"]["rows"] == 4 * 16
    np.testing.assert_array_equal(first["params"]["kernel"], last["params"]["kernel"])
    assert not np.array_equal(first["params"]["out"], last["params"]["out"])
    if accumulate == 1:
        refused = lambda pattern: run(tmp_path / "refused", optim__freeze=[pattern], **options)
        with pytest.raises(ValueError, match="collection 'seen': 'row' names none of .*slots"):
            refused("seen:row")
        with pytest.raises(ValueError, match=r"no collection 'sen'; there are \['params', 'seen'"):
            refused("sen:*")


def test_multipliers_scale_the_learning_rate():
    params = {"tower": {"kernel": np.ones(3, np.float32)}, "head": np.ones(3, np.float32)}
    matrices = {"tower": {"kernel": True}, "head": False}
    own = (("tower", 0.1), ("head", 0.5))
    tx = optim.make_optimizer(lambda _: 1.0, matrices, weight_decay=0.3, multipliers=own)
    plain = optim.make_optimizer(lambda _: 1.0, matrices, weight_decay=0.3)
    ours, theirs = (t.update(params, t.init(params), params)[0] for t in (tx, plain))
    np.testing.assert_allclose(ours["tower"]["kernel"], 0.1 * theirs["tower"]["kernel"], rtol=1e-6)
    np.testing.assert_allclose(ours["head"], 0.5 * theirs["head"], rtol=1e-6)
    with pytest.raises(ValueError, match="config.optim.multipliers: 'tail' names none"):
        optim.make_optimizer(lambda _: 1.0, matrices, multipliers=(("tail", 2.0),))
