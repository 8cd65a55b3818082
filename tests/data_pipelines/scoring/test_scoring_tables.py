"""Tables with a heading, Domino's exports, Philips' XML, and XML of a wrong encoding."""

import codecs
import types

import numpy as np
import pytest

from data_pipelines.scoring import ScoringError, read_scoring

STAGES = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 0, 2]
WORDS = ["Wake", "N1", "N2", "N3", "REM"]
START_S = 22 * 3600.0


def night(duration_s=360.0, start_s=START_S):
    return types.SimpleNamespace(path=None, start_of_day_s=start_s, duration_s=duration_s)


@pytest.fixture
def read(tmp_path):
    def read(content, name="night.csv", recording=None, code_book=None):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_scoring(path, recording=recording or night(), code_book=code_book)

    return read


def clock(seconds):
    seconds = int(seconds + START_S) % 86400
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def table(heading, row, events=(), words=WORDS, mark=",", stages=STAGES):
    """A table of twelve epochs; `row` writes (onset, duration, text)."""
    rows = [(30 * e, 30, words[stage]) for e, stage in enumerate(stages)] + list(events)
    lines = [heading, *(mark.join(row(*fields)) for fields in rows)]
    return "\n".join(lines) + "\n"


EVENTS = [(65, 12, "Hypopnea"), (160, 8, "Arousal")]
DOTS = "05.03.2021"

TABLES = {
    "NSRR STAGES": table(
        "Start Time,Duration (seconds),Event",
        lambda t, d, x: (clock(t), str(d), f" {x}"),
        EVENTS,
        ["Wake", "Stage1", "Stage2", "Stage3", "REM"],
    ),
    "NSRR STAGES, dated": table(
        "Start Time,Duration (seconds),Event",
        lambda t, d, x: (f"5/22/2018 10:0{t // 60}:{t % 60:02d} PM", f"{d}.000", x),
        EVENTS,
    ),
    "Polyman": table(
        "Date, Time, Recording onset, Duration, Annotation, Linked channel",
        lambda t, d, x: ("01.01.01", clock(t).replace(":", "."), str(t), str(d), x, ""),
        EVENTS,
        ["Sleep stage W", "Sleep stage N1", "Sleep stage N2", "Sleep stage N3", "Sleep stage R"],
        ", ",
    ),
    "MNE": table(
        "onset,duration,description",
        lambda t, d, x: (f"1970-01-01 00:0{t // 60}:{t % 60:02d}.000000", f"{d}.0", x),
        EVENTS,
    ),
    "MNE, seconds": table(
        "onset,duration,description", lambda t, d, x: (f"{t}.0", f"{d}.0", x), EVENTS
    ),
    "Snooz": table(
        "group\tname\tstart_sec\tduration_sec\tchannels",
        lambda t, d, x: ("stage", x, str(t), str(d), "[]"),
        EVENTS,
        mark="\t",
    ),
    "BIDS": table(
        "onset\tduration\ttrial_type", lambda t, d, x: (str(t), str(d), x), EVENTS, mark="\t"
    ),
    "BIDS, capitals": table(
        "Onset\tDuration\tTrial_type", lambda t, d, x: (str(t), str(d), x), EVENTS, mark="\t"
    ),
    "ends": table("start;end;event", lambda t, d, x: (str(t), str(t + d), x), EVENTS, mark=";"),
    "ends by the clock": table(
        "Start;End;Event", lambda t, d, x: (clock(t), clock(t + d), x), EVENTS, mark=";"
    ),
    "milliseconds": table(
        "onset_ms,duration_ms,label", lambda t, d, x: (f"{t}000", f"{d}000", x), EVENTS
    ),
    "milliseconds, ends": table(
        "start [ms],end [ms],label", lambda t, d, x: (f"{t}000", f"{t + d}000", x), EVENTS
    ),
    "German": table(
        "Beginn;Dauer (s);Ereignis",
        lambda t, d, x: (clock(t), f"{d},0", x),
        EVENTS,
        ["Wach", "N1", "N2", "N3", "REM"],
        ";",
    ),
    "French": table(
        "Début;Durée [s];Événement", lambda t, d, x: (str(t), f"{d},00", x), EVENTS, mark=";"
    ),
    "Spanish": table(
        "Inicio\tDuración\tEvento", lambda t, d, x: (str(t), str(d), x), EVENTS, mark="\t"
    ),
    "Italian": table("Inizio;Durata;Evento", lambda t, d, x: (str(t), str(d), x), EVENTS, mark=";"),
    "elapsed": table(
        "Time,Duration,Type",
        lambda t, d, x: (f"00:0{t // 60}:{t % 60:02d}", f"00:00:{d}".replace(":8", ":08"), x),
        EVENTS,
    ),
    "a title above": "Scoring of a night\nExport 1.2\n\n"
    + table("Onset,Length,Comment", lambda t, d, x: (str(t), str(d), x), EVENTS),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("kind", TABLES)
def test_tables_with_a_heading(read, kind, encoding):
    text = TABLES[kind].replace("\n", "\r\n" if encoding != "utf-8" else "\n")
    found = read(text.encode(encoding))
    assert found.stages.tolist() == STAGES
    spans = [(event.kind, event.onset_s, event.duration_s) for event in found.events]
    assert spans == [("hypopnea", 65.0, 12.0), ("arousal", 160.0, 8.0)]
    assert found.events_scored


def test_codes_in_a_table_need_a_code_book(read):
    text = table("start,duration,stage", lambda t, d, x: (str(t), str(d), x), words=list("01234"))
    with pytest.raises(ScoringError, match="name the code book"):
        read(text)
    assert read(text, code_book="aasm5").stages.tolist() == STAGES
    mixed = text + "65,12,Hypopnea\n"
    assert read(mixed, code_book="aasm5").stages.tolist() == STAGES
    assert read(mixed, code_book="aasm5").events[0].onset_s == 65
    with pytest.raises(ScoringError, match="name the code book"):
        read(mixed)


def domino(words=WORDS, rate="30 s", date="", start="05.03.2021 22:00:00", stages=STAGES, step=30):
    lines = ["Signal ID: SchlafProfil\\profil", f"Start Time: {start}", "Unit: "]
    lines += ["Signal Type: Discret", f"Events list: {','.join(words)}", f"Rate: {rate}", ""]
    lines += [f"{date}{clock(step * e)},000; {words[stage]}" for e, stage in enumerate(stages)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        domino(),
        domino(["Wach", "N1", "N2", "N3", "Rem"]),
        domino(["Wake", "S1", "S2", "S3", "REM"]),
        domino(date="05.03.2021 "),
        domino(start="3/5/2021 10:00:00 PM"),
        domino(start="17/11/2010 22:00:00"),
        domino().replace(",000;", ";"),
        domino().replace("; ", ";"),
        domino().replace("\n", "\r\n"),
        domino(rate="30000 ms"),
    ],
)
def test_domino_profiles(read, text):
    for content in (text, text.encode("utf-16"), b"\xef\xbb\xbf" + text.encode()):
        found = read(content, "night.txt")
        assert found.source == "domino_text"
        assert found.stages.tolist() == STAGES


def test_domino_epochs_of_another_length_and_artefacts(read):
    text = domino(rate="20 s", step=20, stages=[0, 0, 0, 2, 2, 2])
    assert read(text, "night.txt").stages.tolist() == [0, 0, 2, 2]
    text = domino().replace("; N3", "; A")
    assert (read(text, "night.txt").stages[6:8] == -1).all()
    with pytest.raises(ScoringError, match="without stages"):
        read(domino().replace("Discret", "Analog"), "night.txt")
    with pytest.raises(ScoringError, match="row 9"):
        read(domino().replace("22:01:00,000; N1", "nothing"), "night.txt")


def test_domino_events(read):
    text = (
        "Signal ID: FlowD\\flow\nStart Time: 05.03.2021 22:00:06\nUnit: s\nSignal Type: Impuls\n\n"
        "22:00:31,500-22:00:43,700; 12;Hypopnea\n23:59:55,000-00:00:10,500; 15;Obstructive Apnea\n"
        "00:01:00,000-00:01:15,000; 15;Central Apnea\n"
    )
    found = read(text, "Flow.txt", night(9000.0))
    assert [(x.kind, x.onset_s, round(x.duration_s, 1)) for x in found.events] == [
        ("hypopnea", 31.5, 12.2),
        ("apnea_obstructive", 7195.0, 15.5),
        ("apnea_central", 7260.0, 15.0),
    ]


RML = """<?xml version="1.0" encoding="utf-8"?>
<PatientStudy xmlns="http://www.respironics.com/PatientStudy.xsd"><Acquisition><Sessions><Session>
<RecordingStart>2015-03-02T22:00:00</RecordingStart><Duration>{duration}</Duration></Session>
</Sessions></Acquisition><BodyPositionState><BodyPositionItem Position="Supine" Start="0"/>
<BodyPositionItem Position="Left" Start="100"/></BodyPositionState><ScoringData><Events>
<Event Family="User" Type="Gain" Start="0" Duration="0"/>
<Event Family="Respiratory" Type="ObstructiveApnea" Start="40.5" Duration="13.5"><Input>F</Input>
</Event><Event Family="SpO2" Type="RelativeDesaturation" Start="60" Duration="20"/></Events>
<StagingData>{user}<MachineStaging><NeuroAdultAASMStaging><Stage Type="Wake" Start="0"/>
</NeuroAdultAASMStaging></MachineStaging></StagingData></ScoringData></PatientStudy>"""
USER = """<UserStaging><NeuroAdultAASMStaging><Stage Type="Wake" Start="0"/>
<Stage Type="NonREM1" Start="60"/><Stage Type="NonREM2" Start="120"/>
<Stage Type="NonREM3" Start="180"/><Stage Type="REM" Start="240"/><Stage Type="Wake" Start="300"/>
<Stage Type="NonREM2" Start="330"/><Stage Type="NotScored" Start="360"/></NeuroAdultAASMStaging>
</UserStaging>"""


def test_philips_rml(read):
    found = read(RML.format(user=USER, duration=360), "a.rml")
    assert found.source == "philips_rml"
    assert found.stages.tolist() == STAGES
    assert [(x.kind, x.onset_s, x.duration_s, x.value) for x in found.events] == [
        ("position", 0.0, 100.0, "supine"),
        ("apnea_obstructive", 40.5, 13.5, ""),
        ("desaturation", 60.0, 20.0, ""),
        ("position", 100.0, 260.0, "left"),
    ]
    machine = read(RML.format(user="", duration=360), "a.rml")
    assert machine.stages.tolist() == [0] * 12
    assert "MachineStaging" in machine.notes[0]


def test_philips_rml_of_a_study_in_several_files(read):
    text = RML.format(user=USER, duration=360)
    # The second file of the study begins after two minutes; a blanked start changes nothing.
    assert read(text, "a.rml", night(240.0, START_S + 120)).stages.tolist() == STAGES[4:]
    assert read(text, "a.rml", night(360.0, 0.0)).stages.tolist() == STAGES
    with pytest.raises(ScoringError, match="another"):
        read(text, "a.rml", night(60.0, START_S + 7200))


@pytest.mark.parametrize(
    "text",
    [
        RML.format(user=USER.replace('Start="60"', 'Start="x"'), duration=360),
        RML.format(user=USER.replace('Start="60"', 'Start="inf"'), duration=360),
        "<PatientStudy><ScoringData/></PatientStudy>",
    ],
)
def test_damaged_philips_rml_is_refused(read, text):
    with pytest.raises(ScoringError, match=r"a\.rml"):
        read(text, "a.rml")


XML = """<?xml version="1.0" encoding="{}"?>
<PSGAnnotation><ScoredEvents><ScoredEvent><EventType>Stages|Stages</EventType>
<EventConcept>Éveil</EventConcept><Start>0</Start><Duration>30</Duration></ScoredEvent>
<ScoredEvent><EventType>Respiratory|Respiratory</EventType><EventConcept>Hypopnée</EventConcept>
<Start>5</Start><Duration>10</Duration></ScoredEvent></ScoredEvents></PSGAnnotation>"""


@pytest.mark.parametrize(
    ("declared", "actual", "note"),
    [
        ("UTF-8", "utf-8", None),
        ("utf-8", "utf-8-sig", None),
        ("ISO-8859-1", "latin-1", None),
        ("windows-1252", "cp1252", None),
        ("UTF-16", "utf-16", None),
        ("UTF-8", "cp1252", "declared encoding is UTF-8; it was read as Windows-1252"),
        ("UTF-8", "latin-1", "it was read as Windows-1252"),
        ("UTF-8", "utf-16-le", "it was read as UTF-16"),
        ("UTF-8", "utf-16-be", "it was read as UTF-16"),
        ("UTF-16", "utf-8", "declared encoding is UTF-16; it was read as UTF-8"),
        ("UTF-16", "cp1252", "it was read as Windows-1252"),
        ("ISO-8859-1", "utf-8", "it was read as UTF-8"),
        ("no-such", "utf-8", "it was read as UTF-8"),
        ("ANSI", "cp1252", "it was read as Windows-1252"),
    ],
)
def test_xml_of_whatever_encoding(read, declared, actual, note):
    found = read(XML.format(declared).encode(actual), "a.xml")
    assert found.stages.tolist() == [0]
    assert [event.kind for event in found.events] == ["hypopnea"]
    assert [x for x in found.notes if "encoding" in x] == [x for x in found.notes if note]
    if note:
        assert note in found.notes[0]


def test_xml_that_cannot_be_read_says_where_and_what_its_encoding_seems_to_be(read):
    for declared, end in (("UTF-8", ""), ("UTF-16", "; its declared encoding is UTF-16")):
        broken = XML.format(declared).replace("</EventType>", "", 1).encode()
        with pytest.raises(ScoringError, match=r"not well-formed XML \(line \d+, byte \d+\)" + end):
            read(broken, "a.xml")
    bomb = '<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE a [<!ENTITY z "ha">]><a>&z;</a>'
    with pytest.raises(ScoringError, match="DTD"):
        read(bomb, "a.xml")


def test_blank_lines_and_marks_before_an_xml_declaration(read):
    for lead in (b"\r\n\r\n", codecs.BOM_UTF8 + b"\n", b"  "):
        assert read(lead + XML.format("UTF-8").encode(), "a.xml").stages.tolist() == [0]


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "utf-16"])
@pytest.mark.parametrize("tail", ["\0", "\0" * 100, "\n\0\0\x1a", "\x1a", "\r\n"])
def test_zeros_and_the_end_of_a_file_after_the_last_tag(read, tail, encoding):
    text = XML.format({"cp1252": "windows-1252"}.get(encoding, encoding)) + tail
    assert read(text.encode(encoding), "a.xml").stages.tolist() == [0]


def test_the_same_events_as_another_reader_has_them(read, tmp_path):
    mne = pytest.importorskip("mne")
    onsets, lengths = np.arange(12) * 30.0, np.full(12, 30.0)
    made = mne.Annotations(onsets, lengths, [WORDS[stage] for stage in STAGES])
    made.append(65.0, 12.0, "Hypopnea")
    path = tmp_path / "night.csv"
    made.save(path, overwrite=True)
    found = read(path.read_bytes())
    assert found.stages.tolist() == STAGES
    assert [(x.onset_s, x.duration_s) for x in found.events] == [(65.0, 12.0)]
    mne.Annotations(onsets, lengths, [WORDS[s] for s in STAGES]).save(
        tmp_path / "annot.txt", overwrite=True
    )
    assert read((tmp_path / "annot.txt").read_bytes(), "night.txt").stages.tolist() == STAGES
