"""Windows of nights with labels: every token once, few shots nested, labels where scored."""

import dataclasses
import itertools
import types

import numpy as np
import pytest
from hypothesis import given, settings, strategies

from data_pipelines import pipeline, splits
from data_pipelines.builders.night_builder import write_store
from data_pipelines.labels import EVENT_LABELS
from data_pipelines.recipes.sleep2vec import NINE
from data_pipelines.recipes.sleep2vec import ROWS as MODALITIES
from data_pipelines.recordings.base import RecordingError
from data_pipelines.scoring import Event
from data_pipelines.sources import modality_nights
from data_pipelines.store import ChannelSignal, Night, NightStore
from data_pipelines.synthetic import write_tiny_modalities
from data_pipelines.windows import Windows


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modalities") / "store"
    write_tiny_modalities(folder, 1)
    return folder


def load(path, split="train", seed=3, **options):
    return pipeline.load("modality_nights", path=path, split=split, seed=seed, **options)


def everything(source):
    return source.examples(0, source.num_examples)


def windows_of(batch):
    return set(zip(batch["night"].tolist(), batch["start"].tolist(), strict=True))


def test_batches_have_the_documented_arrays(nights):
    source = load(nights, window_tokens=20)
    feed = source.batches(4, 0, 4, 0)
    batch = next(feed)
    feed.close()
    about = source.describe()
    expected = modality_nights.shapes(
        {"window_tokens": 20},
        {
            "backbone": {"modalities": about["modalities"]},
            "outcomes": about["outcomes"],
            "survival": about["survival"],
        },
    )
    found = {name: (value.dtype, *value.shape[1:]) for name, value in batch.items()}
    assert found == {name: (np.dtype(kind), *shape) for name, (kind, *shape) in expected.items()}
    assert about["outcomes"] == about["survival"] == ["marked"]
    assert source.token_s == 30
    # What is told of ages is the training split's, whichever split is asked.
    ages = [25, 25, 34, 34, 52, 70]
    for split in ("train", "test"):
        about = load(nights, split).describe()
        assert about["age_mean"] == pytest.approx(np.mean(ages))
        assert about["age_sd"] == pytest.approx(np.std(ages))


def test_evaluation_covers_every_token_of_every_night_once(nights):
    store, source = NightStore(nights), load(nights, window_tokens=20)
    found = np.zeros((len(store.nights), 48), int)
    for batch in source.evaluation_batches(4):
        for row in np.flatnonzero(batch["weight"]):
            night, start = batch["night"][row], batch["start"][row]
            entry = store.nights[night]
            tokens = min(20, 48 - start)
            found[night, start : start + tokens] += 1
            stages = store.stages(entry)
            np.testing.assert_array_equal(batch["stage"][row, :tokens], stages[start:][:20])
            assert (batch["stage"][row, tokens:] == -1).all()
            assert (batch["apnea"][row, tokens:] == -1).all()
            assert not batch["valid"][row, tokens:].any()
            for m, name in enumerate(NINE):
                assert batch["present"][row, m] == (name in entry.channels)
                expected = store.signal(entry, name, 30 * start, 30 * (start + 20))
                signal = batch[f"signal/{name}"][row] * batch["scale"][row, m]
                np.testing.assert_array_equal(signal.reshape(-1), expected)
    train = [night.split == "train" for night in store.nights]
    assert (found == np.array(train)[:, None]).all()


def test_an_epoch_of_training_visits_every_window_once_in_its_own_order(nights):
    source = load(nights, window_tokens=20)
    count = source.num_examples
    epochs = [source.examples(e * count, (e + 1) * count) for e in range(2)]
    assert len(windows_of(epochs[0])) == len(windows_of(epochs[1])) == count
    assert (epochs[0]["start"] != epochs[1]["start"]).any()


def test_few_shots_are_nested_and_do_not_depend_on_the_seed(nights):
    chosen = [
        windows_of(everything(load(nights, window_tokens=10, few_shot=shots, seed=seed)))
        for seed, shots in enumerate((1, 4, 0.5, 20))
    ]
    assert [len(windows) for windows in chosen] == [1, 4, 15, 20]
    assert all(few < many for few, many in itertools.pairwise(chosen))
    other = everything(load(nights, window_tokens=10, few_shot=4, few_shot_seed=1))
    assert windows_of(other) != chosen[1]
    # Nothing is left out of what is evaluated.
    assert load(nights, "test", window_tokens=10, few_shot=2).num_examples == 5
    assert load(nights, window_tokens=10, few_shot=1e6).num_examples == 30


def test_sites_and_labels_can_be_chosen(nights):
    source = load(nights, sites=("A",))
    assert set(everything(source)["site"]) == {0}
    assert source.describe()["sites"] == ["A", "B", "nan"]
    with pytest.raises(pipeline.PipelineError, match=r"no site 'C'; it has \['A', 'B', 'nan'\]"):
        load(nights, sites=("C",))
    with pytest.raises(pipeline.PipelineError, match="no outcome 'cured'; it has"):
        load(nights, labels=("cured",))
    batch = everything(load(nights, labels=("marked",)))
    assert set(batch["outcomes"][:, 0]) == {0, 1}


def test_a_recording_gives_the_windows_of_its_night(nights):
    store, source = NightStore(nights), load(nights, window_tokens=20)
    modalities = source.describe()["modalities"]
    expected = modality_nights.embed_shapes(modalities)
    feed = itertools.chain.from_iterable(
        ({key: value[row] for key, value in batch.items()} for row in range(4))
        for batch in source.evaluation_batches(4)
    )
    for night in store.select("train")[:2]:
        signals = {name: store.channel(night, name) for name in night.channels}
        batches = list(
            modality_nights.recording_batches(
                signals, data={"window_tokens": 20}, modalities=modalities
            )
        )
        assert len(batches) == 3  # of 48 tokens
        for made, stored in zip(batches, feed):
            shapes = {name: value.shape[1:] for name, value in made.items() if name != "tokens"}
            assert shapes == {
                name: tuple(20 if n == "T" else n for n in shape)
                for name, (_, *shape) in expected.items()
            }
            for name in ("present", "valid", "weight"):
                np.testing.assert_array_equal(made[name][0], stored[name])
            for m, name in enumerate(NINE):
                signal = made[f"signal/{name}"]
                assert signal.dtype == np.float32 and made["scale"][0, m] == 1
                expected_signal = stored[f"signal/{name}"] * stored["scale"][m]
                np.testing.assert_array_equal(signal[0], expected_signal)
            assert made["tokens"] == min(20, 48 - stored["start"])


def test_a_recording_of_nothing_that_the_model_reads_is_refused(nights):
    store = NightStore(nights)
    modalities = load(nights).describe()["modalities"]
    eeg = store.channel(store.nights[0], "eeg")
    short = ChannelSignal("eeg", 128, eeg.samples[: 29 * 128], eeg.valid[:29], eeg.tracks[:29])
    slow = ChannelSignal("eeg", 64, eeg.samples[::2], eeg.valid, eeg.tracks)
    for signals, error, message in (
        ({"snore": eeg}, RecordingError, "none of the model's modalities"),
        ({"eeg": short}, RecordingError, "shorter than one token of 30 s"),
        ({"eeg": slow}, pipeline.PipelineError, "eeg is prepared at 64 Hz; the model reads 128 Hz"),
    ):
        with pytest.raises(error, match=message):
            next(
                modality_nights.recording_batches(
                    signals, data={"window_tokens": 20}, modalities=modalities
                )
            )


@pytest.mark.parametrize(("seconds", "starts"), [(29, []), (570, [0]), (930, [0, 10, 20])])
def test_windows_may_overlap(tmp_path, seconds, starts):
    write_night(tmp_path / "store", max(seconds, 30))
    store = NightStore(tmp_path / "store")
    night = dataclasses.replace(store.nights[0], duration_s=seconds)
    store.nights = [night]
    if not starts:
        with pytest.raises(pipeline.EmptySplitError):
            Windows.of(store, "train", 20, 1, step_tokens=10)
        return
    windows = Windows.of(store, "train", 20, 1, step_tokens=10)
    assert windows.start.tolist() == starts
    assert windows.tokens.tolist() == [min(20, seconds // 30 - start) for start in starts]


def test_windows_of_training_alone_may_overlap(nights):
    source = load(nights, window_tokens=20, step_tokens=10)
    found = sorted(windows_of(everything(source)))
    assert found == [(night, at) for night in (0, 1, 2, 4, 5, 7) for at in (0, 10, 20, 30)]
    for split in ("validation", "test"):
        other = load(nights, split, window_tokens=20, step_tokens=10)
        assert sorted(at for _, at in windows_of(everything(other))) == [0, 20, 40]
    whole = modality_nights.whole_nights(
        {"path": str(nights), "recipe": "sleep2vec", "window_tokens": 20, "step_tokens": 10}
    )
    assert whole == {
        "name": "modality_nights",
        "path": str(nights),
        "recipe": "sleep2vec",
        "window_tokens": 20,
    }
    with pytest.raises(pipeline.PipelineError, match="step_tokens=21: must be from 1 to window_"):
        load(nights, window_tokens=20, step_tokens=21)


@settings(max_examples=40, deadline=None)
@given(
    strategies.lists(
        strategies.tuples(strategies.integers(0, 4), strategies.integers(20, 130)), min_size=1
    ),
    strategies.integers(1, 40),
    strategies.integers(1, 40),
    strategies.integers(0, 3),
)
def test_no_window_leaves_its_night_and_no_person_its_split(people, length, step, few):
    nights = [
        types.SimpleNamespace(
            recording=str(i), subject=f"p{who}", split=splits.split_of(f"p{who}"),
            duration_s=30 * tokens + 7, metadata={},
        )
        for i, (who, tokens) in enumerate(people)
    ]  # fmt: skip
    step = min(step, length)
    store = types.SimpleNamespace(nights=nights, path="store")
    store.select = lambda split: [night for night in nights if night.split == split]
    seen = {}
    for split in sorted({night.split for night in nights}):
        windows = Windows.of(store, split, length, 1, step_tokens=step)
        count = [np.zeros(night.duration_s // 30, int) for night in windows.nights]
        for night, start, tokens in zip(windows.night, windows.start, windows.tokens):
            assert 0 < tokens <= length and start % step == 0
            count[night][start : start + tokens] += 1
            assert start + tokens <= len(count[night])
        assert all(times.min() >= 1 for times in count)  # and no token is left out
        seen[split] = {night.subject for night in windows.nights}
        kept = modality_nights.few_subjects_of(windows, few, 0)
        more = modality_nights.few_subjects_of(windows, few + 1, 0)
        of = lambda some: {some.nights[night].subject for night in some.night}
        assert len(of(kept)) == (min(few, len(seen[split])) if few else len(seen[split]))
        assert not few or of(kept) <= of(more)
        # All that these people have, and nothing of another.
        theirs = [windows.nights[night].subject in of(kept) for night in windows.night]
        assert len(kept.night) == sum(theirs)
    assert sum(map(len, seen.values())) == len(set().union(*seen.values()))


def test_few_people_are_of_the_training_split_and_nested(nights):
    people = [
        set(everything(load(nights, few_shot_subjects=count, seed=count))["subject"].tolist())
        for count in (1, 2, 3, 99)
    ]
    assert [len(some) for some in people] == [1, 2, 3, 4]
    assert all(few < many for few, many in itertools.pairwise(people))
    assert load(nights, "test", few_shot_subjects=1).num_examples == 1
    of_two = everything(load(nights, window_tokens=4, few_shot_subjects=2))
    batch = everything(load(nights, window_tokens=4, few_shot_subjects=2, few_shot=0.25))
    assert len(batch["subject"]) == len(of_two["subject"]) / 4
    assert set(batch["subject"].tolist()) <= people[1]
    with pytest.raises(pipeline.PipelineError, match="few_shot_subjects=-1: must be 0 or more"):
        load(nights, few_shot_subjects=-1)


def test_events_of_epochs_are_arrays_of_their_names(nights):
    names = ("apnea_only", "hypopnea_only_official")
    source, store = load(nights, window_tokens=20, events=names), NightStore(nights)
    batch = everything(source)
    assert not [name for name in everything(load(nights)) if name.startswith("event/")]
    for name in names:
        found = batch[f"event/{name}"]
        assert found.dtype == np.int32 and set(np.unique(found)) == {-1, 0, 1}
        for row, (night, start) in enumerate(zip(batch["night"], batch["start"], strict=True)):
            expected = EVENT_LABELS[name].of(store, store.nights[night])[start : start + 20]
            assert found[row].tolist() == [*expected, *[-1] * (20 - len(expected))]
    with pytest.raises(pipeline.PipelineError, match="no label of events 'yawn'; there are"):
        load(nights, events=("yawn",))


def test_a_recipe_has_its_tiny_store_and_refuses_that_of_another(nights, tmp_path):
    options = {"recipe": "synthsleepnet"}
    pipeline.write_synthetic("modality_nights", tmp_path / "tiny", 0, **options)
    tiny = modality_nights.tiny(**options)
    assert tiny == {"modalities": ("eeg_c4", "eeg_c3", "eog_e1"), "window_tokens": 2}
    source = load(tmp_path / "tiny", **options, **tiny)
    rows = modality_nights.describe_paper(**options)["modalities"]
    assert source.describe()["modalities"] == rows[:3]
    shapes = {name: array.shape for name, array in source.examples(0, 4).items() if "/" in name}
    assert shapes == {f"signal/{name}": (4, 2, 3000) for name in tiny["modalities"]}
    # What the stage is can be told from the strength of a rhythm, at this rate too.
    batch = everything(load(tmp_path / "tiny", window_tokens=48, **options))
    eeg = batch["signal/eeg_c3"] * batch["scale"][:, 1, None, None]
    at = np.arange(3000) / 100
    strength = np.einsum("blf,f->bl", eeg, np.sin(2 * np.pi * 1.2 * at)).ravel()
    assert np.corrcoef(strength, batch["stage"].ravel())[0, 1] > 0.9
    with pytest.raises(
        pipeline.PipelineError,
        match="prepared by the recipe sleep2vec.*launch.prepare_nights --recipe=synthsleepnet",
    ):
        load(nights, **options)
    assert load(nights, recipe="sleep2vec").num_examples == load(nights).num_examples


def write_night(folder, seconds, *, events=(), metadata=(), stages=()):
    """Write a store of one training night that holds nothing but oxygen."""
    rate = MODALITIES["spo2"].rate_hz
    signal = ChannelSignal(
        *("spo2", rate, np.ones(seconds * rate, np.float32)),
        *(np.ones(seconds, bool), np.zeros((seconds, 2), np.float32)),
    )
    night = Night(
        *("one", "one", "train", {"spo2": signal}, np.array(stages, np.int8), list(events)),
        metadata=dict(metadata),
    )
    write_store(
        folder,
        kind="signals",
        items={"one": None},
        make_night=lambda _: night,
        provenance={"modalities": "sleep2vec/1"},
        progress=False,
    )
    return folder


def test_events_become_seconds_and_what_nobody_scored_is_unknown(tmp_path):
    events = [
        Event("apnea_central", 3.4, 10.2),
        Event("hypopnea", 100.0, 500.0),  # longer than the night
        Event("arousal", 20.0, 3.0, "respiratory"),
        Event("arousal", 40.0, 3.0),
        Event("arousal", 60.0, 3.0, "leg_movement"),
        Event("arousal", 90.0, 30.0, "epoch"),
        Event("arousal", 95.0, 2.0, "spontaneous"),
        Event("leg_movement", 10.0, 1.0),
    ]
    path = write_night(
        tmp_path / "a",
        140,  # four whole tokens
        events=events,
        metadata={"events_scored": True},
        stages=[0, 1, -1, 4, 2],
    )
    batch = everything(load(path))
    assert batch["stage"][0].tolist() == [0, 1, -1, 4] + [-1] * 116
    apnea = batch["apnea"][0].reshape(-1)
    assert np.flatnonzero(apnea[:120] == 1).tolist() == [*range(3, 14), *range(100, 120)]
    assert (apnea[120:] == -1).all()
    arousal = batch["arousal"][0].reshape(-1, 4)
    assert arousal[20:23].tolist() == [[1, 0, 0, 0]] * 3
    assert arousal[40:43].tolist() == [[1, 1, 1, 1]] * 3
    assert arousal[60:63].tolist() == [[0, 0, 1, 0]] * 3
    assert arousal[90:95].tolist() == [[-1, -1, -1, -1]] * 5
    assert arousal[95:97].tolist() == [[-1, 1, -1, -1]] * 2
    assert not arousal[:20].any()

    batch = everything(load(write_night(tmp_path / "b", 120, events=events)))
    assert (batch["apnea"] == -1).all()
    assert (batch["arousal"] == -1).all()
    path = write_night(tmp_path / "c", 120, metadata={"events_scored": ["apnea"]})
    batch = everything(load(path))
    assert (batch["apnea"][0, :4] == 0).all()
    assert (batch["arousal"] == -1).all()


def test_a_whole_night_is_one_window_cut_at_its_end(tmp_path):
    path = write_night(tmp_path / "long", 1600 * 30, stages=[2] * 1600)
    source = load(path, window_tokens=1535)
    assert source.num_examples == 1
    assert (everything(source)["stage"] == 2).all()
    assert load(path, window_tokens=1534).num_examples == 2


def test_patterns_choose_what_the_store_has(nights):
    names = lambda *wanted: [
        row["name"] for row in load(nights, modalities=wanted).describe()["modalities"]
    ]
    assert names("e?g") == [name for name in names() if name in ("eeg", "ecg", "eog", "emg")] != []
    assert names("eeg", "e*g") == names("e*g")
    with pytest.raises(pipeline.PipelineError, match=r"no modality 'eeg_\*'; it has"):
        names("eeg", "eeg_*")


def test_a_leak_is_asked_for_by_name_and_told(nights, caplog):
    test = everything(load(nights, "test", window_tokens=6))
    with caplog.at_level("WARNING"):
        leak = everything(load(nights, window_tokens=6, trained_on="test"))
    assert "LEAK: config.data.trained_on=test" in caplog.text
    assert windows_of(leak) == windows_of(test)
    validation = load(nights, "validation", window_tokens=6, trained_on="test")
    own = everything(load(nights, "validation", window_tokens=6))
    assert windows_of(everything(validation)) == windows_of(own)
    with pytest.raises(pipeline.PipelineError, match="trained_on='all': it is one of"):
        load(nights, trained_on="all")
