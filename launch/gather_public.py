"""Make one folder of small public recordings: ``python -m launch.gather_public --help``.

``--input`` has ``dynamo/`` (DYNAM-O: ``segment_data.mat`` and ``segment_stages.csv``), and for
``--which=pieces`` (the default) ``sleep-edf/`` (``short_psg.edf``, ``short_psg.bdf``) and
``nox-a1/`` (``subject1.edf``); for ``--which=one_eeg``, recordings of one scored EEG,
``ucddb-eeg/``: ``NAME_eeg.npz`` with epochs of the EEG of nights of UCDDB, and the original
``NAME_stage.txt`` and ``NAME_respevt.txt``; for ``--which=ecg``, ECGs without sleep,
``mitdb-lead1/`` (``REC.npz``: the first lead of MIT-BIH Arrhythmia) and ``bidmc/``
(``bidmcNN.npz``: lead II), with a ``participants.csv`` of whose they are. The recordings go to
``--output``, as EDF with their scoring beside them. The labels of these montages are those of
``configs/pipelines/public_aliases.toml``.
"""

import datetime
import pathlib
import shutil
import sys

from absl import app, flags, logging

INPUT = flags.DEFINE_string("input", None, "folder of public recordings")
OUTPUT = flags.DEFINE_string("output", None, "folder of the recordings, to write")
WHICH = flags.DEFINE_enum("which", "pieces", ["pieces", "one_eeg", "ecg"], "Which recordings.")

FILES = {  # file of the public folder -> its name as a recording
    "sleep-edf/short_psg.edf": "sleep_edf_5min.edf",
    "sleep-edf/short_psg.bdf": "sleep_edf_5min_bdf.bdf",
    "nox-a1/subject1.edf": "nox_a1_2min.edf",
}
DYNAMO_LABEL = "EEG DYNAM-O"
DYNAMO_START = datetime.datetime(1985, 1, 1, 22, 0, 0)  # of no meaning: the source gives none
UCDDB_LABEL = "EEG UCDDB"  # C3-A2 or C4-A1, which the source does not say
UCDDB_UV = 125.0  # of a unit, so that deep sleep is about 40 uV; the header's unit is nominal
UCDDB_UNSCORED = 8
ECG_START = datetime.datetime(1985, 1, 1)  # of no meaning: the sources give none
MITDB_PEAK_MV = 10.24  # of 11 bits at 200 a millivolt
MITDB_SAME = {"202": "201"}  # record -> the record of the same person (its own page says so)
BIDMC_STEP = 1 / 20_000  # of an integer; lead II's unit is nominal
# Clock time at the start of each night of UCDDB, from its table of subjects.
UCDDB_STARTS = {
    "002": "00:11:04",
    "005": "23:28:42",
    "006": "23:57:14",
    "007": "23:30:22",
    "009": "22:35:22",
    "010": "22:51:18",
    "011": "22:47:38",
    "013": "23:44:00",
    "014": "23:37:59",
    "017": "23:16:05",
    "018": "23:49:02",
    "019": "23:30:33",
    "020": "23:48:21",
    "021": "22:52:05",
    "023": "22:55:51",
    "025": "00:25:37",
    "026": "22:58:13",
    "027": "22:56:30",
}


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


def write_ucddb(source: pathlib.Path, folder: pathlib.Path) -> int:
    """Write nights of UCDDB as EDF, flat where an epoch is missing; and their scoring.

    Stages of missing epochs are written as unscored: nothing is to be told from a flat line.

    Returns:
        How many.

    Raises:
        ValueError: there are none, or one whose start is not known.
    """
    import numpy as np

    from data_pipelines.recordings.edf_writer import EdfSignal, write_edf

    files = sorted(source.glob("ucddb*_eeg.npz"))
    if not files:
        raise ValueError(f"{source} has no ucddbNNN_eeg.npz")
    for file in files:
        name = file.name.removesuffix("_eeg.npz")
        if name[5:] not in UCDDB_STARTS:
            raise ValueError(f"{file}: when this night began is not in UCDDB_STARTS")
        with np.load(file, allow_pickle=False) as night:
            eeg, epochs, rate_hz = night["eeg"], night["epoch"], int(night["rate_hz"])
            whole = np.zeros((len(night["stage"]), eeg.shape[1]))
            whole[epochs] = eeg * (float(night["step"]) * UCDDB_UV)
        start = datetime.datetime.fromisoformat(f"1985-01-01T{UCDDB_STARTS[name[5:]]}")
        peak = float(np.ceil(np.abs(whole).max()))
        signal = EdfSignal(UCDDB_LABEL, "uV", rate_hz, whole.ravel(), -peak, peak)
        write_edf(folder / f"{name}.edf", [signal], start)
        stages = np.full(len(whole), UCDDB_UNSCORED)
        stages[epochs] = np.loadtxt(source / f"{name}_stage.txt", int)[epochs]
        np.savetxt(folder / f"{name}_stage.txt", stages, fmt="%d")
        shutil.copyfile(source / f"{name}_respevt.txt", folder / f"{name}_respevt.txt")
    return len(files)


def write_ecgs(source: pathlib.Path, folder: pathlib.Path) -> int:
    """Write ECGs of MIT-BIH Arrhythmia and of BIDMC as EDF, whole seconds, and whose they are.

    Returns:
        How many.

    Raises:
        ValueError: there are none of one of the two.
    """
    import numpy as np

    from data_pipelines.files import atomic_write
    from data_pipelines.recordings.edf_writer import EdfSignal, write_edf

    rows = ["recording,subject"]
    for files, where in (("mitdb-lead1", "[0-9]*.npz"), ("bidmc", "bidmc*.npz")):
        paths = sorted((source / files).glob(where))
        if not paths:
            raise ValueError(f"{source / files} has no {where}")
        for path in paths:
            with np.load(path, allow_pickle=False) as record:
                rate_hz = int(record["rate_hz"])
                if "II" in record:
                    name, person = path.stem, f"bidmc-{int(record['subject'])}"
                    step = BIDMC_STEP if record["II"].dtype == np.int16 else 1.0
                    ecg_mv = record["II"] * step
                    peak = float(np.ceil(np.abs(ecg_mv).max()))
                else:
                    name = f"mitdb{path.stem}"
                    person = f"mitdb-{MITDB_SAME.get(path.stem, path.stem)}"
                    ecg_mv = (record["ecg"] - float(record["adc_zero"])) / record["adc_per_mv"]
                    peak = MITDB_PEAK_MV
            ecg_mv = ecg_mv[: len(ecg_mv) // rate_hz * rate_hz]
            signal = EdfSignal("ECG", "mV", rate_hz, ecg_mv, -peak, peak)
            write_edf(folder / f"{name}.edf", [signal], ECG_START)
            rows.append(f"{name},{person}")
    with atomic_write(folder / "participants.csv", "w") as file:
        file.write("\n".join(rows) + "\n")
    return len(rows) - 1


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    source, folder = pathlib.Path(INPUT.value), pathlib.Path(OUTPUT.value)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if WHICH.value == "ecg":
            count = write_ecgs(source, folder)
        elif WHICH.value == "one_eeg":
            count = 1 + write_ucddb(source / "ucddb-eeg", folder)
            write_dynamo(source / "dynamo", folder)
        else:
            count = 1 + len(FILES)
            for name, recording in FILES.items():
                shutil.copyfile(source / name, folder / recording)
            write_dynamo(source / "dynamo", folder)
    except (ValueError, OSError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        return 1
    print(f"{folder}: {count} recordings")
    return 0


if __name__ == "__main__":
    flags.mark_flags_as_required(["input", "output"])
    sys.exit(app.run(main))
