"""Score a folder of recordings: prepared in parallel, scored one after the other, resumable."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import pathlib

import tqdm
from absl import logging

from data_pipelines.builders import folder
from data_pipelines.builders.recording_night import Pending
from data_pipelines.files import archive_comment
from data_pipelines.recordings.base import RecordingError
from hypnos_jax.inference.embed_folder import Summary
from hypnos_jax.inference.prepared import attempt, prepared
from hypnos_jax.inference.score import Scorer
from hypnos_jax.scored import files
from hypnos_jax.scored.night import ScoredNight, ScoredNightError


def score_folder(
    model: str | os.PathLike | Scorer,
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    mains_hz: int | None = None,
    aliases: dict[str, list] | None = None,
    cohort: str | None = None,
    jobs: int = 1,
    progress: bool = True,
) -> Summary:
    """Score every recording of a folder; see ``scored.files`` for what is written of each.

    Args:
        model: an export with heads.
        source: a recording, or a folder of recordings.
        output: folder; nights in it that were scored by the same model and heads are kept.
        mains_hz, aliases, cohort: as for ``embed_folder``.
        jobs: processes that read and prepare.
        progress: show a progress bar on stderr.

    Returns:
        Who was scored, was there, or was rejected and why; ``cohort.csv`` says the same.

    Raises:
        ModelError: no model, or one without heads.
        ValueError: nothing to score.
    """
    scorer = model if isinstance(model, Scorer) else Scorer(model)
    source, output = pathlib.Path(source), pathlib.Path(output)
    if source.is_file():
        items = {source.stem: Pending(name=source.stem, path=source, scoring=False, cohort=cohort)}
    else:
        found, _ = folder.find_recordings(source, cohort=cohort)
        items = {
            name: Pending(name=name, path=item.path, scoring=False, cohort=cohort or item.cohort)
            for name, item in found.items()
        }
    if not items:
        raise ValueError(f"{source} holds no recordings ({', '.join(folder.SUFFIXES)})")
    output.mkdir(parents=True, exist_ok=True)
    settings = {**scorer.identity, "mains_hz": mains_hz, "aliases": aliases, "cohort": cohort}
    comment = json.dumps(settings, sort_keys=True)

    def file_of(name: str) -> pathlib.Path:
        return output / f"{name}{files.SUFFIXES[-1]}"

    rows = {}
    for name in items:
        if archive_comment(file_of(name)) == comment:
            with contextlib.suppress(ScoredNightError):  # a damaged one is scored anew
                rows[name] = files.row_of(ScoredNight.load(file_of(name)))
    kept = sorted(rows)
    todo = {name: item for name, item in items.items() if name not in rows}
    read = scorer.reader(mains_hz=mains_hz, aliases=aliases)
    added, rejected = [], []
    not_held: collections.Counter[str] = collections.Counter()
    with tqdm.tqdm(total=len(todo), desc="score", unit="night", disable=not progress) as bar:
        for name, made in prepared(read, todo, jobs):
            try:
                night = attempt(scorer.score, made())
                not_held.update(files.write_night(output, night, comment=comment))
                rows[name] = files.row_of(night)
                added.append(name)
            except RecordingError as error:
                rejected.append((name, str(error)))
            bar.update()
    for line, count in not_held.items():
        logging.info("not held by %s (%d nights)", line, count)
    scored = [rows[name] for name in items if name in rows]
    files.write_table(output / files.COHORT, [*scored, *files.rejected_rows(rejected)])
    return Summary(added, kept, rejected)
