"""Sources: every example once an epoch, the same batch for any number of hosts, honest padding."""

import functools
import inspect
import pickle
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines import pipeline
from data_pipelines.shuffle import mix, permute
from data_pipelines.store import NightStore, StoreError, index_of
from data_pipelines.synthetic import write_tiny_nights, write_tiny_tokens


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens") / "store"
    write_tiny_tokens(folder, 1, nights=8, duration_s=200)
    return folder


@pytest.fixture(scope="module")
def signals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signals") / "store"
    write_tiny_nights(folder, 1, nights=2, minutes=4)
    return folder


def windows(path, split="train", seed=3, **options):
    return pipeline.load("token_windows", path=path, split=split, seed=seed, **options)


def take(iterator, count):
    try:
        return [next(iterator) for _ in range(count)]
    finally:
        iterator.close()


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_token_windows_have_the_documented_arrays(tokens):
    source = windows(tokens, window_s=50)
    (batch,) = take(source.batches(4, 0, 4, 0), 1)
    shapes = {name: (value.shape, value.dtype.name) for name, value in batch.items()}
    assert shapes == {
        "codes": ((4, 50, 32), "int32"),
        "present": ((4, 8), "bool"),
        "channel_ids": ((4, 8), "int32"),
        "valid": ((4, 50, 8), "bool"),
        "tracks": ((4, 50, 8, 2), "float32"),
        "weight": ((4,), "float32"),
    }
    modalities = source.describe()["modalities"]
    assert [m["name"] for m in modalities][:2] == ["eeg_c3", "eeg_c4"]
    assert set(modalities[0]) == {"name", "levels", "codes", "channel_id", "group"}


def test_signal_crops_have_the_documented_arrays(signals):
    source = pipeline.load(
        "signal_crops", path=signals, split="train", seed=0, signal_type="resp", crop_s=20
    )
    (batch,) = take(source.batches(6, 0, 6, 0), 1)
    shapes = {name: (value.shape, value.dtype.name) for name, value in batch.items()}
    assert shapes == {
        "signal": ((6, 640), "float32"),
        "valid": ((6, 20), "bool"),
        "channel_id": ((6,), "int32"),
        "weight": ((6,), "float32"),
    }
    assert set(batch["channel_id"]) <= {6, 7}
    assert np.isfinite(batch["signal"]).all()
    assert source.describe()["rate_hz"] == 32


def test_evaluation_visits_the_nights_of_its_split_in_order_and_no_other(tokens):
    store = NightStore(tokens)
    for split in ("train", "validation", "test"):
        source = windows(tokens, split, window_s=50)
        nights = store.select(split)
        assert source.num_examples == 4 * len(nights)
        (batch,) = source.evaluation_batches(source.num_examples)
        expected = [store.codes(night, at, at + 50) for night in nights for at in range(0, 200, 50)]
        np.testing.assert_array_equal(batch["codes"], expected)


@pytest.mark.parametrize("hosts", [2, 4, 8])
def test_the_global_batch_is_the_same_for_any_number_of_hosts(tokens, hosts):
    source = windows(tokens, window_s=20)
    (whole,) = take(source.batches(8, 0, 8, 5), 1)
    rows = 8 // hosts
    parts = [take(source.batches(8, i * rows, i * rows + rows, 5), 1)[0] for i in range(hosts)]
    same({k: np.concatenate([part[k] for part in parts]) for k in whole}, whole)


def test_a_batch_is_a_function_of_seed_and_step_alone(tokens):
    source = windows(tokens, window_s=20)
    straight = take(source.batches(4, 0, 4, 0), 40)  # more than one epoch
    for step in (0, 7, 13, 14, 39):
        again = windows(tokens, window_s=20, threads=1)
        same(take(again.batches(4, 0, 4, step), 1)[0], straight[step])
    other = take(windows(tokens, window_s=20, seed=4).batches(4, 0, 4, 0), 1)[0]
    assert (other["codes"] != straight[0]["codes"]).any()


def test_each_epoch_has_its_own_order_and_every_slot(tokens):
    source = windows(tokens, window_s=200)  # a night is one slot, one crop
    count = source.num_examples
    epochs = [
        [codes.tobytes() for codes in source.examples(e * count, (e + 1) * count)["codes"]]
        for e in range(3)
    ]
    assert len(set(epochs[0])) == count
    assert set(epochs[0]) == set(epochs[1]) == set(epochs[2])
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_evaluation_sees_every_example_once_and_pads_with_weight_zero(tokens):
    source = windows(tokens, window_s=50)
    batches = list(source.evaluation_batches(5))
    assert sum(int(batch["weight"].sum()) for batch in batches) == source.num_examples
    assert {len(batch["weight"]) for batch in batches} == {5}
    last = batches[-1]
    padding = last["weight"] == 0
    assert padding.sum() == -source.num_examples % 5
    assert not last["valid"][padding].any()
    assert len(list(source.evaluation_batches(5, 2))) == 2


def test_a_night_shorter_than_the_window_is_padded_as_invalid(tokens):
    source = windows(tokens, window_s=300)
    assert source.num_examples == len(NightStore(tokens).select("train"))
    example = source.examples(0, 1)
    assert example["valid"][:, :200].any()
    assert not example["valid"][:, 200:].any()
    assert not example["codes"][:, 200:].any()
    assert example["weight"] == 1


def test_some_modalities_can_be_chosen(tokens):
    whole = windows(tokens, window_s=50).examples(3, 4)
    source = windows(tokens, window_s=50, modalities=("ecg", "eeg_c4"))
    example = source.examples(3, 4)
    assert [m["name"] for m in source.describe()["modalities"]] == ["eeg_c4", "ecg"]
    assert example["channel_ids"].tolist() == [[1, 5]]
    columns = [4, 5, 6, 7, 20, 21, 22, 23]
    np.testing.assert_array_equal(example["codes"], whole["codes"][:, :, columns])


def test_fewer_training_nights_are_a_part_of_more_and_the_other_splits_stay(tokens):
    def seen(split, nights):
        source = windows(tokens, split, window_s=200, nights=nights)
        rows = source.examples(0, 64) if split == "train" else source.examples(0, 4)
        return {row.tobytes() for row in rows["codes"]}

    every = len(NightStore(tokens).select("train"))
    kept = [seen("train", count) for count in range(1, every + 1)]
    assert [len(own) for own in kept] == list(range(1, every + 1))
    assert all(few < more for few, more in zip(kept, kept[1:]))
    assert seen("train", 0) == kept[-1]
    assert seen("validation", 1) == seen("validation", 0)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("token_windows", {"nights": 99}, "config.data.nights=99: "),
        ("token_windows", {"modalities": ("ppg",)}, "no modality 'ppg'; it has ['eeg_c3'"),
        ("token_windows", {"split": "dev"}, "no night in split 'dev'"),
        ("signal_crops", {"signal_type": "ecg"}, "reads a store of signals"),
        ("tokens", {}, "no source named 'tokens'"),
    ],
)
def test_a_store_that_does_not_fit_says_why(tokens, name, options, message):
    with pytest.raises(pipeline.PipelineError) as error:
        pipeline.load(name, **{"path": tokens, "split": "train", "seed": 0, **options})
    assert message in str(error.value)


def test_a_missing_signal_type_says_what_there_is(signals):
    load = functools.partial(
        pipeline.load, "signal_crops", path=signals, split="train", seed=0, signal_type="spo2"
    )
    with pytest.raises(pipeline.PipelineError, match=r"no spo2 channel in split 'train'.*ecg"):
        load()


def damage(path, recording, channel=None):
    """Flip a bit in one record of a copy of a store; return the shard that it is in."""
    opened = NightStore(path)
    night = next(night for night in opened.nights if night.recording == recording)
    shard, row = opened._row(night, channel)
    field = "codes" if channel is None else "samples"
    place = opened._index(shard)[field][row] + 33
    content = bytearray(shard.read_bytes())
    content[24 * (place // (2**16 - 24) + 1) + place] ^= 64
    shard.write_bytes(content)
    return shard


@pytest.mark.parametrize("kind", ["tokens", "signals"])
def test_a_damaged_record_is_left_out_and_named_and_nothing_else_changes(
    kind, tokens, signals, tmp_path, caplog
):
    store_of = {"tokens": tokens, "signals": signals}[kind]
    shutil.copytree(store_of, tmp_path / "store")
    night = NightStore(store_of).select("train")[0]
    channel = None if kind == "tokens" else "ecg"
    shard = damage(tmp_path / "store", night.recording, channel)

    def batches(path):
        if kind == "tokens":
            return take(windows(path, window_s=50).batches(6, 0, 6, 0), 8)
        options = {"split": "train", "seed": 3, "signal_type": "ecg", "crop_s": 20}
        return take(pipeline.load("signal_crops", path=path, **options).batches(6, 0, 6, 0), 8)

    whole, found = batches(store_of), batches(tmp_path / "store")
    missing = 0
    for ours, theirs in zip(found, whole, strict=True):
        out = ours["weight"] != theirs["weight"]
        missing += out.sum()
        assert not ours["valid"][out].any()
        for name in {"signal", "codes", "tracks"} & ours.keys():
            assert not ours[name][out].any()
        same({k: v[~out] for k, v in ours.items()}, {k: v[~out] for k, v in theirs.items()})
    assert 0 < missing < 48
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    for word in (str(tmp_path / "store"), shard.name, repr(night.recording), channel or "damaged"):
        assert word in told[0]


def test_many_damaged_records_end_the_run(tokens, tmp_path):
    shutil.copytree(tokens, tmp_path / "store")
    for night in NightStore(tokens).select("train")[:2]:
        damage(tmp_path / "store", night.recording)
    with pytest.raises(StoreError, match=r"2 of \d+ records .* config.data.max_damaged allows 1"):
        take(windows(tmp_path / "store", window_s=50).batches(6, 0, 6, 0), 8)
    with pytest.raises(StoreError, match="max_damaged allows 0"):
        take(windows(tmp_path / "store", max_damaged=0).batches(6, 0, 6, 0), 8)
    take(windows(tmp_path / "store", max_damaged=0.5).batches(6, 0, 6, 0), 8)


@pytest.mark.parametrize("harm", ["shorten", "index", "empty"])
def test_a_damaged_shard_is_named(tokens, tmp_path, harm):
    shutil.copytree(tokens, tmp_path / "store")
    source = windows(tmp_path / "store", max_damaged=0)
    shard, _ = source.store._row(source.store.select("train")[0], None)
    if harm == "index":
        index = index_of(shard)
        index.write_bytes(index.read_bytes()[:-9] + b"x" + index.read_bytes()[-8:])
    else:
        shard.write_bytes(shard.read_bytes()[: len(shard.read_bytes()) // 2 * (harm == "shorten")])
    with pytest.raises(StoreError) as error:
        take(source.batches(64, 0, 64, 0), 1)
    assert shard.name in str(error.value)
    assert "night '" in str(error.value)


def drawing(seconds, crop_s, seed=0):
    """A source of crops of nothing, for its draws and the starts of its evaluation."""
    read = lambda stretches, starts: {"stretch": stretches, "start": starts}
    return pipeline.Source(None, seconds, crop_s, read, {}, seed=seed, threads=1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 900), min_size=1, max_size=5), st.integers(1, 300))
def test_an_epoch_takes_as_many_crops_of_each_stretch_as_fit_and_all_lie_inside(seconds, crop_s):
    source = drawing(seconds, crop_s)
    stretch, start = source.draws(0, source.num_examples)
    slots = np.maximum(1, np.array(seconds) // crop_s)
    assert source.num_examples == slots.sum()
    np.testing.assert_array_equal(np.bincount(stretch, minlength=len(seconds)), slots)
    assert (start >= 0).all()
    assert (start + crop_s <= np.maximum(seconds, crop_s)[stretch]).all()
    (batch,) = source.evaluation_batches(source.num_examples)
    np.testing.assert_array_equal(batch["stretch"], np.repeat(np.arange(len(seconds)), slots))
    np.testing.assert_array_equal(
        batch["start"], np.concatenate([np.arange(n) * crop_s for n in slots])
    )


def test_over_epochs_crops_start_at_every_second_alike():
    source = drawing([100, 47], 10)
    stretch, start = source.draws(0, 4000 * source.num_examples)
    for night, seconds, slots in ((0, 100, 10), (1, 47, 4)):
        starts, counts = np.unique(start[stretch == night], return_counts=True)
        assert starts.tolist() == list(range(seconds - 9))
        expected = 4000 * slots / len(starts)
        # Slots are of 9 or 10 starts, and a count varies by its square root.
        assert (np.abs(counts - expected) < 0.3 * expected).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_a_permutation_takes_every_place_once(count, key):
    places = permute(np.arange(count), count, np.full(count, key, np.uint64))
    assert sorted(places.tolist()) == list(range(count))


def test_orders_of_many_epochs_are_uniform_and_neighbours_are_parted():
    count, epochs = 37, 6000
    keys = mix(np.repeat(np.arange(epochs), count))
    places = permute(np.tile(np.arange(count), epochs), count, keys).reshape(epochs, count)
    for column in (places[:, 0], places[:, 36], (places[:, 8] - places[:, 7]) % count):
        found = np.bincount(column, minlength=count)
        # The difference of two places is never 0; 5 standard deviations of a count.
        expected = epochs / (count - (found[0] == 0))
        assert (np.abs(found[1:] - expected) < 5 * expected**0.5).all()


def test_a_store_can_be_pickled_for_other_processes(tokens):
    store = pickle.loads(pickle.dumps(NightStore(tokens)))
    night = store.nights[0]
    np.testing.assert_array_equal(
        store.codes(night, 0, 9), NightStore(tokens).codes(store.nights[0], 0, 9)
    )


def test_every_source_of_the_folder_keeps_its_contract():
    names = pipeline.source_names()
    assert {"signal_crops", "token_windows", "modality_pairs", "modality_nights"} <= set(names)
    for name in names:
        module = pipeline.find_source(name)
        assert module.TOKEN_S >= 1
        assert isinstance(module.describe_paper(), dict)
        assert callable(module.open_source) and callable(module.write_tiny)
        options = inspect.signature(module.open_source).parameters
        assert {"split", "seed", "max_damaged", "threads"} <= set(options), name
