"""CPU time of the facts of a night and of the captions that say them, beside the night's length.

    python benchmarks/captions.py --hours=8

A simulated night of all twelve rows is prepared in memory first, which is not counted. Measured in
this process, on one core: ``facts`` are the measures of all epochs, ``captions`` five texts and a
short one of each epoch, ``read back`` is the parser over the five. The least of ``--repeats``
counts.
"""

import time
from fractions import Fraction

import numpy as np
from absl import app, flags

from data_pipelines.captions.epoch_table import CAPTIONS
from data_pipelines.captions.facts import MODALITIES
from data_pipelines.captions.grammar import render
from data_pipelines.captions.measures import facts_of
from data_pipelines.captions.parse import parse
from data_pipelines.channels.table import COHORTS
from data_pipelines.recipes import sleeplm
from data_pipelines.signals.modalities import make_modality
from data_pipelines.store import Night
from data_pipelines.synthetic.night import simulate_night

HOURS = flags.DEFINE_float("hours", 8.0, "Length of the night.")
REPEATS = flags.DEFINE_integer("repeats", 3, "Measurements of each; the fastest counts.")


def prepare(hours: float) -> Night:
    """Return a simulated night as the recipe prepares it."""
    made = simulate_night(0, hours, channels=sleeplm.TWELVE)
    codes = {"position": COHORTS["synthetic"]["Position"].codes}

    def read(channel):
        return made.signals[channel], Fraction(made.rates[channel])

    rows = {n: make_modality(sleeplm.ROWS[n], read, [n], codes) for n in sleeplm.TWELVE}
    return Night(
        *("night", "night", "test", {name: row.signal for name, row in rows.items()}),
        *(np.asarray(made.scoring.stages), made.scoring.events),
        metadata={"events_scored": True},
        qc={"scaling": {name: (row.centre, row.scale) for name, row in rows.items()}},
    )


def fastest(work):
    """Return the result, and the least CPU seconds."""
    least = float("inf")
    for _ in range(REPEATS.value):
        start = time.process_time()
        result = work()
        least = min(least, time.process_time() - start)
    return result, least


def main(argv):
    del argv
    night = prepare(HOURS.value)
    facts, of_facts = fastest(lambda: facts_of(night))
    epochs = [facts.epoch(at) for at in range(facts.epochs)]
    texts, of_texts = fastest(
        lambda: [
            [str(render(x, name, recording="night", epoch=at)) for name in CAPTIONS]
            for at, x in enumerate(epochs)
        ]
    )
    _, of_reading = fastest(lambda: [[parse(x) for x in own[: len(MODALITIES)]] for own in texts])
    print(f"{HOURS.value:g} h, {facts.epochs} epochs")
    print("| work | CPU s | real time / CPU time |\n|---|---|---|")
    for name, taken in (
        ("facts", of_facts),
        ("captions", of_texts),
        ("facts and captions", of_facts + of_texts),
        ("read back", of_reading),
    ):
        print(f"| {name} | {taken:.1f} | {HOURS.value * 3600 / taken:,.0f} |")


if __name__ == "__main__":
    app.run(main)
