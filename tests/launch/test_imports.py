"""What commands import before they have work: help and plain refusals come at once."""

import pathlib
import subprocess
import sys

import launch

HEAVY = {
    "jax", "flax", "optax", "orbax", "grain", "scipy.signal", "scipy.stats", "sklearn", "pandas",
    "matplotlib.pyplot", "mne", "torch", "tensorflow", "transformers",
}  # fmt: skip
COMMANDS = sorted(
    f"launch.{path.stem}"
    for path in pathlib.Path(launch.__file__).parent.glob("[!_]*.py")
    if "app.run(" in path.read_text()
)


def test_no_command_imports_what_its_flags_do_not_need():
    code = f"""
import importlib, os, sys
import absl.app, absl.flags, absl.logging, numpy
for name in {COMMANDS}:
    if not (child := os.fork()):  # commands define flags of the same names
        importlib.import_module(name)
        heavy = {HEAVY} & set(sys.modules)
        print(name, sorted(heavy)) if heavy else None
        sys.stdout.flush()
        os._exit(bool(heavy))
    os.waitpid(child, 0)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout, result.stderr, result.returncode) == ("", "", 0)
