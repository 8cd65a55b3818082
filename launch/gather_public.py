"""Make one folder of small public sleep recordings: ``python -m launch.gather_public --help``.

``--input`` has ``dynamo/`` (DYNAM-O: ``segment_data.mat`` and ``segment_stages.csv``),
``sleep-edf/`` (``short_psg.edf``, ``short_psg.bdf``) and ``nox-a1/`` (``subject1.edf``). The
recordings go to ``--output``, the segment of DYNAM-O as EDF with its scoring beside it. The labels
of these montages are those of ``configs/pipelines/public_aliases.toml``.
"""

import datetime
import pathlib
import shutil
import sys

from absl import app, flags, logging

INPUT = flags.DEFINE_string("input", None, "folder of public recordings")
OUTPUT = flags.DEFINE_string("output", None, "folder of the recordings, to write")

FILES = {  # file of the public folder -> its name as a recording
    "sleep-edf/short_psg.edf": "sleep_edf_5min.edf",
    "sleep-edf/short_psg.bdf": "sleep_edf_5min_bdf.bdf",
    "nox-a1/subject1.edf": "nox_a1_2min.edf",
}
DYNAMO_LABEL = "EEG DYNAM-O"
DYNAMO_START = datetime.datetime(1985, 1, 1, 22, 0, 0)  # of no meaning: the source gives none


def write_dynamo(source: pathlib.Path, folder: pathlib.Path) -> None:
    """Write the segment of DYNAM-O as EDF, and its stages as annotations."""
    import numpy as np
    import scipy.io

    from data_pipelines import scoring
    from data_pipelines.recordings.edf_writer import EdfSignal, write_edf

    segment = scipy.io.loadmat(source / "segment_data.mat")
    rate_hz = int(segment["Fs"].item())
    eeg_uv = segment["data"][:, 0]
    eeg_uv = eeg_uv[: len(eeg_uv) // rate_hz * rate_hz]
    peak = float(np.ceil(np.abs(eeg_uv).max()))
    signal = EdfSignal(DYNAMO_LABEL, "uV", rate_hz, eeg_uv, -peak, peak)
    write_edf(folder / "dynamo.edf", [signal], DYNAMO_START)
    stages = scoring.read_scoring(source / "segment_stages.csv", code_book="dynamo")
    scoring.write_edf_annotations(folder / "dynamo-Hypnogram.edf", stages, start=DYNAMO_START)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    source, folder = pathlib.Path(INPUT.value), pathlib.Path(OUTPUT.value)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, recording in FILES.items():
            shutil.copyfile(source / name, folder / recording)
        write_dynamo(source / "dynamo", folder)
    except (ValueError, OSError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        return 1
    print(f"{folder}: {len(FILES) + 1} recordings")
    return 0


if __name__ == "__main__":
    flags.mark_flags_as_required(["input", "output"])
    sys.exit(app.run(main))
