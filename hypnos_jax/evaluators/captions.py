"""Generated captions against the facts of their epochs, beside rivals that decode nothing.

Captions are read back to facts by the parser and scored by slots, stages and events in time
(``hypnos_jax/probing/caption_scores.py``). The rivals are judged alike: always the same caption;
the caption of the training epoch that is nearest by hand-made features; the facts that linear
probes read off this model's frozen embeddings, in the grammar's words. Then whole nights: indices
of the events that captions of all epochs say, against those of the scoring.

Results go to ``workdir/captions_<split>.json``, pictures of epochs and of a night to
``workdir/figures``.
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from data_pipelines.captions.facts import MODALITIES, Facts
from data_pipelines.captions.parse import parse
from data_pipelines.labels import stages as scored_stages
from data_pipelines.recipes.hypnos import EIGHT
from hypnos_jax.probing import caption_rivals, caption_scores, hand_features, night_indices
from hypnos_jax.probing.caption_writer import EpochWriter
from hypnos_jax.probing.captioned_epochs import Epochs, epoch_batches, joined, read_epochs
from hypnos_jax.reports import caption_report
from hypnos_jax.runtime import distributed
from hypnos_jax.runtime.files import write_json

MODEL, FACTS = "model", "facts"
MAJORITY, NEAREST, PROBED = "majority", "nearest", "probed"
RIVALS = (MAJORITY, NEAREST, PROBED)


class Captions:
    """Captions of epochs and of nights, scored."""

    def __init__(
        self,
        context,
        *,
        split: str = "test",
        epochs: int = 256,
        nights: int = 20,
        modalities: Sequence[str] = MODALITIES,
        constrained: bool = False,
        rivals: Sequence[str] = RIVALS,
        fit_epochs: int = 4000,
        beside: Mapping[str, str] | None = None,
        examples: int = 6,
        batch_size: int = 32,
    ):
        """Plan the evaluation.

        Args:
            context: ``hypnos_jax.evaluate.Context``.
            split: which nights.
            epochs: about how many get captions of every modality, spread evenly over the nights.
            nights: at most how many whole nights get captions of stage and events; 0 for none.
            modalities: captions of these.
            constrained: decode by the grammar, for models with its words; else greedily.
            rivals: ``"majority"``, ``"nearest"`` (by ``hand_features``), ``"probed"``.
            fit_epochs: about how many training epochs the rivals know.
            beside: name -> the folder of another run that was evaluated by this evaluator, whose
                captions are a row of the same table.
            examples: epochs that are drawn.
            batch_size: epochs at once.

        Raises:
            ValueError: an unknown modality or rival.
        """
        if not {*modalities} <= {*MODALITIES}:
            raise ValueError(f"captions: modalities are some of {MODALITIES}")
        if not {*rivals} <= {*RIVALS}:
            raise ValueError(f"captions: rivals are some of {RIVALS}; got {tuple(rivals)}")
        self.context, self.split, self.epochs, self.nights = context, split, epochs, nights
        self.modalities, self.constrained = tuple(modalities), constrained
        self.rivals, self.fit_epochs = tuple(rivals), fit_epochs
        self.beside, self.examples = dict(beside or {}), examples
        self.batch_size = batch_size
        self.writer = EpochWriter(context, split, constrained=constrained)

    def run(self, variables: dict, step: int) -> Iterator[tuple[str, float]]:
        """Yield ``<row>/<metric>`` of the model and its rivals (``caption_scores.score``),
        ``mae/<slot>`` of the model, and ``night/<index>/icc``; write and draw everything.

        Raises:
            ValueError: ``beside`` names a folder without such results.
        """
        others = {name: self._other(name, folder) for name, folder in self.beside.items()}
        found, said = self._write_epochs(variables)
        if found is None:
            return
        train = None
        if self.rivals:
            options = {"batch_size": self.batch_size, "count": self.fit_epochs}
            train = read_epochs(self.context, variables, "train", **options)
        texts = {MODEL: said}
        for name in self.rivals if train else ():
            told = self._rival(name, train, found)
            if told is not None:
                texts[name] = [caption_rivals.captions_of(own, self.modalities) for own in told]
        rows, missing = {}, []
        references = {name: list(map(str, found.captions((name,)))) for name in self.modalities}
        flat_references = [text for own in references.values() for text in own]
        for name, own in texts.items():
            flat = [captions[modality] for modality in self.modalities for captions in own]
            words, missing = caption_scores.text_scores(flat_references, flat)
            rows[name] = {**caption_scores.score(found.facts, own), **words}
            self.context.heartbeat()
        nights = self._judge_nights(variables, train)
        report = {
            "step": step,
            "split": self.split,
            "epochs": len(found.start),
            "constrained": self.constrained,
            "missing": missing,
            "rows": rows | others,
            "nights": nights,
            "examples": self._examples(found, references, said),
        }
        if distributed.is_first():
            workdir = self.context.workdir
            write_json(workdir / f"captions_{self.split}.json", report)
            names = [row["name"] for row in self.context.attribute("modalities")]
            caption_report.write(workdir, report, self.context.store, names)
        for name, own in rows.items():
            for metric, value in caption_report.headline(own).items():
                if value is not None and math.isfinite(value):
                    yield f"{name}/{metric}", value
        for slot, own in rows[MODEL]["slots"].items():
            if math.isfinite(own["mae"]):
                yield f"mae/{slot}", own["mae"]
        for index, own in nights.get("agreement", {}).get(MODEL, {}).items():
            if math.isfinite(own["icc"]):
                yield f"night/{index}/icc", own["icc"]

    def _other(self, name, folder) -> dict:
        path = pathlib.Path(folder) / f"captions_{self.split}.json"
        try:
            return json.loads(path.read_text())["rows"][MODEL]
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"captions.beside: {name!r}: {path} holds no results; run python -m"
                f" launch.evaluate --workdir={folder}"
            ) from error

    def _write_epochs(self, variables) -> tuple[Epochs | None, list[dict[str, str]]]:
        """Some epochs, and the captions of each: modality -> text."""
        parts, said = [], []
        for batch, keep, epochs in epoch_batches(
            self.context, variables, self.split, self.batch_size, self.epochs
        ):
            by_modality = {
                name: self.writer.write(variables, batch, name) for name in self.modalities
            }
            said += [{name: texts[i] for name, texts in by_modality.items()} for i in keep]
            parts.append(epochs)
        return (joined(parts) if said else None), said

    def _rival(self, name, train: Epochs, found: Epochs) -> list[Facts] | None:
        if name == MAJORITY:
            return [caption_rivals.majority(train.facts)] * len(found.facts)
        if name == PROBED:
            return caption_rivals.probed(train.rows, train.facts, found.rows)
        if not {*EIGHT} & {row["name"] for row in self.context.store.manifest["channels"]}:
            return None
        rows = [_hand_made(self.context.store, epochs) for epochs in (train, found)]
        return caption_rivals.nearest(rows[0], train.facts, rows[1])

    def _judge_nights(self, variables, train: Epochs | None) -> dict:
        """Indices of whole nights by each row, and how they agree with the scoring's."""
        parts, said, nights = [], [], {}
        for batch, keep, epochs in epoch_batches(
            self.context, variables, self.split, self.batch_size, None if self.nights else 0
        ):
            texts = self.writer.write(variables, batch, "stage_event")
            said += [texts[i] for i in keep]
            parts.append(epochs)
            nights |= {night.recording: night for night in epochs.nights}
            if len(nights) > self.nights:  # night by night: those before the newest are whole
                break
        if not said:
            return {}
        found = joined(parts)
        told = {MODEL: [parse(text).facts for text in said], FACTS: found.facts}
        if train and PROBED in self.rivals:
            told[PROBED] = caption_rivals.probed(train.rows, train.facts, found.rows)
        truth, indices, shown = [], {name: [] for name in told}, None
        for night in list(nights.values())[: self.nights]:
            places = [i for i, own in enumerate(found.nights) if own.recording == night.recording]
            store = self.context.store
            scored = scored_stages(store, night), night_indices.scored_events(store.events(night))
            truth.append(night_indices.indices(*scored))
            for name, facts in told.items():
                epochs = {int(found.start[i]): facts[i] for i in places}
                own = night_indices.night_of(epochs, len(scored[0]))
                indices[name].append(night_indices.indices(*own))
                if name == MODEL and (shown is None or len(scored[1]) > len(shown[1][1])):
                    shown = night.recording, scored, own
        return {
            "recordings": list(nights)[: self.nights],
            "truth": truth,
            "said": indices,
            "agreement": {
                name: night_indices.agreement(truth, own) for name, own in indices.items()
            },
            "human_icc": night_indices.HUMAN_ICC,
            "shown": caption_report.shown_night(*shown),
        }

    def _examples(self, found: Epochs, references, said) -> list[dict]:
        """Epochs that are drawn: of every stage in turn, those with most events first."""
        order = sorted(range(len(said)), key=lambda i: -len(found.facts[i].events or ()))
        by_stage = {}
        for i in order:
            by_stage.setdefault(found.facts[i].stage, []).append(i)
        turns = [
            own[turn]
            for turn in range(self.examples)
            for own in by_stage.values()
            if turn < len(own)
        ]
        return [
            {
                "recording": found.nights[i].recording,
                "epoch": int(found.start[i]),
                "reference": {name: texts[i] for name, texts in references.items()},
                "said": said[i],
                "lanes": caption_report.lanes_of(
                    found.facts[i], [parse(text).facts for text in said[i].values()]
                ),
            }
            for i in turns[: self.examples]
        ]


def _hand_made(store, epochs: Epochs) -> np.ndarray:
    """Features of epochs [N, F], by those of their whole nights."""
    found, rows = {}, []
    for night, start in zip(epochs.nights, epochs.start.tolist()):
        if night.recording not in found:
            found[night.recording] = hand_features.epoch_features(store, night)[0]
        rows.append(found[night.recording][start])
    return np.stack(rows)
