"""The main job, from a folder of recordings to a report, by the single commands.

    python -m launch.demo --output=DIR                     a synthetic cohort (``make demo``)
    python -m launch.demo --output=DIR --data=RECORDINGS   somebody's own folder
    python -m launch.demo --output=DIR --public=DIR        small public recordings (``demo-real``)

Each step is a command of the README, printed before it runs; each resumes, so the same command
after an interruption goes on where it was. Ends with a table and ``DIR/report.html``.
"""

from __future__ import annotations

import datetime
import json
import pathlib
import shutil
import sys
import time
from collections.abc import Sequence

import numpy as np
import scipy.io
from absl import app, flags, logging

from launch.steps import StepError, command

OUTPUT = flags.DEFINE_string("output", None, "folder for everything that the job writes")
DATA = flags.DEFINE_string("data", "", "a folder of recordings, with scoring beside them")
PUBLIC = flags.DEFINE_string("public", "", "a folder of small public recordings (see the README)")
NIGHTS = flags.DEFINE_integer("nights", 12, "synthetic nights, where no recordings are given", 3)
HOURS = flags.DEFINE_float("hours", 1.0, "length of a synthetic night", 0.1)
SIZE = flags.DEFINE_string("size", "demo", "size of the models, as in the configs")
JOBS = flags.DEFINE_integer("jobs", 2, "processes that prepare recordings", 1)

PSG_FILES = {  # file of the public folder -> its name as a recording
    "sleep-edf/short_psg.edf": "sleep_edf_5min.edf",
    "sleep-edf/short_psg.bdf": "sleep_edf_5min_bdf.bdf",
    "nox-a1/subject1.edf": "nox_a1_2min.edf",
}
DYNAMO_LABEL = "EEG DYNAM-O"
STAND_INS = {"eeg_c3": [DYNAMO_LABEL, "EEG Fpz-Cz"], "eog_e1": ["EOG horizontal"]}
CINC_WINDOW_S = 32  # the records' median length


def main_job(
    recordings: pathlib.Path,
    folder: pathlib.Path,
    *,
    prepare: Sequence[str] = (),
    train: Sequence[str] = (),
    embed: Sequence[str] = (),
) -> dict[str, float]:
    """Run recordings -> nights -> tokenizers -> tokens -> RQ-Transformer -> probe -> embeddings.

    Args:
        recordings: a folder.
        folder: gets ``nights tokenizers tokens model export embeddings``.
        prepare: further flags of ``prepare_nights``.
        train: further flags of the RQ-Transformer's ``train``.
        embed: further flags of ``embed``.

    Returns:
        step -> seconds.
    """
    nights, tokens, model = folder / "nights", folder / "tokens", folder / "model"
    seconds = {}
    seconds["prepare_nights"] = command(
        "prepare_nights",
        f"--input={recordings}",
        f"--output={nights}",
        f"--jobs={JOBS.value}",
        *prepare,
    )
    for signal_type in signal_types(nights):
        seconds[f"train tokenizer {signal_type}"] = command(
            "train",
            f"--config=configs/hypnos/rvq_tokenizer.py:{SIZE.value},{signal_type}",
            f"--workdir={folder / 'tokenizers' / signal_type}",
            f"--config.data.path={nights}",
        )
    seconds["tokenize_nights"] = command(
        "tokenize_nights",
        f"--nights={nights}",
        f"--tokenizers={folder / 'tokenizers'}",
        f"--output={tokens}",
    )
    seconds["train RQ-Transformer"] = command(
        "train",
        f"--config=configs/hypnos/rq_transformer.py:{SIZE.value}",
        f"--workdir={model}",
        f"--config.data.path={tokens}",
        f"--config.evals.probe.nights={nights}",
        *train,
    )
    seconds["evaluate"] = command("evaluate", f"--workdir={model}")
    seconds["export"] = command("export", f"--workdir={model}", f"--output={folder / 'export'}")
    seconds["embed"] = command(
        "embed",
        f"--model={folder / 'export'}",
        f"--input={recordings}",
        f"--output={folder / 'embeddings'}",
        *embed,
    )
    return seconds


def signal_types(nights: pathlib.Path) -> list[str]:
    """Return the signal types to train tokenizers of: those of the store's training nights."""
    from data_pipelines.recipes.hypnos import EIGHT, ROWS
    from data_pipelines.store import NightStore

    held = {name for night in NightStore(nights).select("train") for name in night.channels}
    return list(dict.fromkeys(ROWS[name].signal_type for name in EIGHT if name in held))


def report(folder: pathlib.Path, title: str, seconds: dict[str, float]) -> None:
    """Write the report of one main job and print its table."""
    from hypnos_jax.reports.main_job import write_report

    (folder / "seconds.json").write_text(json.dumps(seconds, indent=1) + "\n")
    print()
    print(write_report(folder, title=title, seconds=seconds))
    print(f"report: {folder / 'report.html'}")


def run_public(source: pathlib.Path, output: pathlib.Path) -> None:
    """Two main jobs on small public recordings: atrial fibrillation in ECGs, sleep stages in EEG.

    Args:
        source: a folder with ``cinc2017/`` (PhysioNet CinC 2017: records and ``REFERENCE.csv``),
            ``dynamo/`` (DYNAM-O: 84 min of scored EEG), ``sleep-edf/`` and ``nox-a1/``.
        output: gets ``ecg/`` and ``psg/``, each with its report.
    """
    ecg, psg = output / "ecg", output / "psg"
    seconds = main_job(
        source / "cinc2017",
        ecg,
        prepare=["--builder=cinc2017"],
        train=[f"--config.data.window_s={CINC_WINDOW_S}"],
    )
    report(ecg, "CinC 2017: single-lead ECGs", seconds)
    recordings = psg / "recordings"
    gather_psg(source, recordings)
    aliases = [f"--aliases={write_aliases(psg)}"]
    seconds = main_job(recordings, psg, prepare=aliases, embed=aliases)
    report(psg, "Small public sleep recordings", seconds)


def gather_psg(source: pathlib.Path, folder: pathlib.Path) -> None:
    """Copy the PSG files, and write the DYNAM-O segment as EDF with its scoring beside it."""
    from data_pipelines import scoring
    from data_pipelines.recordings.edf_writer import EdfSignal, write_edf

    folder.mkdir(parents=True, exist_ok=True)
    for name, recording in PSG_FILES.items():
        shutil.copyfile(source / name, folder / recording)
    segment = scipy.io.loadmat(source / "dynamo" / "segment_data.mat")
    rate_hz = int(segment["Fs"].item())
    eeg_uv = segment["data"][:, 0]
    eeg_uv = eeg_uv[: len(eeg_uv) // rate_hz * rate_hz]
    start = datetime.datetime(1985, 1, 1, 22, 0, 0)  # of no meaning: the source gives none
    peak = float(np.ceil(np.abs(eeg_uv).max()))
    write_edf(
        folder / "dynamo.edf", [EdfSignal(DYNAMO_LABEL, "uV", rate_hz, eeg_uv, -peak, peak)], start
    )
    stages = scoring.read_scoring(source / "dynamo" / "segment_stages.csv", code_book="dynamo")
    scoring.write_edf_annotations(folder / "dynamo-Hypnogram.edf", stages, start=start)


def write_aliases(folder: pathlib.Path) -> pathlib.Path:
    """Write the alias file that stands these montages in for the channels of Hypnos.

    Neither the electrode of DYNAM-O, which the source does not name, nor Sleep-EDF's Fpz-Cz is C3;
    a user who wants to use such a montage says so in the same way.
    """
    path = folder / "aliases.json"
    path.write_text(json.dumps(STAND_INS) + "\n")
    return path


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    logging.set_verbosity(logging.INFO)
    output = pathlib.Path(OUTPUT.value)
    begin = time.monotonic()
    try:
        if PUBLIC.value:
            run_public(pathlib.Path(PUBLIC.value), output)
        else:
            recordings, seconds = pathlib.Path(DATA.value), {}
            if not DATA.value:
                recordings = output / "recordings"
                seconds["synthesize"] = command(
                    "synthesize",
                    f"--output={recordings}",
                    f"--nights={NIGHTS.value}",
                    "--seed=0",
                    f"--hours={HOURS.value}",
                )
            people = recordings / "participants.csv"  # whose nights are whose
            subjects = [f"--subjects={people}"] if people.is_file() else []
            seconds |= main_job(recordings, output, prepare=subjects)
            title = "Synthetic cohort" if not DATA.value else "Own recordings"
            report(output, title, seconds)
    except StepError as error:
        logging.error("%s", error)
        return 1
    print(f"\n{time.monotonic() - begin:.0f} s in all")
    return 0


if __name__ == "__main__":
    flags.mark_flag_as_required("output")
    sys.exit(app.run(main))
