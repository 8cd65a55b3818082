"""Every config at every size, against its dump: a changed number shows up in review as text.

After a change that is meant: ``python tests/test_golden_configs.py`` writes the dumps anew.
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
    """(name of a dump, module, argument of its get_config), for all that a config offers."""
    for name, module in modules().items():
        kinds = getattr(module, "SIGNAL_TYPES", getattr(module, "LOSSES", None))
        arguments = itertools.product(module.SIZES, kinds) if kinds else zip(module.SIZES)
        tasks = [("smoke", task) for task in getattr(module, "TASKS", ())]
        for argument in (*arguments, *tasks):
            yield "-".join((name, *argument)), module, ",".join(argument)


def dump(module, argument):
    return json.dumps(configs.resolve(module.get_config(argument)), indent=1) + "\n"


CASES = list(cases())


@pytest.mark.parametrize("name, module, argument", CASES, ids=[name for name, _, _ in CASES])
def test_a_config_matches_its_dump(name, module, argument):
    path = GOLDEN / f"{name}.json"
    assert path.exists(), f"{path} is missing: run python tests/test_golden_configs.py"
    assert dump(module, argument) == path.read_text()


def test_there_is_no_dump_without_a_config():
    assert {path.stem for path in GOLDEN.glob("*.json")} == {name for name, _, _ in CASES}


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
    for name, module, argument in CASES:
        (GOLDEN / f"{name}.json").write_text(dump(module, argument))
    print(f"{len(CASES)} dumps in {GOLDEN}", file=sys.stderr)
