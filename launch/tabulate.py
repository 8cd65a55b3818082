"""Tabulate fine-tuned models: ``python -m launch.tabulate --runs=DIR,... --output=DIR``.

Collects every test below the folders (``downstream_test.json`` of ``launch.evaluate``, beside the
run's config) and every linear probe (``probe.json``). Runs that differ in their seeds alone are one
row. Writes ``table.md``, ``table.json`` and ``table.png``, and prints the table. Exit codes: 0
done, 1 an error.
"""

import pathlib
import sys

from absl import app, flags, logging

RUNS = flags.DEFINE_list("runs", None, "folders with runs below them")
OUTPUT = flags.DEFINE_string("output", None, "folder for the table")
TITLE = flags.DEFINE_string("title", "", "of the table")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    from hypnos_jax.reports.answers_table import write_table

    try:
        table = write_table(
            [pathlib.Path(path) for path in RUNS.value],
            pathlib.Path(OUTPUT.value),
            title=TITLE.value,
        )
    except (ValueError, OSError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        return 1
    print(f"{table}\n{OUTPUT.value}: table.md, table.json, table.png")
    return 0


if __name__ == "__main__":
    flags.mark_flags_as_required(["runs", "output"])
    sys.exit(app.run(main))
