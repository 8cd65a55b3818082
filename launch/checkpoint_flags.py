"""Flags of the commands that take a checkpoint of a run: ``--step``, ``--best``, ``--newest``."""

from absl import app, flags

STEP = flags.DEFINE_integer("step", None, "checkpoint of a run; by default its best")
BEST = flags.DEFINE_bool(
    "best", False, "the best by config.checkpoints.best_metric: as by default, but refused without"
)
NEWEST = flags.DEFINE_bool("newest", False, "the newest checkpoint, also where another is better")


def asked() -> int | str | None:
    """Return what ``checkpoint_choice.choose`` takes.

    Raises:
        UsageError: more than one of the three is given.
    """
    given = [STEP.value] if STEP.value is not None else []
    given += ["best"] if BEST.value else []
    given += ["newest"] if NEWEST.value else []
    if len(given) > 1:
        raise app.UsageError("give one of --step, --best and --newest")
    return given[0] if given else None
