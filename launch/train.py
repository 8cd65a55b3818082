"""Train what a config says: ``python -m launch.train --config=FILE:ARGUMENT --workdir=DIR``.

Any value can be overridden: ``--config.data.path=NIGHTS --config.train.steps=2000``. The same
command again resumes. The last line says which step was best by validation, and whether the last
is worse. ``--flops=2e12`` replaces the steps by as many as such a budget pays for, counted in the
model itself (matrix products, forward and backward).

Exit codes: 0 done, 75 stopped by a signal and saved, 1 an error of config or data, 70 a crash, 76 a
process was stuck (``config.watchdog``), 130 ended by a second SIGINT.

On several hosts run the same command on each: TPU pods, Slurm, Open MPI and Kubernetes are known by
their environment; elsewhere give ``--coordinator=HOST:PORT --processes=N --process=I``.
``launch.supervise`` does that for processes of one machine, and starts a run again that broke off.
"""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from hypnos_jax.runtime import preemption
from launch.overrides import parse_flags

CONFIG = config_flags.DEFINE_config_file("config", None, "FILE:ARGUMENT, such as :smoke")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run; holds all it writes")

FLOPS = flags.DEFINE_float("flops", None, "budget of the whole run, in place of steps", 0.0)
COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port on the host of process 0")
PROCESSES = flags.DEFINE_integer("processes", None, "how many processes there are", 1)
PROCESS = flags.DEFINE_integer("process", None, "which of them this is, from 0", 0)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    logging.set_verbosity(logging.INFO)
    preemption.listen()  # before the imports, which take seconds
    from hypnos_jax import checkpoint
    from hypnos_jax.runtime import distributed
    from hypnos_jax.train import train

    checkpoint.quiet()
    try:
        distributed.initialize(COORDINATOR.value, PROCESSES.value, PROCESS.value)
        if not distributed.is_first():
            logging.set_verbosity(logging.WARNING)  # the first says it for all
        config = CONFIG.value
        if FLOPS.value is not None:
            from hypnos_jax import config as configs
            from hypnos_jax.jobs.budget import steps_for

            config = steps_for(configs.resolve(config), FLOPS.value, WORKDIR.value)
        code = train(config, WORKDIR.value)
    except (ValueError, OSError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        distributed.fail(error)
    distributed.shutdown()
    return code


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    sys.exit(app.run(main, flags_parser=parse_flags))
