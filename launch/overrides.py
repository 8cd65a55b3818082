"""Texts of command lines: ``--config.KEY=`` and ``--set`` of configs, NAME=PATH of models."""

import json
import pathlib
import sys

from absl import app


def parse_flags(argv):
    """Parse the flags; an override of a key that the config does not have ends in one line."""
    try:
        return app.parse_flags_with_usage(argv)
    except AttributeError as error:
        lines = str(error).strip("\"'").replace("\\n", ". ").replace("\\'", "'")
        sys.exit(f"{pathlib.Path(argv[0]).stem}: the config has no key {lines}")


def settings(flag: str, texts: list[str]) -> dict:
    """Return a flag's KEY=VALUE texts as a dict; a value is JSON where it can be, else a string.

    Raises:
        ValueError: a text without "=".
    """
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--{flag}={text}: give KEY=VALUE")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def parse_models(texts: list[str]) -> dict[str, list[str]]:
    """Return name -> paths.

    Raises:
        ValueError: a text that is not NAME=PATH.
    """
    models = {}
    for text in texts:
        name, _, path = text.partition("=")
        if not name or not path:
            raise ValueError(f"--models: {text!r} is not NAME=PATH")
        models.setdefault(name, []).append(path)
    return models
