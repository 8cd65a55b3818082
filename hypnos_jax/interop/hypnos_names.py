"""Tensors of the published Hypnos package and our variables, by name, in both directions.

Names and layouts are facts of the package's modules (hypnos 0.1.0 on PyPI). Every array of ours is
a permutation and reshape of theirs, or holds several of them as parts; so one list of ``Entry``
serves to load and to write.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

Tree = Mapping[str, "Tree | tuple[int, ...]"]  # the shapes of a module's variables


@dataclasses.dataclass(frozen=True)
class Entry:
    """``ours[at] = theirs.transpose(axes).reshape(...)``.

    Attributes:
        ours: path of the variable, such as ``project_in/kernel``.
        theirs: name of the tensor.
        at: which part of ours.
        axes: permutation; None keeps the order.
        shape: of theirs once permuted, one length may be -1; None for that of the part.
        others: further names that the package has for the same tensor.
    """

    ours: str
    theirs: str
    at: tuple = ()
    axes: tuple[int, ...] | None = None
    shape: tuple[int, ...] | None = None
    others: tuple[str, ...] = ()

    def give(self, ours: np.ndarray) -> np.ndarray:
        """Return their tensor, given our whole variable."""
        part = ours[self.at]
        part = part if self.shape is None else part.reshape(self.shape)
        return part if self.axes is None else part.transpose(np.argsort(self.axes))

    def take(self, theirs: np.ndarray, ours: np.ndarray) -> None:
        """Write their tensor into our whole variable."""
        part = theirs if self.axes is None else theirs.transpose(self.axes)
        ours[self.at] = part.reshape(ours[self.at].shape)


def backbone_entries(tree: Tree, leaders: Mapping[str, str]) -> Iterator[Entry]:
    """Yield the entries of an RQ-Transformer.

    Args:
        tree: its parameters' shapes.
        leaders: group -> the modality whose name the group's tables bear in the package.
    """
    if "channel_embedding" in tree:
        yield Entry("channel_embedding", "channel_embed.weight")
    layers = tree["backbone"]["layers"]
    counts = {"block": 0, "modality": 0}
    for period in range(layers["block_0"]["attention_scale"][0]):
        for name in sorted(layers, key=lambda name: (int(name.split("_")[1]), name)):
            kind, ours = name.split("_")[0], f"backbone/layers/{name}"
            theirs = f"temporal_transformer.{STACKS[kind]}.{counts[kind]}"
            counts[kind] += 1
            if kind == "block":
                yield from _layer(ours, layers[name], theirs, (period,))
            else:
                place = f"{ours}/position_embedding"
                yield Entry(place, f"{theirs}.pos_embed.weight", (period,))
                yield from _layer(f"{ours}/layer", layers[name]["layer"], theirs, (period,))
    yield from _norm("backbone/final_norm/norm", "temporal_transformer.norm")
    yield Entry("depth/modality_embedding", "depth_transformer.modality_embeddings")
    yield Entry("depth/level_embedding", "depth_transformer.pos_embed.weight")
    if "condition" in tree["depth"]:
        yield from _dense("depth/condition", "depth_transformer.context_proj")
    yield from _stack("depth/stack", tree["depth"]["stack"], "depth_transformer")
    for group, leader in leaders.items():
        yield Entry(f"{group}_bos_embedding", f"bos_embeds.{leader}")
        yield from _tables(tree, group, leader)


def _tables(tree, group, leader):
    """Code tables and heads; what is shared has one name of ours and several there."""
    depth = tree["depth"]
    own, projected = (f"{group}_{name}" in depth for name in ("code_embedding", "code_projection"))
    untied = f"{group}_head_kernel" in depth
    shallow = f"{group}_code_embedding"
    codes = f"depth_transformer.per_group_embeddings.{leader}"
    heads = f"depth_transformer.per_group_output_heads.{leader}"
    levels = range(tree[shallow][0])
    for k in levels:
        others = ()
        if projected:
            others = (f"{codes}.{k}.trunk_emb.weight",)
            others += () if untied else (f"{heads}.{k}.trunk_emb.weight",)
        elif not own:
            others = (f"{codes}.{k}.weight",)
        yield Entry(shallow, f"token_embeddings.{leader}.{k}.weight", (k,), others=others)
        if own:
            others = () if untied else (f"{heads}.{k}.weight",)
            yield Entry(f"depth/{shallow}", f"{codes}.{k}.weight", (k,), others=others)
        if untied:
            kernel = f"depth/{group}_head_kernel"
            yield Entry(kernel, f"{heads}.{k}.weight", (k,), axes=(1, 0))
        yield Entry(f"depth/{group}_head_bias", f"{heads}.{k}.bias", (k,))
    if projected:
        others = tuple(f"{codes}.{k}.proj.weight" for k in levels)
        name = f"trunk_to_depth_proj.{leader}.weight"
        yield Entry(f"depth/{group}_code_projection", name, axes=(1, 0), others=others)
    if projected and not untied:
        others = tuple(f"{heads}.{k}.down_proj.weight" for k in levels)
        name = f"depth_to_trunk_proj.{leader}.weight"
        yield Entry(f"depth/{group}_head_projection", name, axes=(1, 0), others=others)


def tokenizer_entries(tree: Tree) -> Iterator[Entry]:
    """Yield the entries of a tokenizer, but for its codebooks; ``tree``: its parameters' shapes."""
    stages = sum(name.endswith("_down") for name in tree["encoder"])
    units = sum(name.startswith("stage_0_unit_") for name in tree["encoder"])
    for side in ("encoder", "decoder"):
        own = tree[side]
        yield from _conv(f"{side}/first", own["first"], f"{side}.initial_conv")
        yield from _conv(f"{side}/last", own["last"], f"{side}.final_conv")
        for i in range(stages):
            # There a stage lists its modules, activations included; the decoder's stages mirror.
            if side == "encoder":
                at, strided, place, first = f"encoder.stages.{i}", f"stage_{i}_down", units + 1, 0
            else:
                at, strided, place, first = (
                    f"decoder.stages.{stages - 1 - i}",
                    f"stage_{i}_up",
                    1,
                    2,
                )
            up = side == "decoder"
            yield from _conv(f"{side}/{strided}", own[strided], f"{at}.{place}", transposed=up)
            for j in range(units):
                unit = f"stage_{i}_unit_{j}"
                for part, place in (("narrow", 1), ("widen", 3)):
                    theirs = f"{at}.{first + j}.block.{place}"
                    yield from _conv(f"{side}/{unit}/{part}", own[unit][part], theirs)
        if f"{side}_transformer" in tree:
            name = f"{side}_transformer"
            yield from _stack(name, tree[name], name)
    for name in ("project_in", "project_out"):
        yield from _dense(name, name)


STACKS = {"block": "temporal_layers", "modality": "modality_layers"}


def _stack(ours, tree, theirs):
    for i in range(len(tree) - 1):
        yield from _layer(f"{ours}/layer_{i}", tree[f"layer_{i}"], f"{theirs}.layers.{i}")
    yield from _norm(f"{ours}/final_norm/norm", f"{theirs}.norm")


def _layer(ours, tree, theirs, at=()):
    width = tree["attention"]["qkv_kernel"][len(at)]
    for i, letter in enumerate("qkv"):
        part, name = (*at, slice(None), i), f"{theirs}.{letter}_proj.weight"
        yield Entry(f"{ours}/attention/qkv_kernel", name, part, (1, 0), (width, -1))
    name = f"{theirs}.out_proj.weight"
    yield Entry(f"{ours}/attention/out_kernel", name, at, (1, 0), (-1, width))
    for letter in "qk" if "q_scale" in tree["attention"] else "":
        yield Entry(f"{ours}/attention/{letter}_scale", f"{theirs}.{letter}_norm.weight", at)
    yield from _norm(f"{ours}/attention_norm/norm", f"{theirs}.norm1", at)
    if "attention_scale" in tree:
        yield Entry(f"{ours}/attention_scale", f"{theirs}.layer_scale_attn", at)
    if "ffn" not in tree:
        return
    yield from _norm(f"{ours}/ffn_norm/norm", f"{theirs}.norm2", at)
    if "ffn_scale" in tree:
        yield Entry(f"{ours}/ffn_scale", f"{theirs}.layer_scale_ffn", at)
    if "gate" in tree["ffn"]:
        for name in ("gate", "up", "down"):
            kernel = f"{ours}/ffn/{name}/kernel"
            yield Entry(kernel, f"{theirs}.ffn.w_{name}.weight", at, (1, 0))
    else:
        yield from _dense(f"{ours}/ffn/up", f"{theirs}.ffn.0", at)
        yield from _dense(f"{ours}/ffn/down", f"{theirs}.ffn.2", at)


def _dense(ours, theirs, at=()):
    yield Entry(f"{ours}/kernel", f"{theirs}.weight", at, (1, 0))
    yield Entry(f"{ours}/bias", f"{theirs}.bias", at)


def _norm(ours, theirs, at=()):
    yield Entry(f"{ours}/scale", f"{theirs}.weight", at)
    yield Entry(f"{ours}/bias", f"{theirs}.bias", at)


def _conv(ours, tree, theirs, *, transposed=False):
    # [out, in, taps] there, [in, out, taps] where transposed; [taps, in, out] here.
    axes = (2, 0, 1) if transposed else (2, 1, 0)
    weight = f"{theirs}.conv.weight"
    if "gain" in tree:
        weight = f"{theirs}.conv.parametrizations.weight.original1"
        gain = f"{theirs}.conv.parametrizations.weight.original0"
        yield Entry(f"{ours}/gain", gain, shape=(-1, 1, 1))
    yield Entry(f"{ours}/kernel", weight, axes=axes)
    yield Entry(f"{ours}/bias", f"{theirs}.conv.bias")
    for name, other in (("scale", "weight"), ("bias", "bias")):
        if name in tree.get("norm", ()):
            yield Entry(f"{ours}/norm/{name}", f"{theirs}.norm.{other}", shape=(1, -1, 1))
