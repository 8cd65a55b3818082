"""One recording with its scoring -> one prepared night: what every builder of recordings shares."""

import concurrent.futures
import dataclasses
import functools
import multiprocessing
import os
import pathlib
import threading
import typing

import numpy as np

from data_pipelines import scoring, splits
from data_pipelines.channels import resolve, table
from data_pipelines.channels.quality import check_quality
from data_pipelines.recipes import modalities
from data_pipelines.recordings.base import RecordingError
from data_pipelines.recordings.opening import open_recording, read_channel
from data_pipelines.signals import causal
from data_pipelines.store import Night

CHANNELS_AT_ONCE = 2  # ours: each takes some 0.1 GB for 8 h at 256 Hz
DEFAULT_MAINS_HZ = 50  # the published default, where neither the user nor the spectrum tells


@dataclasses.dataclass(frozen=True)
class Pending:
    """A recording to prepare.

    Attributes:
        name: Its name in the store.
        path: The file, or what else ``open_recording`` takes.
        scoring: Its scoring; None looks for one beside it, False takes it as unscored.
        subject: The person; None derives it from the name (:func:`splits.subject_of`).
        cohort: Whose generic labels its labels are, or None.
        labels: Labels of the whole recording, such as its rhythm.
        metadata: Facts of the person that may be kept, such as age and sex.
    """

    name: str
    path: pathlib.Path
    scoring: pathlib.Path | None | typing.Literal[False] = None
    subject: str | None = None
    cohort: str | None = None
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    metadata: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class PrepareRecording:
    """Make the night of one pending recording; picklable, so that workers can be given it.

    Attributes:
        channels: Canonical channels to keep where the recording has them.
        mains_hz: 50 or 60; None infers it from each recording's spectrum, 50 where that is silent.
        aliases: As :func:`channels.load_aliases` returns it.
        subjects: Recording -> subject, for people with several recordings.
        code_book: What plain lists of stages mean, one of ``scoring.CODE_BOOKS``.
    """

    channels: tuple[str, ...]
    mains_hz: int | None = None
    aliases: dict[str, list] | None = None
    subjects: dict[str, str] | None = None
    code_book: str | None = None

    def __call__(self, pending: Pending) -> Night:
        """Read, check, preprocess.

        Raises:
            RecordingError: The file is no recording, none of its channels can be used, or its
                scoring cannot be read or belongs to another recording.
        """
        try:
            return self._night(pending)
        except (RecordingError, scoring.ScoringError) as error:
            # Where the folder lies is nobody's business who is given the store.
            reason = str(error)
            if isinstance(pending.path, str | os.PathLike):
                reason = reason.replace(f"{pathlib.Path(pending.path).parent}/", "")
            raise RecordingError(reason) from None

    def _night(self, pending):
        recording = open_recording(pending.path)
        resolution = resolve.resolve(
            recording.labels,
            aliases=self.aliases,
            cohort=pending.cohort,
            unreadable=recording.unreadable,
        )
        wanted = [name for name in self.channels if name in resolution.bindings]
        if not wanted:
            broken = "".join(
                f"; {recording.labels[i]!r} cannot be read: {reason}"
                for i, reason in list(recording.unreadable.items())[:3]
            )
            raise RecordingError(
                f"{recording.name}: none of its {len(recording.labels)} labels is a channel wanted "
                f"here{broken}; python -m launch.check_recordings tells why, --aliases=FILE adds "
                "labels"
            )
        # The scoring is read first: it is quick, and a night whose scoring is wrong is refused.
        stages, events, facts = self._scoring(pending, recording)
        bindings = {name: resolution.bindings[name] for name in wanted}
        resolution = dataclasses.replace(resolution, bindings=bindings)
        quality = check_quality(recording, resolution, mains_hz=self.mains_hz)
        mains_hz = quality.mains_hz or DEFAULT_MAINS_HZ
        signals, told, refused = self._signals(recording, quality, mains_hz)
        if not signals:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
            raise RecordingError(f"{recording.name}: no usable channel ({reasons})")
        subject = self.subject_of(pending)
        qc = {
            "mains_hz": mains_hz,
            "mains_from": _mains_from(self.mains_hz, quality.mains_hz),
            **told,
            "refused": refused,
            "notes": [*quality.notes, *facts.pop("notes")],
            "scored_share": round(float(np.mean(stages >= 0)), 4) if len(stages) else 0.0,
        }
        metadata = dict(pending.metadata) | facts
        if recording.start_of_day_s is not None:
            metadata["start_of_day_s"] = recording.start_of_day_s
        return Night(
            recording=pending.name,
            subject=subject,
            split=splits.split_of(subject),
            channels=signals,
            stages=stages,
            events=events,
            labels=dict(pending.labels),
            metadata=metadata,
            qc=qc,
        )

    def _signals(self, recording, quality, mains_hz):
        """Prepared signals by name, what the manifest says of them, why others are not there."""
        signals, found, refused = {}, {}, {}
        # A worker process has its share of the cores: one. Elsewhere channels go side by side.
        alone = multiprocessing.parent_process() is None
        lock = threading.Lock()
        with concurrent.futures.ThreadPoolExecutor(CHANNELS_AT_ONCE if alone else 1) as pool:
            futures = {
                name: pool.submit(_read, recording, checked, mains_hz, lock)
                for name, checked in quality.channels.items()
            }
        for name, future in futures.items():
            try:
                signals[name], found[name] = future.result()
            except (RecordingError, causal.UnusableSignal) as error:
                refused[name] = str(error)
        return signals, {"channels": found}, refused

    def subject_of(self, pending: Pending) -> str:
        """By the file's own name where a rule or the map knows it, else by its whole path."""
        if pending.subject:
            return pending.subject
        name = pending.name
        stem = name.rpartition("/")[2]
        subject = splits.subject_of(stem, self.subjects)
        return subject if subject != stem else splits.subject_of(name, self.subjects)

    def _scoring(self, pending, recording):
        path = pending.scoring
        if path is None:
            path = scoring.find_scoring(pending.path, code_book=self.code_book)
        if not path:
            epochs = int(recording.duration_s / scoring.EPOCH_S + 0.5)
            return np.full(epochs, -1, np.int8), [], {"notes": []}
        scored = scoring.read_scoring(path, recording=recording, code_book=self.code_book)
        scored, notes = scoring.align(scored, recording.duration_s)
        facts = {"scoring": scored.source, "events_scored": scored.events_scored}
        return scored.stages, scored.events, facts | {"notes": list(scored.notes or notes)}


@dataclasses.dataclass(frozen=True)
class PrepareModalities(PrepareRecording):
    """Make the night of one pending recording with modalities in place of its channels.

    Attributes:
        modalities: Names of ``modality_table.MODALITIES`` to make where the recording can.
            ``channels`` are those that they are made of (``modality_table.channels_for``).
    """

    modalities: tuple[str, ...] = ()

    def _signals(self, recording, quality, mains_hz):
        del mains_hz  # every band ends below it, but for the chin's
        usable = [name for name, checked in quality.channels.items() if checked.status != "refused"]

        # An ECG is read for three modalities that follow one another but for two.
        @functools.lru_cache(maxsize=3)
        def read(name):
            return read_channel(recording, quality.channels[name].binding)

        signals, made_of, refused = {}, {}, {}
        for name in self.modalities:
            try:
                made = modalities.make_modality(name, read, usable)
            except (RecordingError, causal.UnusableSignal) as error:
                refused[name] = str(error)
                continue
            if made is not None:
                signals[name], made_of[name] = made.signal, list(made.channels)
        found = {
            name: quality.channels[name].to_json()
            for name in dict.fromkeys(channel for of in made_of.values() for channel in of)
        }
        for name, checked in quality.channels.items():
            if checked.status == "refused":
                refused[name] = "; ".join(checked.notes)
        return signals, {"channels": found, "made_of": made_of}, refused


def _read(recording, checked, mains_hz, lock):
    """Return the prepared channel, and what the manifest says of it."""
    if checked.status == "refused":
        raise RecordingError("; ".join(checked.notes))
    binding = checked.binding
    with lock:  # the libraries behind some recordings expect one reader
        signal, sfreq = read_channel(recording, binding)
    made = causal.preprocess_channel(
        signal, sfreq, table.CHANNELS[binding.channel], mains_hz=mains_hz
    )
    # The other shares are of samples of the night; this one is of the whole.
    return made, checked.to_json() | {"valid_share": round(float(made.valid.mean()), 4)}


def _mains_from(asked, inferred):
    if asked is not None:
        return "flag"
    return "spectrum" if inferred else "default"
