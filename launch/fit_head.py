"""Fit heads on frozen embeddings: ``python -m launch.fit_head --model=EXPORT --nights=STORE``.

Each ``--task`` becomes a head: stages by epoch, and breathing events and arousals by cells of a few
seconds where the model's rows are that short. The store's split by person is kept to: people of
``train`` fit, people of ``validation`` choose penalty, temperature, thresholds and how sure an
answer must be (``--risk``), people of ``test`` are judged. ``--output`` gets the export with its
heads; its card says on whom they were fitted and how good they were.

Embeddings of the nights are kept in ``--embeddings``, so that another task or an interrupted
command does not make them again. Exit codes: 0 done, 1 an error.
"""

import pathlib
import sys

from absl import app, flags, logging

MODEL = flags.DEFINE_string("model", None, "an export (launch.export), or a folder of a run")
NIGHTS = flags.DEFINE_string("nights", None, "store of scored nights that the model reads")
TASK = flags.DEFINE_list("task", ["stage5", "apnea", "arousal"], "heads to fit")
OUTPUT = flags.DEFINE_string("output", None, "export to write; may be that of --model")
KIND = flags.DEFINE_enum(
    "kind", "linear", ["linear", "context"], "linear, or a hidden layer over the cells around"
)
RISK = flags.DEFINE_float(
    "risk", 0.1, "share of wrong answers accepted among those that are not uncertain", 0.0, 1.0
)
EMBEDDINGS = flags.DEFINE_string(
    "embeddings", None, "folder to keep the nights' embeddings in; default: OUTPUT-embeddings"
)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace heads of the same tasks")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    logging.set_verbosity(logging.INFO)
    from hypnos_jax import checkpoint  # after the flags: imports start jax
    from hypnos_jax.probing.head_export import fit_heads
    from hypnos_jax.runtime import compile_cache

    checkpoint.quiet()
    compile_cache.keep()
    output = pathlib.Path(OUTPUT.value)
    try:
        table = fit_heads(
            MODEL.value,
            NIGHTS.value,
            output,
            tasks=TASK.value,
            context=KIND.value == "context",
            risk=RISK.value,
            embeddings=EMBEDDINGS.value or output.with_name(f"{output.name}-embeddings"),
            overwrite=OVERWRITE.value,
        )
    except (ValueError, OSError) as error:
        print(f"fit_head: {error}", file=sys.stderr)
        return 1
    print(f"{table}\n{output}: {', '.join(TASK.value)}")
    return 0


if __name__ == "__main__":
    flags.mark_flags_as_required(["model", "nights", "output"])
    sys.exit(app.run(main))
