"""Tokenize and embed an hour from an EDF, beside the published package on the same weights.

    python benchmarks/embed_recording.py --reference_python=/path/to/venv/bin/python

The package is ``pip install hypnos==0.1.0 torch==2.13.0`` in an environment of its own; it makes a
bundle of random weights at paper scale (tokenizers 512 wide, 3 attention layers of window 32;
D 768 x 12, windows 64 and 256, every 4th wide), which both sides load. Each measurement is a fresh
process that owns the machine's cores; of the runs inside a process the last counts, so that neither
side pays for starting up (our compilation is reported apart). Prints one line a row: seconds, CPU
seconds, peak memory, and the matrix-product rate measured in the same process.
"""

import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import app, flags
from noise_edf import write_edf

HOURS = flags.DEFINE_float("hours", 1.0, "Length of the recording.")
REFERENCE = flags.DEFINE_string("reference_python", None, "Python that has hypnos and torch.")
ONLY = flags.DEFINE_enum("only", "both", ["both", "ours", "reference"], "Which side to run.")
DTYPE = flags.DEFINE_string("dtype", "float32", "Of our backbone's products.")
INSIDE = flags.DEFINE_string("inside", None, "Measure in this process: FOLDER (internal).")

# Shared by both programs: the names are the package's.
MAKE_BUNDLE = """
import json, sys, torch
from safetensors.torch import save_file
from hypnos.models.rq_transformer import ModalityConfig, MultiModalRQTransformer
from hypnos.models.tokenizer import SignalTokenizer
torch.manual_seed(0)
names = ["eeg_c3", "eeg_c4", "eog_e1", "eog_e2", "emg_chin", "ecg", "resp_abd", "resp_thx"]
channels = ["C3", "C4", "E1", "E2", "Chin", "ECG", "ABD", "THX"]
keys = ["eeg", "eeg", "eeg", "eeg", "emg", "ecg", "respiratory", "respiratory"]
types = [name.split("_")[0] for name in names]
rate = lambda kind: 32 if kind == "resp" else 128
config = {"model_target": "MultiModalRQTransformer", "modalities": [], "tokenizers": {}}
config["model_kwargs"] = dict(
    embed_dim=768, temporal_depth=12, temporal_heads=12, depth_dim=512, depth_depth=4,
    depth_heads=8, sliding_window=64, global_every_n=4, global_window=256, qk_norm=True,
    channel_embeddings=True, swiglu=True, use_cls=False,
)
state = {}
for name, channel, key, kind in zip(names, channels, keys, types):
    shared = dict(signal_type=kind, num_quantizers=8, codebook_size=2048,
                  token_duration_sec=1.0, sample_rate=rate(kind))
    config["modalities"].append(
        dict(name=name, channels=[channel], tokenizer=kind, preprocess_modality=key, **shared))
    if kind in config["tokenizers"]:
        continue
    kwargs = dict(
        in_channels=1, sample_rate=rate(kind), embed_dim=512, n_filters=64,
        ratios=[4, 4, 2] if kind == "resp" else [4, 4, 4, 2], codebook_size=2048,
        codebook_dim=256, num_quantizers=8, attention_depth=3, attention_heads=8, window_size=32,
        causal=True, activation="elu", norm="weight", pad_mode="constant")
    config["tokenizers"][kind] = dict(tokenizer_kwargs=kwargs, **shared)
    tokenizer = SignalTokenizer(**kwargs)
    for name_, tensor in tokenizer.state_dict().items():
        state[f"tok/{kind}/{name_}"] = tensor
    for level in range(8):  # codebooks that have started
        at = f"tok/{kind}/quantizer.quantizers.{level}."
        words = torch.randn_like(state[at + "embedding.weight"])
        state[at + "embedding.weight"], state[at + "ema_embed_sum"] = words, words.clone()
        state[at + "ema_cluster_size"] = torch.ones_like(state[at + "ema_cluster_size"])
        state[at + "initialized"] = torch.ones_like(state[at + "initialized"])
configs = [ModalityConfig(name=m["name"], num_quantizers=8, codebook_size=2048,
                          signal_type=m["signal_type"]) for m in config["modalities"]]
model = MultiModalRQTransformer(modality_configs=configs, **config["model_kwargs"])
state |= {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
state = {name: tensor.clone().contiguous() for name, tensor in state.items()}
save_file(state, sys.argv[1], metadata={"config": json.dumps(config)})
"""

REFERENCE_CODE = """
import json, resource, sys, time, torch
from hypnos.embedding.infer import temporal_context
from hypnos.embedding.loader import load_model
from hypnos.embedding.pipeline import preprocess_edf, tokenize
folder = sys.argv[1]
model, tokenizers, metadata = load_model(f"{folder}/hypnos.safetensors")
a = torch.randn(1024, 1024)
def rate():
    best = 1e9
    for _ in range(5):
        then = time.perf_counter(); a @ a; best = min(best, time.perf_counter() - then)
    return 2 * 1024**3 / best / 1e9
out = {"matmul_gflop_per_s": rate()}
def timed(name, function, *args):
    then, cpu = time.perf_counter(), time.process_time()
    result = function(*args)
    out[name] = [time.perf_counter() - then, time.process_time() - cpu]
    return result
# A minute of warming up; the hour then counts.
signals = timed("prepare", preprocess_edf, f"{folder}/night.edf", metadata)
short = {name: x[: len(x) // 60] for name, x in signals.items()}
tokens, mask, ids = tokenize(tokenizers, metadata, short)
temporal_context(model, tokens, mask, ids)
signals = timed("prepare", preprocess_edf, f"{folder}/night.edf", metadata)
tokens, mask, ids = timed("tokenize", tokenize, tokenizers, metadata, signals)
rows = timed("embed", temporal_context, model, tokens, mask, ids)
assert rows.shape[1:] == (8, 768)
out["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps(out))
"""


def measure(folder):
    """Load the bundle and embed the night twice; print times and peak memory as JSON."""
    import jax

    from data_pipelines.builders.recording_night import Pending
    from hypnos_jax import sharding
    from hypnos_jax.cost import flops
    from hypnos_jax.inference.embed import Embedder

    out = {"matmul_gflop_per_s": flops.matmul_rate(sharding.make_mesh()) / 1e9}

    def timed(name, function, *args):
        then, cpu = time.perf_counter(), time.process_time()
        result = function(*args)
        out[name] = [time.perf_counter() - then, time.process_time() - cpu]
        return result

    began = time.perf_counter()
    embedder = Embedder(folder / "hypnos.safetensors", dtype=DTYPE.value, generates=False)
    path = folder / "night.edf"
    prepare = embedder.prepare(embedder.names(), mains_hz=50, aliases=None)
    for run in ("first_", ""):
        night = timed(run + "prepare", prepare, Pending("night", path, scoring=False))
        codes = timed(run + "tokenize", embedder.tokenize, night.channels)
        found = timed(run + "embed", embedder.embed_codes, codes)
        if run:
            out["until_first_embedding_s"] = time.perf_counter() - began
    assert found.modalities["ecg"].shape == (len(night.channels["ecg"].valid), 768)
    out["jax"] = jax.__version__
    out["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(out))


def run(arguments):
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{arguments[0]}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(_):
    if INSIDE.value:
        measure(pathlib.Path(INSIDE.value))
        return
    if not REFERENCE.value:
        raise app.UsageError("--reference_python makes the random bundle, so it is needed")
    with tempfile.TemporaryDirectory() as folder:
        write_edf(pathlib.Path(folder) / "night.edf", HOURS.value, 256, 0)
        bundle = f"{folder}/hypnos.safetensors"
        subprocess.run([REFERENCE.value, "-c", MAKE_BUNDLE, bundle], check=True)
        sides = {}
        if ONLY.value != "reference":
            ours = [sys.executable, __file__, f"--inside={folder}", f"--dtype={DTYPE.value}"]
            sides["ours"] = run(ours)
        if ONLY.value != "ours":
            sides["reference"] = run([REFERENCE.value, "-c", REFERENCE_CODE, folder])
    for name, row in sides.items():
        row["all"] = np.sum([row[job] for job in ("prepare", "tokenize", "embed")], axis=0).tolist()
        print(name, json.dumps(row))
    print(f"{HOURS.value:g} h, 8 modalities, {os.cpu_count()} cores")
    for job in ("prepare", "tokenize", "embed", "all"):
        cells = [
            f"{name} {row[job][0]:7.1f} s ({row[job][1]:.0f} CPU s)" for name, row in sides.items()
        ]
        if len(sides) == 2:
            cells.append(f"{sides['reference'][job][0] / sides['ours'][job][0]:.2f}x as fast")
        print(f"{job:>9}: " + "; ".join(cells))
    print("peak MiB:", {name: round(row["peak_mib"]) for name, row in sides.items()})


if __name__ == "__main__":
    app.run(main)
