"""Jobs as they are handed to Slurm and to Kubernetes, to the last step before the network."""

import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import psutil
import pytest
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

from hypnos_jax.jobs import sweeps
from launch.backends import jobset, slurm
from launch.backends import print as printing

ROOT = pathlib.Path(__file__).parent.parent.parent
COST = {"flops_per_step": 4e6, "channel_seconds_per_step": 2048.0}
CONFIG = "configs/hypnos/rq_transformer.py:test"
CLUSTER = {
    "image": "sleep:1",
    "tpu": "v5e:4x4",
    "claim": "nights",
    "mount": "/shared",
    "queue": "research",
}


def make_runs(folder, count=2):
    """Runs, and the folder of their sweep with its file, so that no cost is asked for."""
    given = [{"config": CONFIG, "stem": "a", "seed": i, "train.steps": 4} for i in range(count)]
    found = [
        sweeps.PlannedRun(
            sweeps.name_of(run),
            run,
            CONFIG,
            {"seed": i, "train.steps": 4, "data.path": "/data"},
            4,
            COST,
        )
        for i, run in enumerate(given)
    ]
    folder.mkdir(exist_ok=True)
    (folder / "two.py").write_text(f"def get_sweep(size=''):\n    return {given}\n")
    sweeps.write_sweep(folder, str(folder / "two.py"), {"data.path": "/data"}, found)
    return found


def sweep(folder, *words, path="", **environment):
    """Run launch.sweep on the folder of ``make_runs``."""
    command = [sys.executable, "-m", "launch.sweep", f"--sweep={folder / 'two.py'}"]
    return subprocess.run(
        [*command, f"--output={folder}", "--set=data.path=/data", *words],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{path}{os.pathsep}{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


# --- Slurm


def flags_of(script):
    """The #SBATCH lines of a script, as a dict."""
    lines = [line.removeprefix("#SBATCH --") for line in script.splitlines() if "#SBATCH" in line]
    pairs = [shlex.split(line)[0].partition("=") for line in lines]
    return {key: value if equals else True for key, equals, value in pairs}


def test_a_dry_run_writes_what_sbatch_would_get(tmp_path):
    folder = tmp_path / "mine"
    runs = make_runs(folder, 3)
    words = ["--slurm=slurm_partition=gpu", "--slurm=gpus_per_node=2", "--slurm=timeout_min=90"]
    words += ["--slurm=slurm_account=sleep", "--slurm_eval=cpus_per_task=4"]
    words += ['--slurm=slurm_additional_parameters={"reservation": "night"}']
    done = sweep(folder, "--backend=slurm", "--dry_run", "--jobs=2", *words)
    assert done.returncode == 0, done.stderr
    assert "3 runs would be submitted" in done.stdout

    place = folder / "slurm_dry_run"
    [script] = (place / "train").glob("*_submission.sh")
    given = flags_of(script.read_text())
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    assert given["array"] == "0-2%2"
    assert given["requeue"] is True and given["reservation"] == "night"
    assert given["signal"].startswith("USR2@")
    assert (given["partition"], given["account"], given["time"]) == ("gpu", "sleep", "90")
    assert given["gpus-per-node"] == "2" and given["nodes"] == "1"
    assert given["job-name"] == "mine-train" and given["open-mode"] == "append"
    assert " -m submitit.core._submit " in script.read_text()

    scripts = sorted((place / "evaluate").glob("*_submission.sh"))
    found = [flags_of(script.read_text()) for script in scripts]
    assert [one["dependency"] for one in found] == [f"after:1_{i}" for i in range(3)]
    for one in found:
        assert one["partition"] == "gpu" and one["cpus-per-task"] == "4"
        assert "array" not in one and "gpus-per-node" not in one and one["requeue"] is True

    # What the jobs run are the commands that ``print`` says, in the real folder.
    from submitit.core.utils import DelayedSubmission

    for i, run in enumerate(runs):
        workdir = str(sweeps.workdir_of(folder, run))
        train = DelayedSubmission.load(place / f"train/1_{i}_submitted.pkl").function
        evaluate = DelayedSubmission.load(place / f"evaluate/{2 + i}_submitted.pkl").function
        said = printing.commands(run, workdir, True)
        assert [shlex.join(["python", *one.words]) for one in (train, evaluate)] == said
        assert train.log == f"{workdir}/train.log"
    assert not (folder / "slurm").exists() and not (folder / "runs").exists()


STATES = """#!/bin/sh
echo "JobID|State|NodeList"
for i in 1_0 1_1 2 3; do echo "$i|$STATE|node"; done
"""


def test_what_slurm_still_has_is_not_submitted_again_and_what_is_done_never(tmp_path):
    folder, programs = tmp_path / "mine", tmp_path / "programs"
    runs = make_runs(folder)
    programs.mkdir()
    for name, text in (("sbatch", slurm.STAND_IN), ("srun", ""), ("sacct", STATES)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)

    def submitted(state):
        done = sweep(folder, "--backend=slurm", path=str(programs), STATE=state)
        assert done.returncode == 0, done.stderr
        return json.loads((folder / "slurm/submitted.json").read_text())

    first = submitted("PENDING")
    assert [first[run.name]["train"] for run in runs] == ["1_0", "1_1"]
    assert [first[run.name]["evaluate"] for run in runs] == ["2", "3"]
    assert submitted("RUNNING") == first
    workdir = sweeps.workdir_of(folder, runs[0])
    (workdir / "checkpoints/4").mkdir(parents=True)
    (workdir / "checkpoints/4/sha256.json").touch()
    (workdir / "config.json").write_text('{"evals": {"val": {"every": 2}}}')
    second = submitted("NODE_FAIL")
    assert second[runs[0].name] == first[runs[0].name]
    assert second[runs[1].name] == {"train": "4", "evaluate": "5"}


# Saves at a signal and ends with 75; the second time it trains to the end.
PREEMPTED = """
import pathlib, signal, sys, time
workdir = pathlib.Path(sys.argv[1])
attempts = len(list(workdir.glob("attempt_*")))
(workdir / f"attempt_{attempts}").touch()
signal.signal(signal.SIGTERM, lambda *_: (workdir / "saved").touch() or sys.exit(75))
if attempts == 0:
    (workdir / "waiting").touch()
    time.sleep(600)
"""


class Fake(sweeps.PlannedRun):
    """A run whose training is such a process, and whose evaluation ends as told."""

    def train(self, workdir):
        return ["-c", PREEMPTED, str(workdir)]

    def evaluate(self, workdir):
        return ["-c", "import sys; sys.exit('no labels')"]


def test_a_preempted_job_saves_and_goes_on_by_submitits_local_executor(tmp_path, monkeypatch):
    import submitit

    run = Fake("a", {}, CONFIG, {}, 4, COST)
    workdir = sweeps.workdir_of(tmp_path, run)
    submitted = {}
    submit = submitit.AutoExecutor.submit
    monkeypatch.setattr(
        submitit.AutoExecutor,
        "submit",
        lambda self, command: submitted.setdefault(command.log, submit(self, command)),
    )
    found = slurm.submit(
        [run],
        tmp_path,
        tmp_path / "slurm",
        evaluate=True,
        jobs=1,
        parameters={"timeout_min": 10},
        evaluate_parameters={},
        cluster="local",
    )
    train, evaluate = submitted[f"{workdir}/train.log"], submitted[f"{workdir}/evaluate.log"]
    assert found == {"a": {"train": train.job_id, "evaluate": evaluate.job_id}}
    end = time.monotonic() + 240
    while not (workdir / "waiting").exists():
        assert time.monotonic() < end and train.state != "FINISHED", train.stderr()
        time.sleep(0.05)
    [task] = psutil.Process(int(train.job_id)).children()  # of submitit's local controller
    for process in (*task.children(), task):  # as Slurm does, which knows no difference
        process.send_signal(signal.SIGUSR2)
    assert train.result() == 0
    assert (workdir / "saved").exists() and (workdir / "attempt_1").exists()
    assert "no labels" in str(evaluate.exception())


class Failing(sweeps.PlannedRun):
    """A run whose training fails, and whose evaluation waits for more."""

    def train(self, workdir):
        return ["-c", "import sys; sys.exit('no nights')"]

    def evaluate(self, workdir):
        return ["-c", "import time; time.sleep(600)"]


def test_a_job_that_evaluates_ends_when_its_training_has_failed(tmp_path):
    from submitit import LocalJob

    run = Failing("a", {}, CONFIG, {}, 4, COST)
    place, options = tmp_path / "slurm", {"evaluate": True, "jobs": 1, "cluster": "local"}
    given = {"parameters": {"timeout_min": 10}, "evaluate_parameters": {}}
    found = slurm.submit([run], tmp_path, place, **options, **given)["a"]
    train, evaluate = (LocalJob(place / kind, found[kind]) for kind in ("train", "evaluate"))
    assert "no nights" in str(train.exception())
    assert "the training failed" in str(evaluate.exception())


def test_submitit_that_is_missing_and_parameters_that_it_does_not_know(tmp_path, monkeypatch):
    options = {"evaluate": False, "jobs": 1, "evaluate_parameters": {}, "cluster": "local"}
    with pytest.raises(ValueError, match="slurm_partitoin"):
        slurm.submit(
            make_runs(tmp_path),
            tmp_path,
            tmp_path / "slurm",
            parameters={"slurm_partitoin": "x"},
            **options,
        )
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[slurm\]'"):
        slurm.submit(make_runs(tmp_path), tmp_path, tmp_path / "slurm", parameters={}, **options)


# --- Kubernetes


def test_a_jobset_fits_its_schema_and_says_the_plain_commands(tmp_path):
    folder = tmp_path / "mine"
    runs = make_runs(folder, 3)
    words = [f"--{key}={value}" for key, value in CLUSTER.items()]
    [*runs, finished] = runs
    workdir = sweeps.workdir_of(folder, finished)
    (workdir / "checkpoints/4").mkdir(parents=True)
    (workdir / "checkpoints/4/sha256.json").touch()
    (workdir / "config.json").write_text('{"evals": {"val": {"every": 2}}}')
    (folder / "jobsets").mkdir()
    (folder / "jobsets/of-another-day.yaml").touch()
    done = sweep(folder, "--backend=jobset", "--namespace=sleep", *words)
    assert done.returncode == 0, done.stderr
    assert "2 manifests written, 1 runs are done" in done.stdout
    assert f"kubectl apply -f {folder}/jobsets" in done.stdout
    files = sorted((folder / "jobsets").glob("*.yaml"))
    assert [file.stem for file in files] == sorted(run.name for run in runs)
    for run in runs:
        content = yaml.safe_load((folder / f"jobsets/{run.name}.yaml").read_text())
        # The schema's models drop what they do not know, and refuse another type.
        assert JobsetV1alpha2JobSet.from_dict(content).to_dict() == content
        assert content["apiVersion"] == "jobset.x-k8s.io/v1alpha2" and content["kind"] == "JobSet"
        assert content["metadata"] == {
            "name": run.name,
            "namespace": "sleep",
            "labels": {"kueue.x-k8s.io/queue-name": "research"},
        }
        train, evaluate = content["spec"]["replicatedJobs"]
        said = printing.commands(run, f"/shared/mine/runs/{run.name}", True)
        assert [command_of(job) for job in (train, evaluate)] == said


def test_the_schema_knows_a_wrong_field_and_a_wrong_type(tmp_path):
    [run] = make_runs(tmp_path, 1)
    content = jobset.manifest(run, "/shared/a", **CLUSTER)
    pod = content["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    pod["nodeSelecter"] = {}
    assert JobsetV1alpha2JobSet.from_dict(content).to_dict() != content
    del pod["nodeSelecter"]
    pod["containers"][0]["args"] = "launch.train"
    with pytest.raises(ValueError, match="args"):
        JobsetV1alpha2JobSet.from_dict(content)


def command_of(job):
    container = container_of(job)
    return shlex.join(container["command"] + container["args"])


def container_of(job):
    [container] = job["template"]["spec"]["template"]["spec"]["containers"]
    return container


@pytest.mark.parametrize(
    "tpu, label, topology, hosts, chips",
    [
        ("v5e:1x1", "tpu-v5-lite-podslice", "1x1", 1, 1),
        ("v5e:2x4", "tpu-v5-lite-podslice", "2x4", 1, 8),
        ("v5e:4x4", "tpu-v5-lite-podslice", "4x4", 4, 4),
        ("v5e:16x16", "tpu-v5-lite-podslice", "16x16", 64, 4),
        ("v5p:2x2x1", "tpu-v5p-slice", "2x2x1", 1, 4),
        ("v5p:4x4x8", "tpu-v5p-slice", "4x4x8", 32, 4),
        ("v6e:8x8", "tpu-v6e-slice", "8x8", 16, 4),
    ],
)
def test_a_slice_has_a_pod_on_each_host_with_all_its_chips(
    tmp_path, tpu, label, topology, hosts, chips
):
    [run] = make_runs(tmp_path, 1)
    content = jobset.manifest(run, "/shared/a", **{**CLUSTER, "tpu": tpu})
    train = content["spec"]["replicatedJobs"][0]
    job = train["template"]["spec"]
    assert train["replicas"] == 1 and job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"] == hosts
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": label,
        "cloud.google.com/gke-tpu-topology": topology,
    }
    room = container_of(train)["resources"]
    assert room["limits"] == room["requests"] == {"google.com/tpu": str(chips)}
    # A node pool is one slice of several hosts, or any number of slices of one.
    exclusive = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    assert train["template"].get("metadata") == ({"annotations": exclusive} if hosts > 1 else None)


def test_who_fails_begins_again_but_for_an_error_and_evaluation_is_not_cut_off(tmp_path):
    [run] = make_runs(tmp_path, 1)
    content = jobset.manifest(run, "/shared/a", max_restarts=7, **CLUSTER)
    train, evaluate = content["spec"]["replicatedJobs"]
    policy = content["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 7
    [rule] = policy["rules"]
    assert rule["action"] == "FailJobSet" and rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert rule["targetReplicatedJobs"] == ["train"]
    # An error of config or data (1), and no other code, is what PodFailurePolicy stands for.
    job = train["template"]["spec"]
    [rule] = job["podFailurePolicy"]["rules"]
    assert rule == {
        "action": "FailJob",
        "onExitCodes": {"containerName": "train", "operator": "In", "values": [1]},
    }
    assert job["backoffLimit"] == 0 and job["template"]["spec"]["restartPolicy"] == "Never"
    job = evaluate["template"]["spec"]
    assert job["backoffLimit"] == 1000 and job["completions"] == 1  # does not end the training
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [75]
    assert "nodeSelector" not in job["template"]["spec"]
    assert container_of(evaluate)["env"] == [{"name": "JAX_PLATFORMS", "value": "cpu"}]
    success = content["spec"]["successPolicy"]
    assert success == {"operator": "All", "targetReplicatedJobs": ["train", "evaluate"]}
    for one in (train, evaluate):
        pod = one["template"]["spec"]["template"]["spec"]
        [volume], [mount] = pod["volumes"], container_of(one)["volumeMounts"]
        assert volume["name"] == mount["name"] and mount["mountPath"] == "/shared"
        assert volume["persistentVolumeClaim"] == {"claimName": "nights"}
    faster = jobset.manifest(run, "/shared/a", evaluate_tpu="v5e:1x1", **CLUSTER)
    pod = faster["spec"]["replicatedJobs"][1]["template"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "1x1"
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": "1"}
    assert "env" not in pod["containers"][0]
    with pytest.raises(ValueError, match="--eval_tpu=v5e:4x4 has 4 hosts"):
        jobset.manifest(run, "/shared/a", evaluate_tpu="v5e:4x4", **CLUSTER)
    alone = jobset.manifest(run, "/shared/a", evaluate=False, **CLUSTER)
    assert [job["name"] for job in alone["spec"]["replicatedJobs"]] == ["train"]
    assert alone["spec"]["successPolicy"]["targetReplicatedJobs"] == ["train"]


@pytest.mark.parametrize(
    "tpu", ["v4:2x2x1", "v5e", "v5e:4", "v5e:3x3", "v5p:4x4", "v5e:0x4", "v5e:1x8"]
)
def test_a_slice_that_there_is_not_is_refused(tpu):
    with pytest.raises(ValueError, match=f"--tpu={tpu}"):
        jobset.slice_of(tpu)
