"""Pipelines: what is skipped, resumed, told; and that each of ``configs/pipelines`` can be run."""

import ast
import fnmatch
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time

import psutil
import pytest
from launch_commands import ROOT, flags_of, load_config

from configs.pipelines import Step
from data_pipelines import labels
from data_pipelines.channels.table import CHANNELS
from data_pipelines.recipes.hypnos import EIGHT
from data_pipelines.synthetic import write_tiny_modalities
from launch import steps as launch_steps
from launch.steps import Records, load_pipeline, words

PIPELINES = sorted((ROOT / "configs/pipelines").glob("[!_]*.py"))

# A module of launch for the tests: "--text" goes into "--output", "--slow" waits for a signal.
COMMAND = """
import pathlib, sys, time
given = dict(word[2:].split("=", 1) for word in sys.argv[1:])
output = pathlib.Path(given["output"])
with (output.parent / "calls").open("a") as calls:
    calls.write(output.name + chr(10))
if "slow" in given and not pathlib.Path(given["slow"]).exists():
    output.write_text("half")
    pathlib.Path(given["slow"]).touch()
    time.sleep(60)
if "silent" not in given:
    output.write_text(given.get("text", ""))
sys.exit(int(given.get("code", 0)))
"""

PIPELINE = """
from configs.pipelines import Step

def get_pipeline(text="one", *, code=0, slow="", silent=False):
    more = ({"slow": slow} if slow else {}) | ({"silent": True} if silent else {})
    return [
        Step("first", "toy", {"output": "{output}/a", "text": text}, "a", 1),
        Step("beside", "toy", {"output": "{output}/b"}, "b", 1),
        Step("second", "toy", {"output": "{output}/c", "of": "{output}/a", "code": code} | more,
             "c", 1),
        Step("last", "toy", {"output": "{output}/d", "of": "{output}/c"}, "d", 1),
    ]
"""


class Toy:
    """A pipeline of four steps: ``second`` reads ``first``, ``last`` reads ``second``."""

    def __init__(self, folder):
        self.file, self.folder, self.code = folder / "toy.py", folder / "out", folder / "launch"
        self.file.write_text(PIPELINE)
        self.code.mkdir()
        for path in (ROOT / "launch").glob("*.py"):
            (self.code / path.name).symlink_to(path)
        (self.code / "toy.py").write_text(COMMAND)

    def start(self, argument="", *flags):
        command = [sys.executable, "-m", "launch.pipeline", f"--output={self.folder}", *flags]
        command.append(f"--pipeline={self.file}{argument}")
        environment = {**os.environ, "PYTHONPATH": f"{self.code.parent}{os.pathsep}{ROOT}"}
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=self.code.parent, env=environment, **output)

    def run(self, argument="", *flags):
        """Return the exit code, what was printed, and the outputs of the steps that were called."""
        process = self.start(argument, *flags)
        said, _ = process.communicate(timeout=60)
        calls = self.folder / "calls"
        called = calls.read_text().split() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return process.returncode, said, called


@pytest.fixture
def toy(tmp_path):
    return Toy(tmp_path)


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_what_is_done_is_skipped_until_its_command_changes(toy):
    code, said, called = toy.run()
    assert (code, called) == (0, ["a", "b", "c", "d"])
    assert (
        f"[1/4] first: 0 s so far, about 4 s left\n$ python -m launch.toy --output={toy.folder}/a"
    )
    code, said, called = toy.run()
    assert (code, called) == (0, []) and "[4/4] last: done (" in said
    code, said, called = toy.run(":two")
    assert (code, called) == (0, ["a", "c", "d"])  # and those that read what has changed
    assert (toy.folder / "a").read_text() == "two"
    (toy.folder / "b").unlink()
    assert toy.run(":two")[2] == ["b"]


def test_a_dry_run_prints_the_commands_and_runs_none(toy):
    code, said, called = toy.run("", "--dry_run")
    assert (code, called) == (0, []) and not toy.folder.exists()
    assert f"[4/4] last: to do\n$ python -m launch.toy --output={toy.folder}/d" in said
    toy.run()
    code, said, _ = toy.run(":two", "--dry_run")
    assert re.findall(r"\] (\w+): (done|to do)", said) == [
        ("first", "to do"),
        ("beside", "done"),
        ("second", "to do"),
        ("last", "to do"),
    ]


def test_a_failing_step_ends_the_pipeline_and_says_how_to_go_on(toy):
    code, said, called = toy.run("", "--set", "code=3")
    assert (code, called) == (1, ["a", "b", "c"])
    assert "[3/4] second failed: the command\n  python -m launch.toy" in said
    assert "ended with exit code 3" in said
    assert f"python -m launch.pipeline --output={toy.folder} --set code=3" in said
    code, said, called = toy.run("", "--set", "code=75")
    assert (code, called) == (75, ["c"]) and "second: stopped; the same command goes on" in said
    (toy.folder / "c").unlink()
    code, said, called = toy.run("", "--set=silent=true")
    assert (code, called) == (1, ["c"]) and "left no c" in said
    assert toy.run()[2] == ["c", "d"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_same_command_goes_on_after_the_pipeline_was_killed(toy, tmp_path, number):
    waits = f"--set=slow={tmp_path}/waits"
    with toy.start("", waits) as process:
        wait_for((tmp_path / "waits").exists)
        process.send_signal(number)
        assert process.wait(60) == (75 if number == signal.SIGTERM else -number)
    assert (toy.folder / "c").read_text() == "half"
    code, said, called = toy.run("", waits)
    assert code == 0 and called == ["a", "b", "c", "c", "d"], said
    assert "[2/4] beside: done" in said
    assert (toy.folder / "c").read_text() == ""


def test_the_same_command_goes_on_after_a_step_was_killed(toy, tmp_path):
    with toy.start("", f"--set=slow={tmp_path}/waits") as process:
        wait_for((tmp_path / "waits").exists)
        [step] = [
            p
            for p in psutil.Process(process.pid).children(recursive=True)
            if "launch.toy" in p.cmdline()
        ]
        step.kill()
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "ended with exit code -9" in said
    assert toy.run("", f"--set=slow={tmp_path}/waits")[2] == ["a", "b", "c", "c", "d"]


def test_two_pipelines_in_a_folder_are_refused(toy, tmp_path):
    with toy.start("", f"--set=slow={tmp_path}/waits") as process:
        wait_for((tmp_path / "waits").exists)
        code, said, _ = toy.run()
        assert code == 1 and f"in use by process {process.pid}" in said
        process.terminate()
        assert process.wait(60) == 75


def test_files_that_come_later_into_a_folder_outside_are_seen(tmp_path):
    (tmp_path / "recordings").mkdir()
    (tmp_path / "out").mkdir()
    read = Step("read", "toy", {"input": str(tmp_path / "recordings")}, "nights")
    records = Records([read], tmp_path / "out")
    records.begin(read)
    (tmp_path / "out" / "nights").mkdir()
    records.finish(read, 2.0, launch_steps.inputs(read, tmp_path / "out"))
    assert Records([read], tmp_path / "out").is_done(read)
    (tmp_path / "recordings" / "another.edf").touch()
    assert not Records([read], tmp_path / "out").is_done(read)
    assert launch_steps.read_seconds(tmp_path / "out") == {"read": 2.0}


def test_the_time_left_is_that_of_before_or_a_share(tmp_path):
    two = [Step(name, "toy", {}, name, 10.0 * (i + 1)) for i, name in enumerate("ab")]
    records = Records(two, tmp_path)
    assert records.expect(two) == 30
    records.finish(two[0], 5.0, "")
    assert records.expect(two) == 5 + 10
    assert records.expect(two[1:]) == 10


def test_a_step_whose_channels_no_training_night_has_is_left_out(tmp_path, monkeypatch):
    write_tiny_modalities(tmp_path / "nights", seed=0)
    step = lambda *channels: Step("x", "toy", {}, "x", needs=("nights", channels))
    assert launch_steps.left_out(step("eeg", "resp_abd"), tmp_path) == ""
    why = launch_steps.left_out(step("resp_abd", "resp_thx"), tmp_path)
    assert why == f"no training night of {tmp_path / 'nights'} has resp_abd or resp_thx"
    assert launch_steps.left_out(step("e?g"), tmp_path) == ""
    assert "has eeg_*" in launch_steps.left_out(step("eeg_*"), tmp_path)
    # A label of events counts where somebody looked for such events.
    assert launch_steps.left_out(step("hypopnea_only"), tmp_path) == ""
    monkeypatch.setattr(labels, "scored", lambda night, kinds: "arousal" in kinds)
    assert "has hypopnea_only" in launch_steps.left_out(step("hypopnea_only"), tmp_path)
    assert launch_steps.left_out(step("arousal"), tmp_path) == ""


def test_what_a_pipeline_does_not_take_is_named(tmp_path):
    demo = "configs/pipelines/demo.py"
    with pytest.raises(ValueError, match="there is no file configs/pipelines/no.py"):
        load_pipeline("configs/pipelines/no.py", {})
    with pytest.raises(ValueError, match=r"unexpected keyword argument 'night'; it takes .*nights"):
        load_pipeline(demo, {"night": 3})
    with pytest.raises(ValueError, match="missing a required argument: 'data'"):
        load_pipeline("configs/pipelines/demo_real.py", {})
    with pytest.raises(ValueError, match="no design 'none'; there are"):
        load_pipeline("configs/pipelines/real_af.py:none", {"data": "x"})
    twice = tmp_path / "twice.py"
    step = 'Step("one", "toy", {}, "a")'
    twice.write_text(f"from configs.pipelines import Step\nget_pipeline = lambda: [{step}] * 2\n")
    with pytest.raises(ValueError, match="several steps have the name 'one'"):
        load_pipeline(str(twice), {})


def every_pipeline():
    """Each file as its docstring's users call it."""
    given = {"demo_real.py": {"data": "PUBLIC"}, "real_af.py": {"data": "PUBLIC", "test": "MORE"}}
    given |= {"real_af.py:mixed": {"data": "PUBLIC"}}
    given |= {name: {"data": "PUBLIC"} for name in ("real_apnea_rr.py", "real_stages_psd.py")}
    given |= {"demo.py": {}, "demo.py:test": {"data": "RECORDINGS"}}
    given |= {"compare.py": {}, "compare.py:test": {"seeds": 1, "steps": 3, "hypnos": False}}
    given |= {"compare_families.py": {}, "compare_families.py:test": {"labels": "SCORING"}}
    edf = {"data": "RECORDINGS", "recipe": "sleep_edfx", "tasks": "stage5", "protocol": "probe"}
    given |= {"synthsleepnet.py": {}, "synthsleepnet.py:test": edf}
    few = {"rows": "c4,six", "fractions": 0.05, "random_fractions": 1, "seeds": 2}
    given |= {"synthsleepnet_table.py:test": few}
    given |= {"sleeplm.py": {}, "sleeplm.py:test,ten": {"data": "RECORDINGS", "steps": 3}}
    assert {name.partition(":")[0] for name in given} == {path.name for path in PIPELINES}
    return given


def test_ecgs_that_are_judged_enter_no_training():
    """What is trained, and what tokenizers see, is below nights; probes alone read the others."""
    steps = load_pipeline("configs/pipelines/real_af.py", {"data": "PUBLIC", "test": "MORE"})
    judged = {step.output for step in steps if "cinc2017" in str(step.arguments.get("input"))}
    assert judged == {"judged", "test"}
    for step in steps:
        if step.command == "train":
            path = step.arguments["config.data.path"].removeprefix("{output}/")
            assert path in ("nights", "tokens/nights")
    (prepared,) = (step for step in steps if step.output == "nights")
    assert prepared.arguments["input"] == "{output}/recordings"


@pytest.mark.parametrize("name, options", every_pipeline().items())
def test_steps_name_flags_that_their_commands_have(name, options):
    steps = load_pipeline(f"configs/pipelines/{name}", options)
    outputs = [step.output for step in steps]
    assert len(set(outputs)) == len(outputs)
    for step in steps:
        known = flags_of(f"launch/{step.command}.py")
        assert {flag.partition(".")[0] for flag in step.arguments} <= known, step
        if "config" in step.arguments:
            config = load_config(step.arguments["config"])
            for flag, value in step.arguments.items():
                if flag.startswith("config."):  # a key that the config does not have raises
                    if str(value).startswith("("):
                        value = ast.literal_eval(value)
                    config.update_from_flattened_dict({flag.removeprefix("config."): value})


def test_a_pipeline_reads_only_what_was_made_before():
    for name, options in every_pipeline().items():
        made = []
        for step in load_pipeline(f"configs/pipelines/{name}", options):
            for word in words(step):
                for path in re.findall(r"\{output\}/([^,=\"\s]+)", word):
                    if path != step.output and not (step.output + "/").startswith(path):
                        near = [x for x in made if x.startswith(path) or path.startswith(x)]
                        assert near, f"{name}, {step.name}: {path}"
            made.append(step.output)


def test_the_channels_of_signal_types_are_those_of_the_table():
    table = {}
    for channel in EIGHT:
        table.setdefault(CHANNELS[channel].signal_type, []).append(channel)
    demo = runpy.run_path(str(ROOT / "configs/pipelines/demo.py"))
    assert {k: list(v) for k, v in demo["CHANNELS"].items()} == table


def test_the_runner_holds_no_accelerator():
    code = "import sys, launch.pipeline; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.slow
def test_the_demo_ends_with_a_report(tmp_path):
    command = [sys.executable, "-m", "launch.pipeline", f"--output={tmp_path}"]
    command += ["--pipeline=configs/pipelines/demo.py:test", "--set=nights=6", "--set=hours=0.2"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    run = lambda: subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "13 steps" in done.stdout and "staging" in done.stdout
    page = (tmp_path / "report.html").read_text()
    assert "Synthetic cohort" in page and "train RQ-Transformer" in page
    again = run()
    assert again.returncode == 0 and "$ python" not in again.stdout
    assert json.loads((tmp_path / "pipeline.json").read_text())["steps"]["report"]["done"]


def test_stage_1_reads_all_channels_of_its_type_and_stage_2_begins_from_it():
    steps = load_pipeline("configs/pipelines/synthsleepnet.py", {})
    types = runpy.run_path(str(ROOT / "configs/synthsleepnet/neuronet.py"))["TYPES"]
    every = [name for names in types.values() for name in names]
    for kind, names in types.items():
        [step] = [step for step in steps if step.name == f"stage 1 {kind}"]
        [pattern] = ast.literal_eval(step.arguments["config.data.modalities"])
        assert fnmatch.filter(every, pattern) == list(names)
        assert step.needs == ("nights", (pattern,))
    [fused] = [step for step in steps if step.name == "stage 2"]
    begun = json.loads(fused.arguments["config.train.init_from"])
    assert [entry["source"] for entry in begun] == [f"{{output}}/encoders/{x}" for x in types]


@pytest.mark.parametrize("size", ["test", "smoke", "demo", "small", "base"])
def test_the_network_of_stage_3_has_the_sizes_of_stage_2s(size):
    before = load_config(f"configs/synthsleepnet/pretrain.py:{size}").objective.model
    after = load_config(f"configs/synthsleepnet/finetune.py:{size}").objective.backbone
    sizes = ("encoder", "share", "dim", "depth", "heads", "dtype")
    assert {k: before[k] for k in sizes} == {k: after[k] for k in sizes}
    assert before.lora.rank == after.lora.rank
