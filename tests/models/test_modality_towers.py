"""The towers: their sizes, masks, and the trunk beside another implementation."""

import functools

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.sleep2vec import pretrain
from data_pipelines.recipes.sleep2vec import NINE
from data_pipelines.recipes.sleep2vec import ROWS as MODALITIES
from hypnos_jax import config as configs
from hypnos_jax.interop import sleep2vec
from hypnos_jax.models.modality_towers import ModalityTowers, masked_tokens

ROWS = [{"name": name, "rate_hz": m.rate_hz, "frames": m.frames} for name, m in MODALITIES.items()]
SMALL = {"dim": 16, "layers": 2, "heads": 2, "ffn_dim": 32, "projection_dim": 8, "out_dim": 4}


def everything(towers, signal, valid):
    hidden, _ = towers.encode(signal, jnp.int32(0), valid)
    return hidden, towers.project(hidden, valid)


def make(modalities, **options):
    towers = ModalityTowers(modalities=configs.frozen(modalities), **SMALL | options)
    signal = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 3840)), jnp.float32)
    valid = jnp.ones((3, 5), bool)
    init = jax.jit(functools.partial(towers.init, method=everything))
    return towers, nn.unbox(init(jax.random.key(0), signal, valid)), signal, valid


def compiled(towers, method, *static):
    return jax.jit(functools.partial(towers.apply, method=method), static_argnums=static)


# As counted by others of the official modules, without the table of sines and the unused word.
@pytest.mark.parametrize(
    "size, names, expected",
    [
        ("dense", NINE, 133_849_600 - 73_728 - 768),
        ("dense", tuple(MODALITIES), 145_343_488 - 73_728 - 768),
        ("large", NINE, 217_183_232 - 98_304 - 1024),
        ("large", tuple(MODALITIES), 228_677_120 - 98_304 - 1024),
    ],
)
def test_official_sizes(size, names, expected):
    model = configs.resolve(pretrain.get_config(size))["objective"]["model"]
    model["modalities"] = [row for row in ROWS if row["name"] in names]
    shapes = sleep2vec.variable_shapes(model)
    count = lambda part: sum(
        int(np.prod(shape)) for name, shape in shapes.items() if name.startswith(f"params/{part}")
    )
    assert count("") == expected
    if size == "dense":
        assert count("trunk/") == 85_057_536
        assert count("tokenizer_eeg/") == 10_031_616
        assert count("tokenizer_ibi/") == 1_460_736
        assert count("head/") == 689_920


def test_the_official_checkpoint_has_these_tensors(parity):
    listed = parity.json("sleep2vec_small")["dense_9_channels"]
    model = configs.resolve(pretrain.get_config("dense"))["objective"]["model"]
    model["modalities"] = [row for row in ROWS if row["name"] in NINE]
    shapes = sleep2vec.variable_shapes(model)
    ours = {}
    for entry in sleep2vec.entries(model):
        whole = np.broadcast_to(np.float32(0), shapes[entry.ours])
        ours[entry.theirs] = list(entry.give(whole).shape)
    ours |= {name: list(x.shape) for name, x in sleep2vec.derived(model).items()}
    assert ours == listed


@pytest.mark.parametrize("length", [120, 1535])
def test_the_trunk_is_the_roformer_of_others(length):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from hypnos_jax.nn.roformer import Roformer

    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = transformers.RoFormerConfig(
        vocab_size=1, intermediate_size=96, max_position_embeddings=1536, **sizes
    )
    torch.manual_seed(0)
    theirs = transformers.RoFormerModel(config).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            if p.requires_grad:  # all but the sines
                p.add_(0.05 * torch.randn_like(p))  # biases and norms start at 0 and 1
    tensors = {f"encoder.{name}": x.numpy() for name, x in theirs.state_dict().items()}
    model = {"modalities": [], "dim": 64, "layers": 3, "heads": 4}
    ours = Roformer(3, 4, 96)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, length, 64)).astype(np.float32)
    mask = np.arange(length)[None] < np.array([[length], [length // 3]])
    variables = nn.unbox(jax.eval_shape(ours.init, jax.random.key(0), x, mask))
    flat = flax.traverse_util.flatten_dict(variables["params"], sep="/")
    flat = {name: np.empty(value.shape, value.dtype) for name, value in flat.items()}
    for entry in sleep2vec.entries(model):
        if entry.ours.startswith("params/trunk/"):
            entry.take(tensors[entry.theirs], flat[entry.ours.removeprefix("params/trunk/")])
    tree = {"params": flax.traverse_util.unflatten_dict(flat, sep="/")}
    found = jax.jit(ours.apply)(tree, x, mask)
    with torch.no_grad():
        given = {"attention_mask": torch.from_numpy(mask.astype(np.int64))}
        expected = theirs(inputs_embeds=torch.from_numpy(x), **given).last_hidden_state.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_traced_modality_runs_its_own_tokenizer():
    towers, variables, signal, _ = make(ROWS[:4])
    traced, known = compiled(towers, "tokenize"), compiled(towers, "tokenize", 2)
    for i, row in enumerate(ROWS[:4]):
        own = known(variables, signal[..., : row["frames"]], i)
        np.testing.assert_allclose(traced(variables, signal, jnp.int32(i)), own, atol=1e-5)
    assert towers.index("eeg") == 2
    with pytest.raises(ValueError, match="no modality 'ppg'; they have"):
        towers.index("ppg")


def test_tokens_that_are_not_valid_change_no_other():
    towers, variables, signal, valid = make(ROWS[:4], cls=True)
    valid = valid.at[0, 2].set(False)
    encode = compiled(towers, "encode", 2)
    run = lambda signal: encode(variables, signal, 2, valid)
    hidden, cls = run(signal)
    other, other_cls = run(signal.at[0, 2].add(100.0))
    seen = np.asarray(valid)
    np.testing.assert_allclose(hidden[seen], other[seen], atol=1e-5)
    np.testing.assert_allclose(cls, other_cls, atol=1e-5)
    assert cls.shape == (3, 16)
    assert np.abs(run(signal.at[0, 1].add(100.0))[0] - hidden)[0, 4].max() > 1e-3


@pytest.mark.parametrize("tokens, count", [(120, 18), (6, 0), (7, 1), (20, 3)])
def test_a_fixed_share_of_the_tokens_is_masked(tokens, count):
    valid = np.ones((50, 120), bool)
    valid[:, tokens:] = False
    first, second = (masked_tokens(jax.random.key(i), jnp.asarray(valid), 0.15) for i in (0, 1))
    assert np.asarray(first).sum(1).tolist() == [count] * 50
    assert not np.asarray(first)[:, tokens:].any()
    if count > 1:
        assert (first != second).any()
        often = np.asarray(first)[:, :tokens].mean(0)
        assert often.max() < 0.6


def test_masked_tokens_are_the_modalitys_vector_of_ones():
    towers, variables, signal, valid = make(ROWS[:4], mask_rate=1.0)
    np.testing.assert_array_equal(variables["params"]["mask_embedding"], 1.0)
    tokens = jnp.zeros((3, 5, 16))
    run = lambda i: towers.apply(
        variables, tokens, i, valid, method="mask", rngs={"mask": jax.random.key(0)}
    )
    np.testing.assert_array_equal(run(0), 1.0)
    moved = variables["params"]["mask_embedding"].at[2].set(3.0)
    variables = {**variables, "params": {**variables["params"], "mask_embedding": moved}}
    np.testing.assert_array_equal(run(0), 1.0)
    np.testing.assert_array_equal(run(2), 3.0)


def test_an_adapter_starts_as_nothing_and_learns():
    towers, variables, signal, valid = make(ROWS[:4], lora_rank=4)
    without = ModalityTowers(modalities=configs.frozen(ROWS[:4]), **SMALL)
    layer = variables["params"]["trunk"]["layers"]["layer"]["attention"]
    assert layer["lora_a"].shape == (2, 16, 3, 4)
    bare = {k: v for k, v in layer.items() if not k.startswith("lora")}
    assert not np.asarray(layer["lora_b"]).any()
    params = flax.traverse_util.flatten_dict(variables["params"], sep="/")
    params = {k: v for k, v in params.items() if "/lora_" not in k}
    params = {"params": flax.traverse_util.unflatten_dict(params, sep="/")}
    expected, found = (
        compiled(module, "encode", 2)(own, signal, 2, valid)[0]
        for module, own in ((without, params), (towers, variables))
    )
    np.testing.assert_array_equal(found, expected)
    assert set(bare) == {"qkv_kernel", "qkv_bias", "out_kernel", "out_bias"}

    def total(b):
        flat = flax.traverse_util.flatten_dict(variables["params"], sep="/")
        flat["trunk/layers/layer/attention/lora_b"] = b
        tree = {"params": flax.traverse_util.unflatten_dict(flat, sep="/")}
        return towers.apply(tree, signal, 2, valid, method="encode")[0][:, 0, 0].sum()

    assert np.abs(jax.jit(jax.grad(total))(layer["lora_b"])).max() > 0
