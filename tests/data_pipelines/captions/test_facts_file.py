"""Facts beside a store: what is written reads back, damage is told, a run goes on where it was."""

import dataclasses
import hashlib
import json
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from data_pipelines.captions import measures, micro_events, side_file, store_facts
from data_pipelines.captions.facts import Interval, PositionChange
from data_pipelines.captions.measures import night_facts
from data_pipelines.captions.side_file import DamagedFactsError, FactsFile
from data_pipelines.recipes import sleeplm
from data_pipelines.store import NightStore, StoreError
from data_pipelines.synthetic.tiny import write_tiny_modalities, write_tiny_nights

ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "store"
    write_tiny_modalities(folder, nights=3, tokens=6, recipe="sleeplm", names=sleeplm.TWELVE)
    return folder


@pytest.fixture
def store(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "store")
    return NightStore(tmp_path / "store")


def contents(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("*")}


def test_facts_read_back_as_they_were_measured(store):
    night = store.nights[0]
    facts = night_facts(store, night)
    some = facts.events[0] or ()
    facts = dataclasses.replace(
        facts,
        events=[(*some, Interval(1 / 3, 30.0, "RERA", True, True)), None, (), *facts.events[3:]],
        position_changes=[(PositionChange(7.25, "prone"),), *facts.position_changes[1:]],
    )
    side_file.write(store, night, facts)
    found = pickle.loads(pickle.dumps(FactsFile(store)))
    assert [found.facts(night, e) for e in range(6)] == [facts.epoch(e) for e in range(6)]
    assert found.night(night).numbers.keys() == facts.numbers.keys()
    for name, column in facts.numbers.items():
        np.testing.assert_array_equal(found.night(night).numbers[name], column)
    store.verify()


def test_a_store_has_units_back_and_position_codes_whole(store):
    night = store.nights[0]
    facts = night_facts(store, night)
    codes = store.signal(night, "position", 0, night.duration_s)
    assert np.abs(codes - np.rint(codes)).max() < 1e-3
    assert set(facts.position.tolist()) == set(np.rint(codes).astype(int).tolist())
    oxygen = store.signal(night, "spo2", 0, 30) * 5 + 95
    fine = oxygen[(oxygen >= 50) & (oxygen <= 100)]
    assert facts.numbers["spo2.min"][0] == pytest.approx(fine.min(), abs=1e-4) or len(fine) < 24


def test_damage_and_what_is_missing_are_told(store, monkeypatch):
    night, other = store.nights[:2]
    path = side_file.write(store, night, night_facts(store, night))
    whole = path.read_bytes()
    with pytest.raises(StoreError, match="launch.caption_nights --nights="):
        FactsFile(store).night(other)
    for damaged in (whole[:-1], whole[:400] + b"x" + whole[401:], b"", b"{}\n", b"[1]\n\n"):
        path.write_bytes(damaged)
        assert not FactsFile(store).has(night)
        with pytest.raises(DamagedFactsError, match=path.name):
            FactsFile(store).facts(night, 0)
    path.write_bytes(whole)
    assert FactsFile(store).has(night)
    # Facts of other measures, or of a night that was prepared anew, are none.
    monkeypatch.setattr(measures, "VERSION", measures.VERSION + 1)
    assert not FactsFile(store).has(night)
    monkeypatch.undo()
    anew = dataclasses.replace(night, qc={"scaling": night.qc["scaling"] | {"ecg": [0.0, 1.0]}})
    assert not FactsFile(store).has(anew)


def test_nights_are_measured_anew_for_micro_events_and_kept_without(store, monkeypatch):
    count = np.arange(6.0)
    found = {"eeg_c3.spindles": count, "eeg_c3.slow_wave_s": np.full(6, np.nan)}
    monkeypatch.setattr(micro_events, "measure", lambda signals, stages: found)
    assert len(store_facts.measure_store(store).added) == 3
    night = store.nights[0]
    assert "eeg_c3.spindles" not in FactsFile(store).night(night).numbers
    for version, added in (("yasa 1", 3), ("yasa 1", 0), ("yasa 2", 3), (None, 0)):
        assert len(store_facts.measure_store(store, micro_events=version).added) == added
        assert FactsFile(store).has(night, micro_events="yasa 1") == (version == "yasa 1")
    facts = FactsFile(store).facts(night, 5)
    assert facts.numbers["eeg_c3.spindles"] == 5 and "eeg_c3.slow_wave_s" not in facts.numbers
    assert "eeg_c3.spindles" not in facts.printed().numbers  # no caption says it
    assert store_facts.gated(store)["eeg_c4.spindles"].nights == 0


def test_a_store_is_measured_to_the_same_bytes_after_an_interruption(store, tmp_path):
    facts = store.path / side_file.FOLDER
    whole = store_facts.measure_store(store)
    assert (len(whole.added), whole.kept, whole.damaged) == (3, [], [])
    expected = contents(facts)
    shutil.rmtree(facts)

    def stop(name):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store_facts.measure_store(store, finished=stop)
    (facts / ".x.facts.partial-0").write_bytes(b"half")
    (facts / "0123.facts").write_bytes(b"of a night that is gone")
    again = store_facts.measure_store(store)
    assert (len(again.added), len(again.kept)) == (2, 1) and contents(facts) == expected
    gated = store_facts.gated(store)
    assert gated["eeg_c3.delta"] == store_facts.Gated(3, 0.0) and gated["ecg.rate"].share > 0.9


def test_a_damaged_night_is_left_out_and_told(store):
    shard = next(p for p in store.path.glob("records-*/nights/1.0.0/*train*") if "record" in p.name)
    data = bytearray(shard.read_bytes())
    data[len(data) // 4] ^= 255
    shard.write_bytes(data)
    summary = store_facts.measure_store(NightStore(store.path))
    assert len(summary.damaged) == 1 and len(summary.added) == 2
    name, reason = summary.damaged[0]
    assert f"night {name!r}" in reason and "is damaged" in reason


def test_stores_of_other_recipes_are_refused(tmp_path):
    write_tiny_nights(tmp_path / "hypnos", nights=1, minutes=3.5)
    with pytest.raises(StoreError, match="--recipe=sleeplm --channels=twelve"):
        store_facts.measure_store(NightStore(tmp_path / "hypnos"))


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_to_the_same_bytes(tmp_path):
    folder = tmp_path / "store"
    write_tiny_modalities(folder, nights=8, tokens=240, recipe="sleeplm", names=sleeplm.TWELVE)
    facts = folder / side_file.FOLDER
    command = [sys.executable, "-m", "launch.caption_nights", f"--nights={folder}", "--jobs=2"]
    kills = 0
    while not facts.is_dir() or len([*facts.glob("*.facts")]) < 5:
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        before = len([*facts.glob("*.facts")]) if facts.is_dir() else 0
        while not facts.is_dir() or len([*facts.glob("*.facts")]) <= before:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "facts of" in done.stdout and "0 damaged" in done.stdout
    found = contents(facts)
    shutil.rmtree(facts)
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    assert contents(facts) == found and len(found) == 8
    assert json.loads((folder / "manifest.json").read_text())["files"]
    NightStore(folder).verify()
