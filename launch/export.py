"""Export a model: ``python -m launch.export --workdir=DIR --output=DIR``.

Writes ``model.safetensors`` and ``config.json``, a card (``README.md``), what the run was
(``run.json``), programs that JAX runs without this package, and beside the model of tokens the
tokenizers that made them. Of a run the best checkpoint is taken by
``config.checkpoints.best_metric``, the newest where nothing was judged by it or ``--newest`` says
so, or ``--step``; what was taken and why is printed. With ``--format=hypnos``, ``sleep2vec`` or
``synthsleepnet``, one file that the published code of that name loads. Exit codes: 0 done, 1 an
error.
"""

import math
import sys

from absl import app, flags, logging

from launch import checkpoint_flags

WORKDIR = flags.DEFINE_string("workdir", None, "folder of a run or an export, or a published file")
OUTPUT = flags.DEFINE_string("output", None, "folder or file to write; an export is replaced")
FORMAT = flags.DEFINE_enum(
    "format",
    "folder",
    ["folder", "hypnos", "sleep2vec", "synthsleepnet"],
    "a folder of ours, or a published format",
)
TOKENIZERS = flags.DEFINE_string(
    "tokenizers", None, "folder with a model per signal type; default: those beside the tokens"
)

PROGRAMS = flags.DEFINE_bool("programs", True, "write programs that run without hypnos_jax")
LICENCE = flags.DEFINE_string("licence", None, "of the weights, for the card: yours to say")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    logging.set_verbosity(logging.INFO)
    from hypnos_jax import checkpoint  # after the flags: imports start jax
    from hypnos_jax.export.write import export, export_published

    checkpoint.quiet()

    try:
        given = {"tokenizers": TOKENIZERS.value, "step": checkpoint_flags.asked()}
        if FORMAT.value == "folder":
            more = {"programs": PROGRAMS.value, "licence": LICENCE.value}
            model = export(WORKDIR.value, OUTPUT.value, **given, **more)
        else:
            model = export_published(WORKDIR.value, OUTPUT.value, FORMAT.value, **given)
    except (ValueError, OSError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        return 1
    if model.taken:
        print(f"{WORKDIR.value}: took {model.taken}")
    size = sum(math.prod(shape) for _, shape in model.config["tensors"].values())
    print(f"{OUTPUT.value}: step {model.step}, {size:,} values, checksum {model.checksum}")
    for signal_type, digest in model.config["tokenizers"].items():
        print(f"  tokenizer of {signal_type}: checksum {digest}")
    return 0


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir", "output"])
    sys.exit(app.run(main))
