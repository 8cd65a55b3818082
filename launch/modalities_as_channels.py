"""Write the modalities of sleep2vec that Hypnos reads too as its channels, of the same nights.

    python -m launch.modalities_as_channels --nights=MODALITIES --output=NIGHTS

EEG, EOG, chin and ECG, with stages, events and people, so that models of both families can be
compared. The same command again goes on where it was. Exit codes: 0 done, 1 an error.
"""

import pathlib
import sys

from absl import app, flags, logging

NIGHTS = flags.DEFINE_string("nights", None, "store of modalities")
OUTPUT = flags.DEFINE_string("output", None, "folder of the store of channels")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    from data_pipelines.store import NightStore
    from hypnos_jax.probing.comparison import write_channels

    try:
        write_channels(NightStore(NIGHTS.value), pathlib.Path(OUTPUT.value))
    except (ValueError, OSError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        return 1
    return 0


if __name__ == "__main__":
    flags.mark_flags_as_required(["nights", "output"])
    sys.exit(app.run(main))
