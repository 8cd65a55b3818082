"""Retrieval of a window of one modality among windows of another, token by token.

For every pair of modalities N windows of a split are projected; each token of a window is compared
by cosine with the tokens at the same place in the N windows of the other modality, and the rank of
its own is counted, in both directions. Ties share their mean rank, so that equal vectors score as
guessing would. Results go to ``workdir/retrieval_<split>.json``, and the matrix of pairs to
``workdir/figures/<step>_retrieval_<split>.png``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax
import numpy as np
from absl import logging

from data_pipelines.pipeline import EmptySplitError
from hypnos_jax.reports.figures import draw_matrix
from hypnos_jax.runtime import distributed
from hypnos_jax.runtime.files import write_json

CUTS = (1, 5, 10)


class Retrieval:
    """Recall at 1, 5 and 10 and the median rank, beside what a guess would get."""

    def __init__(
        self,
        context,
        *,
        split: str = "validation",
        windows: int = 128,
        batch_size: int | None = None,
        pairs: Sequence[tuple[str, str]] = (),
        sites: Sequence[str] = (),
    ):
        """Plan the evaluation.

        Args:
            context: ``hypnos_jax.evaluate.Context``.
            split: which nights.
            windows: N, of each pair; as many as there are, where there are fewer.
            batch_size: rows that are projected at once; N by default.
            pairs: names of two modalities each, only these; all by default. For runs on different
                modalities, which are compared by the pairs that they share.
            sites: only nights of these; those of the data by default.
        """
        self.context, self.split, self.windows = context, split, windows
        self.data = context
        if sites:
            self.data = context.on({**context.config["data"], "sites": list(sites)})
        self.name = "_".join(["retrieval", split, *sites])
        self.pairs = [frozenset(pair) for pair in pairs]
        self.rows = min(batch_size or windows, windows)
        self.project = context.functions("project")

    def run(self, variables: dict, step: int) -> Iterator[tuple[str, float]]:
        """Yield means over pairs and directions, and write and draw every pair.

        Yields:
            ``accuracy`` (recall at 1: the contrastive accuracy among N), ``recall_5``,
            ``recall_10``, ``median_rank``, ``chance`` (of ``accuracy``), ``times_chance``, and
            ``windows``, the mean of N.

        Raises:
            ValueError: a pair that is not of the data.
        """
        try:
            description = self.data.source(self.split).describe()
        except EmptySplitError as error:
            logging.warning("%s: evaluated on nothing", error)
            return
        names = [row["name"] for row in description["modalities"]]
        for pair in self.pairs:
            if len(pair) != 2 or not pair <= set(names):
                raise ValueError(f"pairs of retrieval: {sorted(pair)} are not two of {names}")
        vectors: dict[tuple[int, int], list] = {}
        limit = len(description["pairs"]) * -(-self.windows // self.rows)
        for batch in self.data.batches(self.split, self.rows, limit):
            if self.pairs and self._pair(batch, names) not in self.pairs:
                continue
            found = self._vectors(variables, batch)
            vectors.setdefault(found.pop("pair"), []).append(found)
        report = {"step": step, "split": self.split, "asked_for": self.windows, "pairs": []}
        for (a, b), parts in sorted(vectors.items()):
            self.context.heartbeat()
            whole = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
            whole = {key: value[: self.windows] for key, value in whole.items()}
            for query, answer, turned in ((a, b, False), (b, a, True)):
                own = retrieve(whole, turned)
                if own is not None:
                    report["pairs"].append({"from": names[query], "to": names[answer], **own})
        if not report["pairs"]:
            return
        report["mean"] = {
            name: float(np.mean([row[name] for row in report["pairs"]]))
            for name in report["pairs"][0]
            if name not in ("from", "to")
        }
        if distributed.is_first():
            self._write(report, names)
        yield from report["mean"].items()
        yield "times_chance", report["mean"]["accuracy"] / report["mean"]["chance"]

    def _pair(self, batch, names):
        """Which two modalities a batch is of."""
        rows = self.context.fetch({name: batch[name] for name in ("pair", "weight")})
        a, b = rows["pair"][np.argmax(rows["weight"] > 0)]
        return frozenset((names[a], names[b]))

    def _vectors(self, variables, batch):
        """Unit vectors of both modalities, and which tokens count; rows of padding left out."""
        slots = (("first", "signal_a", 0), ("second", "signal_b", 1))
        out = {
            name: self.project(
                variables,
                batch[signal],
                batch["scale"][:, slot],
                batch["valid"][:, :, slot],
                batch["pair"][0, slot],
            )
            for name, signal, slot in slots
        }
        out = jax.device_get(out)
        rest = {name: batch[name] for name in ("valid", "night", "weight", "pair")}
        rest = self.context.fetch(rest)
        real = rest["weight"] > 0
        out = {name: value[real] for name, value in out.items()}
        pair = tuple(int(i) for i in rest["pair"][np.flatnonzero(real)[0] if real.any() else 0])
        counted = rest["valid"][real].all(-1)
        return {**out, "counted": counted, "night": rest["night"][real], "pair": pair}

    def _write(self, report, names):
        write_json(self.context.workdir / f"{self.name}.json", report)
        figures = self.context.workdir / "figures"
        figures.mkdir(exist_ok=True)
        values = np.full((len(names), len(names)), np.nan)
        for row in report["pairs"]:
            values[names.index(row["from"]), names.index(row["to"])] = row["accuracy"]
        mean = report["mean"]
        draw_matrix(
            values,
            names,
            figures / f"{report['step']}_{self.name}.png",
            title=(
                f"{self.split}, step {report['step']}: recall at 1 among {mean['windows']:.0f}"
                f" windows\nmean {mean['accuracy']:.3f}, a guess {mean['chance']:.3f}"
            ),
            rows="from",
            columns="to",
            low=mean["chance"],
        )


def retrieve(pair: dict[str, np.ndarray], turned: bool = False) -> dict[str, float] | None:
    """Return how well the tokens of one modality find their own in another.

    Args:
        pair: ``first``, ``second`` float [N, L, Z], unit vectors; ``counted`` bool [N, L];
            ``night`` int [N].
        turned: from the second to the first.

    Returns:
        ``accuracy recall_5 recall_10 median_rank``, ``chance`` (of the accuracy),
        ``chance_median_rank``, ``windows`` (mean over tokens), ``same_night`` (share of the other
        windows that are of the same night), ``tokens``; None where nothing can be compared.
    """
    queries, answers = pair["first"], pair["second"]
    queries, answers = (answers, queries) if turned else (queries, answers)
    ranks, sizes, near = [], [], []
    for place in range(queries.shape[1]):
        here = np.flatnonzero(pair["counted"][:, place])
        if len(here) < 2:
            continue
        cosine = queries[here, place] @ answers[here, place].T
        own = np.diagonal(cosine)[:, None]
        ties = (cosine == own).sum(1) - 1
        ranks.append(1 + (cosine > own).sum(1) + 0.5 * ties)
        sizes.append(np.full(len(here), len(here)))
        same = pair["night"][here][:, None] == pair["night"][here][None]
        near.append((same.sum(1) - 1) / (len(here) - 1))
    if not ranks:
        return None
    ranks, sizes = np.concatenate(ranks), np.concatenate(sizes)
    recall = {f"recall_{k}": float(np.mean(ranks <= k)) for k in CUTS}
    return {
        "accuracy": recall.pop("recall_1"),
        **recall,
        "median_rank": float(np.median(ranks)),
        "chance": float(np.mean(1 / sizes)),
        "chance_median_rank": float((np.median(sizes) + 1) / 2),
        "windows": float(np.mean(sizes)),
        "same_night": float(np.mean(np.concatenate(near))),
        "tokens": float(len(ranks)),
    }
