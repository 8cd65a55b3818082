"""Compare models of any family: ``python -m launch.compare --models=NAME=PATH,... --nights=STORE``.

Sleep stages are read out of the frozen features of each model by a linear probe, on the same
nights, beside the same networks with random weights and hand-crafted features. A ``PATH`` is a run
or an export; a ``NAME`` that comes again is another seed of the same. ``--nights`` has the same
nights in each form that a model reads, such as a store of modalities and one of tokens; each model
reads the first that it can. Probes are fitted on the training and validation people of all sites
but ``--unseen_sites``, and tested on the others. ``--small_cnn`` adds a network of ten thousand
numbers that is trained on the same labels from scratch, and the most frequent stage: a table of
probes without them says little.

Writes ``comparison.md``, ``comparison.json`` and ``comparison.png``, and prints the table. A result
of each model is kept in ``--output``, so that the same command goes on where it was. Exit codes: 0
done, 1 an error.
"""

import pathlib
import sys

from absl import app, flags, logging

from launch.overrides import parse_models

MODELS = flags.DEFINE_list("models", None, "NAME=PATH of each; the first is compared with the rest")
NIGHTS = flags.DEFINE_list("nights", None, "stores of the same nights; the first has the stages")
OUTPUT = flags.DEFINE_string("output", None, "folder for the comparison")
UNSEEN_SITES = flags.DEFINE_list("unseen_sites", [], "sites that nothing was trained on")
SMALL_CNN = flags.DEFINE_bool(
    "small_cnn", False, "train a small published network on the labels, as one more row"
)
TITLE = flags.DEFINE_string("title", "", "of the comparison")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    logging.set_verbosity(logging.INFO)
    from data_pipelines.store import NightStore  # after the flags: imports start jax
    from hypnos_jax import checkpoint
    from hypnos_jax.probing.comparison import compare
    from hypnos_jax.runtime import compile_cache

    checkpoint.quiet()
    compile_cache.keep()
    try:
        table = compare(
            parse_models(MODELS.value),
            [NightStore(path) for path in NIGHTS.value],
            pathlib.Path(OUTPUT.value),
            unseen=UNSEEN_SITES.value,
            title=TITLE.value,
            small_cnn=SMALL_CNN.value,
        )
    except (ValueError, OSError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        return 1
    print(f"{table}\n{OUTPUT.value}: comparison.md, comparison.json, comparison.png")
    return 0


if __name__ == "__main__":
    flags.mark_flags_as_required(["models", "nights", "output"])
    sys.exit(app.run(main))
