"""Stages told by the nearest epochs of other people, of embeddings whose answer is known."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors
from toy_models import ROUGH, Roughness

from data_pipelines.synthetic.shortcuts import write_shortcut_cohort
from hypnos_jax import evaluate, sharding
from hypnos_jax.evaluators import knn
from hypnos_jax.probing.frozen_features import embed_nights, pooled
from hypnos_jax.tasks import PROBE_TASKS

TOLD = {"params": {"gain": jnp.ones(())}}


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    folder = tmp_path_factory.mktemp("knn")
    write_shortcut_cohort(folder / "nights", 14, 0, hours=0.2, names=ROUGH, progress=False)
    data = {"name": "modality_pairs", "path": str(folder / "nights"), "window_tokens": 8}
    config = {"seed": 0, "data": {**data, "fill": []}, "train": {"batch_size": 4}}
    mesh = sharding.make_mesh(data=1, devices=jax.local_devices()[:1])
    with jax.set_mesh(mesh):
        yield evaluate.Context(config, Roughness(), lambda seed: TOLD, mesh, folder)


def test_other_peoples_epochs_vote(context, monkeypatch):
    """As by hand, where so many components are kept that distances stay; no test night is read."""
    read = []

    def watched(*args, **options):
        for night, rows in embed_nights(*args, **options):
            read.append(night)
            yield night, rows

    monkeypatch.setattr(knn, "embed_nights", watched)
    found = dict(knn.Knn(context).run(TOLD, 7))
    assert {night.split for night in read} == {"train", "validation"}

    task, sets = PROBE_TASKS["staging"], {"train": ([], []), "validation": ([], [])}
    for night, rows in embed_nights(context, TOLD, splits=tuple(sets)):
        x, y = (
            pooled(rows, 30.0, by_record=False, pooling="mean"),
            task.labels(context.store, night),
        )
        sets[night.split][0].append(x[y >= 0])
        sets[night.split][1].append(y[y >= 0])
    (x, y), (asked, truth) = (map(np.concatenate, own) for own in sets.values())
    nearest = NearestNeighbors(n_neighbors=5).fit(x).kneighbors(asked, return_distance=False)
    said = np.array([np.bincount(y[own], minlength=5).argmax() for own in nearest])
    assert found["staging/accuracy"] == pytest.approx((said == truth).mean(), abs=0.02)
    assert found["staging/macro_f1"] > 0.3
    assert found["staging/kappa"] > 0.3
    report = json.loads((context.workdir / "knn_validation.json").read_text())
    assert report["step"] == 7
    own = report["tasks"]["staging"]
    assert own["splits"]["train"]["labels"] == len(y)
    assert np.sum(own["confusion"]) == own["splits"]["validation"]["labels"] == len(truth)
    nothing = dict(knn.Knn(context).run({"params": {"gain": jnp.zeros(())}}, 8))
    assert nothing["staging/kappa"] < found["staging/kappa"] - 0.2


def test_the_epochs_that_vote_are_few_where_asked_and_told(context):
    options = {"tasks": ["staging", "rhythm"], "most_epochs": 30, "pooling": "side_by_side"}
    few = knn.Knn(context, **options, fit="validation", score="test")
    found = dict(few.run(TOLD, 1))
    assert dict(few.run(TOLD, 1)) == found
    report = json.loads((context.workdir / "knn_test.json").read_text())
    told = report["tasks"]["staging"]["splits"]["validation"]
    assert told["labels"] == 30
    assert 30 / 24 <= told["nights"] <= told["of_nights"]
    assert report["left_out"] == {
        "rhythm": "no night of the validation split has labels and signal"
    }


@pytest.mark.parametrize(
    "options, message",
    [
        ({"score": "train"}, "knn: fit='train', score='train'; they are two of"),
        ({"pooling": "max"}, "knn: pooling='max'"),
        ({"neighbours": 0}, "knn: components, neighbours"),
        ({"tasks": ["snoring"]}, "no task 'snoring'"),
    ],
)
def test_a_vote_that_means_nothing_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        knn.Knn(None, **options)
