"""Which sleep stages a linear probe reads out of frozen contrastive towers, beside baselines.

Features are what the trunk makes of every token of 30 s, modalities side by side
(``hypnos_jax.probing.comparison``). Beside them: the same towers with random weights, and no
features at all. Protocol: ``hypnos_jax.probing.probe``. Results go to ``workdir/tower_probe.json``.
"""

from __future__ import annotations

from collections.abc import Iterator

from absl import logging

from hypnos_jax.probing import probe
from hypnos_jax.probing.comparison import CLASSES, STRENGTH, stage_examples, tower_features
from hypnos_jax.runtime import distributed
from hypnos_jax.runtime.files import write_json

EMBEDDING, RANDOM, NOTHING = "embedding", "random_towers", "no_features"
TASK = "staging"


class TowerProbe:
    """Probe the towers of a store of modalities."""

    def __init__(
        self,
        context,
        *,
        batch_size: int = 32,
        strength: float = STRENGTH,
        fewest_test_subjects: int = probe.FEWEST_TEST_SUBJECTS,
        draws: int = 1000,
    ):
        """Plan the probe.

        Args:
            context: ``hypnos_jax.evaluate.Context`` of an objective with ``encode``, on data with
                modalities.
            batch_size: windows at once.
            strength: of the probe's L2 penalty.
            fewest_test_subjects: fewer of them, and folds over all subjects replace the split.
            draws: bootstrap samples of the test subjects.
        """
        context.functions("encode")  # of another objective: an error now
        self.context, self.batch_size = context, batch_size
        self.strength, self.fewest, self.draws = strength, fewest_test_subjects, draws
        self._nights = self._baseline = None  # found once for all checkpoints of a job

    def run(self, variables: dict, step: int) -> Iterator[tuple[str, float]]:
        """Yield ``staging/<feature set>/<metric>``, ``kappa_low`` and ``kappa_high`` among them
        where five people or more are tested; write everything.
        """
        if self._nights is None:
            self._nights = self.context.on(self._data())
        store = self._nights.store
        sets = {EMBEDDING: tower_features(self._nights, variables, self.batch_size)}
        if self._baseline is None:
            fresh = self.context.init(self.context.config.get("seed", 0) + 1)
            random = {RANDOM: tower_features(self._nights, fresh, self.batch_size)}
            self._baseline = self._judge(store, random, (RANDOM, NOTHING))
        reason, scores, how = self._judge(store, sets, (EMBEDDING,))
        if reason:
            logging.warning("tower_probe: %s: nothing is probed", reason)
            return
        scores |= self._baseline[1]
        if distributed.is_first():
            report = {"step": step, "strength": self.strength, "how": how, "sets": scores}
            write_json(self.context.workdir / "tower_probe.json", report)
        for name, found in scores.items():
            for metric, value in found["metrics"].items():
                if value["value"] is not None:
                    yield f"{TASK}/{name}/{metric}", value["value"]
            kappa = found["metrics"]["kappa"]
            for end in ("low", "high"):
                if kappa[end] is not None:
                    yield f"{TASK}/{name}/kappa_{end}", kappa[end]

    def _data(self) -> dict:
        """The data as whole nights: all modalities of each window, with nothing left out."""
        data = self.context.config["data"]
        kept = {key: data[key] for key in ("path", "window_tokens", "modalities") if key in data}
        return {"name": "modality_nights", **kept}

    def _judge(self, store, sets, names):
        """Why nothing can be probed, or ""; the scores of the feature sets; and the protocol."""
        examples = stage_examples(store, sets)
        pairs, how = probe.split_subjects(examples, fewest_test=self.fewest)
        if not pairs:
            return how, {}, how
        scores = {}
        for name in names:
            self.context.go_on()
            own = "" if name == NOTHING else name
            found = probe.cross_predict(examples, own, pairs, strength=self.strength)
            scores[name] = probe.score(found, CLASSES, ranked=False, draws=self.draws)
        return "", scores, how
