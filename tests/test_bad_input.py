"""Bad input through the commands: each ends in a clear, typed error or a line of rejects.

Nothing half-written stays that a later run would trust. What goes wrong while a command works
(kill -9, a full disk, damaged checkpoints) is here for preparing and embedding; interrupted
preparing, tokenizing and training have their tests beside them.
"""

import contextlib
import datetime
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny_models

from data_pipelines import scoring
from data_pipelines.recordings.edf_writer import EdfSignal, write_edf
from data_pipelines.store import NightStore
from hypnos_jax.export.model import ModelError
from hypnos_jax.export.write import export

START = datetime.datetime(2001, 1, 1, 22)
SECONDS = 150
RATES = {"EEG C3-M2": ("uV", 128, 20.0), "ECG": ("uV", 128, 300.0), "ABD": ("", 32, 1.0)}
COUNT = len(RATES) + 1  # with the annotations
CLOCK_BYTES = 8  # of a record, for its own time: "+149" and its separators
RECORD_BYTES = 2 * sum(rate for _, rate, _ in RATES.values()) + CLOCK_BYTES
FIELD = {"label": (0, 16), "unit": (96, 8), "pmin": (104, 8), "pmax": (112, 8), "samples": (216, 8)}


def noise(labels=RATES, seed=0, seconds=SECONDS):
    """Signals of plausible size; a label twice is two channels."""
    rng = np.random.default_rng(seed)
    found = []
    for label, (unit, rate_hz, size) in labels:
        t = np.arange(seconds * rate_hz) / rate_hz
        samples = size * rng.standard_normal(len(t))
        if "ECG" in label:
            samples = 20 * rng.standard_normal(len(t)) + 1000 * (np.mod(t, 0.9) < 0.03)
        if "ABD" in label:
            samples = np.sin(2 * np.pi * 0.25 * t) + 0.02 * rng.standard_normal(len(t))
        found.append(EdfSignal(label, unit, rate_hz, samples, -20 * size, 20 * size))
    return found


def recording(path, labels=None, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_edf(path, noise((labels or RATES).items(), **kwargs), START)
    return path


def patch(path, place, text):
    """Overwrite bytes of a file."""
    data = bytearray(path.read_bytes())
    text = text.encode() if isinstance(text, str) else text
    data[place : place + len(text)] = text
    path.write_bytes(bytes(data))
    return path


def patch_field(path, name, number, text, count=COUNT):
    """Overwrite one signal's field in the header."""
    offset, width = FIELD[name]
    text = text.encode() if isinstance(text, str) else text
    return patch(path, 256 + offset * count + width * number, text.ljust(width))


def hypnogram(path, stages, events=(), start=START):
    made = scoring.Scoring(np.asarray(stages, np.int8), list(events), "made")
    scoring.write_edf_annotations(path, made, start=start)


def discontinuous(path, *, gap_s, after):
    """Turn EDF+C into EDF+D whose record ``after`` begins ``gap_s`` late."""
    recording(path)
    patch(path, 192, "EDF+D")
    data_start = 256 * (COUNT + 1)
    for second in range(after, SECONDS):
        place = data_start + (second + 1) * RECORD_BYTES - CLOCK_BYTES
        patch(path, place, f"+{second + gap_s}\x14\x14".encode().ljust(CLOCK_BYTES, b"\0"))
    return path


def write_bad_recordings(folder):
    """One recording per fault, named by it."""
    recording(folder / "good.edf", seed=1)
    hypnogram(folder / "good-Hypnogram.edf", [0, 1, 2, 3, 4])
    path = recording(folder / "truncated.edf")
    path.write_bytes(path.read_bytes()[: -70 * RECORD_BYTES])
    path = recording(folder / "header_cut.edf")
    path.write_bytes(path.read_bytes()[:900])
    patch(recording(folder / "minus_one_records.edf"), 236, "-1      ")
    patch_field(recording(folder / "zero_length_channel.edf"), "samples", 2, "0")
    patch_field(recording(folder / "nan_range.edf"), "pmin", 0, "nan")
    patch_field(recording(folder / "inf_range.edf"), "pmax", 1, "inf")
    path = recording(folder / "all_nan.edf")
    for number in range(len(RATES)):
        patch_field(path, "pmax", number, "nan")
    patch_field(recording(folder / "mV_called_uV.edf"), "pmin", 0, "-0.4")
    patch_field(folder / "mV_called_uV.edf", "pmax", 0, "0.4")
    patch_field(recording(folder / "uV_called_mV.edf"), "unit", 0, "mV")
    discontinuous(folder / "gaps.edf", gap_s=40, after=60)
    late = scoring.Event("arousal", 130.0, 5.0)
    hypnogram(folder / "gaps-Hypnogram.edf", [0, 0, 0, 2, 2, 2], [late])
    recording(folder / "scoring_longer.edf")
    hypnogram(folder / "scoring_longer-Hypnogram.edf", [0] * 5 + [2] * 20)
    recording(folder / "scoring_shorter.edf")
    hypnogram(folder / "scoring_shorter-Hypnogram.edf", [2])
    recording(folder / "scoring_of_another.edf")
    other = START - datetime.timedelta(hours=5)
    hypnogram(folder / "scoring_of_another-Hypnogram.edf", [0] * 5, start=other)
    recording(folder / "scoring_damaged.edf")
    (folder / "scoring_damaged-nsrr.xml").write_text("<PSGAnnotation><ScoredEv")
    recording(folder / "scoring_nan.edf")
    rows = "onset\tduration\tstage_hum\n0\tnan\t0\n"
    (folder / "scoring_nan_events.tsv").write_text(rows)
    soup = {f"{name} {name}": ("uV", 64, 20.0) for name in ("EKGEEG", "foo", "X1", "C99")}
    recording(folder / "label_soup.edf", soup | {"C3": ("uV", 64, 20.0), "Batt": ("V", 1, 1.0)})
    recording(folder / "only_soup.edf", soup)
    path = folder / "two_claim_one.edf"
    twice = [*RATES.items(), ("C3-A2", ("uV", 128, 20.0)), ("ECG", RATES["ECG"])]
    write_edf(path, noise(twice), START)
    patch_field(recording(folder / "not_utf8.edf"), "label", 2, b"Abd\xff\xfe\x80\x01")
    (folder / "directory.edf").mkdir()
    (folder / "dangling.edf").symlink_to(folder / "nowhere")
    (folder / "loop.edf").symlink_to(folder / "loop.edf")
    os.mkfifo(folder / "pipe.edf")
    (folder / "empty.edf").write_bytes(b"")
    (folder / "text.edf").write_text("no recording " * 100)
    patch(recording(folder / "many_signals.edf"), 252, "9999")
    patch_field(recording(folder / "huge_records.edf"), "samples", 0, "99999999")
    patch(recording(folder / "no_duration.edf"), 244, "0       ")
    for kind in ("hea", "mat"):
        (folder / f"record.{kind}").write_bytes(b"\x00\x01 nothing\n")
    flat = [EdfSignal("ECG", "uV", 128, np.zeros(SECONDS * 128), -400, 400)]
    write_edf(folder / "flat.edf", flat, START)
    closed = recording(folder / "unreadable.edf")
    closed.chmod(0)
    return folder


REJECTED = {
    "header_cut": "header",
    "all_nan": "range is not a number",
    "scoring_of_another": "belongs to another recording",
    "scoring_damaged": "not well-formed XML",
    "scoring_nan": "not a number of seconds",
    "only_soup": "none of its",
    "directory": "",
    "dangling": "",
    "loop": "",
    "pipe": "",
    "empty": "",
    "text": "",
    "many_signals": "9999",
    "huge_records": "",
    "no_duration": "",
    "record": "",
    "flat": "flat",
}
CHANNELS = {
    "good": {"eeg_c3", "ecg", "resp_abd"},
    "truncated": {"eeg_c3", "ecg", "resp_abd"},
    "minus_one_records": {"eeg_c3", "ecg", "resp_abd"},
    "nan_range": {"ecg", "resp_abd"},
    "inf_range": {"eeg_c3", "resp_abd"},
    "mV_called_uV": {"eeg_c3", "ecg", "resp_abd"},
    "uV_called_mV": {"eeg_c3", "ecg", "resp_abd"},
    "gaps": {"eeg_c3", "ecg", "resp_abd"},
    "scoring_longer": {"eeg_c3", "ecg", "resp_abd"},
    "scoring_shorter": {"eeg_c3", "ecg", "resp_abd"},
    "label_soup": {"eeg_c3"},
    "two_claim_one": {"eeg_c3", "ecg", "resp_abd"},
}


def launch(command, *arguments, seconds=300):
    """Run a command as a user does; a traceback is never an answer to bad input."""
    done = subprocess.run(
        [sys.executable, "-m", f"launch.{command}", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=seconds,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    return done


def rejects(folder):
    lines = [json.loads(line) for line in (folder / "rejects.jsonl").open()]
    return {line["recording"]: line["reason"] for line in lines}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder of every fault, and the store that one command made of it."""
    folder = tmp_path_factory.mktemp("bad")
    write_bad_recordings(folder / "in")
    done = launch(
        "prepare_nights",
        f"--input={folder}/in",
        f"--output={folder}/nights",
        "--channels=eeg_c3,ecg,resp_abd",
    )
    assert done.returncode == 0, done.stderr
    assert "rejected" in done.stdout
    return folder


def test_bad_recordings_are_rejects_with_a_reason(prepared):
    found = rejects(prepared / "nights")
    unreadable = {"unreadable"} if not os.access(prepared / "in/unreadable.edf", os.R_OK) else set()
    assert set(REJECTED) | unreadable <= set(found)
    assert not set(CHANNELS) & set(found), found
    for name, words in REJECTED.items():
        assert found[name], name
        assert words in found[name], (name, found[name])
        assert "unexpected" not in found[name], (name, found[name])


def test_one_fault_does_not_cost_the_rest_of_a_night(prepared):
    store = NightStore(prepared / "nights")
    store.verify()
    nights = {night.recording: night for night in store.nights}
    assert set(CHANNELS) <= set(nights)
    for name, channels in CHANNELS.items():
        assert set(nights[name].channels) == channels, (name, nights[name].qc)
    assert nights["truncated"].duration_s == SECONDS - 70
    assert nights["minus_one_records"].duration_s == SECONDS
    for night in nights.values():
        for channel in night.channels:
            signal = store.signal(night, channel, 0, night.duration_s)
            assert np.isfinite(signal).all(), night.recording
            # Wrong by a thousand or not, what reaches the model is of unit size.
            assert 0.1 < signal[len(signal) // 2 :].std() < 5, (night.recording, channel)


def test_units_wrong_by_a_thousand_are_said(prepared):
    nights = {night.recording: night for night in NightStore(prepared / "nights").nights}
    for name in ("mV_called_uV", "uV_called_mV"):
        told = nights[name].qc["channels"]["eeg_c3"]
        assert told["status"] == "fixed", told
        assert "times" in " ".join(told["notes"]), told


def test_gaps_are_masked_and_nothing_shifts(prepared):
    store = NightStore(prepared / "nights")
    night = next(night for night in store.nights if night.recording == "gaps")
    assert night.duration_s == SECONDS + 40
    valid = store.valid(night, "ecg", 0, night.duration_s)
    assert not valid[60:100].any()
    assert valid[:59].all()
    assert valid[101:].all()
    assert store.stages(night).tolist() == [0, 0, 0, 2, 2, 2]
    assert [event.onset_s for event in store.events(night)] == [130.0]


def test_scoring_of_another_length_is_cut_or_padded_and_said(prepared):
    store = NightStore(prepared / "nights")
    nights = {night.recording: night for night in store.nights}
    assert store.stages(nights["scoring_longer"]).tolist() == [0] * 5
    assert "longer than the recording" in " ".join(nights["scoring_longer"].qc["notes"])
    assert store.stages(nights["scoring_shorter"]).tolist() == [2, -1, -1, -1, -1]
    assert "shorter than the recording" in " ".join(nights["scoring_shorter"].qc["notes"])


def test_checking_tells_what_is_wrong_and_goes_on(prepared):
    done = launch("check_recordings", prepared / "in")
    assert done.returncode == 1
    assert "could not be read" in done.stdout
    for name in ("good", "two_claim_one", "label_soup", "uV_called_mV"):
        assert f"{name}.edf" in done.stdout
    for name in ("header_cut", "many_signals", "text"):
        assert f"{name}.edf" in done.stderr


def test_a_file_in_place_of_a_folder_and_a_folder_that_is_not_there(prepared, tmp_path):
    file = tmp_path / "file"
    file.write_text("here")
    good = prepared / "in"
    for arguments in (
        ("prepare_nights", f"--input={file}", f"--output={tmp_path}/out"),
        ("prepare_nights", f"--input={tmp_path}/nowhere", f"--output={tmp_path}/out"),
        ("prepare_nights", f"--input={good}", f"--output={file}"),
        ("tokenize_nights", f"--nights={file}", "--tokenizers=x", f"--output={tmp_path}/out"),
    ):
        done = launch(*arguments)
        assert done.returncode == 1, (arguments, done.stderr)
        assert str(file) in done.stderr or "nowhere" in done.stderr, done.stderr
    assert file.read_text() == "here"
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An export of a tiny untrained model with its tokenizers."""
    folder = tmp_path_factory.mktemp("model")
    tiny_models.write_tokenizers(folder / "tokenizers")
    config = tiny_models.rq_config()
    variables = tiny_models.random_variables(config, tiny_models.token_batch())
    tiny_models.write_run(folder / "run", config, variables)
    export(folder / "run", folder / "export", tokenizers=folder / "tokenizers", programs=False)
    return folder


@pytest.mark.slow
def test_embedding_a_folder_of_faults(prepared, model, tmp_path):
    arguments = (f"--model={model}/export", f"--input={prepared}/in", f"--output={tmp_path}")
    done = launch("embed", *arguments, seconds=600)
    assert done.returncode == 0, done.stderr
    found = rejects(tmp_path)
    about_scoring = {name for name in REJECTED if name.startswith("scoring")}
    assert set(REJECTED) - about_scoring <= set(found)
    written = {path.stem for path in tmp_path.glob("*.npz")}
    assert set(CHANNELS) | about_scoring <= written
    for path in tmp_path.glob("*.npz"):
        with np.load(path) as arrays:
            for name in arrays.files:
                if arrays[name].dtype.kind == "f":
                    assert np.isfinite(arrays[name]).all(), (path.name, name)
    # One file that is no recording: nothing else to do, so the command fails.
    alone = (f"--model={model}/export", f"--input={prepared}/in/text.edf")
    assert launch("embed", *alone, f"--output={tmp_path}/alone").returncode == 1


@pytest.mark.slow
def test_models_that_do_not_fit_or_lack_a_tensor(prepared, model, tmp_path):
    import safetensors.numpy

    recording = prepared / "in" / "good.edf"

    def embed(folder):
        done = launch(
            "embed", f"--model={folder}", f"--input={recording}", f"--output={tmp_path}/o"
        )
        assert done.returncode == 1
        assert not list((tmp_path / "o").glob("*.npz"))
        return done.stderr

    lacking = tmp_path / "lacking"
    shutil.copytree(model / "export", lacking)
    tensors = safetensors.numpy.load_file(lacking / "model.safetensors")
    gone = sorted(tensors)[0]
    del tensors[gone]
    safetensors.numpy.save_file(tensors, lacking / "model.safetensors")
    assert gone in embed(lacking)

    coarse = tiny_models.rq_config(
        modalities=[{**row, "levels": 3} for row in tiny_models.MODALITIES]
    )
    batch = tiny_models.token_batch(modalities=coarse["objective"]["model"]["modalities"])
    tiny_models.write_run(tmp_path / "run", coarse, tiny_models.random_variables(coarse, batch))
    with pytest.raises(ModelError, match=r"eeg tokenizer makes .*2.*16.*; the model takes 3 x 16"):
        export(tmp_path / "run", tmp_path / "misfit", tokenizers=model / "tokenizers")
    assert not (tmp_path / "misfit").exists()

    assert "nowhere" in embed(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "empty" in embed(tmp_path / "empty")


@pytest.mark.slow
def test_tokenizers_of_another_rate_are_refused(prepared, tmp_path):
    config = tiny_models.rvq_config("ecg", 32, (4, 4, 2))
    variables = tiny_models.random_variables(config, tiny_models.signal_batch(32))
    tiny_models.write_run(tmp_path / "tokenizers" / "ecg", config, variables)
    done = launch(
        "tokenize_nights",
        f"--nights={prepared}/nights",
        f"--tokenizers={tmp_path}/tokenizers",
        f"--output={tmp_path}/tokens",
    )
    assert done.returncode == 1
    assert "32" in done.stderr
    assert "128" in done.stderr
    assert not (tmp_path / "tokens" / "manifest.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.optim.learning_rat=1"], "learning_rat"),
        (["--config.nothing=1"], "nothing"),
        (["--config.train.steps=many"], "steps"),
        (["--config.data.path=/nowhere"], "/nowhere"),
        (["--config=configs/hypnos/rvq_tokenizer.py:huge"], "huge"),
        (["--config=configs/hypnos/rvq_tokenizer.py:test,eyes"], "eyes"),
    ],
)
def test_wrong_configs_name_the_key(tmp_path, flags, words):
    config = "--config=configs/hypnos/rvq_tokenizer.py:test"
    done = subprocess.run(
        [sys.executable, "-m", "launch.train", config, f"--workdir={tmp_path}/run", *flags],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode != 0
    assert any(words in line for line in done.stderr.strip().splitlines()[-4:]), done.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()


@contextlib.contextmanager
def small_disk(folder, size):
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small tmpfs cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_while_embedding_leaves_no_half_file(prepared, model, tmp_path):
    with small_disk(tmp_path / "disk", "8k") as disk:
        arguments = (f"--model={model}/export", f"--input={prepared}/in/good.edf")
        done = launch("embed", *arguments, f"--output={disk}/out")
        assert done.returncode == 1
        assert "space" in done.stderr
        for path in disk.rglob("*.npz"):
            np.load(path)
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        assert launch("embed", *arguments, f"--output={disk}/out").returncode == 0
        assert [path.name for path in disk.rglob("*.npz")] == ["good.npz"]


@pytest.mark.slow
def test_a_full_disk_while_tokenizing_and_training(prepared, model, tmp_path):
    nights = ("tokenize_nights", f"--nights={prepared}/nights", f"--tokenizers={model}/tokenizers")
    with small_disk(tmp_path / "disk", "300k") as disk:
        done = launch(*nights, f"--output={disk}/tokens")
        assert done.returncode == 1
        assert "space" in done.stderr or "free" in done.stderr
        assert not (disk / "tokens" / "manifest.json").exists()
    with small_disk(tmp_path / "second", "60k") as disk:
        config = "configs/hypnos/rvq_tokenizer.py:test,ecg"
        command = [sys.executable, "-m", "launch.train", f"--config={config}"]
        command += [f"--workdir={disk}/run", f"--config.data.path={prepared}/nights"]
        run = {"capture_output": True, "text": True, "timeout": 300}
        run["env"] = {**os.environ, "JAX_PLATFORMS": "cpu"}
        # Orbax's own threads print what they met; the command's line is among theirs.
        done = subprocess.run(command, **run)
        assert done.returncode == 1
        assert "no space left on device" in done.stderr.casefold()
        subprocess.run(["mount", "-o", "remount,size=40m", str(disk)], check=True)
        done = subprocess.run(command, **run)
        assert done.returncode == 0, done.stderr
        steps = [json.loads(line)["step"] for line in (disk / "run/metrics.jsonl").open()]
        assert steps == sorted(steps)
        assert steps[-1] == 20


@pytest.mark.slow
def test_kill_9_while_embedding_then_the_same_command(prepared, model, tmp_path):
    arguments = (f"--model={model}/export", f"--input={prepared}/in")
    command = [sys.executable, "-m", "launch.embed", *arguments, f"--output={tmp_path}/out"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    for files in (1, 4):
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 300
        while len(list(tmp_path.glob("out/*.npz"))) < files and time.monotonic() < end:
            if process.poll() is not None:
                break
            time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        process.wait()
    assert launch("embed", *arguments, f"--output={tmp_path}/out", seconds=600).returncode == 0
    assert launch("embed", *arguments, f"--output={tmp_path}/once", seconds=600).returncode == 0
    resumed, once = (sorted((tmp_path / name).glob("*.npz")) for name in ("out", "once"))
    assert [path.name for path in resumed] == [path.name for path in once]
    for a, b in zip(resumed, once, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name
    leftovers = [p.name for p in pathlib.Path(tmp_path / "out").iterdir() if p.suffix != ".npz"]
    assert leftovers == ["rejects.jsonl"]
