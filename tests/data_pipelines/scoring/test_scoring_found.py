"""The scoring beside a recording: which file it is, and what is told where none is read."""

import datetime
import types

import numpy as np
import pytest

from data_pipelines import scoring
from data_pipelines.builders.folder import find_recordings
from data_pipelines.scoring import Event, Scoring, find_scoring, read_beside

WORDS = ["W", "W", "N1", "N2", "N3", "N3", "R", "W"] * 2
STAGES = [0, 0, 1, 2, 3, 3, 4, 0] * 2
WORD_LIST = "\n".join(WORDS) + "\n"
DIGITS = "\n".join(map(str, STAGES)) + "\n"
TSV = "onset\tduration\tstage\n" + "".join(f"{30 * i}\t30\t{x}\n" for i, x in enumerate(WORDS))
CSV = "Epoch,Stage\n" + "".join(f"{i},{x}\n" for i, x in enumerate(WORDS))
RML = (
    '<PatientStudy xmlns="http://www.respironics.com/PatientStudy.xsd"><ScoringData><StagingData>'
    '<UserStaging><NeuroAdultAASMStaging><Stage Type="Wake" Start="0"/>'
    "</NeuroAdultAASMStaging></UserStaging></StagingData></ScoringData></PatientStudy>"
)
NSRR = (
    "<PSGAnnotation><ScoredEvents><ScoredEvent><EventType>Stages|Stages</EventType><EventConcept>"
    "Wake|0</EventConcept><Start>0</Start><Duration>30</Duration></ScoredEvent></ScoredEvents>"
    "</PSGAnnotation>"
)
DOMINO = "Signal ID: SchlafProfil\\profil\nStart Time: 05.03.2021 22:00:00\nRate: 30 s\n\n"
DOMINO += "22:00:00,000; Wake\n22:00:30,000; N2\n"
FLOW = "Signal ID: FlowD\\flow\nStart Time: 05.03.2021 22:00:06\nUnit: s\nSignal Type: Impuls\n\n"
FLOW += "22:00:31,500-22:00:43,700; 12;Hypopnea\n"
NIGHT = types.SimpleNamespace(path=None, start_of_day_s=22 * 3600.0, duration_s=480.0)


def annotations(path):
    made = Scoring(np.array(STAGES, np.int8), [], "made")
    scoring.write_edf_annotations(path, made, start=datetime.datetime(2001, 1, 1))


@pytest.fixture
def folder(tmp_path):
    """Return a function that fills a folder: name -> text, bytes, or `annotations`."""

    def fill(**files):
        return fill_names(files)

    def fill_names(files):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if callable(content):
                content(path)
            else:
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path

    return fill_names


@pytest.mark.parametrize(
    ("recording", "beside", "content"),
    [
        ("N1.EDF", "N1-NSRR.XML", NSRR),
        ("N1.EDF", "n1.Xml", NSRR),
        ("n1.edf", "N1.RML", RML),
        ("00000995-100507[001].edf", "00000995-100507.rml", RML),
        ("night.bdf", "NIGHT_HYPNOGRAM.EDF", annotations),
        ("night.edf", "nightHypno.edf", annotations),
        ("night.edf", "night_hypno.edf", annotations),
        ("night.edf", "night_scoring.edf", annotations),
        ("01-01-0001 PSG.edf", "01-01-0001 Base.edf", annotations),
        ("01-01-0001 PSG.EDF", "01-01-0001 BASE.EDF", annotations),
        ("S1_PSG.edf", "S1_Hypnogram.edf", annotations),
        ("sub-01_task-sleep_eeg.edf", "sub-01_task-sleep_hypnogram.tsv", TSV),
        ("sub-01_task-sleep_eeg.edf", "sub-01_task-sleep_stages.tsv", TSV),
        ("sub-01_task-sleep_acq-psg_eeg.edf", "sub-01_task-sleep_events.tsv", TSV),
        ("sub-01_task-sleep_acq-psg_eeg.edf", "sub-01_task-sleep_hypnogram.tsv", TSV),
        ("sub-01_eeg.bdf", "sub-01_events.tsv", TSV.replace("onset\tduration", "Onset\tDuration")),
        ("night.edf", "night_hypnogram.csv", CSV),
        ("night.edf", "night_hypno.txt", WORD_LIST),
        ("night.edf", "night_sleep_stages.csv", CSV),
        ("night.edf", "night-SleepStages.csv", CSV),
        ("night.edf", "night.scoring.txt", WORD_LIST),
        ("night.edf", "Night_Schlafstadien.TXT", WORD_LIST),
        ("night.edf", "Hypnogram_night.txt", WORD_LIST),
        ("night.edf", "Hypnogram.txt", WORD_LIST),
        ("night.edf", "sleep_stages.csv", CSV),
        ("night.edf", "night.txt", DOMINO),
        ("night.edf", "night Sleep profile.txt", DOMINO),
        ("night.edf", "Sleep profile.txt", DOMINO),
        ("night.edf", "night.csv", TSV.replace("\t", ",")),
        ("night.edf", "night_events.csv", TSV.replace("\t", ";")),
        ("night.edf", "night.json", '["W", "N1", "N2", "R"]'),
        ("night.edf", "night.txt", b"\xef\xbb\xbf" + WORD_LIST.replace("\n", "\r\n").encode()),
        ("night.edf", "night.txt", WORD_LIST.encode("utf-16")),
        ("night.rec", "night_1.txt", WORD_LIST),
        ("night.edf", "night.edf.csv", CSV),
    ],
)
def test_the_scoring_of_a_recording_is_found(folder, recording, beside, content):
    there = folder({recording: b"", beside: content, "other.edf2": b"", "participants.csv": CSV})
    assert find_scoring(there / recording) == there / beside
    found, findings = read_beside(there / recording, recording=NIGHT)
    assert findings == []
    assert found.stages[0] == 0


@pytest.mark.parametrize(
    ("recording", "beside", "book"),
    [
        ("ucddb002.rec", "ucddb002_stage.txt", "ucddb"),
        ("1.edf", "1_1.txt", "rk5"),
        ("1.rec", "1_1.txt", "rk5"),
        ("subject1.edf", "HypnogramAASM_subject1.txt", "dreams"),
        ("subject1.edf", "HypnogramR&K_subject1.txt", "dreams"),
        ("night.edf", "night.json", "dod"),
        ("night.edf", "night_hypno_30s.txt", "yasa"),
    ],
)
def test_a_list_of_bare_numbers_is_read_with_a_code_book_and_told_without(
    folder, recording, beside, book
):
    content = str(STAGES) if beside.endswith("json") else DIGITS
    there = folder({recording: b"", beside: content})
    assert find_scoring(there / recording, code_book=book) == there / beside
    found, findings = read_beside(there / recording)
    assert found is None
    assert [finding.kind for finding in findings] == ["no_scoring", "unread_file"]
    assert beside in findings[0].note
    assert "--code_book=NAME" in findings[1].note
    assert book in findings[1].note


@pytest.mark.parametrize(
    ("recording", "beside", "content"),
    [
        ("night1.edf", "night10.txt", WORD_LIST),
        ("night1.edf", "night10_hypnogram.txt", WORD_LIST),
        ("night.edf", "overnight.txt", WORD_LIST),
        ("1.edf", "hypnogram_11.txt", WORD_LIST),
        ("night.edf", "participants.csv", CSV),
        ("night.edf", "night_channels.tsv", TSV),
        ("sub-01_task-sleep_eeg.edf", "sub-01_task-sleep_eeg.json", '{"TaskName": "sleep"}'),
        ("sub-01_task-sleep_eeg.edf", "sub-01_task-sleep_channels.tsv", "name\ttype\nC3\tEEG\n"),
        ("sub-01_task-sleep_eeg.edf", "sub-01_scans.tsv", "filename\tacq_time\n"),
        ("sub-01_ses-1_task-sleep_eeg.edf", "sub-01_task-sleep_events.tsv", TSV),
        ("sub-01_task-sleep_run-1_eeg.edf", "sub-01_task-sleep_run-2_events.tsv", TSV),
        ("sub-01_task-sleep_acq-psg_eeg.edf", "sub-01_task-sleep_acq-hb_events.tsv", TSV),
        ("sub-01_task-sleep_eeg.edf", "sub-011_task-sleep_hypnogram.tsv", TSV),
        ("night.edf", "night_hr.csv", "time,hr\n0,60\n1,61\n"),
        ("night.edf", "night.csv", "time,C3,C4\n" + "0.01,1.5,2.5\n" * 50),
        ("night.edf", "night.txt", "Somebody slept well.\nNo remarks.\n"),
        ("night.edf", "night.json", '{"device": "x"}'),
        ("night.edf", "README.txt", "These are recordings of sleep stages.\n"),
    ],
)
@pytest.mark.parametrize("book", [None, "aasm5"])
def test_files_that_are_no_scoring_of_a_recording_are_not_taken(
    folder, recording, beside, content, book
):
    there = folder({recording: b"", beside: content, "else.edf": b""})
    assert find_scoring(there / recording, code_book=book) is None


def test_each_of_several_recordings_has_its_own_scoring(folder):
    names = ["night1", "night10", "night1_1", "Night2", "a", "A", "S1 PSG", "S1"]
    files = {f"{name}.edf": b"" for name in names}
    files |= {f"{name}.txt": WORD_LIST for name in names}
    files |= {"night1_1_hypnogram.txt": WORD_LIST, "Hypnogram.txt": WORD_LIST}
    there = folder(files)
    for name in names:
        beside = "night1_1_hypnogram.txt" if name == "night1_1" else f"{name}.txt"
        assert find_scoring(there / f"{name}.edf") == there / beside
    (there / "night1.txt").unlink()
    (there / "A.txt").unlink()
    assert find_scoring(there / "night1.edf") is None
    assert find_scoring(there / "A.edf") is None


@pytest.mark.parametrize(
    ("more", "fewer"),
    [
        ("night-nsrr.xml", "night-profusion.xml"),
        ("night_hypnogram.csv", "night.csv"),
        ("night_hypnogram.csv", "night_events.csv"),
        ("night_stages.txt", "night_hypnogram_manual.txt"),
        ("night_1.txt", "night_2.txt"),
        ("night.csv", "night.txt"),
    ],
)
def test_of_several_scorings_the_more_specific_is_taken(folder, more, fewer):
    content = NSRR if more.endswith("xml") else WORD_LIST
    there = folder({"night.edf": b"", more: content, fewer: content})
    assert find_scoring(there / "night.edf") == there / more


def test_scorings_that_contradict_are_told(folder):
    other = "\n".join(["W", "N1"] * 8)
    there = folder({"1.edf": b"", "1_1.txt": WORD_LIST, "1_2.txt": other, "1_1.xlsx": b"PK"})
    found, _ = read_beside(there / "1.edf")
    assert found.stages.tolist() == STAGES
    (finding,) = found.findings
    differ = sum(a != b for a, b in zip(STAGES, [0, 1] * 8))
    assert (finding.kind, finding.count) == ("several_scorers", differ)
    assert "1_2.txt" in finding.note
    (there / "1_2.txt").write_text(WORD_LIST)
    assert read_beside(there / "1.edf")[0].findings == ()


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("night.xls", b"\xd0\xcf", "*.xls"),
        ("night_hypnogram.xlsx", b"PK", "*_hypnogram.xlsx"),
        ("night.sco", b"\0\1", "*.sco"),
        ("night.STA", b"\0\1", "*.sta"),
        ("night.esedb", b"\0\1", "*.esedb"),
        ("night.mat", b"MATLAB", "*.mat"),
        ("night_yasa_hypnogram.csv", CSV, "*.csv"),
        ("night_by_Somebody.csv", CSV, "*.csv"),
        ("night_stages.csv", "a,b\nx,y\n", "*_stages.csv"),
        ("night.xml", "<html/>", "*.xml"),
        ("night_hypnogram.json", '{"stages": [1, 2]}', "*_hypnogram.json"),
        ("Hypnogram.xlsx", b"PK", "Hypnogram.xlsx"),
        ("night_1.xlsx", b"PK", "*.xlsx"),
        ("night.json", '{"hypnogram": [0, 1, 2]}', "*.json"),
        ("night_events.tsv", "onset\tduration\ttrial_type\n5\t1\ttone\n", "*_events.tsv"),
        ("night_respevt.txt", "                     Respiratory Event List\n", "*.txt"),
    ],
)
def test_what_lies_beside_a_night_without_scoring_is_told(folder, name, content, what):
    there = folder({"night.edf": b"", name: content, "night_channels.tsv": "name\ttype\n"})
    found, findings = read_beside(there / "night.edf")
    assert found is None
    first, second = findings
    assert first.kind == "no_scoring"
    assert name in first.note
    assert "channels" not in first.note
    assert (second.kind, second.what) == ("unread_file", what)
    assert name in second.note
    assert str(there) not in first.note + second.note


def test_a_link_that_leads_nowhere_is_told(folder):
    there = folder({"night.edf": b""})
    for name in ("night_hypnogram.tsv", "night-nsrr.xml", "night.txt"):
        (there / name).symlink_to(there / ".git" / "annex" / "gone")
        found, findings = read_beside(there / "night.edf")
        assert found is None
        assert "a link that leads nowhere" in findings[1].note
        assert name in findings[0].note
        (there / name).unlink()


def test_a_night_with_nothing_beside_it_says_so(folder):
    beside = {"night_channels.tsv": "name\ttype\n", "night.pdf": b"%PDF", "night.json": "{}"}
    there = folder({"night.edf": b"", "night_questions.xlsx": b"PK"} | beside)
    found, (finding,) = read_beside(there / "night.edf")
    assert found is None
    assert finding.note == "no scoring was found"


def test_lists_of_events_are_read_with_the_stages(folder):
    there = folder({"night.edf": b"", "Sleep profile.txt": DOMINO, "Flow D.txt": FLOW})
    found, _ = read_beside(there / "night.edf", recording=NIGHT)
    assert found.stages.tolist() == [0, 2]
    assert [(x.kind, x.onset_s, round(x.duration_s, 3)) for x in found.events] == [
        ("hypopnea", 31.5, 12.2)
    ]
    assert found.events_scored
    # Of another night, by its start.
    (there / "Flow D.txt").write_text(FLOW.replace("05.03.2021", "06.03.2021"))
    assert read_beside(there / "night.edf", recording=NIGHT)[0].events == []
    # Of whichever of two recordings: not told by the name.
    (there / "Flow D.txt").write_text(FLOW)
    (there / "Sleep profile.txt").rename(there / "night.txt")
    (there / "other.edf").write_bytes(b"")
    assert read_beside(there / "night.edf", recording=NIGHT)[0].events == []
    (there / "Flow D.txt").rename(there / "night Flow D.txt")
    assert len(read_beside(there / "night.edf", recording=NIGHT)[0].events) == 1


def test_events_beside_stages_within_the_recording_or_alone(folder):
    tsv = "onset\tduration\ttrial_type\n65\t12\tHypopnea\n150\t3\tArousal\n"
    there = folder({"sub-1_eeg.edf": annotations, "sub-1_events.tsv": tsv})
    found, _ = read_beside(there / "sub-1_eeg.edf")
    assert found.stages.tolist() == STAGES
    assert [event.kind for event in found.events] == ["hypopnea", "arousal"]
    # What stands within the recording is not taken twice.
    events = [Event("hypopnea", 65.0, 12.0)]
    made = Scoring(np.array(STAGES, np.int8), events, "made")
    start = datetime.datetime(2001, 1, 1)
    scoring.write_edf_annotations(there / "sub-1_eeg.edf", made, start=start)
    found, _ = read_beside(there / "sub-1_eeg.edf")
    assert [event.kind for event in found.events] == ["hypopnea", "arousal"]
    (there / "sub-1_eeg.edf").write_bytes(b"")
    found, _ = read_beside(there / "sub-1_eeg.edf")
    assert (found.stages < 0).all()
    assert [event.kind for event in found.events] == ["hypopnea", "arousal"]


def test_a_list_of_events_that_cannot_be_placed_is_told(folder):
    there = folder(
        {
            "night.edf": b"",
            "night_stages.txt": WORD_LIST,
            "night_events.csv": "start time,duration,event\n22:01:00,9,Hypopnea\n",
        }
    )
    nobody = types.SimpleNamespace(path=None, start_of_day_s=None, duration_s=480.0)
    found, _ = read_beside(there / "night.edf", recording=nobody)
    (finding,) = found.findings
    assert (finding.kind, finding.what) == ("unread_file", "*_events.csv")
    assert "night_events.csv" in finding.note and str(there) not in finding.note
    found, _ = read_beside(there / "night.edf", recording=NIGHT)
    assert [event.onset_s for event in found.events] == [60.0]
    assert found.stages.tolist() == STAGES


def _events(path):
    return [line for line in path.read_text().splitlines() if line[2:3] == ":"]


def test_ucddb(test_data):
    data = test_data / "ucddb-eeg"
    assert find_scoring(data / "ucddb002.rec", code_book="ucddb") == data / "ucddb002_stage.txt"
    start_s = 11 * 60 + 4.0
    night = types.SimpleNamespace(path=None, start_of_day_s=start_s, duration_s=748 * 30.0)
    found, _ = read_beside(data / "ucddb002.rec", recording=night, code_book="ucddb")
    assert len(found.stages) == 748
    code = dict(zip("012345", (0, 4, 1, 2, 3, 3)))
    written = (data / "ucddb002_stage.txt").read_text().split()
    assert found.stages.tolist() == [code.get(entry, -1) for entry in written]
    assert len(found.events) == sum("-" in x[8:20] for x in _events(data / "ucddb002_respevt.txt"))
    first = found.events[0]
    assert (first.kind, first.onset_s, first.duration_s) == ("hypopnea", 18 * 60 + 9.0, 16.0)


def test_real_folders_hold_what_they_held(test_data, tmp_path):
    """Names of real files, the recordings put beside them."""
    cases = [
        (
            "boas/sub-1/eeg",
            "sub-1_task-Sleep_acq-psg_eeg.edf",
            "sub-1_task-Sleep_acq-psg_events.tsv",
        ),
        ("slpdb", "slp01a.hea", "slp01a.st"),
        ("sleep-edf", "SC4001E0-PSG.edf", "SC4001E0-PSG.edf.hyp"),
        ("cap-annotations", "nfle1.edf", "nfle1.txt"),
    ]
    for folder, recording, beside in cases:
        assert find_scoring(test_data / folder / recording) == test_data / folder / beside
    assert find_scoring(test_data / "dreams" / "subject1.edf", code_book="dreams") == (
        test_data / "dreams" / "HypnogramAASM_subject1.txt"
    )


def test_files_of_scoring_alone_are_no_recordings(folder):
    names = [
        "01 PSG.edf",
        "01 Base.edf",
        "a base.edf",
        "nightHypno.edf",
        "x-Hypnogram.EDF",
        "a.edf",
    ]
    found, _ = find_recordings(folder(dict.fromkeys(names, b"")))
    assert sorted(found) == ["01 PSG", "a", "a base"]


@pytest.mark.parametrize("recordings", [["short"], ["short", "other"]])
def test_a_scoring_with_another_recordings_name_is_told_and_not_read(folder, recordings):
    files = {f"{name}.edf": b"" for name in recordings}
    files |= {"SC4001EC-Hypnogram.edf": annotations, "Mueller hypno.txt": WORD_LIST}
    where = folder(files)
    for name in recordings:
        scored, findings = read_beside(where / f"{name}.edf")
        assert scored is None
        told = " ".join(finding.note for finding in findings)
        assert "*.edf" in told and ".txt" in told


def test_a_link_to_itself_hides_no_scoring(folder):
    where = folder({"night.edf": b"", "night_hypnogram.csv": CSV, "loose.edf": b""})
    (where / "loop.edf").symlink_to(where / "loop.edf")
    assert find_scoring(where / "night.edf") == where / "night_hypnogram.csv"
    (where / "annotations").mkdir()
    (where / "annotations" / "loose_stages.csv").write_text(CSV)
    assert any("loose_stages.csv" in x.note for x in read_beside(where / "loose.edf")[1])
