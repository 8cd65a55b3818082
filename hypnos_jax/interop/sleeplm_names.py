"""Tensors of the official SleepLM code (Xu et al. 2026) and our variables, by name.

Names and layouts are facts of that code (github.com/yang-ai-lab/SleepLM at f788466). A tensor that
stacks what is two variables of ours is cut before it is read; see ``cut`` and ``joined``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hypnos_jax.interop.hypnos_names import Entry
from hypnos_jax.interop.synthsleepnet_names import dense, norm
from hypnos_jax.models.signal_tower import RECONSTRUCTION_LAYERS

FREQS = "biosignals.shared_channel_rope.freqs"
QUERY, KEY_VALUE = ":query", ":key_value"  # ours, of the parts of a stacked tensor
CROSS = (
    *("biosignals.contrastive_pooler.attn.", "biosignals.decoder_pooler.attn."),
    *("biosignals.attn_pool.", "text_decoder.cross_attn."),
)


def is_cut(name: str) -> bool:
    """Return whether a tensor stacks query, key and value of attention to another sequence."""
    return name.startswith(CROSS) and ".in_proj_" in name


def cut(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return tensors with those of ``is_cut`` in two parts."""
    found = {}
    for name, x in tensors.items():
        if is_cut(name) and x.ndim and len(x) % 3 == 0:
            third = len(x) // 3
            found |= {name + QUERY: x[:third], name + KEY_VALUE: x[third:]}
        else:
            found[name] = x
    return found


def joined(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what ``cut`` was given."""
    found = {}
    for name, x in tensors.items():
        if name.endswith(QUERY):
            whole = name.removesuffix(QUERY)
            found[whole] = np.concatenate([x, tensors[whole + KEY_VALUE]])
        elif not name.endswith(KEY_VALUE):
            found[name] = x
    return found


def entries(model: Mapping[str, Any]) -> Iterator[Entry]:
    """Yield which tensor is which variable, given all keyword arguments of the network."""
    yield Entry("params/network/logit_scale", "logit_scale")
    yield from _signal_tower(model)
    yield from _text_encoder(model)
    yield from _decoder(model)
    if model["reconstruct"]:
        yield from _signal_decoder(model)


def frequencies(model: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the tables of rotary positions along the time, by name."""
    head = model["width"] // model["heads"]
    table = 10_000.0 ** (-np.arange(0, head, 2, dtype=np.float64) / head)
    return {
        f"{_block(i)}.temporal_attention_layers.0.rotary_emb.freqs": table.astype(np.float32)
        for i in range(model["blocks"])
    }


def copies(model: Mapping[str, Any]) -> list[str]:
    """Return the further names of the frequencies that all blocks share."""
    return [f"{_block(i)}.channel_attention.rotary_emb.freqs" for i in range(model["blocks"])]


def _block(i):
    return f"biosignals.transformer_blocks.{i}"


def _signal_tower(model):
    own, theirs, dim = "network/signals", "biosignals", model["width"]
    patch = model["patch"]
    place = f"{theirs}.patching.conv_patching"
    yield Entry(f"params/{own}/patch_conv/kernel", f"{place}.weight", (), (2, 1, 0), (patch, 1, -1))
    yield Entry(f"params/{own}/patch_conv/bias", f"{place}.bias")
    yield from dense(f"{own}/patch_embed", f"{theirs}.embed_projection")
    yield Entry(f"params/{own}/channel_embedding", f"{theirs}.channel_id_embed.weight")
    yield Entry(f"params/{own}/channel_rates", FREQS)
    for i in range(model["blocks"]):
        block = _block(i)
        for axis, attention, parts in (
            ("across", "channel_attention", ("channel_norm", "channel_mlp", "channel_mlp_norm")),
            (
                "along",
                "temporal_attention_layers.0",
                ("temporal_norms.0", "temporal_mlps.0", "temporal_mlp_norms.0"),
            ),
        ):
            layer, place = f"{own}/block_{i}/{axis}", f"{block}.{attention}"
            for j, name in enumerate("qkv"):
                at = (slice(None), j)
                kernel = f"params/{layer}/attention/qkv_kernel"
                yield Entry(kernel, f"{place}.{name}_proj.weight", at, (1, 0), (dim, dim))
            yield from _out(f"{layer}/attention", f"{place}.out_proj", dim)
            first, ffn, second = (f"{block}.{part}" for part in parts)
            yield Entry(f"params/{layer}/attention_norm/norm/scale", f"{first}.weight")
            yield Entry(f"params/{layer}/ffn_norm/norm/scale", f"{second}.weight")
            for a, b in (
                ("gate", "gate_proj.w1"),
                ("up", "gate_proj.w2"),
                ("down", "down_proj"),
            ):
                yield from dense(f"{layer}/ffn/{a}", f"{ffn}.{b}", bias=False)
    yield Entry(f"params/{own}/final_norm/norm/scale", f"{theirs}.ln_final.weight")
    for a, b in (("embedding_pooler", "contrastive_pooler"), ("memory_pooler", "decoder_pooler")):
        place = f"{theirs}.{b}.query_tokens"
        yield Entry(f"params/{own}/{a}/queries", place, shape=(1, -1, dim))
        yield from _cross(f"{own}/{a}/attention", f"{theirs}.{b}.attn", dim)
    yield from _cross(f"{own}/pool", f"{theirs}.attn_pool", dim)
    yield from dense(f"{own}/embed", f"{theirs}.proj_to_embed")


def _text_encoder(model):
    own, dim = "network/text", model["width"]
    for a, b in (
        ("words", "token_embedding.weight"),
        ("places", "positional_embedding"),
        ("cls", "cls_emb"),
        ("projection", "text_projection"),
    ):
        yield Entry(f"params/{own}/{a}", f"text.{b}")
    for i in range(model["text_layers"]):
        place = f"text.transformer.resblocks.{i}"
        yield from _layer(f"{own}/transformer_{i}", place, dim, CLIP, cross=False)
    yield from norm(f"{own}/norm/norm", "text.ln_final")


def _decoder(model):
    own, dim = "network/decoder", model["width"]
    yield Entry(f"params/{own}/condition_table", "channel_embeddings")
    yield Entry(f"params/{own}/no_condition", "padding_embedding")
    for i in range(model["decoder_layers"]):
        for a, b in (("own", "resblocks"), ("cross", "cross_attn")):
            layer, place = f"{own}/transformer_{i}/{a}", f"text_decoder.{b}.{i}"
            yield from _layer(layer, place, dim, CLIP, cross=a == "cross")
    yield from norm(f"{own}/norm/norm", "text_decoder.ln_final")
    yield Entry(f"params/{own}/head_kernel", "text_decoder.text_projection")


def _signal_decoder(model):
    own, theirs = "network/signal_decoder", "signal_decoder"
    for i in range(RECONSTRUCTION_LAYERS):
        place = f"{theirs}.transformer.layers.{i}"
        yield from _layer(f"{own}/layers/layer_{i}", place, model["width"], TORCH, cross=False)
    yield from dense(f"{own}/hidden", f"{theirs}.to_signal.0")
    yield from dense(f"{own}/out", f"{theirs}.to_signal.2")


# Attention, norms, and the position-wise network: names of CLIP's layers, and of PyTorch's own.
CLIP = ("attn", "ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj")
TORCH = ("self_attn", "norm1", "norm2", "linear1", "linear2")


def _layer(ours, theirs, dim, names, cross):
    attention, first, second, up, down = (f"{theirs}.{name}" for name in names)
    own = f"{ours}/attention"
    if cross:
        yield from _cross(own, attention, dim)
        yield from norm(f"{ours}/memory_norm/norm", f"{first}_kv")
    else:
        kernel, wide = f"params/{own}/qkv_kernel", (dim, 3 * dim)
        yield Entry(kernel, f"{attention}.in_proj_weight", (), (1, 0), wide)
        yield Entry(f"params/{own}/qkv_bias", f"{attention}.in_proj_bias", shape=(3 * dim,))
        yield from _out(own, f"{attention}.out_proj", dim)
    yield from norm(f"{ours}/attention_norm/norm", first)
    yield from norm(f"{ours}/ffn_norm/norm", second)
    yield from dense(f"{ours}/ffn/up", up)
    yield from dense(f"{ours}/ffn/down", down)


def _cross(ours, theirs, dim):
    for name, part, count in (("q", QUERY, 1), ("kv", KEY_VALUE, 2)):
        wide, kernel = (dim, count * dim), f"params/{ours}/{name}_kernel"
        yield Entry(kernel, f"{theirs}.in_proj_weight{part}", (), (1, 0), wide)
        place = f"{theirs}.in_proj_bias{part}"
        yield Entry(f"params/{ours}/{name}_bias", place, shape=(count * dim,))
    yield from _out(ours, f"{theirs}.out_proj", dim)


def _out(ours, theirs, dim):
    yield Entry(f"params/{ours}/out_kernel", f"{theirs}.weight", (), (1, 0), (dim, dim))
    yield Entry(f"params/{ours}/out_bias", f"{theirs}.bias")
