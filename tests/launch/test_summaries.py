"""What a run ends with: a summary, the same for programs, and no night in doubt where strict."""

import dataclasses
import datetime
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tiny_recordings

from data_pipelines import findings, scoring, store
from data_pipelines.builders import folder, night_builder, recording_night
from data_pipelines.recipes.hypnos import RECIPE

ROOT = pathlib.Path(__file__).parents[2]


def launch(*arguments):
    return subprocess.run(
        [sys.executable, "-m", f"launch.{arguments[0]}", *map(str, arguments[1:])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def finding(kind, what, **numbers):
    return findings.Finding(kind, what, f"about {what}", **numbers).to_json()


def test_a_summary_has_the_worst_first_and_counts_words_over_nights():
    nights = {
        f"lab/n{n}": [
            finding("inferred_channel", "ecg"),
            finding("unknown_stage", "NonREM2", count=100, seconds=3000.0),
            finding("unread_file", f"n{n}_stage.txt"),
        ]
        for n in range(60)
    }
    nights["lab/n7"].append(finding("unknown_stage", "Schlaf", count=2, seconds=60.0))
    nights["quiet"] = []
    of_run = [finding("person", "rows without a recording", count=3)]
    summary = findings.summarise(nights, of_run)
    assert [row["kind"] for row in summary] == [
        *("unread_file", "unknown_stage", "inferred_channel", "person")
    ]
    assert summary[0]["what"] == [
        {"what": "*_stage.txt", "recordings": 60, "count": 60, "seconds": None}
    ]
    assert findings.lines_of(summary) == [
        "  files beside a recording that were not read: 60 nights",
        "      *_stage.txt: 60",
        "  words that look like stages and are not known: 60 nights, 50 h 01 min",
        "      NonREM2: 6000 (50 h 00 min); Schlaf: 2 (1 min)",
        "  channels bound by inference: 60 nights",
        "      ecg: 60",
        "  people without a night, nights without a person",
        "      rows without a recording: 3",
    ]


def test_a_summary_of_many_words_stays_short():
    words = [finding("unknown_event", f"word {n:02}", count=100 - n) for n in range(40)]
    heading, line = findings.lines_of(findings.summarise({"a": words}), "recordings")
    assert heading.endswith(": 1 recording")
    assert line.strip().startswith("word 00: 100; word 01: 99;")
    assert line.endswith("word 04: 96; and 35 more")
    assert findings.lines_of(findings.summarise({"a": [], "b": []})) == []
    hidden = findings.lines_of(findings.summarise({"a": [finding("unknown_stage", "…")]}))
    assert hidden[1].strip() == "words not shown, as they may be names: 1"


def test_the_worst_finding_is_the_first_kind_and_of_another_version_the_last():
    own = [finding("repaired_unit", "ecg"), finding("no_scoring", "none")]
    own.append({"kind": "of tomorrow", "what": "x", "note": "y"})
    assert findings.worst(own)["kind"] == "no_scoring"
    assert [row["kind"] for row in findings.summarise({"a": own})][-1] == "of tomorrow"


@dataclasses.dataclass(frozen=True)
class WithFindings:
    """Prepares, and finds something in the recordings that are named."""

    make: recording_night.PrepareRecording
    doubtful: tuple[str, ...]
    fail_at: str = ""

    def __call__(self, pending):
        if pending.name == self.fail_at:
            raise KeyboardInterrupt
        night = self.make(pending)
        if pending.name in self.doubtful:
            night.qc["findings"] = [finding("unknown_stage", "NonREM2")]
        return night


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    path = tmp_path_factory.mktemp("recordings")
    for n in range(3):
        tiny_recordings.write_edf(path / f"n{n}.edf", seconds=60, seed=n)
        tiny_recordings.write_hypnogram(path / f"n{n}-Hypnogram.edf", [0, 1])
    return path


def prepare(source, output, *, strict, fail_at=""):
    items, _ = folder.find_recordings(source)
    make = recording_night.PrepareRecording(RECIPE, ("ecg",), mains_hz=50)
    return night_builder.write_store(
        output,
        kind="signals",
        items=items,
        make_night=WithFindings(make, ("n0",), fail_at),
        progress=False,
        strict=strict,
    )


@pytest.mark.parametrize("first", [True, False])
def test_strict_rejects_nights_in_doubt_after_any_interruption(recordings, tmp_path, first):
    """What waits from a run by the other measure is neither kept nor rejected by it."""
    with pytest.raises(KeyboardInterrupt):
        prepare(recordings, tmp_path, strict=first, fail_at="n1")
    update = prepare(recordings, tmp_path, strict=not first)
    if first:
        assert update.added == ["n0", "n1", "n2"] and not update.rejected
    else:
        assert update.added == ["n1", "n2"]
        ((name, reason),) = update.rejected
        assert name == "n0" and "about NonREM2" in reason
    # The store is the same kind of store: the other measure may add to it.
    prepare(recordings, tmp_path, strict=first)
    assert len(store.NightStore(tmp_path).nights) == 3


def test_strict_adds_nothing_to_a_store_that_holds_nights_in_doubt(recordings, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in ("n0.edf", "n1.edf", "n1-Hypnogram.edf"):
        (source / name).write_bytes((recordings / name).read_bytes())
    arguments = (f"--input={source}", f"--output={out}", "--channels=ecg", "--mains_hz=50")
    # The good night is kept, and the exit code says that one was not.
    done = launch("prepare_nights", "--strict", *arguments)
    assert done.returncode == 1
    assert "1 nights added, 0 were there, 1 rejected" in done.stdout
    assert "rejected n0: --strict: no scoring was found" in done.stderr
    done = launch("prepare_nights", *arguments)
    assert done.returncode == 0 and "1 nights added, 1 were there" in done.stdout
    before = (out / "manifest.json").read_bytes()
    done = launch("prepare_nights", "--strict", *arguments)
    assert done.returncode == 1
    assert "holds 1 nights with something to look at; choose another folder" in done.stderr
    assert (out / "manifest.json").read_bytes() == before


def test_a_code_book_that_is_not_there_ends_a_run_at_once(recordings, tmp_path):
    where = (f"--input={recordings}", f"--output={tmp_path / 'out'}")
    done = launch("prepare_nights", "--code_book=compumedics", *where)
    assert done.returncode == 1 and not (tmp_path / "out").exists()
    assert done.stderr.count("there is no 'compumedics'") == 1


def test_preparing_ends_with_people_and_links_to_look_at(recordings, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    (source / "linked").symlink_to(recordings)
    table = "Datei;Patient;Alter\nn0.edf;p;30\nn1.edf;p;alt\nn8.edf;q;40\n"
    (source / "PARTICIPANTS.CSV").write_text(table, "utf-16")
    out = tmp_path / "out"
    done = launch("prepare_nights", f"--input={source}", f"--output={out}", "--channels=ecg")
    assert done.returncode == 0, done.stderr
    assert "2 of 3 rows match 2 of 3 recordings" in done.stderr
    lines = done.stdout.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("to look at"))
    assert "3 nights added" in lines[at - 1]
    text = "\n".join(lines[at:])
    for words in (
        "1 of 3 rows match no recording (row 4)",
        "1 of 3 recordings match no row, so their names alone tell whose they are: linked/n2",
        "1 of 3 rows say of the age what is not understood",
        "links to folders that were followed: 1 (linked)",
    ):
        assert words in text, text
    nights = store.NightStore(out).nights
    assert [night.subject for night in nights] == ["p", "p", "linked/n2"]
    assert [night.metadata.get("age") for night in nights] == [30, None, None]
    # Strict, the same ends before any work.
    done = launch(
        *("prepare_nights", "--strict", f"--input={source}", f"--output={tmp_path / 'strict'}")
    )
    assert done.returncode == 1
    assert "1 of 3 rows match no recording (row 4)" in done.stderr
    assert not (tmp_path / "strict").exists()


def test_checking_says_the_same_to_programs(recordings, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for path in recordings.iterdir():
        (source / path.name).symlink_to(path)
    (source / "participants.tsv").write_text("recording\tsubject\nN0\tp\nn1\tp\n")
    (source / "none.edf").symlink_to("nowhere.edf")
    (source / "n1-Hypnogram.edf").unlink()
    other = scoring.Scoring(np.zeros(2, np.int8), [], "test")
    start = datetime.datetime(1985, 1, 1, 10, 30)  # twelve hours before the recording
    scoring.write_edf_annotations(source / "n1-Hypnogram.edf", other, start=start)
    done = launch("check_recordings", "--format=json", source)
    assert done.returncode == 1  # a link that leads nowhere cannot be read
    document = json.loads(done.stdout)
    (error,) = document["errors"]
    assert error["path"].endswith("none.edf") and "datalad get" in error["reason"]
    found = {pathlib.Path(row["path"]).name: row for row in document["recordings"]}
    assert found["n0.edf"]["scoring"]["stages"] | {"unscored": 0} == {
        **dict.fromkeys(("N2", "N3", "R", "unscored"), 0),
        "W": 1,
        "N1": 1,
    }
    assert found["n0.edf"]["channels"]["ecg"]["status"] == "ok"
    assert found["n0-Hypnogram.edf"]["scoring"] is None
    told = {
        row["kind"]: {w["what"]: w["count"] for w in row["what"]} for row in document["summary"]
    }
    assert told["no_scoring"]["scoring that is refused"] == 1
    assert told["person"] == {"recordings without a row": 2}
    (source / "none.edf").unlink()
    done = launch("check_recordings", "--strict", source)
    assert done.returncode == 1
    assert "0 could not be read" in done.stdout
