"""A run that memorises: its best checkpoint stays, it says so, and it may end by itself."""

import json
import logging as standard_logging

import pytest
from absl import logging
from toy_objective import install, toy_config

from hypnos_jax import checkpoint, checkpoint_choice, config, evaluate, metrics, plugins, train
from hypnos_jax.jobs import progress

# Of steps 1 to 12: best at 4, then higher by more than the margin.
LOSSES = [9.0, 5.0, 4.5, 4.4, 4.41, 5.0, 6.0, 7.0, 8.0, 9.0, 9.0, 9.0]


class Told:
    """An evaluator that finds what it was told."""

    def __init__(self, context, *, losses):
        self._losses = losses

    def run(self, variables, step):
        yield "loss", self._losses[step - 1]


@pytest.fixture(autouse=True, scope="module")
def toy():
    require = plugins.require
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        load = plugins.load
        patch.setattr(
            plugins, "load", lambda folder, name: Told if name == "told" else load(folder, name)
        )
        patch.setattr(
            plugins, "require", lambda folder, name: name == "told" or require(folder, name)
        )
        yield


@pytest.fixture(scope="module")
def whole(toy, tmp_path_factory):
    """The folder of a run to its last step, and what it said."""
    workdir, said = tmp_path_factory.mktemp("whole"), Said()
    logger = logging.get_absl_logger()
    logger.addHandler(said)
    level = logging.get_verbosity()
    logging.set_verbosity(logging.INFO)
    assert run(workdir) == 0
    logging.set_verbosity(level)
    logger.removeHandler(said)
    return workdir, said.words


class Said(standard_logging.Handler):
    """What the program logs, without what Orbax does."""

    def __init__(self):
        super().__init__()
        self.words = []

    def emit(self, record):
        if "orbax" not in record.pathname:
            self.words.append(record.getMessage())


def run(workdir, **changes):
    options = {
        "checkpoints.every": 100,
        "checkpoints.keep": 1,
        "checkpoints.keep_best": 1,
        "checkpoints.best_metric": "eval/val/loss",
        "evals": {
            "val": {"type": "told", "every": 1, "losses": LOSSES},
            "end": {"type": "told", "every": "final", "losses": LOSSES},
        },
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    return train.train(config.change(config.resolve(toy_config()), options), workdir)


def lines(workdir):
    rows = metrics.read(workdir / "metrics.jsonl")
    return [{name: row[name] for name in row.keys() - metrics.TIMES} for row in rows]


def kept(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("[0-9]*"))


def test_the_best_stays_and_the_run_says_that_it_memorises(whole, tmp_path):
    workdir, said = whole
    assert kept(workdir) == [4, 12]  # saved where it was met, though no save was due
    warnings = [words for words in said if "memorises" in words]
    assert len(warnings) == 1
    # 5 differs by less than the margin, 6, 7 and 8 are worse: 8 steps of 8 rows of 40 examples
    assert warnings[0].startswith("step 8: eval/val/loss has been worse than its best for 3")
    assert "7 at step 8, 4.4 at step 4, after 1.6 passes" in warnings[0]
    last = said[-1]
    assert last.startswith("12 steps, 2.4 passes over the training data: eval/val/loss was best at")
    assert "step 4, 4.4, and is worse in the last evaluation, 9 at step 12. Evaluation" in last
    assert "take the best, step 4" in last and last.endswith("the newest is step 12, 9")
    assert checkpoint.restore_variables(workdir)[1] == 4
    assert checkpoint.restore_variables(workdir, "newest")[1] == 12
    assert evaluate.evaluate(workdir, output=tmp_path) == {
        "eval/val/loss": 4.4,
        "eval/end/loss": 4.4,
    }
    told = json.loads((tmp_path / "evaluation.json").read_text())
    assert told["step"] == 4 and told["taken"].startswith("the best, step 4")
    assert evaluate.evaluate(workdir, output=tmp_path, step="newest")["eval/val/loss"] == 9


def test_a_run_without_a_new_best_ends_by_itself_and_can_go_on(whole, tmp_path, caplog):
    early = tmp_path / "early"
    assert run(early, train__stop_after=4) == 0
    assert kept(early) == [4, 8]
    assert lines(early)[-1] == {"step": 8, "eval/end/loss": 7.0}  # as at any end
    assert progress.last_step(early, 12) == 8
    before = (early / "metrics.jsonl").read_bytes()
    assert run(early, train__stop_after=4) == 0  # is over: nothing is done again
    assert (early / "metrics.jsonl").read_bytes() == before
    assert run(early, train__stop_after=0) == 0
    assert progress.last_step(early, 12) == 12
    assert [x for x in lines(early) if x != {"step": 8, "eval/end/loss": 7.0}] == lines(whole[0])
    # The warning came once: what a run knows of itself is saved with it.
    assert sum("memorises" in record.getMessage() for record in caplog.records) == 1


def test_a_stop_in_an_evaluation_costs_no_best(tmp_path, monkeypatch):
    """The checkpoint of the stop is judged by what the resumed run finds there."""
    original = Told.run

    def interrupted(self, variables, step):
        if step == 4:
            raise evaluate.Interrupted
        return original(self, variables, step)

    monkeypatch.setattr(Told, "run", interrupted)
    assert run(tmp_path) == 75
    assert kept(tmp_path) == [3, 4]
    monkeypatch.setattr(Told, "run", original)
    assert run(tmp_path) == 0
    assert kept(tmp_path) == [4, 12]
    assert checkpoint_choice.choose(tmp_path) == 4
