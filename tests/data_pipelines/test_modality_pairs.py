"""Pairs of modalities: one pair a batch, each as often, the same for any number of hosts."""

import collections
import itertools

import jax
import numpy as np
import pytest

from data_pipelines import pipeline
from data_pipelines.recipes.sleep2vec import NINE
from data_pipelines.recipes.sleep2vec import ROWS as MODALITIES
from data_pipelines.sources import modality_pairs
from data_pipelines.store import NightStore
from data_pipelines.synthetic import write_tiny_modalities, write_tiny_nights


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """Eight nights of 48 tokens; airflow is missing in one that is trained on."""
    folder = tmp_path_factory.mktemp("modalities") / "store"
    write_tiny_modalities(folder, 1)
    return folder


def pairs(path, split="train", seed=3, **options):
    return pipeline.load("modality_pairs", path=path, split=split, seed=seed, **options)


def take(iterator, count):
    try:
        return [next(iterator) for _ in range(count)]
    finally:
        iterator.close()


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_fewer_training_nights_of_some_sites(nights):
    few = pairs(nights, nights=1, sites=("A",))
    assert 0 < few.num_examples < pairs(nights, sites=("A",)).num_examples
    assert few.describe()["sites"] == pairs(nights, sites=("A",)).describe()["sites"]
    few, whole = (pairs(nights, "validation", nights=count) for count in (1, 0))
    assert few.num_examples == whole.num_examples


def test_batches_have_the_documented_arrays(nights):
    source = pairs(nights, window_tokens=16)
    (batch,) = take(source.batches(4, 0, 4, 0), 1)
    about = source.describe()
    assert [m["name"] for m in about["modalities"]] == list(NINE)
    assert about["sites"] == ["A", "B", "nan"]
    assert about["pairs"] == [list(pair) for pair in itertools.combinations(NINE, 2)]
    assert source.token_s == about["token_s"] == 30
    expected = modality_pairs.shapes(
        {"window_tokens": 16}, {"model": {"modalities": about["modalities"]}}
    )
    found = {name: (value.dtype, *value.shape[1:]) for name, value in batch.items()}
    assert found == {name: (np.dtype(kind), *shape) for name, (kind, *shape) in expected.items()}
    assert about["modalities"] == modality_pairs.describe_paper()["modalities"]


def test_no_batch_mixes_pairs_and_every_row_is_what_the_store_holds(nights):
    store, seen = NightStore(nights), set()
    source = pairs(nights, window_tokens=16)
    for batch in take(source.batches(8, 0, 8, 0), 72):
        assert (batch["pair"] == batch["pair"][0]).all()
        seen.add(tuple(batch["pair"][0].tolist()))
        for side, key in enumerate(("signal_a", "signal_b")):
            modality = MODALITIES[NINE[batch["pair"][0, side]]]
            for row in (0, 7):
                night = store.nights[batch["night"][row]]
                assert modality.name in night.channels
                assert night.split == "train"
                at = 30 * batch["start"][row]
                expected = store.signal(night, modality.name, at, at + 480)
                signal = batch[key][row].astype(np.float32) * batch["scale"][row, side]
                np.testing.assert_array_equal(
                    signal[:, : modality.frames].reshape(-1), expected.reshape(-1)
                )
                assert not signal[:, modality.frames :].any()
                valid = store.valid(night, modality.name, at, at + 480).reshape(16, 30)
                np.testing.assert_array_equal(
                    batch["valid"][row, :, side], valid.mean(axis=1) >= 0.5
                )
    # Both orders occur: more kinds of batches than there are pairs.
    assert len(seen) > 40
    assert {tuple(sorted(pair)) for pair in seen} == set(itertools.combinations(range(9), 2))


def test_people_are_numbers_and_unknown_is_minus_one(nights):
    store, source = NightStore(nights), pairs(nights, window_tokens=48)
    rows = source.rows(0, source.num_examples, 0, source.num_examples)
    found = {}
    for at in range(len(rows["night"])):
        person = store.nights[rows["night"][at]].subject.rpartition("-")[2]
        found[person] = tuple(int(rows[name][at]) for name in ("age", "sex", "site", "subject"))
    # Person 2 is of the validation, person 4 of the test; "A" is of every third person.
    assert found == {
        "0": (25, 0, 1, 0),
        "1": (34, 1, 0, 1),
        "3": (52, -1, 1, 3),
        "5": (70, 1, 0, 5),
    }
    assert pairs(nights, "validation").rows(0, 1, 0, 1)["age"] == -1
    assert (
        pairs(nights, "test").describe()["sites"][pairs(nights, "test").rows(0, 1, 0, 1)["site"][0]]
        == "nan"
    )


def test_pairs_are_drawn_alike_over_ten_thousand_batches(nights):
    source = pairs(nights)
    drawn = [source.pair(step) for step in range(10_000)]
    counts = np.bincount([pair for pair, _ in drawn], minlength=36)
    assert (np.abs(counts / (10_000 / 36) - 1) < 0.05).all()
    assert np.mean([swapped for _, swapped in drawn]) == pytest.approx(0.5, abs=0.02)
    # Not the same round again and again.
    assert len({tuple(pair for pair, _ in drawn[i * 36 : i * 36 + 36]) for i in range(20)}) == 20


def test_pairs_are_drawn_by_their_weights(nights):
    weights = [0.0] * 36
    weights[3], weights[7], weights[35] = 5, 1, 2
    source = pairs(nights, pair_weights=tuple(weights))
    counts = collections.Counter(source.pair(step)[0] for step in range(3000))
    assert set(counts) == {3, 7, 35}
    for pair in counts:
        assert counts[pair] / 3000 == pytest.approx(weights[pair] / 8, abs=0.02)


def test_a_batch_has_no_window_twice_unless_its_pool_is_smaller(nights):
    source = pairs(nights, window_tokens=16)
    for step in range(50):
        pair, _ = source.pair(step)
        pool = len(source._pools[pair])
        assert pool == (15 if 8 in source.pairs[pair] else 18)
        batch = source.rows(step, 15, 0, 15)
        windows = set(zip(batch["night"].tolist(), batch["start"].tolist(), strict=True))
        assert len(windows) == 15
        many = source.rows(step, 2 * pool, 0, 2 * pool)
        counts = collections.Counter(zip(many["night"].tolist(), many["start"].tolist()))
        assert set(counts.values()) == {2}


@pytest.mark.parametrize("hosts", [2, 4])
def test_the_rows_of_the_hosts_partition_the_batch(nights, hosts):
    source = pairs(nights, window_tokens=16)
    (whole,) = take(source.batches(8, 0, 8, 5), 1)
    rows = 8 // hosts
    parts = [take(source.batches(8, i * rows, i * rows + rows, 5), 1)[0] for i in range(hosts)]
    same({k: np.concatenate([part[k] for part in parts]) for k in whole}, whole)


def test_a_batch_is_a_function_of_seed_and_step_alone(nights):
    straight = take(pairs(nights, window_tokens=16).batches(4, 0, 4, 0), 40)
    for step in (0, 13, 39):
        again = pairs(nights, window_tokens=16, threads=1)
        same(take(again.batches(4, 0, 4, step), 1)[0], straight[step])
    other = take(pairs(nights, window_tokens=16, seed=4).batches(4, 0, 4, 0), 10)
    assert any((a["pair"] != b["pair"]).any() for a, b in zip(other, straight))


def test_arrays_that_serve_again_are_those_that_nobody_holds(nights):
    source = pairs(nights, window_tokens=20)  # windows of 20 and of 8 tokens, of both rates
    held = []
    for step in range(60):
        batch = source.rows(step, 5, 0, 5)
        fresh = pairs(nights, window_tokens=20).rows(step, 5, 0, 5)
        same(batch, fresh)
        if step % 7 == 0:
            # Views, and what jax may have taken without a copy, hold the memory too.
            held.append((batch["signal_a"][1:], jax.device_put(batch["signal_b"]), fresh))
    for view, on_device, fresh in held:
        np.testing.assert_array_equal(view, fresh["signal_a"][1:])
        np.testing.assert_array_equal(on_device, fresh["signal_b"])


def test_evaluation_takes_every_pair_in_turn_over_all_windows_that_have_it(nights):
    source = pairs(nights, window_tokens=16)
    seen = collections.defaultdict(list)
    for batch in source.evaluation_batches(7):
        assert (batch["pair"] == batch["pair"][0]).all()
        assert len(batch["weight"]) == 7
        real = batch["weight"] > 0
        assert not batch["signal_a"][~real].any()
        keys = zip(batch["night"][real].tolist(), batch["start"][real].tolist(), strict=True)
        seen[tuple(batch["pair"][0].tolist())] += keys
    assert list(seen) == list(itertools.combinations(range(9), 2))
    for pair, windows in seen.items():
        assert len(windows) == len(set(windows)) == (15 if 8 in pair else 18)


def test_evaluation_under_a_limit_is_spread_over_the_pairs(nights):
    source = pairs(nights, window_tokens=16)
    few = [tuple(b["pair"][0].tolist()) for b in source.evaluation_batches(7, 40)]
    assert len(few) == 40
    assert len(set(few)) == 36
    fewer = [tuple(b["pair"][0].tolist()) for b in source.evaluation_batches(7, 6)]
    assert len(set(fewer)) == 6
    assert len({pair[0] for pair in fewer}) > 3


def test_windows_do_not_overlap_and_the_last_is_kept_from_thirty_tokens_on(tmp_path):
    write_tiny_modalities(tmp_path / "long", nights=1, tokens=151, names=("ibi", "spo2"))
    source = pairs(tmp_path / "long")
    batch = source.rows(0, source.num_examples, 0, source.num_examples)
    assert sorted(batch["start"].tolist()) == [0, 120]
    last = batch["start"] == 120
    assert batch["valid"][~last].all()
    assert batch["valid"][last, :31].all()
    assert not batch["valid"][last, 31:].any()
    assert not batch["signal_a"][last, 31:].any()
    assert pairs(tmp_path / "long", min_tokens=32).num_examples == 1
    assert pairs(tmp_path / "long", window_tokens=150).num_examples == 1
    write_tiny_modalities(tmp_path / "short", nights=1, tokens=29, names=("ibi", "spo2"))
    with pytest.raises(pipeline.EmptySplitError, match="no night of 30 tokens"):
        pairs(tmp_path / "short")
    # A window shorter than the least is whole nevertheless.
    assert pairs(tmp_path / "short", window_tokens=10).num_examples == 2


def test_a_store_or_option_that_does_not_fit_says_why(nights, tmp_path):
    with pytest.raises(pipeline.PipelineError, match="no modality 'ppg'; it has .*airflow"):
        pairs(nights, modalities=("eeg", "ppg"))
    with pytest.raises(pipeline.PipelineError, match="a pair needs two modalities"):
        pairs(nights, modalities=("eeg",))
    with pytest.raises(pipeline.PipelineError, match="2 numbers for the 3 pairs of"):
        pairs(nights, modalities=("ibi", "resp", "eeg"), pair_weights=(1, 2))
    with pytest.raises(pipeline.PipelineError, match="not weights"):
        pairs(nights, modalities=("ibi", "resp"), pair_weights=(-1,))
    write_tiny_nights(tmp_path / "channels", nights=1, minutes=4)
    with pytest.raises(pipeline.PipelineError, match="prepare_nights --recipe=sleep2vec"):
        pairs(tmp_path / "channels")
