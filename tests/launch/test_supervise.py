"""The supervisor: what it starts again, what not, and real runs of two processes."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from hypnos_jax import metrics
from hypnos_jax.runtime import seals

ROOT = pathlib.Path(__file__).parent.parent.parent

# A stand-in for launch.train: ends with the next of the given codes; with "saves" it leaves a
# step behind; a code of "wait" waits for a signal and ends with 75.
ATTEMPT = """
import os, pathlib, signal, sys, time
codes, workdir = sys.argv[1].split(","), pathlib.Path(sys.argv[2].split("=")[1])
first = not any(word.startswith("--process=") and word != "--process=0" for word in sys.argv)
number = len(list(workdir.glob("attempt_*")))
if first:
    (workdir / f"attempt_{number}").write_text(" ".join(sys.argv[3:]))
else:
    time.sleep(0.5)
    number = len(list(workdir.glob("attempt_*"))) - 1
code = codes[min(number, len(codes) - 1)]
if code == "wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    (workdir / "waiting").touch()
    time.sleep(60)
if code.endswith("s") and first:
    saved = workdir / f"checkpoints/{number}/sha256.json"
    saved.parent.mkdir(parents=True)
    saved.touch()
code = int(code.rstrip("s"))
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


def supervise(flags, command, **options):
    command = [sys.executable, "-m", "launch.supervise", *flags, "--", *command]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **options)


def attempt(tmp_path, codes, flags=()):
    """Supervise attempts that end with these codes; return its code and how many there were."""
    command = [sys.executable, "-c", ATTEMPT, codes, f"--workdir={tmp_path}"]
    code = supervise(["--backoff_s=0.01", "--restarts=2", *flags], command).wait(60)
    return code, len(list(tmp_path.glob("attempt_*")))


@pytest.mark.parametrize(
    "codes, code, attempts",
    [
        ("0", 0, 1),
        ("1", 1, 1),  # a wrong config stays wrong
        ("75,76,0", 0, 3),
        ("-9,70,0", 0, 3),
        ("76", 76, 3),  # two restarts in vain
        ("76,76s,76,76,0", 0, 5),  # what was saved counts
        ("1s,0", 0, 2),
    ],
)
def test_what_is_started_again(tmp_path, codes, code, attempts):
    assert attempt(tmp_path, codes) == (code, attempts)


def test_several_processes_find_each_other_and_end_together(tmp_path):
    code, attempts = attempt(tmp_path, "76,0", ["--processes=2"])
    assert (code, attempts) == (0, 2)
    given = (tmp_path / "attempt_0").read_text().split()
    assert given[0].startswith("--coordinator=127.0.0.1:")
    assert given[1:] == ["--processes=2", "--process=0"]


def test_a_signal_is_passed_on_and_ends_it(tmp_path):
    command = [sys.executable, "-c", ATTEMPT, "wait", f"--workdir={tmp_path}"]
    process = supervise([], command)
    while not (tmp_path / "waiting").exists() and process.poll() is None:
        time.sleep(0.05)
    process.terminate()
    assert process.wait(30) == 75
    assert len(list(tmp_path.glob("attempt_*"))) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_a_killed_supervisor_leaves_nobody_behind(tmp_path):
    waiting = ATTEMPT.replace("sys.exit(75)", "(workdir / 'saved').touch() or sys.exit(75)")
    process = supervise([], [sys.executable, "-c", waiting, "wait", f"--workdir={tmp_path}"])
    while not (tmp_path / "waiting").exists() and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.wait()
    end = time.monotonic() + 30
    while not (tmp_path / "saved").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert (tmp_path / "saved").exists()


def test_a_signal_that_comes_while_a_process_is_started_reaches_it():
    code = "import signal, sys; from launch.supervise import Supervisor;"
    code += "sleeper = [sys.executable, '-c', 'import time; time.sleep(600)'];"
    code += "one = Supervisor(sleeper, 1, 0, 0.0); one.hear(signal.SIGTERM, None);"
    code += "sys.exit(one.attempt())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120)
    assert done.returncode == 128 + signal.SIGTERM


REAL = {
    "rq_transformer.py:test": ["--config.evals.probe.every=final", "--config.mesh.fsdp=2"],
    "rvq_tokenizer.py:demo,resp": ["--config.train.steps=20", "--config.checkpoints.every=10"],
}


@pytest.mark.slow
@pytest.mark.parametrize("config", REAL, ids=lambda config: config.partition(".")[0])
def test_two_real_processes_survive_a_kill(tmp_path, config):
    command = [sys.executable, "-m", "launch.train", f"--config=configs/hypnos/{config}"]
    command += [f"--workdir={tmp_path / 'run'}", *REAL[config]]
    with (tmp_path / "log").open("w") as log:
        process = supervise(["--processes=2"], command, stdout=log, stderr=log)
        while process.poll() is None and not seals.good_steps(tmp_path / "run"):
            time.sleep(0.5)
        killed = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
        os.kill(int(killed.stdout.split()[1]), signal.SIGKILL)
        code = process.wait(1200)
    words = (tmp_path / "log").read_text()
    assert code == 0, words[-5000:]
    assert "again in" in words
    rows = metrics.read(tmp_path / "run/metrics.jsonl")
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == list(range(1, 21))
    assert any(key.startswith("eval/val/") for key in rows[-1] | rows[-2])
    assert json.loads((tmp_path / "run/config.json").read_text())["train"]["steps"] == 20
