"""Sleep-EDF as band powers (58 people or more, three channels, ten numbers per epoch) as arrays.

    python -m benchmarks.real.sleep_edf_bandpower --data=DIR [--test=DIR2] --output=FOLDER

``DIR/sleep-edf-bandpower/bandpower.npz``: ``x`` [N, 3, 10], ``y`` [N], ``night``, ``subject``, ``start``.
"""  # noqa: E501

import numpy as np

from benchmarks.real import arrays_folder

CHANNELS = ("eeg_fpz_cz", "eeg_pz_oz", "eog")
# Both are told: how an epoch differs from all epochs of all people, and from those of its night.
SERIES = """# log powers of five bands, the same relative to their sum; z-scores of the night too
[series.{name}]
columns = ["{name}", "{name}_of_night"]
step_s = 30
values = 20
scaling = "global"
clip = 5
unit = "log power"
"""


def nights_of(folder):
    """Yield the nights of the data set."""
    with np.load(folder / "bandpower.npz", allow_pickle=False) as file:
        x, y, start = file["x"].astype(np.float32), file["y"], file["start"]
        names, people = file["night"], file["subject"]
    for i, name in enumerate(names.tolist()):
        rows = slice(start[i], start[i + 1])
        own = x[rows]
        own = (own - np.median(own, axis=0)) / np.maximum(own.std(axis=0), 1e-3)
        arrays = {channel: x[rows, c] for c, channel in enumerate(CHANNELS)}
        arrays |= {f"{channel}_of_night": own[:, c] for c, channel in enumerate(CHANNELS)}
        yield arrays_folder.Night(name, f"SC4{people[i]}", {**arrays, "stages": y[rows]})


if __name__ == "__main__":
    declared = "\n".join(SERIES.format(name=name) for name in CHANNELS)
    arrays_folder.write(__doc__.splitlines()[0], "sleep-edf-bandpower", declared, nights_of)
