"""Generate signals: ``python -m launch.generate --model=PATH --output=DIR [--input=FILE]``.

Continues a recording from ``--start_s`` or its end, or begins one where none is given. Writes
``generated.edf``, the seconds generated, in the recording's units (filtered as the model sees them)
or as z-scores; and ``generated.png``, the same after the last seconds of the recording.

Exit codes: 0 done, 1 an error.
"""

import pathlib
import sys

from absl import app, flags

MODEL = flags.DEFINE_string("model", None, "Folder of a run or an export, or a published bundle.")
OUTPUT = flags.DEFINE_string("output", None, "Folder for generated.edf and generated.png.")
INPUT = flags.DEFINE_string("input", None, "The recording to continue; default: begin from none.")
START_S = flags.DEFINE_integer("start_s", None, "First second to generate; default: its end.")
SECONDS = flags.DEFINE_integer("seconds", 30, "How many seconds to generate.", 1)
MODALITIES = flags.DEFINE_list("modalities", None, "Only these, such as ecg,eeg_c3; default: all.")
TEMPERATURE = flags.DEFINE_float("temperature", 0.7, "Of the draws; 0 takes the likeliest.", 0.0)
TOP_P = flags.DEFINE_float("top_p", 0.95, "Draw among the likeliest that reach this share.")
SEED = flags.DEFINE_integer("seed", 0, "Of the draws.", 0)
MAINS_HZ = flags.DEFINE_enum("mains_hz", None, ["50", "60"], "Mains frequency; default: inferred.")
ALIASES = flags.DEFINE_string("aliases", None, "JSON or TOML file of further channel labels.")
COHORT = flags.DEFINE_string("cohort", None, "Cohort whose generic labels (EEG, EMG) these are.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    from data_pipelines.channels import resolve
    from hypnos_jax import checkpoint
    from hypnos_jax.inference.embed import Embedder
    from hypnos_jax.inference.generate import generate, read_prompt
    from hypnos_jax.inference.generated_figure import draw_generated
    from hypnos_jax.runtime import compile_cache  # after the flags: imports start jax

    checkpoint.quiet()
    compile_cache.keep()

    output = pathlib.Path(OUTPUT.value)
    try:
        if START_S.value is not None and not INPUT.value:
            raise ValueError(f"--start_s={START_S.value} is of a recording; give --input too")
        embedder = Embedder(MODEL.value)
        prompt = None
        if INPUT.value:
            prompt = read_prompt(
                embedder,
                INPUT.value,
                MODALITIES.value,
                start_s=START_S.value,
                mains_hz=int(MAINS_HZ.value) if MAINS_HZ.value else None,
                aliases=resolve.load_aliases(ALIASES.value) if ALIASES.value else None,
                cohort=COHORT.value,
            )
        made = generate(
            embedder,
            SECONDS.value,
            prompt=prompt,
            modalities=MODALITIES.value,
            temperature=TEMPERATURE.value,
            top_p=TOP_P.value,
            seed=SEED.value,
            progress=True,
        )
        output.mkdir(parents=True, exist_ok=True)
        made.write_edf(output / "generated.edf")
        title = f"temperature {TEMPERATURE.value:g}, top-p {TOP_P.value:g}, seed {SEED.value}"
        draw_generated(made, output / "generated.png", title=title)
    except (ValueError, OSError) as error:
        print(f"generate: {error}", file=sys.stderr)
        return 1
    print(f"{output}/generated.edf: {made.seconds} s of {', '.join(made.codes)}")
    return 0


if __name__ == "__main__":
    flags.mark_flags_as_required(["model", "output"])
    sys.exit(app.run(main))
