"""A simulated cohort on disk: EDF+ recordings, scoring beside them, participants.csv."""

import concurrent.futures
import concurrent.futures.process
import csv
import dataclasses
import datetime
import json
import math
import pathlib
from collections.abc import Callable

import numpy as np

from data_pipelines.files import atomic_write, remove_partials
from data_pipelines.recordings.edf_writer import write_edf
from data_pipelines.scoring import EPOCH_S, Scoring, ScoringError, read_scoring
from data_pipelines.synthetic.night import simulate_night
from data_pipelines.synthetic.scoring_files import SUFFIXES, write_scoring
from data_pipelines.synthetic.sites import SITES, channels_of, record, site_named
from data_pipelines.synthetic.subjects import draw_subject, stream
from data_pipelines.workers import open_pool

SECOND_NIGHT_SHARE = 0.3  # ours: of the subjects, how many stay for a second night
BLANK_DATE = datetime.date(1985, 1, 1)  # what anonymised EDF files commonly have


class CohortError(ValueError):
    """The folder holds another cohort, or the request makes no sense."""


@dataclasses.dataclass(frozen=True)
class PlannedNight:
    """One recording of a cohort: everything that decides its bytes.

    Attributes:
        recording: File stem.
        seed, subject_index, night: Which night of whom.
        site: Name of the laboratory.
        hours: Length where no labels are given, or a stretch of them is wanted.
        labels: A scoring file to follow, or None.
        code_book: What bare entries of that file mean.
        stretch: Follow only a stretch of the labels, ``hours`` long.
    """

    recording: str
    seed: int
    subject_index: int
    night: int
    site: str
    hours: float
    labels: str | None = None
    code_book: str | None = None
    stretch: bool = False


def plan_cohort(
    nights: int,
    seed: int,
    hours: float,
    *,
    labels=None,
    code_book: str | None = None,
    stretch: bool = False,
) -> list[PlannedNight]:
    """Decide who sleeps where: sites in turn, some subjects for two nights.

    A larger cohort of the same seed begins with the same nights.

    Args:
        nights: Recordings.
        seed: Of the cohort.
        hours: Length of each.
        labels: Scoring files to follow, used in turn.
        code_book: Of plain lists among them.
        stretch: Follow only a stretch of each, ``hours`` long.
    """
    planned, subject = [], 0
    while len(planned) < nights:
        stays = 1 + (stream(seed, "nights", subject).random() < SECOND_NIGHT_SHARE)
        site = SITES[subject % len(SITES)]
        for night in range(stays):
            index = len(planned)
            planned.append(
                PlannedNight(
                    recording=f"{site.name}-s{subject + 1:03d}-n{night + 1}",
                    seed=seed,
                    subject_index=subject,
                    night=night,
                    site=site.name,
                    hours=float(hours),
                    labels=str(labels[index % len(labels)]) if labels else None,
                    code_book=code_book,
                    stretch=stretch,
                )
            )
        subject += 1
    return planned[:nights]


def write_night_files(folder, planned: PlannedNight) -> str:
    """Simulate one night and write its recording and scoring; finished files are kept.

    Returns:
        The recording's name.
    """
    folder = pathlib.Path(folder)
    site = site_named(planned.site)
    path = folder / f"{planned.recording}.edf"
    scored = path.with_name(path.stem + SUFFIXES[site.scoring])
    if path.is_file() and scored.is_file():
        return planned.recording
    labels = None
    if planned.labels is not None:
        labels = read_scoring(planned.labels, code_book=planned.code_book)
        labels = _whole(labels)
        if planned.stretch:
            rng = stream(planned.seed, "stretch", planned.subject_index, planned.night)
            labels = _stretch(labels, planned.hours, rng)
    night = simulate_night(
        planned.seed,
        planned.hours,
        subject=draw_subject(planned.seed, planned.subject_index),
        night=planned.night,
        rates=site.rates,
        channels=channels_of(site),
        labels=labels,
    )
    rng = stream(planned.seed, "site", planned.subject_index, planned.night)
    minutes = int(rng.integers(21 * 60 + 30, 23 * 60 + 30))
    start = datetime.datetime.combine(BLANK_DATE, datetime.time(minutes // 60, minutes % 60))
    # The scoring first: a recording without one would pass for unscored.
    write_scoring(path, night.scoring, site.scoring, start)
    write_edf(path, record(rng, night, site), start)
    return planned.recording


def _whole(labels: Scoring) -> Scoring:
    """Cut long unscored or waking ends: from 30 min before the first sleep to 30 min after."""
    asleep = np.flatnonzero(labels.stages > 0)
    if not len(asleep):
        raise CohortError("a label file holds no sleep; give scored nights")
    first = max(0, int(asleep[0]) - 60)
    return _cut(labels, first, min(len(labels.stages), int(asleep[-1]) + 61))


def _stretch(labels: Scoring, hours: float, rng: np.random.Generator) -> Scoring:
    """Cut a stretch of so many hours out of labels, anywhere; shorter labels stay whole."""
    length = round(hours * 3600 / EPOCH_S)
    first = int(rng.integers(max(1, len(labels.stages) - length + 1)))
    return _cut(labels, first, min(len(labels.stages), first + length))


def _cut(labels: Scoring, first: int, stop: int) -> Scoring:
    """Cut labels to the epochs from ``first`` to ``stop``, with the events that begin there."""
    shift, end = first * EPOCH_S, stop * EPOCH_S
    events = [
        dataclasses.replace(event, onset_s=event.onset_s - shift)
        for event in labels.events
        if shift <= event.onset_s < end
    ]
    return dataclasses.replace(labels, stages=labels.stages[first:stop], events=events)


def find_labels(folder, *, code_book: str | None = None) -> list[pathlib.Path]:
    """List the files under a folder that are scorings of sleep, in order of name.

    Raises:
        CohortError: There is none.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise CohortError(f"{folder} is not a folder of label files")
    found, reasons = [], []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            stages = read_scoring(path, code_book=code_book).stages
        except ScoringError as error:
            reasons.append(str(error))
            continue
        if np.any(stages > 0):
            found.append(path)
    if not found:
        why = f"; the first file: {reasons[0]}" if reasons else ""
        raise CohortError(f"{folder} holds no scored night{why}")
    return found


def write_cohort(
    output,
    nights: int,
    seed: int,
    hours: float = 8.0,
    labels=None,
    *,
    code_book: str | None = None,
    stretch: bool = False,
    jobs: int = 1,
    finished: Callable[[str], None] | None = None,
) -> list[str]:
    """Write a simulated cohort: ``<recording>.edf``, its scoring, ``participants.csv``.

    Resumable: a file is complete or absent, and complete ones are kept. The same arguments give
    the same bytes, whatever the number of jobs.

    Args:
        output: Folder; made where missing.
        nights: Recordings.
        seed: Same seed, same cohort; a larger one begins with the same nights.
        hours: Length of each recording.
        labels: Folder of scoring files to take stages (and events, where scored) from, in turn;
            each is cut to 30 min before the first sleep until 30 min after the last, and gives
            the length of its recording. Unscored epochs stay unscored.
        code_book: What bare entries of plain lists in ``labels`` mean.
        stretch: Take of each of the ``labels`` a stretch of ``hours``, which the seed draws.
        jobs: Processes.
        finished: Called with each recording's name when it is complete.

    Returns:
        The names of the recordings.

    Raises:
        CohortError: Nonsense sizes, no labels found, the folder holds another cohort, or a worker
            process died.
    """
    if nights < 1:
        raise CohortError(f"nights is {nights}; must be at least 1")
    if not (math.isfinite(hours) and 0.06 <= hours <= 24):
        raise CohortError(f"hours is {hours}; must be between 0.06 (3.5 min) and 24")
    output = pathlib.Path(output)
    files = find_labels(labels, code_book=code_book) if labels else None
    if stretch and files is None:
        raise CohortError("a stretch can be taken of labels alone; give their folder")
    planned = plan_cohort(nights, seed, hours, labels=files, code_book=code_book, stretch=stretch)
    output.mkdir(parents=True, exist_ok=True)
    _claim(output, seed, hours, labels is not None, stretch)
    remove_partials(output)
    _write_participants(output, planned)
    finished = finished or (lambda name: None)
    if jobs <= 1 or len(planned) == 1:
        for one in planned:
            finished(write_night_files(output, one))
    else:
        with open_pool(min(jobs, len(planned))) as pool:
            futures = [pool.submit(write_night_files, output, one) for one in planned]
            try:
                for future in concurrent.futures.as_completed(futures):
                    finished(future.result())
            except concurrent.futures.process.BrokenProcessPool:
                raise CohortError(
                    "a worker process died, likely for want of memory; finished nights are kept: "
                    "run the same command again with fewer jobs"
                ) from None
            finally:
                pool.shutdown(cancel_futures=True)
    return [one.recording for one in planned]


def _claim(output, seed, hours, labelled, stretch):
    """Keep two cohorts from mixing in one folder."""
    settings = {"simulated": True, "seed": seed, "hours": float(hours), "from_labels": labelled}
    settings |= {"stretch": True} if stretch else {}
    path = output / "cohort.json"
    if path.is_file():
        try:
            old = json.loads(path.read_text())
        except ValueError:
            old = None
        if old != settings:
            raise CohortError(f"{output} holds another cohort ({old}); choose another folder")
    elif any(output.glob("*.edf")):
        raise CohortError(f"{output} already holds recordings; choose another folder")
    with atomic_write(path, "w") as file:
        file.write(json.dumps(settings) + "\n")


def _write_participants(output, planned):
    with atomic_write(output / "participants.csv", "w") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["recording", "subject", "age", "sex", "site"])
        for one in planned:
            subject = draw_subject(one.seed, one.subject_index)
            rows.writerow([one.recording, subject.name, subject.age, subject.sex, one.site])
