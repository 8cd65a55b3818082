"""Every config at every size, against its dump: a changed number shows up in review as text.

A config's smoke size is dumped whole. Every other size has a file of its differences from that
dump: dotted key -> value, lists being values, and below ``"removed"`` the keys that it lacks.
After a change that is meant: ``python tests/test_golden_configs.py`` writes the files anew.
"""

import importlib.util
import itertools
import json
import pathlib
import sys

import ml_collections
import pytest

from hypnos_jax import config as configs

ROOT = pathlib.Path(__file__).parent.parent
# What the second part of a config's argument is one of, by the name of the list.
KINDS = ("SIGNAL_TYPES", "LOSSES", "TYPES", "CHANNELS", "PROTOCOLS")
GOLDEN = pathlib.Path(__file__).parent / "golden_configs"


def modules():
    """Name -> module of every config under configs/."""
    found = {}
    for path in sorted((ROOT / "configs").rglob("*.py")):
        if "def get_config(" in path.read_text():
            spec = importlib.util.spec_from_file_location(path.stem, path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            found["-".join(path.relative_to(ROOT / "configs").with_suffix("").parts)] = module
    return found


def cases():
    """(name of a dump, module, its smoke argument, argument), for all that a config offers."""
    for name, module in modules().items():
        kinds = next((getattr(module, name) for name in KINDS if hasattr(module, name)), ())
        arguments = itertools.product(module.SIZES, kinds) if kinds else zip(module.SIZES)
        first = ("smoke", *itertools.islice(kinds, 1))
        tasks = [(*first, task) for task in getattr(module, "TASKS", ())]
        smoke = ",".join(first)
        for argument in (*arguments, *tasks):
            yield "-".join((name, *argument)), module, smoke, ",".join(argument)


def dump(module, smoke, argument):
    """Text of the smoke size's config, or of another's differences from it, a line each."""
    config = configs.resolve(module.get_config(argument))
    if argument == smoke:
        return json.dumps(config, indent=1) + "\n"
    old, new = configs.flat(configs.resolve(module.get_config(smoke))), configs.flat(config)
    lines = {key: new[key] for key in new if key not in old or new[key] != old[key]}
    if removed := [key for key in old if key not in new]:
        lines["removed"] = removed
    return "{\n" + ",\n".join(f' "{key}": {json.dumps(lines[key])}' for key in lines) + "\n}\n"


CASES = list(cases())


@pytest.mark.parametrize("name, module, smoke, argument", CASES, ids=[name for name, *_ in CASES])
def test_a_config_matches_its_dump(name, module, smoke, argument):
    path = GOLDEN / f"{name}.json"
    assert path.exists(), f"{path} is missing: run python tests/test_golden_configs.py"
    assert dump(module, smoke, argument) == path.read_text()


def test_there_is_no_dump_without_a_config():
    assert {path.stem for path in GOLDEN.glob("*.json")} == {name for name, *_ in CASES}


@pytest.mark.parametrize("name, module", modules().items())
def test_a_config_is_locked_and_has_the_sections_in_order(name, module):
    config = module.get_config("smoke")
    with pytest.raises((KeyError, AttributeError)):
        config.trian = 1
    assert isinstance(config, ml_collections.ConfigDict)
    assert set(config) == set(configs.SECTIONS)
    with pytest.raises(ValueError, match="size"):
        module.get_config("huge")


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for path in GOLDEN.glob("*.json"):
        path.unlink()
    for name, module, smoke, argument in CASES:
        (GOLDEN / f"{name}.json").write_text(dump(module, smoke, argument))
    print(f"{len(CASES)} dumps in {GOLDEN}", file=sys.stderr)
