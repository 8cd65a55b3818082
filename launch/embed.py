"""Embed recordings: ``python -m launch.embed --model=PATH --input=FILE|DIR --output=DIR``.

Writes ``<recording>.npz``: one float16 array [rows, D] per present modality under its name, or one
named ``fused`` where the model fuses them; ``epochs`` [E, D] (means over 30 s and the modalities),
``times_s`` [rows] and ``model`` (the model's checksum). A row is of a second, of towers of 30 s.

``--surprise`` adds how unexpected each second was to a model of tokens, in nats: one float32 array
``surprise/<modality>`` [rows, C] per modality, its columns named in ``surprise_columns`` (``nll``
and ``entropy`` of all levels together, and of further groups of levels, such as ``timing_nll``),
NaN where there was no signal; and mean, standard deviation and percentiles of them,
``surprise_epochs/<modality>`` [E, 6 C] and ``surprise_recording/<modality>`` [6 C], named in
``surprise_statistics``.

Recordings that cannot be embedded are listed in ``rejects.jsonl``. The same command resumes after
an interruption; files of another model are replaced.

Of a run's folder the best checkpoint is taken by ``config.checkpoints.best_metric``, the newest
where nothing was judged by it or ``--newest`` says so, or ``--step``; what was taken and why is
printed.

Exit codes: 0 done, also when some recordings were rejected; 1 when all were, or an error.
"""

import sys

from absl import app, flags, logging

from launch import checkpoint_flags

MODEL = flags.DEFINE_string("model", None, "Folder of a run or an export, or a published bundle.")
INPUT = flags.DEFINE_string(
    "input", None, "A recording, a folder of recordings or of arrays, or a store of nights."
)
OUTPUT = flags.DEFINE_string("output", None, "Folder for the embeddings.")
MODALITIES = flags.DEFINE_list("modalities", None, "Only these, such as ecg,eeg_c3; default: all.")
MAINS_HZ = flags.DEFINE_enum("mains_hz", None, ["50", "60"], "Mains frequency; default: inferred.")
ALIASES = flags.DEFINE_string("aliases", None, "JSON or TOML file of further channel labels.")
COHORT = flags.DEFINE_string("cohort", None, "Cohort whose generic labels (EEG, EMG) these are.")
JOBS = flags.DEFINE_integer("jobs", 1, "Processes that read and prepare recordings.", lower_bound=1)
CHUNK_S = flags.DEFINE_integer("chunk_s", 256, "Seconds that the backbone embeds at once.", 1)
DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16"], "Of the backbone's products; default: as trained."
)
SURPRISE = flags.DEFINE_bool("surprise", False, "Tell also how unexpected each second was.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    from data_pipelines.channels import resolve
    from hypnos_jax import checkpoint
    from hypnos_jax.export.model import load_model
    from hypnos_jax.inference import embed_folder  # after the flags: imports start jax
    from hypnos_jax.runtime import compile_cache

    checkpoint.quiet()
    compile_cache.keep()

    try:
        model = load_model(MODEL.value, step=checkpoint_flags.asked())
        if model.taken:
            print(f"{MODEL.value}: took {model.taken}")
        summary = embed_folder.embed_folder(
            model,
            INPUT.value,
            OUTPUT.value,
            modalities=MODALITIES.value,
            mains_hz=int(MAINS_HZ.value) if MAINS_HZ.value else None,
            aliases=resolve.load_aliases(ALIASES.value) if ALIASES.value else None,
            cohort=COHORT.value,
            jobs=JOBS.value,
            chunk_s=CHUNK_S.value,
            dtype=DTYPE.value,
            surprise=SURPRISE.value,
        )
    except (ValueError, OSError) as error:
        print(f"embed: {error}", file=sys.stderr)
        return 1
    for name, reason in summary.rejected:
        logging.warning("rejected %s: %s", name, reason)
    print(
        f"{OUTPUT.value}: {len(summary.added)} recordings embedded, {len(summary.kept)} were there,"
        f" {len(summary.rejected)} rejected (rejects.jsonl)"
    )
    return 0 if summary.added or summary.kept else 1


if __name__ == "__main__":
    flags.mark_flags_as_required(["model", "input", "output"])
    sys.exit(app.run(main))
