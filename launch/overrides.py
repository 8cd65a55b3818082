"""The command line of a command with ``--config``, whose values can be overridden."""

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
