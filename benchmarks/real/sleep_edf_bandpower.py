"""Sleep-EDF as band powers (58 people or more, three channels, ten numbers per epoch) as arrays.

    python -m benchmarks.real.sleep_edf_bandpower --data=DIR [--test=DIR2] --output=FOLDER

``DIR/sleep-edf-bandpower/bandpower.npz``: ``x`` [N, 3, 10], ``y`` [N], ``night``, ``subject``, ``start``.
"""  # noqa: E501

import numpy as np

from benchmarks.real import arrays_folder

CHANNELS = ("eeg_fpz_cz", "eeg_pz_oz", "eog")
# Absolute level is lost already; a z-score of the night takes a person's own level and spread away.
SERIES = """# log powers of five bands, then the same relative to their sum
[series.{name}]
step_s = 30
values = 10
scaling = "night"
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
        arrays = {channel: x[rows, c] for c, channel in enumerate(CHANNELS)}
        yield arrays_folder.Night(name, f"SC4{people[i]}", {**arrays, "stages": y[rows]})


if __name__ == "__main__":
    declared = "\n".join(SERIES.format(name=name) for name in CHANNELS)
    arrays_folder.write(__doc__.splitlines()[0], "sleep-edf-bandpower", declared, nights_of)
