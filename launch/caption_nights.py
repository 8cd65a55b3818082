"""Measure what captions may say of each epoch: ``python -m launch.caption_nights --nights=STORE``.

Writes ``STORE/facts``, a file a night: the numbers, trends, positions, stages and events of every
epoch (docs/sleeplm.md says how each is measured). Text is rendered from them when it is wanted.
The store is as it was; prepare it with ``--recipe=sleeplm --channels=twelve``. Run again after an
interruption, the same command goes on where it was; with further nights in the store, it adds them.

``--micro_events`` finds spindles and slow waves too, which needs YASA; else they have no number.

Exit codes: 0 done, also when some nights are damaged and left out; 1 when all are, or an error.
"""

import sys

import tqdm
from absl import app, flags, logging

NIGHTS = flags.DEFINE_string("nights", None, "Store of nights, prepared by the recipe sleeplm.")
JOBS = flags.DEFINE_integer("jobs", 1, "Processes that measure nights.", lower_bound=1)
MICRO_EVENTS = flags.DEFINE_bool("micro_events", False, "Find spindles and slow waves, by YASA.")


def lines_of(gated) -> list[str]:
    """The table of how often each number is not there."""
    lines = [f"  {'number':28s}{'nights':>8s}{'not there':>12s}"]
    for name, row in gated.items():
        lost = f"{100 * row.share:.1f} %" if row.nights else "not measured"
        lines.append(f"  {name:28s}{row.nights:8d}{lost:>12s}")
    return lines


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {argv[1:]}")
    from data_pipelines.captions import micro_events
    from data_pipelines.captions.store_facts import gated, measure_store
    from data_pipelines.store import NightStore

    # A terminal may lack letters that names of recordings have.
    sys.stdout.reconfigure(errors="backslashreplace")
    found_by = micro_events.version() if MICRO_EVENTS.value else None
    try:
        store = NightStore(NIGHTS.value)
        with tqdm.tqdm(total=len(store.nights), desc="nights", unit="night") as bar:
            summary = measure_store(
                store,
                jobs=JOBS.value,
                micro_events=found_by,
                finished=lambda name: bar.update(),
            )
            bar.update(len(summary.kept))
        table = lines_of(gated(store))
    except (ValueError, OSError) as error:
        print(f"caption_nights: {error}", file=sys.stderr)
        return 1
    for name, reason in summary.damaged:
        logging.warning("left out %s: %s", name, reason)
    print(
        f"{NIGHTS.value}: facts of {len(summary.added)} nights added, {len(summary.kept)} were"
        f" there, {len(summary.damaged)} damaged"
    )
    if MICRO_EVENTS.value:
        told = f"Spindles and slow waves by {found_by}" if found_by else micro_events.MISSING
        print(f"note: {told}")
    print("epochs without a number, of the nights that have its channels:")
    print("\n".join(table))
    return 0 if summary.added or summary.kept else 1


if __name__ == "__main__":
    flags.mark_flags_as_required(["nights"])
    sys.exit(app.run(main))
