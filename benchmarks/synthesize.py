"""Speed of simulated nights, in seconds of recording per second of one core.

    python benchmarks/synthesize.py [--hours=8]

Simulates and writes one night per site and prints the time of both parts.
"""

import argparse
import datetime
import os
import pathlib
import resource
import tempfile
import time

# One core: the figure is per core, and FFTs would otherwise be allowed more.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from data_pipelines.recordings.edf_writer import write_edf
from data_pipelines.synthetic import draw_subject, simulate_night
from data_pipelines.synthetic.scoring_files import write_scoring
from data_pipelines.synthetic.sites import SITES, channels_of, record
from data_pipelines.synthetic.subjects import stream


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=8.0)
    hours = parser.parse_args().hours
    start = datetime.datetime(1985, 1, 1, 22)
    print("site      signals  simulate_s  write_s  file_mb  x_real_time")
    total = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for index, site in enumerate(SITES):
            path = pathlib.Path(folder) / f"{site.name}.edf"
            began = time.perf_counter()
            subject = draw_subject(0, index)
            night = simulate_night(
                0, hours, subject=subject, rates=site.rates, channels=channels_of(site)
            )
            simulated = time.perf_counter()
            signals = record(stream(0), night, site)
            write_scoring(path, night.scoring, site.scoring, start)
            write_edf(path, signals, start)
            written = time.perf_counter()
            total += written - began
            print(
                f"{site.name:<9} {len(signals):>7} {simulated - began:>11.2f} "
                f"{written - simulated:>8.2f} {path.stat().st_size / 1e6:>8.1f} "
                f"{night.duration_s / (written - began):>12.0f}"
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"mean {len(SITES) * hours * 3600 / total:.0f} x real time per core, {peak:.2f} GB at most"
    )


if __name__ == "__main__":
    main()
