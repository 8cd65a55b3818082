"""Eval jobs: each checkpoint is evaluated once, whatever happens to jobs, run and disk."""

import errno
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import threading
import time

import fsspec
import pytest
from processes import Group, start_toy
from toy_objective import install, toy_config

from hypnos_jax import checkpoint, config, evaluate, metrics, train
from hypnos_jax.export.write import export
from hypnos_jax.jobs import leases
from hypnos_jax.jobs.eval_job import EvalJob, EvalJobError
from hypnos_jax.runtime import compile_cache, seals, storage

STEPS = list(range(2, 13, 2))
JOB = {"evals.late": {"type": "mean_loss", "every": "job", "limit": 3}}
KEPT = {"checkpoints.every": 2, "checkpoints.keep": 20}
# As ``python -m launch.evaluate`` is, but for the toy and what stands in BEFORE.
COMMAND = """
import os, sys
import toy_objective
toy_objective.install()
exec(os.environ["BEFORE"])
from absl import app, flags
from launch import evaluate
flags.mark_flags_as_required(["workdir"])
sys.exit(app.run(evaluate.main))
"""
SLOW = """
import time
from hypnos_jax.evaluators import mean_loss
run = mean_loss.MeanLoss.run
def slow(self, variables, step):
    time.sleep({seconds})
    yield from run(self, variables, step)
mean_loss.MeanLoss.run = slow
"""


@pytest.fixture(autouse=True, scope="module")
def toy():
    with pytest.MonkeyPatch.context() as monkeypatch:
        install(monkeypatch)
        yield


def changed(**changes):
    options = {key.replace("__", "."): value for key, value in changes.items()}
    return config.change(config.resolve(toy_config()), JOB | KEPT | options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that is done and not evaluated by any job."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    assert train.train(changed(), workdir) == 0
    return workdir


@pytest.fixture
def run(whole, tmp_path):
    """A copy of that folder."""
    return pathlib.Path(shutil.copytree(whole, tmp_path / "run"))


def follow(workdir, **options):
    """Follow a run in this process to its end."""
    job = EvalJob(workdir, **{"poll_s": 0.02, "patience_s": 20, **options})
    try:
        job.run()
    finally:
        job.close()


def results(workdir, name="late"):
    """Step -> the bytes of its result."""
    found = (workdir / "evaluations" / name).glob("*.json")
    return {int(path.stem): path.read_bytes() for path in found}


def metrics_of(workdir):
    """Step -> what eval jobs found, as readers of the run see it."""
    lines = [line for line in metrics.read_run(workdir) if "eval/late/loss" in line]
    assert len({line["step"] for line in lines}) == len(lines)
    return {line.pop("step"): line for line in lines}


def start(workdir, *flags, before="", name="jobs", count=1):
    """Start eval jobs as processes of their own."""
    command = [sys.executable, "-c", COMMAND, f"--workdir={workdir}", "--follow", "--poll_s=0.05"]
    environment = {"BEFORE": before, "JAX_NUM_CPU_DEVICES": "1"}
    folder = workdir.with_name(name)
    return Group([[*command, *flags]] * count, folder, [environment] * count)


def progress(workdir):
    """How much trainer and jobs have written."""
    return len(list(workdir.glob("checkpoints/*/sha256.json"))) + 2 * len(results(workdir))


def test_every_checkpoint_is_evaluated_once_and_read_with_the_rest(run, monkeypatch):
    before = (run / "metrics.jsonl").read_bytes()
    counts = []
    monkeypatch.chdir(run.parent)  # a path as people type it
    job = EvalJob(run.name, poll_s=0.02, patience_s=20)
    tell, job._tell = job._tell, lambda *x: (counts.append(compile_cache.compiled()), tell(*x))
    job.run()
    job.close()
    assert len(set(counts[1:])) == 1  # compiled for the first checkpoint, and no more
    assert (run / "metrics.jsonl").read_bytes() == before
    found = results(run)
    assert sorted(found) == STEPS
    one = json.loads(found[4])
    assert set(one) == {
        "step", "evaluator", "results", "checkpoint", "code", "seconds", "job",
    }  # fmt: skip
    assert one["checkpoint"] == seals.seal_of(run / "checkpoints" / "4")
    assert one["job"].endswith(f"/{os.getpid()}")
    lines = metrics.read_run(run)
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    assert set(metrics_of(run)) == set(STEPS)
    (looped,) = [x for x in lines if x["step"] == 10 and "eval/validation/loss" in x]
    alone = metrics_of(run)[10]["eval/late/loss"]
    assert alone == pytest.approx(looped["eval/validation/loss"], rel=1e-5)
    assert "validation" not in {path.name for path in (run / "evaluations").iterdir()}
    follow(run)  # nothing is left to do
    assert results(run) == found
    assert not list(run.glob("evaluations/leases/*"))


def test_kill_9_and_sigterm_leave_no_gap_and_no_double(run):
    with start(run, before=SLOW.format(seconds=1), name="killed") as group:
        group.wait_for(lambda: (run / "evaluations/leases/6.lease").exists())
        group.all[0].send_signal(signal.SIGKILL)
        group.wait(codes=(-signal.SIGKILL,))
    kept = results(run)
    assert sorted(kept) == [2, 4]
    assert claimants(run)  # the killed one's: the next sees that it is gone
    with start(run, before=SLOW.format(seconds=20), name="stopped") as group:
        group.wait_for(lambda: claimants(run) == [group.all[0].pid])
        begin = time.monotonic()
        group.all[0].send_signal(signal.SIGTERM)
        assert group.wait(codes=(75,)) == [75]
    assert time.monotonic() - begin < 10  # though the evaluation takes 20 s
    assert results(run) == kept
    assert not claimants(run)
    follow(run)
    assert sorted(results(run)) == STEPS
    assert kept.items() <= results(run).items()


def claimants(workdir):
    """Process numbers of those that hold leases."""
    found = [path.read_bytes() for path in workdir.glob("evaluations/leases/[0-9]*")]
    return [json.loads(content)["pid"] for content in found]


def test_a_damaged_checkpoint_is_named_and_passed_over(run, caplog):
    victim = max((run / "checkpoints" / "4").glob("params/**/d/*"))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    follow(run)
    assert sorted(results(run)) == [step for step in STEPS if step != 4]
    (told,) = [r.getMessage() for r in caplog.records if "is damaged" in r.getMessage()]
    assert "checkpoints/4 " in told
    assert victim.name in told


def test_a_damaged_last_step_ends_the_job_with_its_name(run):
    next((run / "checkpoints" / "12").glob("params/**/d/*")).unlink()
    with pytest.raises(EvalJobError, match="step 12, the run's last, is damaged"):
        follow(run)
    assert sorted(results(run)) == STEPS[:-1]


def test_a_checkpoint_that_goes_while_it_is_read_is_told_with_the_key(run, monkeypatch, caplog):
    load = checkpoint.load_variables

    def pruned(folder):
        if folder.name == "4":
            (folder / seals.MANIFEST).unlink()
            shutil.rmtree(folder)
        return load(folder)

    monkeypatch.setattr(checkpoint, "load_variables", pruned)
    follow(run)
    assert sorted(results(run)) == [step for step in STEPS if step != 4]
    told = [r.getMessage() for r in caplog.records if "config.checkpoints" in r.getMessage()]
    assert len(told) == 1
    assert "checkpoints 4 went" in told[0]
    assert "keep_for_jobs" in told[0]


def test_what_another_job_has_just_evaluated_is_not_told_as_lost(run, monkeypatch, caplog):
    look, done = EvalJob._steps, []

    def late(job):
        if not done:  # since this job has read the results: another's, and the trainer prunes
            done.append(follow(run))
            shutil.rmtree(run / "checkpoints" / "4")
        return look(job)

    job = EvalJob(run, poll_s=0.02, patience_s=20)
    monkeypatch.setattr(job, "_steps", lambda: late(job))
    job.run()
    job.close()
    assert not [r for r in caplog.records if "went before" in r.getMessage()]


def test_the_trainer_keeps_what_jobs_have_not_evaluated_within_bounds(tmp_path, caplog):
    waiting = {"checkpoints__keep": 1, "checkpoints__keep_for_jobs": 3}
    done = tmp_path / "evaluations" / "late"
    done.mkdir(parents=True)
    (done / "8.json").write_text("{}")
    assert train.train(changed(**waiting), tmp_path) == 0
    there = {int(path.name) for path in (tmp_path / "checkpoints").glob("[0-9]*")}
    assert there == {4, 6, 10, 12}  # 12 the newest, 8 evaluated, 2 too old
    told = [r.getMessage() for r in caplog.records if "keep_for_jobs" in r.getMessage()]
    assert len(told) == 1
    assert "checkpoint 2 is removed" in told[0]


def test_a_step_that_is_saved_again_is_not_evaluated_again(run):
    for step in (10, 12):
        shutil.rmtree(run / "checkpoints" / str(step))
    with pytest.raises(EvalJobError, match="nothing new for 0.1 s.*step 8"):
        follow(run, patience_s=0.1)
    shutil.rmtree(run / "checkpoints" / "8")  # a crash: the run goes on from 6
    kept = results(run)
    assert sorted(kept) == [2, 4, 6, 8]
    assert train.train(changed(), run) == 0
    follow(run)
    assert sorted(results(run)) == STEPS
    assert kept.items() <= results(run).items()


def test_a_job_may_begin_before_the_run(whole, tmp_path):
    job = threading.Thread(target=follow, args=(tmp_path / "run",))
    job.start()
    time.sleep(0.2)
    shutil.copytree(whole, tmp_path / "run.partial")
    (tmp_path / "run.partial").rename(tmp_path / "run")
    job.join(60)
    assert sorted(results(tmp_path / "run")) == STEPS


def test_a_full_disk_ends_the_job_with_the_path_and_leaves_nothing_half_written(run, monkeypatch):
    sync, left = os.fsync, [3]

    def full(number):
        left[0] -= "late/." in os.readlink(f"/proc/self/fd/{number}")
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(number)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left.*evaluations/late/8.json"):
        follow(run)
    assert sorted(results(run)) == STEPS[:3]
    assert not list(run.glob("evaluations/**/.*"))
    monkeypatch.undo()
    follow(run)
    assert sorted(results(run)) == STEPS


def test_a_claim_expires_with_its_holder_and_by_one_clock_alone(tmp_path):
    folder = storage.open_folder(tmp_path)
    here, there = (leases.Leases(folder, "leases", expire_s=0.6) for _ in range(2))
    assert here.take("4")
    assert not there.take("4")
    time.sleep(0.9)
    assert not there.take("4")  # the holder moves its counter on
    here.release()
    assert there.take("4")
    there.close()

    def lease(**holder):
        content = {"job": "x", **leases.this_process(), "token": "x", "beats": 1, **holder}
        folder.replace("leases/6.lease", json.dumps(content).encode())

    lease(pid=2**22 + 1)  # no such process of this machine
    assert here.take("6")
    here.release()
    lease(place=["elsewhere"])
    assert not here.take("6")
    time.sleep(0.4)
    lease(place=["elsewhere"], beats=2)
    assert not here.take("6")
    time.sleep(0.4)
    assert not here.take("6")
    time.sleep(0.4)
    assert here.take("6")
    here.close()
    assert not list(tmp_path.glob("leases/*"))


def test_a_result_is_created_by_the_first_and_never_replaced(tmp_path):
    memory = f"memory://{tmp_path}"
    for folder in (storage.open_folder(tmp_path / "local"), storage.open_folder(memory)):
        assert folder.read("a/4.json") is None
        assert folder.create("a/4.json", b"first")
        assert not folder.create("a/4.json", b"second")
        assert folder.read("a/4.json") == b"first"
        assert folder.glob("a/*.json") == ["a/4.json"]
        folder.remove("a/4.json")
        folder.remove("a/4.json")
        assert folder.glob("a/*") == []


def test_a_run_behind_a_url_gives_the_same_results(run, tmp_path):
    memory, url = fsspec.filesystem("memory"), f"memory://{tmp_path}/run"
    memory.put(str(run), f"{tmp_path}/run", recursive=True)
    shutil.rmtree(run / "checkpoints" / "4")
    memory.rm(f"{tmp_path}/run/checkpoints/4/sha256.json")  # it is being removed
    follow(url)
    follow(run)
    names = memory.glob(f"{tmp_path}/run/evaluations/late/*.json")
    found = {int(pathlib.Path(name).stem): json.loads(memory.cat(name)) for name in names}
    assert sorted(found) == [step for step in STEPS if step != 4]
    for step, content in results(run).items():
        assert found[step]["results"] == json.loads(content)["results"]
        assert found[step]["checkpoint"] == json.loads(content)["checkpoint"]
    assert memory.glob(f"{tmp_path}/run/tensorboard/evaluations/*")
    assert metrics.read_run(url) == metrics.read_run(run)
    with pytest.raises(ValueError, match="nosuch://x cannot be reached"):
        storage.open_folder("nosuch://x")


def test_a_network_that_breaks_off_ends_the_job_and_damages_nothing(run, tmp_path, monkeypatch):
    memory, url = fsspec.filesystem("memory"), f"memory://{tmp_path}/run"
    memory.put(str(run), f"{tmp_path}/run", recursive=True)
    fetch = storage.RemoteFolder.fetch

    def broken(self, name, path):
        fetch(self, name, path)
        if name == "checkpoints/10":
            raise TimeoutError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(storage.RemoteFolder, "fetch", broken)
        with pytest.raises(TimeoutError):
            follow(url)
    names = f"{tmp_path}/run/evaluations/late/*.json"
    assert len(memory.glob(names)) == 4
    follow(url)
    assert len(memory.glob(names)) == len(STEPS)


def test_tensorboard_has_the_results_of_all_jobs_once(run):
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter  # noqa: F401, has the format

    shutil.rmtree(run / "checkpoints" / "12")
    with pytest.raises(EvalJobError):
        follow(run, patience_s=0.05)
    time.sleep(1.1)  # files are named by the second
    shutil.copytree(run / "checkpoints" / "10", run / "checkpoints" / "12")
    with pytest.raises(EvalJobError, match="damaged"):  # it is of another step
        follow(run)
    *_, newest = sorted((run / "tensorboard" / "evaluations").iterdir())
    content, steps = newest.read_bytes(), []
    while content:  # length, its checksum, the event, its checksum
        size = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + size])
        content = content[16 + size :]
        if event.HasField("summary"):
            assert {x.tag.split("/")[1] for x in event.summary.value} == {"late"}
            steps.append(event.step)
    assert sorted(steps) == STEPS[:-1]


def test_training_neither_imports_nor_needs_what_jobs_evaluate_with(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "hypnos_jax.evaluators.linear_probe", raising=False)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    probe = {"type": "linear_probe", "every": "job"}
    assert train.train(changed(evals__probe=probe, train__steps=2), tmp_path / "run") == 0
    assert "hypnos_jax.evaluators.linear_probe" not in sys.modules
    with pytest.raises(ValueError, match="no evaluator named 'linear_prob'"):
        train.train(changed(evals__probe={**probe, "type": "linear_prob"}), tmp_path / "other")
    assert not (tmp_path / "other" / "config.json").exists()


def test_an_exported_model_is_evaluated_where_its_config_is_said(whole, tmp_path):
    exported = tmp_path / "export"
    export(whole, exported)
    (exported / "run.json").unlink(missing_ok=True)
    before = sorted(exported.rglob("*"))
    with pytest.raises(config.ConfigError, match=r"give config.data.path .* and config.evals"):
        evaluate.evaluate(exported)
    changes = {"data.path": "toy", "evals.v": {"type": "mean_loss"}}
    with pytest.raises(config.ConfigError, match="config.train.batch_size is missing"):
        evaluate.evaluate(exported, changes=changes)
    found = evaluate.evaluate(exported, changes={**changes, "train.batch_size": 8})
    resolved = {"config": json.loads((whole / "config.json").read_text()), "more": 1}
    assert sorted(exported.rglob("*")) == before
    (exported / "run.json").write_text(json.dumps(resolved))
    again = evaluate.evaluate(exported, output=tmp_path / "found")
    written = json.loads((tmp_path / "found" / "evaluation.json").read_text())
    assert written == {"step": 12, "results": again, "taken": ""}  # an export has one step
    assert set(again) >= {"eval/late/loss", "eval/validation/loss"}
    run = evaluate.evaluate(whole, changes={"evals.v": {"type": "mean_loss"}}, output=tmp_path)
    assert again.items() <= run.items()
    assert found["eval/v/loss"] == run["eval/v/loss"]
    assert not (whole / "evaluation.json").exists()


@pytest.mark.slow
def test_two_jobs_killed_over_and_over_beside_a_run_that_prunes_and_crashes(tmp_path):
    rng, run = random.Random(time.time_ns()), tmp_path / "run"
    steps = 24
    options = {
        "train__steps": steps,
        "checkpoints__every": 1,
        "checkpoints__keep": 1,
        "checkpoints__keep_for_jobs": 100,
    }
    pause = "import time\nfrom hypnos_jax import evaluate\n"
    pause += "due = evaluate.Evaluators.due\n"
    pause += "def slow(*x, **y):\n    time.sleep(0.2)\n    return due(*x, **y)\n"
    pause += "evaluate.Evaluators.due = slow\n"
    settings = changed(**options)
    kills = 0

    def trainer():
        return start_toy([settings], run, before=pause, devices=8)

    training, jobs = trainer(), [start(run, before=SLOW.format(seconds=0.3), name="jobs0")]
    jobs.append(start(run, before=SLOW.format(seconds=0.3), name="jobs1"))
    end, seen = time.monotonic() + 1500, 0
    try:
        while time.monotonic() < end:
            # After something new, since on a busy machine a start takes longer than any fixed time.
            patience = time.monotonic() + 60
            while time.monotonic() < patience and seen == (seen := progress(run)):
                time.sleep(0.1)
            time.sleep(rng.uniform(0, 3))
            codes = [job.all[0].poll() for job in jobs]
            assert set(codes) <= {None, 0}, [job.words() for job in jobs]
            if 0 in codes and training.all[0].poll() == 0:
                break
            if kills < 20:
                victim = rng.randrange(5)
                if victim == 0 and training.all[0].poll() is None:
                    training.kill()
                    training = trainer()
                elif victim and jobs[victim % 2].all[0].poll() is None:
                    jobs[victim % 2].kill()
                    jobs[victim % 2] = start(
                        run, before=SLOW.format(seconds=0.3), name=f"jobs{victim % 2}"
                    )
                kills += 1
    finally:
        training.kill()
        for job in jobs:
            job.kill()
    follow(run)
    print(f"{kills} kills")
    assert kills >= 8
    assert sorted(results(run)) == list(range(1, steps + 1))
    assert sorted(metrics_of(run)) == list(range(1, steps + 1))
    reference = tmp_path / "reference"
    undisturbed = {**options, "checkpoints__keep": 100}
    assert train.train(changed(**undisturbed), reference) == 0
    follow(reference)
    expected = {k: pytest.approx(v, rel=1e-5) for k, v in metrics_of(reference).items()}
    assert metrics_of(run) == expected
