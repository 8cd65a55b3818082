"""Write a report: of a main job, or of one scored night.

    python -m launch.report --job=DIR
    python -m launch.report --scored=DIR --recording=FILE --output=night.html

``--job`` holds ``nights tokenizers tokens model embeddings``, or some of them; it gets
``report.html`` and ``report.png``, and the table of the probes is printed. The times of the steps
are those of ``launch.pipeline``, where it ran in ``--job``.

``--scored`` is a folder of ``launch.score`` and ``--recording`` one of the recordings that were
scored. The page is one file that needs no network: stages and their probabilities, spectrum,
events, oxygen, heart rate and position on one time axis, what the guard found, and the numbers. A
person's scoring stands beside the model's: ``--scoring``, or the one that lies beside the
recording. ``--embedding``, a file of ``launch.embed``, adds a map of the epochs.

Exit codes: 0 done, 1 an error.
"""

import glob
import pathlib
import sys

from absl import app, flags, logging

JOB = flags.DEFINE_string("job", None, "folder of a main job")
TITLE = flags.DEFINE_string("title", "", "of the report of a main job")
SCORED = flags.DEFINE_string("scored", None, "folder of launch.score")
RECORDING = flags.DEFINE_string("recording", None, "a recording that was scored")
OUTPUT = flags.DEFINE_string("output", None, "page of the night to write")
SCORING = flags.DEFINE_string("scoring", None, "a person's scoring of the night")
CODE_BOOK = flags.DEFINE_string("code_book", None, "what bare entries of a list mean")
EMBEDDING = flags.DEFINE_string("embedding", None, "the night's file of launch.embed")


def report_job() -> None:
    """Write the report of a main job."""
    from hypnos_jax.reports.main_job import write_report
    from launch.steps import read_seconds

    folder = pathlib.Path(JOB.value)
    table = write_report(folder, title=TITLE.value, seconds=read_seconds(folder))
    print(f"{table}\nreport: {folder / 'report.html'}")


def report_night() -> None:
    """Write the page of a scored night."""
    import numpy as np

    from data_pipelines import scoring
    from data_pipelines.recordings.opening import open_recording
    from data_pipelines.scoring import EPOCH_S
    from hypnos_jax.reports.scored_night_page import write_page
    from hypnos_jax.scored.night import ScoredNight

    path = pathlib.Path(RECORDING.value)
    found = sorted(pathlib.Path(SCORED.value).rglob(f"{glob.escape(path.stem)}_scored.npz"))
    if not found:
        raise ValueError(
            f"--scored={SCORED.value} has no {path.stem}_scored.npz: score the recording first"
            " (launch.score)"
        )
    if len(found) > 1:
        names = ", ".join(str(file.relative_to(SCORED.value)) for file in found[:4])
        raise ValueError(
            f"--scored={SCORED.value} has {len(found)} nights named {path.stem} ({names}): give the"
            " folder that holds the one of --recording"
        )
    night, recording = ScoredNight.load(found[0]), open_recording(path)
    if abs(night.duration_s - recording.duration_s) > EPOCH_S:
        raise ValueError(
            f"{found[0]} is of {night.duration_s:.0f} s, --recording={path} of"
            f" {recording.duration_s:.0f} s: give the recording that was scored"
        )
    if SCORING.value is not None:
        scored = scoring.read_scoring(SCORING.value, recording=recording, code_book=CODE_BOOK.value)
    else:
        scored, _ = scoring.read_beside(path, recording=recording, code_book=CODE_BOOK.value)
    if scored is not None:
        scored, _ = scoring.align(scored, recording.duration_s)
    epochs = None
    if EMBEDDING.value is not None:
        with np.load(EMBEDDING.value) as file:
            epochs = file["epochs"]
    size = write_page(
        pathlib.Path(OUTPUT.value), night, recording=recording, scored=scored, epochs=epochs
    )
    beside = "no scoring beside it" if scored is None else f"scoring: {scored.source}"
    print(f"{OUTPUT.value}: {size / 1e6:.2f} MB, {night.trust.verdict}; {beside}")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    if (JOB.value is None) == (SCORED.value is None):
        raise app.UsageError("give one of --job (a main job) and --scored (a scored night)")
    if SCORED.value is not None and not (RECORDING.value and OUTPUT.value):
        raise app.UsageError("--scored needs --recording=FILE and --output=PAGE.html")
    try:
        report_job() if JOB.value is not None else report_night()
    except (ValueError, OSError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(app.run(main))
