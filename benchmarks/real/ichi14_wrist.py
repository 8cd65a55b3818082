"""Wrist accelerometry of ICHI14 (33 people or more, with stages of polysomnography) as arrays.

    python -m benchmarks.real.ichi14_wrist --data=DIR [--test=DIR2] --output=FOLDER

``DIR/ichi14-wrist/pID.npz``: run-length coded samples at 100 Hz: ``t_s``, ``run``, ``x``, ``y``,
``z`` (128 is 0 g), ``light``, ``gt``; ``patients.csv``: ``ID``, ``gender``, ``age``. Per second:
how much the wrist moves (logarithm of the standard deviation of the samples), where it points, and
the light.
"""

import csv
import re

import numpy as np

from benchmarks.real import arrays_folder

RATE_HZ, EPOCH_S, ZERO = 100, 30, 128.0
STILL = 0.1  # added to the standard deviation, in steps of the sensor
LEAST = 0.5  # of a second's samples, or an epoch's codes
SERIES = """# log10 of the standard deviation of the samples of a second, in steps of the sensor
[series.motion]
rate_hz = 1
scaling = "global"
clip = 5

# mean acceleration of a second: where gravity points
[series.posture]
rate_hz = 1
values = 3
scaling = "global"
clip = 5

[series.light]
rate_hz = 1
scaling = "global"
clip = 5

[stages]
codes = { 0 = "none", 1 = "N3", 2 = "N2", 3 = "N1", 5 = "R", 6 = "W", 7 = "none" }
"""


def nights_of(folder):
    """Yield the nights of the data set."""
    with open(folder / "patients.csv", newline="", encoding="utf-8") as file:
        people = {row["ID"].strip(): row for row in csv.DictReader(file)}
    for path in sorted(folder.glob("p*.npz")):
        with np.load(path, allow_pickle=False) as file:
            data = {key: file[key] for key in file.files}
        name = path.stem[1:]
        known = people.get(name, {})
        facts = {"age": known.get("age", "")}
        facts["sex"] = {"m": "M", "w": "F"}.get(known.get("gender"), "")
        # 08a and 08b are two nights of one person.
        person = re.match(r"\d+", name)[0].zfill(3)
        yield arrays_folder.Night(f"ichi14-{name}", f"ichi14-{person}", arrays_of(data), facts)


def arrays_of(data):
    """Return the series and the stages of a night."""
    run = data["run"].astype(np.int64)
    first = np.rint(data["t_s"].astype(np.float64) * RATE_HZ).astype(np.int64)
    within = np.arange(run.sum()) - np.repeat(np.cumsum(run) - run, run)
    place = np.repeat(first, run) + within
    seconds = int(place.max()) // RATE_HZ + 1
    seconds = -(-seconds // EPOCH_S) * EPOCH_S

    def spread(values):
        samples = np.full(seconds * RATE_HZ, np.nan, np.float32)
        samples[place] = np.repeat(values, run)
        return samples.reshape(seconds, RATE_HZ)

    axes = [spread(data[key].astype(np.float32) - ZERO) for key in "xyz"]
    there = np.isfinite(axes[0]).mean(1) >= LEAST
    with np.errstate(invalid="ignore"):
        means = [masked_mean(x) for x in axes]
        squares = sum(masked_mean((x - m[:, None]) ** 2) for x, m in zip(axes, means))
    motion = np.log10(np.sqrt(squares) + STILL)
    light = np.log10(1 + masked_mean(spread(data["light"].astype(np.float32))))
    found = {"motion": motion, "posture": np.stack(means, 1), "light": light}
    for values in found.values():
        values[~there] = np.nan
    codes = spread(data["gt"].astype(np.float32)).reshape(-1, EPOCH_S * RATE_HZ)
    counts = np.stack([(codes == code).sum(1) for code in range(8)], 1)
    best = counts.argmax(1)
    clear = counts.max(1) >= LEAST * EPOCH_S * RATE_HZ
    return {**found, "stages": np.where(clear, best, 0).astype(np.int8)}


def masked_mean(x):
    """Return the mean of each row of what is known of it; NaN where nothing is."""
    known = np.isfinite(x)
    total = np.where(known, x, 0).sum(1)
    return np.where(known.any(1), total / np.maximum(known.sum(1), 1), np.nan)


if __name__ == "__main__":
    arrays_folder.write(__doc__.splitlines()[0], "ichi14-wrist", SERIES, nights_of)
