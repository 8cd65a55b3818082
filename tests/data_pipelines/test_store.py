"""Stores of nights: what is written is what is read, and wreckage is found."""

import concurrent.futures
import json
import pathlib
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines import store
from data_pipelines.builders import night_builder
from data_pipelines.scoring import Event

MODALITIES = [
    {"name": "eeg_c3", "levels": 3, "codes": 16, "channel_id": 0, "signal_type": "eeg"},
    {"name": "ecg", "levels": 2, "codes": 16, "channel_id": 5, "signal_type": "ecg"},
]


def simulated_night(name, *, seconds=700, seed=0, split="train", channels=(("eeg_c3", 128),)):
    rng = np.random.default_rng([seed, seconds])
    signals = {}
    for channel, rate in channels:
        valid = rng.random(seconds) > 0.1
        samples = rng.standard_normal(seconds * rate).astype(np.float32)
        samples[~np.repeat(valid, rate)] = 0
        tracks = rng.standard_normal((seconds, 2)).astype(np.float32)
        tracks[~valid] = 0
        signals[channel] = store.ChannelSignal(channel, rate, samples, valid, tracks)
    return store.Night(
        recording=name,
        subject=f"subject of {name}",
        split=split,
        channels=signals,
        stages=rng.integers(-1, 5, seconds // 30).astype(np.int8),
        events=[Event("hypopnea", 12.5, 20.0), Event("arousal", 31.0, 3.0, "respiratory")],
        labels={"rhythm": "N"},
        metadata={"age": 40.0},
        qc={"mains_hz": 50},
    )


def simulated_tokens(name, *, seconds=700, seed=0, split="train"):
    rng = np.random.default_rng(seed)
    return store.TokenNight(
        recording=name,
        subject=name,
        split=split,
        codes=rng.integers(0, 16, (seconds, 5)).astype(np.uint16),
        present=np.array([True, seed % 2 == 0]),
        valid=rng.random((seconds, 2)) > 0.2,
        tracks=rng.standard_normal((seconds, 2, 2)).astype(np.float32),
        stages=rng.integers(-1, 5, seconds // 30).astype(np.int8),
    )


def write(folder, nights, kind="signals", **kwargs):
    items = {night.recording: night for night in nights}
    kwargs.setdefault("make_night", lambda night: night)
    return night_builder.write_store(folder, kind=kind, items=items, progress=False, **kwargs)


def contents(folder):
    """Every file of a folder by name, as bytes."""
    files = (path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def signals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signals")
    nights = [
        simulated_night("b/2", seconds=905, seed=2, channels=(("ecg", 128), ("resp_abd", 32))),
        simulated_night("a1", seconds=700, seed=1, channels=(("eeg_c3", 128), ("ecg", 128))),
        simulated_night("c", seconds=31, seed=3, split="test"),
    ]
    write(folder, nights)
    return folder, {night.recording: night for night in nights}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    nights = [
        simulated_tokens(f"n{seed}", seconds=500 + 300 * seed, seed=seed) for seed in range(3)
    ]
    write(folder, nights, "tokens", modalities=MODALITIES)
    return folder, {night.recording: night for night in nights}


def test_a_signal_store_returns_what_was_written(signals):
    folder, nights = signals
    opened = store.NightStore(folder)
    assert opened.kind == "signals"
    assert [night.recording for night in opened.nights] == ["a1", "b/2", "c"]
    for entry in opened.nights:
        night = nights[entry.recording]
        assert entry.channels == tuple(night.channels)
        assert (entry.subject, entry.split) == (night.subject, night.split)
        assert (entry.labels, entry.metadata, entry.qc) == (
            night.labels,
            night.metadata,
            night.qc,
        )
        np.testing.assert_array_equal(opened.stages(entry), night.stages)
        assert opened.events(entry) == night.events
        for name, channel in night.channels.items():
            read = opened.signal(entry, name, 0, entry.duration_s)
            step = np.abs(channel.samples).max() / 32767
            np.testing.assert_allclose(read, channel.samples, atol=0.51 * step)
            np.testing.assert_array_equal(
                opened.valid(entry, name, 0, entry.duration_s), channel.valid
            )
            np.testing.assert_array_equal(
                opened.tracks(entry, name, 0, entry.duration_s), channel.tracks
            )
    opened.verify()


@settings(max_examples=60, deadline=None)
@given(start=st.integers(-400, 1200), length=st.integers(0, 900), index=st.integers(0, 2))
def test_any_crop_is_the_padded_night_at_that_place(signals, start, length, index):
    folder, _ = signals
    opened = store.NightStore(folder)
    entry = opened.nights[index]
    channel = entry.channels[-1]
    rate = opened.rate_hz(channel)
    whole = opened.signal(entry, channel, 0, entry.duration_s)
    padded = np.concatenate([np.zeros(400 * rate), whole, np.zeros(2200 * rate)])
    crop = opened.signal(entry, channel, start, start + length)
    assert crop.dtype == np.float32
    np.testing.assert_array_equal(crop, padded[(400 + start) * rate :][: length * rate])
    valid = opened.valid(entry, channel, start, start + length)
    assert not crop.reshape(length, rate)[~valid].any()


@settings(max_examples=40, deadline=None)
@given(start=st.integers(-600, 1500), length=st.integers(0, 1300), index=st.integers(0, 2))
def test_any_window_of_tokens_is_the_padded_night_at_that_place(tokens, start, length, index):
    folder, nights = tokens
    opened = store.NightStore(folder)
    entry = opened.nights[index]
    night = nights[entry.recording]
    inside = np.arange(start, start + length)
    inside = (inside >= 0) & (inside < night.duration_s)
    rows = np.arange(start, start + length)[inside]
    for read, written in (
        (opened.codes(entry, start, start + length), night.codes),
        (opened.token_valid(entry, start, start + length), night.valid),
        (opened.token_tracks(entry, start, start + length), night.tracks),
    ):
        assert read.dtype == written.dtype and read.shape == (length, *written.shape[1:])
        np.testing.assert_array_equal(read[inside], written[rows])
        assert not read[~inside].any()
    np.testing.assert_array_equal(opened.present(entry), night.present)
    assert opened.modalities == MODALITIES


def test_select_takes_split_and_channel(signals):
    opened = store.NightStore(signals[0])
    assert [n.recording for n in opened.select(split="test")] == ["c"]
    assert [n.recording for n in opened.select(channel="ecg")] == ["a1", "b/2"]
    assert [n.recording for n in opened.select("train", "resp_abd")] == ["b/2"]
    assert not opened.signal(opened.select("test")[0], "ecg", 0, 4).any()


def test_a_copy_of_a_store_reads_in_threads(signals):
    opened = pickle.loads(pickle.dumps(store.NightStore(signals[0])))
    entry = opened.nights[0]
    expected = opened.signal(entry, "ecg", 290, 310)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for read in pool.map(lambda _: opened.signal(entry, "ecg", 290, 310), range(200)):
            np.testing.assert_array_equal(read, expected)


def test_tfds_reads_the_records_without_tensorflow(signals):
    import sys

    import tensorflow_datasets as tfds

    folder, nights = signals
    records = next(folder.glob("records-*")) / "nights" / "1.0.0"
    source = tfds.builder_from_directory(records).as_data_source("train")
    first = source[0]
    assert first["recording"] == b"a1" and first["channel"] == b"eeg_c3"
    entry = store.NightStore(folder).nights[0]
    samples = store.NightStore(folder).signal(entry, "eeg_c3", 0, 700)
    np.testing.assert_allclose(first["samples"] * first["scale"], samples, rtol=1e-6)
    np.testing.assert_array_equal(first["stages"], nights["a1"].stages)
    assert "tensorflow" not in sys.modules


def test_the_same_nights_give_the_same_bytes_in_any_order_and_in_two_steps(tmp_path, signals):
    folder, nights = signals
    reverse = list(nights.values())[::-1]
    write(tmp_path / "reverse", reverse)
    assert contents(tmp_path / "reverse") == contents(folder)
    write(tmp_path / "steps", reverse[:1])
    summary = write(tmp_path / "steps", reverse)
    assert summary.kept == ["c"] and summary.added == ["a1", "b/2"]
    assert contents(tmp_path / "steps") == contents(folder)


def test_tokens_may_be_added_to(tmp_path, tokens):
    folder, nights = tokens
    for count in (1, 3):
        write(tmp_path, list(nights.values())[:count], "tokens", modalities=MODALITIES)
    assert contents(tmp_path) == contents(folder)


def test_a_finished_store_is_left_alone(tmp_path):
    calls = []

    def make(night):
        calls.append(night.recording)
        return night

    for _ in range(2):
        write(tmp_path, [simulated_night("a", seconds=60)], make_night=make)
    assert calls == ["a"]


def test_other_settings_are_refused(tmp_path):
    write(tmp_path, [simulated_night("a", seconds=60)], provenance={"mains_hz": 50})
    with pytest.raises(store.StoreError, match="mains_hz=50.*60"):
        write(tmp_path, [simulated_night("b", seconds=60)], provenance={"mains_hz": 60})


def test_a_bad_recording_is_a_line_of_rejects(tmp_path):
    def make(night):
        if night.recording == "bad":
            raise ValueError("its header says -1 signals")
        if night.recording == "odd":
            raise KeyError("John Doe, 1961")
        return night

    nights = [simulated_night(name, seconds=60) for name in ("bad", "good", "odd")]
    summary = write(tmp_path, nights, make_night=make)
    assert summary.added == ["good"]
    lines = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    assert lines[0] == {"recording": "bad", "reason": "its header says -1 signals"}
    assert lines[1]["reason"].startswith("unexpected KeyError at test_store.py")
    assert "John" not in (tmp_path / "rejects.jsonl").read_text()


def test_a_night_with_values_that_are_not_numbers_is_rejected(tmp_path):
    night = simulated_night("a", seconds=60)
    night.channels["eeg_c3"].samples[:] = np.nan
    assert "not finite" in write(tmp_path, [night]).rejected[0][1]


def test_damage_is_found(tmp_path):
    write(tmp_path, [simulated_night("a", seconds=60)])
    shard = next(tmp_path.rglob("*.array_record*"))
    flipped = bytearray(shard.read_bytes())
    flipped[5000] ^= 1
    shard.write_bytes(flipped)
    with pytest.raises(store.StoreError, match="is not the file that was prepared"):
        store.NightStore(tmp_path).verify()
    shard.unlink()
    with pytest.raises(store.StoreError, match="missing"):
        store.NightStore(tmp_path)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", ""])
def test_a_manifest_cannot_point_outside_its_folder(tmp_path, name):
    write(tmp_path, [simulated_night("a", seconds=60)])
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["records"]["train"][0]["path"] = name
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(store.StoreError, match="outside the store"):
        store.NightStore(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "other/9"}', "\x00"])
def test_what_is_not_a_store_is_said_clearly(tmp_path, text):
    with pytest.raises(store.StoreError, match="no manifest.json"):
        store.NightStore(tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(store.StoreError):
        store.NightStore(tmp_path)
