"""Networks trained with the labels of a few people: from the weights of a model, or from scratch.

One program serves all draws of labelled people; how many steps and at which rate is chosen on the
validation people, for a network from scratch by the same search as for one that begins elsewhere.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np

from data_pipelines.store import NightStore
from hypnos_jax import batch as batches
from hypnos_jax import config as configs
from hypnos_jax import evaluate, sharding, warm_start
from hypnos_jax.probing.label_efficiency import CHOOSING, Answers, Draw, Question
from hypnos_jax.step import TrainOptions, make_plan
from hypnos_jax.tasks import find_task

BATCH_SIZE = 32  # windows at once, in answering


class LabelTraining:
    """Training with the labels of draws, from any weights."""

    def __init__(
        self,
        question: Question,
        config: dict,
        stores: Sequence[NightStore],
        settings: Sequence[dict] = ({},),
    ):
        """Take the config; nothing is compiled before it is needed.

        Args:
            question: what is asked; its recordings are those of the stores.
            config: of the objective ``finetune`` on ``modality_nights``, resolved.
            stores: the first one's training people are drawn from; the others are answered alone.
            settings: changes of the config by dotted key, such as ``{"train.steps": 80}``; for each
                number of people the one is taken that is best on the validation people over the
                first ``CHOOSING`` draws.
        """
        self.question, self.config, self.stores = question, config, stores
        self.settings = settings
        self._mesh = sharding.make_mesh(data=1, devices=jax.local_devices()[:1])
        self._trainers: list[Trainer] = []

    def answers(self, draws: Sequence[Draw], *, init_from: str = "", seed: int = 0) -> Answers:
        """Train on each draw, and take the answers.

        Args:
            draws: of ``label_efficiency.draw_people``, of the first store.
            init_from: what ``config.train.init_from`` may be; "" begins at random. What of it goes
                where, the config says.
            seed: of the random beginning.

        Raises:
            ConfigError: the config cannot be trained with.
            WarmStartError: the weights do not fit.
            ValueError: a task that is not answered token by token.
        """
        given, chosen = {}, {}
        with jax.set_mesh(self._mesh), nn.logical_axis_rules(sharding.RULES):
            if not self._trainers:
                configured = [configs.change(self.config, change) for change in self.settings]
                own = self.question, self.stores, self._mesh
                self._trainers = [Trainer(*own, config) for config in configured]
            weights = self._trainers[0].weights(init_from, seed)
            for size in dict.fromkeys(draw.size for draw in draws):
                own, found = [draw for draw in draws if draw.size == size], {}

                def answer(i, draw, found=found):
                    if (i, draw.seed) not in found:
                        found[i, draw.seed] = self._trainers[i].answer(draw, weights)
                    return found[i, draw.seed]

                means = []
                for i in range(len(self.settings)):
                    said = [answer(i, draw)["validation"] for draw in own[:CHOOSING]]
                    scores = [
                        self.question.score(x, "validation")[self.question.metric] for x in said
                    ]
                    means.append(float(np.mean(scores)))
                best = int(np.argmax(means))
                chosen[size] = {"settings": self.settings[best], "validation": means[best]}
                for draw in own:
                    given[size, draw.seed] = answer(best, draw)["test"]
        return Answers(given, chosen, 0)


class Trainer:
    """A config's network and its compiled step, for any draw of labelled people."""

    def __init__(
        self,
        question: Question,
        stores: Sequence[NightStore],
        mesh: jax.sharding.Mesh,
        config: dict,
    ):
        """Plan and compile; see ``LabelTraining``."""
        self.question, self.stores, self.mesh = question, stores, mesh
        config = configs.change(config, {"data.path": str(stores[0].path)})
        source = batches.load_source(config, stores[0].path, split="train")
        self.config = configs.fill(config, source.describe())
        self.options = configs.call(TrainOptions, self.config["train"], "config.train")
        task = find_task(self.config["objective"]["task"])
        if task.by_night or task.kind not in ("classes", "binary"):
            raise ValueError(f"the task {task.name!r} has no class for each epoch")
        self.objective = configs.make_objective(self.config)
        spec = batches.batch_spec(source, self.options.batch_size)
        self.plan = make_plan(self.config, self.objective, mesh, spec)
        self.step = self.plan.trace().lower().compile()
        self.context = self._on(stores[0])

    def weights(self, init_from: str, seed: int) -> warm_start.Weights:
        """Return what to begin from: a model's weights, the rest of a seed."""
        fresh = flax.traverse_util.flatten_dict(self.context.init(seed), sep="/")
        arrays = {name: np.asarray(x) for name, x in fresh.items()}
        if not init_from:
            return warm_start.Weights(arrays, {})
        more = self.options.init_subtrees, self.options.init_fresh
        found = warm_start.choose(self.plan.state, init_from, *more)
        return warm_start.Weights(arrays | found.arrays, found.provenance)

    def answer(self, draw: Draw, weights: warm_start.Weights) -> dict[str, np.ndarray]:
        """Return the answers to the validation and the test people after training on a draw."""
        few = {"data.few_shot_subjects": draw.size, "data.few_shot_seed": draw.seed}
        config = configs.change(self.config, few)
        source = batches.load_source(config, self.stores[0].path, split="train")
        state = warm_start.begin_from(self.plan.make(), weights)
        place, rows = sharding.batch_sharding(self.mesh), self.options.batch_size
        feed = source.batches(rows, 0, rows, 0)
        for _ in range(self.options.steps):
            state, _ = self.step(state, sharding.put_batch(next(feed), place, rows))
        feed.close()
        variables = state.variables()
        found = self._nights(self.context, variables, ("validation", "test"))
        for store in self.stores[1:]:
            found |= self._nights(self._on(store), variables, ("train", "validation", "test"))
        return {split: self._of(found, split) for split in ("validation", "test")}

    def _on(self, store):
        config = configs.change(self.config, {"data.path": str(store.path)})
        if store is not self.stores[0]:
            return self.context.on(config["data"])
        folder = pathlib.Path(store.path)
        return evaluate.Context(config, self.objective, self.plan.init, self.mesh, folder)

    def _nights(self, context, variables, splits):
        """Recording -> probabilities [E, classes] of every epoch."""
        nights, found = context.store.nights, {}
        predict = context.functions("predict")
        for split in splits:
            for batch in context.batches(split, BATCH_SIZE):
                facts = context.fetch({name: batch[name] for name in ("night", "start", "weight")})
                output = np.asarray(jax.device_get(predict(variables, batch)["output"]), float)
                for i in np.flatnonzero(facts["weight"] > 0):
                    night, start = nights[facts["night"][i]], int(facts["start"][i])
                    length = night.duration_s // 30
                    rows = found.setdefault(
                        night.recording, np.zeros((length, self.question.classes))
                    )
                    own = _probabilities(output[i, : length - start])
                    rows[start : start + len(own)] = own
        return found

    def _of(self, found, split):
        examples, places = self.question.examples, self.question.held(split)[0]
        rows = []
        for i in places:
            labels = examples.labels[i]
            said = self.question.pooled(found[examples.recordings[i]])
            rows.append(said[: len(labels)][labels >= 0])
        return self.question.answer(np.concatenate(rows))


def _probabilities(output):
    """[L, C] logits of classes, or [L, 1] of yes, to probabilities."""
    if output.shape[-1] == 1:
        yes = 1 / (1 + np.exp(-output))
        return np.concatenate([1 - yes, yes], axis=-1)
    powers = np.exp(output - output.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
