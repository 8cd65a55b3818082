"""How much labels of a few people buy: the same draws of labelled people for every method.

A *method* is a way from a night to answers: a probe of frozen rows of a model, the same of its
network with random weights, a probe of hand-made features, or a network that is trained with the
labels. For each number of people, so many draws of them are labelled; every method gets the same
draws, so that differences are paired. Penalties are chosen on the validation people, and what is
reported is of the test people, who choose nothing.

Intervals are percentiles over test people and draws of labelled people, both drawn with
replacement: another set of sleepers, and another choice of whom to label.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.splits import few_people
from hypnos_jax.probing import probe

STRENGTHS = (1.0, 10.0, 100.0, 1000.0, 10000.0)  # of the probe's penalty, ours: strong ones
ROWS = 8000  # ours: labelled epochs that a probe is fitted on, at most
CHOOSING = 4  # ours: draws of each size on which a penalty is chosen
FEWEST = 20  # ours: labelled epochs of each class that a draw must have
MOST_TRIED = 30  # ours: draws that are looked at for each that is kept
RESAMPLED = 1000


@dataclasses.dataclass(frozen=True)
class Draw:
    """A choice of labelled people.

    Attributes:
        size: how many were asked for; 0 is all.
        seed: of ``data_pipelines.splits.few_people``, and so of
            ``config.data.few_shot_seed`` of a source.
        people: their names.
    """

    size: int
    seed: int
    people: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Answers:
    """A method's answers to the labelled epochs of the test people, draw by draw.

    Attributes:
        given: (size, seed of the draw) -> [N], in the order of ``Question.held("test")``: the
            likeliest class, or for a task scored by ranking the probability of the last class.
        chosen: size -> what was chosen on the validation people, as JSON values.
        width: numbers that were read of an epoch.
    """

    given: dict[tuple[int, int], np.ndarray]
    chosen: dict[int, dict]
    width: int


@dataclasses.dataclass(frozen=True, eq=False)  # one is equal to itself alone
class Question:
    """Labelled epochs of people, split in people to train on, to choose on and to test on.

    Attributes:
        examples: recordings with labels; its features are not looked at.
        ranked: scored by areas under curves first; two classes.
        epochs: of 30 s, that a label stands for: rows and probabilities of epochs are averaged.
    """

    examples: probe.Examples
    ranked: bool = False
    epochs: int = 1

    @property
    def classes(self) -> int:
        """How many labels there are."""
        return len(self.examples.classes)

    @property
    def metric(self) -> str:
        """The metric that penalties are chosen by, and that comes first."""
        return "auroc" if self.ranked else "kappa"

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what is reported."""
        return ("auroc", "kappa", "macro_f1") if self.ranked else ("kappa", "macro_f1", "accuracy")

    def people(self, split: str) -> list[str]:
        """Return the people of a split who have labels, sorted."""
        of = zip(self.examples.subjects, self.examples.splits, self.examples.labels)
        return sorted({who for who, where, labels in of if where == split and (labels >= 0).any()})

    @functools.cache  # noqa: B019  (a question lives as long as the process)
    def held(self, split: str) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Return the recordings of a split, and of their labelled epochs labels and person.

        Returns:
            Places of the recordings; labels int [N] and the person's place in ``people(split)``
            int [N], recording after recording.
        """
        names = self.people(split)
        places = [i for i, where in enumerate(self.examples.splits) if where == split]
        labels = [self.examples.labels[i] for i in places]
        owner = [
            np.full(int((y >= 0).sum()), names.index(self.examples.subjects[i]))
            for i, y in zip(places, labels)
            if (y >= 0).any()
        ]
        labels = [y[y >= 0] for y in labels]
        return places, np.concatenate(labels), np.concatenate(owner)

    def pooled(self, rows: np.ndarray) -> np.ndarray:
        """Return means [E // epochs, F] of rows [E, F], of what is known of them."""
        if self.epochs == 1:
            return rows
        rows = np.asarray(rows, np.float32)
        rows = rows[: len(rows) // self.epochs * self.epochs]
        rows = rows.reshape(-1, self.epochs, rows.shape[-1])
        known = np.isfinite(rows)
        total = np.where(known, rows, 0).sum(1)
        return np.where(known.any(1), total / np.maximum(known.sum(1), 1), np.nan)

    def answer(self, probabilities: np.ndarray) -> np.ndarray:
        """Return what ``Answers`` keeps of probabilities [N, classes]."""
        if self.ranked:
            return probabilities[:, -1].astype(np.float32)
        return probabilities.argmax(1).astype(np.int8)

    def score(self, given: np.ndarray, split: str, weights: np.ndarray | None = None) -> dict:
        """Return name -> [W] of answers to a split.

        Args:
            given: [N] of ``answer``.
            split: whose.
            weights: [W, people], how often each person counts; once by default.
        """
        _, labels, owner = self.held(split)
        if weights is None:
            weights = np.ones((1, len(self.people(split))))
        said = (given > 0.5).astype(int) if self.ranked else given.astype(int)
        size = self.classes
        cells = (owner * size + labels) * size + said
        counts = np.bincount(cells, minlength=weights.shape[1] * size**2)
        counts = counts.reshape(-1, size, size)
        found = probe.agreement(np.einsum("wp,pij->wij", weights, counts))
        if self.ranked:
            found["auroc"] = _auroc(given, labels == 1, owner, weights)
        return {name: found[name] for name in self.metrics}


def _auroc(given, positive, owner, weights):
    """[W] areas under the ROC curve; of all pairs of people only once, whatever their weights."""
    count = weights.shape[1]
    said, of = given[positive].astype(np.float64), owner[positive]
    right = np.empty((count, count))  # pairs of a person's positives and another's negatives
    totals = np.bincount(of, minlength=count), np.bincount(owner[~positive], minlength=count)
    for other in range(count):
        negatives = np.sort(given[~positive & (owner == other)].astype(np.float64))
        below = sum(np.searchsorted(negatives, said, side) for side in ("left", "right")) / 2
        right[:, other] = np.bincount(of, below, minlength=count)
    pairs = (weights @ totals[0]) * (weights @ totals[1])
    with np.errstate(invalid="ignore"):
        return np.where(pairs > 0, np.einsum("wp,pq,wq->w", weights, right, weights), np.nan) / (
            np.maximum(pairs, 1e-9)
        )


def draw_people(
    question: Question, sizes: Sequence[int], count: int, *, fewest: int = FEWEST
) -> tuple[list[Draw], dict[int, int]]:
    """Draw labelled people of the training split, ``count`` times for each size.

    A draw without ``fewest`` labelled epochs of every class is passed over, as no probe could
    learn of it what it is asked. All people can be drawn once.

    Returns:
        The draws, and size -> how many were passed over.

    Raises:
        ValueError: no people to train, choose or test on; or too few draws have every class.
    """
    for split in ("train", "validation", "test"):
        if not question.people(split):
            raise ValueError(f"no person of the split {split!r} has labels")
    people, examples = question.people("train"), question.examples
    counts = {who: np.zeros(question.classes, int) for who in people}
    for who, where, labels in zip(examples.subjects, examples.splits, examples.labels):
        if where == "train" and who in counts:
            counts[who] += np.bincount(labels[labels >= 0], minlength=question.classes)
    found, passed = [], {}
    for size in sizes:
        every = not 0 < size < len(people)
        wanted, seed, passed[size], kept = 1 if every else count, 0, 0, set()
        while sum(draw.size == size for draw in found) < wanted:
            if seed == MOST_TRIED * wanted:
                raise ValueError(
                    f"of {seed} draws of {size or 'all'} of {len(people)} people, fewer than"
                    f" {wanted} differ and have {fewest} labelled epochs of each of"
                    f" {examples.classes}; ask for more people, or fewer draws"
                )
            chosen = tuple(few_people(people, size, seed))
            told = sum(counts[who] for who in chosen)
            if frozenset(chosen) in kept or told.min() < fewest:
                passed[size] += int(told.min() < fewest)
            else:
                kept.add(frozenset(chosen))
                found.append(Draw(size, seed, chosen))
            seed += 1
    return found, passed


def probe_frozen(
    question: Question,
    rows: Mapping[str, np.ndarray],
    draws: Sequence[Draw],
    *,
    strengths: Sequence[float] = STRENGTHS,
    most: int = ROWS,
) -> Answers:
    """Read answers out of frozen rows by a linear probe: standardise, logistic regression.

    For each number of people the penalty is the one with the best mean score of the validation
    people over the first ``CHOOSING`` draws.

    Args:
        question: what is asked.
        rows: recording -> float [E, F], NaN where nothing is known; at least as many epochs as
            labels.
        draws: of ``draw_people``.
        strengths: penalties to choose from; sklearn's C is their inverse.
        most: labelled epochs that are used, evenly spread.
    """
    features = [question.pooled(rows[name]) for name in question.examples.recordings]
    examples = dataclasses.replace(question.examples, features={"": features})
    held = []
    for split in ("validation", "test"):
        places = question.held(split)[0]
        labels = [question.examples.labels[i] for i in places]
        held.append(np.concatenate([features[i][: len(y)][y >= 0] for i, y in zip(places, labels)]))
    asked = np.concatenate(held)
    given, chosen = {}, {}
    for size in dict.fromkeys(draw.size for draw in draws):
        own = [draw for draw in draws if draw.size == size]

        def fit(draw, strengths):
            x, y = examples.of("", draw.people)
            kept = np.linspace(0, len(y) - 1, min(most, len(y))).round().astype(int)
            found = probe.fit_path(
                x[kept], y[kept], asked, question.classes, strengths, precision=np.float32
            )
            return {s: np.split(found[s], [len(held[0])]) for s in strengths}

        tried = [fit(draw, strengths) for draw in own[:CHOOSING]]
        means = {
            strength: float(
                np.mean(
                    [
                        question.score(question.answer(found[strength][0]), "validation")[
                            question.metric
                        ]
                        for found in tried
                    ]
                )
            )
            for strength in strengths
        }
        best = max(means, key=means.get)
        chosen[size] = {"strength": best, "validation": means[best]}
        for i, draw in enumerate(own):
            found = tried[i] if i < len(tried) else fit(draw, [best])
            given[size, draw.seed] = question.answer(found[best][1])
    return Answers(given, chosen, features[0].shape[1])


def summarise(
    question: Question,
    methods: Mapping[str, Sequence[Answers]],
    draws: Sequence[Draw],
    pairs: Sequence[tuple[str, str]],
    *,
    resampled: int = RESAMPLED,
    seed: int = 0,
) -> dict:
    """Score methods on the test people; return what the table and the picture are made of.

    Args:
        question: what was asked.
        methods: name -> answers of each of its seeds; a method's score of a draw is their mean.
        draws: those of every method, unless one has been given fewer sizes.
        pairs: of names: the first minus the second.
        resampled: test people and draws are drawn so many times for the intervals.
        seed: of that.

    Returns:
        ``{"metric", "metrics", "classes", "people", "sizes", "draws", "methods", "differences"}``.
        ``methods``: name -> ``{"seeds", "width", "chosen", "sizes": {size: {metric: {"value",
        "low", "high", "by_draw"}}}}``. ``differences``: rows ``{"first", "second", "size",
        "metric", "value", "low", "high", "positive", "draws"}``; ``positive`` of ``draws`` are
        above 0. Sizes are numbers of people, all of them included.
    """
    rng = np.random.default_rng(seed)
    count = len(question.people("test"))
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resampled)
    weights = np.concatenate([np.ones((1, count)), drawn])
    total = len(question.people("train"))
    sizes = {size: size if 0 < size < total else total for size in {draw.size for draw in draws}}
    order = {
        size: [d.seed for d in draws if d.size == size] for size in sorted(sizes, key=sizes.get)
    }
    again = {
        size: np.concatenate(
            [
                np.full((1, len(own)), 1 / len(own)),
                rng.multinomial(len(own), np.full(len(own), 1 / len(own)), resampled) / len(own),
            ]
        )
        for size, own in order.items()
    }
    # (method, size) -> metric -> [1 + resampled, draws], the mean over seeds
    scored = {}
    for name, seeds in methods.items():
        for size, own in order.items():
            if any((size, own[0]) not in answers.given for answers in seeds):
                continue
            found = [
                [question.score(answers.given[size, one], "test", weights) for one in own]
                for answers in seeds
            ]
            scored[name, size] = {
                metric: np.mean(
                    [np.stack([x[metric] for x in of_seed], 1) for of_seed in found], axis=0
                )
                for metric in question.metrics
            }

    def told(values, size):
        """A mean over draws with its interval; ``values`` [1 + resampled, draws]."""
        mean = (values * again[size]).sum(1)
        low, high = probe.interval(mean[1:], count)
        return {"value": float(mean[0]), "low": low, "high": high}

    out = {
        name: {
            "seeds": len(seeds),
            "width": seeds[0].width,
            "chosen": {str(sizes[s]): [a.chosen.get(s) for a in seeds] for s in order},
            "sizes": {
                str(sizes[size]): {
                    metric: told(values, size) | {"by_draw": values[0].tolist()}
                    for metric, values in scored[name, size].items()
                }
                for size in order
                if (name, size) in scored
            },
        }
        for name, seeds in methods.items()
    }
    differences = []
    for first, second in pairs:
        for size in order:
            if (first, size) not in scored or (second, size) not in scored:
                continue
            for metric in question.metrics:
                values = scored[first, size][metric] - scored[second, size][metric]
                differences.append(
                    {"first": first, "second": second, "size": sizes[size], "metric": metric}
                    | told(values, size)
                    | {"positive": int((values[0] > 0).sum()), "draws": values.shape[1]}
                )
    return {
        "metric": question.metric,
        "metrics": list(question.metrics),
        "classes": list(question.examples.classes),
        "people": {s: len(question.people(s)) for s in ("train", "validation", "test")},
        "epochs": int(len(question.held("test")[1])),
        "sizes": [sizes[size] for size in order],
        "draws": {str(sizes[s]): [list(d.people) for d in draws if d.size == s] for s in order},
        "methods": out,
        "differences": differences,
    }
