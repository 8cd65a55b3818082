"""Apple Watch features of the sleep-accel study (23 people or more, a night each) as arrays.

    python -m benchmarks.real.walch_features --data=DIR [--test=DIR2] --output=FOLDER

``DIR/walch-features/walch.npz``: ``count``, ``hr``, ``cosine``, ``circadian``, ``time_h``,
``stage`` of all nights' epochs, ``subject``, ``start``. Epochs that nobody scored were dropped:
they are put back as missing, by the time.
"""

import numpy as np

from benchmarks.real import arrays_folder

SERIES = """# activity counts of an epoch, as the study's own pipeline smooths them
[series.motion]
scaling = "global"
clip = 10
columns = ["count"]

# local variability of the heart rate, normalised by the night
[series.heart]
scaling = "global"
clip = 10
columns = ["hr"]

# proxies of the clock: a cosine of the time asleep, and a drive
[series.clock]
scaling = "none"
columns = ["cosine", "circadian"]

[stages]
codes = { -1 = "none", 0 = "W", 1 = "N1", 2 = "N2", 3 = "N3", 4 = "N3", 5 = "R" }
"""
COLUMNS = ("count", "hr", "cosine", "circadian")


def nights_of(folder):
    """Yield the nights of the data set."""
    with np.load(folder / "walch.npz", allow_pickle=False) as file:
        data = {key: file[key] for key in file.files}
    for i, person in enumerate(data["subject"].tolist()):
        rows = slice(data["start"][i], data["start"][i + 1])
        place = np.rint(data["time_h"][rows] * 120).astype(int)
        arrays = {"stages": np.full(place[-1] + 1, -1, np.int8)}
        arrays["stages"][place] = data["stage"][rows]
        for key in COLUMNS:
            arrays[key] = np.full(place[-1] + 1, np.nan, np.float32)
            arrays[key][place] = data[key][rows]
        yield arrays_folder.Night(f"walch-{person}", f"walch-{person}", arrays)


if __name__ == "__main__":
    arrays_folder.write(__doc__.splitlines()[0], "walch-features", SERIES, nights_of)
