"""The model as scikit-learn's transformer: what it takes, what it refuses, where it fits in."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks
from test_embed_folder import write_recording
from tiny_models import random_variables, rq_config, token_batch, write_run, write_tokenizers

from hypnos_jax.export.model import ModelError
from hypnos_jax.export.write import export
from hypnos_jax.inference.embed import embed_raw, embed_recording
from hypnos_jax.inference.estimator import SleepEmbedder

ECG = [{"name": "ecg", "levels": 2, "codes": 16, "channel_id": 5, "group": "ecg"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_tokenizers(folder / "tokenizers", ["ecg"])
    config = rq_config(modalities=ECG)
    write_run(folder / "run", config, random_variables(config, token_batch(modalities=ECG)))
    export(folder / "run", folder / "export", tokenizers=folder / "tokenizers", programs=False)
    return folder / "export"


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    left_out = ["C3-M2", "C4-M1", "ABD"]
    return [write_recording(folder / f"n{i}.edf", seed=i, without=left_out) for i in range(4)]


@pytest.fixture(scope="module")
def fitted(model, paths):
    return SleepEmbedder(model, mains_hz=50).fit(paths)


def beats(seed, seconds=120, rate_hz=128):
    rng = np.random.default_rng(seed)
    t = np.arange(seconds * rate_hz) / rate_hz
    return 20 * rng.standard_normal(len(t)) + 1000 * (np.mod(t, 0.9) < 0.03)


def test_a_row_a_recording_is_the_mean_of_its_epochs(fitted, model, paths):
    rows = fitted.transform(paths)
    assert rows.shape == (4, 16)
    assert rows.dtype == np.float32
    epochs = embed_recording(model, paths[2], mains_hz=50).epochs
    np.testing.assert_array_equal(rows[2], epochs.astype(np.float32).mean(0))


def test_epochs_and_seconds_tell_whose_and_when(fitted, paths):
    for unit, length, step_s in (("epoch", 4, 30), ("row", 120, 1)):
        finer = clone(fitted).set_params(unit=unit).fit(paths[:2])
        rows, places, times_s = finer.rows(paths[:2])
        assert rows.shape == (2 * length, 16)
        np.testing.assert_array_equal(places, np.repeat([0, 1], length))
        np.testing.assert_array_equal(times_s, np.tile(step_s * np.arange(length), 2))


def test_arrays_dicts_and_raws_are_recordings(fitted, paths):
    signals = np.stack([beats(seed) for seed in (0, 1)])
    by_name = fitted.transform([{"ecg": (x, 128)} for x in signals])
    by_label = fitted.transform([{"ECG": (x, 128), "nothing": (x, 50)} for x in signals])
    np.testing.assert_array_equal(by_name, by_label)
    stacked = clone(fitted).set_params(channels=["ecg"], sfreq_hz=128)
    np.testing.assert_array_equal(stacked.fit_transform(signals[:, None]), by_name)

    mne = pytest.importorskip("mne")
    raw = mne.io.read_raw_edf(paths[0], verbose="error")
    np.testing.assert_allclose(fitted.transform([raw]), fitted.transform(paths[:1]), atol=0.05)
    rows, times_s = embed_raw(fitted.model, raw, mains_hz=50)
    assert rows.shape == (4, 16)
    np.testing.assert_array_equal(times_s, [0, 30, 60, 90])


def test_it_works_in_pipelines_folds_and_other_processes(fitted, paths):
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.transform(paths[:1]), fitted.transform(paths[:1]))
    probe = make_pipeline(clone(fitted), LogisticRegression())
    answers = cross_val_predict(probe, paths, [0, 1, 0, 1], cv=2)
    assert set(answers) <= {0, 1}
    named = probe.fit(paths, [0, 1, 0, 1])[:-1].get_feature_names_out()
    assert list(named[:2]) == ["sleepembedder0", "sleepembedder1"]
    assert len(named) == 16


@pytest.mark.slow
def test_joblib_carries_it_to_workers(fitted, paths):
    probe = make_pipeline(clone(fitted), LogisticRegression())
    one, two = (cross_val_predict(probe, paths, [0, 1, 0, 1], cv=2, n_jobs=n) for n in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_a_bad_recording_is_named_or_a_row_of_nan(fitted, paths, tmp_path, caplog):
    broken = tmp_path / "broken.edf"
    broken.write_bytes(b"0" * 100)
    items = [paths[0], broken, {"ecg": (np.zeros(128 * 60), 128)}]
    with pytest.raises(ValueError, match=r"X\[1\] \(broken\) cannot be embedded"):
        fitted.transform(items)
    with pytest.raises(
        ValueError, match=r"X\[0\] \(dict\) cannot be embedded: .*no usable channel"
    ):
        fitted.transform(items[2:])
    rows = clone(fitted).set_params(on_error="nan").fit(items).transform(items)
    assert np.isfinite(rows[0]).all()
    assert np.isnan(rows[1:]).all()
    assert "X[1] (broken)" in caplog.text


@pytest.mark.parametrize(
    ("changes", "given", "message"),
    [
        ({"unit": "night"}, ["a.edf"], "unit='night' is not one of"),
        ({"on_error": "skip"}, ["a.edf"], "on_error='skip' is not one of"),
        ({"modalities": ["eeg_c3"]}, ["a.edf"], "no modality 'eeg_c3'"),
        ({"model": None}, ["a.edf"], "model=None; give the path"),
        ({}, "a.edf", "X is one str; give a sequence"),
        ({}, np.zeros((2, 1, 128)), "give channels= and sfreq_hz="),
        ({"channels": ["ecg", "c3"], "sfreq_hz": 128}, np.zeros((2, 1, 128)), "as many as axis 1"),
        ({}, np.zeros((2, 128)), r"an array is \[n, channels, samples\]"),
        ({}, [{"ecg": 5}], None),
    ],
)
def test_what_it_cannot_take_is_said_when_fitting(fitted, changes, given, message):
    estimator = clone(fitted).set_params(**changes)
    if message is None:  # a list is not looked into before it is embedded
        with pytest.raises(
            ValueError, match=r"X\[0\] \(dict\) .*'ecg' is no \(array, rate in Hz\)"
        ):
            estimator.fit(given).transform(given)
        return
    with pytest.raises(ValueError, match=message):
        estimator.fit(given)


def test_a_model_that_is_none_is_refused_and_none_is_used_unfitted(tmp_path, paths):
    with pytest.raises(ModelError, match="not a folder"):
        SleepEmbedder(tmp_path / "nothing").fit(paths)
    with pytest.raises(NotFittedError):
        SleepEmbedder(tmp_path).transform(paths)


# Those of scikit-learn's own checks that do not feed tables of numbers.
@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_estimator_cloneable,
        estimator_checks.check_estimator_repr,
        estimator_checks.check_estimator_tags_renamed,
        estimator_checks.check_get_params_invariance,
        estimator_checks.check_no_attributes_set_in_init,
        estimator_checks.check_parameters_default_constructible,
        estimator_checks.check_set_params,
        estimator_checks.check_valid_tag_types,
    ],
    ids=lambda check: check.__name__,
)
def test_it_keeps_the_rules_of_scikit_learn(check):
    check("SleepEmbedder", SleepEmbedder())
