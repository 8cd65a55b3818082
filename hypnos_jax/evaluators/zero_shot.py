"""Stages, events and numbers told by prompts alone: no label of these questions trains anything.

A class is the mean of several sentences of the grammar (``data_pipelines/captions/prompts.py``); an
epoch is of the class whose mean is nearest by cosine. Events are yes or no: the cosine with
sentences that have the event, less that with sentences without. ``concepts`` are numbers: whether
sentences with high values rank the epochs of the upper third above those of the lower third.

Results go to ``workdir/zero_shot_<split>.json``, a picture to
``workdir/figures/<step>_zero_shot_<split>.png``. Intervals: 95 %, bootstrap over people.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from data_pipelines.captions import prompts
from data_pipelines.captions.facts import SLOTS, STAGES
from hypnos_jax.probing import probe
from hypnos_jax.probing.captioned_epochs import embed_prompts, read_epochs
from hypnos_jax.probing.concept_questions import number_question
from hypnos_jax.reports import sections
from hypnos_jax.reports.language_figures import draw_zero_shot
from hypnos_jax.runtime import distributed
from hypnos_jax.runtime.files import write_json

AGREEMENT = ("accuracy", "balanced_accuracy", "macro_f1", "kappa")


class ZeroShot:
    """Classes told by prompts."""

    def __init__(
        self,
        context,
        *,
        split: str = "test",
        epochs: int = 5000,
        prompts_each: int = prompts.WORDINGS,
        concepts: Sequence[str] = ("eeg_c3.delta", "eeg_c3.alpha", "ecg.rate"),
        batch_size: int = 64,
        draws: int = 1000,
    ):
        """Plan the evaluation.

        Args:
            context: ``hypnos_jax.evaluate.Context``.
            split: which nights.
            epochs: about how many, spread evenly over the nights; all where there are fewer.
            prompts_each: sentences of a class, at least 8.
            concepts: numbers, names in ``facts.SLOTS``.
            batch_size: epochs, or texts, that are embedded at once.
            draws: bootstrap samples.

        Raises:
            ValueError: too few prompts, or an unknown number.
        """
        if prompts_each < 8:
            raise ValueError(f"zero_shot: prompts_each={prompts_each}; it is 8 or more")
        for name in concepts:
            if name not in SLOTS or not SLOTS[name].printed:
                raise ValueError(f"zero_shot: concepts: {name!r} is no number that captions say")
        self.context, self.split, self.epochs = context, split, epochs
        self.prompts_each, self.concepts = prompts_each, tuple(concepts)
        self.batch_size, self.draws = batch_size, draws

    def run(self, variables: dict, step: int) -> Iterator[tuple[str, float]]:
        """Yield ``<question>/<metric>``, ``_low`` and ``_high`` where there is an interval; write
        and draw everything."""
        options = {"batch_size": self.batch_size, "count": self.epochs}
        found = read_epochs(self.context, variables, self.split, **options)
        if found is None:
            return
        tasks, left_out = {}, {}
        for name, (labels, classes, sentences, values) in self._questions(found).items():
            known = labels >= 0
            if len(np.unique(labels[known])) < 2:
                left_out[name] = f"{known.sum()} epochs with an answer, of one class"
                continue
            means = embed_prompts(
                self.context, variables, self.split, sentences, batch_size=self.batch_size
            )
            cosines = found.rows @ means.T
            cosines -= cosines.mean(1, keepdims=True)
            own = self._judge(found.predictions(labels, cosines), classes)
            own |= {"prompts": [list(texts) for texts in sentences], **values}
            tasks[name] = own
        report = {"step": step, "split": self.split, "epochs": len(found.start)}
        report |= {"tasks": tasks, "left_out": left_out}
        if distributed.is_first():
            self._write(report)
        for name, own in tasks.items():
            for metric, value in own["metrics"].items():
                for end, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
                    if value[end] is not None:
                        yield f"{name}/{metric}{suffix}", value[end]

    def _questions(self, found):
        """Name -> labels [N], classes, prompts of each class, and what else is told of it."""
        places = {stage: i for i, stage in enumerate(STAGES)}
        stages = np.array([places.get(own.stage, -1) for own in found.facts])
        by_stage = prompts.stage_prompts(self.prompts_each)
        questions = {"staging": (stages, STAGES, tuple(by_stage.values()), {})}
        for name, kinds in prompts.QUESTIONS.items():
            labels = np.array(
                [
                    -1 if own.events is None else any(e.kind in kinds for e in own.events)
                    for own in found.facts
                ],
                int,
            )
            sentences = prompts.event_prompts(kinds, self.prompts_each)
            questions[name] = (labels, ("no", "yes"), sentences, {})
        for slot in self.concepts:
            own = number_question(slot, found.facts, self.prompts_each)
            if own is not None:
                questions[f"high {slot}"] = (own.labels, own.classes, own.sentences, own.told)
        return questions

    def _judge(self, found, classes):
        self.context.heartbeat()
        out = probe.score(found, len(classes), ranked=False, draws=self.draws)
        if len(classes) == 2:
            ranked = probe.score(found, 2, ranked=True, draws=self.draws)
            out["metrics"] |= ranked["metrics"]
            out["curve"] = ranked["curve"]
        else:
            labels, scores = np.concatenate(found.labels), np.concatenate(found.probabilities)
            each = [
                probe.ranking((labels == k).astype(int), scores[:, k], np.ones((1, len(labels))))
                for k in range(len(classes))
            ]
            mean = _mean_of_finite([own["auroc"][0] for own in each])
            out["metrics"]["auroc"] = {"value": mean, "low": None, "high": None}
        counts = np.array(out["confusion"]).sum(1)
        out["classes"], out["counts"] = list(classes), counts.tolist()
        majority = float(counts.max() / counts.sum())
        out["metrics"]["majority_accuracy"] = {"value": majority, "low": None, "high": None}
        return out

    def _write(self, report):
        name = f"zero_shot_{self.split}"
        write_json(self.context.workdir / f"{name}.json", report)
        picture = f"figures/{report['step']}_{name}.png"
        (self.context.workdir / "figures").mkdir(exist_ok=True)
        if report["tasks"]:
            draw_zero_shot(report, self.context.workdir / picture)
        head = ["question", "epochs", "always the same class", *AGREEMENT, "AUROC", "95 %"]
        rows = [head]
        for task, own in report["tasks"].items():
            metrics = own["metrics"]
            judged = metrics["kappa" if task == "staging" else "auroc"]
            spread = (
                "-" if judged["low"] is None else f"{judged['low']:.3f} to {judged['high']:.3f}"
            )
            values = [metrics[name]["value"] for name in ("majority_accuracy", *AGREEMENT, "auroc")]
            rows.append([task, sum(own["counts"]), *values, spread])
        people = max((own["subjects"] for own in report["tasks"].values()), default=0)
        says = [
            f"Told by {self.prompts_each} sentences a class or more, by cosine, without any label:"
            f" {report['epochs']} epochs of {people} people of the {self.split} nights."
            " Intervals (95 %, over people) are of kappa for stages, of AUROC for the others."
        ]
        says += [f"{task}: left out, {reason}." for task, reason in report["left_out"].items()]
        examples = [["question", "class", "a prompt"]]
        for task, own in report["tasks"].items():
            for answer, texts in zip(own["classes"], own["prompts"]):
                examples.append([task, answer, texts[0]])
        sections.write_section(
            self.context.workdir,
            name,
            step=report["step"],
            title="Zero-shot answers",
            says=says,
            parts=[
                sections.part("Answers to prompts", rows=rows, picture=picture),
                sections.part("A prompt of each class", rows=examples),
            ],
        )


def _mean_of_finite(values) -> float | None:
    values = [value for value in values if np.isfinite(value)]
    return float(np.mean(values)) if values else None
