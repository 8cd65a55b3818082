"""Prepared nights on disk, and reading them: signal nights and token nights.

A store is a folder::

    manifest.json                     what is inside, with the sha256 of every other file
    rejects.jsonl                     recordings that were not prepared, and why
    records-<digest>/scoring.jsonl    one line per night: its stages and events
    records-<digest>/nights/1.0.0/    an ArrayRecord data set as TFDS writes it, split by subject

A store of tokens may hold ``phases/<fraction of a second>/``, stores of their own: its nights of
training on grids that begin so much later.

One record is one channel of a night (signals) or all modalities of one (tokens), uncompressed: what
is recorded is mostly noise, which zstd makes 7 % smaller and much slower. A crop reads its own
bytes and no others, at the places that a shard's index (``.npy``) gives. Before the first of them
the whole record is read once and compared with the hash that is stored beside it, so that damage is
an error that names the night (``DamagedRecordError``) and never a signal. TFDS reads the folder too
(``tfds.builder_from_directory``); :meth:`NightStore.verify` checks all files at once.
"""

import bisect
import dataclasses
import functools
import hashlib
import json
import pathlib
import threading
import typing

import numpy as np

from data_pipelines import held_out
from data_pipelines.record_bytes import read_bytes, read_into

if typing.TYPE_CHECKING:  # sampling crops needs no scoring parsers
    from data_pipelines.scoring import Event

FORMAT = "hypnos_jax.nights/2"
KINDS = ("signals", "tokens")
SPLITS = ("train", "validation", "test")
EPOCH_S = 30
SEXES = {
    **dict.fromkeys(("male", "m", "1", "1.0", "x"), 1),
    **dict.fromkeys(("female", "f", "0", "0.0"), 0),
}
INT16_PEAK = 32767
PHASES = "phases"  # of a store of tokens: folder of stores of the same nights on shifted grids
STORED = {"samples": np.int16, "codes": np.uint16, "valid": np.bool_, "tracks": np.float32}
STORED = {field: np.dtype(kind) for field, kind in STORED.items()}
OPEN_FILES = 256  # ours: of the 1024 that a process may have open by default
OPEN_READERS = 16  # ours: each is used once per record, and opened in 3 ms

# np.load parses headers with ast.literal_eval, which in CPython 3.11 raises SystemError now and
# then where two threads are in it; readers of batches are threads.
READING_HEADERS = threading.Lock()


class StoreError(ValueError):
    """The folder is not a store of nights, or is not what its manifest says."""


class DamagedRecordError(StoreError):
    """A night, or a channel of one, whose bytes are not those that were prepared."""


@dataclasses.dataclass(frozen=True)
class ChannelSignal:
    """One preprocessed channel of a night.

    Attributes:
        name: Canonical channel name.
        rate_hz: Samples per second.
        samples: ``[S * rate_hz]`` float32, z-scored and compressed; 0 in invalid seconds.
        valid: ``[S]`` bool, whether the second holds measured signal.
        tracks: ``[S, 2]`` float32, mean and log standard deviation of the second in the channel's
            physical unit (before z-scoring); 0 in invalid seconds.
    """

    name: str
    rate_hz: int
    samples: np.ndarray
    valid: np.ndarray
    tracks: np.ndarray


@dataclasses.dataclass(frozen=True)
class Night:
    """One recording, preprocessed. ``stages`` is int8 ``[E]`` on the recording's 30-s grid."""

    recording: str
    subject: str
    split: str
    channels: dict[str, ChannelSignal]
    stages: np.ndarray
    events: list["Event"] = dataclasses.field(default_factory=list)
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    metadata: dict = dataclasses.field(default_factory=dict)
    qc: dict = dataclasses.field(default_factory=dict)

    @property
    def duration_s(self) -> int:
        return max((len(channel.valid) for channel in self.channels.values()), default=0)


@dataclasses.dataclass(frozen=True)
class TokenNight:
    """One recording as tokens: one row of codes per second.

    Attributes:
        codes: ``[S, sumK]`` uint16, all levels of all modalities in the store's order; 0 if absent.
        present: ``[M]`` bool, whether the recording has the modality at all.
        valid: ``[S, M]`` bool, whether the second of the modality held measured signal.
        tracks: ``[S, M, 2]`` float32, as :class:`ChannelSignal`.
    """

    recording: str
    subject: str
    split: str
    codes: np.ndarray
    present: np.ndarray
    valid: np.ndarray
    tracks: np.ndarray
    stages: np.ndarray
    events: list["Event"] = dataclasses.field(default_factory=list)
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    metadata: dict = dataclasses.field(default_factory=dict)
    qc: dict = dataclasses.field(default_factory=dict)

    @property
    def duration_s(self) -> int:
        return len(self.codes)


@dataclasses.dataclass(frozen=True)
class NightEntry:
    """The manifest's entry of one night; ``first_record`` counts records within its split."""

    recording: str
    subject: str
    split: str
    duration_s: int
    channels: tuple[str, ...]
    labels: dict[str, str]
    metadata: dict
    qc: dict
    first_record: int
    scoring_span: tuple[int, int]


class NightStore:
    """Random access to the nights of a folder; see the module for the layout.

    Safe to share between threads, and picklable: a copy reopens the files when first used.

    Args:
        path: The folder that holds ``manifest.json``.

    Raises:
        StoreError: The folder holds no manifest, or one of another format, or a file is missing.
    """

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.manifest = _read_manifest(self.path)
        self.kind: str = self.manifest["kind"]
        # {"name", "version"} of what prepared the signals; see data_pipelines.recipes.
        self.recipe: dict | None = self.manifest.get("recipe")
        self.nights: list[NightEntry] = [_entry(row) for row in self.manifest["nights"]]
        self.modalities: list[dict] = self.manifest.get("modalities", [])
        self.code_width: int = sum(modality["levels"] for modality in self.modalities)
        self._rates = {c["name"]: c["rate_hz"] for c in self.manifest.get("channels", [])}
        self._shards = {}  # split -> (paths, index of the first record of each path)
        for split, shards in self.manifest["records"].items():
            starts = np.cumsum([0, *(shard["records"] for shard in shards)])
            paths = [inside(self.path, shard["path"]) for shard in shards]
            for file in (*paths, *map(index_of, paths)):
                if not file.is_file():
                    raise StoreError(
                        f"{self.path}: {file} is missing; delete the folder and prepare it again"
                    )
            self._shards[split] = (paths, starts.tolist())
        self._open = functools.lru_cache(OPEN_FILES)(functools.partial(open, mode="rb"))
        self._records = functools.lru_cache(OPEN_READERS)(_open_records)
        self._index = functools.cache(self._load_index)
        self._checked: dict[tuple, str | None] = {}  # record -> what is wrong with it
        # Splits whose nights this process may not read; see data_pipelines.held_out.
        self.closed: tuple[str, ...] = () if held_out.may_read(self.path) else ("test",)

    def __getstate__(self):
        return {"path": self.path}

    def __setstate__(self, state):
        self.__init__(state["path"])

    def __repr__(self):
        return f"NightStore({str(self.path)!r}, {self.kind}, {len(self.nights)} nights)"

    def select(self, split: str | None = None, channel: str | None = None) -> list[NightEntry]:
        """List the nights of a split that have a channel; None takes all."""
        return [
            night
            for night in self.nights
            if split in (None, night.split) and (channel is None or channel in night.channels)
        ]

    def rate_hz(self, channel: str) -> int:
        """Samples per second of a channel of a signal store."""
        if channel not in self._rates:
            raise StoreError(f"{self.path}: no channel {channel!r}; there are {list(self._rates)}")
        return self._rates[channel]

    def signal(self, night: NightEntry, channel: str, start_s: int, stop_s: int) -> np.ndarray:
        """Read ``[(stop_s - start_s) * rate]`` float32; 0 where invalid or outside the night."""
        signal = np.zeros((stop_s - start_s, self.rate_hz(channel)), np.float32)
        signal *= self.fill(night, channel, start_s, samples=signal)
        return signal.reshape(-1)

    def valid(self, night: NightEntry, channel: str, start_s: int, stop_s: int) -> np.ndarray:
        """Read bool ``[stop_s - start_s]``: which seconds hold measured signal."""
        valid = np.zeros(stop_s - start_s, bool)
        self.fill(night, channel, start_s, valid=valid)
        return valid

    def tracks(self, night: NightEntry, channel: str, start_s: int, stop_s: int) -> np.ndarray:
        """Read float32 ``[stop_s - start_s, 2]``: mean and log std in the physical unit."""
        tracks = np.zeros((stop_s - start_s, 2), np.float32)
        self.fill(night, channel, start_s, tracks=tracks)
        return tracks

    def channel(self, night: NightEntry, channel: str) -> ChannelSignal:
        """Read a whole channel of a night of a signal store."""
        whole = (night, channel, 0, night.duration_s)
        return ChannelSignal(
            channel,
            self.rate_hz(channel),
            self.signal(*whole),
            self.valid(*whole),
            self.tracks(*whole),
        )

    def codes(self, night: NightEntry, start_s: int, stop_s: int) -> np.ndarray:
        """Read uint16 ``[stop_s - start_s, sumK]``; 0 outside the night."""
        codes = np.zeros((stop_s - start_s, self.code_width), np.uint16)
        self.fill(night, None, start_s, codes=codes)
        return codes

    def columns(self, rows: list[dict]) -> np.ndarray:
        """Return which columns of the codes some modalities of a model are, int [their levels].

        Args:
            rows: ``{name, levels}`` each, with ``timing`` and ``timing_by`` where the model reads
                timing levels; a model may leave out a modality's timing levels, or all others.

        Raises:
            StoreError: the store lacks such a modality or has other levels of it.
        """
        names = [modality["name"] for modality in self.modalities]
        stops = np.cumsum([modality["levels"] for modality in self.modalities])
        columns = []
        for row in rows:
            if row["name"] not in names:
                raise StoreError(f"{self.path} has no modality {row['name']!r}; it has {names}")
            place = names.index(row["name"])
            stored = self.modalities[place]
            timing, others = len(row.get("timing", ())), len(stored.get("timing", ()))
            plain = row["levels"] - timing
            if plain not in (0, stored["levels"] - others) or (
                timing and row["timing_by"] != stored.get("timing_by")
            ):
                there = stored.get("timing_by", "none")
                raise StoreError(
                    f"{self.path} has of {row['name']} {stored['levels'] - others} levels of a"
                    f" tokenizer, and timing levels: {there}; wanted are {plain} levels, and"
                    f" timing levels: {row.get('timing_by', 'none')}"
                )
            stop = stops[place]
            columns += range(stop - stored["levels"], stop - stored["levels"] + plain)
            columns += range(stop - timing, stop)
        return np.array(columns)

    def present(self, night: NightEntry) -> np.ndarray:
        """Bool ``[M]``: which modalities the recording has at all."""
        return np.array([m["name"] in night.channels for m in self.modalities], bool)

    def token_valid(self, night: NightEntry, start_s: int, stop_s: int) -> np.ndarray:
        """Read bool ``[stop_s - start_s, M]``."""
        valid = np.zeros((stop_s - start_s, len(self.modalities)), bool)
        self.fill(night, None, start_s, valid=valid)
        return valid

    def token_tracks(self, night: NightEntry, start_s: int, stop_s: int) -> np.ndarray:
        """Read float32 ``[stop_s - start_s, M, 2]``."""
        tracks = np.zeros((stop_s - start_s, len(self.modalities), 2), np.float32)
        self.fill(night, None, start_s, tracks=tracks)
        return tracks

    def fill(
        self, night: NightEntry, channel: str | None, start_s: int, **fields: np.ndarray
    ) -> np.float32:
        """Read several fields of one crop at once, into arrays of zeros.

        Args:
            night: the night.
            channel: one of a signal store's; None for a token store.
            start_s: the crop's first second; what lies outside the night is left as it is.
            fields: ``samples`` ``[S, rate]``, ``codes``, ``valid`` or ``tracks`` with a row per
                second, of any dtype that holds the values.

        Returns:
            What ``samples``, as stored, are to be multiplied with.

        Raises:
            DamagedRecordError: the record cannot be read, or is not what was prepared.
        """
        low, high = max(start_s, 0), start_s + len(next(iter(fields.values())))
        high = min(high, night.duration_s)
        shard, row = self._row(night, channel)
        if low >= high or row is None:
            return np.float32(1)
        self._check(night, channel, shard, row)
        index = self._index(shard)
        for field, out in fields.items():
            out = out[low - start_s : high - start_s]
            if out.dtype == STORED[field] and out.flags.c_contiguous:
                place = index[field][row] + low * (out.nbytes // len(out))
                read_into(self._open(shard), place, out)
            else:
                out[...] = self._read(night, shard, row, field, low, high).reshape(out.shape)
        return index["scale"][row]

    def stored(self, night: NightEntry, channel: str | None, field: str):
        """Read a field of a whole night as it is stored, flat; and the scale of its samples."""
        shard, row = self._row(night, channel)
        self._check(night, channel, shard, row)
        values = self._read(night, shard, row, field, 0, night.duration_s)
        return values, self._index(shard)["scale"][row]

    def _allow(self, night):
        """Refuse a night of a locked split: all reading of signals and of scorings passes here."""
        if night.split in self.closed:
            raise StoreError(
                f"{self.path}: {night.recording!r} is a test night, and these are locked; python -m"
                " launch.open_test opens them for one command, and writes it down"
            )

    def _row(self, night, channel):
        """The shard of a night, and the row of its record; None where it has no such channel."""
        kind = "tokens" if channel is None else "signals"
        if kind != self.kind:
            raise StoreError(f"{self.path} holds {self.kind}, not {kind}")
        self._allow(night)
        paths, starts = self._shards[night.split]
        shard = bisect.bisect_right(starts, night.first_record) - 1  # a night lies in one
        row = night.first_record - starts[shard]
        if channel is not None:
            row = row + night.channels.index(channel) if channel in night.channels else None
        return paths[shard], row

    def _check(self, night, channel, shard, row):
        """Raise where a record is damaged; reads it whole the first time that it is asked for."""
        if (shard, row) not in self._checked:
            try:
                self._index(shard)
                self._records(shard).read([row])  # compares the hash of the record
                wrong = None
            except (StoreError, OSError, RuntimeError, IndexError, ValueError) as error:
                wrong = str(error).partition("; ")[0][:200]
            self._checked[shard, row] = wrong
        if self._checked[shard, row] is not None:
            of = f"channel {channel!r} of " if channel is not None else ""
            raise DamagedRecordError(
                f"{self.path}: {of}night {night.recording!r}, record {row} of"
                f" {shard.relative_to(self.path)}, is damaged: {self._checked[shard, row]}. Bring"
                " back a copy of the store, or prepare it again"
            )

    def _load_index(self, path):
        file = index_of(path)
        name = str(file.relative_to(self.path))
        if sha256(file) != self.manifest["files"].get(name):
            raise StoreError(f"{name} is not the file that was prepared")
        with READING_HEADERS:
            rows = np.load(file)
        # Lists, as an element of a list is found in a tenth of the time of one of an array.
        columns = {name: rows[name].tolist() for name in rows.dtype.names}
        return columns | {"scale": rows["scale"]}

    def _read(self, night, shard, row, field, start_s, stop_s):
        index = self._index(shard)
        size = index[f"{field}_bytes"][row] // night.duration_s  # of a second
        place = index[field][row] + start_s * size
        data = read_bytes(self._open(shard), place, (stop_s - start_s) * size)
        return np.frombuffer(data, STORED[field])

    def stages(self, night: NightEntry) -> np.ndarray:
        """Int8 ``[E]``: 0 W, 1 N1, 2 N2, 3 N3, 4 R, -1 unscored, from the recording's start."""
        text = self.scoring_line(night)["stages"]
        return np.array(["W123R".index(c) if c != "-" else -1 for c in text], np.int8)

    def events(self, night: NightEntry) -> list["Event"]:
        """The scored events of the night, by onset."""
        from data_pipelines.scoring import Event  # no parsers where crops are sampled

        return [Event(*row) for row in self.scoring_line(night)["events"]]

    def scoring_line(self, night: NightEntry) -> dict:
        """The stored line: ``stages`` as a string, ``events`` as rows of Event's fields."""
        self._allow(night)
        start, size = night.scoring_span
        with open(inside(self.path, self.manifest["scoring"]), "rb") as file:
            file.seek(start)
            try:
                return json.loads(file.read(size))
            except ValueError as error:
                raise DamagedRecordError(
                    f"{file.name}: the line of night {night.recording!r} is damaged: {error}"
                ) from None

    def verify(self):
        """Compare every file with the manifest.

        Raises:
            StoreError: A file is missing or its sha256 is not the manifest's.
        """
        for name, digest in self.manifest["files"].items():
            file = inside(self.path, name)
            if not file.is_file():
                raise StoreError(f"{self.path}: {name} is missing")
            if sha256(file) != digest:
                raise StoreError(f"{self.path}: {name} is not the file that was prepared")


def _open_records(path):
    from array_record.python.array_record_module import ArrayRecordReader

    return ArrayRecordReader(str(path), "readahead_buffer_size:0")


def index_of(path: pathlib.Path) -> pathlib.Path:
    """The index of a shard: a row per record, where its fields lie and how long they are."""
    return path.with_name(path.name.replace("array_record", "index") + ".npy")


def quantize(samples: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Round float32 samples to int16 steps of ``scale``; the error is at most half a step."""
    peak = float(np.max(np.abs(samples), initial=0.0))
    scale = np.float32(peak / INT16_PEAK) if peak > 0 else np.float32(1.0)
    steps = np.rint(samples / scale)
    return np.clip(steps, -INT16_PEAK, INT16_PEAK).astype(np.int16), scale


def inside(root: pathlib.Path, name: str) -> pathlib.Path:
    """Resolve a path of a manifest under its root.

    Raises:
        StoreError: The path is absolute or leaves the root.
    """
    path = pathlib.PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise StoreError(f"{root}: the manifest names a file outside the store: {name!r}")
    return root / path


def sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entry(row):
    return NightEntry(
        recording=row["recording"],
        subject=row["subject"],
        split=row["split"],
        duration_s=row["duration_s"],
        channels=tuple(row["channels"]),
        labels=row["labels"],
        metadata=row["metadata"],
        qc=row["qc"],
        first_record=row["first_record"],
        scoring_span=tuple(row["scoring_span"]),
    )


def _read_manifest(path):
    file = path / "manifest.json"
    if not file.is_file():
        raise StoreError(f"{path} is not a store of nights: it has no manifest.json")
    try:
        manifest = json.loads(file.read_text())
        form = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file} cannot be read as a manifest of nights: {error!r}") from None
    if form != FORMAT:
        raise StoreError(
            f"{file} has format {form!r}; this version reads {FORMAT!r}: delete the folder, or"
            " choose another, and prepare it again"
        )
    return manifest
