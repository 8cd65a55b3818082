"""Tasks name what measures and draws them; probes get their labels by a rule."""

import types

import numpy as np
import pytest

from data_pipelines.scoring import Event
from hypnos_jax.probing.answers import MEASURES
from hypnos_jax.reports.figures import ANSWERS
from hypnos_jax.tasks import PROBE_TASKS, PROBED, TASKS, find_probe_task, find_task


def test_every_task_names_a_measure_and_a_picture():
    for task in TASKS.values():
        assert task.measure in MEASURES
        assert task.draw in {*ANSWERS, ""}
    assert TASKS["arousal"].columns == ("respiratory", "spontaneous", "limb", "plm")
    assert TASKS["arousal"].width(()) == 120


def test_probes_are_asked_of_apneas_and_hypopneas_together_and_apart():
    events = [
        Event("hypopnea", 34.0, 16.0),  # over the middle of epoch 1
        Event("apnea_central", 76.0, 17.0),  # 14 s of epoch 2 and 3 s of epoch 3
        Event("hypopnea", 107.0, 12.0),  # after the middle of epoch 3
        Event("arousal", 95.0, 4.0),
    ]
    store = types.SimpleNamespace(
        stages=lambda night: np.array([0, 2, 2, 3, -1]), events=lambda night: events
    )
    night = types.SimpleNamespace(
        duration_s=150, metadata={"events_scored": True}, labels={"rhythm": "A"}
    )
    found = {name: task.labels(store, night).tolist() for name, task in PROBE_TASKS.items()}
    assert found == {
        "staging": [0, 2, 2, 3, -1],
        "apnea": [-1, 1, 1, 1, -1],
        "apnea_unstaged": [0, 1, 1, 1, 0],
        "arousal": [-1, 0, 0, 1, -1],
        "arousal_more_than_3s": [-1, 0, 0, 1, -1],
        "rhythm": [1],
        "apnea_only": [-1, 0, 1, 0, -1],
        "hypopnea_only": [-1, 1, 0, 1, -1],
        "apnea_only_midpoint": [-1, 0, 0, 0, -1],
        "hypopnea_only_midpoint": [-1, 1, 0, 0, -1],
        "apnea_more_than_10s": [-1, 1, 1, 1, -1],
        "apnea_only_more_than_10s": [-1, 0, 1, 0, -1],
        "hypopnea_only_more_than_10s": [-1, 1, 0, 1, -1],
        "apnea_only_official": [0, 0, 0, 0, 0],
        "hypopnea_only_official": [0, 1, 0, 0, 0],
        "hypopnea_only_without_apnea": [-1, 1, -1, 1, -1],
    }
    assert set(PROBED) <= set(PROBE_TASKS)


def test_a_task_of_events_reads_the_labels_of_its_name():
    batch = {"event/apnea_only": np.array([[0, 1, -1]]), "event/apnea": np.array([[1, 1, 1]])}
    target, known = find_task("apnea_only").target(batch)
    assert target.tolist() == [[[0], [1], [0]]]
    assert known.tolist() == [[[True], [True], [False]]]
    assert find_task("apnea_only").width(()) == 1
    with pytest.raises(ValueError, match=r"config.data.events=\('apnea_only_midpoint',\)"):
        find_task("apnea_only_midpoint").target(batch)
    names = {name for name, task in TASKS.items() if task.field == f"event/{name}"}
    assert names == {name for name in PROBE_TASKS if "pnea" in name}


def test_a_task_that_is_none_is_refused():
    with pytest.raises(ValueError, match="no task 'snoring'; there are"):
        find_task("snoring")
    with pytest.raises(ValueError, match="no task 'snoring' for a probe; there are"):
        find_probe_task("snoring")
