"""Apnea-ECG's beats (49 nights or more, apnea by the minute) as arrays: see ``heart_rate``.

    python -m benchmarks.real.apnea_ecg_rr --data=DIR [--test=DIR2] [--folds=3 --fold=0] --output=FOLDER

``DIR/apnea-ecg-rr/REC.npz``: ``beat_min``, ``hr_hz``, ``apnea`` by the minute, ``subject`` (a group of
recordings that may be one person's), ``age``, ``sex``. Stages are not known.
"""  # noqa: E501

import numpy as np

from benchmarks.real import arrays_folder, heart_rate

SERIES = heart_rate.SERIES + '\n[events]\nscored = ["apnea"]\n'


def nights_of(folder):
    """Yield the nights of the data set."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            night = {key: file[key] for key in file.files}
        times = night["beat_min"].astype(np.float64) * 60
        intervals = 1 / night["hr_hz"].astype(np.float64)
        minutes = night["apnea"]
        yield arrays_folder.Night(
            path.stem,
            f"apnea-ecg-{int(night['subject'])}",
            heart_rate.series(times, intervals, 60 * len(minutes)),
            {"age": int(night["age"]), "sex": str(night["sex"])},
            [("apnea_hypopnea", 60 * k, 60) for k in np.flatnonzero(minutes).tolist()],
        )


if __name__ == "__main__":
    arrays_folder.write(__doc__.splitlines()[0], "apnea-ecg-rr", SERIES, nights_of)
