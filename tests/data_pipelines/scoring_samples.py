"""A small valid file of every scoring format, of one night that starts at 22:13:20, for tests."""

import datetime
import json
import pathlib
import struct
import tempfile

import numpy as np

from data_pipelines import scoring
from data_pipelines.scoring.writing import FORMS

START = datetime.datetime(2021, 3, 5, 22, 13, 20)
STAGES = [0, 0, 1, 1, 2, 2, 2, 3, 3, 2, 4, 4, -1, 0, 2, 2]
NAMES = ["W", "N1", "N2", "N3", "R", "?"]
WORDS = ["Wake", "Stage1", "Stage2", "Stage3", "REM", "?"]
REMLOGIC = ["S0", "S1", "S2", "S3", "REM", "MT"]
EVENTS = [
    scoring.Event("hypopnea", 75.5, 14.0),
    scoring.Event("arousal", 90.0, 4.0, "respiratory"),
    scoring.Event("apnea_central", 131.25, 21.0),
    scoring.Event("leg_movement", 200.0, 1.5),
]
MADE = scoring.Scoring(np.array(STAGES, np.int8), EVENTS, "made")


def named(names, step="\n"):
    return step.join(names[stage] for stage in STAGES)


def rows(line, names=NAMES):
    """A line an epoch; `{i}`, `{at}`, `{start}`, `{stop}`, `{stage}` stand for what they say."""
    lines = []
    for i, stage in enumerate(STAGES):
        start = START + datetime.timedelta(seconds=30 * i)
        stop = start + datetime.timedelta(seconds=30)
        lines.append(line.format(i=i, at=30 * i, start=start, stop=stop, stage=names[stage]))
    return "".join(lines)


def xml(root, body):
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{root}>{body}</{root}>\n'


def wfdb(texts):
    """Notes every 30 s at 1 Hz, as `wfdb.wrann` lays them out."""
    data = b""
    for i, text in enumerate(texts):
        raw = text.encode()
        data += struct.pack("<H", 22 << 10 | (30 if i else 0))
        data += struct.pack("<H", 63 << 10 | len(raw)) + raw + b"\0" * (len(raw) % 2)
    return data + b"\0\0"


def written():
    """What `convert_scoring` writes."""
    found = {}
    for suffix, form in FORMS.items():
        name = {".edf": "a-Hypnogram.edf", ".tsv": "a_events.tsv", ".csv": "a_hypno.csv"}
        found[name.get(suffix, f"a{suffix}")] = form.content(MADE, 80000.0, 480.0)
    return found


def two_scorers():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "a.edf")
        scoring.write_edf_annotations(path, MADE, start=START)
        return path.read_bytes().replace(b"Sleep stage N2", b"Sleep stage N3")


def _samples():
    profusion = "".join(f"<SleepStage>{max(stage, 0)}</SleepStage>" for stage in STAGES)
    changes = "".join(
        f'<Stage Type="{name}" Start="{at}" />'
        for name, at in (("Wake", 0), ("NonREM1", 60), ("NonREM2", 120), ("REM", 300))
    )
    clock = "{start:%d/%m/%Y %H:%M:%S},{stop:%d/%m/%Y %H:%M:%S},{stage},30,\n"
    apnea = "05/03/2021 22:14:35,05/03/2021 22:14:50,A. Centrale,15,\n"
    text = {
        "b-nsrr.xml": xml(
            "PSGAnnotation",
            "<ScoredEvents><ScoredEvent><EventConcept>SDO:WakeState</EventConcept><Duration>60"
            "</Duration><Start>0</Start></ScoredEvent><ScoredEvent><EventConcept>SDO:HypopneaFinding"
            "</EventConcept><Duration>12</Duration><Start>40</Start></ScoredEvent></ScoredEvents>",
        ),
        "a-profusion.xml": xml(
            "CMPStudyConfig",
            f"<EpochLength>30</EpochLength><ScoredEvents><ScoredEvent><Name>Central Apnea</Name>"
            f"<Start>31.5</Start><Duration>11</Duration></ScoredEvent></ScoredEvents><SleepStages>"
            f"{profusion}</SleepStages>",
        ),
        "a.rml": xml(
            "PatientStudy",
            "<Acquisition><Sessions><Session><RecordingStart>2021-03-05T22:13:20</RecordingStart>"
            "<Duration>480</Duration></Session></Sessions></Acquisition><ScoringData><StagingData>"
            f"<UserStaging><NeuroAdultAASMStaging>{changes}</NeuroAdultAASMStaging></UserStaging>"
            '</StagingData><Events><Event Family="Respiratory" Type="ObstructiveApnea" Start="130" '
            'Duration="14.5" /></Events></ScoringData>',
        ),
        "b_events.tsv": "onset\tduration\tbegsample\tendsample\toffset\tstage_hum\tstage_ai\n"
        + rows("{at}\t30\t1\t7680\t0\t{stage}\t0\n", ["0", "1", "2", "3", "4", "8"]),
        "stages.csv": "Start Time,Duration (seconds),Event\n"
        + rows("{start:%H:%M:%S},30, {stage}\n", WORDS)
        + "22:14:35,14, Hypopnea\n",
        "polyman.txt": "Date, Time, Recording onset, Duration, Annotation, Linked channel\n"
        + rows("2021-03-05,{start:%H:%M:%S},{at},30,Sleep stage {stage},\n"),
        "mne.csv": "onset,duration,description\n" + rows("{at},30,Sleep stage {stage}\n"),
        "snooz.tsv": "group\tname\tstart_sec\tduration_sec\tchannels\n"
        + rows("stage\t{stage}\t{at}\t30\t[]\n", ["0", "1", "2", "3", "5", "9"]),
        "noxturnal.csv": "Heure de début,Heure de fin,Événement,Durée,\n[],[],[],[s],\n"
        + rows(clock, ["Éveil", "N1", "N2", "N3", "REM", "?"])
        + apnea,
        "remlogic.txt": "RemLogic Event Export\n\n"
        "Sleep Stage\tPosition\tTime [hh:mm:ss]\tEvent\tDuration[s]\tLocation\n"
        + rows("S\tSupine\t{start:%H:%M:%S}\tSLEEP-{stage}\t30\tC4-A1\n", REMLOGIC),
        "domino.txt": "Signal ID: SchlafProfil\\profil\nStart Time: 05.03.2021 22:13:20\nUnit: \n"
        "Signal Type: Discret\nEvents list: N4,N3,N2,N1,Rem,Wach,Bewegung\nRate: 30 s\n\n"
        + rows("{start:%H:%M:%S},000; {stage}\n", ["Wach", "N1", "N2", "N3", "Rem", "Bewegung"]),
        "Flow Events.txt": "Signal ID: Atmung\\flow\nStart Time: 05.03.2021 22:13:20\n"
        "Unit: s\nSignal Type: Impuls\n\n22:14:35,500-22:14:49,500; 14;Hypopnea\n"
        "22:15:31,250-22:15:52,250; 21;Central Apnea\n",
        "b.annot": "class\tinstance\tchannel\tstart\tstop\tmeta\n"
        + rows("{stage}\t.\t.\t{start:%H:%M:%S}\t{stop:%H:%M:%S}\t.\n")
        + "apnea:obstructive\t.\tFlow\t22:14:35\t22:14:50\t.\n",
        "a.eannot": named(NAMES) + "\n",
        "ucddb002_stage.txt": named(["0", "2", "3", "4", "1", "7"]) + "\n",
        "ucddb002_respevt.txt": "\n                  Respiratory Event List\n\n"
        "22:14:35       HYP-C            14      93.2  3.1    -   +    -     - \n"
        "22:15:31       APNEA-O          21      92.0  4.0    -   +    -     - \n",
        "1_1.txt": named([*"01235", "7"]) + "\n",
        "yasa.csv": "Epoch,Stage\n" + rows("{i},{stage}\n", ["0", "1", "2", "3", "5", "9"]),
        "seconds.csv": "Time,Stage\n" + rows("{at},{stage}\n", ["5", "3", "2", "1", "4", "0"]),
        "a.json": json.dumps([max(stage, 0) for stage in STAGES]),
        "b.json": json.dumps([[max(stage, 0) for stage in STAGES]] * 3),
    }  # fmt: skip
    found = {name: content.encode() for name, content in text.items()}
    found["noxturnal.csv"] = text["noxturnal.csv"].encode("utf-16")
    found["a.st"] = wfdb(["W", "1", "2 HA", "2 OA", "3", "R", "W CAA LA"])
    found["a.hyp"] = wfdb([f"Sleep_stage_{name} duration: 30" for name in NAMES])
    found["two.edf"] = two_scorers()
    return found | written()


SAMPLES = _samples()
"""File name -> bytes."""
