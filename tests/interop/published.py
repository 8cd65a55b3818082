"""Random models of the published package (torch), and its own answers; for tests alone."""

import copy
import json

import numpy as np
import safetensors.torch
import torch
from hypnos.embedding import embed, load_model, preprocess_edf, tokenize
from hypnos.models.rq_transformer import ModalityConfig, MultiModalRQTransformer
from hypnos.models.tokenizer import SignalTokenizer

CHANNELS = {
    "eeg_c3": ("C3", "eeg", "eeg"),
    "eeg_c4": ("C4", "eeg", "eeg"),
    "eog_e1": ("E1", "eog", "eeg"),
    "eog_e2": ("E2", "eog", "eeg"),
    "emg_chin": ("Chin", "emg", "emg"),
    "ecg": ("ECG", "ecg", "ecg"),
    "resp_abd": ("ABD", "resp", "respiratory"),
    "resp_thx": ("THX", "resp", "respiratory"),
}


def pick(rng, *choices):
    return choices[rng.integers(len(choices))]


def tokenizer_arguments(rng):
    """Arguments of a small tokenizer, any that the package takes and can be loaded."""
    ratios = pick(rng, [4, 2], [2, 2, 2], [8], [2, 4], [3, 2])
    heads = pick(rng, 1, 2)
    return {
        "in_channels": 1,
        "sample_rate": int(np.prod(ratios)),
        "token_duration_sec": 1.0,
        "embed_dim": 4 * heads,
        "n_filters": pick(rng, 6, 7, 8),  # norms over one or two channels are steps
        "ratios": ratios,
        "n_residual_layers": pick(rng, 0, 1, 2),
        "dilation_base": pick(rng, 1, 2, 3),
        "codebook_size": pick(rng, 8, 13, 16),
        "codebook_dim": pick(rng, None, 3, 6),
        "num_quantizers": pick(rng, 1, 2, 3),
        "attention_depth": pick(rng, 0, 1, 2),
        "attention_heads": heads,
        "window_size": pick(rng, None, 1, 3, 40),
        "transformer_dim_feedforward": pick(rng, 8, 12),
        "causal": True,
        "activation": pick(rng, "elu", "gelu", "relu", "leaky", "silu", "swish", "linear"),
        "norm": pick(rng, None, "layer", "weight", "rms"),
        "last_kernel_size": pick(rng, 7, 3, 1),
        "stride_kernel_multiplier": pick(rng, 1, 2, 3),
        "pad_mode": pick(rng, "constant", "reflect", "replicate"),
        "latent_dim": pick(rng, None, 5),
        "rotation_trick": pick(rng, False, True),
    }


def model_arguments(rng):
    """Arguments of a small model, any that the package takes and can be loaded."""
    heads = pick(rng, 1, 2, 4)
    dim = 8 * heads
    same = pick(rng, True, False)
    return {
        "embed_dim": dim,
        "temporal_depth": pick(rng, 1, 2, 4),
        "temporal_heads": heads,
        "temporal_mlp_ratio": pick(rng, 4.0, 2, 1.7),
        "depth_dim": pick(rng, None, dim) if same else 6,
        "depth_depth": pick(rng, 0, 1, 2),
        "depth_heads": heads if same else 2,
        "depth_mlp_ratio": pick(rng, 4.0, 2.5),
        "modality_attn_every_n": pick(rng, 1, 2),
        "modality_attn_start_layer": pick(rng, 0, 1, 7),
        "modality_grouping_alpha": pick(rng, None, 0.7),
        "disable_cross_modal_attention": pick(rng, False, False, True),
        "layer_scale_init": 0.02,
        "max_seq_len": 16,
        "sliding_window": pick(rng, None, 3, 40),
        "global_every_n": pick(rng, None, 2, 3),
        "global_window": pick(rng, None, 6),
        "qk_norm": pick(rng, False, True),
        "channel_embeddings": pick(rng, False, True),
        "swiglu": pick(rng, False, True),
        "xsa": pick(rng, False, True),
        "use_cls": False,
        "modality_use_ffn": pick(rng, False, True),
        "tie_depth_io": pick(rng, False, True),
        "share_trunk_depth_emb": pick(rng, False, True),
    }


def add_modality(config, name, **tokenizer):
    """Add a modality, and where it is the first of its signal type, a tokenizer with these."""
    channel, signal_type, preprocess = CHANNELS[name]
    stem = f"{signal_type}-q"
    spec = config["tokenizers"].setdefault(stem, {"tokenizer_kwargs": tokenizer})
    given = spec["tokenizer_kwargs"]
    sizes = {key: given[key] for key in ("num_quantizers", "codebook_size", "sample_rate")}
    sizes |= {"signal_type": signal_type.upper(), "token_duration_sec": 1.0}
    spec |= sizes
    row = {
        "name": name,
        "channels": [channel],
        "tokenizer": stem,
        "preprocess_modality": preprocess,
    }
    config["modalities"].append(row | sizes)


def draw_config(seed):
    """The config of a random bundle: one to three modalities of one or two signal types."""
    rng = np.random.default_rng(seed)
    config = {
        "model_target": "hypnos.models.rq_transformer.MultiModalRQTransformer",
        "model_kwargs": model_arguments(rng),
        "modalities": [],
        "tokenizers": {},
    }
    for name in rng.permutation(list(CHANNELS))[: rng.integers(1, 4)]:
        # Each tokenizer is compiled: two are enough.
        if len(config["tokenizers"]) < 2 or f"{CHANNELS[name][1]}-q" in config["tokenizers"]:
            add_modality(config, str(name), **tokenizer_arguments(rng))
    if rng.integers(2):
        weights = {row["name"]: float(rng.uniform(0.5, 2)) for row in config["modalities"]}
        config["model_kwargs"]["modality_loss_weights"] = weights
    return config


def randomise(module, seed):
    """Weights of no particular kind, so that everything that may matter does."""
    generator = torch.Generator().manual_seed(seed)
    normal = lambda x: torch.randn(x.shape, generator=generator)
    with torch.no_grad():
        for name, x in module.named_parameters():
            last = name.rpartition(".")[2]
            if "norm" in name and last == "weight" or "scale" in name or last == "original0":
                x.copy_(1 + 0.2 * normal(x))
            elif "embed" in name or x.ndim < 2:
                x.copy_(0.5 * normal(x))
            else:
                x.copy_(normal(x) / x[0].numel() ** 0.5)
    return module.eval()


def start_codebooks(tokenizer, seed):
    """Codewords near what the encoder gives of noise, so that many are used."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=(6, 20 * tokenizer.samples_per_token)).astype(np.float32)
    left = torch.tensor(encode(tokenizer, noise)[0]).flatten(0, 1)
    with torch.no_grad():
        for level in tokenizer.quantizer.quantizers:
            chosen = torch.tensor(generator.permutation(len(left))[: level.codebook_size])
            words = left[chosen] + 0.1 * left.std() * torch.tensor(
                generator.normal(size=(level.codebook_size, level.dim)), dtype=torch.float32
            )
            counts = torch.tensor(generator.uniform(1, 9, level.codebook_size)).float()
            level.ema_cluster_size.copy_(counts)
            level.ema_embed_sum.copy_(words * counts[:, None])
            level.embedding.weight.copy_(level.ema_embed_sum / counts[:, None])
            level.initialized.fill_(True)
            left = left - level.embedding(level.encode(left))


def build(config, seed=0):
    """The package's model and tokenizers (stem -> module) with random weights."""
    rows = [
        ModalityConfig(m["name"], m["num_quantizers"], m["codebook_size"], m["signal_type"])
        for m in config["modalities"]
    ]
    model = MultiModalRQTransformer(modality_configs=rows, **config["model_kwargs"])
    tokenizers = {}
    for i, (stem, spec) in enumerate(config["tokenizers"].items()):
        tokenizers[stem] = randomise(SignalTokenizer(**spec["tokenizer_kwargs"]), seed + 1 + i)
        start_codebooks(tokenizers[stem], seed)
    return randomise(model, seed), tokenizers


def save(path, config, model, tokenizers, *, every_name=True):
    """Write a bundle with every name of a shared tensor, or its first alone."""
    tensors, seen = {}, set()
    parts = {"model": model} | {f"tok/{stem}": x for stem, x in tokenizers.items()}
    for prefix, module in parts.items():
        for name, x in module.state_dict().items():
            if every_name or x.data_ptr() not in seen or not x.numel():
                tensors[f"{prefix}/{name}"] = x.clone().contiguous()
            seen.add(x.data_ptr())
    safetensors.torch.save_file(tensors, path, metadata={"config": json.dumps(config)})
    return path


def load(path):
    """What the package's own loader makes of a bundle: model, tokenizers by modality, metadata."""
    return load_model(path)


def encode(tokenizer, signal):
    """The vectors before quantisation [B, S, C] and the codes [B, S, K] of a signal [B, T]."""
    with torch.no_grad():
        x = torch.tensor(signal)[:, None]
        latents = tokenizer.project_in(tokenizer.encoder_transformer(tokenizer.encoder(x)))
        return latents.numpy(), tokenizer.tokenize(x).numpy()


def decode(tokenizer, codes):
    """The signal [B, T] of codes [B, S, K]."""
    with torch.no_grad():
        return tokenizer.decode_tokens(torch.tensor(codes, dtype=torch.long))[:, 0].numpy()


def codebooks(tokenizer):
    """The codewords [K, V, C]."""
    levels = tokenizer.quantizer.quantizers
    return np.stack([level.embedding.weight.detach().numpy() for level in levels])


def run(model, batch):
    """The loss, and the backbone's output [B, M, S, D], in float64: the package's own, unrounded.

    Of two roundings of an ill-conditioned draw neither is the truth that the other should meet.
    """
    model = copy.deepcopy(model).double()
    with torch.no_grad():
        codes, ids = (torch.tensor(batch[name]).long() for name in ("codes", "channel_ids"))
        out = model(codes, ids, torch.tensor(batch["present"]))
    return float(out["loss"]), out["temporal_context"].numpy()


def weights(module):
    """Name -> array of everything in a module's state."""
    return {name: x.numpy() for name, x in module.state_dict().items()}


def embed_edf(path, bundle):
    """The package's embedding of an EDF file, modality -> float16 [S, D]; its codes [S, sumK]."""
    model, tokenizers, meta = load_model(bundle)
    signals = preprocess_edf(str(path), meta)
    codes, mask, ids = tokenize(tokenizers, meta, signals)
    return embed(model, codes, mask, ids, meta), codes[0].numpy()
