"""A folder of recordings to stages, events and numbers: heads fitted, stored, used, refused."""

import copy
import csv
import dataclasses
import datetime
import json
import types
import zipfile

import numpy as np
import pytest
from tiny_models import random_variables, rq_config, token_batch, write_run, write_tokenizers

from data_pipelines.builders.recording_night import Pending
from data_pipelines.recordings.edf_writer import EdfSignal, write_edf
from data_pipelines.scoring import read_scoring
from data_pipelines.store import NightStore
from data_pipelines.synthetic.night import simulate_night
from data_pipelines.synthetic.subjects import draw_subject
from data_pipelines.synthetic.tiny import write_tiny_nights
from hypnos_jax.export.model import ModelError, load_model
from hypnos_jax.export.write import export
from hypnos_jax.heads.head import load_heads, write_head
from hypnos_jax.inference.live_answers import LiveAnswers
from hypnos_jax.inference.score import Scorer, events_of, score_recording
from hypnos_jax.inference.score_folder import score_folder
from hypnos_jax.inference.stream import StreamRow
from hypnos_jax.probing import head_fitting, site_adaptation
from hypnos_jax.probing.head_export import fit_heads
from hypnos_jax.scored import files
from hypnos_jax.scored.night import ScoredNight, ScoredNightError

TASKS = ("stage5", "apnea", "arousal")
CANARIES = (b"Zebulon", b"QUAGMIRE", b"02-MAY-1951", b"tripped over")


LABELS = {"eeg_c3": "C3-M2", "eeg_c4": "C4-M1", "ecg": "ECG", "resp_abd": "ABD"}


def write_night(path, *, noise=False):
    """A simulated person's six minutes, or noise, with a name in the header."""
    subject = draw_subject(0, 77, name="x")
    made = simulate_night(0, 0.1, subject=subject, channels=[*LABELS])
    signals, rng = [], np.random.default_rng(0)
    for name, label in LABELS.items():
        samples, rate_hz = np.asarray(made.signals[name], np.float64), int(made.rates[name])
        if noise:
            samples = samples.std() * rng.standard_normal(len(samples))
        unit, most = "" if name == "resp_abd" else "uV", np.abs(samples).max() * 1.01
        signals.append(EdfSignal(label, unit, rate_hz, samples, -most, most))
    saturation = np.repeat([96.0, 96.0, 91.0, 96.0], 90)
    signals.append(EdfSignal("SpO2", "%", 1, saturation, 0, 100))
    path.parent.mkdir(parents=True, exist_ok=True)
    note = (5.0, None, "Zebulon QUAGMIRE tripped over the cat")
    write_edf(path, signals, datetime.datetime(1985, 1, 1, 22), [note])
    content = bytearray(path.read_bytes())
    content[8:88] = b"Q-QUAGMIRE M 02-MAY-1951 Zebulon".ljust(80)
    content[88:168] = b"Startdate 01-JAN-1985 X tripped over X".ljust(80)
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """An export of a tiny model without heads, and a store of scored nights."""
    folder = tmp_path_factory.mktemp("plain")
    config = rq_config()
    write_run(folder / "run", config, random_variables(config, token_batch()))
    write_tokenizers(folder / "tokenizers")
    export(folder / "run", folder / "export", tokenizers=folder / "tokenizers", programs=False)
    write_tiny_nights(folder / "nights")
    manifest = json.loads((folder / "nights" / "manifest.json").read_text())
    for night in manifest["nights"]:
        night["metadata"]["events_scored"] = True
    (folder / "nights" / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def headed(plain):
    """The same with heads."""
    fit_heads(
        plain / "export",
        plain / "nights",
        plain / "headed",
        tasks=TASKS[:1],
        context=True,
        embeddings=plain / "kept",
    )
    fit_heads(
        plain / "headed",
        plain / "nights",
        plain / "headed",
        tasks=TASKS[2:],
        embeddings=plain / "kept",
    )
    return plain / "headed"


@pytest.fixture(scope="module")
def scorer(headed):
    return Scorer(headed)


def test_heads_are_part_of_the_export_and_the_model_stays_the_same(plain, headed):
    heads = load_heads(headed)
    assert sorted(heads) == ["arousal", "stage5"]
    assert load_model(headed).checksum == load_model(plain / "export").checksum
    assert (heads["stage5"].cell_s, heads["arousal"].cell_s) == (30.0, 5.0)
    assert heads["stage5"].spans and not heads["arousal"].spans
    facts = heads["stage5"].facts
    assert [facts[name]["people"] for name in ("fitted", "chosen_on", "judged_on")] == [6, 1, 1]
    assert facts["sites"]["tiny"]["people"] == 1
    card = (headed / "README.md").read_text()
    assert "| `stage5` (context, cells of 30.0 s) | 6 people" in card
    assert "tiny-0-0" not in card + json.dumps(facts)  # nobody's name


def test_people_of_the_test_split_choose_nothing(plain, headed, scorer):
    store = NightStore(plain / "nights")
    nights, left = head_fitting.embed_store(
        scorer.embedder, store, plain / "kept", splits=("train", "validation"), progress=False
    )
    head = head_fitting.fit_head(
        "arousal",
        nights,
        store,
        model=scorer.embedder.checksum,
        names=load_heads(headed)["arousal"].names,
        token_s=1.0,
    )
    known = load_heads(headed)["arousal"]
    assert not left and "test" not in head.facts
    np.testing.assert_array_equal(head.layers[0][0], known.layers[0][0])
    assert (head.temperature, head.threshold, head.confidence) == (
        known.temperature,
        known.threshold,
        known.confidence,
    )


def test_wrong_heads_are_refused(plain, headed, tmp_path):
    head = load_heads(headed)["stage5"]
    with pytest.raises(ModelError, match="is a head of the model 000"):
        write_head(headed, dataclasses.replace(head, model="0" * 64))
    with pytest.raises(ModelError, match="--overwrite replaces it"):
        again = {"tasks": ["stage5"], "embeddings": plain / "kept"}
        fit_heads(headed, plain / "nights", headed, **again)
    with pytest.raises(ValueError, match="--task=stage6: there is no such head; there are"):
        fit_heads(headed, plain / "nights", tmp_path / "x", tasks=["stage6"], embeddings=tmp_path)
    with pytest.raises(ModelError, match="has no heads: fit them .* launch.fit_head"):
        Scorer(plain / "export")
    other = tmp_path / "other"
    export(plain / "export", other, programs=False)
    write_head(other, head)
    weights = other / "heads" / "stage5" / "head.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match=r"stage5 holds no head .* head.safetensors was changed"):
        load_heads(other)


def test_heads_are_adapted_to_a_site_and_judged_before_and_after(plain, headed, tmp_path):
    nights, output = plain / "nights", tmp_path / "adapted"
    found = site_adaptation.adapt_model(
        headed, nights, output, used=(2, 100), old=nights, embeddings=plain / "sites"
    )
    assert [(row.task, row.nights) for row in found] == [
        ("arousal", 2), ("arousal", 6), ("stage5", 2), ("stage5", 6)
    ]  # fmt: skip
    for row in found:
        assert row.way in site_adaptation.WAYS
        if row.way == "unchanged":
            assert row.after == row.before
        # The old store is the site's own here.
        assert (row.old_before, row.old_after) == (row.before, row.after)
    heads = load_heads(output)
    assert heads["arousal"].facts["adapted"] == {"nights": 6, "people": 6, "way": found[1].way}
    told = json.loads((output / "calibration.json").read_text())
    assert [row["way"] for row in told] == [row.way for row in found]
    assert site_adaptation.table(found).count("\n") == 5
    with pytest.raises(ModelError, match="adapted is there; give a new folder"):
        site_adaptation.adapt_model(headed, nights, output, embeddings=plain / "sites")


def test_a_site_that_answers_otherwise_gets_other_numbers(headed):
    head, rng = load_heads(headed)["arousal"], np.random.default_rng(0)
    entry = types.SimpleNamespace(subject="x", recording="x")
    cells = head.mean + head.scale * rng.normal(size=(400, len(head.mean)))
    cells = cells.astype(np.float32)
    # What the head takes for an arousal is none here, and the other way round.
    logits = head.logits(cells)[:, 0]
    other = [(entry, cells, (logits < np.median(logits)).astype(np.int8))]
    made, way = site_adaptation.adapt(head, other, other, risk=0.1)
    assert way == "numbers"
    before, after = (head_fitting.log_loss(x, other) for x in (head, made))
    assert after < 0.7 * before
    assert site_adaptation.adapt(head, other, other, risk=0.1, ways=())[1] == "unchanged"


def test_a_folder_is_scored_resumed_and_names_nobody(scorer, tmp_path):
    write_night(tmp_path / "in" / "one.edf")
    (tmp_path / "in" / "broken.edf").write_bytes(b"no EDF")
    out = tmp_path / "out"
    summary = score_folder(scorer, tmp_path / "in", out, progress=False)
    assert (summary.added, [name for name, _ in summary.rejected]) == (["one"], ["broken"])
    night = ScoredNight.load(out / "one_scored.npz")
    assert len(night.stages) == 12 and (night.stages >= 0).all()
    assert night.trust.verdict != "refused", night.trust
    np.testing.assert_allclose(night.stage_probabilities.sum(1), 1, atol=1e-5)
    assert len(night.fine_stages) == 72 and len(night.event_probabilities["arousal"]) == 72
    # A fine cell that begins 10 s into an epoch has the answer of that epoch.
    np.testing.assert_allclose(night.fine_stages[2::6], night.stage_probabilities, atol=1e-5)
    assert night.summary["oximetry"]["nadir"] == pytest.approx(91, abs=0.1)

    for name in ("one_events.tsv", "one.annot", "one_annotations.edf"):
        scored = read_scoring(out / name)
        np.testing.assert_array_equal(scored.stages, night.stages)
        assert scored.events_scored == ("arousal",)
    with open(out / "one_events.tsv") as file:
        rows = [*csv.DictReader(file, delimiter="\t")]
    stages = [row for row in rows if row["trial_type"].startswith("Sleep stage")]
    assert len(stages) == 12 and {row["uncertain"] for row in stages} <= {"true", "false"}
    assert float(stages[0]["probability"]) == pytest.approx(
        night.stage_probabilities[0].max(), abs=1e-3
    )
    with open(out / "cohort.csv") as file:
        table = {row["recording"]: row for row in csv.DictReader(file)}
    assert table["one"]["status"] == "scored" and table["one"]["ahi_aasm_4pct"] == ""
    assert table["broken"]["status"] == "rejected" and "EDF" in table["broken"]["reason"]

    before = (out / "one_scored.npz").stat().st_mtime_ns
    again = score_folder(scorer, tmp_path / "in", out, progress=False)
    assert again.kept == ["one"] and (out / "one_scored.npz").stat().st_mtime_ns == before
    # One number of one head is another one: what it scored is scored anew.
    head = scorer.heads["arousal"]
    weights, biases = (x.copy() for x in head.layers[0])
    weights[-1, 0] += 1e-3
    changed = copy.copy(scorer)
    changed.heads = {
        **scorer.heads,
        "arousal": dataclasses.replace(head, layers=((weights, biases),)),
    }
    assert score_folder(changed, tmp_path / "in", out, progress=False).added == ["one"]

    damaged = bytearray((out / "one_scored.npz").read_bytes())
    damaged[60:120] = bytes(byte ^ 255 for byte in damaged[60:120])
    (out / "one_scored.npz").write_bytes(damaged)
    with pytest.raises(ScoredNightError, match=r"one_scored\.npz holds no scored night"):
        ScoredNight.load(out / "one_scored.npz")
    assert score_folder(scorer, tmp_path / "in", out, progress=False).added == ["one"]
    assert len(ScoredNight.load(out / "one_scored.npz").stages) == 12

    for path in filter(lambda path: path.is_file(), out.rglob("*")):
        content = [path.read_bytes(), str(path).encode()]
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                content += [archive.read(name) for name in archive.namelist()]
        assert not [word for word in CANARIES for part in content if word in part], path


def test_noise_is_refused_before_any_answer(scorer, tmp_path):
    path = write_night(tmp_path / "noise.edf", noise=True)
    night = score_recording(scorer, path)
    assert night.trust.verdict == "refused"
    assert any("is unlike that of the fitting nights" in x.note for x in night.trust.reasons)
    assert (night.stages == -1).all() and not night.events
    assert np.isnan(night.stage_probabilities).all() and np.isnan(night.fine_stages).all()
    assert night.summary["indices"]["arousal_index"]["value"] is None
    files.write_night(tmp_path, night)
    told = json.loads((tmp_path / "noise_summary.json").read_text())["trust"]
    assert told["verdict"] == "refused" and told["reasons"]


def test_epochs_without_signal_have_no_answer(scorer, headed):
    made = simulate_night(0, 0.1, subject=draw_subject(0, 77, name="x"), channels=[*LABELS])
    recording = {}
    for name, label in LABELS.items():
        samples, rate = np.array(made.signals[name], np.float64), int(made.rates[name])
        samples[90 * rate : 150 * rate] = np.nan
        recording[label] = (samples, rate)
    open_door = Scorer(headed)
    open_door.guard = None
    stages = score_recording(open_door, recording).stages
    assert (stages[3:5] == -1).all() and (np.delete(stages, [3, 4]) >= 0).all()


def test_one_channel_is_told_to_be_too_little_and_goes_to_other_programs(scorer, headed):
    made = simulate_night(0, 0.1, subject=draw_subject(0, 77, name="x"), channels=["eeg_c3"])
    raw = {"C3-M2": (made.signals["eeg_c3"], made.rates["eeg_c3"])}
    night = score_recording(scorer, raw)
    names = [reason.name for reason in night.trust.reasons]
    assert names[0] == "too_little_signal" and names.count("missing_modality") == 3
    open_door = Scorer(headed)
    open_door.guard = None
    night = score_recording(open_door, raw)
    assert (night.stages >= 0).all()  # a missing modality alone is no obstacle
    mne = pytest.importorskip("mne")
    annotations = night.to_mne()
    assert isinstance(annotations, mne.Annotations)
    assert sum(text.startswith("Sleep stage") for text in annotations.description) == 12


def test_a_stream_gets_the_answers_of_the_file_as_it_goes(scorer, headed):
    heads = load_heads(headed)
    made = simulate_night(0, 0.1, subject=draw_subject(0, 77, name="x"), channels=[*LABELS])
    recording = {LABELS[name]: (made.signals[name], made.rates[name]) for name in LABELS}
    read = scorer.reader()(Pending(name="x", path=recording, scoring=False))
    rows = scorer.embedder.embed_signals(read.night.channels).modalities
    whole = scorer.score(read).event_probabilities["arousal"]
    live, found = LiveAnswers(heads["arousal"], 1.0), []
    for second in range(100):
        row = {name: x[second].astype(np.float32) for name, x in rows.items()}
        valid = {name: bool(x.any()) for name, x in row.items()}
        found.append(live.push([StreamRow(second, row, row["ecg"], valid)]))
        assert len(found[-1]) == ((second + 1) % 5 == 0)
    np.testing.assert_allclose(np.concatenate(found)[:, 0], whole[:20], atol=1e-6)
    # The scorer has no rows where there was no signal, and neither has a stream.
    with pytest.raises(ModelError, match="a stream needs a linear head"):
        LiveAnswers(heads["stage5"], 1.0)


@pytest.mark.slow  # importing YASA takes seconds
def test_a_night_is_a_hypnogram_of_yasa(scorer):
    pytest.importorskip("yasa")
    made = simulate_night(0, 0.1, subject=draw_subject(0, 77, name="x"), channels=[*LABELS])
    recording = {LABELS[name]: (made.signals[name], made.rates[name]) for name in LABELS}
    night = score_recording(scorer, recording)
    hypnogram = night.to_yasa()
    assert hypnogram.n_epochs == 12
    assert hypnogram.sleep_statistics()["TST"] == night.summary["sleep"]["tst_min"]
    np.testing.assert_allclose(hypnogram.proba.to_numpy(), night.stage_probabilities, atol=1e-6)


def test_events_are_runs_of_cells_in_sleep_that_last_long_enough(headed):
    head = dataclasses.replace(load_heads(headed)["arousal"], threshold=0.5)
    probability = np.zeros(24, np.float32)
    probability[[0, 7, 8, 13, 23]] = 0.9
    probability[3] = np.nan
    stages = np.array([0, 2, 2, -1], np.int8)
    found = events_of(probability, head, stages)
    assert [(e.kind, e.onset_s, e.duration_s) for e in found] == [
        ("arousal", 35.0, 10.0),
        ("arousal", 65.0, 5.0),
    ]
    breaths = dataclasses.replace(head, task="apnea")
    assert [e.onset_s for e in events_of(probability, breaths, stages)] == [35.0]  # 10 s at least
    assert len(events_of(probability, head, None)) == 4
    epochs = dataclasses.replace(breaths, cell_s=30.0)
    found = events_of(np.array([0.9, 0.9, 0.1, 0.9]), epochs, stages)
    assert [(e.onset_s, e.duration_s, e.value) for e in found] == [(30.0, 30.0, "epoch")]


def test_a_damaged_file_of_a_scored_night_is_named(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 no more")
    with pytest.raises(ScoredNightError, match=r"x\.npz holds no scored night"):
        ScoredNight.load(tmp_path / "x.npz")
