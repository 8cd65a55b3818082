"""The card of an exported model, ``README.md`` as hubs read it, and what the run was, ``run.json``.

``run.json`` holds ``config`` (resolved), ``data`` (what its source says of the data), ``manifest``
(``summarise``) and ``metrics`` (name -> {step, value}): enough to evaluate the model as its run
would have been, and to say what it is.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pathlib
from typing import Any

from hypnos_jax import metrics, plugins
from hypnos_jax.export import usage

CARD, RUN = "README.md", "run.json"
UNSPECIFIED = "unspecified: set by who publishes"
FAMILIES = {
    "rq_next_token": "a multi-modal RQ-Transformer of sleep (Hypnos, arXiv 2606.09605), trained to"
    " predict the next second's codes of every sensor",
    "rvq_reconstruction": "a residual-VQ tokenizer of one type of sleep signal (Hypnos, arXiv"
    " 2606.09605): codes of each second",
    "dash_infonce": "contrastive towers of sleep signals (sleep2vec, arXiv 2602.13857): a tower a"
    " modality under one shared trunk",
    "finetune": "contrastive towers of sleep signals (sleep2vec, arXiv 2602.13857),"
    " fine-tuned on a task",
}


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


def card(config: dict, run: dict | None, *, name: str) -> str:
    """Return a model card: YAML that hubs read, then Markdown; arguments as for ``write``."""
    objective = plugins.current(config["objective"])["name"]
    licence = config["licence"] or UNSPECIFIED
    values = sum(math.prod(shape) for _, shape in config["tensors"].values())
    family = FAMILIES.get(objective, f"a model of the objective {objective}")
    parts = [
        _front(config, licence),
        f"# {name}\n\n{family[0].upper()}{family[1:]}.",
        f"Step {config['step']}, {values:,} values, seed {config['seed']}; hypnos_jax"
        f" {config['hypnos_jax']}. Checksum (SHA-256 over objective, tensors and tokenizers):"
        f" `{config['checksum']}`.",
        "## Use\n\n" + _use(config, name),
        "## What it reads and gives\n\n" + _reads(config),
        "## Data\n\n" + _data(config, run),
        "## Metrics\n\n" + _metrics(run),
        "## Intended use and limits\n\n" + LIMITS,
        f"## Licence\n\nOf these weights: {licence}. The code that wrote and reads them,"
        " hypnos_jax, is under Apache-2.0.",
        "## Config\n\n```json\n" + json.dumps(config["objective"], indent=1) + "\n```\n\n"
        "The run's whole resolved config is in `run.json`; paths in it are of the machine that"
        " trained it."
        if run is not None
        else "## Config\n\n```json\n" + json.dumps(config["objective"], indent=1) + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


LIMITS = """\
For research on sleep signals: features for probes, retrieval and further training. It is no medical
device, makes no diagnosis, and nothing here says how it does on people, montages, devices or
disorders that its data did not hold. Metrics above are of the data named above alone. An embedding
may carry age, sex, site and identity of the sleeper: treat it as the recording itself."""


def _front(config, licence):
    """Hubs know a licence by its identifier; words go into ``license_name``."""
    plain = licence.replace("-", "").replace(".", "").isalnum()
    own = [f"license: {json.dumps(licence.lower())}"]
    if not plain:
        own = ["license: other", f"license_name: {json.dumps(licence)}"]
    signals = {row["signal_type"] for row in config["channels"]}
    signals = signals or {row["name"] for row in config["modalities"]}
    tags = ["sleep", "polysomnography", *sorted(signals), "jax", "flax"]
    tags.append(config["objective"]["name"])
    lines = ["---", *own, "library_name: hypnos_jax", "pipeline_tag: feature-extraction", "tags:"]
    return "\n".join([*lines, *(f"- {tag}" for tag in tags), "---"])


def _use(config, name):
    whole = (
        f"With hypnos_jax: `python -m launch.embed --model={name} --input=RECORDINGS"
        " --output=EMBEDDINGS`, or\n\n```python\nfrom hypnos_jax.inference.embed import"
        " embed_recording\n\n"
        f'embedding = embed_recording("{name}", "night.edf")  # or an mne.io.Raw\n```'
    )
    if config["objective"]["name"] == "rvq_reconstruction":
        whole = "With hypnos_jax it tokenizes prepared nights (`python -m launch.tokenize_nights`)."
    lacking = [f"{key}: {why}" for key, why in config.get("programs_missing", {}).items()]
    if config["objective"]["name"] == "rq_next_token" and not config["tokenizers"]:
        lacking.append("its tokenizers, which make the codes that it reads, are not here")
    lacking = f"\n\nMissing here: {'; '.join(lacking)}." if lacking else ""
    if not config.get("programs"):
        return f"{whole}\n\nThere are no programs for use without hypnos_jax.{lacking}"
    by = config["programs_by"]
    return (
        f"{whole}\n\nWith NumPy, safetensors and JAX alone (what each program takes and gives is"
        f" under `programs` in `config.json`):\n\n```python\n{usage.text(config, name)}```"
        f"{lacking}\n\nThe programs (`*.jaxexport`) were written by jax {by['jax']} for"
        f" {', '.join(by['platforms'])}. JAX promises to read them for 6 months of its releases;"
        " after that `python -m launch.export`, given this folder, writes them anew. The tensors"
        " (`model.safetensors`) and `config.json` have no such end."
    )


def _reads(config):
    """Inputs with their rates, and the timing of what comes out."""
    rows = config["channels"]
    if rows:
        table = ["| channel | id | signal type | rate | preprocessing |", "|---|---|---|---|---|"]
        for row in rows:
            cells = (row["name"], row["channel_id"], row["signal_type"], f"{row['rate_hz']} Hz")
            table.append("| " + " | ".join(map(str, (*cells, row["preprocess"]))) + " |")
    else:
        table = ["| modality | rate | samples a token |", "|---|---|---|"]
        for row in config["modalities"]:
            table.append(f"| {row['name']} | {row.get('rate_hz')} Hz | {row.get('frames')} |")
    return "\n".join(table) + "\n\n" + _timing(config)


def _timing(config):
    objective = plugins.current(config["objective"])
    if objective["name"] == "rq_next_token":
        lag = objective.get("embed_lag", True)
        seen = "the seconds before t and not t itself" if lag else "second t and those before it"
        return (
            f"One row a second and modality: row t has seen {seen}. An epoch is the mean of its"
            " 30 rows over the modalities that are present; epoch e covers seconds 30e to 30e + 30."
        )
    if objective["name"] == "rvq_reconstruction":
        ends = objective["model"].get("strict_causal", True)
        seen = "nothing after it" if ends else "one sample of the second after it, too"
        return f"One token a second, which sees its second and those before it, and {seen}."
    if objective["name"] not in FAMILIES:
        return "What comes out, and when, is for its objective to say."
    return (
        "One row a token of 30 s and modality; a row has seen its whole window of tokens, those"
        " after it too, and no other modality."
    )


def _data(config, run):
    digest = config["data"].get("manifest_sha256")
    manifest = run and run.get("manifest")
    lines = []
    if manifest:
        digest = manifest["sha256"]
        kind = "Simulated nights" if manifest["simulated"] else "Nights"
        lines.append(
            f"{kind}: {manifest['nights']} of {manifest['subjects']} people, {manifest['hours']} h,"
            f" as {manifest['kind']}."
        )
        if not manifest["simulated"]:
            lines.append("Whether they were recorded or simulated the manifest does not say.")
        if manifest["sites"]:
            lines.append(f"Sites: {', '.join(manifest['sites'])}.")
        lines.append("\n\n| split | nights | people | hours |\n|---|---|---|---|")
        for split, row in manifest["splits"].items():
            lines.append(f"\n| {split} | {row['nights']} | {row['subjects']} | {row['hours']} |")
        have = ", ".join(f"{name} in {count}" for name, count in manifest["channels"].items())
        lines.append(f"\n\nChannels: {have}. Provenance: `{json.dumps(manifest['provenance'])}`.")
    elif not digest:
        return "What it was trained on is not known here."
    lines.append(f"SHA-256 of the manifest: `{digest}`.")
    return " ".join(lines).replace(" \n", "\n")


def _metrics(run):
    rows = (run or {}).get("metrics")
    if not rows:
        return "None were found beside the run."
    table = ["| metric | step | value |", "|---|---|---|"]
    for name, row in rows.items():
        value = "not finite" if row["value"] is None else f"{row['value']:.4g}"
        table.append(f"| {name.removeprefix('eval/')} | {row['step']} | {value} |")
    return "\n".join(table)
