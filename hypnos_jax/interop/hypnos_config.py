"""The config of a published Hypnos bundle and ours: keyword arguments of either side's classes.

Arguments, defaults and what they do are facts of the package (hypnos 0.1.0 on PyPI). What only
training reads is translated where there is a counterpart and else ignored; what changes a result
and has none here is refused. One table, both ways, which is read beside the other side's: hence the
length of this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_pipelines.recipes.hypnos import ROWS
from hypnos_jax.interop.formats import FormatError
from hypnos_jax.models.rq_transformer import RqTransformer
from hypnos_jax.models.rvq_tokenizer import RvqTokenizer

CHANNEL_NAMES = {
    "C3": "eeg_c3",
    "C4": "eeg_c4",
    "E1": "eog_e1",
    "E2": "eog_e2",
    "Chin": "emg_chin",
    "ECG": "ecg",
    "ABD": "resp_abd",
    "THX": "resp_thx",
}
CHANNEL_ROWS = 8  # of the package's channel table, whatever the modalities

# Argument -> default.
MODEL = {
    "embed_dim": 512,
    "temporal_depth": 8,
    "temporal_heads": 8,
    "temporal_mlp_ratio": 4.0,
    "depth_dim": None,
    "depth_depth": 4,
    "depth_heads": 4,
    "depth_mlp_ratio": 4.0,
    "modality_attn_every_n": 1,
    "modality_attn_start_layer": 0,
    "modality_grouping_alpha": None,
    "random_subset_masking": False,
    "modality_dropout_p": None,
    "disable_cross_modal_attention": False,
    "mod_context_dropout_p": 0.0,
    "layer_scale_init": 0.01,
    "max_seq_len": 2048,
    "dropout": 0.1,
    "sliding_window": None,
    "global_every_n": None,
    "global_window": None,
    "use_activation_checkpointing": False,
    "qk_norm": False,
    "channel_embeddings": False,
    "modality_loss_weights": None,
    "swiglu": False,
    "xsa": False,
    "use_cls": True,
    "cls_independent_crp": False,
    "modality_use_ffn": True,
    "tie_depth_io": False,
    "share_trunk_depth_emb": False,
    "causal": True,
}
TOKENIZER = {
    "in_channels": 12,
    "sample_rate": 128,
    "token_duration_sec": 1.0,
    "embed_dim": 512,
    "n_filters": 64,
    "ratios": [4, 4, 4, 4],
    "n_residual_layers": 1,
    "dilation_base": 1,
    "mode": "discrete",
    "codebook_size": 512,
    "codebook_dim": None,
    "num_quantizers": 4,
    "commitment_cost": 0.25,
    "quantization_dropout": 0.0,
    "quantizer_dropout": 0.0,
    "ema_decay": 0.99,
    "latent_dim": None,
    "attention_depth": 0,
    "attention_heads": 8,
    "window_size": 250,
    "transformer_dim_feedforward": 2048,
    "layer_scale_init": 0.01,
    "causal": False,
    "activation": "gelu",
    "norm": "layer",
    "last_kernel_size": 7,
    "stride_kernel_multiplier": 2,
    "pad_mode": "reflect",
    "use_activation_checkpointing": False,
    "rotation_trick": False,
}
MODALITY = {
    "name": "",
    "signal_type": "",
    "channels": [],
    "tokenizer": "",
    "num_quantizers": 0,
    "codebook_size": 0,
    "token_duration_sec": 1.0,
    "sample_rate": 0,
    "preprocess_modality": "",
}
# Arguments that may be None, and what else they may be.
OPTIONAL = {
    "depth_dim": int,
    "modality_grouping_alpha": (int, float),
    "modality_dropout_p": (int, float),
    "sliding_window": int,
    "global_every_n": int,
    "global_window": int,
    "modality_loss_weights": dict,
    "codebook_dim": int,
    "latent_dim": int,
    "window_size": int,
    "norm": str,
}
# Values there -> here.
ACTIVATIONS = {name: name for name in ("elu", "gelu", "leaky", "linear", "relu", "silu")}
NORMS = {None: "none", "layer": "layer", "rms": "rms", "weight": "weight"}
PADDINGS = {"constant": "zero", "reflect": "reflect", "replicate": "edge"}


class BundleError(FormatError):
    """A file that is no bundle or is damaged, or a model that the other side cannot represent."""


def arguments(where: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``defaults`` updated by ``given``.

    Args:
        where: what the arguments are of, for errors.
        given: from the bundle.
        defaults: of every argument there is.

    Raises:
        BundleError: an argument that there is not, or a value of the wrong type.
    """
    if not isinstance(given, Mapping):
        raise BundleError(f"{where} is {given!r}; an object of arguments is needed")
    for key, value in given.items():
        if key not in defaults:
            raise BundleError(f"{where}.{key}={value!r} is not known; there are {list(defaults)}")
        kind = OPTIONAL.get(key) or type(defaults[key])
        kind = (int, float) if kind is float else kind
        fits = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
        if not fits and not (value is None and key in OPTIONAL):
            raise BundleError(f"{where}.{key}={value!r} is not of the type that the package takes")
    return {**defaults, **given}


def _only(where, given, key, allowed):
    """The counterpart here of an argument's value, where it has one."""
    value = given[key]
    table = allowed if isinstance(allowed, Mapping) else {x: x for x in allowed}
    if value not in table:
        raise BundleError(
            f"{where}.{key}={value!r} (if missing, the package's default) cannot be represented"
            f" here; supported: {list(table)}"
        )
    return table[value]


def model_objective(given: Mapping[str, Any], rows: list[dict]) -> dict[str, Any]:
    """Return the objective of a bundle's model.

    Args:
        given: ``model_kwargs`` of the bundle.
        rows: of ``modality_rows``.

    Raises:
        BundleError: an unknown argument, or one that cannot be represented.
    """
    where = "model_kwargs"
    x = arguments(where, given, MODEL)
    _only(where, x, "use_cls", [False])
    _only(where, x, "causal", [True])
    for key in ("temporal_depth", "modality_attn_every_n"):
        if x[key] < 1:
            raise BundleError(f"{where}.{key}={x[key]!r} must be 1 or more")
    dim = x["embed_dim"]
    depth_dim = x["depth_dim"] or dim
    shared, tied = x["share_trunk_depth_emb"], x["tie_depth_io"]
    tables = "backbone" if dim == depth_dim and not tied else "own"
    # Of these only the first matters after training.
    masking = {"masking": "none"}
    if x["disable_cross_modal_attention"]:
        masking = {"masking": "isolate"}
    elif (rate := x["modality_dropout_p"]) is not None:
        masking = {"masking": "bernoulli", "drop_rate": float(rate)}
    elif (alpha := x["modality_grouping_alpha"]) is not None:
        name = "subset" if x["random_subset_masking"] else "crp"
        masking = {"masking": name, "crp_alpha": float(alpha)}
    weights = x["modality_loss_weights"] or {}
    names = {row["name"]: row["channel"].name for row in rows}
    unknown = sorted(set(weights) - set(names))
    if unknown:
        raise BundleError(f"{where}.modality_loss_weights has {unknown[0]!r}, no modality")
    return {
        "name": "rq_next_token",
        "model": {
            "modalities": [
                {
                    "name": row["channel"].name,
                    "levels": row["num_quantizers"],
                    "codes": row["codebook_size"],
                    "channel_id": row["channel"].id,
                    "group": row["group"],
                }
                for row in rows
            ],
            "dim": dim,
            "layers": x["temporal_depth"],
            "heads": x["temporal_heads"],
            "channel_rows": CHANNEL_ROWS if x["channel_embeddings"] else 0,
            "ffn": "swiglu" if x["swiglu"] else "gelu",
            "ffn_dim": _hidden(dim, x["temporal_mlp_ratio"], x["swiglu"]),
            "qk_norm": x["qk_norm"],
            "xsa": x["xsa"],
            "local_window": x["sliding_window"],
            "wide_window": x["global_window"],
            "wide_every": x["global_every_n"] or 0,
            "modality_every": x["modality_attn_every_n"],
            "modality_start": x["modality_attn_start_layer"],
            "modality_ffn": x["modality_use_ffn"],
            "depth_dim": depth_dim,
            "depth_layers": x["depth_depth"],
            "depth_heads": x["depth_heads"],
            "depth_ffn_dim": _hidden(depth_dim, x["depth_mlp_ratio"], x["swiglu"]),
            "depth_tables": "projected" if shared else tables,
            "tie_heads": tied,
            "dropout": float(x["dropout"]),
            "layer_scale": float(x["layer_scale_init"]),
            **masking,
        },
        "modality_weights": [[names[name], float(weight)] for name, weight in weights.items()],
        "embed_lag": True,
    }


def _hidden(dim, ratio, swiglu):
    hidden = int(dim * ratio)
    return int(2 * hidden / 3) if swiglu else hidden


def tokenizer_objective(
    where: str, given: Mapping[str, Any], group: str, row: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the objective of a bundle's tokenizer.

    Args:
        where: its place in the config, for errors.
        given: its ``tokenizer_kwargs``.
        group: whose signals it takes here.
        row: a modality that uses it, as the bundle has it.

    Raises:
        BundleError: an unknown argument, one that cannot be represented, or one that is not the
            modality's.
    """
    x = arguments(where, given, TOKENIZER)
    _only(where, x, "mode", ["discrete"])
    _only(where, x, "causal", [True])
    _only(where, x, "in_channels", [1])
    _only(where, x, "token_duration_sec", [1])
    for key in ("num_quantizers", "codebook_size", "sample_rate"):
        if x[key] != row[key]:
            raise BundleError(f"{where}.{key}={x[key]!r}, but {row[key]!r} for {row['name']}")
    return {
        "name": "rvq_reconstruction",
        "signal_type": group,
        "rate_hz": x["sample_rate"],
        "commitment_weight": float(x["commitment_cost"]),
        "model": {
            "ratios": x["ratios"],
            "filters": x["n_filters"],
            "dim": x["embed_dim"],
            "units": x["n_residual_layers"],
            "dilation_base": max(x["dilation_base"], 1),
            "overlap": x["stride_kernel_multiplier"],
            "last_kernel": x["last_kernel_size"],
            "activation": _only(where, x, "activation", {**ACTIVATIONS, "swish": "silu"}),
            "norm": _only(where, x, "norm", NORMS),
            "padding": _only(where, x, "pad_mode", PADDINGS),
            "layers": x["attention_depth"],
            "heads": x["attention_heads"],
            "window": x["window_size"],
            "ffn_dim": x["transformer_dim_feedforward"],
            "codebook_dim": x["codebook_dim"] or x["embed_dim"],
            "levels": x["num_quantizers"],
            "codes": x["codebook_size"],
            "decay": float(x["ema_decay"]),
            "rotation": x["rotation_trick"],
            "quantizer_dropout": float(x["quantizer_dropout"]),
            "bypass": float(x["quantization_dropout"]),
            "strict_causal": False,
        },
    }


def modality_rows(given: list, stems: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the bundle's modalities, checked, with our ``channel`` and ``group`` of each.

    A group is what shares code tables (signal type, K and V) and a tokenizer; it bears the name of
    our signal type, numbered where there are several.

    Raises:
        BundleError: a row that is incomplete or is not a channel prepared here.
    """
    if not isinstance(given, list) or not given:
        raise BundleError(f"modalities is {given!r}; a list of modalities is needed")
    rows, groups = [], {}
    for i, row in enumerate(given):
        where = f"modalities[{i}]"
        # Further keys are nobody's: the package does not read them either.
        known = {k: v for k, v in row.items() if k in MODALITY} if isinstance(row, dict) else row
        row = arguments(where, known, MODALITY)
        missing = [key for key in MODALITY if key not in known]
        if missing or not row["channels"]:
            raise BundleError(f"{where} lacks {missing or ['channels']}")
        # Of several channels the package reads the first.
        channel = ROWS[_only(where, {"channels": row["channels"][0]}, "channels", CHANNEL_NAMES)]
        _only(where, row, "token_duration_sec", [1])
        _only(where, row, "preprocess_modality", [channel.preprocess])
        if row["tokenizer"] not in stems:
            raise BundleError(f"{where}.tokenizer={row['tokenizer']!r} is not in tokenizers")
        if any(channel.name == other["channel"].name for other in rows):
            raise BundleError(f"{where}: {row['channels'][0]} is the channel of two modalities")
        key = (row["signal_type"], row["num_quantizers"], row["codebook_size"], row["tokenizer"])
        if key not in groups:
            same = sum(name.split("_")[0] == channel.signal_type for name in groups.values())
            groups[key] = f"{channel.signal_type}_{same + 1}" if same else channel.signal_type
        rows.append({**row, "channel": channel, "group": groups[key]})
    return rows


def model_arguments(x: RqTransformer, weights: Mapping[str, float]) -> dict[str, Any]:
    """Return ``model_kwargs`` of a model that was trained here: the inverse of ``model_objective``.

    Args:
        x: the model.
        weights: modality -> weight in the loss, for those that have one.

    Raises:
        BundleError: the package has no such model.
    """
    swiglu, tied, tables = x.ffn == "swiglu", x.tie_heads, x.depth_tables
    if x.use_tracks:
        raise BundleError("use_tracks=True: the published model reads codes alone")
    if (tables, tied) == ("backbone", True):
        raise BundleError("depth_tables='backbone' with tie_heads=True: not both in the package")
    if (tables, tied, x.depth_dim) == ("own", False, x.dim):
        raise BundleError(
            f"depth_dim={x.depth_dim} is dim, where the package shares the backbone's tables;"
            " depth_tables='own' cannot be written"
        )
    return {
        "embed_dim": x.dim,
        "temporal_depth": x.layers,
        "temporal_heads": x.heads,
        "temporal_mlp_ratio": _ratio(x.dim, x.ffn_dim, swiglu),
        "depth_dim": x.depth_dim,
        "depth_depth": x.depth_layers,
        "depth_heads": x.depth_heads,
        "depth_mlp_ratio": _ratio(x.depth_dim, x.depth_ffn_dim, swiglu),
        "modality_attn_every_n": x.modality_every or 1,
        "modality_attn_start_layer": x.modality_start if x.modality_every else x.layers,
        "modality_grouping_alpha": x.crp_alpha if x.masking in ("crp", "subset") else None,
        "random_subset_masking": x.masking == "subset",
        "modality_dropout_p": x.drop_rate if x.masking == "bernoulli" else None,
        "disable_cross_modal_attention": x.masking == "isolate",
        "layer_scale_init": x.layer_scale,
        "dropout": x.dropout,
        "sliding_window": x.local_window,
        "global_every_n": x.wide_every or None,
        "global_window": x.wide_window,
        "qk_norm": x.qk_norm,
        "channel_embeddings": x.channel_rows != 0,
        "modality_loss_weights": _every_weight(weights, x.modalities),
        "swiglu": swiglu,
        "xsa": x.xsa,
        "use_cls": False,
        "modality_use_ffn": x.modality_ffn,
        "tie_depth_io": tied,
        "share_trunk_depth_emb": tables == "projected",
        "causal": True,
    }


def modality(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a bundle says of a modality that a model here has, but for its tokenizer's sizes.

    Raises:
        BundleError: the package has no such channel.
    """
    back = {ours: theirs for theirs, ours in CHANNEL_NAMES.items()}
    if row.get("timing"):
        raise BundleError(f"{row['name']} has timing levels, which the package has not")
    if row["name"] not in back or row["channel_id"] != ROWS[row["name"]].id:
        raise BundleError(
            f"modality {row['name']!r} with channel_id={row['channel_id']} is none of the package:"
            f" {[(name, ROWS[name].id) for name in back]}"
        )
    return {
        "name": row["name"],
        "channels": [back[row["name"]]],
        "tokenizer": row["group"],
        "preprocess_modality": ROWS[row["name"]].preprocess,
    }


def _ratio(dim, hidden, swiglu):
    """The ratio of which the package makes this hidden width; None is four widths."""
    if hidden is None:
        return 4.0
    whole = -(-3 * hidden // 2) if swiglu else hidden
    ratio = whole / dim
    return ratio if int(dim * ratio) == whole else (whole + 0.5) / dim


def _every_weight(weights, modalities):
    return {row["name"]: weights.get(row["name"], 1.0) for row in modalities} if weights else None


def tokenizer_arguments(x: RvqTokenizer, *, rate_hz: int, commitment: float) -> dict[str, Any]:
    """Return ``tokenizer_kwargs`` of a tokenizer with the released alignment."""

    def back(table, value):
        return {ours: theirs for theirs, ours in table.items()}[value]

    return {
        "in_channels": 1,
        "sample_rate": rate_hz,
        "token_duration_sec": 1.0,
        "embed_dim": x.dim,
        "n_filters": x.filters,
        "ratios": list(x.ratios),
        "n_residual_layers": x.units,
        "dilation_base": x.dilation_base,
        "mode": "discrete",
        "codebook_size": x.codes,
        "codebook_dim": x.codebook_dim,
        "num_quantizers": x.levels,
        "commitment_cost": commitment,
        "quantization_dropout": x.bypass,
        "quantizer_dropout": x.quantizer_dropout,
        "ema_decay": x.decay,
        "attention_depth": x.layers,
        "attention_heads": x.heads,
        "window_size": x.window,
        "transformer_dim_feedforward": x.ffn_dim or 4 * x.dim,
        "causal": True,
        "activation": back(ACTIVATIONS, x.activation),
        "norm": back(NORMS, x.norm),
        "last_kernel_size": x.last_kernel,
        "stride_kernel_multiplier": x.overlap,
        "pad_mode": back(PADDINGS, x.padding),
        "rotation_trick": x.rotation,
    }
