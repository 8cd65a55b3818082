"""Whatever bytes a scoring file holds: a scoring within its bounds, or the typed error."""

import contextlib
import datetime
import types

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipelines import scoring
from data_pipelines.scoring import ScoringError, read_scoring
from data_pipelines.scoring.record import EPOCH_S, MAX_TIME_S, epochs_from_runs

NIGHT = types.SimpleNamespace(path=None, start_of_day_s=80000.0, duration_s=30000.0)

FRAGMENTS = {
    "a.xml": "<PSGAnnotation> </PSGAnnotation> <CMPStudyConfig> </CMPStudyConfig> <ScoredEvents>"
    " </ScoredEvents> <ScoredEvent> </ScoredEvent> <EventConcept>Wake|0</EventConcept>"
    " <EventType>Stages|Stages</EventType> <Start>0</Start> <Start>nan</Start> <Duration>30"
    " </Duration> <SleepStage>2</SleepStage> <EpochLength>-1</EpochLength> &a; <!DOCTYPE a> 1e9"
    " <Name>Hypopnea</Name> <ClockTime>22.00.00</ClockTime> <?xml?> <!-- x -->",
    "a_events.tsv": "onset\t duration\t stage_hum\t stage_ai\n 0\t 30\t 4\n 8\n nan\t -1\t 1e300\t"
    " n/a trial_type \r\n N2",
    "a.csv": "31/12/2015 23:59:00 , ; 01/01/2016 00:00:30 99/99/9999 22:10:10 Éveil N2 \n MJ 30"
    ' -5 1e40 Time,Stage [] "',
    "a.txt": "Time\t Event\t Duration[s]\t \n SLEEP-S2\t 22:22:22\t 30 AROUSAL inf 0 5 R . , # [",
    "a.annot": "N2 W \t . \t 0 30 ... +30 e:2 0+00:01:00 23:00:00 01-01-2016-23:00:00 \n class"
    " nan -1e9 apnea obstructive + : e:",
    "a.eannot": "N1 R ? \n 5 nan W w",
    "a.rml": "<PatientStudy> </PatientStudy> <Session> </Session> <Duration>360</Duration> <Event"
    ' Type="Hypopnea" Start="5" Duration="9" Start="nan" /> <Stage Type="Wake" Type="NonREM2" >'
    " <UserStaging> </UserStaging> <NeuroAdultAASMStaging> </NeuroAdultAASMStaging> </Stage>"
    " <RecordingStart>2015-03-02T22:00:00</RecordingStart> <BodyPositionItem -1e9",
    "domino.txt": "Signal_ID: Signal_Type:_Impuls Rate:_30_s Rate:_0_s \n 22:00:00,000; _N2 Wake"
    " 22:00:01,000-22:00:09,000;_8;Hypopnea 99:99:99,000;_A - ; 01.01.2020 AM",
    "table.csv": "Start_Time Duration_(seconds) Event Onset_(ms) End Stage , \n 22:00:00 0 30 30000"
    " 00:00:00 N2 4 Hypopnea n/a -1 nan 1e300 1970-01-01_00:00:30 25:61:00",
    "list.csv": "Epoch Time_(s) sample Stage , ; \n 0 1 2 30 60 30000 7680 7.5 22:00:00 00:00:30 N2"
    " R -1 nan 1e12 Foo",
    "respevt.txt": "Respiratory_Event_List \n 22:00:00_ HYP-C_ 16_ APNEA-O PB_EVENT 99:00:00 +",
    "a.json": '[ ] , 0 4 -1 9 nan NaN { } "W" : 1e400 null true',
}


def read(path, **kwargs):
    with contextlib.suppress(ScoringError):
        found = read_scoring(path, **kwargs)
        assert found.stages.dtype == np.int8
        assert ((found.stages >= -1) & (found.stages <= 4)).all()
        assert len(found.stages) <= 2 * MAX_TIME_S / EPOCH_S + 1
        for event in found.events:
            assert event.kind in scoring.EVENT_KINDS
            assert np.isfinite(event.onset_s)
            assert 0 <= event.duration_s < np.inf
        scoring.align(found, 30000.0)


fuzz = settings(
    max_examples=120,
    deadline=2000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("name", FRAGMENTS)
@fuzz
@given(data=st.data())
def test_text_formats(tmp_path, name, data):
    pieces = FRAGMENTS[name].replace("\\n", "\n").split(" ")
    if "_" in FRAGMENTS[name] and name not in ("a.xml", "a_events.tsv"):
        pieces = [piece.replace("_", " ") for piece in pieces]
    parts = st.lists(st.sampled_from([*pieces, " "]) | st.text(max_size=3), max_size=40)
    text = "".join(data.draw(parts))
    path = tmp_path / name
    path.write_bytes(text.encode(data.draw(st.sampled_from(["utf-8", "utf-16"])), "surrogatepass"))
    for code_book in (None, "rk5", "dreams"):
        read(path, recording=NIGHT, code_book=code_book)


@fuzz
@given(data=st.data())
def test_whatever_lies_beside_a_recording(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("night")
    (folder / "night.edf").write_bytes(b"")
    ends = [".txt", ".csv", "_hypnogram.tsv", "_stages.json", ".xml", ".rml", "_1.txt", "_2.txt"]
    ends += ["_events.csv", "_hypnogram.edf", ".annot", ".mat", ".xlsx", " Sleep profile.txt"]
    texts = st.sampled_from(["0\n1\n2\n", "W\nN2\nR\n", "Epoch,Stage\n0,W\n1,R\n", "[1, 2]", "{}"])
    for end in data.draw(st.lists(st.sampled_from(ends), unique=True, max_size=4)):
        content = data.draw(texts | st.binary(max_size=40))
        content = content if isinstance(content, bytes) else content.encode()
        (folder / f"night{end}").write_bytes(content)
    with contextlib.suppress(ScoringError):
        for code_book in (None, "aasm5"):
            found, findings = scoring.read_beside(
                folder / "night.edf", recording=NIGHT, code_book=code_book
            )
            assert (found is None) == (findings[:1] != [])


@pytest.mark.parametrize("name", ["a.st", "a.hyp", "a.edf", "a.xml", "a.csv", "a.json", "a.annot"])
@fuzz
@given(data=st.binary(max_size=300))
def test_any_bytes(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    path.with_suffix(".hea").write_text("a 4 250 1800000\n")
    read(path, recording=NIGHT, code_book="aasm5")


@fuzz
@given(data=st.data())
def test_damaged_edf_annotations(tmp_path, data):
    path = tmp_path / "a.edf"
    events = [scoring.Event("arousal", 100.0, 3.0)]
    made = scoring.Scoring(np.array([0, 1, 2, 3, 4], np.int8), events, "made")
    scoring.write_edf_annotations(path, made, start=datetime.datetime(2001, 1, 1))
    content = bytearray(path.read_bytes())
    places = st.integers(0, 800) | st.sampled_from([168, 236, 244, 252, 472])
    for place in data.draw(st.lists(places, max_size=4)):
        new = data.draw(st.binary(min_size=1, max_size=8) | st.sampled_from([b"-1", b"99999999"]))
        content[place : place + len(new)] = new
    path.write_bytes(bytes(content[: data.draw(st.integers(200, len(content)))]))
    read(path, recording=NIGHT)


@fuzz
@given(
    st.lists(
        st.tuples(
            st.integers(-100, 900) | st.floats(-100, 900),
            st.integers(0, 300) | st.floats(0, 300),
            st.integers(-1, 4),
        ),
        max_size=8,
    )
)
def test_the_grid_gives_an_epoch_the_stage_that_holds_most_of_it(runs):
    stages = epochs_from_runs(runs)
    end = max((onset + length for onset, length, _ in runs if length > 1e-3), default=0)
    assert len(stages) * EPOCH_S >= end - 1e-6
    for epoch, stage in enumerate(stages):
        held = np.zeros(6)
        for onset, length, code in runs:
            start = max(onset, epoch * EPOCH_S, 0)
            held[code] += max(min(onset + length, (epoch + 1) * EPOCH_S) - start, 0)
        if held.max() < EPOCH_S / 2 - 1e-4:
            assert stage == -1
        elif held.max() > EPOCH_S / 2 + 1e-4:
            assert held[stage] >= held.max() - 1e-4


def test_a_file_too_large_is_refused_unread(tmp_path):
    path = tmp_path / "a.xml"
    with path.open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(ScoringError, match="too large"):
        read_scoring(path)


def test_deep_nesting_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[" * 100_000)
    with pytest.raises(ScoringError, match="not JSON"):
        read_scoring(path, code_book="dod")
    path = tmp_path / "a.xml"
    path.write_text("<PSGAnnotation>" + "<a>" * 100_000 + "</a>" * 100_000 + "</PSGAnnotation>")
    with pytest.raises(ScoringError):
        read_scoring(path)


def test_more_stages_than_a_fortnight_holds_are_refused_at_once(tmp_path):
    path = tmp_path / "a_events.tsv"
    path.write_text("onset\tduration\tstage_hum\n" + "0\t1000000\t2\n" * 150_000)
    with pytest.raises(ScoringError, match="add up to more than"):
        read_scoring(path)
    path.write_text("onset\tduration\tstage_hum\n" + "0\t1\t2\n" * 200_001)
    with pytest.raises(ScoringError, match="at most"):
        read_scoring(path)
