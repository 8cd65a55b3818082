"""Preparing folders of recordings: resumed, added to, rejected, and blind to who it is."""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import tiny_recordings

from data_pipelines import store
from data_pipelines.builders import cinc2017, folder, night_builder, nsrr, recording_night
from data_pipelines.channels.table import CHANNELS
from data_pipelines.files import PARTIALS
from data_pipelines.recipes.hypnos import EIGHT, RECIPE

ROOT = pathlib.Path(__file__).parents[2]


def prepare(source, output, *, names=("eeg_c3", "ecg", "resp_abd"), cohort=None, **kwargs):
    items, doubles = folder.find_recordings(source, cohort=cohort)
    make_night = recording_night.PrepareRecording(RECIPE, tuple(names), mains_hz=50)
    return night_builder.write_store(
        output,
        kind="signals",
        items=items,
        make_night=make_night,
        left_aside=doubles,
        progress=False,
        **kwargs,
    )


def command(source, output, *arguments):
    return [
        *(sys.executable, "-m", "launch.prepare_nights", f"--input={source}"),
        *(f"--output={output}", *arguments),
    ]


def run(source, output, *arguments):
    return subprocess.run(
        command(source, output, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def contents(path):
    files = (file for file in pathlib.Path(path).rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return tiny_recordings.write_folder(tmp_path_factory.mktemp("recordings"))


def test_a_folder_becomes_a_store(recordings, tmp_path):
    summary = prepare(recordings, tmp_path)
    opened = store.NightStore(tmp_path)
    opened.verify()
    assert summary.added == ["SC4001E0-PSG", "SC4011E0-PSG", "SC4021E0-PSG"]
    assert [night.duration_s for night in opened.nights] == [300, 330, 360]
    for n, night in enumerate(opened.nights):
        assert night.subject == f"SC40{n}"
        assert night.channels == ("eeg_c3", "ecg", "resp_abd")
        expected = np.random.default_rng(n).integers(-1, 5, 10 + n)
        np.testing.assert_array_equal(opened.stages(night), expected)
        assert night.metadata["start_of_day_s"] == 22.5 * 3600
        facts = night.qc["channels"]["eeg_c3"]
        assert facts["rate_hz"] == 100.0 and facts["valid_share"] == 1.0
        assert night.qc["scored_share"] == pytest.approx(np.mean(expected >= 0), abs=1e-4)
        tracks = opened.tracks(night, "eeg_c3", 0, 300)
        assert np.exp(np.median(tracks[:, 1])) == pytest.approx(18.5, rel=0.1)


def test_processes_write_the_same_bytes_as_none(recordings, tmp_path):
    prepare(recordings, tmp_path / "one")
    prepare(recordings, tmp_path / "two", jobs=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_nothing_of_the_header_reaches_the_store_or_the_rejects(recordings, tmp_path):
    source = tmp_path / "in"
    shutil.copytree(recordings, source)
    labels = {"Mystery": 1.0, tiny_recordings.CANARY[:16]: 1.0}
    tiny_recordings.write_edf(source / "unknown.edf", labels=labels)
    made = run(source, tmp_path / "out")
    assert made.returncode == 0
    everything = b"".join(contents(tmp_path / "out").values())
    everything += (made.stdout + made.stderr).encode()
    for word in ("Canary", "Yellowbird", "1961", "77431"):
        assert word.encode() not in everything


def test_the_second_run_takes_up_where_the_first_stopped(recordings, tmp_path):
    class Killed(BaseException):
        pass

    calls = []
    prepare_night = recording_night.PrepareRecording(RECIPE, ("ecg",), mains_hz=50)
    items, _ = folder.find_recordings(recordings)

    def make(pending, stop_at):
        calls.append(pending.name)
        if pending.name == stop_at:
            raise Killed
        return prepare_night(pending)

    def write(stop_at):
        night_builder.write_store(
            tmp_path / "out",
            kind="signals",
            items=items,
            make_night=lambda pending: make(pending, stop_at),
            progress=False,
        )

    names = sorted(items)
    with pytest.raises(Killed):
        write(names[2])
    assert not (tmp_path / "out" / "manifest.json").exists()
    write(None)
    assert calls == [*names, names[2]]
    assert not (tmp_path / "out" / ".work").exists()


def test_a_damaged_waiting_night_is_made_again(recordings, tmp_path):
    prepare(recordings, tmp_path / "whole")
    items, _ = folder.find_recordings(recordings)
    make_night = recording_night.PrepareRecording(
        RECIPE, ("eeg_c3", "ecg", "resp_abd"), mains_hz=50
    )

    def stop(pending):
        if pending.name > "SC401":
            raise KeyboardInterrupt
        return make_night(pending)

    with pytest.raises(KeyboardInterrupt):
        night_builder.write_store(
            tmp_path / "hurt", kind="signals", items=items, make_night=stop, progress=False
        )
    (waiting,) = (tmp_path / "hurt" / ".work" / "nights").iterdir()
    hurt = bytearray(waiting.read_bytes())
    hurt[len(hurt) // 2] ^= 255
    waiting.write_bytes(hurt)
    prepare(recordings, tmp_path / "hurt")
    assert contents(tmp_path / "hurt") == contents(tmp_path / "whole")


def killed_at_random(source, tmp_path, seed, kills):
    """Kill -9 the command at random moments, finish it, and compare with an untouched run."""
    began = time.monotonic()
    whole = run(source, tmp_path / "whole", "--jobs=2", "--mains_hz=50")
    assert whole.returncode == 0, whole.stderr
    usual_s = time.monotonic() - began
    rng = random.Random(seed)
    arguments = command(source, tmp_path / "killed", "--jobs=2", "--mains_hz=50")
    for _ in range(kills):
        process = subprocess.Popen(
            arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(0.3, 1.0) * usual_s)
        workers = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        _, alive = psutil.wait_procs(workers, timeout=20)
        assert not alive, "workers outlived the run that was killed"
    finished = run(source, tmp_path / "killed", "--jobs=2", "--mains_hz=50")
    assert finished.returncode == 0, finished.stderr
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_kill_9_at_random_moments_changes_no_byte(tmp_path):
    source = tiny_recordings.write_folder(tmp_path / "in", count=3, seconds=600)
    killed_at_random(source, tmp_path, seed=0, kills=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_kill_9_often_changes_no_byte(tmp_path, seed):
    source = tiny_recordings.write_folder(tmp_path / "in", count=12, seconds=7200)
    killed_at_random(source, tmp_path, seed=seed + 1, kills=8)


def test_added_recordings_join_and_old_ones_stay(recordings, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for path in sorted(recordings.iterdir())[:2]:
        shutil.copy(path, source)
    prepare(source, tmp_path / "steps")
    shutil.rmtree(source)  # what is in the store needs its recording no more
    shutil.copytree(recordings, source)
    summary = prepare(source, tmp_path / "steps")
    assert summary.kept == ["SC4001E0-PSG"] and len(summary.added) == 2
    prepare(recordings, tmp_path / "whole")
    assert contents(tmp_path / "steps") == contents(tmp_path / "whole")


def test_folders_of_others_are_left_alone(recordings, tmp_path):
    mine, unfinished = tmp_path / "records-2020" / "notes.txt", tmp_path / "records-0123456789ab"
    mine.parent.mkdir()
    mine.write_text("keep")
    unfinished.mkdir()
    prepare(recordings, tmp_path)
    assert mine.read_text() == "keep" and not unfinished.exists()


def test_a_file_that_is_no_recording_is_a_reject_and_exit_0(recordings, tmp_path):
    source = tmp_path / "in"
    shutil.copytree(recordings, source)
    (source / "empty.edf").write_bytes(b"")
    (source / "text.edf").write_text("nothing of the kind" * 100)
    (source / "folder.edf").mkdir()
    cut = (source / "SC4001E0-PSG.edf").read_bytes()[:500]
    (source / "cut.edf").write_bytes(cut)
    made = run(source, tmp_path / "out")
    assert made.returncode == 0, made.stderr
    lines = [json.loads(line) for line in (tmp_path / "out/rejects.jsonl").read_text().splitlines()]
    assert [line["recording"] for line in lines] == ["cut", "empty", "folder", "text"]
    assert all(line["reason"] and str(tmp_path) not in line["reason"] for line in lines)
    assert len(store.NightStore(tmp_path / "out").nights) == 3


def test_exit_code_when_all_are_rejected_and_when_there_are_none(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    none = run(source, tmp_path / "out")
    assert none.returncode == 1 and "no recordings" in none.stderr
    (source / "empty.edf").write_bytes(b"")
    made = run(source, tmp_path / "out")
    assert made.returncode == 1
    assert json.loads((tmp_path / "out/rejects.jsonl").read_text())["recording"] == "empty"
    assert not (tmp_path / "out/manifest.json").exists()
    (source / "empty.edf").unlink()
    tiny_recordings.write_edf(source / "repaired.edf", seconds=60)
    assert prepare(source, tmp_path / "out").added == ["repaired"]


def test_scoring_of_another_recording_is_a_reject(recordings, tmp_path):
    source = tmp_path / "in"
    shutil.copytree(recordings, source)
    tiny_recordings.write_hypnogram(source / "SC4001EC-Hypnogram.edf", [-1] * 400 + [2] * 40)
    summary = prepare(source, tmp_path / "out")
    assert [name for name, _ in summary.rejected] == ["SC4001E0-PSG"]
    assert "another recording" in summary.rejected[0][1]


def test_two_files_of_one_name_are_not_two_nights(tmp_path):
    source = tmp_path / "in"
    for name in ("a/night.edf", "b/night.edf", "b/night.rec"):
        tiny_recordings.write_edf(source / name, seconds=60)
    summary = prepare(source, tmp_path / "out")
    assert summary.added == ["a/night", "b/night"]
    assert summary.rejected == [("b/night.rec", "night.edf beside it has the same name")]


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a tmpfs and a function that sets its size."""
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if subprocess.run(options, capture_output=True).returncode:
        pytest.skip("a small tmpfs cannot be mounted here")
    yield (
        disk,
        lambda size: subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True),
    )
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_said_clearly_and_nothing_half_written_stays(recordings, small_disk):
    disk, resize = small_disk
    made = run(recordings, disk / "out", "--jobs=2")
    assert made.returncode == 1
    assert "no space left" in made.stderr and "Traceback" not in made.stderr
    assert not (disk / "out" / "manifest.json").exists()
    assert not list((disk / "out").rglob(PARTIALS))
    resize("40m")
    assert run(recordings, disk / "out").returncode == 0
    store.NightStore(disk / "out").verify()


def test_a_disk_that_fills_up_while_the_store_is_written(
    recordings, tmp_path, small_disk, monkeypatch
):
    disk, resize = small_disk
    resize("1000k")
    with pytest.raises(store.StoreError, match="GB are free"):
        prepare(recordings, disk / "out")
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage(tmp_path)
        patch.setattr(shutil, "disk_usage", lambda _: usage)  # others take the space meanwhile
        with pytest.raises(store.StoreError, match="no space left"):
            prepare(recordings, disk / "out")
    assert not (disk / "out" / "manifest.json").exists()
    resize("40m")
    prepare(recordings, disk / "out")
    prepare(recordings, tmp_path / "roomy")
    assert contents(disk / "out") == contents(tmp_path / "roomy")


def test_a_second_run_at_the_same_time_is_refused(recordings, tmp_path):
    items, _ = folder.find_recordings(recordings)

    def make(pending):
        with pytest.raises(store.StoreError, match="another run"):
            prepare(recordings, tmp_path)
        raise ValueError("enough")

    night_builder.write_store(
        tmp_path, kind="signals", items=items, make_night=make, progress=False
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--channels=eeg_c3,eeg_c9"], "eeg_c9"),
        (["--cohort=nowhere"], "nowhere"),
        (["--mains_hz=55"], "mains_hz"),
        (["--builder=nsrr"], "polysomnography"),
    ],
)
def test_wrong_arguments_are_told_before_any_work(recordings, tmp_path, arguments, message):
    made = run(recordings, tmp_path / "out", *arguments)
    assert made.returncode != 0
    assert message in made.stderr and "Traceback" not in made.stderr
    assert not (tmp_path / "out").exists()


def test_subjects_map_keeps_a_person_in_one_split(recordings, tmp_path):
    subjects = tmp_path / "subjects.csv"
    names = [f"SC40{n}1E0-PSG" for n in range(3)]
    subjects.write_text("recording,subject\n" + "".join(f"{name},anna\n" for name in names))
    assert run(recordings, tmp_path / "out", f"--subjects={subjects}").returncode == 0
    nights = store.NightStore(tmp_path / "out").nights
    assert {night.subject for night in nights} == {"anna"}
    assert len({night.split for night in nights}) == 1


def test_a_published_list_of_splits_is_kept_to(recordings, tmp_path):
    listed = tmp_path / "split.csv"
    listed.write_text("recording,split\nSC4001E0-PSG.edf,test\nSC4011E0-PSG,val\nelsewhere,train\n")
    made = run(recordings, tmp_path / "out", f"--split_list={listed}")
    assert made.returncode == 0, made.stderr
    nights = store.NightStore(tmp_path / "out").nights
    splits = {night.recording: night.split for night in nights}
    assert splits == {"SC4001E0-PSG": "test", "SC4011E0-PSG": "validation"}
    assert "not in split.csv" in (tmp_path / "out" / "rejects.jsonl").read_text()
    subjects = tmp_path / "subjects.csv"
    names = [f"SC40{n}1E0-PSG" for n in range(3)]
    subjects.write_text("recording,subject\n" + "".join(f"{name},anna\n" for name in names))
    parted = run(recordings, tmp_path / "two", f"--split_list={listed}", f"--subjects={subjects}")
    assert (
        parted.returncode == 1 and "nights of anna are in test and in validation" in parted.stderr
    )


NSRR_XML = """<?xml version="1.0" encoding="UTF-8"?>
<PSGAnnotation><SoftwareVersion>Compumedics</SoftwareVersion><EpochLength>30</EpochLength>
<ScoredEvents>
<ScoredEvent><EventType/><EventConcept>Recording Start Time</EventConcept><Start>0</Start>
<Duration>90.0</Duration><ClockTime>00.00.00 22.30.00</ClockTime></ScoredEvent>
<ScoredEvent><EventType>Stages|Stages</EventType><EventConcept>Wake|0</EventConcept>
<Start>0.0</Start><Duration>30.0</Duration></ScoredEvent>
<ScoredEvent><EventType>Stages|Stages</EventType><EventConcept>Stage 2 sleep|2</EventConcept>
<Start>30.0</Start><Duration>60.0</Duration></ScoredEvent>
<ScoredEvent><EventType>Respiratory|Respiratory</EventType>
<EventConcept>Hypopnea|Hypopnea</EventConcept><Start>40.5</Start><Duration>12.0</Duration>
</ScoredEvent></ScoredEvents></PSGAnnotation>
"""


def test_an_nsrr_cohort_keeps_age_and_sex_and_no_more(tmp_path):
    cohort = tmp_path / "shhs"
    for visit in (1, 2):
        edf = cohort / f"polysomnography/edfs/shhs{visit}/shhs{visit}-200001.edf"
        tiny_recordings.write_edf(edf, seconds=90, seed=visit)
    notes = cohort / "polysomnography/annotations-events-nsrr/shhs1/shhs1-200001-nsrr.xml"
    notes.parent.mkdir(parents=True)
    notes.write_text(NSRR_XML)
    tables = cohort / "datasets"
    tables.mkdir()
    (tables / "shhs-harmonized-dataset-0.21.0.csv").write_text(
        "nsrrid,visitnumber,nsrr_age,nsrr_sex,nsrr_race\n"
        "200001,1,55,male,secret\n200001,2,60,male,secret\n200002,1,40,female,secret\n"
    )
    items = nsrr.find_recordings(cohort)
    assert items["shhs1-200001"].metadata == {"age": 55.0, "sex": "M", "cohort": "shhs"}
    assert items["shhs2-200001"].metadata["age"] == 60.0
    make_night = recording_night.PrepareRecording(RECIPE, EIGHT, mains_hz=60)
    night_builder.write_store(
        tmp_path / "out", kind="signals", items=items, make_night=make_night, progress=False
    )
    opened = store.NightStore(tmp_path / "out")
    nights = opened.nights
    assert [night.recording for night in nights] == ["shhs1-200001", "shhs2-200001"]
    assert opened.stages(nights[0]).tolist() == [0, 2, 2]
    assert [event.kind for event in opened.events(nights[0])] == ["hypopnea"]
    assert opened.stages(nights[1]).tolist() == [-1, -1, -1]
    assert {night.subject for night in nights} == {"shhs-200001"}
    assert b"secret" not in b"".join(contents(tmp_path / "out").values())


@pytest.mark.parametrize(
    ("stem", "table", "expected"),
    [
        (
            "mesa-sleep-0001",
            "mesaid,sleepage5c,gender1\n1,61,1\n2,70,0\n",
            {"age": 61.0, "sex": "M"},
        ),
        (
            "mros-visit1-aa0001",
            "nsrrid,visit,vsage1\nAA0001,1,77\nAA0001,2,82\n",
            {"age": 77.0},
        ),
        ("cfs-visit5-800002", "nsrrid,age,male\n800002,33.5,0\n", {"age": 33.5, "sex": "F"}),
        ("chat-baseline-300001", "nsrrid,age\n300002,8\n", {}),
        (
            "wsc-visit2-10119-nsrr",
            "wsc_id,wsc_vst,age,sex\n10119,2,50,M\n",
            {"age": 50.0, "sex": "M"},
        ),
    ],
)
def test_tables_of_cohorts_are_read_by_their_columns(tmp_path, stem, table, expected):
    tiny_recordings.write_edf(tmp_path / f"polysomnography/edfs/{stem}.edf", seconds=2)
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "table.csv").write_text(table)
    assert nsrr.find_recordings(tmp_path)[stem].metadata == expected


def test_real_recordings_of_two_devices(test_data, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    shutil.copy(test_data / "sleep-edf" / "short_psg.edf", source)
    shutil.copy(test_data / "nox-a1" / "subject1.edf", source)
    prepare(source, tmp_path / "out", names=CHANNELS, cohort="sleep_edf")
    opened = store.NightStore(tmp_path / "out")
    nox, sleep_edf = sorted(opened.nights, key=lambda night: night.duration_s)
    assert nox.duration_s == 120 and sleep_edf.duration_s == 300
    assert set(EIGHT) <= set(nox.channels)
    for name in nox.channels:
        samples = opened.signal(nox, name, 0, 120)
        assert np.isfinite(samples).all() and samples.any()
    eeg = opened.signal(sleep_edf, "eeg_c3", 0, 300)
    assert 0.5 < eeg.std() < 2


def test_real_ecgs_with_their_rhythms(test_data, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    lines = (test_data / "cinc2017" / "REFERENCE.csv").read_text().splitlines()[:12]
    for line in lines:
        for suffix in (".mat", ".hea"):
            shutil.copy(test_data / "cinc2017" / (line.split(",")[0] + suffix), source)
    (source / "REFERENCE.csv").write_text("\n".join(lines) + "\n")
    made = run(source, tmp_path / "out", "--builder=cinc2017")
    assert made.returncode == 0, made.stderr
    opened = store.NightStore(tmp_path / "out")
    assert {n.recording: n.labels["rhythm"] for n in opened.nights} == dict(
        line.split(",") for line in lines
    )
    for night in opened.nights:
        assert 9 <= night.duration_s <= 61 and night.channels == ("ecg",)
        ecg = opened.signal(night, "ecg", 0, night.duration_s)
        assert np.abs(ecg).max() > 3  # beats stand out of a z-scored ECG


@pytest.mark.parametrize("text", ["A00001\n", "A00001,X\n", "../A1,N\n", "A1,N,3\n"])
def test_a_reference_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "REFERENCE.csv").write_text(text)
    with pytest.raises(ValueError, match="REFERENCE.csv:1"):
        cinc2017.find_recordings(tmp_path)


def test_participants_of_the_folder_are_used_and_must_stay(recordings, tmp_path):
    source = shutil.copytree(recordings, tmp_path / "in")
    table = source / "participants.tsv"
    rows = ["SC4001E0-PSG\tanna\t33\tfemale\tnorth\tJane", "SC4011E0-PSG\tanna\tn/a\t1\tn/a\tJ"]
    table.write_text("\n".join(["recording\tsubject\tage\tsex\tsite\tname", *rows]) + "\n")
    done = run(source, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("participants.tsv") == 1
    first, second, third = store.NightStore(tmp_path / "out").nights
    assert [night.subject for night in (first, second, third)] == ["anna", "anna", "SC402"]
    facts = {key: first.metadata.get(key) for key in ("age", "sex", "site", "name")}
    assert facts == {"age": 33.0, "sex": "F", "site": "north", "name": None}
    assert not {"age", "sex", "site"} & {*second.metadata, *third.metadata}
    table.write_text(table.read_text().replace("anna", "bert"))
    done = run(source, tmp_path / "out")
    assert done.returncode == 1
    assert "SC4001E0-PSG was prepared as a night of anna" in done.stderr


def test_a_channel_with_a_broken_header_makes_way_for_the_next(tmp_path):
    path = tmp_path / "night.edf"
    tiny_recordings.write_edf(path, labels={"C3-M2": 20.0, "EEG C3-A2": 20.0, "ECG": 300.0})
    whole = path.read_bytes()
    at = 256 + 3 * (16 + 80 + 8)  # physical minimum, then maximum, of each signal
    path.write_bytes(
        whole[:at] + b"0       " + whole[at + 8 : at + 24] + b"0       " + whole[at + 32 :]
    )
    prepare(tmp_path, tmp_path / "out")
    (night,) = store.NightStore(tmp_path / "out").nights
    assert night.channels == ("eeg_c3", "ecg")
    assert night.qc["channels"]["eeg_c3"]["label"] == "EEG C3-A2"
