"""The flags that commands have, read from their source, for tests of pipelines and of pages."""

import functools
import pathlib
import re
import runpy

import ml_collections

ROOT = pathlib.Path(__file__).parent.parent


@functools.cache
def flags_of(file):
    """Return the flags of a script, such as ``"launch/train.py"``, without their dashes."""
    source = (ROOT / file).read_text()
    defined = re.findall(r'DEFINE_(\w+)\(\s*"(\w+)"', source)
    negated = {f"no{name}" for kind, name in defined if kind.startswith("bool")}
    shared = re.findall(r"^from launch import (\w+)$", source, re.M)
    arguments = set().union(*(flags_of(f"launch/{name}.py") for name in shared))
    arguments |= set(re.findall(r'add_argument\("--(\w+)"', source))
    return {name for _, name in defined} | negated | arguments


def load_config(text) -> ml_collections.ConfigDict:
    """Return the config of ``"FILE:ARGUMENT"``."""
    file, _, argument = text.partition(":")
    get_config = runpy.run_path(str(ROOT / file))["get_config"]
    return get_config(argument) if argument else get_config()
