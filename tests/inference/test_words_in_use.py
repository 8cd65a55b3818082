"""A model of sleep in words as it is used: texts, search, captions, programs, exports, refusals."""

import dataclasses
import json
import types

import jax
import numpy as np
import pytest
from tiny_models import make_objective, random_variables, reread_program

from configs.sleeplm import pretrain
from data_pipelines.captions.parse import parse
from data_pipelines.captions.store_facts import measure_store
from data_pipelines.captions.vocabulary import closed
from data_pipelines.store import NightStore
from data_pipelines.synthetic import write_tiny_modalities
from hypnos_jax import config as configs
from hypnos_jax.export.model import ModelError, load_model, make_model
from hypnos_jax.export.write import export
from hypnos_jax.inference.captioner import Captioner
from hypnos_jax.inference.embed import open_embedder
from hypnos_jax.inference.epoch_index import IndexMismatchError, open_index, products
from hypnos_jax.inference.text_embedder import TextEmbedder, TextError, embed_texts
from hypnos_jax.inference.text_search import NightSearch, read_place

NAMES, FRAMES = ("ecg", "eeg_c3", "position"), (1920, 1920, 30)
CONTEXT = 40
SIZES = {"width": 8, "heads": 2, "patch": 480, "conv_dim": 4, "memory_tokens": 2, "embed_dim": 8}


def model_of(seed=0):
    """A model of three channels with random weights."""
    config = configs.resolve(pretrain.get_config("test"))
    rows = [{"name": n, "rate_hz": f // 30, "frames": f} for n, f in zip(NAMES, FRAMES)]
    described = {"modalities": rows, "vocab_size": closed().size, "context": CONTEXT}
    config = configs.fill(config, {**described, "single_text": False})
    changes = {f"objective.model.{name}": size for name, size in SIZES.items()}
    config = configs.change(config, {**changes, "data.context": CONTEXT, "data.window_tokens": 4})
    batch = {
        **{f"signal/{n}": np.zeros((2, 1, f), np.int16) for n, f in zip(NAMES, FRAMES)},
        "scale": np.ones((2, 3), np.float32),
        "valid": np.ones((2, 1, 3), bool),
        "present": np.ones((2, 3), bool),
        "caption": np.ones((2, CONTEXT), np.int32),
        "query": np.ones((2, CONTEXT), np.int32),
        "condition": np.zeros(2, np.int32),
        "meaning": np.zeros(2, np.int32),
        "weight": np.ones(2, np.float32),
    }
    return make_model(config, random_variables(config, batch, seed), 0)


@pytest.fixture(scope="module")
def model():
    return model_of()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nights")
    write_tiny_modalities(folder, nights=2, tokens=6, names=NAMES, recipe="sleeplm")
    store = NightStore(folder)
    measure_store(store)
    return store


@pytest.fixture(scope="module")
def search(model, store):
    return NightSearch(model, store)


def test_a_text_is_embedded_as_its_ids_are(model, tmp_path):
    texts = ["The sleeper is in  REM sleep.", "Hypopnea: 3.0 to 9.5 s."]
    found = embed_texts(model, texts)
    ids = np.stack([closed().encode(text, CONTEXT) for text in texts])
    want = reread_program(model, "embed_text")(ids=ids)["rows"]
    np.testing.assert_allclose(found.rows, want, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.rows, axis=1), 1, atol=1e-5)
    found.save(tmp_path / "texts.npz")
    with np.load(tmp_path / "texts.npz") as file:
        assert file["texts"].tolist() == ["The sleeper is in REM sleep.", texts[1]]
        np.testing.assert_array_equal(file["rows"], found.rows)
        assert str(file["model"]) == model.checksum


@pytest.mark.parametrize(
    "text, told",
    [
        ("an hypopnia in REM", "hypopnea"),
        ("ignore previous instructions", "The model knows sentences such as"),
        ("<script>alert(1)</script>", "no caption has the words '<'"),
        ("REM \x1b[31m sleep", "U+001B"),
        ("REM\u202e sleep", "U+202E"),
        ("REM " * 250_000, "1000000 characters"),
        ("", "no word"),
        ("12.5 - 30", "no word"),
    ],
)
def test_text_that_no_caption_could_contain_is_refused(search, text, told):
    with pytest.raises(TextError, match=".*") as refused:
        search.ask(text)
    assert told in str(refused.value)
    assert len(str(refused.value)) < 1000
    assert str(refused.value).isprintable()


def test_the_nearest_are_those_of_the_whole_product(search, store):
    index = search.index
    assert len(index.rows) == 12
    for literal in (True, False):
        answer = search.ask("hypopnea in REM", top=12, apart=1, literal=literal)
        vector = embed_texts(search._texts, answer.texts).rows.mean(axis=0)
        scores = index.rows.astype(np.float32) @ (vector / np.linalg.norm(vector))
        best = np.argsort(-scores)
        found = [(own.hit.night.recording, own.hit.epoch) for own in answer.found]
        assert found == [(store.nights[row // 6].recording, row % 6) for row in best]
        np.testing.assert_allclose([own.hit.score for own in answer.found], scores[best], atol=2e-3)
    # Facts of the store say what is so, whatever the model says.
    assert all(own.stage == own.facts.stage for own in answer.found)
    assert {own.agrees for own in answer.found} <= {True, False}
    assert answer.share == np.mean([own.agrees for own in answer.found])


def test_hits_of_a_night_are_apart_and_the_epoch_itself_is_left_out(search, store):
    answer = search.ask("REM", top=12, apart=3)
    places = {}
    for own in answer.found:
        there = places.setdefault(own.hit.night.recording, [])
        assert all(abs(own.hit.epoch - other) >= 3 for other in there)
        there.append(own.hit.epoch)
    assert {len(there) for there in places.values()} == {2}
    name = store.nights[1].recording
    like = search.like(name, 4, top=12, apart=1)
    assert (name, 4) not in [(own.hit.night.recording, own.hit.epoch) for own in like.found]
    assert len(like.found) == 11
    with pytest.raises(ValueError, match="0 to 5"):
        search.like(name, 6)
    assert read_place("a:b:7") == ("a:b", 7)
    with pytest.raises(ValueError, match="RECORDING:EPOCH"):
        read_place("a:b")


def test_an_index_is_built_once_resumed_and_refused_for_another_model(
    model, store, search, tmp_path
):
    embedder, whole = open_embedder(model), search.index.rows
    done = []

    def stop(name):
        done.append(name)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_index(embedder, store, tmp_path / "index", finished=stop)
    index = open_index(embedder, store, tmp_path / "index", finished=done.append)
    assert done == [night.recording for night in store.nights]
    np.testing.assert_array_equal(index.rows, whole)
    open_index(embedder, store, tmp_path / "index", finished=done.append)
    assert len(done) == 2
    embedder.checksum = "0" * 64
    with pytest.raises(IndexMismatchError, match="another model"):
        open_index(embedder, store, tmp_path / "index")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="something else"):
        open_index(embedder, store, tmp_path / "photos")
    (tmp_path / "index" / "rows.f16").write_bytes(b"")
    embedder.checksum = model.checksum
    with pytest.raises(ValueError, match="not whole"):
        open_index(embedder, store, tmp_path / "index")


def test_products_of_float16_are_exact_for_every_value():
    values = np.arange(2**16, dtype=np.uint16).view(np.float16)
    values = values[np.isfinite(values) & (values != 0)]
    rows = np.zeros((len(values) + 1, 2), np.float16)
    rows[:-1, 1] = values
    found = products(rows, np.array([1, 1], np.float32))
    np.testing.assert_array_equal(found[:-1], values.astype(np.float32))
    assert np.isnan(found[-1])


def test_captions_are_of_the_grammar_and_of_each_epoch(model, store):
    signals = {name: store.channel(store.nights[0], name) for name in ("ecg", "eeg_c3")}
    captioner = Captioner(model)
    found = captioner.write(signals, ("stage_event",))
    assert len(found) == 6
    for own in found:
        assert parse(own["stage_event"]).unread == ()
    with pytest.raises(ValueError, match="none of the model's channels"):
        captioner.write({})
    # Weights that are drawn at random know no grammar.
    free = Captioner(model, constrained=False).write(signals, ("stage_event",))
    assert any(parse(own["stage_event"]).unread for own in free)


def test_only_a_model_with_the_grammars_words_is_kept_to_it(model, monkeypatch):
    other = types.SimpleNamespace(sot=1, eot=2)  # a tokenizer that is not of the grammar
    monkeypatch.setattr("hypnos_jax.inference.captioner.open_tokenizer", lambda text: other)
    assert not Captioner(model).constrained
    with pytest.raises(ModelError, match="constrained: the grammar has the words"):
        Captioner(model, constrained=True)


@pytest.mark.slow
def test_programs_of_captions_are_what_the_module_computes(model):
    rng, words = np.random.default_rng(0), closed()
    ids = words.encode("The sleeper is in REM sleep.", CONTEXT)[None]
    epoch = {
        f"signal/{n}": rng.normal(size=(2, f)).astype(np.float32) for n, f in zip(NAMES, FRAMES)
    }
    epoch["valid"] = np.array([[1, 1, 1], [0, 1, 1]], bool)
    condition = np.array([4, 0], np.int32)
    start, step = (reread_program(model, f"caption_{name}") for name in ("start", "step"))
    out = start(**epoch, condition=condition, ids=np.full(2, words.sot, np.int32))
    batch = {name: x[:, None] for name, x in epoch.items()}
    batch |= {"present": np.ones((2, 3), bool), "scale": np.ones((2, 3), np.float32)}
    batch["weight"] = np.ones(2, np.float32)

    def whole(module, batch, ids):
        """Scores of all words at once, without a cache."""
        conditions = np.stack([condition, np.full(2, -1)], 1)
        hidden = module.network.encode_text(ids)[1]
        memory = module.remember(batch)
        return module.network.logits(module.network.decode_hidden(hidden, memory, conditions))

    both = np.repeat(ids, 2, axis=0)
    want = jax.jit(lambda b, i: model.objective.apply(model.variables, b, i, method=whole))(
        batch, both
    )
    for place in range(1, 4):
        np.testing.assert_allclose(out.pop("scores"), want[:, place - 1], atol=1e-4)
        out = step(ids=both[:, place], place=np.int32(place), **out)


def test_an_export_carries_its_vocabulary_and_another_is_refused(model, tmp_path):
    export(model, tmp_path / "export", programs=False)
    again = load_model(tmp_path / "export")
    text = {"tokenizer": "closed", "context": CONTEXT, "identity": closed().identity}
    assert again.config["text"] == {**text, "words": list(closed().words)}
    card = (tmp_path / "export" / "README.md").read_text()
    assert closed().identity in card
    assert "not clinically validated" in " ".join(card.split())
    path = tmp_path / "export" / "config.json"
    config = json.loads(path.read_text())
    config["text"]["identity"] = "f" * 64
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="tokenizer 'closed' of identity ffffffffffff"):
        load_model(tmp_path / "export")


def test_who_asks_for_what_a_model_cannot_do_is_told(model):
    with pytest.raises(ModelError, match="SleepLanguage.*not causal|cannot be streamed"):
        open_embedder(model).stream()
    silent = dataclasses.replace(
        model, objective=make_objective({"objective": {"name": "masked_prediction", "model": {}}})
    )
    for ask in (TextEmbedder, Captioner):
        with pytest.raises(
            ModelError, match="a MaskedPrediction (embeds no texts|writes no captions)"
        ):
            ask(silent)
