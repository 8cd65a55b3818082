"""Eight fake CPU devices, strict ranks, and the folder of real recordings where one is given.

Compiling is most of what these tests do, and nothing runs for long. So programs, here and in the
commands that tests start, are compiled without costly optimisations (the step of a tiny model in
half the time) and by the emitters of LLVM code that compile faster (that step in half the time
again), and what one process has compiled the others read.
"""

import collections
import json
import os
import pathlib
import re
import zlib

import numpy as np
import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # LLVM's costly passes
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def pytest_configure(config):
    compiled = config.rootpath / ".pytest_cache" / "d" / "compiled"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(compiled))
    import jax

    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_terminal_summary(terminalreporter):
    """Print how many tests were skipped because a package is not installed, by package."""
    tests, files = collections.Counter(), collections.Counter()
    for report in terminalreporter.stats.get("skipped", ()):
        if missing := re.search(r"could not import '([\w.]+)'", report.longrepr[2]):
            (files if report.when == "collect" else tests)[missing[1]] += 1
    counts = [f"{name} {count}" for name, count in sorted(tests.items())]
    counts += [f"{name} {count} whole file(s)" for name, count in sorted(files.items())]
    if counts:
        terminalreporter.write_line("tests skipped for want of a package: " + ", ".join(counts))


@pytest.fixture(scope="session")
def test_data() -> pathlib.Path:
    """The folder of real recordings; tests that ask for it are skipped where none is given."""
    folder = os.environ.get("HYPNOS_TEST_DATA")
    if not folder:
        pytest.skip("HYPNOS_TEST_DATA is not set (a folder of real recordings and labels)")
    path = pathlib.Path(folder).resolve()
    if not path.is_dir():
        raise ValueError(f"HYPNOS_TEST_DATA={folder} is not a folder")
    return path


class Parity:
    """Outputs of reference implementations on weights that anybody can make again."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder

    def json(self, name: str) -> dict:
        """What an output is of: sizes, tensors, notes."""
        return json.loads((self.folder / f"{name}.json").read_text())

    def arrays(self, name: str):
        """The outputs."""
        return np.load(self.folder / f"{name}.npz")

    def weights(self, entries: list[dict]) -> dict[str, np.ndarray]:
        """The tensors that are filled, each from its name alone."""
        return {row["name"]: self._fill(**row) for row in entries if row["filled"]}

    def _fill(self, name, shape, filled):
        seed = zlib.crc32(name.encode())
        w = np.random.RandomState(seed).standard_normal(int(np.prod(shape)))
        if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            w = 1 + 0.1 * w
        elif len(shape) >= 2:
            w = w / np.sqrt(np.prod(shape[1:]))
        else:
            w = 0.05 * w
        return w.reshape(shape).astype(np.float32)

    def wave(self, seed: int, *shape: int) -> np.ndarray:
        """The input: two sines of the flat index."""
        i = np.arange(np.prod(shape), dtype=np.float64)
        wave = np.sin(0.11 * i + seed) + 0.5 * np.sin((0.017 * i * i) % 6.283185307 + seed)
        return wave.reshape(shape).astype(np.float32)


@pytest.fixture(scope="session")
def parity(test_data) -> Parity:
    """The folder of reference outputs beside the recordings."""
    folder = test_data.parent / "parity"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing (outputs of reference implementations)")
    return Parity(folder)
