"""A model, several scorers and their consensus, each against each, on the nights that they share.

A consensus that a scorer is compared with is that of the others (Guillot et al. 2020), the model's
is that of all. Epochs that one of a pair left unscored are left out of that pair, and counted.
Intervals are percentiles over people drawn with replacement.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from data_pipelines import splits
from data_pipelines.scoring import (
    STAGES,
    Event,
    Scoring,
    ScoringError,
    code_book_of,
    consensus,
    read_scoring,
)
from data_pipelines.store import NightStore
from hypnos_jax.probing import probe
from hypnos_jax.scored.night import ScoredNight, ScoredNightError
from hypnos_jax.scored.respiratory_rules import respiratory_indices

MODEL, CONSENSUS, OTHERS = "model", "consensus", "consensus of the others"
DRAWS = 1000
AGES = (18, 40, 65)
SEVERITY = (5, 15, 30)
AHI_RULE = "flow_only"  # what a scoring alone can tell; see scored/respiratory_rules.py
COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)


@dataclasses.dataclass(frozen=True)
class JudgedNight:
    """One night and what was said of it.

    Attributes:
        recording, subject: names.
        stages: who -> int [E], as many epochs each: ``scorer 1``, ..., and ``model``.
        scored: the model's night, None without one.
        ahi: who -> events an hour by ``AHI_RULE``; only those of whom it can be told.
        facts: ``age``, ``sex``, ``site`` where they are known.
    """

    recording: str
    subject: str
    stages: Mapping[str, np.ndarray]
    scored: ScoredNight | None = None
    ahi: Mapping[str, float] = dataclasses.field(default_factory=dict)
    facts: Mapping = dataclasses.field(default_factory=dict)

    def of(self, who: str, against: str = "") -> tuple[np.ndarray, np.ndarray]:
        """Return the stages by a name or by a consensus, and the share of its scorers for each."""
        if who not in (CONSENSUS, OTHERS):
            return self.stages[who], np.ones(len(self.stages[who]))
        rows = [own for name, own in self.stages.items() if name not in (MODEL, against)]
        agreed = consensus(rows, self.recording) if len(rows) > 1 else rows[0]
        return agreed, np.mean([row == agreed for row in rows], axis=0)


def nights_of_store(store: NightStore, found: Mapping[str, ScoredNight]) -> list[JudgedNight]:
    """Return the scored nights of a store; its test people alone where a model is judged."""
    nights = []
    for night in store.select("test" if found else None):
        rows = [np.array([*map("W123R".find, x)]) for x in night.metadata.get("scorers", ())]
        scoring = Scoring(
            store.stages(night), store.events(night), "store",
            events_scored=night.metadata.get("events_scored") or False, scorers=tuple(rows),
        )  # fmt: skip
        nights.append(_judged(night.recording, night.subject, [scoring], found, night.metadata))
    return [night for night in nights if night is not None]


def nights_of_folder(
    folder: str | os.PathLike, found: Mapping[str, ScoredNight], code_book: str | None = None
) -> tuple[list[JudgedNight], list[str]]:
    """Return the nights of a folder of scorings, and a sentence on each file that was not read.

    ``FOLDER/<scorer>/<night>.<suffix>``, or ``FOLDER/<night>.<suffix>`` of one or several scorers.
    The person is told by the night's name (``splits.subject_of``).

    Raises:
        ScoringError: no such code book.
    """
    root, files, left = pathlib.Path(folder), {}, []
    if code_book is not None:
        code_book_of(code_book, "--code_book")
    for path in sorted(x for x in root.rglob("*") if x.is_file()):
        try:
            scoring = read_scoring(path, code_book=code_book)
        except ScoringError as error:
            left.append(str(error).replace(f"{root}{os.sep}", ""))
            continue
        files.setdefault(path.stem, []).append(scoring)
    nights = [_judged(name, splits.subject_of(name), own, found, {}) for name, own in files.items()]
    return [night for night in nights if night is not None], left


def read_scored(folder: str | os.PathLike) -> dict[str, ScoredNight]:
    """Return the scored nights (``.npz``) in a folder and those below, by recording.

    Raises:
        ValueError: there is none.
    """
    found = {}
    for path in sorted(pathlib.Path(folder).rglob("*.npz")):
        try:
            night = ScoredNight.load(path)
        except ScoredNightError:
            continue  # another array, such as an embedding
        found[night.recording] = night
    if not found:
        raise ValueError(f"--scored={folder}: no scored night; launch.score writes them")
    return found


def _judged(name, subject, scorings, found, metadata) -> JudgedNight | None:
    model = found.get(name)
    if found and model is None:
        return None
    people = [row for one in scorings for row in (one.scorers or (one.stages,))]
    people = [row for row in people if (np.asarray(row) >= 0).any()]
    if not people:
        return None
    length = max(map(len, people)) if model is None else len(model.stages)
    stages, ahi = {}, {}
    for number, row in enumerate(people, 1):
        filled = np.full(length, -1)
        filled[: len(row)] = row[:length]
        stages[f"scorer {number}"] = filled
    told = [one for one in scorings if one.events_scored]
    if told:
        ahi[CONSENSUS] = _ahi(told[0].stages, told[0].events, told[0].events_scored)
    if model is not None:
        stages[MODEL] = model.stages.astype(int)
        own = model.summary.get("indices", {}).get("ahi", ())
        ahi[MODEL] = next((x["value"] for x in own if x["rule"] == AHI_RULE), None)
    facts = {k: metadata[k] for k in ("age", "sex", "site") if metadata.get(k) is not None}
    ahi = {who: value for who, value in ahi.items() if value is not None}
    return JudgedNight(name, subject, stages, model, ahi, facts)


def _ahi(stages: np.ndarray, events: Sequence[Event], scored) -> float | None:
    found = respiratory_indices(stages, events, None, scored)
    return next(record["value"] for record in found if record["rule"] == AHI_RULE)


def pairs_of(nights: Sequence[JudgedNight]) -> list[tuple[str, str]]:
    """Return who is compared with whom (the second is the truth), the model's rows first."""
    names = list(dict.fromkeys(who for night in nights for who in night.stages))
    scorers = [who for who in names if who != MODEL]
    several = len(scorers) > 1
    pairs = [(MODEL, CONSENSUS)] * (several and MODEL in names)
    pairs += [(MODEL, who) for who in scorers if MODEL in names]
    pairs += [(who, OTHERS) for who in scorers if len(scorers) > 3]  # two others have no majority
    return pairs + list(itertools.combinations(scorers, 2))


def agreement_of(
    nights: Sequence[JudgedNight], who: str, truth: str, *, seed: int = 0
) -> dict | None:
    """Return the agreement of two, over all epochs that both scored, and the mean over nights.

    Returns:
        ``nights people epochs left_out``, ``metrics`` (kappa, accuracy, macro_f1, weighted_f1 and
        ``f1_<stage>``: ``value low high``), ``by_night`` (means of kappa, accuracy, weighted_f1,
        and of ``weighted_f1_by_share``, with each epoch weighed by the share of the scorers who
        gave the consensus's stage, as Guillot et al. 2020 report it), ``confusion`` (rows are the
        truth); None where no night has both.
    """
    counts, by_share, people, left = [], [], [], 0
    for night in nights:
        if who not in night.stages or (truth.startswith("scorer") and truth not in night.stages):
            continue
        said, (true, share) = night.stages[who], night.of(truth, who)
        both = (said >= 0) & (true >= 0)
        left += int(((said >= 0) ^ (true >= 0)).sum())
        if both.any():
            counts.append(probe.confusion(true[both], said[both], len(STAGES)))
            cells = true[both] * len(STAGES) + said[both]
            weighed = np.bincount(cells, share[both], minlength=len(STAGES) ** 2)
            by_share.append(weighed.reshape(len(STAGES), -1))
            people.append(night.subject)
    if not counts:
        return None
    counts, names = np.stack(counts), sorted(set(people))
    by_person = np.zeros((len(names), *counts.shape[1:]))
    np.add.at(by_person, [names.index(person) for person in people], counts)
    even = np.full(len(names), 1 / len(names))
    drawn = np.random.default_rng(seed).multinomial(len(names), even, size=DRAWS)
    spread = _metrics(np.einsum("ds,sij->dij", drawn, by_person))
    own = _metrics(counts)
    return {
        "nights": len(counts),
        "people": len(names),
        "epochs": int(counts.sum()),
        "left_out": left,
        "metrics": {
            name: {"value": _number(value[0])}
            | dict(zip(("low", "high"), probe.interval(spread[name], len(names))))
            for name, value in _metrics(counts.sum(0)[None]).items()
        },
        "by_night": {
            **{name: _mean(own[name]) for name in ("kappa", "accuracy", "weighted_f1")},
            "weighted_f1_by_share": _mean(_metrics(np.stack(by_share))["weighted_f1"]),
        },
        "confusion": counts.sum(0).tolist(),
    }


def _metrics(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Measures of confusion counts [N, 5, 5], each [N]."""
    found = probe.agreement(counts)
    hit = np.diagonal(counts, axis1=-2, axis2=-1)
    true, said = counts.sum(-1), counts.sum(-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(true + said > 0, 2 * hit / (true + said), np.nan)
        weighted = np.nansum(f1 * true, -1) / true.sum(-1)
    named = {f"f1_{name}": f1[..., code] for code, name in enumerate(STAGES)}
    kept = {name: found[name] for name in ("kappa", "accuracy", "macro_f1")}
    return kept | {"weighted_f1": weighted} | named


def _number(x) -> float | None:
    return float(x) if np.isfinite(x) else None


def _mean(values) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def subgroups(nights: Sequence[JudgedNight], who: str, truth: str) -> list[dict]:
    """Return the agreement of two by age, sex, AHI and site: ``by group`` beside the rest."""

    def grade(edges, words, value):
        return words[int(np.searchsorted(edges, value, side="right"))]

    ages = [
        f"< {AGES[0]}",
        *(f"{a}-{b - 1}" for a, b in itertools.pairwise(AGES)),
        f">= {AGES[-1]}",
    ]
    levels = ["< 5", "5-15", "15-30", ">= 30"]
    kinds: dict[str, Callable[[JudgedNight], str | None]] = {
        "age": lambda x: grade(AGES, ages, float(x.facts["age"])) if "age" in x.facts else None,
        "sex": lambda x: x.facts.get("sex"),
        "site": lambda x: x.facts.get("site"),
        f"AHI ({AHI_RULE}, of the scoring)": lambda x: (
            grade(SEVERITY, levels, x.ahi[CONSENSUS]) if CONSENSUS in x.ahi else None
        ),
    }
    rows = []
    for kind, group_of in kinds.items():
        groups: dict[str, list] = {}
        for night in nights:
            groups.setdefault(str(group_of(night) or "unknown"), []).append(night)
        if set(groups) == {"unknown"}:
            continue
        order = [*ages, *levels, *sorted(groups)]
        for group, own in sorted(groups.items(), key=lambda x: order.index(x[0])):
            found = agreement_of(own, who, truth)
            if found:
                rows.append({"by": kind, "group": group, **found})
    return rows


def confidence(nights: Iterable[JudgedNight]) -> dict | None:
    """Return how sure the model was where it was right, against the consensus.

    Returns:
        ``bins`` (``low high said right epochs``) of the likeliest stage's probability, ``ece``,
        ``risk`` (coverage -> share of wrong epochs among the surest), ``marked`` (coverage and risk
        of the epochs that are not marked uncertain); None without probabilities.
    """
    parts = []
    for night in nights:
        if night.scored is None or not len(night.scored.stage_probabilities):
            continue
        true, said = night.of(CONSENSUS)[0], night.stages[MODEL]
        sure = night.scored.stage_probabilities.max(-1)
        both = (true >= 0) & (said >= 0) & np.isfinite(sure)
        marked = np.broadcast_to(night.scored.uncertain, said.shape)
        parts.append(np.stack([sure, said == true, marked])[:, both])
    rows = np.concatenate(parts, axis=1) if parts else np.zeros((3, 0))
    if not rows.shape[1]:
        return None
    sure, right, marked = rows[0], rows[1], rows[2] > 0
    place, bins = np.minimum((sure * 10).astype(int), 9), []
    for i in np.unique(place):
        own = place == i
        bins.append(
            {
                "low": i / 10,
                "high": (i + 1) / 10,
                "said": float(sure[own].mean()),
                "right": float(right[own].mean()),
                "epochs": int(own.sum()),
            }
        )
    wrong = 1 - right[np.argsort(-sure, kind="stable")]
    upto = [max(1, round(share * len(wrong))) for share in COVERAGES]
    kept = ~marked
    return {
        "bins": bins,
        "ece": sum(abs(x["said"] - x["right"]) * x["epochs"] for x in bins) / len(sure),
        "risk": {str(share): float(wrong[:n].mean()) for share, n in zip(COVERAGES, upto)},
        "marked": {
            "coverage": float(kept.mean()),
            "risk": _number(1 - right[kept].mean()) if kept.any() else None,
        },
    }
