"""The guard before the answers: whether a night is like those that the heads were fitted on.

A model answers with the same confidence on a night that it cannot read. The guard keeps, within the
export (``guard/``), mean and covariance of measures of the fitting nights (``heads.measures``): no
recording and no person. A piece of a new night is as far away as the Mahalanobis distance says,
with Ledoit and Wolf's shrinkage; how far is far was found on people that a fold had left out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from data_pipelines.files import atomic_write
from data_pipelines.store import EPOCH_S
from hypnos_jax.export.model import ModelError
from hypnos_jax.heads.measures import WIDTH, Measures, feature_names
from hypnos_jax.scored.night import Reason, Trust

FORMAT, GUARD = "hypnos_jax.guard/1", "guard"
FOLDS = 10
FEWEST_PEOPLE = 5  # fewer tell nothing of what is usual
MARGIN, REFUSED = 1.15, 2.0  # ours: times the farthest that was usual; times that again
SHARE = 0.25  # of a night's pieces that are far before the night is doubtful
USUAL = 0.9  # share of the fitting nights that have a modality for it to be missed
LEAST_SPREAD = 0.1  # ours: of a measure of signals, which are logarithms or shares
LONG_S, ONE_STAGE = 2 * 3600, 0.97


@dataclasses.dataclass(frozen=True)
class Block:
    """What is usual of one block of measures.

    Attributes:
        mean, scale: float32 [F].
        precision: float32 [F, F], of the standardised measures.
        limit: the distance up to which a piece is usual.
    """

    mean: np.ndarray
    scale: np.ndarray
    precision: np.ndarray
    limit: float

    def distance(self, pieces: np.ndarray) -> np.ndarray:
        """Return float64 [N] of measures [N, F]; NaN where a piece has none."""
        z = (pieces - self.mean) / self.scale
        return np.sqrt(np.einsum("nf,fg,ng->n", z, self.precision, z) / len(self.mean))


@dataclasses.dataclass(frozen=True)
class Guard:
    """What the fitting nights of a model's heads were like.

    Attributes:
        blocks: block of measures -> what is usual of it.
        rates: modality -> samples a second, of those that are signals.
        present: modality -> share of the fitting nights that have it.
        model: checksum of the model.
        facts: how many nights and people it was fitted on.
    """

    blocks: dict[str, Block]
    rates: dict[str, float]
    present: dict[str, float]
    model: str
    facts: dict[str, Any]

    @classmethod
    def fit(
        cls,
        nights: Sequence[Measures],
        people: Sequence[str],
        *,
        rates: Mapping[str, float],
        model: str,
        seed: int = 0,
    ) -> Guard:
        """Fit on measures of nights.

        Args:
            nights: of ``measures.measure``.
            people: of each night; folds leave out people, and no name is kept.
            rates: modality -> samples a second.
            model: its checksum.
            seed: of the folds.

        Raises:
            ValueError: fewer than ``FEWEST_PEOPLE`` people.
        """
        count = len(set(people))
        if count < FEWEST_PEOPLE:
            raise ValueError(
                f"{count} people are too few to tell what is usual; {FEWEST_PEOPLE} are needed"
            )
        order = np.random.default_rng(seed).permutation(sorted(set(people))).tolist()
        fold = {person: place % FOLDS for place, person in enumerate(order)}
        blocks, present = {}, {}
        for name in sorted({name for night in nights for name in night}):
            own = [(x[name], fold[who]) for x, who in zip(nights, people) if name in x]
            rows = np.concatenate([x for x, _ in own])
            folds = np.concatenate([np.full(len(x), k) for x, k in own])
            known = np.isfinite(rows).all(1)
            kind, _, modality = name.partition("/")
            if kind == "signal":
                present[modality] = sum(np.isfinite(x).all(1).any() for x, _ in own) / len(nights)
            rows, folds = rows[known], folds[known]
            if len(np.unique(folds)) < 2:
                continue
            floor, far = (LEAST_SPREAD if kind == "signal" else 1e-3), [0.0]
            for k in np.unique(folds):
                far += _block(rows[folds != k], floor).distance(rows[folds == k]).tolist()
            blocks[name] = dataclasses.replace(_block(rows, floor), limit=MARGIN * max(far))
        facts = {"nights": len(nights), "people": count}
        return cls(blocks, dict(rates), present, model, facts)

    def digest(self) -> str:
        """Return SHA-256 over all that its verdicts depend on."""
        found = hashlib.sha256(json.dumps([self.rates, self.present], sort_keys=True).encode())
        for name, block in sorted(self.blocks.items()):
            found.update(f"{name} {block.limit}".encode())
            for x in (block.mean, block.scale, block.precision):
                found.update(np.ascontiguousarray(x, np.float32).tobytes())
        return found.hexdigest()

    def judge(
        self, measures: Measures, stages: np.ndarray, refused: Mapping[str, str] = {}
    ) -> Trust:
        """Return how far a night can be trusted.

        Args:
            measures: of the night, by ``measures.measure``.
            stages: int8 [E], that the model answers; -1 unknown. Empty without such a head.
            refused: channel -> why, of those that quality control refused.
        """
        reasons = [
            Reason("channel_refused", f"{name} was not used: {why}")
            for name, why in refused.items()
        ]
        reasons += self._missing(measures, refused)
        for name, block in self.blocks.items():
            if name in measures:
                reasons += self._far(name, block, measures[name], len(stages))
        known = stages[stages >= 0]
        if len(known) * EPOCH_S >= LONG_S:
            share = np.bincount(known).max() / len(known)
            if share >= ONE_STAGE:
                note = f"{share:.0%} of the night would be one stage, which no night of sleep is"
                reasons.append(Reason("one_stage", note))
        return Trust.of(reasons)

    def _missing(self, measures, refused):
        """Modalities that nearly all fitting nights had, and this one has not."""
        usual = [name for name, share in self.present.items() if share >= USUAL]
        gone = [
            name
            for name in usual
            if not np.isfinite(measures.get(f"signal/{name}", [[np.nan]])).all(1).any()
        ]
        for name in gone:
            if name not in refused:
                note = f"{name} is not in the recording; nearly all nights had it in fitting"
                yield Reason("missing_modality", note)
        if usual and len(gone) > len(usual) / 2:
            note = f"{len(gone)} of the {len(usual)} modalities are missing: too little to judge by"
            yield Reason("too_little_signal", note, refuses=True)

    def _far(self, name, block, pieces, epochs):
        """Reasons why pieces of a block are far from what is usual."""
        distance = block.distance(pieces)
        known = np.isfinite(distance)
        far = known & (distance > block.limit)
        if not known.any() or far.sum() < max(1, SHARE * known.sum()):
            return
        kind, _, modality = name.partition("/")
        middle = float(np.median(distance[known]))
        worst = int(np.nanargmax(np.where(known, distance, -1)))
        what = self._what(name, block, pieces[worst])
        note = (
            f"{modality}: its {'signal' if kind == 'signal' else 'embedding'} is unlike that of the"
            f" fitting nights{what} (distance {middle:.1f}, usual up to {block.limit:.1f})"
        )
        edges = np.linspace(0, epochs, len(pieces) + 1).round().astype(int)
        first, last = np.flatnonzero(far)[[0, -1]]
        yield Reason(
            f"unlike_{kind}",
            note,
            first=int(edges[first]),
            stop=int(edges[last + 1]),
            refuses=middle > REFUSED * block.limit,
        )

    def _what(self, name, block, piece):
        """Which measure of a signal is farthest, in words."""
        if not name.startswith("signal/"):
            return ""
        z = (piece - block.mean) / block.scale
        at = int(np.argmax(np.abs(z)))
        names = feature_names(name, self.rates[name.partition("/")[2]], len(z))
        return f": {names[at]} is {'high' if z[at] > 0 else 'low'}"


def _block(rows: np.ndarray, floor: float) -> Block:
    from sklearn.covariance import LedoitWolf

    mean, scale = rows.mean(0), np.maximum(rows.std(0), floor)
    precision = LedoitWolf(assume_centered=True).fit((rows - mean) / scale).precision_
    return Block(*(x.astype(np.float32) for x in (mean, scale, precision)), limit=0.0)


def write_guard(export: str | os.PathLike, guard: Guard) -> None:
    """Write a guard into an export, in place of one that was there."""
    folder = pathlib.Path(export) / GUARD
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{name}/{key}": np.ascontiguousarray(getattr(block, key))
        for name, block in guard.blocks.items()
        for key in ("mean", "scale", "precision")
    }
    content = safetensors.numpy.save(tensors)
    told = {
        "format": FORMAT,
        "limits": {name: block.limit for name, block in guard.blocks.items()},
        "rates": guard.rates,
        "present": guard.present,
        "model": guard.model,
        "facts": guard.facts,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    with atomic_write(folder / "guard.safetensors", "wb") as file:
        file.write(content)
    with atomic_write(folder / "guard.json", "w") as file:
        file.write(json.dumps(told, indent=1) + "\n")


def load_guard(export: str | os.PathLike, model: str) -> Guard | None:
    """Return the guard of an export, None where it has none.

    Args:
        export: the folder.
        model: checksum of its model.

    Raises:
        ModelError: the guard is damaged, or of another model.
    """
    folder = pathlib.Path(export) / GUARD
    if not (folder / "guard.json").is_file():
        return None
    try:
        told = json.loads((folder / "guard.json").read_text())
        content = (folder / "guard.safetensors").read_bytes()
        if told.pop("format") != FORMAT:
            raise ValueError(f"format is not {FORMAT}")
        if hashlib.sha256(content).hexdigest() != told.pop("sha256"):
            raise ValueError("its guard.safetensors was changed")
        tensors = safetensors.numpy.load(content)
        blocks = {
            name: Block(*(tensors[f"{name}/{k}"] for k in ("mean", "scale", "precision")), limit)
            for name, limit in told.pop("limits").items()
        }
        guard = Guard(blocks, **told)
    except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise ModelError(f"{folder} holds no guard that can be read: {error}") from error
    for name, block in guard.blocks.items():
        if name.startswith("signal/") and len(block.mean) != WIDTH:
            raise ModelError(
                f"{folder} has {len(block.mean)} measures of a signal, and not {WIDTH}: fit"
                " heads anew (launch.fit_head --overwrite)"
            )
    if guard.model != model:
        raise ModelError(
            f"{folder} is the guard of another model; fit heads anew (launch.fit_head)"
        )
    return guard


def scoring_reason(probabilities: np.ndarray, stages: np.ndarray, reach: int = 60) -> Reason | None:
    """Return why a scoring does not fit a night's signals, as a head reads them; None if it does.

    Args:
        probabilities: float [E, 5], of the head of stages.
        stages: int [E], the scoring; -1 unknown.
        reach: epochs by which it may be shifted, either way.

    The mean log probability of the scored stages, for each shift, is compared with that of the same
    stages in no order (the night's own shares).
    """
    count = min(len(probabilities), len(stages))
    rows = np.log(np.maximum(probabilities[:count], 1e-3))
    stages, fits = stages[:count], {}
    reach = min(reach, count // 3)
    for lag in range(-reach, reach + 1):
        a, b = max(lag, 0), max(-lag, 0)
        own, said = stages[a : count - b], rows[b : count - a]
        known = (own >= 0) & np.isfinite(said).all(1)
        if known.sum() >= max(20, count // 4):
            own, said = own[known], said[known]
            shares = np.bincount(own, minlength=rows.shape[1]) / len(own)
            fits[lag] = float(said[np.arange(len(own)), own].mean() - (said.mean(0) * shares).sum())
    if 0 not in fits:
        return None
    best = max(fits, key=fits.get)
    if best and fits[best] - fits[0] > 0.15 and fits[best] > 1.3 * max(fits[0], 0.05):
        note = (
            f"the scoring fits the signals better when moved by {-best * EPOCH_S / 60:g} min: it is"
            " shifted, or of another night"
        )
        return Reason("scoring_shifted", note)
    if fits[0] < 0.05 and len(np.unique(stages[stages >= 0])) > 1:
        note = "the scoring says nothing of the signals: it may be of another night"
        return Reason("scoring_of_another_night", note)
    return None
