"""Retrieval between modalities: ranks by hand, guessing as guessing, and the whole matrix."""

import json

import numpy as np
import pytest

from hypnos_jax.evaluators.retrieval import Retrieval, retrieve

NAMES = ("ibi", "eeg", "ecg")


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def pair(first, second, counted=None):
    counted = np.ones(first.shape[:2], bool) if counted is None else counted
    return {"first": first, "second": second, "counted": counted, "night": np.arange(len(first))}


def test_ranks_by_hand():
    basis = np.eye(12, dtype=np.float32)[:, None]  # twelve windows of one token
    found = retrieve(pair(basis, basis))
    assert found["accuracy"] == found["recall_10"] == found["median_rank"] == 1
    assert found["chance"] == pytest.approx(1 / 12)
    assert found["windows"] == 12
    assert found["tokens"] == 12
    # the neighbour is nearest, its own second
    blurred = unit(np.roll(basis, 1, axis=0) + 0.5 * basis)
    found = retrieve(pair(basis, blurred))
    assert (found["accuracy"], found["recall_5"], found["median_rank"]) == (0, 1, 2)
    equal = np.ones_like(basis)
    found = retrieve(pair(equal, equal))
    assert found["median_rank"] == found["chance_median_rank"] == 6.5
    assert found["accuracy"] == 0


def test_random_vectors_score_as_guesses_do():
    rng = np.random.default_rng(0)
    first, second = (unit(rng.normal(size=(50, 40, 16))) for _ in range(2))
    found = retrieve(pair(first, second))
    assert found["accuracy"] == pytest.approx(0.02, abs=0.01)
    assert found["recall_10"] == pytest.approx(0.2, abs=0.03)
    assert found["median_rank"] == pytest.approx(25.5, abs=2)


def test_the_other_direction_asks_with_the_second():
    first = np.eye(3, dtype=np.float32)[:, None]
    second = unit(np.array([[1, 0.0, 0], [2, 1, 0], [0, 0, 1]])[:, None])
    forth, back = retrieve(pair(first, second)), retrieve(pair(first, second), turned=True)
    assert forth["accuracy"] == 1
    assert back["accuracy"] == pytest.approx(2 / 3)


def test_tokens_without_signal_neither_ask_nor_answer():
    rng = np.random.default_rng(0)
    first = unit(rng.normal(size=(6, 4, 8)))
    counted = np.ones((6, 4), bool)
    counted[0] = False
    counted[1:, 3] = False  # nobody is left at the last place
    found = retrieve(pair(first, first, counted))
    assert (found["accuracy"], found["windows"], found["tokens"]) == (1, 5, 15)
    assert retrieve(pair(first, first, np.zeros((6, 4), bool))) is None


class FakeContext:
    """Batches of every pair in turn; the modality's number decides how well it is projected."""

    def __init__(self, workdir, windows=9):
        self.workdir, self.count = workdir, windows

    def on(self, data):
        other = FakeContext(self.workdir / "elsewhere", len(data["sites"]))
        other.config = {"data": data}
        return other

    def functions(self, name):
        assert name == "project"

        def project(variables, signal, scale, valid, modality):
            rng = np.random.default_rng(int(modality))
            noise = variables["noise"][int(modality)]
            return unit(signal.astype(float) + noise * rng.normal(size=signal.shape))

        return project

    def source(self, split):
        return self

    def describe(self):
        modalities = [{"name": name} for name in NAMES]
        return {"modalities": modalities, "pairs": [[0, 1], [0, 2], [1, 2]]}

    def heartbeat(self):
        pass

    def fetch(self, arrays):
        return arrays

    def batches(self, split, rows, limit):
        rng = np.random.default_rng(0)
        latent = rng.normal(size=(self.count, 5, 16))
        for own in [[0, 1], [0, 2], [1, 2]]:
            for low in range(0, min(self.count, limit // 3 * rows), rows):
                part = latent[low : low + rows]
                missing = rows - len(part)
                fill = lambda x: np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1))  # noqa: B023
                yield {
                    "signal_a": fill(part),
                    "signal_b": fill(part),
                    "scale": np.ones((rows, 2)),
                    "valid": np.ones((rows, 5, 2), bool),
                    "pair": np.tile(np.array([own], np.int32), (rows, 1)),
                    "night": fill(np.arange(low, low + len(part)) // 2),
                    "weight": fill(np.ones(len(part))),
                }


def test_every_pair_is_reported_in_both_directions(tmp_path):
    evaluator = Retrieval(FakeContext(tmp_path), windows=8, batch_size=4)
    found = dict(evaluator.run({"noise": [0.0, 0.1, 30.0]}, 7))
    assert found["windows"] == 8
    assert found["chance"] == pytest.approx(1 / 8)
    assert found["times_chance"] == pytest.approx(8 * found["accuracy"])
    report = json.loads((tmp_path / "retrieval_validation.json").read_text())
    by_way = {(row["from"], row["to"]): row["accuracy"] for row in report["pairs"]}
    assert len(by_way) == 6
    assert by_way["ibi", "eeg"] == by_way["eeg", "ibi"] == 1
    assert max(by_way["ibi", "ecg"], by_way["ecg", "eeg"]) < 0.5
    assert found["same_night"] == pytest.approx(1 / 7)
    assert (tmp_path / "figures" / "7_retrieval_validation.png").stat().st_size > 5000


def test_runs_on_different_modalities_are_compared_by_the_pairs_that_they_share(tmp_path):
    options = {"windows": 8, "batch_size": 4}
    evaluator = Retrieval(FakeContext(tmp_path), pairs=(("eeg", "ibi"),), **options)
    assert dict(evaluator.run({"noise": [0.0, 0.1, 30.0]}, 7))["accuracy"] == 1
    report = json.loads((tmp_path / "retrieval_validation.json").read_text())
    assert [(row["from"], row["to"]) for row in report["pairs"]] == [("ibi", "eeg"), ("eeg", "ibi")]
    with pytest.raises(ValueError, match=r"\['eeg', 'ppg'\] are not two of"):
        dict(Retrieval(FakeContext(tmp_path), pairs=(("eeg", "ppg"),), **options).run({}, 7))


def test_nights_of_some_sites_have_a_file_of_their_own(tmp_path):
    context = FakeContext(tmp_path)
    context.config = {"data": {"path": "nights", "sites": []}}
    evaluator = Retrieval(context, windows=8, batch_size=4, sites=("A", "B", "C"))
    assert evaluator.data.config == {"data": {"path": "nights", "sites": ["A", "B", "C"]}}
    assert dict(evaluator.run({"noise": [0.0, 0.0, 0.0]}, 7))["windows"] == 3  # as many as sites
    assert (tmp_path / "retrieval_validation_A_B_C.json").is_file()
    assert (tmp_path / "figures" / "7_retrieval_validation_A_B_C.png").is_file()
