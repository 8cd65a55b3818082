"""The report: one file, everything escaped, what is missing left out."""

import html
import json

import numpy as np
import pytest

from hypnos_jax.reports.main_job import write_report

pytest.importorskip("matplotlib")


def score(value, low=None, high=None):
    return {"value": value, "low": low, "high": high}


def fake_probe():
    def own(kappa):
        metrics = {name: score(kappa, kappa - 0.05, kappa + 0.05) for name in ("kappa", "macro_f1")}
        metrics |= {"balanced_accuracy": score(kappa), "accuracy": score(kappa)}
        row = {"recording": "n<1>", "subject": "s1", "examples": 9, "kappa": None, "accuracy": 0.5}
        return {"metrics": metrics, "confusion": [[5, 1], [2, 4]], "per_recording": [row]}

    staging = {
        "classes": ["W", "N2"],
        "ranked": False,
        "how": "5-fold",
        "subjects": 6,
        "recordings": 7,
        "counts": [6, 6],
        "sets": {"embedding": own(0.6), "no_features": own(0.0)},
        "label_efficiency": {"embedding": [{"fraction": 1.0, "subjects": 5, "values": [0.6]}]},
        "not_run": {"hand_features": "no store of signals was given"},
    }
    left_out = {"rhythm": "0 subjects have labels"}
    return {"step": 3, "protocol": "words", "tasks": {"staging": staging}, "left_out": left_out}


@pytest.fixture
def job(tmp_path):
    night = {
        "recording": "<script>alert(1)</script>",
        "subject": "s&1",
        "split": "train",
        "duration_s": 3600,
        "channels": ["ecg"],
        "qc": {"mains_hz": 50, "refused": {"eeg_c3": "flat"}, "scored_share": 0.5},
    }
    (tmp_path / "nights").mkdir()
    (tmp_path / "nights" / "manifest.json").write_text(json.dumps({"nights": [night]}))
    reject = json.dumps({"recording": "bad", "reason": "truncated"})
    (tmp_path / "nights" / "rejects.jsonl").write_text(reject + "\n")
    for run in ("tokenizers/ecg", "model"):
        (tmp_path / run / "figures").mkdir(parents=True)
        (tmp_path / run / "config.json").write_text(json.dumps({"objective": {"name": "x"}}))
        lines = [{"step": i, "loss": 1 / i} for i in range(1, 9)] + [
            {"step": 8, "eval/val/loss": 0.2}
        ]
        (tmp_path / run / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    (tmp_path / "model" / "probe.json").write_text(json.dumps(fake_probe()))
    (tmp_path / "tokenizers" / "ecg" / "figures" / "4_reconstruction_ecg.png").write_bytes(b"old")
    (tmp_path / "tokenizers" / "ecg" / "figures" / "12_reconstruction_ecg.png").write_bytes(b"new")
    (tmp_path / "embeddings").mkdir()
    rows = np.zeros((60, 4), np.float16)
    np.savez(
        tmp_path / "embeddings" / "a.npz",
        ecg=rows,
        epochs=rows[:2],
        times_s=rows[:, 0],
        model="abc",
    )
    return tmp_path


def test_a_report_is_one_file(job):
    words = write_report(job, title="A <b>job</b>", seconds={"prepare": 3.2})
    page = (job / "report.html").read_text()
    assert 'src="data:image/png;base64,' in page
    assert 'src="http' not in page and "href=" not in page
    assert (job / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "bmV3" in page  # the newest picture
    assert "b2xk" not in page
    for found in ("truncated", "eeg_c3 refused: flat", "Cohen&#39;s kappa", "rhythm", "a.npz"):
        assert found in page
    assert "0.600" in words and "0.550 to 0.650" in words
    assert "rhythm: left out, 0 subjects have labels" in words


def test_names_cannot_become_markup(job):
    write_report(job, title="A <b>job</b>")
    page = (job / "report.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "A &lt;b&gt;job&lt;/b&gt;" in page
    assert "n&lt;1&gt;" in page


@pytest.mark.parametrize(
    "label", ["<script>alert(1)</script>", "\"><img src=x onerror='a()'>", "{{ 7 * 7 }}{% raw %}"]
)
def test_a_label_shows_as_it_is_wherever_it_stands(job, label):
    path = job / "nights" / "manifest.json"
    (night,) = json.loads(path.read_text())["nights"]
    night |= {"recording": label, "subject": label, "channels": [label]}
    night["qc"] = {
        "refused": {label: label},
        "notes": [label],
        "channels": {"x": {"notes": [label]}},
    }
    path.write_text(json.dumps({"nights": [night]}))
    rejects = json.dumps({"recording": label, "reason": label})
    (job / "nights" / "rejects.jsonl").write_text(rejects + "\n")
    line = json.dumps({"step": 9, f"eval/{label}": 0.5})
    for run in ("tokenizers/ecg", "model"):
        (job / run / "metrics.jsonl").write_text(line + "\n")
    probe = fake_probe()
    probe["tasks"] = {label: probe["tasks"]["staging"] | {"how": label, "classes": [label, "N2"]}}
    probe |= {"protocol": label, "left_out": {label: label}}
    (job / "model" / "probe.json").write_text(json.dumps(probe))
    write_report(job, title=label, seconds={label: 1.0})
    page = (job / "report.html").read_text()
    assert html.unescape(page).count(label) == 24
    assert label not in page or label.startswith("{{")
    assert "<img src=x" not in page and "<script" not in page


def test_what_is_missing_is_left_out(job):
    (job / "model" / "probe.json").unlink()
    words = write_report(job)
    assert "No probe was run" in words
    with pytest.raises(ValueError, match="neither nights"):
        write_report(job / "embeddings")
