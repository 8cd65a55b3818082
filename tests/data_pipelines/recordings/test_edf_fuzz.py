"""Whatever the bytes say: a RecordingError or a recording, quickly, and never out of memory."""

import json
import tracemalloc

import edf_files
import hypothesis
import numpy as np
from hypothesis import strategies as st

from data_pipelines.channels.quality import check_quality
from data_pipelines.channels.resolve import resolve
from data_pipelines.recordings.base import RecordingError
from data_pipelines.recordings.edf import EdfRecording

GAIN = {"physical": ("-100", "100"), "digital": ("-32768", "32767")}
NOISE = np.random.default_rng(0).normal(0, 5000, (4, 64)).round()
SOUND = edf_files.edf(
    [
        edf_files.signal("C3", NOISE, **GAIN),
        edf_files.signal("ECG", NOISE[::-1], **GAIN),
        edf_files.signal("THOR RES", NOISE[:, :8], **GAIN),
        edf_files.signal("SpO2", edf_files.ramp(4, 1), unit="%", **GAIN),
        edf_files.annotations([edf_files.onset(i, (i, 1, "note")) for i in range(4)]),
    ],
    reserved="EDF+D",
)
HEADER = 256 * 6
# What stands in numeric fields of broken files, and what parsers trip over.
FIELDS = st.sampled_from(
    [
        b"-1",
        b"0",
        b"",
        b"1e99",
        b"-1e99",
        b"1e-99",
        b"99999999",
        b"-9999999",
        b"nan",
        b"inf",
        b"0x10",
    ]
) | st.binary(max_size=8)


@st.composite
def broken_files(draw):
    content = bytearray(SOUND)
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["field", "bytes", "cut", "insert", "tal"]))
        at = draw(st.integers(0, HEADER - 1))
        if kind == "field":
            at = at // 8 * 8
            content[at : at + 8] = draw(FIELDS)[:8].ljust(8)
        elif kind == "bytes":
            piece = draw(st.binary(min_size=1, max_size=20))
            content[at : at + len(piece)] = piece
        elif kind == "cut":
            del content[draw(st.integers(0, len(content))) :]
        elif kind == "insert":
            content[at:at] = draw(st.binary(max_size=9))
        else:
            at = draw(st.integers(HEADER, len(SOUND)))
            piece = draw(st.sampled_from([b"+9999999\x14\x14", b"-5\x14", b"+\x14", b"\x00" * 9]))
            content[at : at + len(piece)] = piece
    return bytes(content)


def exhaust(path):
    """Do everything that can be done with a recording, as a builder would."""
    recording = EdfRecording(path)
    assert np.isfinite(recording.duration_s)
    list(recording.annotations)
    for i in range(len(recording.labels)):
        if recording.problem(i) is None:
            assert recording.sfreq_hz(i) > 0
            recording.unit(i)
            recording.read(i, 0, 10)
            if recording.num_samples(i) < 10_000_000:
                assert len(recording.read(i)) == recording.num_samples(i)
    json.dumps(check_quality(recording, resolve(recording.labels)).to_json(), allow_nan=False)


@hypothesis.given(content=broken_files() | st.binary(max_size=1600))
@hypothesis.settings(max_examples=200, deadline=2000)
def test_only_recording_errors(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz.edf"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        exhaust(path)
    except RecordingError as error:
        assert str(error).startswith(str(path))
        for secret in ("Erika", "Muster", "Seltsam", "998877"):
            assert secret not in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 200 << 20
