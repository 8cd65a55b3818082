"""A locked test split: nothing reads its nights, and each opening is written down."""

import json

import pytest

from data_pipelines import held_out
from data_pipelines.store import NightStore, StoreError
from data_pipelines.synthetic.tiny import write_tiny_nights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("locked") / "nights"
    write_tiny_nights(path, minutes=3.6)
    return path


def read_all(store, split):
    """Every way to the nights of a split, and how many refuse."""
    refused = 0
    night = store.select(split)[0]
    channel = night.channels[0]
    for read in (
        lambda: store.signal(night, channel, 0, 10),
        lambda: store.stored(night, channel, "samples"),
        lambda: store.stages(night),
        lambda: store.events(night),
    ):
        try:
            read()
        except StoreError as error:
            assert "launch.open_test" in str(error)
            refused += 1
    return refused


def test_test_nights_of_a_locked_store_are_read_by_nobody(folder, monkeypatch):
    assert [read_all(NightStore(folder), split) for split in ("train", "test")] == [0, 0]
    held_out.lock(folder)
    held_out.lock(folder)  # once is enough
    locked = NightStore(folder)
    assert [read_all(locked, split) for split in ("train", "validation", "test")] == [0, 0, 4]
    assert held_out.openings(folder) == []
    assert held_out.record_opening(folder, ["launch.evaluate", "--workdir=W"], "abc") == 1
    assert held_out.record_opening(folder, ["launch.compare"]) == 2
    assert read_all(NightStore(folder), "test") == 4  # written down, and still for that command
    other = held_out.environment([folder / "elsewhere"])[held_out.OPEN]
    monkeypatch.setenv(held_out.OPEN, other)
    assert read_all(NightStore(folder), "test") == 4
    monkeypatch.setenv(held_out.OPEN, held_out.environment([folder])[held_out.OPEN])
    assert read_all(NightStore(folder), "test") == 0
    lines = [json.loads(x) for x in (folder / held_out.FILE).read_text().splitlines()]
    assert [sorted(x) for x in lines] == [["locked"], *[["command", "model", "opened"]] * 2]
    assert lines[1]["model"] == "abc" and lines[1]["command"][0] == "launch.evaluate"


def test_an_opening_needs_a_lock(tmp_path):
    with pytest.raises(ValueError, match="--lock locks it"):
        held_out.record_opening(tmp_path, ["launch.evaluate"])
