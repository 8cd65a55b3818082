"""Files of every format, damaged as disks, editors and exports do: a typed error or sane times.

What a file says in words of its own never comes back, in a message or in a finding.
"""

import re
import time
import types

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scoring_samples import SAMPLES

from data_pipelines import scoring
from data_pipelines.recordings.base import RecordingError
from data_pipelines.scoring import ScoringError, read_scoring
from data_pipelines.scoring.record import EPOCH_S, MAX_TIME_S

NIGHT = types.SimpleNamespace(
    path=None, start_of_day_s=80000.0, duration_s=480.0, gaps=[], annotations=[], labels=[]
)
NAME = "Yellowbird"
NUMBERS = ["-1", "1e308", "nan", "-inf", "99999999999999", "0", "1e-9", "31/12/9999 23:59:59", ""]
WORDS = [NAME, f"Dr {NAME} N2", f"{NAME}: apnea", f"stage of {NAME}", "Schlafstadium 9"]


@st.composite
def damaged(draw, content):
    """One to three damages."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(DAMAGES))
        content = kind(draw, content)
    return bytes(content)


def flip(draw, content):
    if content:
        at = draw(st.integers(0, len(content) - 1))
        content[at] ^= 1 << draw(st.integers(0, 7))
    return content


def cut(draw, content):
    return content[: draw(st.integers(0, len(content)))]


def lines(draw, content):
    """Lines twice, lost, or in another order."""
    rows = content.split(b"\n")
    at = draw(st.integers(0, len(rows) - 1))
    much = draw(st.sampled_from([1, 1, 2, 50]))
    where = draw(st.integers(0, len(rows)))
    rows[where:where] = [rows[at]] * much
    if draw(st.booleans()):
        del rows[draw(st.integers(0, len(rows) - 1))]
    return bytearray(b"\n".join(rows))


def number(draw, content):
    """Another number in the place of one."""
    found = list(re.finditer(rb"\d+(?:[.,:]\d+)*", bytes(content)))
    if found:
        match = draw(st.sampled_from(found))
        content[match.start() : match.end()] = draw(st.sampled_from(NUMBERS)).encode()
    return content


def word(draw, content):
    """Somebody's words in the place of a word, or beside it."""
    found = list(re.finditer(rb"[A-Za-z]{1,}[A-Za-z0-9 ]*", bytes(content)))
    if found:
        match = draw(st.sampled_from(found))
        stop = draw(st.sampled_from([match.start(), match.end()]))
        content[match.start() : stop] = draw(st.sampled_from(WORDS)).encode()
    return content


def encoding(draw, content):
    try:
        text = bytes(content).decode()
    except UnicodeDecodeError:
        return content
    into = draw(st.sampled_from(["utf-16", "utf-16-be", "utf-8-sig", "cp1252", "utf-32"]))
    mark = "\ufeff" if into == "utf-16-be" else ""
    return bytearray((mark + text).encode(into, "replace"))


def marks(draw, content):
    old, new = draw(
        st.sampled_from(
            [(b"\n", b"\r\n"), (b"\n", b"\r"), (b",", b";"), (b"\t", b","), (b",", b"\t")]
            + [(b"\n", b"\n\n"), (b".", b","), (b":", b"."), (b'"', b"'"), (b" ", b"\0")]
        )
    )
    return content.replace(old, new)


DAMAGES = [flip, cut, lines, number, word, encoding, marks]


@pytest.mark.parametrize("name", SAMPLES)
def test_the_samples_are_read(tmp_path, name):
    """Else the damages would damage nothing."""
    path = tmp_path / name
    path.write_bytes(SAMPLES[name])
    path.with_suffix(".hea").write_text("a 1 1 480\n")
    found = read_scoring(path, recording=NIGHT, code_book="rk5")
    assert (found.stages >= 0).any() or found.events


@pytest.mark.parametrize("name", SAMPLES)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_files(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data.draw(damaged(SAMPLES[name])))
    path.with_suffix(".hea").write_text("a 1 1 480\n")
    began = time.process_time()
    told = []
    try:
        found = read_scoring(path, recording=NIGHT, code_book="rk5")
    except (ScoringError, RecordingError) as error:
        told.append(str(error))
    else:
        assert found.stages.dtype == np.int8
        assert ((found.stages >= -1) & (found.stages <= 4)).all()
        assert len(found.stages) <= 2 * MAX_TIME_S / EPOCH_S + 1
        for event in found.events:
            assert event.kind in scoring.EVENT_KINDS
            assert np.isfinite(event.onset_s) and 0 <= event.duration_s <= MAX_TIME_S
            assert NAME.casefold() not in event.value.casefold()
        told += [*found.notes, *(f"{x.what} {x.note}" for x in found.findings)]
    assert time.process_time() - began < 2  # a few kB
    assert NAME.casefold() not in " ".join(told).casefold()
