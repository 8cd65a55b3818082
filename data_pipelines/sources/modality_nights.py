"""Windows of all modalities of a night with its labels: for training, fine-tuning and evaluation.

Windows leave nothing of a night out, but for what is less than a token, and do not overlap unless
those of training are asked to; an epoch of training visits each once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from absl import logging

from data_pipelines.labels import EVENT_LABELS, UNKNOWN, TokenLabels
from data_pipelines.pipeline import Batch, DamagePolicy, PipelineError, Source
from data_pipelines.recipes import find_recipe
from data_pipelines.recordings.base import RecordingError
from data_pipelines.shuffle import mix, permute
from data_pipelines.splits import few_people
from data_pipelines.store import SPLITS, ChannelSignal, DamagedRecordError, NightStore
from data_pipelines.variation import Variation, varying
from data_pipelines.windows import (
    TOKEN_S,
    SubjectMetadata,
    Windows,
    describe,
    fill,
    holds_signal,
    modalities_of,
)

WINDOW_TOKENS = 120  # where the data do not say: the official code's
WHOLE_NIGHT = 1535  # tokens: what the official model's positions leave beside its CLS
NIGHTS_OF_LABELS = 256  # ours: kept in memory, 0.15 MB each for 8 h


def open_source(
    store: NightStore,
    *,
    split: str,
    seed: int,
    window_tokens: int = WINDOW_TOKENS,
    step_tokens: int = 0,
    recipe: str = "",
    modalities: tuple[str, ...] = (),
    sites: tuple[str, ...] = (),
    labels: tuple[str, ...] = (),
    events: tuple[str, ...] = (),
    few_shot: float = 0,
    few_shot_subjects: int = 0,
    few_shot_seed: int = 0,
    trained_on: str = "train",
    flip: float = 0.0,
    gain: float = 0.0,
    max_damaged: float = 0.01,
    threads: int | None = None,
) -> NightSource:
    """Windows of all modalities, tokens of 30 s, with stages, events and outcomes.

    Args:
        store: a store of modalities.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        seed: of the order.
        window_tokens: of a window; from 1535 on a night is one window, cut at its end.
        step_tokens: between the starts of windows of the training split; 0 is ``window_tokens``,
            at most which it is. Those of other splits never overlap.
        recipe: by which the store must be prepared; any with tokens of 30 s by default. The tiny
            store is of this one, by default of sleep2vec.
        modalities: only these; all of the store by default.
        sites: only nights of these; all by default.
        labels: only these outcomes and survival times; all that a night of the store has by
            default.
        events: labels of epochs by events, names in ``labels.EVENT_LABELS``.
        few_shot: of the training split, keep that many windows; below 1, that share; 0 keeps all.
            The choice does not depend on ``seed``, and a smaller one is part of a larger one.
        few_shot_subjects: of the training split, keep that many people first, likewise; 0 keeps
            all.
        few_shot_seed: another is another choice.
        trained_on: the split whose nights stand in for those of training. Anything but ``"train"``
            is a leak, and every run of it says so: ``"test"`` is how SynthSleepNet's official code
            makes its probes of apnea and hypopnea, by mistake. For showing what that does.
        flip, gain: how waves of training windows vary in sign and size, each modality apart; see
            ``Variation``. Rate is not varied: windows lie on the epochs' grid.
        max_damaged: share of the records that may be damaged and left out; one always may, unless
            this is 0.
        threads: readers.

    Raises:
        PipelineError: the store holds no modalities, or not what is asked for.
        EmptySplitError: no night of the split is a token long.
    """
    if not 0 <= step_tokens <= window_tokens:
        raise PipelineError(
            f"config.data.step_tokens={step_tokens}: must be from 1 to window_tokens="
            f"{window_tokens}, so that no token is left out, or 0 for windows that do not overlap"
        )
    training = split == "train"
    if trained_on not in SPLITS:
        raise PipelineError(f"config.data.trained_on={trained_on!r}: it is one of {SPLITS}")
    if training and trained_on != "train":
        logging.warning("LEAK: config.data.trained_on=%s, as labels of training", trained_on)
        split = trained_on
    rows = modalities_of(store, tuple(modalities), "modality_nights", recipe)
    windows = Windows.of(
        store,
        split,
        window_tokens,
        1,
        sites=tuple(sites),
        first_only=window_tokens >= WHOLE_NIGHT,
        step_tokens=step_tokens if training else 0,
    )
    if training:
        windows = few_subjects_of(windows, few_shot_subjects, few_shot_seed)
        windows = few_shot_of(windows, few_shot, few_shot_seed)
    return NightSource(
        store,
        rows,
        windows,
        window_tokens,
        tuple(labels),
        tuple(events),
        seed=seed,
        variation=Variation(flip, gain, seed=seed),
        max_damaged=max_damaged,
        threads=threads,
    )


def shapes(data: dict, objective: dict) -> dict[str, tuple]:
    """Return name -> (dtype, shape of a row) of the batches of a config."""
    tokens = data["window_tokens"]
    parts = [part for part in objective.values() if isinstance(part, dict)]
    modalities = next(part["modalities"] for part in parts if "modalities" in part)
    people = ("age", "sex", "site", "night", "subject", "start")
    return {
        **{f"signal/{m['name']}": (np.int16, tokens, m["frames"]) for m in modalities},
        "scale": (np.float32, len(modalities)),
        "present": (np.bool_, len(modalities)),
        "valid": (np.bool_, tokens, len(modalities)),
        "stage": (np.int32, tokens),
        **{f"event/{name}": (np.int32, tokens) for name in data.get("events", ())},
        "apnea": (np.int32, tokens, TOKEN_S),
        "arousal": (np.int32, tokens, TOKEN_S, 4),
        **dict.fromkeys(people, (np.int32,)),
        "outcomes": (np.float32, len(objective.get("outcomes", ()))),
        "survival": (np.float32, len(objective.get("survival", ())), 2),
        "weight": (np.float32,),
    }


def describe_paper(recipe: str = "sleep2vec") -> dict:
    """Return what a store of a recipe's own choice of modalities would describe, no outcomes."""
    found = find_recipe(recipe)
    return {
        "modalities": describe([found.rows[n] for n in found.wanted()]),
        "outcomes": [],
        "survival": [],
        "age_mean": 0.0,
        "age_sd": 1.0,
    }


def write_tiny(folder, seed: int, recipe: str = "sleep2vec") -> None:
    """Write a tiny store of simulated modalities of a recipe that share a latent state."""
    from data_pipelines.synthetic import write_tiny_modalities  # only where no data are given

    write_tiny_modalities(folder, seed=seed, recipe=recipe)


def tiny(recipe: str = "sleep2vec") -> dict:
    """Return the options by which least of the tiny store is read: three modalities, few tokens."""
    found = find_recipe(recipe)
    rows = sorted((found.rows[name] for name in found.wanted()), key=lambda row: row.rate_hz)[:3]
    tokens = min(8, max(2, 6000 // rows[-1].frames))
    return {"modalities": tuple(row.name for row in rows), "window_tokens": tokens}


def few_subjects_of(windows: Windows, count: int, seed: int) -> Windows:
    """Keep the windows of a number of people; 0 keeps all. Nested for one seed.

    Raises:
        PipelineError: less than none.
    """
    if count < 0:
        raise PipelineError(f"config.data.few_shot_subjects={count}: must be 0 or more")
    people = {night.subject for night in windows.nights}
    if not 0 < count < len(people):
        return windows
    kept = set(few_people(people, count, seed))
    of_them = np.array([night.subject in kept for night in windows.nights])
    return windows.only(np.flatnonzero(of_them[windows.night]))


def few_shot_of(windows: Windows, few_shot: float, seed: int) -> Windows:
    """Keep a number of windows, or a share below 1 of them; nested for one seed.

    Raises:
        PipelineError: less than none.
    """
    if few_shot < 0:
        raise PipelineError(f"config.data.few_shot={few_shot}: must be 0 or more")
    count = len(windows.night)
    kept = max(1, round(few_shot * count)) if few_shot < 1 else int(few_shot)
    if not few_shot or kept >= count:
        return windows
    order = permute(np.arange(count), count, np.repeat(mix(mix(seed) + np.uint64(1)), count))
    return windows.only(np.sort(order[:kept]))


class NightSource(Source):
    """Batches of windows of all modalities with labels; see the module."""

    token_s = TOKEN_S

    def __init__(
        self,
        store,
        modalities,
        windows,
        window_tokens,
        labels,
        events,
        *,
        seed,
        variation,
        max_damaged,
        threads,
    ):
        count = len(windows.night)
        super().__init__(store, [1] * count, 1, self._read_windows, {}, seed=seed, threads=threads)
        self._modalities, self._windows, self._length = modalities, windows, window_tokens
        self._variation = variation
        self._varying = varying(modalities) if variation else None
        self._subjects = SubjectMetadata(store, windows.nights)
        self._damage = DamagePolicy(store, len(windows.nights) * len(modalities), max_damaged)
        self._present = np.array(
            [[m.name in night.channels for m in modalities] for night in windows.nights]
        )
        self._outcomes, outcomes = _columns(store, windows.nights, "outcomes", labels, [UNKNOWN])
        self._survival, survival = _columns(
            store, windows.nights, "survival", labels, [UNKNOWN, UNKNOWN]
        )
        unknown = set(labels) - {*outcomes, *survival}
        if unknown:
            raise PipelineError(
                f"{store.path} has no outcome {sorted(unknown)[0]!r}; it has"
                f" {[*_names(store, 'outcomes'), *_names(store, 'survival')]}"
            )
        self._outcomes = self._outcomes[..., 0]
        for name in events:
            if name not in EVENT_LABELS:
                raise PipelineError(
                    f"config.data.events: no label of events {name!r}; there are"
                    f" {sorted(EVENT_LABELS)}"
                )
        self._events = events
        self._labels = functools.lru_cache(NIGHTS_OF_LABELS)(self._labels_of)
        train = store.select("train")
        ages = (
            SubjectMetadata(store, train).rows(np.arange(len(train)))["age"]
            if train
            else np.zeros(0)
        )
        ages = ages[ages >= 0]
        self._description = {
            "modalities": describe(modalities),
            "sites": self._subjects.sites,
            "window_tokens": window_tokens,
            "token_s": TOKEN_S,
            "outcomes": outcomes,
            "survival": survival,
            "age_mean": float(ages.mean()) if len(ages) else 0.0,
            "age_sd": float(ages.std()) or 1.0 if len(ages) else 1.0,
        }

    def examples(self, first: int, stop: int) -> Batch:
        """Return training examples ``first`` to ``stop - 1``: waves varied by (seed, number)."""
        batch = super().examples(first, stop)
        if self._variation:
            factors = self._variation.factors(np.arange(first, stop), len(self._modalities))
            batch["scale"] *= np.where(self._varying, factors, 1)
        return batch

    def _labels_of(self, night: int) -> tuple[TokenLabels, dict[str, np.ndarray]]:
        entry = self._windows.nights[night]
        events = {name: EVENT_LABELS[name].of(self.store, entry) for name in self._events}
        return TokenLabels.of(self.store, entry), events

    def _read_windows(self, chosen: np.ndarray, _: np.ndarray) -> Batch:
        windows, nights = self._windows, self._windows.night[chosen]
        frames = {m.name: m.frames for m in self._modalities}
        batch = _blank(len(chosen), self._length, frames, np.int16, self._events)
        for row, window in enumerate(chosen.tolist()):
            start, tokens = int(windows.start[window]), int(windows.tokens[window])
            night = windows.nights[nights[row]]
            for m, modality in enumerate(self._modalities):
                try:
                    batch["scale"][row, m] = fill(
                        self.store,
                        night,
                        modality,
                        start,
                        tokens,
                        batch[f"signal/{modality.name}"][row],
                        batch["valid"][row, :, m],
                    )
                except DamagedRecordError as error:
                    self._damage.leave_out(error)
            (labels, events), within = self._labels(int(nights[row])), slice(start, start + tokens)
            for name, found in events.items():
                batch[f"event/{name}"][row, :tokens] = found[within]
            batch["stage"][row, :tokens] = labels.stage[within]
            batch["apnea"][row, :tokens] = labels.apnea[within]
            batch["arousal"][row, :tokens] = labels.arousal[within]
        return {
            **batch,
            "present": self._present[nights],
            **self._subjects.rows(nights),
            "start": windows.start[chosen],
            "outcomes": self._outcomes[nights],
            "survival": self._survival[nights],
            "weight": batch["valid"].any(axis=(1, 2)).astype(np.float32),
        }


def whole_nights(data: dict) -> dict:
    """Return the options of ``config.data`` under which every token of every night comes once."""
    keys = ("path", "recipe", "window_tokens", "modalities")
    return {"name": "modality_nights", **{key: data[key] for key in keys if key in data}}


def window_tokens(data: dict) -> int:
    """Return how many tokens ``embed`` sees at once."""
    return data.get("window_tokens", WINDOW_TOKENS)


def embed_shapes(modalities: Sequence[Mapping]) -> dict[str, tuple]:
    """Return name -> (dtype, *shape of a row) of what ``embed`` reads, ``"T"`` being its tokens.

    Arrays without ``"T"`` are 1 for a recording in memory.

    Args:
        modalities: rows {name, rate_hz, frames} of the model.
    """
    return {
        **{f"signal/{row['name']}": ("float32", "T", row["frames"]) for row in modalities},
        "valid": ("bool", "T", len(modalities)),
        "scale": ("float32", len(modalities)),
        "present": ("bool", len(modalities)),
        "weight": ("float32",),
    }


def recording_batches(
    signals: Mapping[str, ChannelSignal], *, data: dict, modalities: Sequence[Mapping]
) -> Iterator[Batch]:
    """Yield the windows of one recording in memory, in order and to its end, a row a batch.

    Args:
        signals: name -> modality, any subset of the model's; all are cut to the shortest.
        data: section of a config.
        modalities: as for ``embed_shapes``.

    Yields:
        the arrays of ``embed_shapes`` and ``tokens``, int32 [1]: how many of the window are of the
        recording.

    Raises:
        RecordingError: none of the modalities is there, or they are shorter than a token.
        PipelineError: a modality at another rate than the model's.
    """
    names = [row["name"] for row in modalities]
    if not any(name in signals for name in names):
        raise RecordingError(f"none of the model's modalities {names}")
    for row in modalities:
        signal = signals.get(row["name"])
        if signal is not None and signal.rate_hz != row["rate_hz"]:
            raise PipelineError(
                f"{signal.name} is prepared at {signal.rate_hz} Hz; the model reads"
                f" {row['rate_hz']} Hz"
            )
    tokens = min(len(signals[name].valid) for name in names if name in signals) // TOKEN_S
    if not tokens:
        raise RecordingError(f"shorter than one token of {TOKEN_S} s")
    length = window_tokens(data)
    for start in range(0, tokens, length):
        stop = min(start + length, tokens)
        batch = {}
        for name, (dtype, *shape) in embed_shapes(modalities).items():
            make = np.zeros if "T" in shape else np.ones
            batch[name] = make([1, *(length if n == "T" else n for n in shape)], dtype)
        for m, row in enumerate(modalities):
            if row["name"] in signals:
                signal, frames = signals[row["name"]], row["frames"]
                slots = TOKEN_S * row["rate_hz"]  # of a series, more than its values
                samples = signal.samples[start * slots : stop * slots].reshape(-1, slots)
                batch[f"signal/{row['name']}"][0, : stop - start] = samples[:, :frames]
                valid = signal.valid[start * TOKEN_S : stop * TOKEN_S]
                batch["valid"][0, : stop - start, m] = holds_signal(valid)
        batch["present"][0] = [name in signals for name in names]
        yield {**batch, "tokens": np.full(1, stop - start, np.int32)}


def _blank(rows: int, length: int, frames: dict[str, int], kind, events: Sequence[str]) -> Batch:
    """The arrays of windows before anything is known of them; signals of type ``kind``."""
    return {
        **{f"signal/{name}": np.zeros((rows, length, n), kind) for name, n in frames.items()},
        "scale": np.ones((rows, len(frames)), np.float32),
        "valid": np.zeros((rows, length, len(frames)), bool),
        "stage": np.full((rows, length), UNKNOWN, np.int32),
        **{f"event/{name}": np.full((rows, length), UNKNOWN, np.int32) for name in events},
        "apnea": np.full((rows, length, TOKEN_S), UNKNOWN, np.int32),
        "arousal": np.full((rows, length, TOKEN_S, 4), UNKNOWN, np.int32),
    }


def _names(store, kind):
    return sorted({name for night in store.nights for name in night.metadata.get(kind) or {}})


def _columns(store, nights, kind, labels, unknown):
    """Values ``[nights, K, ...]`` of what the metadata hold under ``kind``, and their K names."""
    names = [name for name in _names(store, kind) if name in (labels or (name,))]
    table = np.empty((len(nights), len(names), len(unknown)), np.float32)
    for row, night in zip(table, nights, strict=True):
        there = night.metadata.get(kind) or {}
        for cell, name in zip(row, names, strict=True):
            value = there.get(name)
            cell[...] = unknown if value is None else value
    return table, names
