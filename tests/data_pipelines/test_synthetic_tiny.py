"""Tiny stores: every split and stage is there, and there is something to learn."""

import pathlib

import numpy as np
import pytest

from data_pipelines import pipeline
from data_pipelines.recipes.hypnos import EIGHT
from data_pipelines.store import SPLITS, NightStore
from data_pipelines.synthetic import write_tiny_nights, write_tiny_tokens


def contents(folder):
    files = (p for p in pathlib.Path(folder).rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def signals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "nights"
    write_tiny_nights(folder, seed=0)
    return NightStore(folder)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "tokens"
    write_tiny_tokens(folder, seed=0)
    return NightStore(folder)


def test_tiny_nights_have_all_channels_stages_and_splits(signals):
    signals.verify()
    for split in SPLITS:
        assert signals.select(split)
    for night in signals.nights:
        assert night.channels == EIGHT
        stages = signals.stages(night)
        assert set(stages.tolist()) == {0, 1, 2, 3, 4}
        for name in night.channels:
            signal = signals.signal(night, name, 60, 120)
            assert 0.2 < signal.std() < 4


@pytest.mark.parametrize("signal_type", ["eeg", "eog", "emg", "ecg", "resp"])
def test_tiny_nights_feed_every_tokenizer(signals, signal_type):
    for split in SPLITS:
        options = {"path": signals.path, "split": split, "seed": 0}
        source = pipeline.load("signal_crops", **options, signal_type=signal_type, crop_s=30)
        assert source.examples(0, 1)["weight"] == 1


def test_tiny_tokens_can_be_learnt(tokens):
    tokens.verify()
    assert [m["name"] for m in tokens.modalities] == list(EIGHT)
    first, second = 0, 1  # the first two levels of the first modality
    seen = {}
    pairs = []
    for split in ("train", "validation"):
        for night in tokens.select(split):
            codes = tokens.codes(night, 0, night.duration_s)
            now, then = codes[1:, first].tolist(), codes[:-1, first].tolist()
            own = zip(then, now, strict=True)
            if split == "train":
                for a, b in own:
                    seen.setdefault(a, []).append(b)
            else:
                pairs += own
            assert codes[:, second].max() < 64
    guess = {a: max(set(b), key=b.count) for a, b in seen.items()}
    right = np.mean([guess.get(a) == b for a, b in pairs])
    assert right > 0.4  # by chance 1/64; the marginal's best guess is below 0.2


def test_tokens_take_given_modalities(tmp_path):
    modalities = [
        {"name": "ecg", "levels": 2, "codes": 16, "channel_id": 5, "signal_type": "ecg"},
        {"name": "eeg_c4", "levels": 3, "codes": 8, "channel_id": 1, "signal_type": "eeg"},
    ]
    write_tiny_tokens(tmp_path / "a", seed=1, modalities=modalities, nights=8, duration_s=90)
    store = NightStore(tmp_path / "a")
    assert store.modalities == modalities
    codes = store.codes(store.nights[0], 0, 90)
    assert codes.shape == (90, 5)
    assert codes[:, :2].max() < 16
    assert codes[:, 2:].max() < 8


def test_same_seed_same_bytes_other_seed_others(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_tiny_tokens(tmp_path / name / "tokens", seed=seed, nights=3, duration_s=60)
        write_tiny_nights(tmp_path / name / "nights", seed=seed, nights=3, minutes=3.5)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")
