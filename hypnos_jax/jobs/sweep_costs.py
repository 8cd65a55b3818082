"""Costs of the runs of a sweep, asked once for all that cost the same, off accelerators.

Each question is answered in a process of its own, so that a launcher imports no JAX.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import multiprocessing
import os
import pathlib

from hypnos_jax.config import ConfigError, fill

SYNTHETIC = "synthetic"  # folder of a sweep's own data


@contextlib.contextmanager
def naming(where: str):
    """Put a place before the message of a ``ConfigError``."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def synthetic_path(folder: str | os.PathLike, config: dict) -> str:
    """Return where a sweep's own data of a config are."""
    return os.path.join(os.path.abspath(folder), SYNTHETIC, config["data"]["name"])


def add_costs(entries, known, folder, data_here, jobs, sweep) -> None:
    """Give every entry its cost: as it was, or asked for, once for all that cost the same."""
    wanted = {}
    for entry in entries:
        if entry["name"] in known:
            entry["cost"] = known[entry["name"]]["cost"]
            continue
        config = entry["config"]
        path = data_here or config["data"].get("path") or synthetic_path(folder, config)
        entry["question"] = (json.dumps(_costly(config)), path)
        wanted.setdefault(entry["question"], entry["number"])
    if not wanted:
        return
    spawn = multiprocessing.get_context("spawn")
    answers, futures, seen = {}, {}, set()
    workers = min(jobs, len(wanted), os.cpu_count() or 1)  # jobs may be those of a cluster
    with concurrent.futures.ProcessPoolExecutor(workers, spawn) as pool:
        for question in wanted:
            futures[question] = pool.submit(ask_cost, *question)
            if question[1] not in seen:  # it may write synthetic data, which the others read
                concurrent.futures.wait([futures[question]])
            seen.add(question[1])
        for question, future in futures.items():
            with naming(f"{sweep}, run {wanted[question]}"):
                try:
                    answers[question] = future.result()
                except (ValueError, OSError) as error:
                    raise ConfigError(str(error)) from error
    for entry in entries:
        if "question" in entry:
            entry["cost"] = answers[entry["question"]]


def _costly(config: dict) -> dict:
    """What of a config its cost depends on."""
    numbers = (int, float)
    return {
        **config,
        "seed": 0,
        "data": {k: v for k, v in config["data"].items() if k not in ("path", "nights")},
        "optim": {k: v for k, v in config["optim"].items() if not isinstance(v, numbers)},
        "train": {**config["train"], "steps": 1},
        **{section: {} for section in ("mesh", "checkpoints", "logs", "watchdog", "evals")},
    }


def ask_cost(config: str, path: str) -> dict:
    """Return what a resolved config costs; in a process of its own, which stays off accelerators.

    Args:
        config: resolved, as JSON.
        path: of the data that fill it; where nothing is there, synthetic data are written.
    """
    import jax  # here and below: whoever plans or watches a sweep needs no JAX

    jax.config.update("jax_platforms", "cpu")
    from data_pipelines import pipeline
    from hypnos_jax.batch import load_source
    from hypnos_jax.cost.cost import cost

    config = json.loads(config)
    config["data"]["path"] = path
    if not pathlib.Path(path).exists():
        if pathlib.Path(path).parent.name != SYNTHETIC:
            raise ConfigError(
                f"data.path={path!r} is not there, and the data say what a step costs; where the"
                " runs find them elsewhere, --data_here says where they are here"
            )
        data = config["data"]
        pipeline.write_synthetic(data["name"], path, 0, **pipeline.recipe_option(data))
    source = load_source(config, pathlib.Path(path), split="train")
    return dataclasses.asdict(cost(fill(config, source.describe())))
