"""What scoring a recording costs beside embedding it, in CPU seconds of one process.

    python benchmarks/score.py --model=MODEL --recording=FILE [--repeats=3]

Both sides read and prepare the recording and embed it; scoring has the guard, the heads, oxygen
saturation and the numbers of the night on top. They take turns; the figure is the ratio of the
least of each, after one turn of both that is not counted. Prints a table.
"""

import time

from absl import app, flags

from data_pipelines.builders.recording_night import Pending
from hypnos_jax.inference.score import Scorer

MODEL = flags.DEFINE_string("model", None, "an export with heads and a guard")
RECORDING = flags.DEFINE_string("recording", None, "a recording")
REPEATS = flags.DEFINE_integer("repeats", 3, "turns of each", 1)


def main(argv):
    del argv
    scorer, item = Scorer(MODEL.value), Pending("x", RECORDING.value, scoring=False)
    embedder, read = scorer.embedder, scorer.reader()

    def embed():
        night = read.prepare(item)
        return embedder.embed_signals(night.channels)

    def score():
        return scorer.score(read(item))

    spent = {"embed": [], "score": []}
    for turn in range(REPEATS.value + 1):
        for name, side in (("embed", embed), ("score", score)):
            begin = time.process_time()
            side()
            if turn:
                spent[name].append(time.process_time() - begin)
    least = {name: min(times) for name, times in spent.items()}
    print("| embedding, CPU s | scoring, CPU s | ratio |\n|---|---|---|")
    print(
        f"| {least['embed']:.2f} | {least['score']:.2f} | {least['score'] / least['embed']:.3f} |"
    )


if __name__ == "__main__":
    flags.mark_flags_as_required(["model", "recording"])
    app.run(main)
