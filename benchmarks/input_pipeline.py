"""How fast batches come from the disk, against what a training step consumes.

    python benchmarks/input_pipeline.py --source=token_windows
    python benchmarks/input_pipeline.py --source=signal_crops --consume=2000

Without ``--path`` it writes simulated nights of an hour into a temporary folder first. The files
are then in the page cache. ``--consume`` is a training step's ``channel_seconds_per_s``
(``benchmarks/train_step.py``); the answer is how many times over the input keeps up with it.
"""

import json
import resource
import sys
import tempfile
import time

from absl import app, flags

from data_pipelines import pipeline, synthetic
from hypnos_jax.batch import channel_seconds

SOURCE = flags.DEFINE_enum("source", "token_windows", sorted(pipeline.SOURCES), "what to read")
PATH = flags.DEFINE_string("path", None, "a store; simulated nights by default")
ROWS = flags.DEFINE_integer("rows", 16, "rows of a batch")
SECONDS = flags.DEFINE_integer("seconds", 0, "of a window or crop; 2048 or 30 by default")
SIGNAL_TYPE = flags.DEFINE_string("signal_type", "eeg", "of signal_crops")
THREADS = flags.DEFINE_integer("threads", None, "readers; as many as cores by default")
RUN_S = flags.DEFINE_float("run_s", 10.0, "how long to read")
CONSUME = flags.DEFINE_float("consume", None, "channel-seconds/s of the training step")


def main(argv):
    del argv
    with tempfile.TemporaryDirectory() as temporary:
        path = PATH.value or temporary + "/store"
        if SOURCE.value == "token_windows":
            options = {"window_s": SECONDS.value or 2048}
            if not PATH.value:
                modalities = synthetic.tiny_modalities(levels=8, codes=2048)
                synthetic.write_tiny_tokens(path, 0, modalities, nights=8, duration_s=8 * 3600)
        else:
            options = {"crop_s": SECONDS.value or 30, "signal_type": SIGNAL_TYPE.value}
            if not PATH.value:
                synthetic.write_tiny_nights(path, 0, nights=8, minutes=60.0)
        source = pipeline.load(
            SOURCE.value, path=path, split="train", seed=0, threads=THREADS.value, **options
        )
        feed = source.batches(ROWS.value, 0, ROWS.value, 0)
        then = time.perf_counter()
        next(feed)
        first_s = time.perf_counter() - then
        count = size = signal_s = 0
        then = time.perf_counter()
        while time.perf_counter() - then < RUN_S.value:
            batch = next(feed)
            count += 1
            size += sum(value.nbytes for value in batch.values())
            signal_s += channel_seconds(batch)
        wall_s = time.perf_counter() - then
        feed.close()
    found = {
        "source": SOURCE.value,
        "first_batch_s": round(first_s, 3),
        "batches_per_s": round(count / wall_s, 2),
        "mb_per_s": round(size / wall_s / 1e6, 2),
        "channel_seconds_per_s": round(signal_s / wall_s, 1),
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    if CONSUME.value:
        found["times_what_the_step_consumes"] = round(signal_s / wall_s / CONSUME.value, 2)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    sys.exit(app.run(main))
