"""Python with JAX, numpy and safetensors alone, as users of an export's programs have it."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

PACKAGES = ["numpy", "safetensors", "jax"]
OF_JAX = ["jaxlib", "ml_dtypes", "opt_einsum", "scipy"]  # what pip installs with it


def block(text, word):
    """The block of Python in a Markdown text that holds a word."""
    return next(b for b in re.findall(r"```python\n(.*?)```", text, re.S) if word in b)


def run_alone(folder, code):
    """Run code in a Python that has no package but the three, and return what it printed."""
    site = folder / "site"
    site.mkdir()
    for name in PACKAGES + OF_JAX:
        package = pathlib.Path(importlib.util.find_spec(name).origin).parent
        libraries = package.with_name(f"{name}.libs")
        for path in filter(pathlib.Path.exists, (package, libraries)):
            (site / path.name).symlink_to(path)
    (folder / "example.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-S", "example.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
