"""An export is used by JAX alone: the card's lines as written, and each family's programs."""

import json
import pathlib

import numpy as np
import pytest
from plain_jax import block, run_alone
from tiny_models import (
    MODALITIES,
    random_variables,
    reread_program,
    rq_config,
    rvq_config,
    signal_batch,
    token_batch,
    write_run,
    write_tokenizers,
)

from data_pipelines.store import ChannelSignal
from hypnos_jax.export import usage
from hypnos_jax.export.model import load_model, make_model
from hypnos_jax.export.programs import NoProgramError, programs_of
from hypnos_jax.export.write import export
from hypnos_jax.inference.embed import Embedder
from hypnos_jax.inference.tokenizer import Tokenizer

pytest.importorskip("flatbuffers")
ROOT = pathlib.Path(__file__).parents[2]
SECONDS = 600  # of the example


END = """
print(sorted({name.split(".")[0] for name in sys.modules} & {"hypnos_jax", "flax", "absl"}))
np.savez("out.npz", rows=np.asarray(rows), epochs=epochs, **signals)
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An export of a tiny model of two signal types with its tokenizers."""
    folder, rows = tmp_path_factory.mktemp("model"), MODALITIES[2:]
    config = rq_config(modalities=rows)
    write_run(folder / "run", config, random_variables(config, token_batch(modalities=rows)))
    write_tokenizers(folder / "tokenizers", ["ecg", "resp"])
    export(folder / "run", folder / "EXPORT", tokenizers=folder / "tokenizers", licence="CC-BY-4.0")
    return folder / "EXPORT"


@pytest.mark.slow
def test_the_cards_lines_give_our_embedding_with_three_packages(exported):
    code = block((exported / "README.md").read_text(), "from jax import export")
    assert code == usage.TOKENS
    assert len(code.splitlines()) <= 30
    assert run_alone(exported.parent, code + END).strip() == "[]"

    found = np.load(exported.parent / "out.npz")
    embedder = Embedder(exported)
    signals = {}
    for row in embedder.model.config["channels"]:
        given = (found[row["name"]][0], np.ones(SECONDS, bool), np.zeros((SECONDS, 2), np.float32))
        signals[row["name"]] = ChannelSignal(row["name"], row["rate_hz"], *given)
    ours = embedder.embed_signals(signals)
    np.testing.assert_allclose(found["epochs"], ours.epochs, atol=2e-3)  # ours: rounded to 16 bits
    for i, name in enumerate(embedder.names()):
        np.testing.assert_allclose(found["rows"][0, :, i], ours.modalities[name], atol=2e-3)


def test_the_page_on_embedding_shows_the_same_lines():
    text = (ROOT / "docs/embedding.md").read_text()
    assert block(text, "from jax import export") == usage.TOKENS


def test_the_config_says_what_programs_take_and_give(exported):
    config = json.loads((exported / "config.json").read_text())
    row = config["programs"]["embed"]
    assert row["file"] == "embed.jaxexport"
    assert row["inputs"]["codes"]["shape"] == ["B", "S", 4]
    assert row["outputs"]["rows"]["shape"] == ["B", "S", 2, 16]
    assert config["programs_missing"] == {}
    assert config["programs_by"]["platforms"] == ["cpu", "cuda", "tpu"]
    tokenizer = json.loads((exported / "tokenizers" / "resp" / "config.json").read_text())
    assert tokenizer["programs"]["encode"]["inputs"]["signal"]["shape"] == ["B", "32*S"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "lag", "seconds"),
    [
        ({}, True, 1),
        ({}, False, 300),
        ({"local_window": None, "wide_window": None}, True, 150),
        ({"local_window": None, "wide_window": None}, False, 2100),
        ({"use_tracks": True, "dtype": "bfloat16"}, True, 300),
    ],
)
def test_backbones_of_all_kinds_give_what_the_embedder_gives(changes, lag, seconds):
    config = rq_config(**changes)
    config["objective"]["embed_lag"] = lag
    model = make_model(config, random_variables(config, token_batch()), step=3)
    rng = np.random.default_rng(5)
    names = [row["name"] for row in MODALITIES]
    codes = {name: rng.integers(0, 16, (seconds, 2)) for name in names[1:]}
    valid = {name: rng.random(seconds) < 0.9 for name in names}
    tracks = {name: rng.standard_normal((seconds, 2)).astype(np.float32) for name in names}
    ours = Embedder(model).embed_codes(codes, valid=valid, tracks=tracks)
    given = {
        "codes": np.zeros((1, seconds, 8), np.int32),
        "present": np.array([[False] + 3 * [True]]),
    }
    given["codes"][0, :, 2:] = np.concatenate(list(codes.values()), axis=1)
    if "use_tracks" in changes:
        given["valid"] = np.stack([valid[name] for name in names], 1)[None]
        given["tracks"] = np.stack([tracks[name] for name in names], 1)[None]
    rows = reread_program(model, "embed")(**given)["rows"]
    assert rows.shape == (1, seconds, 4, 16)
    assert not rows[0, :, 0].any()
    for i, name in enumerate(names[1:], 1):
        atol = 0.1 if "dtype" in changes else 2e-3
        np.testing.assert_allclose(rows[0, :, i], ours.modalities[name], atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"strict_causal": False, "padding": "reflect"}])
def test_tokenizers_of_all_kinds_give_what_the_tokenizer_gives(changes):
    config = rvq_config("ecg")
    config["objective"]["model"].update(changes)
    model = make_model(config, random_variables(config, signal_batch()), 3, tokenizers={})
    encode = reread_program(model, "encode")
    for seconds in (1, 64, 65, 200):
        signals = np.random.default_rng(seconds).standard_normal((2, 128 * seconds))
        ours = Tokenizer(model).encode(signals.astype(np.float32))
        codes = encode(signal=signals.astype(np.float32))["codes"]
        # A latent on the border between two codewords may round to the other one.
        assert np.mean(codes == ours) > 0.99


def test_a_model_without_a_program_is_exported_all_the_same(tmp_path):
    config = rvq_config("ecg")
    config["objective"]["model"]["window"] = None
    write_run(tmp_path / "run", config, random_variables(config, signal_batch()))
    model = export(tmp_path / "run", tmp_path / "model")
    with pytest.raises(NoProgramError, match="looks back without a window"):
        programs_of(model.objective, model.config)
    assert model.config["programs"] == {}
    assert "without a window" in model.config["programs_missing"]["all"]
    assert "without a window" in (tmp_path / "model" / "README.md").read_text()
    assert load_model(tmp_path / "model").checksum == load_model(tmp_path / "run").checksum
