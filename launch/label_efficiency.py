"""Judge models by few labelled people: ``python -m launch.label_efficiency --models=NAME=PATH``.

A question by epoch (``--task``) is read out of frozen rows of each model, of its network with
random weights, and of the nights' own numbers with and without the epochs around; with 1, 3, 10 and
all training people labelled (``--people``; 0 is all), the same ``--draws`` of them for all. With
``--finetune``, the config of a fine-tuning, the model of the name ``--finetuned`` is trained with
these labels too, and a network from scratch. Penalties, steps and rates are chosen on validation
people; test people choose nothing. ``--nights`` are stores: people of the second and later ones are
only tested.

A ``PATH`` is a run or an export; a ``NAME`` that comes again is another seed of the same. Writes
``labels.md``, ``labels.json`` and ``labels.png``, and prints the table. What each method answered
is kept in ``--output``, so that the same command goes on where it was. Exit codes: 0 done, 1 an
error.
"""

import json
import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from launch.overrides import parse_flags, parse_models

MODELS = flags.DEFINE_list("models", [], "NAME=PATH of each")
NIGHTS = flags.DEFINE_list("nights", None, "the store; stores of people who are only tested")
OUTPUT = flags.DEFINE_string("output", None, "folder for the results")
TASK = flags.DEFINE_string("task", "staging", "a task of epochs, such as staging or apnea")
EPOCHS = flags.DEFINE_integer("epochs", 1, "that an answer stands for; 2 is a minute", 1)
PEOPLE = flags.DEFINE_list("people", ["1", "3", "10", "0"], "numbers of labelled people; 0: all")
DRAWS = flags.DEFINE_integer("draws", 12, "of each number of labelled people", 1)
UNTRAINED = flags.DEFINE_integer("untrained", 3, "seeds of each network with random weights", 1)
FINETUNE = config_flags.DEFINE_config_file("finetune", None, "FILE:ARGUMENT of a fine-tuning")
FINETUNED = flags.DEFINE_string("finetuned", "", "name of the model that it begins from")
SETTINGS = flags.DEFINE_string(
    "settings", "[{}]", "JSON, changes of that config by dotted key, to choose from"
)
WHOLE_NIGHT = flags.DEFINE_bool(
    "whole_night", False, "give every probe its rows' mean and spread in the night, too"
)
TITLE = flags.DEFINE_string("title", "", "of the table")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    logging.set_verbosity(logging.INFO)
    from data_pipelines.store import NightStore  # after the flags: imports start jax
    from hypnos_jax import checkpoint
    from hypnos_jax import config as configs
    from hypnos_jax.probing.label_study import Training, study
    from hypnos_jax.runtime import compile_cache

    checkpoint.quiet()
    compile_cache.keep()
    training = []
    try:
        if FINETUNE.value is not None:
            config, settings = configs.resolve(FINETUNE.value), json.loads(SETTINGS.value)
            training = [Training(FINETUNED.value, config, settings)]
        table = study(
            parse_models(MODELS.value),
            [NightStore(path) for path in NIGHTS.value],
            pathlib.Path(OUTPUT.value),
            task=TASK.value,
            epochs=EPOCHS.value,
            people=[int(count) for count in PEOPLE.value],
            draws=DRAWS.value,
            untrained=UNTRAINED.value,
            training=training,
            whole_night=WHOLE_NIGHT.value,
            title=TITLE.value,
        )
    except (ValueError, OSError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        return 1
    print(f"{table}\n{OUTPUT.value}: labels.md, labels.json, labels.png")
    return 0


if __name__ == "__main__":
    flags.mark_flags_as_required(["nights", "output"])
    sys.exit(app.run(main, flags_parser=parse_flags))
