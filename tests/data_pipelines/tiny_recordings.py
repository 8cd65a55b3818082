"""Small EDF files of noise with scoring beside them, for tests."""

import datetime
import pathlib

import numpy as np

from data_pipelines import scoring

LABELS = {"EEG C3-M2": 20.0, "ECG": 300.0, "ABD": 5.0}
CANARY = "Canary Yellowbird 12-OCT-1961 SN-77431"


def write_edf(path, *, seconds=300, seed=0, sfreq_hz=100, labels=LABELS):
    """Write noise with a standard deviation per label in uV; the header names a patient."""
    rng = np.random.default_rng(seed)
    count = len(labels)
    head = f"0       {CANARY:80.80}{CANARY:80.80}01.01.8522.30.00{256 * (count + 1):<8}{'':44}"
    head += f"{seconds:<8}{1:<8}{count:<4}"
    stds = list(labels.values())
    columns = (
        [f"{label:16.16}" for label in labels],
        [f"{CANARY:80.80}"] * count,
        [f"{'uV':8}"] * count,
        [f"{-10 * std:<8}" for std in stds],
        [f"{10 * std:<8}" for std in stds],
        [f"{-32768:<8}"] * count,
        [f"{32767:<8}"] * count,
        [f"{'':80}"] * count,
        [f"{sfreq_hz:<8}"] * count,
        [f"{'':32}"] * count,
    )
    digital = rng.standard_normal((seconds, count, sfreq_hz)) * 3276.8
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write((head + "".join("".join(column) for column in columns)).encode("ascii"))
        file.write(np.clip(digital, -32768, 32767).astype("<i2").tobytes())
    return path


def write_hypnogram(path, stages):
    """Write the stages as an EDF+ file of annotations that starts with the recording."""
    scored = scoring.Scoring(np.asarray(stages, np.int8), [], "test")
    scoring.write_edf_annotations(path, scored, start=datetime.datetime(1985, 1, 1, 22, 30))
    return path


def write_folder(folder, *, count=3, seconds=300):
    """Write recordings ``SC40n1E0-PSG.edf`` with their hypnograms; returns the folder."""
    folder = pathlib.Path(folder)
    for n in range(count):
        write_edf(folder / f"SC40{n}1E0-PSG.edf", seconds=seconds + 30 * n, seed=n)
        stages = np.random.default_rng(n).integers(-1, 5, seconds // 30 + n)
        write_hypnogram(folder / f"SC40{n}1EC-Hypnogram.edf", stages)
    return folder
