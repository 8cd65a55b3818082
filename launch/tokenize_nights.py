"""Turn nights into tokens: ``python -m launch.tokenize_nights --nights=DIR --tokenizers=DIR ...``.

``--tokenizers`` holds a run's workdir or an export per signal type; channels of other signal types
stay out, and of a workdir the best checkpoint is taken. ``--timing=ecg,resp`` adds timing levels to
channels of these types (of ecg, resp, eeg, eog, emg): codes of beats, breaths and bursts, which
``config.data.timing`` of an RQ-Transformer reads; without ``--tokenizers`` they stand alone. The
output is a store of tokens with the tokenizers' exports beside it, so that it needs nothing else.
Run again after an interruption, the same command goes on where it was; with further nights in the
store, it adds them.

``--shifts=4`` tokenizes the nights of training on four grids of a second, a quarter of a second
apart, of which a training window then draws one: more to learn from a small corpus, at four times
the work and disk.
"""

import sys

from absl import app, flags, logging

NIGHTS = flags.DEFINE_string("nights", None, "Store of prepared nights.")
TOKENIZERS = flags.DEFINE_string("tokenizers", None, "Folder of tokenizers, one per signal type.")
TIMING = flags.DEFINE_list("timing", [], "Signal types that get timing levels; see above.")
OUTPUT = flags.DEFINE_string("output", None, "Folder of the token store.")
SHIFTS = flags.DEFINE_integer("shifts", 1, "Grids of a second for the nights of training.", 1)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    logging.set_verbosity(logging.INFO)  # which checkpoints are taken
    from hypnos_jax import checkpoint
    from hypnos_jax.inference.tokenize_nights import tokenize_nights
    from hypnos_jax.runtime import compile_cache  # after the flags: imports start jax

    checkpoint.quiet()
    compile_cache.keep()

    try:
        given = (NIGHTS.value, TOKENIZERS.value, OUTPUT.value)
        summary = tokenize_nights(*given, timing=TIMING.value, shifts=SHIFTS.value)
    except ValueError as error:
        print(f"tokenize_nights: {error}", file=sys.stderr)
        return 1
    for name, reason in summary.rejected:
        logging.warning("rejected %s: %s", name, reason)
    print(
        f"{OUTPUT.value}: {len(summary.added)} nights added, {len(summary.kept)} were there, "
        f"{len(summary.rejected)} rejected (rejects.jsonl)"
    )
    return 0 if summary.added or summary.kept else 1


if __name__ == "__main__":
    flags.mark_flags_as_required(["nights", "output"])
    sys.exit(app.run(main))
