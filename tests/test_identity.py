"""Nobody is recognisable in what the program writes: canaries in every field that names a person.

A recording's file name, its channel labels and its start time of day may stay; what the headers of
recordings and scorings say of patient, recording, dates, devices and in free text may not.
"""

import json
import os
import re
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
import tiny_models
from array_record.python.array_record_module import ArrayRecordReader

from hypnos_jax.export.write import export
from hypnos_jax.inference.embed_folder import embed_folder
from hypnos_jax.inference.tokenize_nights import tokenize_nights
from hypnos_jax.train import train

# Pieces, so that a part of a field is found too. None is a word of the program.
CANARIES = [
    "Yellowbird",  # a name, in the patient field
    "MRN7743100",  # a number of the hospital
    "SN-QX5521",  # a device
    "Dr.Owlington",  # whoever scored
    "frightened by a dream",  # free text
    "17-MAR-2003",
    "17.03.03",
    "17/03/2003",
    "2003-03-17",
    "12-OCT-1961",
]
# The planted dates as a program might write them.
REWRITTEN = ["20030317", "March 17", "1961-10-12", "12.10.61", "2003, 3, 17"]
PATIENT = "MRN7743100 F 12-OCT-1961 Ada_Yellowbird"
RECORDING = "Startdate 17-MAR-2003 PSG-1 Dr.Owlington SN-QX5521"
NOTE = "frightened by a dream, Ada Yellowbird MRN7743100"
LABELS = {"EEG C3-M2": 20.0, "EEG C4-M1": 20.0, "ECG": 300.0, "ABD": 5.0}
SECONDS = 240


def edf(path, *, seed=0, signals=True, texts=(), start="17.03.0323.50.00", damage=None):
    """Write EDF+C: noise, and annotations as (onset, duration, text); canaries everywhere."""
    labels = [*(LABELS if signals else {}), "EDF Annotations"]
    count, rate, block = len(labels), 100, 120
    records = SECONDS if signals else max(len(texts), 1)
    head = f"0       {PATIENT:80.80}{RECORDING:80.80}{start}{256 * (count + 1):<8}"
    head += f"{'EDF+C SN-QX5521':44.44}{records:<8}{int(signals):<8}{count:<4}"
    stds = [*LABELS.values()][: count - 1]
    columns = (
        [f"{label:16.16}" for label in labels],
        [f"{'SN-QX5521 of Ada Yellowbird':80.80}"] * count,
        [f"{'uV':8}"] * (count - 1) + [" " * 8],
        [f"{-10 * std:<8}" for std in stds] + [f"{-1:<8}"],
        [f"{10 * std:<8}" for std in stds] + [f"{1:<8}"],
        [f"{-32768:<8}"] * count,
        [f"{32767:<8}"] * count,
        [f"{'HP:0.1Hz MRN7743100':80.80}"] * count,
        [f"{rate:<8}"] * (count - 1) + [f"{block:<8}"],
        [f"{'Dr.Owlington':32.32}"] * count,
    )
    header = (head + "".join("".join(column) for column in columns)).encode("ascii")
    if damage is not None:
        place, text = damage
        header = header[:place] + text.encode() + header[place + len(text) :]
    rng = np.random.default_rng(seed)
    samples = rng.standard_normal((records, (count - 1) * rate)) * 3276.8
    samples = np.clip(samples, -32768, 32767).astype("<i2")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(header)
        for record in range(records):
            lists = f"+{record if signals else 0}\x14\x14\0"
            if record < len(texts):
                onset, length, text = texts[record]
                lists += f"+{onset}\x15{length}\x14{text}\x14\0"
            file.write(samples[record].tobytes() + lists.encode().ljust(2 * block, b"\0"))
    return path


STAGES = [(0, 120, "Sleep stage W"), (120, 90, "Sleep stage N2"), (210, 30, "Sleep stage R")]
XML = f"""<?xml version="1.0"?><PSGAnnotation><SoftwareVersion>SN-QX5521</SoftwareVersion>
<PatientName>Ada Yellowbird</PatientName><StudyDate>2003-03-17</StudyDate><ScoredEvents>
<ScoredEvent><EventType/><EventConcept>Recording Start Time</EventConcept><Start>0</Start>
<Duration>{SECONDS}</Duration><ClockTime>17.03.03 23.50.00</ClockTime></ScoredEvent>
<ScoredEvent><EventType>Stages|Stages</EventType><EventConcept>Wake|0</EventConcept>
<Start>0</Start><Duration>{SECONDS}</Duration><Notes>{NOTE}</Notes></ScoredEvent>
<ScoredEvent><EventType>Technician|{NOTE}</EventType><EventConcept>{NOTE}|{NOTE}</EventConcept>
<Start>30</Start><Duration>1</Duration></ScoredEvent></ScoredEvents></PSGAnnotation>"""
NOXTURNAL = f"""Start,End,Event,Duration\r
[],[],[],[s]\r
17/03/2003 23:50:00,17/03/2003 23:52:00,N1,120\r
17/03/2003 23:51:00,17/03/2003 23:51:09,{NOTE},9\r
17/03/2003 23:52:00,17/03/2003 23:52:30,N2,30\r
"""
REMLOGIC = f"""RemLogic Event Export\r
Patient:\tAda Yellowbird\r
Patient ID:\tMRN7743100\r
Recording Date:\t17/03/2003\r
\r
Sleep Stage\tPosition\tTime [hh:mm:ss]\tEvent\tDuration[s]\tLocation\r
S2\tLeft\t23:50:00\tSLEEP-S2\t120\tC4-A1\r
S2\tLeft\t23:51:00\t{NOTE}\t3\tSN-QX5521\r
"""


def write_recordings(folder):
    """Good recordings with scoring of several formats, and bad ones whose bad fields hold names."""
    edf(folder / "inside.edf", seed=0, texts=[*STAGES, (60, 2, NOTE), (61, 0, PATIENT)])
    edf(folder / "SC4001E0-PSG.edf", seed=1)
    texts = [*STAGES, (30, 5, NOTE)]
    edf(folder / "SC4001EC-Hypnogram.edf", signals=False, texts=texts)
    for seed, (name, text) in enumerate(
        {"nsrr-nsrr.xml": XML, "nox.csv": NOXTURNAL, "remlogic.txt": REMLOGIC}.items(), 2
    ):
        encoding = "utf-16" if name == "nox.csv" else "utf-8"
        (folder / name).write_bytes(text.encode(encoding))
        edf(folder / f"{re.split(r'-|[.]', name)[0]}.edf", seed=seed)
    # Fields that should be numbers, and scorings that cannot be read.
    for place in (168, 176, 184, 236, 244, 252, 256 + 5 * 16, 256 + 5 * 104, 256 + 5 * 216):
        edf(folder / f"bad{place}.edf", damage=(place, "12-OCT-1"))
        edf(folder / f"worse{place}.edf", damage=(place, "Yellowbird MRN7743100"))
    (folder / "text.edf").write_text(f"{PATIENT} {RECORDING} {NOTE}" * 20)
    broken = {
        "cut-nsrr.xml": XML[:-40],
        "number-nsrr.xml": XML.replace("<Start>0</Start>", f"<Start>{NOTE}</Start>"),
        "entity-nsrr.xml": XML.replace("<PSG", f'<!DOCTYPE a [<!ENTITY a "{NOTE}">]><PSG', 1),
        "late-nsrr.xml": XML.replace("<Start>0</Start>", "<Start>90000</Start>"),
        "clock.csv": NOXTURNAL.replace("17/03/2003", "12/10/1961"),
        "field_events.tsv": f"onset\tduration\tstage_hum\n0\t30\t{NOTE}\n",
        "onset_events.tsv": f"onset\tduration\tstage_hum\n{NOTE}\t30\t0\n",
        "luna.annot": f"N2\t.\t.\t{NOTE}\t30\t.\n",
        "names.eannot": f"{NOTE}\n",
        "old-Hypnogram.edf": None,
    }
    for seed, (name, text) in enumerate(broken.items(), 10):
        edf(folder / f"{re.split(r'-|[.]|_', name)[0]}.edf", seed=seed)
        if text is not None:
            (folder / name).write_text(text)
    old = {"signals": False, "texts": STAGES, "start": "12.10.6123.50.00"}
    edf(folder / "old-Hypnogram.edf", **old)
    return folder


def launch(command, *arguments):
    """Run a command as a user does; what it prints must not name anybody either."""
    done = subprocess.run(
        [sys.executable, "-m", f"launch.{command}", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert canaries_in(done.stdout + done.stderr) == [], done.stdout + done.stderr
    return done


def canaries_in(text):
    return [canary for canary in CANARIES + REWRITTEN if canary.casefold() in text.casefold()]


def contents(path):
    """Yield the bytes of a file, those of the members of an archive, and what is deflated."""
    data = path.read_bytes()
    yield data
    if data[:2] == b"PK":
        with zipfile.ZipFile(path) as archive:
            yield from (archive.read(name) for name in archive.namelist())
    if data[:2] == b"\x1f\x8b":
        yield zlib.decompress(data, 31)
    if ".array_record" in path.name:
        yield from ArrayRecordReader(str(path)).read_all()


def assert_nobody_in(folder):
    """No file below the folder, nor its name, holds a canary, in one byte a letter or in two."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert canaries_in(str(path.relative_to(folder))) == []
        for data in contents(path):
            for encoding in ("latin-1", "utf-16-le", "utf-16-be"):
                assert canaries_in(data.decode(encoding, "ignore")) == [], path
    return files


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """The recordings, and the store that prepare_nights made of them."""
    folder = tmp_path_factory.mktemp("identity")
    recordings = write_recordings(folder / "in")
    assert (
        launch("prepare_nights", f"--input={recordings}", f"--output={folder}/nights").returncode
        == 0
    )
    return folder


def test_the_canaries_are_planted(nights):
    planted = [
        data.decode("latin-1") for path in (nights / "in").iterdir() for data in contents(path)
    ]
    planted += [(nights / "in/nox.csv").read_text("utf-16")]
    for canary in CANARIES:
        assert any(canary in text for text in planted), canary


def test_nights_manifest_and_rejects_name_nobody(nights):
    assert_nobody_in(nights / "nights")
    manifest = json.loads((nights / "nights/manifest.json").read_text())
    found = {night["recording"]: night for night in manifest["nights"]}
    assert {"inside", "SC4001E0-PSG", "nsrr", "nox", "remlogic"} <= set(found)
    assert found["inside"]["metadata"]["start_of_day_s"] == 23 * 3600 + 50 * 60
    # The good ones were scored, so their scoring was read and not merely passed over.
    for name in ("inside", "SC4001E0-PSG", "nsrr", "nox", "remlogic"):
        assert found[name]["qc"]["scored_share"] > 0.4, name
    rejects = [json.loads(line) for line in (nights / "nights/rejects.jsonl").open()]
    rejected = {line["recording"] for line in rejects}
    wrong = {"cut", "number", "entity", "late", "clock", "onset", "luna", "names", "old"}
    assert wrong | {"text", "worse252"} <= rejected
    told = {finding["kind"] for finding in found["field"]["qc"]["findings"]}
    assert "unread_file" in told and found["field"]["qc"]["scored_share"] == 0
    assert all(line["reason"] for line in rejects)
    # Not even how far apart two dates are: one of them may be known.
    apart = next(line["reason"] for line in rejects if line["recording"] == "old")
    assert not re.search(r"\d{5,}", apart.partition(".edf:")[2])


def test_checking_recordings_prints_nobody(nights):
    done = launch("check_recordings", nights / "in")
    assert "inside.edf" in done.stdout
    assert done.returncode == 1  # some cannot be read


@pytest.mark.slow
def test_tokens_checkpoints_exports_and_embeddings_name_nobody(nights, tmp_path, capfd):
    tiny_models.write_tokenizers(tmp_path / "tokenizers", ("eeg", "resp"))
    ecg = tiny_models.rvq_config("ecg")
    ecg["data"] |= {"path": str(nights / "nights"), "crop_s": 8}
    ecg |= {"mesh": {"data": -1}, "train": {"steps": 1, "batch_size": 8}}
    assert train(ecg, tmp_path / "tokenizers" / "ecg") == 0
    tokenize_nights(nights / "nights", tmp_path / "tokenizers", tmp_path / "tokens")
    config = tiny_models.rq_config(tmp_path / "tokens")
    config["data"] |= {"fill": [["objective.model.modalities", "modalities"]]}
    config["objective"]["model"]["modalities"] = []
    config |= {"mesh": {"data": -1}, "train": {"steps": 1, "batch_size": 8}}
    assert train(config, tmp_path / "model") == 0
    export(
        tmp_path / "model", tmp_path / "export", tokenizers=tmp_path / "tokenizers", programs=False
    )
    embed_folder(tmp_path / "export", nights / "in", tmp_path / "embeddings", mains_hz=50)
    files = assert_nobody_in(tmp_path)
    names = {path.name for path in files}
    assert {
        "inside.npz",
        "metrics.jsonl",
        "manifest.json",
        "model.safetensors",
        "rejects.jsonl",
    } <= names
    printed = capfd.readouterr()
    assert canaries_in(printed.out + printed.err) == []
