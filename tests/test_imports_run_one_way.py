"""The tree's layers import downwards only; this reads the source, so nothing is executed."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# package prefix -> prefixes of this project that it must not import
FORBIDDEN = {
    "data_pipelines": ["hypnos_jax", "configs", "launch", "jax", "flax"],
    "configs": ["hypnos_jax", "data_pipelines", "launch", "jax", "numpy"],
    "hypnos_jax/nn": [
        "hypnos_jax.models",
        "hypnos_jax.objectives",
        "hypnos_jax.evaluators",
        "hypnos_jax.train",
        "data_pipelines",
        "launch",
    ],
    "hypnos_jax/models": [
        "hypnos_jax.objectives",
        "hypnos_jax.evaluators",
        "hypnos_jax.train",
        "hypnos_jax.losses",
        "data_pipelines",
        "launch",
    ],
    "hypnos_jax/objectives": [
        "hypnos_jax.evaluators",
        "hypnos_jax.train",
        "data_pipelines",
        "hypnos_jax.objectives.",
        "launch",
    ],
    "hypnos_jax/evaluators": [
        "hypnos_jax.objectives",
        "hypnos_jax.models",
        "hypnos_jax.train",
        "launch",
    ],
    "hypnos_jax": ["launch", "configs"],
}


def imported(path: pathlib.Path) -> set[str]:
    """Every module that the file imports, at any depth of its code, as dotted names."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_layer_imports_only_what_lies_below_it(package):
    for path in (ROOT / package).rglob("*.py"):
        for name in imported(path):
            for banned in FORBIDDEN[package]:
                within = (
                    name.startswith(banned)
                    if banned.endswith(".")
                    else (name == banned or name.startswith(banned + "."))
                )
                if within and banned == "hypnos_jax.objectives." and name.endswith(".Loss"):
                    continue
                assert not within, f"{path.relative_to(ROOT)} imports {name}"


def test_no_launcher_shadows_a_standard_module():
    import sys

    for path in (ROOT / "launch").glob("*.py"):
        assert path.stem not in sys.stdlib_module_names, path
