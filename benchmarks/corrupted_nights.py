"""What the guard notices of nights that are spoilt: confident and wrong, doubted, refused.

    python benchmarks/corrupted_nights.py --model=MODEL --recordings=DIR --output=DIR --nights=5000

``MODEL`` is an export with heads and a guard; ``DIR`` holds scored recordings of people whom
neither was fitted on. Pieces of half an hour are spoilt in one way each, as a recorder, a header or
a person spoils them, and scored as ``launch.score`` does. *Confident and wrong* is a piece with the
verdict ``ok`` and no finding about what was spoilt, in which the model keeps fewer than 80 % of the
clean piece's stages. *Noticed* is a verdict, reason or finding that names the spoilt channel or the
kind. Scorings that are shifted or of another night are told by ``heads.guard.scoring_reason``. A
child is an adult whose EEG is 2.5 times as large and whose heart and breath are 1.5 times as fast:
no child's recording is here.

The same command goes on where it was. Prints a table; ``corrupted.csv`` has a row a night.
"""

import csv
import dataclasses
import fractions
import pathlib
import zlib

import numpy as np
import tqdm
from absl import app, flags

from data_pipelines.builders import folder
from data_pipelines.builders.recording_night import Pending
from data_pipelines.channels import resolve
from data_pipelines.recordings.base import Recording, RecordingError, sample_range
from data_pipelines.recordings.opening import open_recording
from data_pipelines.scoring import read_beside
from hypnos_jax.heads.guard import scoring_reason
from hypnos_jax.inference.score import Scorer

MODEL = flags.DEFINE_string("model", None, "an export with heads and a guard")
RECORDINGS = flags.DEFINE_string("recordings", None, "folder of scored recordings")
OUTPUT = flags.DEFINE_string("output", None, "folder for the table")
NIGHTS = flags.DEFINE_integer("nights", 5000, "pieces, clean ones included", 1)
PIECE_S = flags.DEFINE_integer("piece_s", 1800, "length of a piece", 600)

KEPT = 0.8
EEG, HEART, BREATH = "eeg", "ecg", "resp"


class Spoilt(Recording):
    """A piece of a recording, some channels of which are not what they were.

    Attributes:
        changes: index of a channel -> what is made of its samples, float64 [T] and a generator.
    """

    def __init__(self, inner, start_s, stop_s, *, changes=None, labels=None, faster=1):
        self._inner, self._start_s, self._stop_s = inner, start_s, stop_s
        self.changes, self._faster = changes or {}, fractions.Fraction(faster)
        self.labels = list(labels or inner.labels)
        self.path, self.name, self.notes = inner.path, inner.name, []
        self.duration_s = float((stop_s - start_s) / self._faster)
        self.start_of_day_s = None
        self._read = {}

    def sfreq_hz(self, index):
        return self._inner.sfreq_hz(index) * self._faster

    def unit(self, index):
        return self._inner.unit(index)

    def declared_unit(self, index):
        return self._inner.declared_unit(index)

    def num_samples(self, index):
        return len(self._samples(index))

    def read(self, index, start_s=0, stop_s=None):
        samples = self._samples(index)
        first, stop = sample_range(start_s, stop_s, self.sfreq_hz(index), len(samples))
        return samples[first:stop].copy()

    def _samples(self, index):
        if index not in self._read:
            x = np.asarray(self._inner.read(index, self._start_s, self._stop_s), np.float64)
            if index in self.changes:
                x = self.changes[index](x, np.random.default_rng(index))
            self._read[index] = x
        return self._read[index]


@dataclasses.dataclass(frozen=True)
class Piece:
    """A piece of a recording, clean."""

    name: str
    recording: Recording
    start_s: int
    bindings: dict

    def at(self, channel):
        """Return the index of a canonical channel's own label; None where it has none."""
        bound = self.bindings.get(channel)
        return None if bound is None else bound.index

    def indices(self, *kinds):
        """Return the indices of the labels of channels of some kinds."""
        return sorted({b.index for name, b in self.bindings.items() if name.startswith(kinds)})

    def make(self, **options):
        """Return the piece as a recording, spoilt by the options of ``Spoilt``."""
        return Spoilt(self.recording, self.start_s, self.start_s + PIECE_S.value, **options)


def _first_eeg(piece):
    return next(name for name in piece.bindings if name.startswith(EEG))


def _scaled(factor):
    def spoil(piece):
        name = _first_eeg(piece)
        return piece.make(changes={piece.at(name): lambda x, _: x * factor}), (name,)

    return spoil


def inverted(piece):
    """The ECG's leads the wrong way round."""
    return piece.make(changes={piece.at("ecg"): lambda x, _: -x}), ("ecg",)


def swapped(piece):
    """The plugs of an EEG electrode and of the ECG swapped."""
    name = _first_eeg(piece)
    labels, a, b = list(piece.recording.labels), piece.at(name), piece.at("ecg")
    labels[a], labels[b] = labels[b], labels[a]
    return piece.make(labels=labels), (name, "ecg")


def wrong_reference(piece):
    """An EEG channel against its neighbour and not against the mastoid: little is left."""
    name = _first_eeg(piece)
    others = [i for i in piece.indices(EEG) if i != piece.at(name)]
    if not others:
        return None

    def spoil(x, _):
        other = piece.recording.read(others[0], piece.start_s, piece.start_s + PIECE_S.value)
        return x - other[: len(x)] if len(other) == len(x) else x * 0.1

    return piece.make(changes={piece.at(name): spoil}), (name,)


def electrode_off(piece):
    """An EEG electrode without contact: hum and little else."""
    name = _first_eeg(piece)
    at = piece.at(name)
    rate = float(piece.recording.sfreq_hz(at))

    def spoil(x, rng):
        return 80 * np.sin(2 * np.pi * 50 * np.arange(len(x)) / rate) + rng.standard_normal(len(x))

    return piece.make(changes={at: spoil}), (name,)


def all_noise(piece):
    """Every channel white noise of its own size."""

    def spoil(x, rng):
        return np.nanstd(x) * rng.standard_normal(len(x))

    every = dict.fromkeys(piece.indices(""), spoil)
    return piece.make(changes=every), tuple(piece.bindings)


def wrong_rate(piece):
    """A header that says twice the sampling rate of all channels."""
    return piece.make(faster=2), tuple(piece.bindings)


def child(piece):
    """A child where adults were fitted; see the file's docstring."""

    def faster(x, _):
        return np.interp(np.arange(len(x)) * 1.5 % (len(x) - 1), np.arange(len(x)), x)

    changes = {i: lambda x, _: 2.5 * x for i in piece.indices(EEG)}
    changes |= dict.fromkeys(piece.indices(HEART, BREATH), faster)
    return piece.make(changes=changes), tuple(piece.bindings)


def clean(piece):
    """Nothing spoilt."""
    return piece.make(), ()


SIGNALS = {
    "clean": clean,
    "gain x 1000": _scaled(1000),
    "gain / 1000": _scaled(1 / 1000),
    "ECG inverted": inverted,
    "EEG and ECG swapped": swapped,
    "wrong reference": wrong_reference,
    "electrode off": electrode_off,
    "all noise": all_noise,
    "wrong sampling rate": wrong_rate,
    "a child": child,
    "50 for 60 Hz": clean,
}
SCORINGS = ("scoring of another night", "scoring shifted")
KINDS = (*SIGNALS, *SCORINGS)
COLUMNS = ("number", "kind", "recording", "verdict", "noticed", "kept", "reasons")


def judge(scorer, kind, piece, before) -> dict:
    """Score a spoilt piece, and say what was noticed of it."""
    made = SIGNALS[kind](piece)
    if made is None:
        return {"verdict": "not possible", "noticed": "", "kept": "", "reasons": ""}
    recording, names = made
    mains = None
    if kind == "50 for 60 Hz":
        read = scorer.reader()(Pending(name="x", path=recording, scoring=False))
        mains = {50: 60, 60: 50}[read.night.qc["mains_hz"]]
    try:
        read = scorer.reader(mains_hz=mains)(Pending(name="x", path=recording, scoring=False))
        night = scorer.score(read)
    except RecordingError as error:
        return {"verdict": "rejected", "noticed": True, "kept": 0, "reasons": str(error)[:300]}
    told = [reason.note for reason in night.trust.reasons]
    found = [*told, *night.findings, *read.night.qc["notes"]]
    words = (*names, *(("mains of",) if mains else ()))
    noticed = any(word in note for word in words for note in found)
    kept = float("nan")
    if before is not None and len(before) == len(night.stages):
        kept = float(np.mean(before == night.stages))
    return {
        "verdict": night.trust.verdict,
        "noticed": noticed,
        "kept": round(kept, 3),
        "reasons": " | ".join([*told, *night.findings])[:500],
    }


def judge_scoring(scorer, kind, piece, other, rng) -> dict:
    """Say whether a scoring is seen not to be the recording's own."""
    read = scorer.reader()(Pending(name="x", path=piece.recording, scoring=False))
    probabilities = scorer.score(read).stage_probabilities
    scored, _ = read_beside(piece.recording.path, recording=piece.recording)
    if kind == "scoring shifted":
        shift = int(rng.integers(10, 40))
        stages = np.concatenate([scored.stages[shift:], np.full(shift, -1, np.int8)])
    else:
        stages = read_beside(other.recording.path, recording=other.recording)[0].stages
    reason = scoring_reason(probabilities, stages)
    note = "" if reason is None else reason.note
    return {"verdict": "", "noticed": reason is not None, "kept": "", "reasons": note}


def pieces() -> list[Piece]:
    """Return all clean pieces of the recordings, in order."""
    found, _ = folder.find_recordings(RECORDINGS.value)
    out = []
    for name, item in sorted(found.items()):
        recording = open_recording(item.path)
        bindings = resolve.resolve(recording.labels).bindings
        for start_s in range(0, int(recording.duration_s) - PIECE_S.value + 1, PIECE_S.value):
            out.append(Piece(name, recording, start_s, bindings))
    return out


def table(rows) -> str:
    """Return the figures by kind, as Markdown."""
    lines = [
        "| kind | pieces | refused or rejected | doubtful | ok | noticed | confident and wrong |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        own = [row for row in rows if row["kind"] == kind and row["verdict"] != "not possible"]
        if not own:
            continue
        count = len(own)

        def share(hit, own=own, count=count):
            return f"{sum(map(hit, own)) / count:.1%}"

        wrong = share(
            lambda r: r["verdict"] == "ok" and r["noticed"] != "True" and float(r["kept"]) < KEPT
        )
        scoring = kind in SCORINGS
        cells = [
            share(lambda r: r["verdict"] in ("refused", "rejected")),
            share(lambda r: r["verdict"] == "doubtful"),
            share(lambda r: r["verdict"] == "ok"),
        ]
        noticed = "" if kind == "clean" else share(lambda r: r["noticed"] == "True")
        cells = ["", "", ""] if scoring else cells
        lines.append(
            f"| {kind} | {count} | {' | '.join(cells)} | {noticed} |"
            f" {'' if scoring or kind == 'clean' else wrong} |"
        )
    return "\n".join(lines)


def main(argv):
    del argv
    output = pathlib.Path(OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    path, every = output / "corrupted.csv", pieces()
    rows = []
    if path.is_file():
        with open(path, newline="") as file:
            rows = [*csv.DictReader(file)]
    scorer, answered = Scorer(MODEL.value), {}
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if not rows:
            writer.writeheader()
        for number in tqdm.tqdm(range(len(rows), NIGHTS.value), unit="night"):
            kind, place = KINDS[number % len(KINDS)], number // len(KINDS) % len(every)
            piece = every[place]
            rng = np.random.default_rng(zlib.crc32(f"{number}".encode()))
            if kind in SCORINGS:
                other = every[(place + 1 + int(rng.integers(len(every) - 2))) % len(every)]
                found = judge_scoring(scorer, kind, piece, other, rng)
            else:
                if place not in answered:
                    read = scorer.reader()(Pending(name="x", path=piece.make(), scoring=False))
                    answered = {place: scorer.score(read).stages}
                found = judge(scorer, kind, piece, answered[place])
            row = {"number": number, "kind": kind, "recording": piece.name, **found}
            writer.writerow(row)
            file.flush()
            rows.append({key: str(value) for key, value in row.items()})
    print(table(rows))


if __name__ == "__main__":
    flags.mark_flags_as_required(["model", "recordings", "output"])
    app.run(main)
