"""Concepts that no caption of training named, asked for by their words.

A model is trained with ``config.data.held_out``, such as ``("alpha",)``: the signals have the
concept, the captions never say it. Here its words are asked all the same: whether sentences with it
rank epochs that have it above those that have not (AUROC), and what share of the first hits has it,
beside the share of all epochs. The same sentences about other concepts stand beside: a number such
as 40 % may rank epochs whatever word it goes with, so what the best of them reaches is the mark,
and not chance alone. ``concepts`` asks any run, so one that was told the concept can be compared.

Results go to ``workdir/unseen_concepts_<split>.json``. Intervals: 95 %, bootstrap over people.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from absl import logging

from data_pipelines.captions import prompts
from hypnos_jax.probing import probe
from hypnos_jax.probing.captioned_epochs import embed_prompts, read_epochs
from hypnos_jax.probing.concept_questions import UNKNOWN, questions_of
from hypnos_jax.reports import sections
from hypnos_jax.runtime import distributed
from hypnos_jax.runtime.files import write_json


class UnseenConcepts:
    """Concepts asked for by words."""

    def __init__(
        self,
        context,
        *,
        split: str = "test",
        epochs: int = 5000,
        concepts: Sequence[str] = (),
        prompts_each: int = prompts.WORDINGS,
        hits: int = 20,
        batch_size: int = 64,
        draws: int = 1000,
    ):
        """Plan the evaluation.

        Args:
            context: ``hypnos_jax.evaluate.Context``.
            split: which nights.
            epochs: about how many, spread evenly over the nights; all where there are fewer.
            concepts: what is asked for (``grammar.render``'s ``held_out``); by default what the
                captions of training did not say.
            prompts_each: sentences of an answer, at least.
            hits: epochs that are looked at of those that are nearest to the sentences.
            batch_size: epochs, or texts, that are embedded at once.
            draws: bootstrap samples.

        Raises:
            ValueError: no hits, or a concept that no caption says.
        """
        if hits < 1:
            raise ValueError(f"unseen_concepts: hits={hits}; they are 1 or more")
        self.held_out = tuple(context.trained["data"].get("held_out", ()))
        self.concepts = tuple(concepts) or self.held_out
        for concept in self.concepts:
            try:
                questions_of(concept, (), prompts_each)
            except ValueError as error:
                raise ValueError(f"unseen_concepts: concepts: {error}") from error
        self.context, self.split, self.epochs = context, split, epochs
        self.prompts_each, self.hits = prompts_each, hits
        self.batch_size, self.draws = batch_size, draws

    def run(self, variables: dict, step: int) -> Iterator[tuple[str, float]]:
        """Yield of each question ``<question>/auroc``, ``_low`` and ``_high`` where there is an
        interval, ``auroc_beside`` and ``times_chance``; write everything."""
        if not self.concepts:
            logging.info(
                "unseen_concepts asks nothing: config.data.held_out is empty, and no concepts are"
                " given"
            )
            return
        options = {"batch_size": self.batch_size, "count": self.epochs}
        found = read_epochs(self.context, variables, self.split, **options)
        if found is None:
            return
        rows, left_out = {}, {}
        for concept in self.concepts:
            questions = questions_of(concept, found.facts, self.prompts_each)
            for name, question in questions.items():
                if question is None:
                    left_out[name] = "too few epochs have the number"
                    continue
                known = question.labels >= 0
                if len(np.unique(question.labels[known])) < 2:
                    left_out[name] = f"{known.sum()} epochs with an answer, of one class"
                    continue
                held = concept.lower() in {own.lower() for own in self.held_out}
                rows[name] = {"held_out": held, **self._judge(variables, found, question)}
                self.context.heartbeat()
        report = {"step": step, "split": self.split, "epochs": len(found.start), "hits": self.hits}
        report |= {"held_out": list(self.held_out), "questions": rows, "left_out": left_out}
        if distributed.is_first():
            self._write(report)
        for name, own in rows.items():
            for end, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
                if own["auroc"][end] is not None:
                    yield f"{name}/auroc{suffix}", own["auroc"][end]
            if own["beside"]:
                yield f"{name}/auroc_beside", max(own["beside"].values())
            yield f"{name}/times_chance", own["times_chance"]

    def _judge(self, variables, found, question) -> dict:
        def auroc(sentences, draws):
            cosines = self._cosines(variables, found, sentences)
            scores = probe.score(
                found.predictions(question.labels, cosines - cosines.mean(1, keepdims=True)),
                2,
                ranked=True,
                draws=draws,
            )
            return cosines, scores["metrics"]["auroc"]

        cosines, value = auroc(question.sentences, self.draws)
        beside = {
            name: auroc(sentences, 1)[1]["value"] for name, sentences in question.beside.items()
        }
        known = np.flatnonzero(question.labels != UNKNOWN)
        first = known[np.argsort(-cosines[known, 1], kind="stable")][: self.hits]
        share = float(np.mean(question.labels[first] == 1))
        chance = float(np.mean(question.labels[known] == 1))
        return {
            "classes": list(question.classes),
            "counts": [int(np.sum(question.labels == answer)) for answer in (0, 1)],
            "people": len({found.nights[i].subject for i in known}),
            "auroc": value,
            "beside": beside,
            "share_of_hits": share,
            "chance": chance,
            "times_chance": share / chance,
            "prompts": [list(texts) for texts in question.sentences],
            **question.told,
        }

    def _cosines(self, variables, found, sentences) -> np.ndarray:
        """Of epochs with the mean sentence of each answer, [N, 2]."""
        means = embed_prompts(
            self.context, variables, self.split, sentences, batch_size=self.batch_size
        )
        return found.rows @ means.T

    def _write(self, report):
        name = f"unseen_concepts_{self.split}"
        write_json(self.context.workdir / f"{name}.json", report)
        rows = [
            ["question", "said in training", "epochs", "AUROC", "95 %", "best of other words"]
            + [f"of {report['hits']} hits", "of all", "x chance"]
        ]
        examples = [["question", "answer", "a sentence"]]
        for question, own in report["questions"].items():
            value = own["auroc"]
            spread = "-" if value["low"] is None else f"{value['low']:.3f} to {value['high']:.3f}"
            best = max(own["beside"], key=own["beside"].get, default="")
            beside = f"{own['beside'][best]:.3f} ({best})" if best else "-"
            told = [value["value"], spread, beside, own["share_of_hits"], own["chance"]]
            said = "no" if own["held_out"] else "yes"
            rows.append([question, said, sum(own["counts"]), *told, own["times_chance"]])
            for answer, texts in zip(own["classes"], own["prompts"]):
                examples.append([question, answer, texts[0]])
        says = [
            "Held out of the captions of training:"
            f" {', '.join(report['held_out']) or 'nothing'}. AUROC: sentences with the concept"
            " against sentences without, 0.5 is chance (of a number: its upper third against its"
            " lower). Best of other words: the same sentences about another concept; where it is as"
            " good, the word of the concept was not understood. Hits: the epochs that are nearest"
            " to the sentences with the concept."
        ]
        says += [f"{question}: left out, {why}." for question, why in report["left_out"].items()]
        sections.write_section(
            self.context.workdir,
            name,
            step=report["step"],
            title="Concepts that training did not name",
            says=says,
            parts=[
                sections.part("Asked for by words", rows=rows),
                sections.part("A sentence of each answer", rows=examples),
            ],
        )
