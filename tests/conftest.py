"""Eight fake CPU devices, strict ranks, and the folder of real recordings where one is given.

Compiling is most of what these tests do, and nothing runs for long. So programs, here and in the
commands that tests start, are compiled without costly optimisations (the step of a tiny model in
half the time), and what one process has compiled the others read.
"""

import os
import pathlib

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # LLVM's costly passes
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def pytest_configure(config):
    compiled = config.rootpath / ".pytest_cache" / "d" / "compiled"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(compiled))
    import jax

    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_numpy_rank_promotion", "raise")


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
