"""One night as a model scored it: stages, events, how sure, and how far to trust it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import zipfile
import zlib
from typing import Any

import numpy as np

from data_pipelines.files import atomic_write
from data_pipelines.labels import BREATHING
from data_pipelines.scoring import EPOCH_S, STAGES, Event, Scoring
from data_pipelines.scoring.words import written_words

FORMAT = "hypnos_jax.scored_night/1"
VERDICTS = ("ok", "doubtful", "refused")
_YASA = {0: "WAKE", 1: "N1", 2: "N2", 3: "N3", 4: "REM", -1: "UNS"}


class ScoredNightError(ValueError):
    """A file that holds no scored night, or a damaged one."""


@dataclasses.dataclass(frozen=True)
class Reason:
    """Why a night is not to be trusted without a look.

    Attributes:
        name: one short fixed name of the kind, such as ``electrode_off``.
        note: a sentence with what was seen and what would be right; no text of the file.
        first, stop: epochs that it is about, ``first <= e < stop``; all of the night by default.
        refuses: whether no answer should be given because of it.
    """

    name: str
    note: str
    first: int = 0
    stop: int = 2**31 - 1
    refuses: bool = False


@dataclasses.dataclass(frozen=True)
class Trust:
    """How far a night can be trusted.

    Attributes:
        verdict: one of ``VERDICTS``.
        reasons: why it is not ``ok``, the worst first.
    """

    verdict: str = "ok"
    reasons: tuple[Reason, ...] = ()

    @classmethod
    def of(cls, reasons: tuple[Reason, ...] | list[Reason]) -> Trust:
        """Return ``refused`` where a reason refuses, ``doubtful`` where there is any, else ok."""
        reasons = tuple(sorted(reasons, key=lambda reason: not reason.refuses))
        verdict = "refused" if any(reason.refuses for reason in reasons) else "doubtful"
        return cls(verdict if reasons else "ok", reasons)


@dataclasses.dataclass(frozen=True)
class ScoredNight:
    """What a model answers about one night.

    Attributes:
        recording: its name.
        duration_s: length of the recording.
        stages: int8 [E], one per whole epoch of 30 s: 0 W, 1 N1, 2 N2, 3 N3, 4 R; -1 where there
            was no signal to judge by. All -1 where the verdict is ``refused``.
        stage_probabilities: float32 [E, 5]; NaN where the stage is -1; [0, 5] without such a head.
        uncertain: bool [E], epochs that the model is less sure of than the chosen risk allows.
        events: ordered by onset; their kinds are those of a scoring.
        event_probabilities: task -> float32 [N], of its cells in order; NaN without signal.
        cell_s: task -> s of a cell; ``stage5`` too, where stages are told more often than by epoch.
        fine_stages: float32 [N, 5], probabilities by ``cell_s["stage5"]``; [0, 5] where that is 30.
        trust: the verdict on the night.
        summary: numbers of the night; see ``scored.summary``. JSON.
        model: checksum of the model.
        start_of_day_s: clock time of the recording's start in s since midnight; None if unknown.
        findings: what reading the recording had to decide: sentences.
    """

    recording: str
    duration_s: float
    stages: np.ndarray
    stage_probabilities: np.ndarray
    uncertain: np.ndarray
    events: tuple[Event, ...] = ()
    event_probabilities: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    cell_s: dict[str, float] = dataclasses.field(default_factory=dict)
    fine_stages: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 5), "f4"))
    trust: Trust = Trust()
    summary: dict[str, Any] = dataclasses.field(default_factory=dict)
    model: str = ""
    start_of_day_s: float | None = None
    findings: tuple[str, ...] = ()

    @property
    def scoring(self) -> Scoring:
        """The night as a scoring, which ``data_pipelines.scoring.writing`` writes in any form."""
        asked = tuple(self.event_probabilities)
        return Scoring(self.stages, list(self.events), "model", events_scored=asked or False)

    def probability(self, event: Event) -> float:
        """Return the mean probability of an event's cells; NaN where no head told of it."""
        task = "arousal" if event.kind == "arousal" else "apnea"
        rows, cell_s = self.event_probabilities.get(task), self.cell_s.get(task)
        if rows is None or event.kind not in (*BREATHING, "arousal"):
            return float("nan")
        first = int(event.onset_s // cell_s)
        own = rows[first : max(first + 1, math.ceil((event.onset_s + event.duration_s) / cell_s))]
        return float(np.nanmean(own)) if np.isfinite(own).any() else float("nan")

    def to_yasa(self):
        """Return ``yasa.Hypnogram``, with the probabilities; needs the extra ``yasa``.

        Raises:
            ImportError: YASA is not installed.
        """
        import pandas
        import yasa

        names = [_YASA[int(stage)] for stage in self.stages]
        given = {}
        if len(self.stage_probabilities) == len(names) and (self.stages >= 0).any():
            columns = [_YASA[code] for code in range(len(STAGES))]
            given["proba"] = pandas.DataFrame(self.stage_probabilities, columns=columns)
        return yasa.Hypnogram(names, freq=f"{EPOCH_S}s", scorer="hypnos_jax", **given)

    def to_mne(self):
        """Return ``mne.Annotations`` of stages and events, with EDF+'s standard texts.

        Raises:
            ImportError: MNE is not installed (the extra ``prepare``).
        """
        import mne

        rows = [
            (epoch * EPOCH_S, EPOCH_S, written_words.EDF_STAGES[int(stage)])
            for epoch, stage in enumerate(self.stages)
        ]
        rows += [(e.onset_s, e.duration_s, written_words.edf_text(e)) for e in self.events]
        return mne.Annotations(*zip(*(row for row in rows if row[2])))

    def save(self, path: str | os.PathLike, *, comment: str = "") -> None:
        """Write all of it as one ``.npz`` (no pickle), whole or not at all.

        Args:
            path: the file.
            comment: kept as the archive's comment, which readers of arrays do not see.
        """
        arrays, fields = {}, {"format": FORMAT}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                arrays[field.name] = value
            elif field.name == "event_probabilities":
                arrays |= {f"event/{task}": rows for task, rows in value.items()}
            elif field.name == "trust":
                fields["trust"] = dataclasses.asdict(value)
            elif field.name == "events":
                fields["events"] = [dataclasses.asdict(event) for event in value]
            else:
                fields[field.name] = value
        with atomic_write(path, "w+b") as file:
            np.savez_compressed(file, **arrays, fields=np.array(json.dumps(fields)))
            with zipfile.ZipFile(file, "a") as archive:
                archive.comment = comment.encode()

    @classmethod
    def load(cls, path: str | os.PathLike) -> ScoredNight:
        """Return the night that ``save`` wrote.

        Raises:
            ScoredNightError: none, or damaged; the message names the file.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            fields = json.loads(str(arrays.pop("fields")))
            if fields.pop("format") != FORMAT:
                raise ValueError("of another format")
            events = {
                name.removeprefix("event/"): arrays.pop(name)
                for name in list(arrays)
                if name.startswith("event/")
            }
            trust = fields.pop("trust")
            reasons = tuple(Reason(**reason) for reason in trust["reasons"])
            return cls(
                **arrays,
                event_probabilities=events,
                trust=Trust(trust["verdict"], reasons),
                events=tuple(Event(**event) for event in fields.pop("events")),
                findings=tuple(fields.pop("findings")),
                **fields,
            )
        except (EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise ScoredNightError(f"{path} holds no scored night: {error}") from error

    def times_s(self) -> np.ndarray:
        """Return float64 [E], the start of each epoch in s from the recording's start."""
        return np.arange(len(self.stages)) * float(EPOCH_S)
