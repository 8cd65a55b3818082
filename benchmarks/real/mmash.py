"""MMASH's beats in bed (nights of healthy men, without labels of breathing) as arrays.

    python -m benchmarks.real.mmash --data=DIR [--test=DIR2] --output=FOLDER

``DIR/mmash/userNN.npz``: ``rr_time_s`` (whole seconds), ``ibi_ms``, ``sleep`` (rows whose first two
numbers are in-bed and out-of-bed times), ``age``, ``sex``. See ``heart_rate`` for the series.
"""

import numpy as np

from benchmarks.real import arrays_folder, heart_rate

LEAST_S = 3600
DRIFT_S = 1.5  # of the sum of intervals from the clock, from which the clock counts


def nights_of(folder):
    """Yield the stays in bed of the data set."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            night = {key: file[key] for key in file.files}
        clock = night["rr_time_s"].astype(np.float64)
        intervals = night["ibi_ms"].astype(np.float64) / 1000
        times = beat_times(clock, intervals)
        for number, (begin, end) in enumerate(np.atleast_2d(night["sleep"])[:, :2].tolist()):
            inside = (times >= begin) & (times < end)
            if end - begin < LEAST_S or inside.sum() < LEAST_S / 2:
                continue
            made = heart_rate.series(times[inside] - begin, intervals[inside], end - begin)
            facts = {"age": int(night["age"]), "sex": str(night["sex"])}
            name = path.stem if not number else f"{path.stem}-{number}"
            yield arrays_folder.Night(name, f"mmash-{path.stem}", made, facts)


def beat_times(clock_s, intervals_s):
    """Return times of beats finer than the clock of whole seconds that they were written with."""
    times, now = np.empty(len(clock_s)), clock_s[0]
    for i, (at, interval) in enumerate(zip(clock_s, intervals_s)):
        now += interval
        if not -DRIFT_S < now - at - 0.5 < DRIFT_S:
            now = at + 0.5
        times[i] = now
    return times


if __name__ == "__main__":
    about = __doc__.splitlines()[0]
    arrays_folder.write(about, "mmash", heart_rate.SERIES, nights_of, labelled=False)
