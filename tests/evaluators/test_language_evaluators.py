"""Zero-shot answers, retrieval by text, and captions: of a tiny model of few channels."""

import copy
import json

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.sleeplm import pretrain
from data_pipelines.captions.automaton import automaton
from data_pipelines.captions.facts import Facts
from data_pipelines.captions.parse import parse
from data_pipelines.captions.store_facts import measure_store
from data_pipelines.store import NightStore
from data_pipelines.synthetic import write_tiny_modalities
from hypnos_jax import batch as batches
from hypnos_jax import config as configs
from hypnos_jax import evaluate
from hypnos_jax.evaluators import captions, text_retrieval, unseen_concepts
from hypnos_jax.probing.caption_writer import EpochWriter
from hypnos_jax.probing.concept_questions import questions_of
from hypnos_jax.reports.sections import read_sections

CHANNELS = ("ecg", "eeg_c3", "emg_chin")


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """The evaluators of the config, on a small store, and variables that nothing trained."""
    home = tmp_path_factory.mktemp("language")
    write_tiny_modalities(home / "nights", tokens=24, names=CHANNELS, recipe="sleeplm")
    measure_store(NightStore(home / "nights"))
    config = pretrain.get_config("test")
    config.unlock()
    config.data.update(path=str(home / "nights"), modalities=CHANNELS, context=48)
    config.objective.model.update(memory_tokens=2, width=8)
    config = configs.resolve(config)
    described = batches.load_source(config, home, split="train").describe()
    config = configs.fill(config, described)
    del config["evals"]["probe"], config["evals"]["val"]
    whole = evaluate.Evaluation(config, home, trained=config)
    # Drawn here, for to compile the start of a model takes longer than all else.
    shapes = jax.eval_shape(lambda: flax.linen.unbox(whole._context._init(0)))
    rng = np.random.default_rng(0)
    draw = lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype)
    return whole, jax.tree.map(draw, shapes), home


def run(evaluation, name):
    whole, variables, home = evaluation
    found = whole.results(name, variables, 7, home)
    assert found and all(np.isfinite(value) for value in found.values())
    return {key.removeprefix(f"eval/{name}/"): value for key, value in found.items()}


def test_zero_shot_answers_have_intervals_and_a_section(evaluation):
    found = run(evaluation, "zero_shot")
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "auroc"):
        assert 0 <= found[f"staging/{name}"] <= 1
    assert -1 <= found["staging/kappa"] <= 1
    report = json.loads((evaluation[2] / "zero_shot_test.json").read_text())
    assert report["step"] == 7 and report["epochs"] == sum(report["tasks"]["staging"]["counts"])
    assert all(len(texts) >= 8 for own in report["tasks"].values() for texts in own["prompts"])
    assert (evaluation[2] / "figures/7_zero_shot_test.png").exists()


def test_a_concept_that_training_did_not_name_is_asked_for(evaluation):
    whole, variables, home = evaluation
    assert whole.results("unseen_concepts", variables, 7, home) == {}  # nothing was held out
    context = copy.copy(whole._context)
    context.trained = configs.change(context.config, {"data.held_out": ("alpha",)})
    unseen = unseen_concepts.UnseenConcepts(context, epochs=24, draws=20)
    with whole._scope():
        found = dict(unseen.run(variables, 7))
    assert 0 <= found["high eeg_c3.alpha/auroc"] <= 1
    assert 0 <= found["high eeg_c3.alpha/auroc_beside"] <= 1
    report = json.loads((home / "unseen_concepts_test.json").read_text())
    own = report["questions"]["high eeg_c3.alpha"]
    assert own["held_out"] and own["chance"] == pytest.approx(1 / 3, abs=0.05)
    assert own["beside"].keys() == {"eeg_c3.delta", "eeg_c3.theta", "eeg_c3.beta"}
    assert all("alpha" in text for texts in own["prompts"] for text in texts)
    assert report["left_out"] == {"high eeg_c4.alpha": "too few epochs have the number"}
    with pytest.raises(ValueError, match="unseen_concepts: concepts: no caption says 'gamma'"):
        unseen_concepts.UnseenConcepts(context, concepts=("gamma",))


def test_what_is_held_out_is_said_in_captions_of_the_test_alone(evaluation):
    context = evaluation[0]._context
    said = {}
    for name in ("train", "validation", "test"):
        source = context.on({**context.config["data"], "held_out": ("alpha",)}).source(name)
        batch = next(source.evaluation_batches(24, 1))
        if name == "train":  # as a step of training draws it
            batch = source.examples(0, 24)
        texts = [source.tokenizer.decode(row) for row in [*batch["caption"], *batch["query"]]]
        said[name] = [sum(word in text for text in texts) for word in ("alpha", "theta")]
    assert said["train"][0] == said["validation"][0] == 0
    assert said["train"][1] and said["validation"][1] and said["test"][0]


def test_questions_about_a_concept_have_answers_and_sentences():
    facts = [Facts({"eeg_c3.alpha": float(k)}, stage="N1" if k < 9 else "W") for k in range(30)]
    question, none = questions_of("Alpha", facts, 8).values()
    assert none is None  # nothing was measured on C4
    assert question.labels.tolist() == [0] * 10 + [-2] * 10 + [1] * 10
    high = parse(question.sentences[1][0]).facts.numbers["eeg_c3.alpha"]
    assert high > parse(question.sentences[0][-1]).facts.numbers["eeg_c3.alpha"]
    (question,) = questions_of("n1", facts, 8).values()
    assert question.labels.tolist() == [1] * 9 + [0] * 21 and question.beside.keys() == {"W"}
    assert {parse(text).facts.stage for text in question.sentences[1]} == {"N1"}
    (question,) = questions_of("snore", facts, 8).values()
    assert set(question.labels) == {-1}  # nobody looked for events


def test_retrieval_of_a_model_that_knows_nothing_is_by_chance(evaluation):
    found = run(evaluation, "text_retrieval")
    assert found["24/chance"] == pytest.approx(1 / 24)
    assert found["24/recall_1"] <= 0.3 and found["24/alike_recall_1"] >= found["24/recall_1"]
    report = json.loads((evaluation[2] / "text_retrieval_test.json").read_text())
    assert report["apart"]["24"] < 10  # the store is small, which is told
    section = next(own for own in read_sections(evaluation[2]) if own["title"][0] == "R")
    assert any("neighbours look alike" in words for words in section["says"])
    assert all(part["picture"] is None or part["picture"].exists() for part in section["parts"])


def test_retrieval_measures_on_worked_numbers():
    cosines = np.array([[0.9, 0.1, 0.9], [0.8, 0.5, 0.2], [0.0, 0.3, 0.7]])
    alike = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], bool)
    found = text_retrieval.retrieve(cosines, alike)
    # Ranks 1.5 (a tie), 2 and 1; by meaning the tie is right too.
    assert found["recall_1"] == pytest.approx(1 / 3) and found["recall_5"] == 1.0
    assert found["median_rank"] == 1.5 and found["chance"] == pytest.approx(1 / 3)
    assert found["map"] == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    assert found["alike_recall_1"] == pytest.approx(2 / 3)
    assert found["alike_chance"] == pytest.approx((2 + 1 + 2) / 9)
    assert found["alike_map"] == pytest.approx((1 + 1 / 2 + (1 + 2 / 3) / 2) / 3)


def test_pools_share_no_epoch_and_are_spread():
    pools = text_retrieval.pools_of(100, 30, 10)
    places = np.concatenate(pools)
    assert len(pools) == 3 and len(set(places.tolist())) == 90 and places.max() < 100
    assert all(np.diff(pool).min() >= 3 for pool in pools)


@pytest.mark.slow
def test_captions_are_scored_beside_rivals(evaluation):
    found = run(evaluation, "captions")
    report = json.loads((evaluation[2] / "captions_test.json").read_text())
    assert {"model", "majority", "nearest", "probed"} == set(report["rows"])
    assert report["rows"]["majority"]["slot_f1"] > 0.2
    for name in ("slot_f1", "hallucination_rate", "stage_accuracy", "event_f1_iou50", "leakage"):
        assert 0 <= found.get(f"model/{name}", 0) <= 1
    for name in report["rows"]:
        assert report["rows"][name]["epochs"] == report["epochs"]
    assert report["rows"]["probed"]["leakage"] == report["rows"]["probed"]["unread"] == 0
    # What the facts of epochs say of a night, over the edges of epochs, is what the scoring says.
    night = report["nights"]
    for truth, facts in zip(night["truth"], night["said"]["facts"]):
        assert facts == pytest.approx(truth)
    section = next(own for own in read_sections(evaluation[2]) if own["title"] == "Captions")
    assert "Linear probes" in section["says"][1]
    pictures = [part["picture"] for part in section["parts"] if part["picture"]]
    assert len(pictures) == 3 and all(path.exists() for path in pictures)


@pytest.mark.slow
def test_captions_may_be_kept_to_the_grammar(evaluation):
    whole, variables, _ = evaluation
    context = whole._context
    with whole._scope():
        batch = next(context.batches("test", 8))
        writer = EpochWriter(context, "test", constrained=True)
        for text in writer.write(variables, batch, "stage_event"):
            assert automaton("stage_event").accepts(text) and not parse(text).unread


def test_captions_that_cannot_be_asked_for_are_refused(evaluation):
    context = evaluation[0]._context
    for options, message in (
        ({"rivals": ("oracle",)}, "rivals are some of"),
        ({"modalities": ("blood",)}, "modalities are some of"),
    ):
        with pytest.raises(ValueError, match=message):
            captions.Captions(context, **options)
    other = context.on({**context.config["data"], "tokenizer": "clip"})
    with pytest.raises(ValueError, match="captions.constrained"):
        EpochWriter(other, "test", constrained=True)
    missing = captions.Captions(context, beside={"x": "/nowhere"})
    with pytest.raises(ValueError, match="captions.beside: 'x'.*launch.evaluate"):
        list(missing.run({}, 0))
