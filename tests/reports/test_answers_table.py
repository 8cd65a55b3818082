"""Tests of fine-tuned models as a table: what is one row, what accuracy hides, leaks named."""

import json

import pytest

from hypnos_jax.reports.answers_table import read_rows, write_table

pytest.importorskip("matplotlib")


def write_run(folder, task, names, kappa, *, context=False, begun="x", seed=0, **data):
    """Write a run's config and its test."""
    backbone = {"modalities": [{"name": name} for name in names], "tuning": {} if context else None}
    backbone["tuning"] = {"rank": 4} if context else None
    objective = {"backbone": backbone, "task": task, "train_backbone": False}
    objective["context"] = {"name": "mamba_context"} if context else None
    config = {"seed": seed, "objective": objective, "data": data, "train": {"init_from": begun}}
    metrics = {"accuracy": 0.9, "macro_f1": 0.5, "majority_accuracy": 0.85, "kappa": kappa}
    if task != "stage5":
        metrics |= {"auroc": 0.7, "auprc": kappa, "prevalence": 0.1, "specificity": 1.0}
    report = {
        "conditions": {"all": {"metrics": metrics, "labels": 1200, "nights": 9, "subjects": 8}},
        "intervals": {"kappa": {"low": kappa - 0.1, "high": kappa + 0.1}},
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "downstream_test.json").write_text(json.dumps(report))


def write_probe(folder):
    curve = [{"fraction": f, "subjects": 80 * f, "values": [0.2, 0.4]} for f in (0.01, 1.0)]
    found = {"ranked": False, "label_efficiency": {"embedding": curve, "hand_features": curve[:1]}}
    folder.mkdir(parents=True)
    model = {"model": {"modalities": [{"name": "eeg_c4"}]}, "name": "x"}
    (folder / "config.json").write_text(json.dumps({"objective": model}))
    (folder / "probe.json").write_text(json.dumps({"tasks": {"staging": found}}))


@pytest.fixture
def runs(tmp_path):
    folder, c4, two = tmp_path / "runs", ["eeg_c4"], ["eeg_c4", "ecg"]
    for seed, kappa in enumerate((0.4, 0.6)):
        write_run(folder / f"a{seed}", "stage5", c4, kappa, seed=seed, few_shot_seed=seed)
    write_run(folder / "b", "stage5", two, 0.7, context=True, few_shot=0.01)
    write_run(folder / "c", "stage5", c4, 0.1, begun="")
    write_run(folder / "d", "apnea_only_official", c4, 0.2)
    write_run(folder / "e", "apnea_only_official", c4, 0.8, trained_on="test")
    return folder


def test_runs_that_differ_in_seeds_alone_are_one_row(runs):
    rows = {(r.setting.task, r.setting.weights, r.setting.trained): r for r in read_rows([runs])}
    both = rows["stage5", "pretrained", "head"]
    assert (both.seeds, both.people, both.labels) == (2, 8, 1200)
    kappa = both.metrics["kappa"]
    assert kappa["value"] == pytest.approx(0.5) and kappa["seeds"] == [0.4, 0.6]
    assert (kappa["low"], kappa["high"]) == (pytest.approx(0.3), pytest.approx(0.7))
    assert rows["stage5", "random", "head"].metrics["kappa"]["value"] == 0.1
    assert rows["stage5", "pretrained", "tuned, context"].setting.share == 0.01
    assert len(read_rows([runs])) == 5  # a leak is no seed
    write_run(runs / "f", "stage5", ["eeg_c4"], 0.9, few_shot_seed=3, window_tokens=2)
    assert len(read_rows([runs])) == 6  # nor is another config


def test_the_table_names_leaks_and_what_accuracy_hides(runs, tmp_path):
    write_probe(tmp_path / "fused")
    text = write_table([runs, tmp_path / "fused"], tmp_path / "out", title="Nights")
    assert text == (tmp_path / "out/table.md").read_text()
    lines = text.splitlines()
    [leak] = [line for line in lines if "LEAK" in line]
    assert "the people of the test" in leak and "**0.800**" in leak
    assert "## apnea_only_official: 1,200 epochs of 8 people" in lines
    head = next(line for line in lines if "prevalence" in line)
    assert "accuracy of the most frequent class" in head and "AUPRC" in head
    assert "| c4 | pretrained | head | 100 % | 0.900 | 0.500 | 0.850 | 0.500 (0.30-0.70) |" in [
        line.replace("**", "") for line in lines
    ]
    assert "| c4 ecg | pretrained | tuned, context | 1 % |" in text
    assert "| c4 | staging | Cohen's kappa | embedding | 0.300 (0.20-0.40) |" in text
    assert (tmp_path / "out/table.png").stat().st_size > 10_000
    found = json.loads((tmp_path / "out/table.json").read_text())
    assert len(found["rows"]) == 5 and len(found["probes"]) == 3


def test_folders_without_tests_are_refused(tmp_path):
    with pytest.raises(ValueError, match="evaluate runs by python -m launch.evaluate"):
        write_table([tmp_path], tmp_path / "out")
    with pytest.raises(ValueError, match="gone is no folder"):
        write_table([tmp_path / "gone"], tmp_path / "out")
