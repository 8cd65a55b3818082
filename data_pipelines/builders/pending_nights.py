"""Nights that are prepared but not yet in a store: one file each, written whole or not at all.

The file is an uncompressed ``.npz`` without object arrays; the zip members carry a CRC, so a file
that a crash or a disk damaged is found when read and its night is prepared again.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import zipfile

import numpy as np

from data_pipelines.store import (
    EPOCH_S,
    SEGMENT_S,
    Night,
    NightEntry,
    NightStore,
    TokenNight,
    parse_record,
    quantize,
)


def file_name(recording: str) -> str:
    """A short file name for any recording name, however long or odd."""
    return hashlib.sha256(recording.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def write_whole(path: pathlib.Path, write, *, work: pathlib.Path | None = None):
    """Call ``write(file)`` on a temporary file and rename it into place once it is on the disk.

    The temporary file is beside ``path``, or in the folder ``work`` of the same file system.
    """
    temporary = (work or path.parent) / f"{path.name}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_night(path: pathlib.Path, night: Night | TokenNight):
    """Write one prepared night, signals rounded to int16 with a scale per segment."""
    facts = {
        "recording": night.recording,
        "subject": night.subject,
        "split": night.split,
        "duration_s": night.duration_s,
        "labels": night.labels,
        "metadata": night.metadata,
        "qc": night.qc,
        "events": [list(dataclasses.astuple(event)) for event in night.events],
    }
    if isinstance(night, Night):
        arrays = _signal_arrays(night)
        facts["channels"] = [[c.name, c.rate_hz] for c in night.channels.values()]
    else:
        arrays = {key: getattr(night, key) for key in ("codes", "present", "valid", "tracks")}
        arrays["codes"] = arrays["codes"].astype(np.uint16)
        arrays["tracks"] = arrays["tracks"].astype(np.float32)
    arrays["stages"] = np.asarray(night.stages, np.int8)
    text = json.dumps(facts, sort_keys=True, allow_nan=False).encode()
    arrays["facts"] = np.frombuffer(text, np.uint8)
    write_whole(path, lambda file: np.savez(file, allow_pickle=False, **arrays))


def _signal_arrays(night):
    arrays = {}
    for name, channel in night.channels.items():
        if name != channel.name:
            raise ValueError(f"night {night.recording}: channel {channel.name} filed as {name}")
        seconds, rate = len(channel.valid), channel.rate_hz
        if channel.samples.shape != (seconds * rate,) or channel.tracks.shape != (seconds, 2):
            raise ValueError(
                f"night {night.recording}, channel {name}: {channel.samples.shape} samples and "
                f"{channel.tracks.shape} tracks do not fit {seconds} s at {rate} Hz"
            )
        missing = night.duration_s - seconds
        valid = np.pad(np.asarray(channel.valid, bool), (0, missing))
        samples = np.pad(np.asarray(channel.samples, np.float32), (0, missing * rate))
        samples = np.where(np.repeat(valid, rate), samples, np.float32(0))
        tracks = np.pad(np.asarray(channel.tracks, np.float32), ((0, missing), (0, 0)))
        if not (np.isfinite(samples).all() and np.isfinite(tracks[valid]).all()):
            raise ValueError(f"night {night.recording}, channel {name}: not finite where valid")
        step = SEGMENT_S["signals"] * rate
        parts = [quantize(samples[at : at + step]) for at in range(0, len(samples), step)]
        arrays[f"{name}/samples"] = np.concatenate([part for part, _ in parts])
        arrays[f"{name}/scale"] = np.array([scale for _, scale in parts], np.float32)
        arrays[f"{name}/valid"] = valid
        arrays[f"{name}/tracks"] = np.where(valid[:, None], tracks, np.float32(0))
    return arrays


class PendingNight:
    """A prepared night that waits on disk; ``records()`` yields its TFDS examples in order.

    Raises:
        ValueError: The file is damaged.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        with self._open() as arrays:
            self.facts = json.loads(arrays["facts"].tobytes())
            self.stages = arrays["stages"]
            if "codes" in arrays:
                self.present = arrays["present"]

    def check(self):
        """Read every member, so that each CRC is compared."""
        with self._open() as arrays:
            for name in arrays.files:
                arrays[name]

    @contextlib.contextmanager
    def _open(self):
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                yield arrays
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(f"{self.path} is damaged: {type(error).__name__}") from None

    def records(self):
        facts = self.facts
        with self._open() as arrays:
            if "codes" in arrays:
                yield from self._token_records(arrays)
                return
            step_s = SEGMENT_S["signals"]
            for name, rate in facts["channels"]:
                samples, scale, valid, tracks = (
                    arrays[f"{name}/{key}"] for key in ("samples", "scale", "valid", "tracks")
                )
                for segment, start in enumerate(range(0, facts["duration_s"], step_s)):
                    stop = start + step_s
                    yield {
                        "recording": facts["recording"],
                        "channel": name,
                        "segment": segment,
                        "rate_hz": rate,
                        "scale": scale[segment],
                        "samples": samples[start * rate : stop * rate],
                        "valid": valid[start:stop],
                        "tracks": tracks[start:stop],
                        "stages": _stages_within(self.stages, start, stop),
                    }

    def _token_records(self, arrays):
        codes, valid, tracks = arrays["codes"], arrays["valid"], arrays["tracks"]
        step_s = SEGMENT_S["tokens"]
        for segment, start in enumerate(range(0, self.facts["duration_s"], step_s)):
            stop = start + step_s
            yield {
                "recording": self.facts["recording"],
                "segment": segment,
                "codes": codes[start:stop],
                "present": self.present,
                "valid": valid[start:stop],
                "tracks": tracks[start:stop],
                "stages": _stages_within(self.stages, start, stop),
            }


class StoredNight:
    """A night of an existing store, offered like a pending one so that a new store can keep it."""

    def __init__(self, store: NightStore, entry: NightEntry):
        self.store, self.entry = store, entry
        self.stages = store.stages(entry)
        self.facts = {
            "recording": entry.recording,
            "subject": entry.subject,
            "split": entry.split,
            "duration_s": entry.duration_s,
            "labels": entry.labels,
            "metadata": entry.metadata,
            "qc": entry.qc,
            "events": store.scoring_line(entry)["events"],
        }
        if store.kind == "signals":
            self.facts["channels"] = [[name, store.rate_hz(name)] for name in entry.channels]
        else:
            self.present = store.present(entry)

    def records(self):
        for record in self.store.records(self.entry):
            yield _example(parse_record(record), self.store)


def _example(features, store):
    def array(key, dtype, *shape):
        return np.frombuffer(features[key].bytes_list.value[0], dtype).reshape(-1, *shape)

    example = {
        "recording": features["recording"].bytes_list.value[0],
        "segment": features["segment"].int64_list.value[0],
        "stages": array("stages", np.int8),
    }
    if store.kind == "signals":
        return example | {
            "channel": features["channel"].bytes_list.value[0],
            "rate_hz": features["rate_hz"].int64_list.value[0],
            "scale": np.float32(features["scale"].float_list.value[0]),
            "samples": array("samples", np.int16),
            "valid": array("valid", np.bool_),
            "tracks": array("tracks", np.float32, 2),
        }
    count = len(store.modalities)
    return example | {
        "codes": array("codes", np.uint16, sum(m["levels"] for m in store.modalities)),
        "present": array("present", np.bool_),
        "valid": array("valid", np.bool_, count),
        "tracks": array("tracks", np.float32, count, 2),
    }


def _stages_within(stages, start_s, stop_s):
    """Stages of the epochs that begin in ``[start_s, stop_s)``."""
    return stages[-(-start_s // EPOCH_S) : -(-stop_s // EPOCH_S)]
