"""The card of an exported model, ``README.md`` as hubs read it, and what the run was, ``run.json``.

``run.json`` holds ``config`` (resolved), ``data`` (what its source says of the data), ``manifest``
(``summarise``) and ``metrics`` (name -> {step, value}): enough to evaluate the model as its run
would have been, and to say what it is.

The card is a Jinja2 template and YAML. ``huggingface_hub.ModelCard`` renders the same, but every
export writes a card, and would then need that package with its HTTP clients; a test reads the card
with it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2
import yaml

from data_pipelines.signals.timing import tokenizer_levels
from data_pipelines.store import EPOCH_S
from hypnos_jax import metrics
from hypnos_jax.export import usage

CARD, RUN = "README.md", "run.json"
UNSPECIFIED = "unspecified: set by who publishes"


def read_run(workdir: str | os.PathLike, step: int) -> dict[str, Any] | None:
    """Return what ``run.json`` holds of a run, or of an export what its own holds.

    Args:
        workdir: the run's folder, or an export's.
        step: the newest whose metrics are of the model.

    Returns:
        None where nothing is known of a run, as of a published file.
    """
    workdir = pathlib.Path(workdir)
    if not (workdir / "checkpoints").is_dir():
        return _read_json(workdir / RUN)
    config = _read_json(workdir / "config.json")
    if config is None:
        return None
    # A run that was given no data wrote its own into its folder.
    store = pathlib.Path(config["data"].get("path") or workdir / "synthetic")
    return {
        "config": config,
        "data": _read_json(workdir / "data.json"),
        "manifest": summarise(store),
        "metrics": _newest(workdir, step),
    }


def summarise(store: pathlib.Path) -> dict[str, Any] | None:
    """Return what a store's manifest says, without a word of any one night or person.

    Returns:
        ``sha256`` of the manifest, ``kind``, ``nights``, ``subjects``, ``hours``, ``splits`` {name:
        the same three}, ``channels`` {name: nights that have it}, ``sites``, ``provenance``,
        ``simulated``: True, or None where the manifest does not say; None without a manifest.
    """
    path = store / "manifest.json"
    if not path.is_file():
        return None
    content = path.read_bytes()
    manifest = json.loads(content)
    nights, splits, channels = manifest["nights"], {}, {}
    for night in nights:
        splits.setdefault(night["split"], []).append(night)
        for name in night["channels"]:
            channels[name] = channels.get(name, 0) + 1
    provenance = manifest["provenance"]
    return {
        "sha256": hashlib.sha256(content).hexdigest(),
        "kind": manifest["kind"],
        **_count(nights),
        "splits": {name: _count(own) for name, own in splits.items()},
        "channels": channels,
        "sites": sorted({str(night["metadata"].get("site") or "") for night in nights} - {""}),
        "provenance": provenance,
        "simulated": True if '"synthetic":' in json.dumps(provenance) else None,
    }


def _count(nights):
    hours = round(sum(night["duration_s"] for night in nights) / 3600, 2)
    subjects = len({night["subject"] for night in nights})
    return {"nights": len(nights), "subjects": subjects, "hours": hours}


def _newest(workdir, step):
    """The newest value of each evaluation's metric up to a step: name -> {step, value}."""
    lines = metrics.read_run(workdir)
    job = _read_json(workdir / "evaluation.json")
    if job is not None:
        lines.append({"step": job["step"], **job["results"]})
    found = {}
    for line in lines:
        for name, value in line.items():
            old = found.get(name, {"step": -1})["step"]
            if name.startswith("eval/") and old <= line["step"] <= step:
                found[name] = {"step": line["step"], "value": value}
    return dict(sorted(found.items()))


def _read_json(path):
    return json.loads(path.read_text()) if path.is_file() else None


def write(folder: pathlib.Path, config: dict, run: dict | None, *, name: str) -> None:
    """Write ``README.md`` and, where there is a run, ``run.json``.

    Args:
        folder: of the export, as it is being written.
        config: its ``config.json``; ``licence`` is an identifier of SPDX, or words, or None.
        run: of ``read_run``.
        name: of the folder when it is done; the example opens it.
    """
    if run is not None:
        (folder / RUN).write_text(json.dumps(run, indent=1) + "\n")
    (folder / CARD).write_text(card(config, run, name=name))


def rewrite(folder: str | os.PathLike) -> None:
    """Write the card of an export again, as its heads (``heads/*/head.json``) have changed."""
    folder = pathlib.Path(folder)
    heads = [json.loads(path.read_text()) for path in sorted(folder.glob("heads/*/head.json"))]
    config, run = _read_json(folder / "config.json"), _read_json(folder / RUN)
    (folder / CARD).write_text(card(config, run, name=folder.name, heads=heads))


def card(config: dict, run: dict | None, *, name: str, heads: Sequence[dict] = ()) -> str:
    """Return a model card: YAML that hubs read, then Markdown; arguments as for ``write``.

    ``heads`` are what the ``head.json`` of its heads hold. Of ``config`` the keys ``title`` (what
    the model is, in words) and ``embedding`` {token_s, causal, fused, seen} may be missing, as in
    exports of earlier versions.
    """
    missing = [f"{key}: {why}" for key, why in config.get("programs_missing", {}).items()]
    tokens = [row for row in config["modalities"] if "group" in row]
    if any(map(tokenizer_levels, tokens)) and not config["tokenizers"]:
        missing.append("its tokenizers, which make the codes that it reads, are not here")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=False,  # Markdown
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["json"] = lambda value, indent=None: json.dumps(value, indent=indent)
    licence = config["licence"] or UNSPECIFIED
    return environment.get_template("card.md").render(
        config={"programs": {}, "text": None, **config},
        run=run,
        name=name,
        front=yaml.safe_dump(_front(config, licence), sort_keys=False, allow_unicode=True),
        title=config.get("title", f"a model of sleep (objective {config['objective']['name']})"),
        values=sum(math.prod(shape) for _, shape in config["tensors"].values()),
        usage=usage.text(config, name) if config.get("programs") else "",
        missing=missing,
        timing=_timing(config.get("embedding")),
        manifest=(run or {}).get("manifest"),
        metrics=(run or {}).get("metrics"),
        licence=licence,
        heads=heads,
    )


def _front(config, licence):
    """Hubs know a licence by its identifier; words go into ``license_name``."""
    own = {"license": licence.lower()}
    if not licence.replace("-", "").replace(".", "").isalnum():
        own = {"license": "other", "license_name": licence}
    signals = {row["signal_type"] for row in config["channels"]}
    signals = signals or {row["name"] for row in config["modalities"]}
    tags = ["sleep", "polysomnography", *sorted(signals), "jax", "flax"]
    return {
        **own,
        "library_name": "hypnos_jax",
        "pipeline_tag": "feature-extraction",
        "tags": [*tags, config["objective"]["name"]],
    }


def _timing(embedding: dict | None) -> str:
    """What a row of the embedding covers and what it has seen, in words."""
    if not embedding:
        return "What comes out, and when, is for its objective to say."
    token_s, fused = embedding["token_s"], embedding["fused"]
    token = "second" if token_s == 1 else f"token of {token_s:g} s"
    seen = "its whole window of tokens, those after it too"
    if embedding["causal"]:
        seen = f"its {token} and those before it, and nothing after it"
    words = embedding.get("seen") or f"a row has seen {seen}"
    words = f"One row a {token}{'' if fused else ' and modality'}: {words}."
    rows = EPOCH_S / token_s
    if rows > 1 or (rows == 1 and not fused):
        of = f"its {rows:g} rows" if rows > 1 else "its rows"
        of += "" if fused else " over the modalities that are present"
        words += f" An epoch is the mean of {of}; epoch e covers seconds 30e to 30e + 30."
    return words
