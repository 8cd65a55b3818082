"""Crops of single channels of one signal type: what tokenizers are trained on."""

import numpy as np

from data_pipelines.channels.table import CHANNELS
from data_pipelines.pipeline import (
    Batch,
    DamagePolicy,
    EmptySplitError,
    PipelineError,
    Source,
    contents,
    require_kind,
)
from data_pipelines.recipes import recipe_of_store
from data_pipelines.store import DamagedRecordError, NightStore
from data_pipelines.variation import Variation, at_rate, seconds_needed

TOKEN_S = 1


def open_source(
    store: NightStore,
    *,
    split: str,
    seed: int,
    signal_type: str,
    crop_s: int = 30,
    channels: tuple[str, ...] = (),
    flip: float = 0.0,
    gain: float = 0.0,
    rate: float = 0.0,
    max_damaged: float = 0.01,
    threads: int | None = None,
) -> Source:
    """Crops of single channels of one signal type.

    Examples: ``signal`` float32 [T] (0 where invalid), ``valid`` bool [S], ``channel_id`` int32,
    ``weight`` float32 (0 where no second is valid).

    Args:
        store: a store of signals.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        seed: of order and crops.
        signal_type: ``"eeg"``, ``"eog"``, ``"emg"``, ``"ecg"`` or ``"resp"``.
        crop_s: seconds of a crop.
        channels: only these; all of the type by default.
        flip, gain, rate: how training crops vary in sign, size and speed; see ``Variation``.
        max_damaged: share of the records that may be damaged and left out; one always may, unless
            this is 0.
        threads: readers.

    Raises:
        PipelineError: the store holds tokens, or no such channel in that split.
    """
    require_kind(store, "signals", "signal_crops")
    rows = recipe_of_store(store).rows
    types = {row["name"]: CHANNELS[row["name"]].signal_type for row in store.manifest["channels"]}
    wanted = [
        name for name, kind in types.items() if kind == signal_type and name in (channels or types)
    ]
    stretches = [(night, name) for name in wanted for night in store.select(split, name)]
    if not stretches:
        raise EmptySplitError(
            f"{store.path} has no {signal_type} channel"
            + (f" among {list(channels)}" if channels else "")
            + f" in split {split!r}; it holds {contents(store)} with {types}"
        )
    rates = {store.rate_hz(name) for name in wanted}
    if len(rates) > 1:
        raise PipelineError(f"{store.path}: {signal_type} channels at several rates, {rates} Hz")

    rate_hz = rates.pop()
    variation = Variation(flip, gain, rate, seed)
    damage = DamagePolicy(store, len(stretches), max_damaged)
    ids = [rows[name].id for _, name in stretches]
    ids = np.array([-1 if id is None else id for id in ids], np.int32)

    def cut(stretch: int, start: int, samples: np.ndarray, valid: np.ndarray) -> np.float32:
        """Read one crop into zeros; return what its samples are to be multiplied with."""
        try:
            return store.fill(*stretches[stretch], start, samples=samples, valid=valid)
        except DamagedRecordError as error:
            damage.leave_out(error)
            return np.float32(1)

    def batch(chosen: np.ndarray, signal: np.ndarray, valid: np.ndarray) -> Batch:
        return {
            "signal": signal,
            "valid": valid,
            "channel_id": ids[chosen],
            "weight": valid.any(axis=1).astype(np.float32),
        }

    def read(chosen: np.ndarray, starts: np.ndarray) -> Batch:
        samples = np.zeros((len(chosen), crop_s, rate_hz), np.int16)
        scale = np.ones(len(chosen), np.float32)
        valid = np.zeros((len(chosen), crop_s), bool)
        for row, at in enumerate(zip(chosen.tolist(), starts.tolist())):
            scale[row] = cut(*at, samples[row], valid[row])
        return batch(chosen, samples.reshape(len(chosen), -1) * scale[:, None], valid)

    def read_varied(chosen: np.ndarray, starts: np.ndarray, numbers: np.ndarray) -> Batch:
        signal = np.zeros((len(chosen), crop_s * rate_hz), np.float32)
        valid = np.zeros((len(chosen), crop_s), bool)
        factors, rates = variation.factors(numbers)[:, 0], variation.rates(numbers).tolist()
        for row, (stretch, start) in enumerate(zip(chosen.tolist(), starts.tolist())):
            seconds = seconds_needed(crop_s, rates[row])
            start = max(0, min(start, stretches[stretch][0].duration_s - seconds))
            samples = np.zeros((seconds, rate_hz), np.int16)
            there = np.zeros(seconds, bool)
            factor = factors[row] * cut(stretch, start, samples, there)
            signal[row], valid[row] = at_rate(
                samples.reshape(-1) * factor, there, rates[row], crop_s
            )
        return batch(chosen, signal, valid)

    description = {"signal_type": signal_type, "channels": wanted, "rate_hz": rate_hz}
    seconds = [night.duration_s for night, _ in stretches]
    return Source(
        store,
        seconds,
        crop_s,
        read,
        description,
        seed=seed,
        threads=threads,
        read_training=read_varied if variation else None,
    )


def shapes(data: dict, objective: dict) -> dict[str, tuple]:
    """Return name -> (dtype, shape of a row) of the batches of a config."""
    seconds = data["crop_s"]
    return {
        "signal": (np.float32, seconds * objective["rate_hz"]),
        "valid": (np.bool_, seconds),
        "channel_id": (np.int32,),
        "weight": (np.float32,),
    }


def describe_paper() -> dict:
    """Return nothing: the configs of tokenizers leave nothing to the data."""
    return {}


def write_tiny(folder, seed: int) -> None:
    """Write a tiny store of simulated signals."""
    from data_pipelines.synthetic import write_tiny_nights  # only where no data are given

    write_tiny_nights(folder, seed=seed)


def tiny() -> dict:
    """Return the options by which least of the tiny store is read."""
    return {"crop_s": 6}
