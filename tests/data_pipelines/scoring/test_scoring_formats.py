"""Every scoring format, from a file of that format to stages and events."""

import datetime
import types

import numpy as np
import pytest

from data_pipelines import scoring
from data_pipelines.scoring import Event, Scoring, ScoringError, read_scoring


def night(start="22:00:00", duration_s=3600.0, path=None):
    hours, minutes, seconds = map(int, start.split(":"))
    start_s = hours * 3600.0 + minutes * 60 + seconds
    return types.SimpleNamespace(path=path, start_of_day_s=start_s, duration_s=duration_s)


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def spans(found):
    return [(event.kind, event.onset_s, event.duration_s) for event in found.events]


NSRR = """<?xml version="1.0" encoding="ISO-8859-1"?>
<PSGAnnotation><SoftwareVersion>Compumedics</SoftwareVersion><EpochLength>30</EpochLength>
<ScoredEvents>
<ScoredEvent><EventType/><EventConcept>Recording Start Time</EventConcept><Start>0</Start>
 <Duration>{duration}</Duration><ClockTime>00.00.00 {clock}</ClockTime></ScoredEvent>
<ScoredEvent><EventType>Respiratory|Respiratory</EventType>
 <EventConcept>Obstructive apnea|Obstructive Apnea</EventConcept><Start>100.5</Start>
 <Duration>20.1</Duration><SignalLocation>AIRFLOW</SignalLocation></ScoredEvent>
<ScoredEvent><Duration>12</Duration><Start>130</Start><EventConcept>Unsure|Unsure</EventConcept>
 <EventType>Respiratory|Respiratory</EventType></ScoredEvent>
<ScoredEvent><EventType>Respiratory|Respiratory</EventType>
 <EventConcept>SpO2 desaturation|SpO2 desaturation</EventConcept><Start>140</Start>
 <Duration>9</Duration><SpO2Nadir>88</SpO2Nadir></ScoredEvent>
<ScoredEvent><EventType>Arousals|Arousals</EventType>
 <EventConcept>ASDA arousal|Arousal (ADSA)</EventConcept><Start>150</Start><Duration>3</Duration>
</ScoredEvent>
<ScoredEvent><EventType>Arousals|Arousals</EventType>
 <EventConcept>Arousal resulting from respiratory effort|Arousal (RESP ARO)</EventConcept>
 <Start>160</Start><Duration>3</Duration></ScoredEvent>
<ScoredEvent><EventType>Respiratory|Respiratory</EventType>
 <EventConcept>SpO2 artifact|SpO2 artifact</EventConcept><Start>170</Start><Duration>3</Duration>
</ScoredEvent>
<ScoredEvent><EventType>Stages|Stages</EventType><EventConcept>Wake|0</EventConcept>
 <Start>0</Start><Duration>60</Duration></ScoredEvent>
<ScoredEvent><EventType>Stages|Stages</EventType><EventConcept>Stage 4 sleep|4</EventConcept>
 <Start>60.0</Start><Duration>60.0</Duration></ScoredEvent>
<ScoredEvent><EventType>Stages|Stages</EventType><EventConcept>REM sleep|5</EventConcept>
 <Start>120</Start><Duration>30</Duration></ScoredEvent>
<ScoredEvent><EventType>Stages|Stages</EventType><EventConcept>Unscored|9</EventConcept>
 <Start>150</Start><Duration>30</Duration></ScoredEvent>
</ScoredEvents></PSGAnnotation>"""


def test_nsrr_xml(write):
    text = NSRR.format(duration="3600.0", clock="22.00.00")
    found = read_scoring(write("a-nsrr.xml", text), recording=night())
    assert found.source == "nsrr_xml"
    assert found.stages.tolist() == [0, 0, 3, 3, 4, -1]
    assert found.stages.dtype == np.int8
    assert spans(found) == [
        ("apnea_obstructive", 100.5, 20.1),
        ("hypopnea", 130.0, 12.0),
        ("desaturation", 140.0, 9.0),
        ("arousal", 150.0, 3.0),
        ("arousal", 160.0, 3.0),
    ]
    assert found.events[-1].value == "respiratory"
    assert found.notes == ("1 annotations that are neither a stage nor an event left out",)


def test_nsrr_xml_of_another_recording_is_refused(write):
    path = write("a-nsrr.xml", NSRR.format(duration="30000", clock="01.10.00"))
    with pytest.raises(ScoringError, match="belongs to another recording"):
        read_scoring(path, recording=night())
    # A cut file keeps its start, an anonymised one its length: neither is another recording.
    read_scoring(path, recording=night("01:10:00"))
    read_scoring(path, recording=night(duration_s=30000.0))


def test_the_older_xml_dialect(write):
    text = """<?xml version="1.0" encoding="ISO-8859-1"?><PSGAnnotation><ScoredEvents>
    <ScoredEvent><EventConcept>SDO:WakeState</EventConcept><Duration>90</Duration><Start>0</Start>
    <Notes>é</Notes></ScoredEvent>
    <ScoredEvent><EventConcept>SDO:NonRapidEyeMovementSleep-N2</EventConcept><Duration>60</Duration>
    <Start>90</Start></ScoredEvent>
    <ScoredEvent><EventConcept>SDO:RapidEyeMovementSleep</EventConcept><Duration>30</Duration>
    <Start>150</Start></ScoredEvent>
    <ScoredEvent><EventConcept>SDO:HemoglobinOxygenDesaturationFinding</EventConcept>
    <Duration>30</Duration><Start>91</Start></ScoredEvent>
    <ScoredEvent><EventConcept>Oximetry Artifact Event</EventConcept><Duration>30</Duration>
    <Start>91</Start></ScoredEvent>
    </ScoredEvents></PSGAnnotation>""".encode("latin-1")
    found = read_scoring(write("a.xml", text))
    assert found.stages.tolist() == [0, 0, 0, 2, 2, 4]
    assert spans(found) == [("desaturation", 91.0, 30.0)]


def test_profusion_xml(write):
    codes = ["0", "1", "2", "3", "4", "5", "6", "9", "10"]
    stages = "".join(f"<SleepStage>{code}</SleepStage>" for code in codes)
    text = f"""<CMPStudyConfig><EpochLength>30</EpochLength><ScoredEvents>
    <ScoredEvent><Name>Central Apnea</Name><Start>31.5</Start><Duration>11</Duration>
    <Input>ABDO</Input></ScoredEvent>
    <ScoredEvent><Name>Limb Movement (Left)</Name><Start>3</Start><Duration>1</Duration>
    </ScoredEvent></ScoredEvents><SleepStages>{stages}</SleepStages></CMPStudyConfig>"""
    found = read_scoring(write("a-profusion.xml", text))
    assert found.source == "profusion_xml"
    assert found.stages.tolist() == [0, 1, 2, 3, 3, 4, -1, -1, -1]
    assert spans(found) == [("leg_movement", 3.0, 1.0), ("apnea_central", 31.5, 11.0)]


BOMB = """<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "ha">%s]><PSGAnnotation><ScoredEvents>
<ScoredEvent><EventConcept>&z;</EventConcept></ScoredEvent></ScoredEvents></PSGAnnotation>"""


@pytest.mark.parametrize(
    "text",
    [
        BOMB
        % "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghy", "bcdefghiz")),
        BOMB % '<!ENTITY z SYSTEM "file:///etc/passwd">',
        "<PSGAnnotation><ScoredEvents>",
        "<html><body/></html>",
        "<PSGAnnotation/>",
        '<?xml version="1.0" encoding="no-such"?><PSGAnnotation/>',
    ],
)
def test_hostile_or_foreign_xml_is_refused(write, text):
    with pytest.raises(ScoringError, match=r"a\.xml"):
        read_scoring(write("a.xml", text))


def test_bids_events(write):
    text = (
        "onset\tduration\tbegsample\tendsample\toffset\tstage_hum\tstage_ai\r\n"
        "0\t30\t1\t7680\t0\t0\t-2\r\n30\t30\t1\t7680\t0\t4\t0\r\n60\t30\t1\t1\t0\t8\t0\r\n"
    )
    assert read_scoring(write("a_events.tsv", text)).stages.tolist() == [0, 4, -1]
    with pytest.raises(ScoringError, match="line 2 has a stage code"):
        read_scoring(write("a_events.tsv", text.replace("\t0\t-2", "\t5\t-2")))
    words = "onset\tduration\ttrial_type\n0\t60\tSleep stage N2\n10\t3\tarousal\n60\t30\tbeep\n"
    found = read_scoring(write("b_events.tsv", words))
    assert found.stages.tolist() == [2, 2]
    assert spans(found) == [("arousal", 10.0, 3.0)]
    numbers = "onset\tduration\tstage\n0\t30\t1\n"
    with pytest.raises(ScoringError, match="name the code book"):
        read_scoring(write("c_events.tsv", numbers))
    assert read_scoring(write("c_events.tsv", numbers), code_book="ucddb").stages.tolist() == [4]


NOXTURNAL = (
    "Heure de début,Heure de fin,Événement,Durée,\r\n[],[],[],[s],\r\n"
    "31/12/2015 23:59:00,31/12/2015 23:59:30,Éveil,30,\r\n"
    "31/12/2015 23:59:30,01/01/2016 00:00:00,N1,30,\r\n"
    "31/12/2015 23:59:41,31/12/2015 23:59:53,A. Centrale,12.25,\r\n"
    "01/01/2016 00:00:00,01/01/2016 00:00:30,REM,30,\r\n"
    "01/01/2016 00:00:05,01/01/2016 00:00:05,Début de l'analyse,0,\r\n"
    "01/01/2016 00:00:10,01/01/2016 00:00:40,PLM,30,\r\n"
    "01/01/2016 00:00:10,01/01/2016 00:00:12,MJ,2.5,\r\n"
    "01/01/2016 00:00:20,01/01/2016 00:10:20,Gauche,600,\r\n"
)


def test_noxturnal_export_crosses_midnight(write):
    path = write("a.csv", NOXTURNAL.encode("utf-16"))
    found = read_scoring(path, recording=night("23:58:00"))
    assert found.stages.tolist() == [-1, -1, 0, 1, 4]
    assert spans(found) == [
        ("apnea_central", 101.0, 12.25),
        ("leg_movement", 130.0, 2.5),
        ("position", 140.0, 600.0),
    ]
    assert found.events[-1].value == "left"
    # A recording that starts after the first rows, and one within an epoch.
    assert read_scoring(path, recording=night("00:00:00")).stages.tolist() == [4]
    assert read_scoring(path, recording=night("23:58:50")).stages.tolist() == [0, 1, 4, -1]


def test_an_english_export_with_american_dates(write):
    text = (
        "Start Time;End Time;Event;Duration\n"
        "3/4/2020 11:59:30 PM;3/5/2020 12:00:00 AM;Wake;30\n"
        "3/5/2020 12:00:00 AM;3/5/2020 12:00:30 AM;N2;30\n"
        "3/5/2020 12:00:01 AM;3/5/2020 12:00:04 AM;Desaturation;3,5\n"
    )
    found = read_scoring(write("a.csv", text), recording=night("23:59:30"))
    assert found.stages.tolist() == [0, 2]
    assert spans(found) == [("desaturation", 31.0, 3.5)]


def test_wall_clock_times_need_the_start_of_the_recording(write):
    path = write("a.csv", NOXTURNAL.encode("utf-16"))
    nobody = types.SimpleNamespace(path=None, start_of_day_s=None, duration_s=3600.0)
    for recording in (None, nobody):
        with pytest.raises(ScoringError, match="start time of day"):
            read_scoring(path, recording=recording)
    with pytest.raises(ScoringError, match="belongs to another recording"):
        read_scoring(path, recording=night("20:00:00"))


def test_remlogic_text(write):
    text = (
        "RemLogic Event Export\nPatient:\tSomebody\n\n"
        "Sleep Stage\tPosition\tTime [hh:mm:ss]\tEvent\tDuration[s]\tLocation\n"
        "S0\tSupine\t23:59:30\tSLEEP-S0\t30\tC4-A1\n"
        "S0\tSupine\t23:59:50\tAPNEA-MIXED\t15\tFlow\n"
        "S0\tSupine\t23:59:58\tLIGHTS-OFF\t0\t\n"
        "S4\tSupine\t00:00:00\tSLEEP-S4\t30\tC4-A1\n"
        "S4\tSupine\t00.00.02\tMCAP-A1\t4\tC4-A1\n"
        "S4\tSupine\t00:00:04\tAROUSAL-PLM\t3\tC4-A1\n"
    )
    found = read_scoring(write("a.txt", text), recording=night("23:59:30"))
    assert found.source == "remlogic_text"
    assert found.stages.tolist() == [0, 3]
    assert [event.kind for event in found.events] == ["apnea_mixed", "lights_off", "arousal"]
    assert found.events[-1] == Event("arousal", 34.0, 3.0, "leg_movement")


def test_luna_annotations(write):
    text = (
        "# N2 | a stage\nclass\tinstance\tchannel\tstart\tstop\tmeta\n"
        "W\t.\t.\t0\t30\t.\nN2\t.\t.\te:2\te:2\t.\nR\t.\t.\t0+00:01:00\t...\t.\n"
        "M\t.\t.\t90\t+30\t.\napnea:obstructive\t.\t.\t40.5\t55.5\t.\n"
        "apnea\tcentral\t.\t70\t+12\t.\nmy words\tx\t.\t80\t81\tname=x\n"
    )
    found = read_scoring(write("a.annot", text))
    assert found.stages.tolist() == [0, 2, 4, -1]
    assert spans(found) == [("apnea_obstructive", 40.5, 15.0), ("apnea_central", 70.0, 12.0)]
    clock = "N1\t.\t.\t23:59:45\t00:00:15\t.\nhypopnea\t.\t.\t00:00:20\t00:00:31.5\t.\n"
    found = read_scoring(write("b.annot", clock), recording=night("23:59:45"))
    assert found.stages.tolist() == [1]
    assert spans(found) == [("hypopnea", 35.0, 11.5)]


def test_luna_eannot(write):
    path = write("a.eannot", "W\nN1\nNREM2\nSN3\nR\n?\nL\n")
    assert read_scoring(path).stages.tolist() == [0, 1, 2, 3, 4, -1, -1]
    with pytest.raises(ScoringError, match="line 2"):
        read_scoring(write("a.eannot", "W\nwords\n"))
    with pytest.raises(ScoringError, match="name the code book"):
        read_scoring(write("a.eannot", "0\n1\n"))


@pytest.mark.parametrize(
    ("book", "stages"),
    [
        ("aasm5", [0, 1, 2, 3, 4]),
        ("dod", [0, 1, 2, 3, 4]),
        ("yasa", [0, 1, 2, 3, 4]),
        ("boas", [0, 1, 2, 3, 4]),
        ("rk5", [0, 1, 2, 3, 3]),
        ("walch", [0, 1, 2, 3, 3]),
        ("ucddb", [0, 4, 1, 2, 3]),
        ("dynamo", [-1, 3, 2, 1, 4]),
    ],
)
def test_bare_numbers_mean_what_their_code_book_says(write, book, stages):
    path = write("a.txt", "0\n1\n2\n3\n4\n")
    assert read_scoring(path, code_book=book).stages.tolist() == stages
    for wrong in (None, "", "aasm", "aasm5@0", "aasm5@x"):
        with pytest.raises(ScoringError, match="name the code book.*ucddb"):
            read_scoring(path, code_book=wrong)


def test_entries_outside_the_code_book_are_refused(write):
    with pytest.raises(ScoringError, match="line 3 is not in its code book"):
        read_scoring(write("a.txt", "0\n1\n7\n"), code_book="aasm5")
    with pytest.raises(ScoringError, match="entry 1"):
        read_scoring(write("a.json", "[0, 5]"), code_book="dod")
    with pytest.raises(ScoringError, match="list of stage codes"):
        read_scoring(write("a.json", '{"a": [0, NaN, true]}'), code_book="dod")


def test_steps_of_other_lengths_go_to_the_30_s_grid_by_majority(write):
    # 5-s steps: 4 of 6 N2; three each, the first wins; the last epoch is half there, then not.
    steps = [2, 2, 2, 2, 3, 3] + [4, 4, 4, 5, 5, 5] + [1, 1, 1]
    text = "[HypnogramAASM]\n" + "\n".join(map(str, steps))
    assert read_scoring(write("a.txt", text), code_book="dreams").stages.tolist() == [2, 4, 3]
    text = "[HypnogramAASM]\n" + "\n".join(map(str, steps[:-1]))
    assert read_scoring(write("a.txt", text), code_book="dreams").stages.tolist() == [2, 4, -1]
    # 20-s epochs of R&K, and 1-s ones.
    path = write("b.txt", "2\n2\n5\n")
    assert read_scoring(path, code_book="rk5@20").stages.tolist() == [2, 4]
    path = write("b.txt", "\n".join("0" * 44 + "1" * 16))
    assert read_scoring(path, code_book="aasm5@1").stages.tolist() == [0, 1]


def test_run_length_lists(write):
    path = write("a.csv", "Time,Stage\n-60,5\n0,4\n45.01,2\n")
    assert read_scoring(path, code_book="dynamo").stages.tolist() == [4, 4, 2][:2] + [2]


def test_consensus_by_votes_then_by_soft_agreement():
    scorers = [
        [0, 1, 2, 2, 2, 1, 0],
        [0, 1, 2, 2, 2, 1, 0],
        [0, 1, 2, 3, 3, 2, 1],
        [0, 4, 2, 3, 3, 2, 0],
        [0, 4, 1, -1, 4, -1, 0],
    ]
    # By hand: scorers 0 and 1 reach 5.5 of 7, the third 4.5, the fourth 4.83: so the first two
    # decide the ties of epochs 3, 4 and 5.
    assert scoring.consensus(scorers).tolist() == [0, 1, 2, 2, 2, 1, 0]
    # The tie goes to the better scorers wherever they are listed.
    assert scoring.consensus(scorers[::-1]).tolist() == [0, 1, 2, 2, 2, 1, 0]
    assert scoring.consensus([[0, -1], [-1, -1], [0, 1]]).tolist() == [0, -1]
    with pytest.raises(ScoringError, match="different|epochs"):
        scoring.consensus([[0], [0, 1]])


def test_edf_annotations_round_trip(tmp_path):
    stages = np.array([-1, 0, 0, 1, 2, 3, 4, 4], np.int8)
    events = [
        Event(kind, 10.0 + 7.125 * number, 3.5, "left" if kind == "position" else "")
        for number, kind in enumerate(scoring.EVENT_KINDS)
    ]
    path = tmp_path / "a-Hypnogram.edf"
    start = datetime.datetime(2001, 2, 3, 22, 0, 0)
    scoring.write_edf_annotations(path, Scoring(stages, events, "made"), start=start)
    found = read_scoring(path, recording=night())
    assert found.stages.tolist() == stages.tolist()
    assert found.events == events
    with pytest.raises(ScoringError, match="belongs to another recording"):
        read_scoring(path, recording=night("01:00:00"))
    # The hypnogram starts ten minutes into the recording.
    assert read_scoring(path, recording=night("21:50:00")).stages[20:].tolist() == stages.tolist()


def test_many_annotations_fill_many_records(tmp_path):
    events = [Event("arousal", 10.0 * number, 3.0) for number in range(2000)]
    path = tmp_path / "a-Hypnogram.edf"
    made = Scoring(np.zeros(700, np.int8), events, "made")
    scoring.write_edf_annotations(path, made, start=datetime.datetime(2001, 1, 1))
    found = read_scoring(path)
    assert found.events == events
    assert len(found.stages) == 700


@pytest.mark.parametrize(
    ("onset", "duration", "message"),
    [
        ("nan", "30", "not a number of seconds"),
        ("inf", "30", "not a number of seconds"),
        ("0", "-30", "negative"),
        ("0", "1e9", "more than 14 days"),
        ("1e12", "30", "more than 14 days"),
        ("zero", "30", "no number as onset"),
    ],
)
def test_impossible_times_are_refused_by_file_and_value(write, onset, duration, message):
    text = f"onset\tduration\tstage_hum\n{onset}\t{duration}\t0\n"
    with pytest.raises(ScoringError, match=rf"night_events\.tsv.*{message}"):
        read_scoring(write("night_events.tsv", text))


def test_a_scoring_is_brought_to_the_length_of_its_recording():
    events = [Event("arousal", 80.0, 20.0), Event("arousal", 130.0, 5.0)]
    made = Scoring(np.array([0, 1, 2, 3, 4], np.int8), events, "made")
    cut, notes = scoring.align(made, 90.0)
    assert cut.stages.tolist() == [0, 1, 2]
    assert cut.events == [Event("arousal", 80.0, 10.0)]
    assert "60 s longer" in notes[0]
    assert "1 events past" in notes[1]
    longer, notes = scoring.align(made, 200.0)
    assert longer.stages.tolist() == [0, 1, 2, 3, 4, -1, -1]
    assert "60 s shorter" in notes[0]
    assert scoring.align(made, 150.0) == (made, [])
    assert [finding.note for finding in longer.findings] == notes
    late = Scoring(np.array([-1] * 10 + [0], np.int8), [], "made")
    with pytest.raises(ScoringError, match="belongs to another recording"):
        scoring.align(late, 100.0)


def test_files_that_are_no_scoring_are_refused(write, tmp_path):
    with pytest.raises(ScoringError, match="is a folder"):
        read_scoring(tmp_path)
    with pytest.raises(ScoringError, match="is not there"):
        read_scoring(tmp_path / "none.xml")
    for content in (b"", b"\0" * 100, b"hello", b"0       " + b"x" * 300):
        with pytest.raises(ScoringError, match=r"a\.txt"):
            read_scoring(write("a.txt", content))
    closed = write("b.txt", "0\n")
    closed.chmod(0)
    try:
        closed.read_bytes()
    except PermissionError:
        with pytest.raises(ScoringError, match="cannot be read"):
            read_scoring(closed, code_book="aasm5")


@pytest.mark.parametrize(
    ("recording", "beside"),
    [
        ("a.edf", "a-nsrr.xml"),
        ("a.edf", "a.xml"),
        ("a.edf", "a-profusion.xml"),
        ("a.edf", "a.annot"),
        ("a.edf", "a.eannot"),
        ("a.edf", "a_hypnogram.edf"),
        ("a.edf", "a-Hypnogram.edf"),
        ("SN001.edf", "SN001_sleepscoring.edf"),
        ("SC4001E0-PSG.edf", "SC4001EC-Hypnogram.edf"),
        ("ST7132J0-PSG.edf", "ST7132JR-Hypnogram.edf"),
        ("SC4001E0-PSG.edf", "SC4001E0-PSG.edf.hyp"),
        ("slp14.hea", "slp14.st"),
        ("sub-1_task-Sleep_acq-psg_eeg.edf", "sub-1_task-Sleep_acq-psg_events.tsv"),
    ],
)
def test_the_scoring_beside_a_recording_is_found(tmp_path, recording, beside):
    for name in (recording, beside, "SC4002EC-Hypnogram.edf", "b.xml"):
        (tmp_path / name).write_bytes(b"")
    assert scoring.find_scoring(tmp_path / recording) == tmp_path / beside


def test_nsrr_keeps_its_scoring_in_another_folder(tmp_path):
    for folder, name in (
        ("edfs/shhs1", "shhs1-1.edf"),
        ("annotations-events-nsrr/shhs1", "shhs1-1-nsrr.xml"),
        ("annotations-events-profusion/shhs1", "shhs1-1-profusion.xml"),
    ):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / name).write_bytes(b"")
    found = scoring.find_scoring(tmp_path / "edfs/shhs1/shhs1-1.edf")
    assert found == tmp_path / "annotations-events-nsrr/shhs1/shhs1-1-nsrr.xml"


def test_lists_are_found_only_with_a_code_book(write):
    recording = write("a.edf", b"")
    plain = write("a.txt", "0\n1\n")
    assert scoring.find_scoring(recording) is None
    assert scoring.find_scoring(recording, code_book="aasm5") == plain
    plain.unlink()
    export = write("a.csv", NOXTURNAL.encode("utf-16"))
    assert scoring.find_scoring(recording) == export


def test_annotations_within_the_recording_are_found(tmp_path):
    path = tmp_path / "a.edf"
    made = Scoring(np.zeros(4, np.int8), [], "made")
    scoring.write_edf_annotations(path, made, start=datetime.datetime(2001, 1, 1))
    assert scoring.find_scoring(path) == path
