"""A search in a million epochs: our product in pieces, against one matmul of all rows in float32.

    python benchmarks/search.py [--epochs=1000000 --width=512 --repeats=5]

Rows are drawn at random, of length 1, and written as an index has them (float16, memory-mapped). In
turn: the product of all rows with one question and the choice of the best 20, as ``launch.search``
makes them; and ``numpy.matmul`` of the same rows as one float32 array in memory. Wall and processor
time are the least of the repeats. Peak memory is of a process of its own, pages of the file
included.
"""

import argparse
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

PIECE = 50_000


def write_rows(path, epochs, width):
    rng = np.random.default_rng(0)
    with open(path, "wb") as file:
        for start in range(0, epochs, PIECE):
            rows = rng.standard_normal((min(PIECE, epochs - start), width), np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            file.write(rows.astype(np.float16).tobytes())


def timed(call, repeats):
    wall, cpu = [], []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])
    return min(wall), min(cpu)


def peak_gb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def best(scores, count=20):
    return np.sort(np.argpartition(-scores, count)[:count])


def run(kind, path, epochs, width, repeats):
    rows = np.memmap(path, np.float16, "r", shape=(epochs, width))
    vector = np.array(rows[epochs // 2], np.float32)
    if kind == "ours":
        from hypnos_jax.inference.epoch_index import products

        start = time.perf_counter()
        found = best(products(rows, vector))
        first = time.perf_counter() - start
        wall, cpu = timed(lambda: best(products(rows, vector)), repeats)
    else:
        whole, start = rows.astype(np.float32), time.perf_counter()
        found = best(whole @ vector)
        first = time.perf_counter() - start
        wall, cpu = timed(lambda: best(whole @ vector), repeats)
    row = {"wall_s": wall, "cpu_s": cpu, "first_s": first, "peak_gb": peak_gb()}
    print(json.dumps({**row, "found": found.tolist()}))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", default=None, help="for the rows; 1 GB by default")
    parser.add_argument("--kind", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--path", default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.kind:
        run(args.kind, args.path, args.epochs, args.width, args.repeats)
        return
    print(
        f"{args.epochs} rows of {args.width}; {len(os.sched_getaffinity(0))} cores of"
        f" {platform.machine()}, load {os.getloadavg()[0]:.1f}; Python"
        f" {platform.python_version()}, NumPy {np.__version__}"
    )
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = pathlib.Path(folder) / "rows.f16"
        write_rows(path, args.epochs, args.width)
        found = {}
        for kind in ("ours", "float32"):
            command = [sys.executable, __file__, f"--kind={kind}", f"--path={path}"]
            command += [
                f"--{name}={getattr(args, name)}" for name in ("epochs", "width", "repeats")
            ]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[kind] = json.loads(out)
    for kind, row in found.items():
        print(
            f"{kind:8s} {row['wall_s']:.3f} s ({row['cpu_s']:.3f} s of processors), the first"
            f" {row['first_s']:.3f} s, peak {row['peak_gb']:.2f} GB"
        )
    ours, other = found["ours"], found["float32"]
    print(
        f"ratio {ours['wall_s'] / other['wall_s']:.2f} of the time,"
        f" {ours['peak_gb'] / other['peak_gb']:.2f} of the memory; the same 20:"
        f" {ours['found'] == other['found']}"
    )


if __name__ == "__main__":
    main()
