"""Retrieval of an epoch by its caption, and of a caption by its epoch, in pools of epochs.

Strict: the own one alone is right. By meaning: any of the same stage and the same kinds of events
is, because many epochs share their text. Ties share their mean rank. Texts are what the grammar
says of an epoch: of stage, events and brain by default, and of each modality. Pools are taken
apart from each other, and their results are averaged.

Results go to ``workdir/text_retrieval_<split>.json``; pictures to ``workdir/figures``: the stages
of what is found first, and the cosines of one pool.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from absl import logging

from data_pipelines.captions.facts import MODALITIES, STAGES
from data_pipelines.captions.parse import meaning
from hypnos_jax.probing.captioned_epochs import QUERY, embed_texts, read_epochs
from hypnos_jax.reports import sections
from hypnos_jax.reports.figures import draw_matrix
from hypnos_jax.reports.language_figures import draw_cosines
from hypnos_jax.runtime import distributed
from hypnos_jax.runtime.files import write_json

CUTS = (1, 5, 10)
APART = 10  # of a night's epochs at most one in so many is in a pool, where there are enough
DEFAULT = "+".join(QUERY)
SHOWN = 100  # epochs in the picture of cosines
DIRECTIONS = ("signal to text", "text to signal")


class TextRetrieval:
    """Recall at 1, 5 and 10, median rank and mean average precision, beside chance."""

    def __init__(
        self,
        context,
        *,
        split: str = "test",
        pools: Sequence[int] = (200, 1000, 10_000),
        repeats: int = 10,
        modalities: Sequence[str] = MODALITIES,
        batch_size: int = 64,
    ):
        """Plan the evaluation.

        Args:
            context: ``hypnos_jax.evaluate.Context``.
            split: which nights.
            pools: numbers of epochs; those that the split cannot fill are left out and told.
            repeats: pools of a number at most, over which results are averaged.
            modalities: whose captions are texts too, each alone.
            batch_size: epochs, or texts, that are embedded at once.

        Raises:
            ValueError: a pool of fewer than two epochs, or an unknown modality.
        """
        if not pools or min(pools) < 2:
            raise ValueError(f"text_retrieval: pools={tuple(pools)}; they are of 2 epochs or more")
        if not {*modalities} <= {*MODALITIES}:
            raise ValueError(f"text_retrieval: modalities are some of {MODALITIES}")
        self.context, self.split, self.pools = context, split, sorted(pools)
        self.repeats, self.batch_size = repeats, batch_size
        self.texts = {DEFAULT: QUERY, **{name: (name,) for name in modalities}}

    def run(self, variables: dict, step: int) -> Iterator[tuple[str, float]]:
        """Yield ``<pool>/<metric>`` of the default text, the mean of both directions; write and
        draw everything."""
        options = {"batch_size": self.batch_size, "count": self.pools[-1]}
        found = read_epochs(self.context, variables, self.split, **options)
        if found is None:
            return
        there = self.context.source(self.split).num_examples
        sizes = [size for size in self.pools if size <= len(found.start)]
        left_out = [size for size in self.pools if size not in sizes]
        if left_out:
            logging.info(
                "text_retrieval leaves out pools of %s: there are %d epochs",
                left_out,
                len(found.start),
            )
        meanings = np.array([meaning(facts) for facts in found.facts])
        rows = []
        for name, modalities in self.texts.items():
            captions = found.captions(modalities)
            texts = embed_texts(
                self.context, variables, self.split, captions, batch_size=self.batch_size
            )
            if name == DEFAULT:
                shown = found.rows @ texts.T
            for size in sizes:
                for direction in DIRECTIONS:
                    own = self._judge(found.rows, texts, meanings, size, direction)
                    rows.append({"text": name, "direction": direction, "pool": size, **own})
                self.context.heartbeat()
        report = {
            "step": step,
            "split": self.split,
            "epochs": there,
            "apart": {size: there / size for size in sizes},
            "left_out": left_out,
            "rows": rows,
        }
        if distributed.is_first():
            self._write(report, found, shown)
        for size in sizes:
            own = [row for row in rows if row["text"] == DEFAULT and row["pool"] == size]
            for metric in own[0]:
                if metric not in ("text", "direction", "pool", "pools"):
                    yield f"{size}/{metric}", float(np.mean([row[metric] for row in own]))

    def _judge(self, signals, texts, meanings, size, direction):
        queries, answers = (signals, texts) if direction == DIRECTIONS[0] else (texts, signals)
        found = []
        for places in pools_of(len(signals), size, self.repeats):
            cosines = queries[places] @ answers[places].T
            alike = meanings[places][:, None] == meanings[places][None]
            found.append(retrieve(cosines, alike))
        mean = {name: float(np.mean([own[name] for own in found])) for name in found[0]}
        return {**mean, "pools": len(found)}

    def _write(self, report, found, shown):
        name, workdir = f"text_retrieval_{self.split}", self.context.workdir
        write_json(workdir / f"{name}.json", report)
        (workdir / "figures").mkdir(exist_ok=True)
        stages = np.array([STAGES.index(own.stage) if own.stage else -1 for own in found.facts])
        matrix, cosines = (f"figures/{report['step']}_{name}{x}.png" for x in ("", "_cosines"))
        size, parts = max(report["apart"], default=0), []
        if size:
            (places,) = pools_of(len(stages), size, 1)
            draw_matrix(
                found_stages(shown[np.ix_(places, places)], stages[places]),
                STAGES,
                workdir / matrix,
                title=f"stage of the nearest text of {size}: its own and those of other epochs",
                rows="stage of the epoch",
                columns="stage of the text",
            )
            parts.append(sections.part("Stages of the nearest texts", picture=matrix))
        (places,) = pools_of(len(stages), min(SHOWN, len(stages)), 1)
        order = places[np.argsort(stages[places], kind="stable")]
        draw_cosines(shown[np.ix_(order, order)], stages[order], workdir / cosines, title=DEFAULT)
        parts.append(sections.part("Cosines of epochs and texts", picture=cosines))
        columns = ("recall_1", "times_chance", "recall_5", "recall_10", "median_rank", "map")
        alike = ("alike_recall_1", "alike_times_chance", "alike_recall_5", "alike_map")
        head = ["text", "direction", "pool", "R@1", "x chance", "R@5", "R@10", "median rank", "mAP"]
        head += ["R@1 by meaning", "x chance", "R@5 by meaning", "mAP by meaning"]
        rows = [head]
        for row in report["rows"]:
            told = [row[key] for key in (*columns, *alike)]
            rows.append([row["text"], row["direction"], row["pool"], *told])
        parts.insert(0, sections.part("All texts and pools", rows=rows))
        says = [
            f"{report['epochs']} epochs of the {self.split} nights. By meaning: another epoch of"
            " the same stage and the same kinds of events is right too."
        ]
        for pool, apart in report["apart"].items():
            if apart < APART:
                says.append(
                    f"The nights are too few for pools of {pool} with one epoch in {APART}: here"
                    f" one in {apart:.1f} is in such a pool, and neighbours look alike."
                )
        says += [f"Too few epochs for a pool of {pool}: left out." for pool in report["left_out"]]
        title = "Retrieval of epochs and texts"
        sections.write_section(
            workdir, name, step=report["step"], title=title, says=says, parts=parts
        )


def pools_of(count: int, size: int, repeats: int) -> list[np.ndarray]:
    """Return the places of pools that share no epoch, each spread evenly over all."""
    first = np.arange(size) * count // size
    return [first + k for k in range(min(repeats, count // size))]


def retrieve(cosines: np.ndarray, alike: np.ndarray) -> dict[str, float]:
    """Return how well queries find their answers.

    Args:
        cosines: [P, P], queries by answers; the own answer is on the diagonal.
        alike: bool [P, P], answers of equal meaning, the own one among them.

    Returns:
        ``recall_1 recall_5 recall_10 median_rank map chance times_chance`` (of recall at 1), and
        the same as ``alike_...``, where the best of all alike counts.
    """
    size = len(cosines)
    found = _measures(cosines, np.eye(size, dtype=bool))
    return found | {f"alike_{key}": value for key, value in _measures(cosines, alike).items()}


def _measures(cosines, right):
    best = np.where(right, cosines, -np.inf).max(1, keepdims=True)
    ties = ((cosines == best) & ~right).sum(1)
    ranks = 1 + (cosines > best).sum(1) + 0.5 * ties
    chance = float(right.mean(1).mean())
    recall = {f"recall_{k}": float(np.mean(ranks <= k)) for k in CUTS}
    return {
        **recall,
        "median_rank": float(np.median(ranks)),
        "map": float(np.mean(_average_precision(cosines, right))),
        "chance": chance,
        "times_chance": recall["recall_1"] / chance,
    }


def _average_precision(cosines, right):
    """Of each query, [P]; equal cosines count the wrong answers first."""
    order = np.lexsort((right, -cosines), axis=1)
    hits = np.take_along_axis(right, order, axis=1)
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    return (precision * hits).sum(1) / hits.sum(1)


def found_stages(cosines: np.ndarray, stages: np.ndarray) -> np.ndarray:
    """Return the shares of stages among the nearest texts [5, 5]; rows without epochs are NaN."""
    nearest = stages[cosines.argmax(1)]
    counts = np.zeros((len(STAGES), len(STAGES)))
    known = (stages >= 0) & (nearest >= 0)
    np.add.at(counts, (stages[known], nearest[known]), 1)
    with np.errstate(invalid="ignore"):
        return counts / counts.sum(1, keepdims=True)
