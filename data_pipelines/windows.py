"""Windows of whole tokens, cut from a store of modalities: what its sources share."""

from __future__ import annotations

import collections
import dataclasses
import fnmatch

import numpy as np
from absl import logging

from data_pipelines.pipeline import (
    EmptySplitError,
    PipelineError,
    contents,
    keep_some,
    require_kind,
)
from data_pipelines.recipes import Row, recipe_of_store
from data_pipelines.store import EPOCH_S, SEXES, NightEntry, NightStore

TOKEN_S = EPOCH_S  # a token is an AASM epoch

SPARE = 4  # ours: arrays of a kind that wait for use; the two of a batch of each reader
UNKNOWN_SITE = "nan"  # a site of its own, as in the official code


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows of the nights of a split, night by night.

    A night's windows start at tokens 0, ``step_tokens``, twice that, ...; the last is as long as
    the night lets it be, and left out where it is shorter than ``min_tokens``.

    Attributes:
        nights: The nights.
        night: ``[N]`` index into ``nights`` of each window.
        start, tokens: ``[N]`` its first token and its length.
    """

    nights: list[NightEntry]
    night: np.ndarray
    start: np.ndarray
    tokens: np.ndarray

    @classmethod
    def of(
        cls,
        store: NightStore,
        split: str,
        window_tokens: int,
        min_tokens: int,
        *,
        sites: tuple[str, ...] = (),
        count: int = 0,
        first_only: bool = False,
        step_tokens: int = 0,
    ) -> Windows:
        """Cut the nights of a split, of these sites where any are named, and of those so many.

        ``step_tokens`` lie between the starts of windows, by default ``window_tokens``.

        Raises:
            PipelineError: ``window_tokens`` is no length, or a site is not in the store.
            EmptySplitError: the split holds no night that is long enough.
        """
        if window_tokens < 1:
            raise PipelineError(f"config.data.window_tokens={window_tokens}: must be 1 or more")
        there = sorted({_site(night) for night in store.nights})
        unknown = [site for site in sites if site not in there]
        if unknown:
            raise PipelineError(f"{store.path} has no site {unknown[0]!r}; it has {there}")
        nights = [night for night in store.select(split) if _site(night) in (sites or there)]
        nights = keep_some(nights, count, store)
        least = max(1, min(min_tokens, window_tokens))
        lengths = np.array([night.duration_s // TOKEN_S for night in nights], np.int64)
        step = step_tokens or window_tokens
        counts = np.maximum(1 - (window_tokens - lengths) // step, lengths > 0)
        if first_only:
            counts = np.minimum(counts, 1)
        night = np.repeat(np.arange(len(nights)), counts)
        first = np.cumsum(counts) - counts
        start = (np.arange(len(night)) - first[night]) * step
        tokens = np.minimum(window_tokens, lengths[night] - start)
        keep = tokens >= least
        if not keep.any():
            raise EmptySplitError(
                f"{store.path} has no night of {least} tokens of {TOKEN_S} s in split {split!r}:"
                f"{f' of {list(sites)}' if sites else ''}: {contents(store)}"
            )
        return cls(nights, *(x[keep].astype(np.int32) for x in (night, start, tokens)))

    def only(self, which: np.ndarray) -> Windows:
        """Return some of the windows, by their numbers."""
        return Windows(self.nights, self.night[which], self.start[which], self.tokens[which])


class SubjectMetadata:
    """Age, sex, site, recording and subject of nights, as numbers that are equal in all splits.

    Attributes:
        sites: Names of the sites, sorted; a missing one is "nan".
    """

    def __init__(self, store: NightStore, nights: list[NightEntry]):
        """Take the nights that are asked for."""
        self.sites = sorted({_site(night) for night in store.nights})
        sites = {site: i for i, site in enumerate(self.sites)}
        subjects = {s: i for i, s in enumerate(sorted({n.subject for n in store.nights}))}
        order = {night.recording: i for i, night in enumerate(store.nights)}
        rows = [
            (
                _age(night.metadata.get("age")),
                SEXES.get(str(night.metadata.get("sex")).strip().lower(), -1),
                sites[_site(night)],
                order[night.recording],
                subjects[night.subject],
            )
            for night in nights
        ]
        self._columns = np.array(rows, np.int32).T

    def rows(self, nights: np.ndarray) -> dict[str, np.ndarray]:
        """Return ``age``, ``sex``, ``site``, ``night`` and ``subject``, int32 each, of nights."""
        names = ("age", "sex", "site", "night", "subject")
        return {name: column[nights] for name, column in zip(names, self._columns, strict=True)}


def _site(night: NightEntry) -> str:
    site = night.metadata.get("site")
    return UNKNOWN_SITE if site in (None, "") else str(site)


def _age(value) -> int:
    """Whole years, as in the official code; -1 where unknown."""
    try:
        years = int(float(value))
    except (TypeError, ValueError, OverflowError):
        return -1
    return max(years, -1)


def modalities_of(
    store: NightStore, names: tuple[str, ...], source: str, recipe_name: str = ""
) -> list[Row]:
    """Return the modalities of a store in their canonical order; only those named, where any are.

    A name may be a pattern, such as ``"eeg_*"``: of those modalities all that the store has. Where
    the recipe has ``absent_rows``, one that is named in full need not be in the store.

    Raises:
        PipelineError: the store holds no modalities, or not these, or at other rates, or was
            prepared by another recipe than the one that is named.
    """
    require_kind(store, "signals", source)
    recipe = recipe_of_store(store)
    if recipe_name not in ("", recipe.name):
        raise PipelineError(
            f"config.data.recipe={recipe_name!r}, and {store.path} was prepared by the recipe"
            f" {recipe.name}; prepare the recordings with python -m launch.prepare_nights"
            f" --recipe={recipe_name} --output=NEW"
        )
    there = {row["name"]: row["rate_hz"] for row in store.manifest["channels"]}
    if recipe.token_s != TOKEN_S:
        raise PipelineError(
            f"{source} reads modalities, and {store.path} holds the channels {sorted(there)};"
            " prepare the recordings with launch.prepare_nights --recipe=sleep2vec"
        )
    may_lack = set(names) if recipe.absent_rows else set()
    known = [row for name, row in recipe.rows.items() if name in there or name in may_lack]
    if lacking := sorted(row.name for row in known if row.name not in there):
        logging.warning("no night of %s has %s: absent throughout", store.path, lacking)
    for name in names:
        if not fnmatch.filter([row.name for row in known], name):
            raise PipelineError(
                f"{store.path} has no modality {name!r}; it has {sorted(row.name for row in known)}"
            )
    chosen = [row for row in known if any(fnmatch.fnmatchcase(row.name, n) for n in names or "*")]
    for row in chosen:
        if there.get(row.name, row.rate_hz) != row.rate_hz:
            raise PipelineError(
                f"{store.path}: {row.name} at {there[row.name]} Hz, not {row.rate_hz} Hz"
            )
    return chosen


class Memory:
    """Arrays of samples that serve again once nobody holds them.

    Fresh pages cost more than what is read into them: a batch of 320 windows at 128 Hz is 0.6 GB,
    and is made at 1,060 to 1,310 MB per CPU second in place of 980 (``benchmarks/README.md``). Who
    has a batch need not give it back: an array returns by itself when its last view is gone, on
    whichever thread. Nothing plainer does that: numpy makes a view refer to the array that owns the
    memory and not to the one it was taken of, so a weak reference to what was handed out would die
    while views of it live. Memory that belongs to an object of ours (``_Loan``) is referred to by
    all of them.
    """

    def __init__(self):
        """Start without any."""
        self._free: dict[tuple, collections.deque] = {}

    def take(self, rows: int, tokens: int, width: int, frames: int) -> np.ndarray:
        """Return int16 ``[rows, tokens, width]``: 0 from ``frames`` on, before it anything."""
        key = rows, tokens, width, frames
        free = self._free.setdefault(key, collections.deque(maxlen=SPARE))
        try:
            memory = free.pop()  # the last one back; taking and giving are single steps
        except IndexError:
            memory = np.zeros((rows, tokens, width), np.int16)
        return np.asarray(_Loan(memory, free))


class _Loan:
    """The owner of memory handed out, which returns it at its own end."""

    def __init__(self, memory, free):
        self._memory, self._free = memory, free
        self.__array_interface__ = memory.__array_interface__

    def __del__(self):
        self._free.append(self._memory)


def describe(modalities: list[Row]) -> list[dict]:
    """Return name, rate and samples a token of modalities, as JSON values."""
    return [{"name": m.name, "rate_hz": m.rate_hz, "frames": m.frames} for m in modalities]


def fill(
    store: NightStore,
    night: NightEntry,
    modality: Row,
    start: int,
    tokens: int,
    samples: np.ndarray,
    valid: np.ndarray,
) -> np.float32:
    """Read a window of one modality into arrays of zeros.

    Args:
        store, night, modality: whose.
        start, tokens: of the window, in tokens.
        samples: int16 ``[L, >= frames]`` with L >= tokens; further columns stay as they are.
        valid: bool ``[L]``, set where half of a token's seconds or more hold signal.

    Returns:
        What the samples are to be multiplied with.

    Raises:
        DamagedRecordError: the record cannot be read, or is not what was prepared.
    """
    seconds = tokens * TOKEN_S
    by_second = np.zeros(seconds, bool)
    rows = samples[:tokens]
    whole = rows.shape[1] == modality.frames == TOKEN_S * modality.rate_hz
    into = rows.reshape(seconds, -1) if whole else np.zeros((seconds, modality.rate_hz), np.int16)
    scale = store.fill(night, modality.name, start * TOKEN_S, samples=into, valid=by_second)
    if not whole:
        rows[:, : modality.frames] = into.reshape(tokens, -1)[:, : modality.frames]
    valid[:tokens] = holds_signal(by_second)
    return scale


def holds_signal(valid: np.ndarray) -> np.ndarray:
    """Tell of each token whether half of its seconds or more are valid: bool ``[S]`` -> ``[L]``."""
    return valid.reshape(-1, TOKEN_S).sum(axis=1) * 2 >= TOKEN_S
