"""Prepared nights -> shards, scoring and manifest of a store, in one step that cannot be half done.

The shards are written by a TFDS builder into ``OUTPUT/.work/build``, the folder is renamed after
its own checksum, and the manifest that names it takes the place of the old one.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import pathlib
import shutil

from data_pipelines.files import atomic_write
from data_pipelines.store import FORMAT, SPLITS, StoreError, sha256

SHARD_BYTES = 256 * 2**20  # ours: a shard is held in memory once while TFDS writes it


def seal(output, kind, sources, modalities, provenance, recipe, beside):
    """Write shards, scoring and manifest of all sources; the manifest's rename is the commit."""
    build = output / ".work" / "build"
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir()
    _check_free_disk(output, sources)
    sources = sorted(sources, key=lambda source: source.facts["recording"])
    rates = _channel_rates(sources) if kind == "signals" else {}
    shards = _shards(sources)
    records = _write_records(build, kind, shards, modalities)
    rows, first = {}, dict.fromkeys(SPLITS, 0)
    for split, groups in shards.items():
        for source in (source for group in groups for source in group):
            rows[source.facts["recording"]] = _row(source, kind, modalities, first[split])
            first[split] += _record_count(source, kind)
    with open(build / "scoring.jsonl", "wb") as file:
        for source in sources:
            line = _scoring_line(source)
            rows[source.facts["recording"]]["scoring_span"] = [file.tell(), len(line)]
            file.write(line)
    sums = {str(file.relative_to(build)): sha256(file) for file in _files(build)}
    digest = hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()[:12]
    folder = f"records-{digest}"
    files = {f"{folder}/{name}": checksum for name, checksum in sums.items()}
    for extra in beside:
        for file in _files(output / extra):
            files[str(file.relative_to(output))] = sha256(file)
    manifest = {
        "format": FORMAT,
        "kind": kind,
        "provenance": provenance,
        **({"recipe": dict(recipe)} if recipe else {}),
        "records": {
            split: [{"path": f"{folder}/{path}", "records": count} for path, count in paths]
            for split, paths in records.items()
        },
        "scoring": f"{folder}/scoring.jsonl",
        "files": dict(sorted(files.items())),
    }
    if kind == "signals":
        manifest["channels"] = [{"name": n, "rate_hz": r} for n, r in rates.items()]
    else:
        manifest["modalities"] = modalities
    manifest["nights"] = [rows[name] for name in sorted(rows)]
    target = output / folder
    if target.is_dir():
        shutil.rmtree(build)  # the same nights were sealed before: nothing changes
    else:
        os.replace(build, target)
    text = json.dumps(manifest, indent=1, allow_nan=False, ensure_ascii=False)
    with atomic_write(output / "manifest.json", "w", partial_in=build.parent) as file:
        file.write(text)


def _shards(sources):
    """Group nights into shards of about SHARD_BYTES per split, in order of recording name."""
    shards = {}
    for split in SPLITS:
        groups, size = [], SHARD_BYTES
        for source in (s for s in sources if s.facts["split"] == split):
            if size >= SHARD_BYTES:
                groups.append([])
                size = 0
            groups[-1].append(source)
            size += _byte_size(source)
        if groups:
            shards[split] = groups
    unknown = {s.facts["split"] for s in sources} - set(SPLITS)
    if unknown:
        raise ValueError(f"split is {unknown}; must be one of {SPLITS}")
    return shards


def _byte_size(source):
    seconds = source.facts["duration_s"]
    if "channels" in source.facts:
        return sum(seconds * (2 * rate + 9) for _, rate in source.facts["channels"])
    return seconds * 25 * len(source.present)


def _record_count(source, kind):
    return len(source.facts["channels"]) if kind == "signals" else 1


def _channel_rates(sources):
    rates = {}
    for source in sources:
        for name, rate in source.facts["channels"]:
            if rates.setdefault(name, rate) != rate:
                raise StoreError(
                    f"{source.facts['recording']}: channel {name} has {rate} Hz, "
                    f"other nights of the store {rates[name]} Hz"
                )
    return rates


def _row(source, kind, modalities, first_record):
    facts = source.facts
    if kind == "signals":
        channels = [name for name, _ in facts["channels"]]
    else:
        channels = [m["name"] for m, has in zip(modalities, source.present, strict=True) if has]
    row = {key: facts[key] for key in ("recording", "subject", "split", "duration_s")}
    row |= {"channels": channels, "labels": facts["labels"], "metadata": facts["metadata"]}
    return row | {"qc": facts["qc"], "first_record": first_record}


def _scoring_line(source):
    stages = "".join("-" if stage < 0 else "W123R"[stage] for stage in source.stages)
    line = {"recording": source.facts["recording"], "stages": stages}
    line["events"] = source.facts["events"]
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def _write_records(build, kind, shards, modalities):
    """Run the TFDS builder; returns split -> [(path within build, number of records)]."""
    # Imported here: it takes half a second, and workers never need it.
    from data_pipelines.builders.night_records import NightRecords

    builder = NightRecords(data_dir=build, kind=kind, shards=shards, modalities=modalities)
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.WARNING)  # it tells of downloads and preparations that are none
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_dir=build.parent / "downloads")
    finally:
        log.setLevel(level)
    records = {}
    for split, info in builder.info.splits.items():
        paths = [pathlib.Path(os.fspath(path)) for path in info.filepaths]
        names = [str(path.relative_to(build)) for path in paths]
        records[split] = list(zip(names, info.shard_lengths, strict=True))
    return records


def _check_free_disk(output, sources):
    need = int(1.05 * sum(_byte_size(source) for source in sources)) + 2**20
    free = shutil.disk_usage(output).free
    if free < need:
        raise StoreError(
            f"{output}: writing the store takes {need / 1e9:.2f} GB and {free / 1e9:.2f} GB are "
            "free; finished nights are kept in .work: make room and run the same command again"
        )


def _files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())
