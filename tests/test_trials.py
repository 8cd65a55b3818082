"""Recordings and scoring as people met them, prepared: right, refused or told, as expected of each.

The files lie beside the test recordings, with the program that prepares them and compares.
"""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FOLDER = pathlib.Path(os.environ.get("HYPNOS_TEST_DATA") or "nowhere").resolve().parent / "trials"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/expected.json")) or [None]


@pytest.fixture(scope="session")
def results():
    """Name -> the line that says how it came out; all of them in one run."""
    command = [sys.executable, str(FOLDER / "run_trials"), sys.executable]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    found = re.findall(r"^((?:PASS|FAIL)  (\S+).*)$", done.stdout, re.M)
    assert found, done.stdout + done.stderr
    return {name: line for line, name in found}


@pytest.mark.parametrize("name", NAMES)
def test_files_as_people_met_them(name, request):
    if name is None:
        pytest.skip(f"no trials beside the test recordings ({FOLDER.name}/*/expected.json)")
    line = request.getfixturevalue("results")[name]
    assert line.startswith("PASS"), line
