"""Adapt heads to a site: ``python -m launch.calibrate --model=MODEL --nights=OWN --output=MODEL2``.

``OWN`` is a store of the site's scored nights. People of its split ``train`` adapt the heads, those
of ``validation`` choose the way (unchanged, calibration alone, the site's statistics, or numbers of
the last layer pulled towards what they were), those of ``test`` are judged before and after; so are
the test people of ``--old``, so that nothing is lost unseen. ``--nights_used`` gives the numbers of
training nights to try; the export gets the heads of the largest. The backbone is never changed.

Prints a table; ``MODEL2/calibration.json`` has it with intervals. Exit codes: 0 done, 1 an error.
"""

import pathlib
import sys

from absl import app, flags, logging

MODEL = flags.DEFINE_string("model", None, "an export with heads")
NIGHTS = flags.DEFINE_string("nights", None, "store of the site's scored nights")
OUTPUT = flags.DEFINE_string("output", None, "folder of the new export")
USED = flags.DEFINE_list("nights_used", ["5", "20", "100"], "numbers of training nights to try")
OLD = flags.DEFINE_string(
    "old", None, "store of nights of before, whose test people are judged too"
)
WAYS = flags.DEFINE_list(
    "ways", ["calibration", "statistics", "numbers"], "of adapting, to choose from"
)
EMBEDDINGS = flags.DEFINE_string(
    "embeddings", None, "folder to keep the nights' embeddings in; default: OUTPUT-embeddings"
)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    logging.set_verbosity(logging.INFO)
    from hypnos_jax import checkpoint  # after the flags: imports start jax
    from hypnos_jax.probing import site_adaptation
    from hypnos_jax.runtime import compile_cache

    checkpoint.quiet()
    compile_cache.keep()
    output = pathlib.Path(OUTPUT.value)
    try:
        if unknown := set(WAYS.value) - set(site_adaptation.WAYS):
            raise ValueError(f"--ways: no {sorted(unknown)[0]!r}; use {site_adaptation.WAYS[1:]}")
        found = site_adaptation.adapt_model(
            MODEL.value,
            NIGHTS.value,
            output,
            used=[int(count) for count in USED.value],
            old=OLD.value,
            ways=WAYS.value,
            embeddings=EMBEDDINGS.value or output.with_name(f"{output.name}-embeddings"),
        )
    except (ValueError, OSError) as error:
        print(f"calibrate: {error}", file=sys.stderr)
        return 1
    print(f"{site_adaptation.table(found)}\n{output}: {site_adaptation.RESULT}")
    return 0


if __name__ == "__main__":
    flags.mark_flags_as_required(["model", "nights", "output"])
    sys.exit(app.run(main))
