"""The batch contract: name -> array, rows first, every array padded to its full shape.

Every batch has ``weight`` float32 [B] (0: the row is padding) and ``valid`` bool [B, S] or
[B, S, M] (True: this second, or token of ``Source.token_s`` seconds, of this channel holds signal).
A source (``data_pipelines/sources``) adds:

- ``signal_crops``: ``signal`` float32 [B, T] (standardised; T = S x rate), ``channel_id`` int32
  [B].
- ``token_windows``: ``codes`` int32 [B, S, sumK], ``present`` bool [B, M], ``channel_ids`` int32
  [B, M], ``tracks`` float32 [B, S, M, 2] (mean, log standard deviation, physical units).
- ``modality_pairs``, of L tokens of two modalities (``valid`` [B, L, 2]): ``signal_a`` and
  ``signal_b`` int16 [B, L, F] (times ``scale`` float32 [B, 2]; a modality of f < F samples a token
  has them first, then zeros), ``pair`` int32 [B, 2] (which modalities; the same in all rows), and
  int32 [B] each: ``age`` (years, -1 unknown), ``sex`` (1 male, 0 female, -1 unknown), ``site``,
  ``subject``, ``night`` (of the store's), ``start`` (the window's first token).
- ``modality_nights``, of L tokens of M modalities (``valid`` [B, L, M]): ``signal/<name>`` int16
  [B, L, f] each (times ``scale`` float32 [B, M]), ``present`` bool [B, M]; int32, -1 where unknown:
  ``stage`` [B, L], ``event/<name>`` [B, L] each (1 or 0, of ``config.data.events``), ``apnea``
  [B, L, 30] and ``arousal`` [B, L, 30, 4] (by the second; causes:
  respiratory, spontaneous, leg movement, periodic leg movement); float32, -1 where unknown:
  ``outcomes`` [B, K] (0 or 1), ``survival`` [B, K, 2] (time, whether the event came); and
  ``age`` to ``start`` as above.
"""

from __future__ import annotations

import pathlib

import jax
import numpy as np

from data_pipelines import pipeline
from data_pipelines.store import NightStore
from hypnos_jax import config as configs
from hypnos_jax.runtime import distributed


class BatchError(ValueError):
    """A batch that does not keep the contract."""


def shapes(config: dict) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of a config's global batch, without its data.

    Args:
        config: resolved and filled.

    Returns:
        name -> shape and dtype, as the contract above has them, B being
        ``config.train.batch_size``.

    Raises:
        PipelineError: no such source.
    """
    rows = config["train"]["batch_size"]
    source = pipeline.find_source(config["data"]["name"])
    return {
        name: jax.ShapeDtypeStruct((rows, *shape), dtype)
        for name, (dtype, *shape) in source.shapes(config["data"], config["objective"]).items()
    }


def load_source(config: dict, workdir: pathlib.Path, *, split: str) -> pipeline.Source:
    """Open ``config.data`` for one split.

    Without a path the data are a tiny synthetic store, written into the workdir once.

    Raises:
        ConfigError: no name, or an option that the source does not have.
        PipelineError: the store does not fit.
        StoreError: the path is not a store.
    """
    options = {key: value for key, value in config["data"].items() if key != "fill"}
    name, path = options.pop("name", ""), options.pop("path", "")
    if name not in pipeline.source_names() and "." not in str(name):
        raise configs.ConfigError(
            f"config.data.name={name!r}: {configs.nearest(str(name), pipeline.source_names())}"
        )
    if not path:
        path = pathlib.Path(workdir) / "synthetic"
        distributed.once(
            "the synthetic store",
            lambda: (
                path.exists()
                or pipeline.write_synthetic(
                    name, path, config["seed"], **pipeline.recipe_option(options)
                )
            ),
        )
    store = NightStore(path)
    return configs.call(
        pipeline.find_source(name).open_source,
        options,
        "config.data",
        store=store,
        split=split,
        seed=config["seed"],
    )


def batch_spec(source: pipeline.Source, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of a batch of so many rows, from one example of the data.

    Raises:
        BatchError: the example does not keep the batch contract.
    """
    example = source.examples(0, 1)
    check_batch(example, 1)
    return {
        name: jax.ShapeDtypeStruct((rows, *value.shape[1:]), value.dtype)
        for name, value in example.items()
    }


def check_batch(batch: dict[str, np.ndarray], rows: int) -> None:
    """Check one batch of numpy arrays against the contract.

    Args:
        batch: name -> array with ``rows`` rows.
        rows: B.

    Raises:
        BatchError: which array, and how it differs.
    """
    for name in ("weight", "valid"):
        if name not in batch:
            raise BatchError(f"the batch has no {name!r}; it has {sorted(batch)}")
    for name, array in batch.items():
        if array.shape[:1] != (rows,):
            raise BatchError(f"batch[{name!r}] has shape {array.shape}, not {rows} rows")
        if array.dtype in (np.float64, np.int64):
            raise BatchError(f"batch[{name!r}] is {array.dtype}; use 32 bits")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BatchError(f"batch[{name!r}] holds NaN or infinity")
    if batch["weight"].shape != (rows,):
        raise BatchError(f"batch['weight'] has shape {batch['weight'].shape}, not ({rows},)")


def channel_seconds(batch: dict[str, np.ndarray], token_s: float = 1) -> float:
    """Return how many seconds of signal a batch holds, each channel counted for itself.

    Args:
        batch: of numpy arrays.
        token_s: seconds that an entry of ``valid`` stands for (``Source.token_s``).
    """
    valid = batch["valid"]
    return token_s * float((valid.reshape(len(valid), -1).sum(1) * (batch["weight"] > 0)).sum())
