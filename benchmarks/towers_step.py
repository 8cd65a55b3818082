"""A training step of the contrastive towers beside the same layers in plain PyTorch.

    python benchmarks/towers_step.py --sizes=s,dense --dtypes=float32,bfloat16 --rows=4

Ours is the step of ``hypnos_jax.train`` for ``configs/sleep2vec/pretrain.py`` of nine modalities,
on a pair of EEG and ECG. The reference has the official layers at the same sizes: its tokenizers,
``RoFormerModel`` of ``transformers``, its projection head and weighted InfoNCE, AdamW, a clip, and
averaged weights; ``--reference_python`` names a Python with torch and transformers (this one by
default). Each measurement is a fresh process; ours also says its share of the machine's matrix
products, measured before and after in the same process. Prints one JSON object each, and a table.
"""

import json
import resource
import statistics
import subprocess
import sys
import time

import flax.linen as nn
import jax
import numpy as np
from absl import app, flags

from configs.sleep2vec import pretrain
from data_pipelines.recipes.sleep2vec import NINE
from data_pipelines.sources import modality_pairs
from hypnos_jax import config as configs
from hypnos_jax import sharding
from hypnos_jax.cost import flops
from hypnos_jax.step import make_plan

SIZES = flags.DEFINE_list("sizes", ["s"], "sizes of the config")
DTYPES = flags.DEFINE_list("dtypes", ["float32"], "of the matrix products")
ROWS = flags.DEFINE_integer("rows", 4, "windows of the batch")
TOKENS = flags.DEFINE_integer("tokens", 120, "tokens of a window")
STEPS = flags.DEFINE_integer("steps", 5, "timed steps, after two that are not")
DROPOUT = flags.DEFINE_float("dropout", 0.1, "rate on both sides")
REMAT = flags.DEFINE_string("remat", "cheap", "what ours recomputes; the reference keeps all")
REFERENCE = flags.DEFINE_string("reference_python", sys.executable, "with torch, transformers")
INSIDE = flags.DEFINE_bool("inside", False, "measure in this process (internal)")

REFERENCE_CODE = """
import json, resource, sys, time, torch
from torch import nn
from transformers import RoFormerConfig, RoFormerModel
torch.manual_seed(0)
o = json.loads(sys.argv[1])

class Tokenizer(nn.Module):
    def __init__(self, inputs, dim):
        super().__init__()
        self.hidden, self.output = nn.Linear(inputs, 2 * dim), nn.Linear(2 * dim, dim)
        self.residual, self.norm = nn.Linear(inputs, dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(o["dropout"])
    def forward(self, x):
        y = self.dropout(self.output(nn.functional.silu(self.hidden(x))))
        return self.norm(y + self.residual(x))

class Head(nn.Module):
    def __init__(self, dim, hidden, out):
        super().__init__()
        self.fc1, self.bn1 = nn.Linear(dim, hidden, bias=False), nn.BatchNorm1d(hidden)
        self.fc2, self.bn2 = nn.Linear(hidden, out, bias=False), nn.BatchNorm1d(out)
    def forward(self, x):
        y = torch.relu(self.bn1(self.fc1(x.flatten(0, 1))))
        y = self.bn2(self.fc2(y)).view(*x.shape[:2], -1)
        return nn.functional.normalize(y, dim=-1)

class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        dim = o["token_dim"] or o["dim"]
        self.tokenizers = nn.ModuleList([Tokenizer(f, dim) for f in o["frames"]])
        self.mask = nn.ParameterList([nn.Parameter(torch.ones(dim)) for _ in o["frames"]])
        self.project_in = nn.Linear(dim, o["dim"])
        self.encoder = RoFormerModel(RoFormerConfig(
            vocab_size=1, hidden_size=o["dim"], num_hidden_layers=o["layers"],
            num_attention_heads=o["heads"], intermediate_size=o["ffn_dim"],
            max_position_embeddings=1536, hidden_dropout_prob=o["dropout"],
            attention_probs_dropout_prob=o["dropout"]))
        self.head = Head(o["dim"], o["projection_dim"], o["out_dim"])
    def forward(self, x, i, seen):
        tokens = self.tokenizers[i](x)
        drawn = torch.rand(tokens.shape[:2]).argsort(1).argsort(1) < int(0.15 * tokens.shape[1])
        tokens = torch.where(drawn[..., None], self.mask[i].to(tokens.dtype), tokens)
        hidden = self.encoder(inputs_embeds=self.project_in(tokens), attention_mask=seen)
        return self.head(hidden.last_hidden_state)

def cost(x, y, weights):
    g = torch.einsum("btz,ctz->tbc", x, y) / 0.2
    g = g + torch.log(weights)
    return -torch.log_softmax(g, -1).diagonal(dim1=1, dim2=2).mean()

model = Towers().train()
matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
others = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
optimizer = torch.optim.AdamW(
    [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
    lr=1e-4, betas=(0.9, 0.95))
shape = (o["rows"], o["tokens"], max(o["frames"]))
first, second = torch.randn(shape), torch.randn(shape)
seen = torch.ones(shape[:2])
weights = torch.ones(shape[0], shape[0])
a, b = o["pair"]
averages = [p.detach().clone() for p in model.parameters()]
times = []
for _ in range(o["steps"] + 2):
    then, cpu = time.perf_counter(), time.process_time()
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=o["dtype"] == "bfloat16"):
        x, y = model(first, a, seen), model(second, b, seen)
        loss = 0.5 * (cost(x.float(), y.float(), weights) + cost(y.float(), x.float(), weights))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        torch._foreach_lerp_(averages, [p.detach() for p in model.parameters()], 0.004)
    times.append((time.perf_counter() - then, time.process_time() - cpu))
step_s, step_cpu_s = (sorted(x)[len(x) // 2] for x in zip(*times[2:]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"step_s": step_s, "step_cpu_s": step_cpu_s, "peak_rss_gb": peak,
                  "torch": torch.__version__, "loss": float(loss),
                  "parameters": sum(p.numel() for p in model.parameters())}))
"""


def resolved(size: str, dtype: str) -> dict:
    """Return the config of a size as it is measured."""
    config = configs.resolve(pretrain.get_config(size))
    changes = {
        "objective.model.modalities": modality_pairs.describe_paper()["modalities"],
        "objective.model.dtype": dtype,
        "objective.model.dropout": DROPOUT.value,
        "objective.model.remat": REMAT.value,
        "data.window_tokens": TOKENS.value,
        "train.batch_size": ROWS.value,
    }
    return configs.change(config, changes)


def noise(rows: int, tokens: int) -> dict[str, np.ndarray]:
    """Return a batch of noise, EEG and ECG."""
    rng = np.random.default_rng(0)
    signals = rng.integers(-9000, 9000, (2, rows, tokens, 3840)).astype(np.int16)
    pair = [NINE.index("eeg"), NINE.index("ecg")]
    return {
        "signal_a": signals[0],
        "signal_b": signals[1],
        "scale": np.full((rows, 2), 2e-4, np.float32),
        "valid": np.ones((rows, tokens, 2), bool),
        "pair": np.tile(np.int32(pair), (rows, 1)),
        "age": np.full(rows, 50, np.int32),
        "sex": np.ones(rows, np.int32),
        "site": np.zeros(rows, np.int32),
        "night": np.arange(rows, dtype=np.int32),
        "subject": np.arange(rows, dtype=np.int32),
        "start": np.zeros(rows, np.int32),
        "weight": np.ones(rows, np.float32),
    }


def measure(size: str, dtype: str) -> dict:
    """Time the step in this process."""
    config, mesh, rows = resolved(size, dtype), sharding.make_mesh(), ROWS.value
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
        local = noise(rows, TOKENS.value)
        batch = sharding.put_batch(local, sharding.batch_sharding(mesh), rows)
        plan = make_plan(config, configs.make_objective(config), mesh, batch)
        traced = plan.trace()
        before = flops.matmul_rate(mesh, dtype)
        compiled = traced.lower().compile()
        state, times, cpu_times = plan.make(), [], []
        for _ in range(STEPS.value + 2):
            then, cpu_then = time.perf_counter(), time.process_time()
            state, values = compiled(state, batch)
            jax.block_until_ready(values)
            times.append(time.perf_counter() - then)
            cpu_times.append(time.process_time() - cpu_then)
        after = flops.matmul_rate(mesh, dtype)
        # The tokenizers of nine modalities are in the program, and two of them run.
        counted = step_flops(config["objective"]["model"], rows * TOKENS.value, TOKENS.value)
    step_s = statistics.median(times[2:])
    return {
        "step_s": step_s,
        "step_cpu_s": statistics.median(cpu_times[2:]),
        "parameters": sum(x.size for x in jax.tree.leaves(plan.state.params)),
        "share_of_matmul": counted / step_s / max(before, after),
        "matmul_gflop_per_s": [before / 1e9, after / 1e9],
        "step_gflop": counted / 1e9,
        "windows_per_s": rows / step_s,
        "loss": float(values["loss"]),
        "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }


def step_flops(model: dict, positions: int, tokens: int) -> float:
    """Return the operations of the products of a step on two modalities of 3840 samples a token."""
    dim, width = model["dim"], model["token_dim"] or model["dim"]
    tokenizer = 3840 * 3 * width + 2 * width * width
    layer = 4 * dim * dim + 2 * dim * model["ffn_dim"] + 2 * tokens * dim
    head = dim * model["projection_dim"] + model["projection_dim"] * model["out_dim"]
    # A product is two operations a weight; backwards twice that, but not for the signal itself.
    each = 6 * (width * dim + model["layers"] * layer + head + tokenizer) - 2 * 3840 * 3 * width
    return 2.0 * positions * each


def run(arguments: list[str]) -> dict:
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{arguments[:3]}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(_):
    if INSIDE.value:
        print(json.dumps(measure(SIZES.value[0], DTYPES.value[0])))
        return
    table = []
    for size in SIZES.value:
        for dtype in DTYPES.value:
            own = [f"--sizes={size}", f"--dtypes={dtype}", "--inside"]
            ours = run([sys.executable, *sys.argv, *own])
            print("ours", size, dtype, json.dumps(ours), flush=True)
            model = resolved(size, dtype)["objective"]["model"]
            pair = [NINE.index("eeg"), NINE.index("ecg")]
            frames = [row["frames"] for row in model["modalities"]]
            options = {**model, "frames": frames, "pair": pair, "rows": ROWS.value}
            options |= {"tokens": TOKENS.value, "steps": STEPS.value}
            theirs = run([REFERENCE.value, "-c", REFERENCE_CODE, json.dumps(options)])
            print("reference", size, dtype, json.dumps(theirs), flush=True)
            cells = [size, dtype, f"{ours['step_s']:.2f} s", f"{theirs['step_s']:.2f} s"]
            cells += [f"{theirs['step_s'] / ours['step_s']:.2f}"]
            cells += [f"{theirs['step_cpu_s'] / ours['step_cpu_s']:.2f}"]
            cells += [f"{ours['share_of_matmul']:.2f}"]
            cells += [f"{ours['peak_rss_gb']:.1f} GB", f"{theirs['peak_rss_gb']:.1f} GB"]
            table.append("| " + " | ".join(cells) + " |")
    heads = ["size", "products", "ours", "PyTorch", "times as fast", "by CPU time"]
    heads += ["share of matmul", "our peak", "its peak"]
    print("| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *table, sep="\n")


if __name__ == "__main__":
    sys.exit(app.run(main))
