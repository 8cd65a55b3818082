"""A recording in, its stages, events and numbers out: the heads of an export on its embedding."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

import numpy as np

from data_pipelines.builders.recording_night import Pending, PrepareRecording
from data_pipelines.channels import resolve
from data_pipelines.channels.quality import check_quality
from data_pipelines.recordings.opening import open_recording, read_channel
from data_pipelines.scoring import EPOCH_S, Event
from data_pipelines.store import Night
from hypnos_jax.export.model import ModelError
from hypnos_jax.heads.cells import cells_of, silenced
from hypnos_jax.heads.guard import Guard, load_guard
from hypnos_jax.heads.head import Head, load_heads
from hypnos_jax.heads.measures import measure
from hypnos_jax.inference.embed import Embedder, WindowEmbedder, name_of, open_embedder
from hypnos_jax.inference.embedding import RecordingEmbedding
from hypnos_jax.scored.night import ScoredNight, Trust
from hypnos_jax.scored.summary import summarise

FINE_S = 5  # ours: how often stages are told where the model's rows are that short
FINE_BEFORE_S = 10  # a fine cell [5 k, 5 k + 5) has the answer of the 30 s that begin 10 s before
# Kind of event that a head tells of, and how long one lasts at least (AASM manual).
EVENTS = {"apnea": ("apnea_hypopnea", 10.0), "arousal": ("arousal", 3.0)}


@dataclasses.dataclass(frozen=True)
class ReadNight:
    """A recording as it was read: what the model is given, and what is read beside it.

    Attributes:
        night: the prepared night.
        spo2: saturation in %, float [N], and its rate in Hz; None where the recording has none.
        duration_s: of the recording.
    """

    night: Night
    spo2: tuple[np.ndarray, float] | None
    duration_s: float


@dataclasses.dataclass(frozen=True)
class ReadRecording:
    """Read and prepare a recording for scoring; picklable, so that workers can be given it."""

    prepare: PrepareRecording

    def __call__(self, pending: Pending) -> ReadNight:
        """Return what is read of a recording.

        Raises:
            RecordingError: it cannot be read, or has no channel that the model reads.
        """
        night = self.prepare(pending)
        recording = open_recording(pending.path)
        found = resolve.resolve(
            recording.labels,
            aliases=self.prepare.aliases,
            cohort=pending.cohort,
            unreadable=recording.unreadable,
        )
        bound, spo2 = found.bindings.get("spo2"), None
        if bound is not None:
            only = dataclasses.replace(found, bindings={"spo2": bound})
            channel = check_quality(recording, only).channels["spo2"]
            if channel.status != "refused":
                samples, rate_hz = read_channel(recording, channel.binding)
                spo2 = samples, float(rate_hz)
        return ReadNight(night, spo2, recording.duration_s)


class Scorer:
    """A model with its heads, opened once for many recordings.

    Attributes:
        embedder: of ``open_embedder``.
        heads: task -> head.
        guard: judges a night before its answers are given; None where the export has none.
        token_s: seconds of a row of the embedding.
    """

    def __init__(self, model: str | os.PathLike):
        """Open an export with heads.

        Raises:
            ModelError: no model, or one without heads.
        """
        self.heads: dict[str, Head] = load_heads(model)
        if not self.heads:
            raise ModelError(
                f"{model} has no heads: fit them on scored nights with launch.fit_head"
            )
        self.embedder: Embedder | WindowEmbedder = open_embedder(model)
        self.token_s: float = self.embedder.model.config["embedding"]["token_s"]
        self.guard: Guard | None = load_guard(model, self.embedder.checksum)

    @property
    def identity(self) -> dict[str, str]:
        """Checksums of the model, of each head and of the guard: scores depend on nothing else."""
        parts = {"model": self.embedder.checksum}
        parts |= {f"head {task}": head.digest() for task, head in self.heads.items()}
        return parts | ({"guard": self.guard.digest()} if self.guard is not None else {})

    def reader(
        self, *, mains_hz: int | None = None, aliases: dict[str, list] | None = None
    ) -> ReadRecording:
        """Return what reads a recording for this model."""
        names = self.embedder.names(None)
        return ReadRecording(self.embedder.prepare(names, mains_hz=mains_hz, aliases=aliases))

    def score(self, read: ReadNight) -> ScoredNight:
        """Score a night that was read.

        Raises:
            RecordingError: nothing of it can be embedded.
        """
        night = read.night
        embedding = self.embedder.embed_signals(night.channels, recording=night.recording)
        return self.score_embedding(embedding, read)

    def score_embedding(self, embedding: RecordingEmbedding, read: ReadNight) -> ScoredNight:
        """Score a night whose embedding is there already."""
        night, epochs = read.night, int(read.duration_s // EPOCH_S)
        valid = {name: channel.valid for name, channel in night.channels.items()}
        rows = silenced(embedding.modalities, valid, self.token_s)
        embedding = dataclasses.replace(embedding, modalities=rows)
        stages = np.full(epochs, -1, np.int8)
        told, uncertain = np.zeros((epochs, 0), "f4"), np.zeros(epochs, bool)
        fine, cell_s = np.zeros((0, 5), "f4"), {}
        head = self.heads.get("stage5")
        if head is not None:
            told = self._answers(head, embedding.modalities, epochs)
            known = np.isfinite(told).all(1)
            stages[known] = told[known].argmax(1)
            uncertain = known & (told.max(1) < head.confidence)
            if self.token_s <= FINE_S and FINE_S % self.token_s == 0:
                fine, cell_s["stage5"] = self._fine(head, embedding.modalities), float(FINE_S)
        events, probabilities = [], {}
        staged = stages if "stage5" in self.heads else None
        for task in filter(self.heads.__contains__, EVENTS):
            head = self.heads[task]
            count = int(read.duration_s // head.cell_s)
            probabilities[task] = self._answers(head, embedding.modalities, count)[:, 0]
            cell_s[task] = head.cell_s
            events += events_of(probabilities[task], head, staged)
        trust = self._trust(read, embedding, stages)
        if trust.verdict == "refused":
            stages, uncertain, events = np.full(epochs, -1, np.int8), uncertain & False, []
            for rows in (told, fine, *probabilities.values()):
                rows[:] = np.nan
        events.sort(key=lambda event: event.onset_s)
        return ScoredNight(
            recording=night.recording,
            duration_s=read.duration_s,
            stages=stages,
            stage_probabilities=told.reshape(epochs, -1) if told.size else np.zeros((0, 5), "f4"),
            uncertain=uncertain,
            events=tuple(events),
            event_probabilities=probabilities,
            cell_s=cell_s,
            fine_stages=fine,
            trust=trust,
            summary=summarise(stages, events, read.spo2, events_scored=tuple(probabilities)),
            model=self.embedder.checksum,
            start_of_day_s=night.metadata.get("start_of_day_s"),
            findings=tuple(finding["note"] for finding in night.qc.get("findings", ())),
        )

    def _trust(self, read, embedding, stages) -> Trust:
        if self.guard is None:
            return Trust()
        night, names = read.night, {row["name"] for row in self.embedder.modalities}
        channels = {name: x for name, x in night.channels.items() if name in names}
        refused = {x: why for x, why in night.qc.get("refused", {}).items() if x in names}
        measures = measure(channels, embedding.modalities, self.token_s)
        return self.guard.judge(measures, stages, refused)

    def _answers(self, head: Head, modalities: Mapping[str, np.ndarray], count: int) -> np.ndarray:
        """Probabilities [count, C]; NaN where the embedding ends before the recording."""
        found = head(cells_of(modalities, head.names, self.token_s, head.cell_s))[:count]
        return np.pad(found, ((0, count - len(found)), (0, 0)), constant_values=np.nan)

    def _fine(self, head: Head, modalities: Mapping[str, np.ndarray]) -> np.ndarray:
        """Stages every ``FINE_S``: the head on the epochs of six grids, each 5 s after the last."""
        step = round(FINE_S / self.token_s)
        cells = len(next(iter(modalities.values()))) // step
        out = np.full((cells, len(head.classes)), np.nan, np.float32)
        for k in range(EPOCH_S // FINE_S):
            rows = {name: x[k * step :] for name, x in modalities.items()}
            found = head(cells_of(rows, head.names, self.token_s, head.cell_s))
            at = k + FINE_BEFORE_S // FINE_S + np.arange(len(found)) * (EPOCH_S // FINE_S)
            out[at[at < cells]] = found[at < cells]
        return out


def events_of(probability: np.ndarray, head: Head, stages: np.ndarray | None) -> list[Event]:
    """Return the events of a head: runs of cells at or above its threshold, in sleep.

    Args:
        probability: [N], of its cells; NaN is no event.
        head: whose task is one of ``EVENTS``.
        stages: int8 [E]; cells of epochs that are not sleep have no event. None: all may.

    Returns:
        Events from the start of their first cell to the end of their last, if they last as long as
        such an event does at least; where a cell is an epoch, the epochs that have one.
    """
    kind, least_s = EVENTS[head.task]
    inside = np.nan_to_num(probability) >= head.threshold
    if stages is not None:
        at = (np.arange(len(inside)) * head.cell_s // EPOCH_S).astype(int)
        inside &= np.append(stages > 0, False)[np.minimum(at, len(stages))]
    edges = np.flatnonzero(np.diff(np.pad(inside, 1).astype(np.int8)))
    if head.cell_s >= EPOCH_S:
        return [
            Event(kind, float(i * head.cell_s), head.cell_s, "epoch")
            for i in np.flatnonzero(inside)
        ]
    return [
        Event(kind, float(first * head.cell_s), float((stop - first) * head.cell_s))
        for first, stop in zip(edges[::2], edges[1::2])
        if (stop - first) * head.cell_s >= least_s
    ]


def score_recording(
    model: str | os.PathLike | Scorer,
    recording,
    *,
    mains_hz: int | None = None,
    aliases: dict[str, list] | None = None,
) -> ScoredNight:
    """Score one recording.

    Args:
        model: an export with heads, or (to open it once for many) a ``Scorer``.
        recording: path of an EDF, BDF or WFDB file, an ``mne.io.Raw``, or arrays as
            ``data_pipelines.recordings.opening.open_recording`` takes them.
        mains_hz: 50 or 60; None infers it from the spectrum.
        aliases: further channel labels, as ``channels.load_aliases`` returns them.

    Raises:
        RecordingError: not a recording, or it has nothing that the model reads.
        ModelError: no model, or one without heads.
    """
    scorer = model if isinstance(model, Scorer) else Scorer(model)
    read = scorer.reader(mains_hz=mains_hz, aliases=aliases)
    return scorer.score(read(Pending(name=name_of(recording), path=recording, scoring=False)))
