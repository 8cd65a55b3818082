"""The probe as a job: labels, feature sets, files and picture; what is missing is said."""

import dataclasses
import json

import numpy as np
import pytest
from tiny_models import random_variables, rq_config, token_batch, write_run

from data_pipelines.builders.night_builder import write_store
from data_pipelines.scoring import Event
from data_pipelines.store import ChannelSignal, Night, TokenNight
from hypnos_jax.evaluate import evaluate
from hypnos_jax.reports.sections import read_sections

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

MODALITIES = [
    {"name": "eeg_c3", "levels": 1, "codes": 16, "channel_id": 0, "signal_type": "eeg"},
    {"name": "ecg", "levels": 1, "codes": 16, "channel_id": 5, "signal_type": "ecg"},
]
NIGHTS, SECONDS = 6, 600
SHOTS = {"shots": (1, 5, 1000), "shot_draws": 3}


def token_night(index):
    """The code of the EEG is the stage, but for noise; that of the ECG is the rhythm."""
    rng = np.random.default_rng(index)
    stages = np.repeat(rng.permutation([0, 1, 2, 3, 4] * 2), 2).astype(np.int8)
    eeg = np.repeat(stages, 30) + 8 * (rng.random(SECONDS) < 0.2)
    fibrillates = index % 2
    ecg = rng.integers(0, 4, SECONDS) + 4 * fibrillates
    apneas = [Event("hypopnea", 40.0 + 60 * k, 12.0) for k in range(8)]
    return TokenNight(
        recording=f"n{index}",
        subject=f"s{index}",
        split="train" if index < 4 else "test",
        codes=np.stack([eeg, ecg], axis=1).astype(np.uint16),
        present=np.array([True, True]),
        valid=np.ones((SECONDS, 2), bool),
        tracks=np.zeros((SECONDS, 2, 2), np.float32),
        stages=stages,
        events=apneas,
        labels={"rhythm": "A" if fibrillates else "N"},
        metadata={"events_scored": True},
    )


def signal_night(index):
    tokens = token_night(index)
    rng = np.random.default_rng(index)
    signal = rng.standard_normal(SECONDS * 128).astype(np.float32)
    channel = ChannelSignal(
        "eeg_c3", 128, signal, np.ones(SECONDS, bool), np.zeros((SECONDS, 2), np.float32)
    )
    return Night(tokens.recording, tokens.subject, tokens.split, {"eeg_c3": channel}, tokens.stages)


def make_run(folder, make_night):
    """A run with random variables over the token nights of ``make_night``, to be probed."""
    items = {f"n{i}": i for i in range(NIGHTS)}
    write_store(
        folder / "tokens",
        kind="tokens",
        items=items,
        make_night=make_night,
        modalities=MODALITIES,
        progress=False,
    )
    write_store(
        folder / "nights", kind="signals", items=items, make_night=signal_night, progress=False
    )
    modalities = [{**row, "group": row["signal_type"]} for row in MODALITIES]
    for row in modalities:
        row.pop("signal_type")
    config = rq_config(folder / "tokens", modalities)
    options = {"type": "linear_probe", "every": "job", "nights": str(folder / "nights")}
    config["evals"] = {"probe": {**options, "repeats": 1, "draws": 20, **SHOTS}}
    batch = token_batch(modalities=modalities)
    write_run(folder / "run", config, random_variables(config, batch))
    return folder / "run"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("probe"), token_night)


@pytest.fixture(scope="module")
def results(workdir):
    return evaluate(workdir), json.loads((workdir / "probe.json").read_text())


def test_a_stage_written_in_the_codes_is_read_out(results):
    metrics, report = results
    assert metrics["eval/probe/staging/embedding/kappa"] > 0.5
    assert abs(metrics["eval/probe/staging/hand_features/kappa"]) < 0.2
    assert abs(metrics["eval/probe/staging/no_features/kappa"]) < 0.1
    staging = report["tasks"]["staging"]
    assert "5-fold" in staging["how"]
    assert np.sum(staging["sets"]["embedding"]["confusion"]) == NIGHTS * 20
    assert len(staging["sets"]["embedding"]["per_recording"]) == NIGHTS


def test_records_are_probed_by_their_ecg(results):
    metrics, report = results
    assert metrics["eval/probe/rhythm/embedding/auroc"] > 0.9
    assert "no_features" in report["tasks"]["rhythm"]["sets"]


def test_baselines_stand_beside_it(results):
    _, report = results
    for task in ("staging", "apnea", "rhythm"):
        sets = report["tasks"][task]["sets"]
        assert list(sets) == ["embedding", "random_backbone", "hand_features", "no_features"]
        assert "carries no tokenizers" in report["tasks"][task]["not_run"]["token_latents"]
        curve = report["tasks"][task]["label_efficiency"]["embedding"]
        assert [row["fraction"] for row in curve] == [0.01, 0.1, 1.0]
        assert curve[0]["subjects"] == 1


def test_few_labelled_epochs_tell_less(results, workdir):
    metrics, report = results
    one, five, all_of_them = report["tasks"]["staging"]["few_shot"]["embedding"]
    assert one["examples"] == 5 and five["examples"] == 25 and len(one["values"]) == 3
    assert one["low"] <= one["mean"] <= one["high"] and one["mean"] < five["mean"]
    # No class has a thousand: all labels are used, once.
    assert all_of_them["values"] == [metrics["eval/probe/staging/embedding/kappa"]]
    assert metrics["eval/probe/staging/embedding/kappa_1_shot"] == one["mean"]
    section = next(own for own in read_sections(workdir) if own["title"].startswith("Few"))
    assert any("fewer than 1000" in words for words in section["says"])
    assert section["parts"][0]["rows"][0] == ["task", "features", "metric", "1", "5", "1000", "all"]
    assert section["parts"][0]["picture"].exists()


def test_a_task_whose_labels_are_all_alike_is_left_out(results):
    _, report = results
    assert report["left_out"] == {"arousal": "all labels are of one class"}


def test_a_task_that_nobody_scored_is_left_out(tmp_path):
    def unscored(index):
        return dataclasses.replace(token_night(index), metadata={"events_scored": False})

    run = make_run(tmp_path, unscored)
    evaluate(run, changes={"evals.probe.tasks": ["arousal"]})
    report = json.loads((run / "probe.json").read_text())
    assert report["left_out"] == {"arousal": "0 subjects have labels"}


def test_a_picture_is_drawn(results, workdir):
    picture = workdir / "figures" / "3_probe.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 30_000


@pytest.mark.slow
def test_surprise_is_probed_alone_and_beside_the_embedding(workdir):
    options = {"surprise": True, "tasks": ["staging", "rhythm"], "fractions": [1.0]}
    evaluate(workdir, changes={f"evals.probe.{name}": x for name, x in options.items()})
    report = json.loads((workdir / "probe.json").read_text())
    for task in report["tasks"].values():
        assert list(task["sets"])[:3] == ["embedding", "surprise", "embedding_and_surprise"]
        assert "random_surprise" in task["sets"]
        assert np.sum(task["sets"]["surprise"]["confusion"]) == sum(task["counts"])


@pytest.mark.slow
def test_without_nights_the_reason_is_given(workdir):
    evaluate(workdir, changes={"evals.probe.nights": "", "evals.probe.tasks": ["rhythm"]})
    report = json.loads((workdir / "probe.json").read_text())
    assert list(report["tasks"]) == ["rhythm"]
    assert "option nights" in report["tasks"]["rhythm"]["not_run"]["hand_features"]


def test_wrong_options_are_named(workdir):
    with pytest.raises(ValueError, match="no task 'snoring'"):
        evaluate(workdir, changes={"evals.probe.tasks": ["snoring"]})
    with pytest.raises(ValueError, match="shots=.0,. and shot_draws=10 are 1 or more"):
        evaluate(workdir, changes={"evals.probe.shots": [0], "evals.probe.shot_draws": 10})
    with pytest.raises(ValueError, match="is not the store of signals"):
        evaluate(workdir, changes={"evals.probe.nights": str(workdir.parent / "tokens")})
