"""Sweeps on this machine: what is started, skipped, resumed, reported; by real processes.

Most have a stand-in for what a run starts, which leaves in its workdir what ``launch.train`` would.
"""

import contextlib
import functools
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import rich.console

from hypnos_jax import metrics
from hypnos_jax.jobs import sweeps
from hypnos_jax.jobs.progress import Progress
from launch import children
from launch.backends import local, table

ROOT = pathlib.Path(__file__).parent.parent.parent
STEPS = 4

# What the processes of a run do, after a plan for each attempt (the last one's for all after):
# "0" trains to the end, another number ends with that code, "wait" saves at a signal and ends with
# 75. "judge" stands for an eval job: it ends once the last step is saved.
PROCESS = """
import json, os, pathlib, signal, sys, time
kind, workdir, plan, active = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3].split(","), None
def save(step):
    sealed = workdir / f"checkpoints/{step}/sha256.json"
    sealed.parent.mkdir(parents=True, exist_ok=True)
    sealed.touch()
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "loss": 1.5, "step_s": 0.1}) + "\\n")
assert "SLURM_PROCID" not in os.environ
assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
def end(code):
    (workdir / f"ended_{kind}_{os.getpid()}").write_text(str(code))
    os._exit(code)
attempts = len(list(workdir.glob(f"began_{kind}_*")))
what = plan[min(attempts, len(plan) - 1)]
others = [p for p in workdir.parent.glob(f"*/began_{kind}_*")
          if not p.with_name(p.name.replace("began", "ended")).exists()]
(workdir / f"began_{kind}_{os.getpid()}").write_text(str(len(others)))
if what == "wait":
    saved = 1 + attempts
    signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), save(saved), end(75)))
    save(0)
    time.sleep(600)
if what == "judge":
    signal.signal(signal.SIGTERM, lambda *_: end(75))
    (workdir / "listening").touch()
    while not (workdir / "checkpoints/4/sha256.json").exists():
        time.sleep(0.02)
    end(0)
if what == "0":
    time.sleep(0.2)
    save(4)
else:
    print("ValueError: the reason", file=sys.stderr, flush=True)
end(int(what))
"""

# launch.sweep with runs that are such processes.
LAUNCH = f"""
import dataclasses, json, pathlib, signal, sys
from hypnos_jax.jobs.sweeps import PlannedRun
from launch import children
from launch.backends import local
PROCESS = {PROCESS!r}
@dataclasses.dataclass(frozen=True)
class Fake(PlannedRun):
    def train(self, workdir):
        return ["-c", PROCESS, "train", str(workdir), self.overrides["train"]]
    def evaluate(self, workdir):
        return ["-c", PROCESS, "evaluate", str(workdir), self.overrides["evaluate"]]
folder, jobs, plans = pathlib.Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
runs = [Fake(n, {{}}, "", {{"evaluate": "judge", **p}}, {STEPS}, {{"flops_per_step": 1.0}})
        for n, p in plans.items()]
try:
    with children.take_lock(folder) as lock:
        pool = local.Local(runs, folder, jobs=jobs, evaluate=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, pool.hear)
        sys.exit(pool.run(lock))
except children.LockedError as error:
    print(error)
    sys.exit(1)
"""


@contextlib.contextmanager
def launching(folder, plans, jobs=2):
    """Start a sweep of stand-ins: name -> {"train": plan, "evaluate": plan}."""
    words = [sys.executable, "-c", LAUNCH, str(folder), str(jobs), json.dumps(plans)]
    with (folder / "out").open("a") as out:
        process = subprocess.Popen(words, cwd=ROOT, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def launch(folder, plans, jobs=2):
    """Run a sweep of stand-ins; return its exit code and what it said."""
    before = len((folder / "out").read_text()) if (folder / "out").exists() else 0
    with launching(folder, plans, jobs) as process:
        code = process.wait(300)
    return code, (folder / "out").read_text()[before:]


def wait_for(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def began(folder, name, kind="train"):
    return sorted((folder / "runs" / name).glob(f"began_{kind}_*"))


def left_behind(folder):
    """Processes that began and have not said how they ended, and are there."""
    found = []
    for path in folder.glob("runs/*/began_*"):
        ended = path.with_name(path.name.replace("began", "ended"))
        number = path.name.rpartition("_")[2]
        if not ended.exists() and pathlib.Path(f"/proc/{number}").exists():
            found.append(number)
    return found


def test_runs_are_bounded_a_failure_is_told_and_what_is_done_is_skipped(tmp_path):
    plans = {f"run{i}": {"train": "0"} for i in range(4)} | {"bad": {"train": "1,0"}}
    code, said = launch(tmp_path, plans)
    assert code == 1
    assert "failed bad: training ended with code 1" in said and "ValueError: the reason" in said
    assert all(f"done run{i}" in said for i in range(4)) and "4 done, 1 failed" in said
    others = [int(path.read_text()) for path in tmp_path.glob("runs/*/began_train_*")]
    assert max(others) == 1  # beside it, of two at a time
    for i in range(4):  # what evaluates says that it is done: the stand-in leaves no config
        (tmp_path / f"runs/run{i}/config.json").write_text('{"evals": {}}')

    code, said = launch(tmp_path, plans)
    assert code == 0 and "5 done" in said
    assert len(began(tmp_path, "bad")) == 2
    assert [len(began(tmp_path, f"run{i}", "evaluate")) for i in range(4)] == [1] * 4


def test_a_failed_evaluation_is_told_and_alone_done_again(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "0")  # in a job of Slurm each run is still one of its own
    plans = {"a": {"train": "0", "evaluate": "1,judge"}}
    code, said = launch(tmp_path, plans)
    assert code == 1 and "failed a: evaluation ended with code 1" in said
    assert launch(tmp_path, plans)[0] == 0
    assert len(began(tmp_path, "a")) == 1 and len(began(tmp_path, "a", "evaluate")) == 2


def test_who_is_stopped_from_outside_goes_on_unless_in_vain(tmp_path):
    code, said = launch(tmp_path, {"a": {"train": "75,75,0"}, "b": {"train": "75"}})
    assert code == 1
    assert "done a" in said and "failed b: stopped 3 times, and nothing saved" in said
    assert len(began(tmp_path, "a")) == len(began(tmp_path, "b")) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_saved_and_the_same_command_goes_on(tmp_path, number):
    plans = {name: {"train": "wait,0"} for name in "abc"}
    with launching(tmp_path, plans) as process:
        wait_for(lambda: all((tmp_path / f"runs/{n}/checkpoints/0").exists() for n in "ab"))
        wait_for(lambda: all((tmp_path / f"runs/{n}/listening").exists() for n in "ab"))
        process.send_signal(number)
        assert process.wait(120) == 75
    assert not left_behind(tmp_path)
    assert not (tmp_path / "runs/c").exists()
    for name in "ab":
        assert (tmp_path / f"runs/{name}/checkpoints/1").exists()
        codes = json.loads((tmp_path / f"runs/{name}/ended.json").read_text())
        assert codes == {"train": 75, "evaluate": 75}
    code, said = launch(tmp_path, {**plans, "c": {"train": "0"}})
    assert code == 0 and "3 done" in said


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_a_killed_sweep_leaves_nobody_behind_and_the_same_command_goes_on(tmp_path):
    plans = {name: {"train": "wait,0"} for name in "ab"}
    with launching(tmp_path, plans) as process:
        wait_for(lambda: all((tmp_path / f"runs/{n}/checkpoints/0").exists() for n in "ab"))
        process.kill()
        process.wait()
    code, said = launch(tmp_path, plans)  # at once, while they save
    assert code == 0 and "2 done" in said, said
    for name in "ab":
        first, second = sorted(began(tmp_path, name), key=lambda path: path.stat().st_mtime)
        ended = first.with_name(first.name.replace("began", "ended"))
        assert ended.read_text() == "75"
        assert second.stat().st_mtime >= ended.stat().st_mtime  # never two in a folder
    assert not left_behind(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_a_process_whose_parent_went_before_it_began_ends():
    begin = functools.partial(children.end_with_parent, os.getpid() + 1)
    assert subprocess.run(["sleep", "60"], preexec_fn=begin).returncode == -signal.SIGTERM


def test_two_sweeps_in_a_folder_are_refused(tmp_path):
    plans = {"a": {"train": "wait"}}
    with launching(tmp_path, plans) as process:
        wait_for(lambda: (tmp_path / "runs/a/checkpoints/0").exists())
        code, said = launch(tmp_path, plans)
        assert code == 1 and f"in use by process {process.pid}" in said
        assert children.is_held(tmp_path)
        fake = sweeps.PlannedRun("a", {}, "", {}, STEPS, {"flops_per_step": 1.0})
        assert local.read_job(fake, tmp_path, True, held=True).state == "running"
        process.terminate()
        assert process.wait(120) == 75
    assert not children.is_held(tmp_path)
    assert local.read_job(fake, tmp_path, True).state == "stopped"


def test_a_second_interrupt_ends_at_once(tmp_path):
    with launching(tmp_path, {"a": {"train": "wait"}}) as process:
        wait_for(lambda: (tmp_path / "runs/a/checkpoints/0").exists())
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 75
    assert not (tmp_path / "runs/a/checkpoints/1").exists() and not left_behind(tmp_path)


def test_a_terminal_is_shown_where_all_are(tmp_path):
    make = lambda name: sweeps.PlannedRun(name, {}, "", {}, STEPS, {"flops_per_step": 2.0})
    jobs = [local.read_job(make(name), tmp_path, False) for name in ("a", "b", "c")]
    jobs[0].state, jobs[0].progress = "done", Progress(STEPS, 1.25, 0.5)
    jobs[1].state, jobs[1].progress = "running", Progress(1, 2.5, 60.0)
    jobs[2].state, jobs[2].why = "failed", "training ended with code 1"
    drawn = table.RunTable(jobs)
    drawn.began = time.monotonic() - 10  # in which 5 of 8 steps were done
    console = rich.console.Console(record=True, width=100, file=io.StringIO())
    console.print(drawn.render())
    lines = console.export_text().splitlines()
    assert lines[0].startswith("1 done, 1 running, 1 failed; 0:00:06 left")
    assert lines[2].split() == ["b", "running", "1/4", "2.5000", "0:03:00"]
    assert lines[3].split("  ")[0].strip() == "c" and "failed: training ended with" in lines[3]
    assert lines[4].split() == ["a", "done", "4/4", "1.2500"]


def test_the_launcher_holds_no_accelerator():
    code = "import sys, launch.sweep, launch.backends.local, launch.backends.slurm"
    code += ", launch.backends.jobset, launch.backends.print; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# --- the command itself


def sweep(*words, **options):
    """Run launch.sweep."""
    return subprocess.run(
        [sys.executable, "-m", "launch.sweep", *words],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=1800,
        **options,
    )


SWEEP = """
def get_sweep(size="full"):
    run = {"config": "configs/hypnos/rq_transformer.py:test", "stem": "a", "budget.flops": 1e10}
    return [{**run, "KEY": 16}]
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """A sweep of one run whose cost was counted, and its commands."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "one.py").write_text(SWEEP.replace("KEY", "objective.model.dim"))
    words = [f"--sweep={folder / 'one.py'}", f"--output={folder / 'out'}"]
    return folder / "out", words, sweep(*words, "--backend=print")


def test_print_says_the_plain_commands(printed):
    folder, _, done = printed
    assert done.returncode == 0, done.stderr
    train, evaluate = done.stdout.splitlines()
    written = json.loads((folder / "sweep.json").read_text())
    [run] = written["runs"]
    steps = round(1e10 / run["cost"]["flops_per_step"])
    assert run["steps"] == run["overrides"]["train.steps"] == steps > 1
    workdir = folder / "runs" / run["name"]
    assert train == (
        f"python -m launch.train --config=configs/hypnos/rq_transformer.py:test"
        f" --workdir={workdir} --config.objective.model.dim=16 --config.train.steps={steps}"
        f" --config.data.path={folder}/synthetic/token_windows"
    )
    assert evaluate == f"python -m launch.evaluate --workdir={workdir} --follow"
    assert run["name"].startswith("a-") and not workdir.exists()
    assert run["given"]["budget.flops"] == 1e10 and run["cost"]["parameters"] > 1000


def test_a_dry_run_says_where_all_are_and_counts_nothing_again(printed):
    folder, words, _ = printed
    done = sweep(*words, "--dry_run")
    assert done.returncode == 0 and "1 waiting" in done.stdout and not (folder / "runs").exists()


@pytest.mark.parametrize(
    "key, words, message",
    [
        ("objective.model.dmi", [], "run 0: objective.model.dmi is no key"),
        ("objective.model.dim", ["--set=optim.rate=1"], "run 0: optim.rate is no key"),
        ("objective.model.dim", ["--set=nonsense"], "--set=nonsense: give KEY=VALUE"),
        ("objective.model.dim", ["--backend=jobset"], "needs --image and --claim"),
    ],
)
def test_what_is_wrong_ends_in_one_line_before_anything_starts(
    printed, tmp_path, key, words, message
):
    (tmp_path / "one.py").write_text(SWEEP.replace("KEY", key))
    output = tmp_path / "out"
    if "jobset" in str(words):
        output = printed[0]
        words = [*words, *printed[1][:1]]
    else:
        words = [*words, f"--sweep={tmp_path / 'one.py'}"]
    done = sweep(*words, f"--output={output}")
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not (output / "runs").exists()


@pytest.mark.slow
def test_a_smoke_sweep_survives_a_kill_and_is_skipped_when_done(tmp_path):
    some = tmp_path / "some.py"  # a run of each budget
    some.write_text(
        "from configs.sweeps import isoflop\n"
        "def get_sweep(size=''):\n    return isoflop.get_sweep('smoke')[::4]\n"
    )
    words = [f"--sweep={some}", f"--output={tmp_path}", "--jobs=2"]
    command = [sys.executable, "-m", "launch.sweep", *words]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out)
        wait_for(lambda: list(tmp_path.glob("runs/*/checkpoints/*/sha256.json")), 600)
        process.kill()
        process.wait()
    done = sweep(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    written = sweeps.read_sweep(tmp_path)
    count = len(written["runs"])
    for run in written["runs"]:
        workdir = tmp_path / "runs" / run["name"]
        steps = [r["step"] for r in metrics.read(workdir / "metrics.jsonl") if "loss" in r]
        assert steps == list(range(1, run["steps"] + 1))
        spent = run["steps"] * json.loads((workdir / "cost.json").read_text())["flops_per_step"]
        assert abs(spent / run["given"]["budget.flops"] - 1) < 0.1
    before = {path: path.stat().st_mtime for path in tmp_path.glob("runs/**/*")}
    begin = time.monotonic()
    done = sweep(*words)
    assert done.returncode == 0 and f"{count} done" in done.stdout
    assert time.monotonic() - begin < 10
    assert {path: path.stat().st_mtime for path in tmp_path.glob("runs/**/*")} == before
