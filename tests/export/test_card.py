"""The card of an export says what the run was, as hubs read it, and nothing of any one night."""

import json

import pytest
from tiny_models import random_variables, rq_config, token_batch, write_run

from data_pipelines import pipeline
from hypnos_jax.export.card import card, summarise
from hypnos_jax.export.model import load_model
from hypnos_jax.export.write import export


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of three steps on tokens of simulated nights, evaluated in the loop and as a job."""
    folder = tmp_path_factory.mktemp("run")
    pipeline.write_synthetic("token_windows", folder / "tokens", 0)
    workdir, config = folder / "run", rq_config(folder / "tokens")
    write_run(workdir, config, random_variables(config, token_batch()))
    (workdir / "data.json").write_text('{"modalities": []}')
    lines = [{"step": 1, "loss": 2.0}, {"step": 1, "eval/val/loss": 1.5}]
    lines += [{"step": 3, "eval/val/loss": 1.25, "eval/val/accuracy": None}]
    lines += [{"step": 4, "eval/val/loss": 0.5}]  # of a checkpoint that is not the one exported
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (workdir / "metrics.jsonl").write_text(text)
    job = {"step": 3, "results": {"eval/probe/kappa": 0.4}}
    (workdir / "evaluation.json").write_text(json.dumps(job))
    return workdir


@pytest.fixture(scope="module")
def exported(run):
    export(run, run.parent / "export", programs=False, licence="CC-BY-4.0")
    return run.parent / "export"


def test_the_run_goes_with_the_model(run, exported):
    found = json.loads((exported / "run.json").read_text())
    assert found["config"] == json.loads((run / "config.json").read_text())
    assert found["data"] == {"modalities": []}
    assert found["metrics"] == {
        "eval/probe/kappa": {"step": 3, "value": 0.4},
        "eval/val/accuracy": {"step": 3, "value": None},
        "eval/val/loss": {"step": 3, "value": 1.25},
    }
    manifest = found["manifest"]
    assert manifest["sha256"] == load_model(exported).config["data"]["manifest_sha256"]
    assert manifest["simulated"]
    assert manifest["nights"] == sum(row["nights"] for row in manifest["splits"].values())
    nights = json.loads((run.parent / "tokens" / "manifest.json").read_text())["nights"]
    assert manifest["channels"]["ecg"] == sum("ecg" in night["channels"] for night in nights)
    text = (exported / "run.json").read_text()
    assert not any(night["recording"] in text for night in nights)


def test_hubs_read_the_card(exported):
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard.load(exported / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert card.data.library_name == "hypnos_jax"
    signals = ["ecg", "eeg", "resp"]  # of this model
    assert card.data.tags == ["sleep", "polysomnography", *signals, "jax", "flax", "rq_next_token"]
    text = (exported / "README.md").read_text()
    for word in (
        "| val/loss | 3 | 1.25 |",
        "| val/accuracy | 3 | not finite |",
        "Simulated nights",
        load_model(exported).checksum,
        "A multi-modal RQ-Transformer of sleep",
        "no medical\ndevice",
        "| ecg | 5 | ecg | 128 Hz | ecg |",
        'embed_recording("export", "night.edf")',
    ):
        assert word in text


def test_a_licence_is_never_made_up(run, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    export(run, tmp_path / "model", programs=False)
    card = hub.ModelCard.load(tmp_path / "model" / "README.md")
    assert card.data.license == "other"
    assert card.data.license_name == "unspecified: set by who publishes"


def test_an_export_of_an_export_keeps_its_run_and_licence(exported, tmp_path):
    export(exported, tmp_path / "again", programs=False)
    assert "license: cc-by-4.0\n" in (tmp_path / "again" / "README.md").read_text()
    for name in ("run.json", "config.json"):
        assert (tmp_path / "again" / name).read_text() == (exported / name).read_text()


@pytest.mark.parametrize(
    ("embedding", "words"),
    [
        (
            {
                "token_s": 1.0,
                "causal": True,
                "fused": False,
                "seen": "row t has seen the seconds before t and not t itself",
            },
            "One row a second and modality: row t has seen the seconds before t and not t itself."
            " An epoch is the mean of its 30 rows over the modalities that are present; epoch e"
            " covers seconds 30e to 30e + 30.",
        ),
        (
            {"token_s": 30.0, "causal": False, "fused": False},
            "One row a token of 30 s and modality: a row has seen its whole window of tokens, those"
            " after it too. An epoch is the mean of its rows over the modalities that are present;",
        ),
        (
            {"token_s": 5.0, "causal": True, "fused": True},
            "One row a token of 5 s: a row has seen its token of 5 s and those before it, and"
            " nothing after it. An epoch is the mean of its 6 rows; epoch e covers",
        ),
        ({"token_s": 30.0, "causal": False, "fused": True}, "those after it too.\n\n## Data"),
        (None, "What comes out, and when, is for its objective to say."),
    ],
)
def test_timing_is_told_from_what_the_objective_declares(exported, embedding, words):
    config = json.loads((exported / "config.json").read_text())
    config = {k: v for k, v in config.items() if k != "embedding"}
    if embedding:
        config["embedding"] = embedding
    assert words in card(config, None, name="export")


def test_an_export_of_an_earlier_version_has_a_card(exported):
    config = json.loads((exported / "config.json").read_text())
    title = config.pop("title")
    assert title.startswith("a multi-modal RQ-Transformer")
    assert "\nA model of sleep (objective rq_next_token).\n" in card(config, None, name="export")


def test_names_and_licences_cannot_break_the_front_matter(exported):
    hub = pytest.importorskip("huggingface_hub")
    config = json.loads((exported / "config.json").read_text())
    config["licence"] = 'ours: "{{ 7 * 7 }}"\n---\nlibrary_name: evil'
    data = hub.ModelCard(card(config, None, name="export")).data
    assert data.license_name == config["licence"]
    assert data.library_name == "hypnos_jax"


def test_a_folder_without_a_manifest_has_no_summary(tmp_path):
    assert summarise(tmp_path) is None
