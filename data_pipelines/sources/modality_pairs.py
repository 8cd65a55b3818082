"""Windows of two modalities of a night, one pair of modalities a batch: for contrastive towers.

Pair first, as sleep2vec's sampler does (arXiv 2602.13857 and its code): a batch draws its pair of
modalities, then its windows from those that have both. Drawing windows first and taking the pair
that all have in common ends in training on one easy pair.

Differs from the official sampler: pairs come in shuffled rounds, in which each has its share, and
not independently; rows beyond a pool smaller than the batch go round the pool again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from absl import logging

from data_pipelines.pipeline import (
    Batch,
    DamagePolicy,
    EmptySplitError,
    PipelineError,
    Source,
    filled_up,
)
from data_pipelines.recipes import find_recipe
from data_pipelines.shuffle import mix, permute
from data_pipelines.store import DamagedRecordError, NightStore
from data_pipelines.variation import Variation, varying
from data_pipelines.windows import (
    TOKEN_S,
    Memory,
    SubjectMetadata,
    Windows,
    describe,
    fill,
    modalities_of,
)


def open_source(
    store: NightStore,
    *,
    split: str,
    seed: int,
    window_tokens: int = 120,
    modalities: tuple[str, ...] = (),
    min_tokens: int = 30,
    sites: tuple[str, ...] = (),
    nights: int = 0,
    pair_weights: tuple[float, ...] = (),
    flip: float = 0.0,
    gain: float = 0.0,
    max_damaged: float = 0.01,
    threads: int | None = None,
) -> PairSource:
    """Windows of two modalities, tokens of 30 s.

    Args:
        store: a store of modalities (``launch.prepare_nights --recipe=sleep2vec``).
        split: ``"train"``, ``"validation"`` or ``"test"``.
        seed: of pairs and windows.
        window_tokens: of a window; windows do not overlap.
        modalities: only these; all of the store by default.
        min_tokens: a night's last window is left out where it is shorter.
        sites: only nights of these; all by default.
        nights: of the training split, so many (of ``sites``) alone; 0 takes all.
        pair_weights: how often each pair is drawn, relative to the others, in the order of
            ``describe()["pairs"]``; equally often by default.
        flip, gain: how waves of training windows vary in sign and size, each modality apart; see
            ``Variation``. Rate is not varied: windows lie on the epochs' grid.
        max_damaged: share of the records that may be damaged and left out; one always may, unless
            this is 0.
        threads: readers.

    Raises:
        PipelineError: the store holds no modalities, or fewer than two, or the weights do not fit.
        EmptySplitError: no window of the split has two of them.
    """
    return PairSource(
        store,
        modalities_of(store, tuple(modalities), "modality_pairs"),
        Windows.of(
            store,
            split,
            window_tokens,
            min_tokens,
            sites=tuple(sites),
            count=nights if split == "train" else 0,
        ),
        window_tokens,
        tuple(pair_weights),
        split=split,
        seed=seed,
        variation=Variation(flip, gain, seed=seed),
        max_damaged=max_damaged,
        threads=threads,
    )


def shapes(data: dict, objective: dict) -> dict[str, tuple]:
    """Return name -> (dtype, shape of a row) of the batches of a config."""
    tokens = data["window_tokens"]
    frames = max(modality["frames"] for modality in objective["model"]["modalities"])
    people = ("age", "sex", "site", "night", "subject")
    return {
        "signal_a": (np.int16, tokens, frames),
        "signal_b": (np.int16, tokens, frames),
        "scale": (np.float32, 2),
        "valid": (np.bool_, tokens, 2),
        "pair": (np.int32, 2),
        **dict.fromkeys(people, (np.int32,)),
        "start": (np.int32,),
        "weight": (np.float32,),
    }


def describe_paper(recipe: str = "sleep2vec") -> dict:
    """Return what a store of a recipe's own choice of modalities would describe."""
    found = find_recipe(recipe)
    return {"modalities": describe([found.rows[n] for n in found.wanted()])}


def write_tiny(folder, seed: int) -> None:
    """Write a tiny store of simulated modalities that share a latent state."""
    from data_pipelines.synthetic import write_tiny_modalities  # only where no data are given

    write_tiny_modalities(folder, seed=seed)


def tiny() -> dict:
    """Return the options by which least of the tiny store is read."""
    return {"modalities": ("ibi", "eeg", "spo2"), "window_tokens": 8}


class PairSource(Source):
    """Batches of one pair of modalities each; see the module.

    Attributes:
        pairs: ``[P, 2]`` indices into the modalities, in canonical order.
    """

    token_s = TOKEN_S

    def __init__(
        self,
        store,
        modalities,
        windows,
        window_tokens,
        weights,
        *,
        split,
        seed,
        variation,
        max_damaged,
        threads,
    ):
        names = [modality.name for modality in modalities]
        if len(names) < 2:
            raise PipelineError(f"{store.path}: a pair needs two modalities; there are {names}")
        super().__init__(
            store, [1] * len(windows.night), 1, self._read, {}, seed=seed, threads=threads
        )
        self._modalities, self._windows, self._length = modalities, windows, window_tokens
        self._variation = variation
        self._varying = varying(modalities) if variation else None
        self._frames = max(modality.frames for modality in modalities)
        self._memory = Memory()
        self._subjects = SubjectMetadata(store, windows.nights)
        self._damage = DamagePolicy(store, len(windows.nights) * len(modalities), max_damaged)
        self.pairs = np.array(list(itertools.combinations(range(len(names)), 2)), np.int32)
        has = np.array([[name in night.channels for name in names] for night in windows.nights])
        both = has[:, self.pairs[:, 0]] & has[:, self.pairs[:, 1]]
        self._pools = [np.flatnonzero(column[windows.night]).astype(np.int32) for column in both.T]
        self._cumulated = self._shares(weights, names, split).cumsum()
        self._description = {
            "modalities": describe(modalities),
            "sites": self._subjects.sites,
            "window_tokens": window_tokens,
            "token_s": TOKEN_S,
            "pairs": [[names[a], names[b]] for a, b in self.pairs],
        }

    def _shares(self, weights, names, split):
        """Share of the batches of each pair."""
        if weights and len(weights) != len(self.pairs):
            raise PipelineError(
                f"config.data.pair_weights has {len(weights)} numbers for the {len(self.pairs)}"
                f" pairs of {names}"
            )
        weights = np.array(weights or [1] * len(self.pairs), np.float64)
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
            raise PipelineError(f"config.data.pair_weights={weights.tolist()}: not weights")
        empty = np.array([len(pool) == 0 for pool in self._pools])
        if empty.any():
            told = [f"{names[a]} with {names[b]}" for a, b in self.pairs[empty]]
            logging.warning(
                "%s, split %r: no window has %s", self.store.path, split, "; ".join(told)
            )
        weights = np.where(empty, 0, weights)
        if not weights.sum() > 0:
            raise EmptySplitError(
                f"{self.store.path} has no window with two of {names} in split {split!r}"
            )
        return weights / weights.sum()

    def pair(self, step: int) -> tuple[int, bool]:
        """Return which pair a step's batch is of, and whether in the other order.

        Steps go in rounds of as many as there are pairs with a weight. A round cuts the shares,
        laid end to end, into as many equal pieces, and each step of it takes the pair at one place
        of one piece: the same place in all, pieces in random order. Equal shares have a piece each.
        """
        count = int(np.count_nonzero(np.diff(self._cumulated, prepend=0)))
        round_, place = divmod(step, count)
        key = mix(mix(self._seed + 2) + np.uint64(round_))
        piece = permute(np.array([place]), count, key)[0]
        within = (int(mix(key)[0]) >> 11) / 2**53
        at = (piece + within) / count * self._cumulated[-1]
        pair = int(np.searchsorted(self._cumulated, at, side="right"))
        swapped = int(mix(mix(self._seed + 3) + np.uint64(step))[0]) & 1
        return min(pair, len(self.pairs) - 1), bool(swapped)

    def rows(self, step: int, batch_size: int, lo: int, hi: int) -> Batch:
        """Return rows ``lo`` to ``hi - 1`` of the global batch of a step."""
        pair, swapped = self.pair(step)
        pool, rows = self._pools[pair], np.arange(lo, hi)
        turns, places = np.divmod(rows, len(pool))
        keys = mix(mix(mix(self._seed + 4) + np.uint64(step)) + turns.astype(np.uint64))
        chosen = pool[permute(places, len(pool), keys)]
        sides = self.pairs[pair][::-1] if swapped else self.pairs[pair]
        batch = self._read(chosen, sides)
        if self._variation:
            factors = self._variation.factors(step * batch_size + rows, 2)
            batch["scale"] *= np.where(self._varying[sides], factors, 1)
        return batch

    def examples(self, first: int, stop: int) -> Batch:
        """Return rows ``first`` to ``stop - 1`` of the first batch."""
        return self.rows(0, stop, first, stop)

    def evaluation_batches(self, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        """Yield every pair in turn, over all windows that have it, each once.

        Args:
            batch_size: rows; a pair's last batch is filled up with rows of ``weight`` 0.
            limit: at most this many batches, spread evenly over the pairs, their windows evenly
                over the nights; fewer than there are pairs take some pairs only.
        """
        there = [pair for pair, pool in enumerate(self._pools) if len(pool)]
        needed = np.array([-(-len(self._pools[pair]) // batch_size) for pair in there])
        counts = needed if limit is None else np.minimum(needed, _spread(limit, len(there)))
        plan = [
            (pair, index, count)
            for pair, count in zip(there, counts.tolist(), strict=True)
            for index in range(count)
        ]

        def batch(number: int) -> Batch:
            pair, index, count = plan[number]
            pool = self._pools[pair]
            kept = min(len(pool), count * batch_size)
            rows = np.arange(index * batch_size, min(kept, (index + 1) * batch_size))
            made = filled_up(
                self._read(pool[rows * len(pool) // kept], self.pairs[pair]), batch_size
            )
            return made | {"pair": np.tile(self.pairs[pair], (batch_size, 1))}

        yield from self._iterate(len(plan), batch)

    def _read(self, chosen: np.ndarray, pair: np.ndarray) -> Batch:
        """Windows [R] of two modalities."""
        count, windows = len(chosen), self._windows
        modalities = [self._modalities[modality] for modality in pair]
        signals = [
            self._memory.take(count, self._length, self._frames, m.frames) for m in modalities
        ]
        scale = np.ones((count, 2), np.float32)
        valid = np.zeros((2, count, self._length), bool)
        for row, window in enumerate(chosen.tolist()):
            night = windows.nights[windows.night[window]]
            start, tokens = int(windows.start[window]), int(windows.tokens[window])
            for side, modality in enumerate(modalities):
                samples = signals[side][row]
                samples[tokens:, : modality.frames] = 0
                try:
                    scale[row, side] = fill(
                        self.store, night, modality, start, tokens, samples, valid[side, row]
                    )
                except DamagedRecordError as error:
                    samples[:tokens, : modality.frames] = 0
                    self._damage.leave_out(error)
        return {
            "signal_a": signals[0],
            "signal_b": signals[1],
            "scale": scale,
            "valid": np.stack([valid[0], valid[1]], axis=-1),
            "pair": np.tile(pair.astype(np.int32), (count, 1)),
            **self._subjects.rows(windows.night[chosen]),
            "start": windows.start[chosen],
            "weight": (valid[0] & valid[1]).any(axis=1).astype(np.float32),
        }


def _spread(total: int, places: int) -> np.ndarray:
    """Share out ``total`` as evenly as whole numbers allow."""
    edges = np.arange(places + 1) * total // places
    return np.diff(edges)
