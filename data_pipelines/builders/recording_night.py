"""One recording with its scoring -> one prepared night: what every builder of recordings shares."""

import dataclasses
import os
import pathlib
import typing

import numpy as np

from data_pipelines import scoring, splits
from data_pipelines.channels import resolve
from data_pipelines.channels.quality import check_quality
from data_pipelines.recipes import Recipe
from data_pipelines.recordings.base import RecordingError
from data_pipelines.recordings.opening import open_recording
from data_pipelines.scoring.scorers import letters_of
from data_pipelines.store import Night

DEFAULT_MAINS_HZ = 50  # the published default, where neither the user nor the spectrum tells


@dataclasses.dataclass(frozen=True)
class Pending:
    """A recording to prepare.

    Attributes:
        name: Its name in the store.
        path: The file, or what else ``open_recording`` takes.
        scoring: Its scoring; None looks for one beside it, False takes it as unscored.
        subject: The person; None derives it from the name (:func:`splits.subject_of`).
        split: Of a published list; None derives it from the person (:func:`splits.split_of`).
        cohort: Whose generic labels its labels are, or None.
        labels: Labels of the whole recording, such as its rhythm.
        metadata: Facts of the person that may be kept, such as age and sex.
    """

    name: str
    path: pathlib.Path
    scoring: pathlib.Path | None | typing.Literal[False] = None
    subject: str | None = None
    split: str | None = None
    cohort: str | None = None
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    metadata: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class PrepareRecording:
    """Make the night of one pending recording; picklable, so that workers can be given it.

    Attributes:
        recipe: What the signals are, and how they are made.
        names: Of its rows, to make where the recording has their channels.
        mains_hz: 50 or 60; None infers it from each recording's spectrum, 50 where that is silent.
        aliases: As :func:`channels.load_aliases` returns it.
        code_book: What plain lists of stages mean, one of ``scoring.CODE_BOOKS``.
        scorer: Whose stages to take where a file holds several people's, 1 for the first; by
            default those on which they agree.
    """

    recipe: Recipe
    names: tuple[str, ...]
    mains_hz: int | None = None
    aliases: dict[str, list] | None = None
    code_book: str | None = None
    scorer: int | None = None

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
            stand_ins=self.recipe.stand_ins,
        )
        channels = self.recipe.channels_for(self.names)
        if not channels:
            raise RecordingError(
                f"{recording.name} is a recording, and the recipe {self.recipe.name} is of series:"
                " give a folder of arrays (docs/arrays.md)"
            )
        wanted = [name for name in channels if name in resolution.bindings]
        if not wanted:
            broken = "".join(
                f"; {recording.labels[i]!r} cannot be read: {reason}"
                for i, reason in list(recording.unreadable.items())[:3]
            )
            broken += "".join(f"; {finding.note}" for finding in resolution.findings)
            if resolution.bindings:
                broken += f"; it has {', '.join(resolution.bindings)}"
                broken += f", and {self.recipe.name} is made of {', '.join(channels)}"
            raise RecordingError(
                f"{recording.name}: none of its {len(recording.labels)} labels is a channel wanted "
                f"here{broken}; python -m launch.check_recordings tells why, --aliases=FILE adds "
                "labels"
            )
        # The scoring is read first: it is quick, and a night whose scoring is wrong is refused.
        stages, events, facts = self.scoring_of(pending, recording)
        bindings = {name: resolution.bindings[name] for name in wanted}
        resolution = dataclasses.replace(resolution, bindings=bindings)
        quality = check_quality(recording, resolution, mains_hz=self.mains_hz)
        mains_hz = quality.mains_hz or DEFAULT_MAINS_HZ
        rows = [self.recipe.rows[name] for name in self.names]
        signals, told, refused = self.recipe.make(rows, recording, quality, mains_hz)
        if not signals:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
            raise RecordingError(f"{recording.name}: no usable channel ({reasons})")
        subject = self.subject_of(pending)
        findings = [*quality.findings, *told.pop("findings", ()), *facts.pop("findings")]
        qc = {
            "mains_hz": mains_hz,
            "mains_from": _mains_from(self.mains_hz, quality.mains_hz),
            **told,
            "refused": refused,
            "notes": [*quality.notes, *facts.pop("notes"), *(x.note for x in findings)],
            "findings": [finding.to_json() for finding in findings],
            "scored_share": round(float(np.mean(stages >= 0)), 4) if len(stages) else 0.0,
        }
        metadata = dict(pending.metadata) | facts
        if recording.start_of_day_s is not None and not recording.start_is_filler:
            metadata["start_of_day_s"] = recording.start_of_day_s
        return Night(
            recording=pending.name,
            subject=subject,
            split=pending.split or splits.split_of(subject),
            channels=signals,
            stages=stages,
            events=events,
            labels=dict(pending.labels),
            metadata=metadata,
            qc=qc,
        )

    def subject_of(self, pending: Pending) -> str:
        """The person that the pending night is of, by a table or by the name."""
        return pending.subject or splits.subject_of(pending.name)

    def scoring_of(self, pending: Pending, recording) -> tuple[np.ndarray, list, dict]:
        """Return stages, events and facts of a night's scoring, on the axis of its recording.

        The facts are ``notes``, ``findings`` and, where there is a scoring, ``scoring`` (of which
        kind it is), ``events_scored`` and, of several people's, ``scorers``.

        Raises:
            ScoringError: It cannot be read, or belongs to another recording.
        """
        path, scored, findings = pending.scoring, None, []
        if path is None:
            scored, findings = scoring.read_beside(
                pending.path, recording=recording, code_book=self.code_book, scorer=self.scorer
            )
        elif path:
            scored = scoring.read_scoring(
                path, recording=recording, code_book=self.code_book, scorer=self.scorer
            )
        if scored is None:
            _ = recording.annotations  # those that cannot be read become findings of the recording
            epochs = int(recording.duration_s / scoring.EPOCH_S + 0.5)
            return np.full(epochs, -1, np.int8), [], {"notes": [], "findings": findings}
        scored, _ = scoring.align(scored, recording.duration_s)
        facts = {"scoring": scored.source, "events_scored": scored.events_scored}
        if scored.scorers:
            facts["scorers"] = [letters_of(row) for row in scored.scorers]
        return (
            scored.stages,
            scored.events,
            facts | {"notes": scored.notes, "findings": scored.findings},
        )


def _mains_from(asked, inferred):
    if asked is not None:
        return "flag"
    return "spectrum" if inferred else "default"
