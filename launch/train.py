"""Train what a config says: ``python -m launch.train --config=FILE:ARGUMENT --workdir=DIR``.

Any value can be overridden: ``--config.data.path=NIGHTS --config.train.steps=2000``. The same
command again resumes. Exit codes: 0 done, 75 stopped by a signal and saved, 1 an error.
"""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from launch.overrides import parse_flags

CONFIG = config_flags.DEFINE_config_file("config", None, "FILE:ARGUMENT, such as :smoke")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run; holds all it writes")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    logging.set_verbosity(logging.INFO)
    from hypnos_jax import checkpoint  # after the flags: importing takes seconds
    from hypnos_jax.train import train

    checkpoint.quiet()

    try:
        return train(CONFIG.value, WORKDIR.value)
    except (ValueError, OSError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        return 1


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    sys.exit(app.run(main, flags_parser=parse_flags))
