"""The small network that is trained from scratch as a row of comparisons."""

import numpy as np
import pytest

from data_pipelines.builders.night_builder import write_store
from data_pipelines.store import ChannelSignal, Night, NightStore
from hypnos_jax.probing import comparison, small_network


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Nights of 8 Hz whose stages are the loudness of their EEG; one person in five is tested."""
    folder = tmp_path_factory.mktemp("nights")

    def night(index):
        rng = np.random.default_rng(index)
        stages = rng.integers(0, 2, 40) * 2
        loud = np.repeat(0.2 + stages, 30 * 8)
        samples = {"eeg_c3": loud * rng.normal(size=len(loud)), "ecg": rng.normal(size=len(loud))}
        channels = {
            name: ChannelSignal(name, 8, x.astype("f4"), np.ones(1200, bool), np.zeros((1200, 2)))
            for name, x in samples.items()
        }
        split = ("train", "train", "train", "validation", "test")[index % 5]
        return Night(f"n{index}", f"p{index}", split, channels, stages.astype(np.int8))

    write_store(
        folder, kind="signals", items={f"n{i}": i for i in range(10)}, make_night=night,
        provenance={}, progress=False,
    )  # fmt: skip
    return NightStore(folder)


@pytest.mark.slow
def test_it_learns_the_labels_and_the_most_frequent_stage_does_not(store, tmp_path, monkeypatch):
    monkeypatch.setattr(small_network, "BATCH", 24)
    monkeypatch.setattr(small_network, "PASSES", 15)
    assert small_network.channels_of(store) == ["eeg_c3"]
    results = comparison.Results(tmp_path, [store], ())
    trained, majority = results.of_trained(), results.of_majority()
    assert sorted(trained["counts"]) == ["n4", "n9"]  # test people alone
    assert trained["parameters"] < 10_000 and trained["epochs"] == 240
    methods = {comparison.TRAINED: [trained], comparison.MAJORITY: [majority]}
    found = comparison.judge(store, methods, ())
    assert found[comparison.TRAINED]["seen"]["kappa"] > 0.9
    assert found[comparison.MAJORITY]["seen"]["kappa"] == pytest.approx(0)
    assert results.of_trained()["counts"] == trained["counts"]  # kept
