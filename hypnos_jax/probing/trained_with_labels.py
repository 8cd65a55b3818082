"""Networks trained with the labels of a few people: from the weights of a model, or from scratch.

One program serves all draws of labelled people; how many steps and at which rate is chosen on the
validation people, for a network from scratch by the same search as for one that begins elsewhere.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Sequence

import flax.linen as nn
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


def train_on_draws(
    question: Question,
    draws: Sequence[Draw],
    config: dict,
    stores: Sequence[NightStore],
    *,
    init_from: str = "",
    settings: Sequence[dict] = ({},),
    heartbeat: Callable[[], None] = lambda: None,
) -> Answers:
    """Train a network with the labels of each draw, and take its answers.

    Args:
        question: what is asked; its recordings are those of the stores.
        draws: of ``label_efficiency.draw_people``, of the first store.
        config: of the objective ``finetune`` on ``modality_nights``, resolved.
        stores: the first one's training people are drawn from; the others are answered alone.
        init_from: what ``config.train.init_from`` may be; "" begins at random. What of it goes
            where, the config says.
        settings: changes of the config by dotted key, such as ``{"train.steps": 80}``; for each
            number of people the one is taken that is best on the validation people over the first
            ``CHOOSING`` draws.
        heartbeat: called between trainings.

    Raises:
        ConfigError: the config cannot be trained with.
        WarmStartError: the weights do not fit.
        ValueError: a task that is not answered token by token.
    """
    given, chosen = {}, {}
    mesh = sharding.make_mesh(data=1, devices=jax.local_devices()[:1])
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        stack.enter_context(nn.logical_axis_rules(sharding.RULES))
        trainers = [
            Trainer(question, configs.change(config, change), stores, mesh, init_from)
            for change in settings
        ]
        for size in dict.fromkeys(draw.size for draw in draws):
            own, found = [draw for draw in draws if draw.size == size], {}

            def answer(i, draw, found=found):
                if (i, draw.seed) not in found:
                    heartbeat()
                    found[i, draw.seed] = trainers[i].answer(draw)
                return found[i, draw.seed]

            means = []
            for i in range(len(settings)):
                said = [answer(i, draw)["validation"] for draw in own[:CHOOSING]]
                scores = [question.score(x, "validation")[question.metric] for x in said]
                means.append(float(np.mean(scores)))
            best = int(np.argmax(means))
            chosen[size] = {"settings": settings[best], "validation": means[best]}
            for draw in own:
                given[size, draw.seed] = answer(best, draw)["test"]
    return Answers(given, chosen, 0)


class Trainer:
    """A config's network and its compiled step, for any draw of labelled people."""

    def __init__(
        self,
        question: Question,
        config: dict,
        stores: Sequence[NightStore],
        mesh: jax.sharding.Mesh,
        init_from: str,
    ):
        """Plan and compile; see ``train_on_draws``."""
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
        self.weights = None
        if init_from:
            more = self.options.init_subtrees, self.options.init_fresh
            self.weights = warm_start.choose(self.plan.state, init_from, *more)
        self.context = self._on(stores[0])

    def answer(self, draw: Draw) -> dict[str, np.ndarray]:
        """Return the answers to the validation and the test people after training on a draw."""
        few = {"data.few_shot_subjects": draw.size, "data.few_shot_seed": draw.seed}
        config = configs.change(self.config, few)
        source = batches.load_source(config, self.stores[0].path, split="train")
        state = self.plan.make()
        if self.weights is not None:
            state = warm_start.begin_from(state, self.weights)
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
            rows.append(found[examples.recordings[i]][: len(labels)][labels >= 0])
        return self.question.answer(np.concatenate(rows))


def _probabilities(output):
    """[L, C] logits of classes, or [L, 1] of yes, to probabilities."""
    if output.shape[-1] == 1:
        yes = 1 / (1 + np.exp(-output))
        return np.concatenate([1 - yes, yes], axis=-1)
    powers = np.exp(output - output.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
