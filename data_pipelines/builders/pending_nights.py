"""Nights that are prepared but not yet in a store: one file each, written whole or not at all.

The file is an uncompressed ``.npz`` without object arrays; the zip members carry a CRC, so a file
that a crash or a disk damaged is found when read and its night is prepared again.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import zipfile

import numpy as np

from data_pipelines.files import atomic_write
from data_pipelines.store import (
    Night,
    NightEntry,
    NightStore,
    TokenNight,
    quantize,
)


def file_name(recording: str) -> str:
    """A short file name for any recording name, however long or odd."""
    return hashlib.sha256(recording.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def write_night(path: pathlib.Path, night: Night | TokenNight):
    """Write one prepared night, signals rounded to int16 with a scale for each."""
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
    with atomic_write(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


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
        arrays[f"{name}/samples"], arrays[f"{name}/scale"] = quantize(samples)
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
        with self._open() as arrays:
            if "codes" in arrays:
                fields = {key: arrays[key] for key in ("codes", "valid", "tracks")}
                yield _record(self, fields | {"present": self.present})
                return
            for name, rate in self.facts["channels"]:
                keys = ("samples", "scale", "valid", "tracks")
                fields = {key: arrays[f"{name}/{key}"] for key in keys}
                fields["scale"] = fields["scale"][()]
                yield _record(self, fields | {"channel": name, "rate_hz": rate})


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
        def stored(channel, field, *shape):
            values, scale = self.store.stored(self.entry, channel, field)
            return values.reshape(-1, *shape), scale

        if self.store.kind == "tokens":
            count = len(self.store.modalities)
            fields = {
                "codes": stored(None, "codes", self.store.code_width)[0],
                "valid": stored(None, "valid", count)[0],
                "tracks": stored(None, "tracks", count, 2)[0],
            }
            yield _record(self, fields | {"present": self.present})
            return
        for name, rate in self.facts["channels"]:
            samples, scale = stored(name, "samples")
            fields = {"samples": samples, "scale": scale, "valid": stored(name, "valid")[0]}
            fields |= {"tracks": stored(name, "tracks", 2)[0]}
            yield _record(self, fields | {"channel": name, "rate_hz": rate})


def _record(night, fields):
    return fields | {"recording": night.facts["recording"], "stages": night.stages}
