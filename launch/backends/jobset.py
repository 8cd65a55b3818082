"""Runs of a sweep on TPU slices of a Kubernetes cluster: a JobSet manifest each.

A manifest (``jobset.x-k8s.io/v1alpha2``) has two jobs. ``train`` has a pod on each host of one
slice, where there are several all of one node pool and none of it shared; GKE tells them their
numbers and each other's names (``TPU_WORKER_ID``, ``TPU_WORKER_HOSTNAMES``), by which
``launch.train`` finds the others. ``evaluate`` is one pod that follows the checkpoints, on a CPU or
a slice of its own. Both see one volume. With a queue (Kueue) a JobSet waits until there is room for
all of it.

A host that is preempted, a process that was stopped and saved (exit code 75), stuck (76) or crashed
fails its job, and all pods begin again with the same commands, at most ``max_restarts`` times; an
error of config or data (exit code 1) stays what it is and fails the JobSet at once. A pod that
evaluates is replaced by itself, and the training goes on meanwhile. The JobSet is done when both
jobs are: the last step is then evaluated too.

Manifests are written and not applied: ``kubectl apply -f DIR/jobsets``.
"""

from __future__ import annotations

import math
import pathlib
import re

import yaml

from hypnos_jax.cost.chips import CHIPS
from hypnos_jax.jobs.sweeps import PlannedRun, evaluated, trained, workdir_of
from hypnos_jax.runtime.exit_codes import FAILED, STOPPED_EARLY

TRAIN, EVALUATE = "train", "evaluate"
EXCLUSIVE = "alpha.jobset.sigs.k8s.io/exclusive-topology"
NODE_POOL = "cloud.google.com/gke-nodepool"
ACCELERATOR, TOPOLOGY = (f"cloud.google.com/gke-tpu-{name}" for name in ("accelerator", "topology"))
REPLACEMENTS = 1000  # of a pod that evaluates: days at 6 minutes each; then all would begin again
GRACE_S = 120  # for the step, the batch of an evaluation or a save that is under way


def slice_of(text: str, flag: str = "tpu") -> tuple[str, str, int, int]:
    """Return accelerator label, topology, hosts, and chips of a host.

    Args:
        text: ``"v5e:4x4"``.
        flag: that gave it, for errors.

    Raises:
        ValueError: no such chip, or no such shape.
    """
    chip, _, shape = text.partition(":")
    if chip not in CHIPS:
        raise ValueError(f"--{flag}={text}: give one of {sorted(CHIPS)} and a shape, as in v5e:4x4")
    kind = CHIPS[chip]
    large = re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", shape) and chip == "v5p"
    if shape not in kind.shapes and not (large and all(int(n) % 4 == 0 for n in shape.split("x"))):
        raise ValueError(f"--{flag}={text}: slices of {chip} are {', '.join(kind.shapes)}")
    chips = math.prod(map(int, shape.split("x")))
    hosts = 1 if chips <= kind.alone else chips // kind.per_host
    return kind.nodes, shape, hosts, chips // hosts


def manifest(
    run: PlannedRun,
    workdir: str,
    *,
    image: str,
    tpu: str,
    claim: str,
    mount: str,
    queue: str = "",
    namespace: str = "",
    max_restarts: int = 20,
    evaluate: bool = True,
    evaluate_tpu: str = "",
    evaluate_cpus: int = 4,
    evaluate_memory: str = "16Gi",
) -> dict:
    """Return the JobSet of one run.

    Args:
        run: of a sweep.
        workdir: its folder as the pods see it.
        image: that begins in this project's folder, with it and ``jax[tpu]`` installed.
        tpu: the slice, such as ``"v5e:4x4"``.
        claim: a PersistentVolumeClaim that many pods may write (ReadWriteMany).
        mount: where the pods see it.
        queue: of Kueue; "" for none.
        namespace: "" for kubectl's own.
        max_restarts: of all pods, for the training, before the JobSet has failed.
        evaluate: a job that evaluates beside the one that trains.
        evaluate_tpu: the slice of its pod, of one host; "" for none.
        evaluate_cpus, evaluate_memory: of its pod without a slice.

    Raises:
        ValueError: a slice that there is not, or one of several hosts to evaluate on.
    """
    hosts, tpus, nodes = _on_slice(tpu, "tpu")
    train = _job(
        TRAIN,
        _container(TRAIN, image, run.train(workdir), mount, tpus),
        claim,
        pods=hosts,
        # One pod alone cannot go on: where one fails, the JobSet begins them all again.
        retries=0,
        rule={"action": "FailJob", "onExitCodes": _codes(TRAIN, FAILED)},
        nodes=nodes,
        annotations={EXCLUSIVE: NODE_POOL} if hosts > 1 else None,
    )
    jobs = [train]
    if evaluate:
        hosts, nodes = 1, None
        room = {"cpu": str(evaluate_cpus), "memory": evaluate_memory}
        if evaluate_tpu:
            hosts, room, nodes = _on_slice(evaluate_tpu, "eval_tpu")
        if hosts > 1:
            raise ValueError(f"--eval_tpu={evaluate_tpu} has {hosts} hosts; one evaluates")
        container = _container(EVALUATE, image, run.evaluate(workdir), mount, room)
        if not evaluate_tpu:
            container["env"] = [{"name": "JAX_PLATFORMS", "value": "cpu"}]
        rule = {"action": "Ignore", "onExitCodes": _codes(EVALUATE, STOPPED_EARLY)}
        given = {"pods": 1, "retries": REPLACEMENTS, "rule": rule, "nodes": nodes}
        jobs.append(_job(EVALUATE, container, claim, **given))
    names = [job["name"] for job in jobs]
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": run.name,
            **({"namespace": namespace} if namespace else {}),
            **({"labels": {"kueue.x-k8s.io/queue-name": queue}} if queue else {}),
        },
        "spec": {
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "successPolicy": {"operator": "All", "targetReplicatedJobs": names},
            "failurePolicy": {
                "maxRestarts": max_restarts,
                "rules": [
                    {
                        "name": "wrongConfigOrData",
                        "action": "FailJobSet",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                        "targetReplicatedJobs": [TRAIN],
                    }
                ],
            },
            "replicatedJobs": jobs,
        },
    }


def _on_slice(text: str, flag: str) -> tuple[int, dict, dict]:
    """Hosts of a slice; what a container asks for, and which nodes, to have all of one."""
    label, topology, hosts, chips = slice_of(text, flag)
    return hosts, {"google.com/tpu": str(chips)}, {ACCELERATOR: label, TOPOLOGY: topology}


def _container(name: str, image: str, words: list[str], mount: str, room: dict) -> dict:
    return {
        "name": name,
        "image": image,
        "command": ["python"],
        "args": words,
        "resources": {"requests": dict(room), "limits": dict(room)},
        "volumeMounts": [{"name": "shared", "mountPath": mount}],
    }


def _codes(container: str, code: int) -> dict:
    return {"containerName": container, "operator": "In", "values": [code]}


def _job(name, container, claim, *, pods, retries, rule, nodes=None, annotations=None) -> dict:
    return {
        "name": name,
        "replicas": 1,
        "template": {
            **({"metadata": {"annotations": annotations}} if annotations else {}),
            "spec": {
                "completionMode": "Indexed",
                "completions": pods,
                "parallelism": pods,
                "backoffLimit": retries,
                "podFailurePolicy": {"rules": [rule]},
                "template": {
                    "spec": {
                        "restartPolicy": "Never",
                        "terminationGracePeriodSeconds": GRACE_S,
                        **({"nodeSelector": nodes} if nodes else {}),
                        "containers": [container],
                        "volumes": [
                            {"name": "shared", "persistentVolumeClaim": {"claimName": claim}}
                        ],
                    }
                },
            },
        },
    }


def start(
    runs: list[PlannedRun], folder: pathlib.Path, seen: str, *, evaluate: bool, **options
) -> int:
    """Write the manifests of what is not done, as far as that is seen here; return the exit code.

    Args:
        runs: of the sweep.
        folder: its folder here, for the manifests.
        seen: its folder as the pods see it.
        evaluate: see ``manifest``.
        **options: of ``manifest``.
    """
    place = folder / "jobsets"
    place.mkdir(exist_ok=True)
    for path in place.glob("*.yaml"):  # all that is there is applied
        path.unlink()
    done = [run for run in runs if trained(folder, run)]
    done = [run for run in done if not evaluate or evaluated(folder, run)]
    for run in runs:
        if run in done:
            continue
        content = manifest(run, str(workdir_of(seen, run)), evaluate=evaluate, **options)
        text = yaml.safe_dump(content, sort_keys=False, width=1000)
        (place / f"{run.name}.yaml").write_text(text)
    words = f"{len(runs) - len(done)} manifests written, {len(done)} runs are done"
    print(f"{words}; to start them: kubectl apply -f {place}")
    return 0
