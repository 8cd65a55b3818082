"""Tensors of the official NeuroNet and SynthSleepNet code and our variables, by name.

Names and layouts are facts of the official repositories' modules. Every array of ours is a
permutation of theirs, or holds several of them as parts; see ``hypnos_names.Entry``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hypnos_jax.interop.hypnos_names import Entry
from hypnos_jax.nn.multiscale_resnet import STRIDES

ADAPTER = "default"  # PEFT's name of the only one


def encoder_entries(
    encoder: Mapping[str, Any],
    ours: str,
    theirs: str,
    transformer: str,
    adapters: tuple[int | None, Mapping[str, Any]] = (None, {}),
) -> Iterator[Entry]:
    """Yield the entries of an encoder.

    Args:
        encoder: keyword arguments of ``NeuronetEncoder``.
        ours: path of its variables, without the collection.
        theirs: what its tensors' names begin with.
        transformer: what those of its transformer begin with.
        adapters: which of its low-rank additions is meant, None where it has none; and which
            kinds there are: ``"lora"`` and ``"frame_lora"``.
    """
    network, model = f"{ours}/frame_network", f"{theirs}frame_backbone.model"
    yield _conv(f"{network}/stem_conv", f"{model}.conv1")
    yield from _batch_norm(f"{network}/stem_norm", f"{model}.bn1")
    widths = encoder.get("widths", (64, 128, 128, 256))
    before = (encoder.get("stem", 64), *widths[:-1])
    for kernel in encoder.get("kernels", (3, 5, 7)):
        for i, (width, stride) in enumerate(zip(widths, STRIDES)):
            block = f"{network}/branch_{kernel}_block_{i}"
            layer = f"{model}.layer{kernel}x{kernel}_{i + 1}.0"
            for part, number in (("first", 1), ("second", 2)):
                yield _conv(f"{block}/{part}_conv", f"{layer}.conv{number}")
                yield from _batch_norm(f"{block}/{part}_norm", f"{layer}.bn{number}")
            if encoder.get("squeeze", 16):
                yield from dense(f"{block}/squeeze", f"{layer}.se.fc.0", bias=False)
                yield from dense(f"{block}/excite", f"{layer}.se.fc.2", bias=False)
            if stride > 1 or width != before[i]:
                yield _conv(f"{block}/shortcut_conv", f"{layer}.downsample.0")
                yield from _batch_norm(f"{block}/shortcut_norm", f"{layer}.downsample.1")
    which, kinds = adapters
    for part, number in (("hidden", 0), ("out", 2)):
        place = f"{theirs}frame_backbone.feature_layer.{number}"
        given = which if kinds.get("frame_lora") else None
        yield from dense(f"{network}/{part}", place, adapter=given)
    yield from dense(f"{ours}/patch_embed", f"{transformer}patch_embed")
    dim = encoder.get("dim", 768)
    yield Entry(f"params/{ours}/cls", f"{transformer}cls_token", shape=(1, 1, -1))
    if encoder.get("train_positions"):
        yield Entry(f"params/{ours}/positions", f"{transformer}pos_embed", shape=(1, -1, dim))
    for i in range(encoder.get("depth", 4)):
        yield from block_entries(
            f"{ours}/transformer/layer_{i}",
            f"{transformer}encoder_block.{i}",
            dim,
            adapter=which if kinds.get("lora") else None,
        )
    yield from norm(f"{ours}/transformer/final_norm/norm", f"{transformer}encoder_norm")


def block_entries(
    ours: str,
    theirs: str,
    dim: int,
    at: tuple = (),
    adapter: int | None = None,
    tuned: int | None = None,
) -> Iterator[Entry]:
    """Yield the entries of a block of ViT; ``at`` is the part of our arrays where they lie.

    ``adapter`` is the low-rank addition of the attention's output that is meant, and ``tuned``
    whether the position-wise network has one, None for none.
    """
    own, attention = f"params/{ours}/attention", f"{theirs}.attn"
    yield Entry(f"{own}/qkv_kernel", f"{attention}.qkv.weight", at, (1, 0), (dim, 3 * dim))
    yield Entry(f"{own}/qkv_bias", f"{attention}.qkv.bias", at, shape=(3 * dim,))
    place = f"{attention}.proj" + (".base_layer" if adapter is not None else "")
    yield Entry(f"{own}/out_kernel", f"{place}.weight", at, (1, 0), (dim, dim))
    yield Entry(f"{own}/out_bias", f"{place}.bias", at)
    if adapter is not None:
        yield from _lora(f"{ours}/attention/out", f"{attention}.proj", (adapter,))
    for a, b in (("attention_norm", "norm1"), ("ffn_norm", "norm2")):
        yield from norm(f"{ours}/{a}/norm", f"{theirs}.{b}", at)
    for a, b in (("up", "fc1"), ("down", "fc2")):
        yield from dense(f"{ours}/ffn/{a}", f"{theirs}.mlp.{b}", at, adapter=tuned)


def neuronet_entries(model: Mapping[str, Any]) -> Iterator[Entry]:
    """Yield the entries of ``Neuronet``'s variables, under ``network``."""
    encoder = model["encoder"]
    yield from encoder_entries(encoder, "network/encoder", "", "autoencoder.")
    own, theirs = "network/decoder", "autoencoder."
    yield from dense(f"{own}/embed", f"{theirs}decoder_embed")
    yield Entry(f"params/{own}/mask_token", f"{theirs}mask_token", shape=(1, 1, -1))
    dim = model.get("decoder_dim", 256)
    if encoder.get("train_positions"):
        place = f"{theirs}decoder_pos_embed"
        yield Entry(f"params/{own}/positions", place, shape=(1, -1, dim))
    for i in range(model.get("decoder_depth", 3)):
        yield from block_entries(f"{own}/transformer/layer_{i}", f"{theirs}decoder_block.{i}", dim)
    yield from norm(f"{own}/transformer/final_norm/norm", f"{theirs}decoder_norm")
    yield from dense(f"{own}/predict", f"{theirs}decoder_pred")
    yield from projector("network/projector", "projectors")


def synthsleepnet_entries(
    model: Mapping[str, Any], channels: Mapping[str, str], groups: Mapping[str, list[int]]
) -> Iterator[Entry]:
    """Yield the entries of ``Synthsleepnet``'s variables, under ``network``.

    Args:
        model: its keyword arguments.
        channels: our name of each channel -> the official one, in the order of ``modalities``.
        groups: of ``Synthsleepnet.groups``; the official format has a copy of the encoder for each
            channel, so an encoder that several share has several tensors of one variable.
    """
    places, dim = list(channels.values()), model.get("dim", 512)
    kinds = {"lora": model.get("lora"), "frame_lora": model.get("tuning")}
    for name, members in groups.items():
        for number, m in enumerate(members):
            theirs = backbone(places[m])
            yield from encoder_entries(
                model["encoder"], f"network/encoder_{name}", theirs, theirs, (number, kinds)
            )
    decoder = model.get("decoder_dim", 256)
    for m, name in enumerate(places):
        at = (m,)
        own, theirs = "network/embedding", f"backbone_embedded.{name}"
        yield from dense(f"{own}/hidden", f"{theirs}.0", at)
        yield from _batch_norm(f"{own}/norm", f"{theirs}.2", at)
        yield from dense(f"{own}/out", f"{theirs}.5", at)
        yield Entry(f"params/{own}/table", f"modal_token_dict.{name}", at, shape=(1, -1, dim))
        for i in range(model.get("decoder_depth", 3)):
            yield from block_entries(
                f"network/decoders/layer_{i}",
                f"multimodal_decoder_block_dict.{name}.{i}",
                decoder,
                at,
            )
        yield from dense("network/predictors", f"multimodal_decoder_pred_dict.{name}", at)
        yield from projector("network/channel_projectors", f"backbone_projector_dict.{name}", at)
    depth = model.get("depth", 4)
    for i in range(depth):
        tuned = 0 if model.get("tuning") and i == depth - 1 else None
        yield from block_entries(
            f"network/joint/layer_{i}",
            f"multimodal_encoder_block.{i}",
            dim,
            tuned=tuned,
        )
    yield from norm("network/joint/final_norm/norm", "multimodal_encoder_norm")
    yield from dense("network/decoder_embed", "decoder_embed")
    yield Entry("params/network/mask_token/embedding", "mask_token", shape=(1, 1, -1))
    yield from norm("network/decoder_norm/norm", "multimodal_decoder_norm")
    yield from projector("network/fused_projector", "fusion_projector")


def backbone(channel: str) -> str:
    """Return what the names of the tensors of a channel's encoder begin with."""
    return f"backbone_networks.{channel}.base_model.model."


def projector(ours: str, theirs: str, at: tuple = ()) -> Iterator[Entry]:
    """Yield the entries of a ``Projector``."""
    yield from dense(f"{ours}/hidden", f"{theirs}.0", at)
    yield from _batch_norm(f"{ours}/norm", f"{theirs}.1", at)
    yield from dense(f"{ours}/out", f"{theirs}.3", at)


def dense(
    ours: str, theirs: str, at: tuple = (), *, bias: bool = True, adapter: int | None = None
) -> Iterator[Entry]:
    """Yield the entries of a linear layer, and of one of its low-rank additions."""
    base = theirs + (".base_layer" if adapter is not None else "")
    yield Entry(f"params/{ours}/kernel", f"{base}.weight", at, (1, 0))
    if bias:
        yield Entry(f"params/{ours}/bias", f"{base}.bias", at)
    if adapter is not None:
        yield from _lora(ours, theirs, (adapter,))


def norm(ours: str, theirs: str, at: tuple = ()) -> Iterator[Entry]:
    """Yield the entries of a LayerNorm."""
    for a, b in (("scale", "weight"), ("bias", "bias")):
        yield Entry(f"params/{ours}/{a}", f"{theirs}.{b}", at)


def _lora(ours, theirs, at):
    for a, b in (("lora_a", "lora_A"), ("lora_b", "lora_B")):
        yield Entry(f"params/{ours}/{a}", f"{theirs}.{b}.{ADAPTER}.weight", at, (1, 0))


def _conv(ours, theirs):
    return Entry(f"params/{ours}/kernel", f"{theirs}.weight", axes=(2, 1, 0))


def _batch_norm(ours, theirs, at=()):
    yield from norm(ours, theirs, at)
    for a in ("mean", "var"):
        yield Entry(f"batch_stats/{ours}/{a}", f"{theirs}.running_{a}", at)
