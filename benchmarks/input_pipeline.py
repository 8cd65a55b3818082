"""Speed of batches from the disk, beside other ways and the physical limit.

    python benchmarks/input_pipeline.py
    python benchmarks/input_pipeline.py --consume=2000

Signal crops of three lengths and token windows of two, from simulated nights in a temporary folder
(they are then in the page cache), batches of ``--rows``, random order. MB are those of the batch.
The ways, which take turns; the best of ``--repeats`` counts:

- limit: on every core, copy int16 from a file in the page cache in order and convert to float32;
- ours: :mod:`data_pipelines.pipeline` on the prepared store;
- memmap: one int16 file per night, ``numpy.memmap``, a random crop after the other, scaled and
  stacked in one thread: nothing is parsed, checked or sharded, and there is no validity;
- grain: ``ArrayRecordDataSource`` of records of 300 s of the same samples, compressed as TFDS and
  Grain do it by default, a crop within one record, batched by Grain with its default settings.

``--consume`` is a training step's ``channel_seconds_per_s`` (``benchmarks/train_step.py``).
``--nights=20000`` measures instead the memory that a store of so many nights takes before training.
"""

import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import resource
import shutil
import tempfile
import time

import grain
import numpy as np
from absl import app, flags, logging
from array_record.python import array_record_module

from data_pipelines import pipeline, store, synthetic
from data_pipelines.builders import night_builder
from hypnos_jax.batch import channel_seconds

ROWS = flags.DEFINE_integer("rows", 64, "Rows of a batch.")
CROPS_S = flags.DEFINE_list("crops_s", ["8", "30", "32"], "Lengths of signal crops.")
WINDOWS_S = flags.DEFINE_list("windows_s", ["512", "2048"], "Lengths of token windows.")
RUN_S = flags.DEFINE_float("run_s", 2.0, "How long to read each time.")
REPEATS = flags.DEFINE_integer("repeats", 3, "Measurements of each; the fastest counts.")
CONSUME = flags.DEFINE_float("consume", None, "Channel-seconds/s of the training step.")
NIGHTS = flags.DEFINE_integer("nights", 0, "Measure the memory of a store of so many nights.")

HOURS, STORED, RATE_HZ = 4, 12, 128


def write_nights(folder):
    """Write nights of noise as a store, and each as a plain int16 file of the same samples."""

    def make(name):
        rng = np.random.default_rng(int(name))
        seconds = HOURS * 3600
        channels = {
            channel: store.ChannelSignal(
                channel,
                RATE_HZ,
                rng.standard_normal(seconds * RATE_HZ, np.float32),
                np.ones(seconds, bool),
                np.zeros((seconds, 2), np.float32),
            )
            for channel in ("eeg_c3", "eeg_c4")
        }
        samples, _ = store.quantize(channels["eeg_c3"].samples)
        samples.tofile(folder / f"{name}.int16")
        return store.Night(name, name, "train", channels, np.zeros(HOURS * 120, np.int8))

    items = {str(n): str(n) for n in range(STORED)}
    night_builder.write_store(
        folder / "nights", kind="signals", items=items, make_night=make, progress=False
    )


def limit(folder, seconds):
    """Yield MB/s of reading in order and converting, all cores together."""
    files = sorted(folder.glob("*.int16"))
    cores = os.cpu_count()

    def convert(files):
        raw = np.empty(2**17, np.int16)
        made = np.empty(2**17, np.float32)
        size = 0
        stop = time.perf_counter() + RUN_S.value
        while time.perf_counter() < stop:
            for file in files:
                with open(file, "rb", buffering=0) as opened:
                    while count := opened.readinto(raw) // 2:
                        np.multiply(raw[:count], np.float32(0.001), out=made[:count])
                        size += 4 * count
        return size

    with concurrent.futures.ThreadPoolExecutor(cores) as pool:
        then = time.perf_counter()
        size = sum(pool.map(convert, [files[i::cores] for i in range(cores)]))
        return size / (time.perf_counter() - then) / 1e6, None


def read(feed):
    """Return MB/s and channel-seconds/s of an iterator of batches."""
    next(feed)
    size = signal_s = 0
    then = time.perf_counter()
    while (wall_s := time.perf_counter() - then) < RUN_S.value:
        batch = next(feed)
        size += sum(value.nbytes for value in batch.values())
        signal_s += channel_seconds(batch) if "weight" in batch else 0
    feed.close()
    return size / wall_s / 1e6, signal_s / wall_s or None


def ours(folder, seconds):
    source = pipeline.load(
        "signal_crops",
        path=folder / "nights",
        split="train",
        seed=0,
        signal_type="eeg",
        crop_s=seconds,
    )
    return read(source.batches(ROWS.value, 0, ROWS.value, 0))


def tokens(folder, seconds):
    path = folder / "tokens"
    if not path.exists():
        modalities = synthetic.tiny_modalities(levels=8, codes=2048)
        synthetic.write_tiny_tokens(path, 0, modalities, nights=8, duration_s=8 * 3600)
    source = pipeline.load("token_windows", path=path, split="train", seed=0, window_s=seconds)
    return read(source.batches(ROWS.value, 0, ROWS.value, 0))


def memmap(folder, seconds):
    def batches():
        nights = [np.memmap(file, np.int16, "r") for file in sorted(folder.glob("*.int16"))]
        rng = np.random.default_rng(0)
        size = seconds * RATE_HZ
        while True:
            batch = np.empty((ROWS.value, size), np.float32)
            for row in batch:
                night = nights[rng.integers(len(nights))]
                start = rng.integers((len(night) - size) // RATE_HZ) * RATE_HZ
                np.multiply(night[start : start + size], np.float32(0.001), out=row)
            yield {"signal": batch}

    return read(batches())


def with_grain(folder, seconds):
    path = folder / "night.array_record"
    if not path.exists():
        records = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for file in sorted(folder.glob("*.int16")):
            samples = np.fromfile(file, np.int16)
            for at in range(0, len(samples), 300 * RATE_HZ):
                records.write(samples[at : at + 300 * RATE_HZ].tobytes())
        records.close()

    def crop(record, rng):
        samples = np.frombuffer(record, np.int16)
        start = int(rng.integers(300 - seconds + 1)) * RATE_HZ
        return samples[start : start + seconds * RATE_HZ] * np.float32(0.001)

    data = grain.MapDataset.source(grain.sources.ArrayRecordDataSource([str(path)]))
    data = data.seed(0).shuffle().repeat().random_map(crop).batch(ROWS.value)
    return read({"signal": signal} for signal in data.to_iter_dataset())


def fastest(way, folder, seconds):
    return max((way(folder, seconds) for _ in range(REPEATS.value)), key=lambda found: found[0])


def memory(folder, nights):
    """Print what a manifest of many nights and a source of its EEG take."""
    write_nights(folder)
    manifest = json.loads((folder / "nights/manifest.json").read_text())
    row = manifest["nights"][0]
    verdict = {
        "amplitude": 29.95,
        "clipped_share": 0.0,
        "flat_share": 0.0,
        "how": "as labelled",
        "label": "C3-M2",
        "nan_share": 0.0,
        "notes": [],
        "rate_hz": 256.0,
        "scale": 1.0,
        "status": "ok",
        "unit": "uV",
        "valid_share": 1.0,
    }
    channels = list("abcdef") + ["eeg_c3", "eeg_c4"]
    row |= {"channels": channels, "duration_s": 8 * 3600}
    row["qc"] = {"mains_hz": 50, "channels": dict.fromkeys(channels, verdict)}
    manifest["nights"] = [row | {"recording": f"night-{n}"} for n in range(nights)]
    text = json.dumps(manifest, indent=1)
    (folder / "nights/manifest.json").write_text(text)
    # A fresh process, whose memory is what it needed.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        slots, wall_s, more = pool.submit(load, folder / "nights").result()
    print(
        f"{nights} nights, {slots / 1e6:.1f} million slots, {len(text) / 1e6:.0f} MB of manifest: "
        f"ready in {wall_s:.1f} s, {more / 1e6:.0f} MB more"
    )


def load(path):
    before, then = rss(), time.perf_counter()
    source = pipeline.load("signal_crops", path=path, split="train", seed=0, signal_type="eeg")
    source.draws(0, 1)
    return source.num_examples, time.perf_counter() - then, rss() - before


def rss():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main(argv):
    del argv
    logging.set_verbosity(logging.WARNING)  # TFDS tells of every folder that it opens
    folder = pathlib.Path(tempfile.mkdtemp())
    try:
        if NIGHTS.value:
            memory(folder, NIGHTS.value)
            return
        write_nights(folder)
        top, _ = fastest(limit, folder, 0)
        print(f"limit: {top:.0f} MB/s on {os.cpu_count()} cores; batches of {ROWS.value}\n")
        print("| source | way | MB/s | of the limit | modality-seconds/s | times the step |")
        print("|---|---|---|---|---|---|")
        ways = [("signal_crops", "ours", ours), ("", "memmap", memmap), ("", "grain", with_grain)]
        cases = [(*way, int(s)) for s in CROPS_S.value for way in ways]
        cases += [("token_windows", "ours", tokens, int(s)) for s in WINDOWS_S.value]
        for source, name, way, seconds in cases:
            speed, signal_s = fastest(way, folder, seconds)
            label = f"{source}, {seconds} s" if source else ""
            rate = f"{signal_s / 1e3:.0f} thousand" if signal_s else ""
            times = f"{signal_s / CONSUME.value:.0f}" if signal_s and CONSUME.value else ""
            print(f"| {label} | {name} | {speed:.0f} | {speed / top:.2f} | {rate} | {times} |")
    finally:
        shutil.rmtree(folder)
    print(f"\npeak RSS {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB")


if __name__ == "__main__":
    app.run(main)
