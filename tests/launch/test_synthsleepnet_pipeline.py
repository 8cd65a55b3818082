"""SynthSleepNet's three stages by one command, killed in each, and what nights lack left out."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import psutil
import pytest
from launch_commands import ROOT
from tiny_recordings import write_edf, write_hypnogram

from hypnos_jax import checkpoint
from hypnos_jax.runtime import orbax_files, seals

STAGES = ("encoders/ecg", "model", "tasks/stage5")
PEOPLE = (0, 1, 2, 3, 8, 20, 49, 59)  # by their names four train, two validate, two are tested


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Ten minutes of EEG and ECG of people of each split, with their stages."""
    folder = tmp_path_factory.mktemp("recordings")
    labels = {"EEG C4-M1": 20.0, "ECG": 100.0}
    for person in PEOPLE:
        name = f"SC4{person:02}1E0"
        write_edf(folder / f"{name}-PSG.edf", seconds=600, seed=person, labels=labels)
        write_hypnogram(folder / f"{name}-Hypnogram.edf", [0, 1, 2, 3, 4] * 4)
    return folder


def start(recordings, output):
    command = [sys.executable, "-m", "launch.pipeline", f"--output={output}"]
    command += ["--pipeline=configs/pipelines/synthsleepnet.py:test", f"--set=data={recordings}"]
    command += ["--set=tasks=stage5"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


def run(recordings, output):
    process = start(recordings, output)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    return said


def kill_in(stage, recordings, output):
    """Kill the training and the pipeline as soon as the stage has a checkpoint."""
    process, end = start(recordings, output), time.monotonic() + 1200
    while not seals.saved(output / stage):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    for one in [*psutil.Process(process.pid).children(recursive=True), process]:
        one.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
def test_one_command_goes_on_after_kills_in_each_stage_as_if_there_were_none(recordings, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    said = run(recordings, whole)
    assert "stage 1 eog: left out" in said and "stage 1 emg: left out" in said
    for stage in STAGES:
        kill_in(stage, recordings, broken)
        steps = seals.good_steps(broken / stage)
        assert steps and steps[-1] < 20, f"{stage} ended before it was killed"
    said = run(recordings, broken)
    assert "stage 1 ecg: done" in said and "stage 2: done" in said
    for stage in STAGES:
        ours, theirs = (checkpoint.restore_variables(x / stage, "newest") for x in (broken, whole))
        assert ours[1] == theirs[1] == 20
        jax.tree.map(np.testing.assert_array_equal, ours[2], theirs[2])
    begun = orbax_files.load_meta(broken / "model/checkpoints/20")["init_from"]
    assert [entry["source"].rsplit("/")[-1] for entry in begun] == ["eeg", "ecg"]
    results = json.loads((broken / "tasks/stage5/downstream_test.json").read_text())
    assert results["step"] in (10, 20) and results["modalities"] == ["eeg_c4", "ecg"]
    assert (
        "| c4 ecg | pretrained | tuned, context | 100 % |"
        in (broken / "table/table.md").read_text()
    )
    assert len(list((broken / "embeddings").glob("*.npz"))) == len(PEOPLE)
    assert (broken / "report.html").exists() and (broken / "answering/stage5").is_dir()
