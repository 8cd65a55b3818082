"""Whole records told apart by a frozen model and by its surprise; nobody twice."""

import dataclasses
import json

import numpy as np
import pytest
from test_linear_probe import MODALITIES, make_run, token_night

from data_pipelines.builders.night_builder import write_store
from hypnos_jax.evaluate import evaluate

pytest.importorskip("sklearn")
RECORDS, SECONDS = 12, 60


def other_night(index):
    """Of another person than those of ``token_night``: regular, or, every third, of any codes."""
    rng = np.random.default_rng(100 + index)
    whole = token_night(index)
    label = "A" if index % 3 == 0 else "N"
    ecg = rng.integers(0, 16, SECONDS) if label == "A" else np.full(SECONDS, 3)
    return dataclasses.replace(
        whole,
        recording=f"r{index}",
        subject=f"p{index}",
        codes=np.stack([np.zeros(SECONDS), ecg], axis=1).astype(np.uint16),
        valid=np.ones((SECONDS, 2), bool),
        tracks=np.zeros((SECONDS, 2, 2), np.float32),
        stages=np.full(2, -1, np.int8),
        events=[],
        labels={"rhythm": label},
    )


def write_records(path, first=0):
    items = {f"r{i}": i for i in range(first, first + RECORDS)}
    options = {"modalities": MODALITIES, "progress": False}
    write_store(path, kind="tokens", items=items, make_night=other_night, **options)
    return str(path)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("probe"), token_night)


def probe(workdir, **options):
    return evaluate(workdir, changes={"evals": {"af": {"type": "record_probe", **options}}})


def test_a_person_of_the_training_data_is_not_judged(workdir):
    tokens = str(workdir.parent / "tokens")
    with pytest.raises(ValueError, match="4 people of .*tokens, such as s0, are in the training"):
        probe(workdir, tokens=tokens)


@pytest.mark.slow
def test_rows_surprise_and_untrained_networks_stand_side_by_side(workdir, tmp_path):
    tokens = write_records(tmp_path / "records")
    metrics = probe(workdir, tokens=tokens, untrained=2, draws=20)
    assert metrics["eval/af/mean_and_sd/auroc"] > 0.9  # of steady codes the deviation is none
    report = json.loads((workdir / "record_probe.json").read_text())
    assert report["records"]["counts"] == [8, 4]
    sets = report["records"]["sets"]
    assert list(sets) == ["mean", "mean_and_sd", "surprise", "mean_and_surprise", "surprise_mean"]
    for name, row in sets.items():
        assert len(row["untrained"]) == 2
        gain = row["value"] - np.mean(row["untrained"])
        assert metrics[f"eval/af/{name}/gain"] == pytest.approx(gain)
    assert (workdir / "figures/3_record_probe.png").stat().st_size > 20_000


@pytest.mark.slow
def test_further_records_are_only_judged(workdir, tmp_path):
    tokens = write_records(tmp_path / "records")
    further = write_records(tmp_path / "further", first=RECORDS)
    metrics = probe(workdir, tokens=tokens, test=further, untrained=0, draws=20)
    assert metrics["eval/af/test/mean_and_sd/auroc"] > 0.9
    with pytest.raises(ValueError, match="only judged"):
        probe(workdir, tokens=tokens, test=tokens, untrained=0)
