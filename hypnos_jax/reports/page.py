"""HTML pages that need no other file: templates, and the words that all reports use.

The templates of ``templates/`` escape every value (Jinja2's autoescape): names of recordings,
channels and metrics come from strangers' files.
"""

from __future__ import annotations

import base64
import datetime
import json
import pathlib
import platform
from importlib import metadata

import jinja2

PACKAGES = ("hypnos_jax", "jax", "jaxlib", "flax", "numpy", "scipy", "scikit-learn")


def render(template: str, **values) -> str:
    """Return the HTML of ``templates/<template>``; every page shows the time and the versions."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": number, "png": _png}
    now = f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %Z}"
    return environment.get_template(template).render(values, now=now, versions=versions())


def number(x: float | None) -> str:
    """Return a number in few digits, ``-`` for none."""
    if x is None:
        return "-"
    return f"{x:.3f}" if abs(x) < 100 else f"{x:,.0f}"


def _png(path: pathlib.Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def versions() -> str:
    """Return the versions of this program, of what it stands on, and the machine's kind."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    found.append(f"Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    return ", ".join(found)


def read_json(path: pathlib.Path):
    """Return a JSON file's value, or None where there is none."""
    return json.loads(path.read_text()) if path.is_file() else None
