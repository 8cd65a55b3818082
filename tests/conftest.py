"""Eight fake CPU devices, strict ranks, and the folder of real recordings where one is given."""

import os
import pathlib

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def pytest_configure(config):
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
