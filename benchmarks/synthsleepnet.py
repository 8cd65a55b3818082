"""Steps of SynthSleepNet's first two stages, and embedding a night, beside plain PyTorch.

    python benchmarks/synthsleepnet.py --jobs=stage1,stage2,night --pairs=3

Ours is the step of ``hypnos_jax.train`` at size ``base`` in float32. The reference has the official
modules at the same sizes, rebuilt from the layers of ``torch.nn`` alone: a Python loop over the 27
frames of an epoch, whose batch norms see one place of a frame at a time; blocks of ViT with
PyTorch's own attention; one encoder a channel; low-rank additions; AdamW and a clip. Its parameters
are counted against the published numbers. Each side is a process of its own, with a thread a core,
and both take turns: the figure is the median over the pairs of the ratio of two turns that follow
each other. A night is 960 epochs of four channels, scaled from ``--epochs``. ``stage2_legacy`` is
ours as the official code has it: batch norms that drift, targets through which the gradient flows.
Prints JSON objects, and a table.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time

import flax.linen as nn
import jax
import numpy as np
import tqdm
from absl import app, flags

from configs.synthsleepnet import neuronet, pretrain
from hypnos_jax import config as configs
from hypnos_jax import sharding
from hypnos_jax.cost import flops
from hypnos_jax.step import make_plan

JOBS = flags.DEFINE_list("jobs", ["stage1", "stage2", "stage2_legacy", "night"], "what is timed")
PAIRS = flags.DEFINE_integer("pairs", 3, "timed turns of each side, after one that is not", 1)
EPOCHS = flags.DEFINE_integer("epochs", 64, "epochs of the night that are embedded")
REFERENCE = flags.DEFINE_string("reference_python", sys.executable, "with torch")
INSIDE = flags.DEFINE_string("inside", None, "be our side of a job (internal)")

NIGHT = 960  # epochs
ROWS = {"stage1": 32, "stage2": 8, "stage2_legacy": 8}  # epochs of a batch
# Of the official modules: what is trained, and what is not.
PARAMETERS = {"stage1": (71_587_392, 0), "stage2": (28_292_352, 267_396_608)}

REFERENCE_CODE = """
import json, resource, sys, time, torch
from torch import nn
from torch.nn import functional as F

o = json.loads(sys.argv[1])
torch.manual_seed(0)
torch.set_num_threads(o["threads"])
FRAMES, WINDOW, STEP = 27, 400, 100

class Residual(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride):
        super().__init__()
        self.conv1 = nn.Conv1d(inputs, outputs, kernel, stride, 1, bias=False)
        self.conv2 = nn.Conv1d(outputs, outputs, kernel, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm1d(outputs), nn.BatchNorm1d(outputs)
        self.excite = nn.Sequential(
            nn.Linear(outputs, outputs // 16, bias=False), nn.ReLU(),
            nn.Linear(outputs // 16, outputs, bias=False), nn.Sigmoid())
        self.shortcut = None
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv1d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm1d(outputs))
    def forward(self, x):
        y = self.bn2(self.conv2(F.elu(self.bn1(self.conv1(x)))))
        y = y * self.excite(y.mean(2))[..., None]
        x = x if self.shortcut is None else self.shortcut(x)
        return F.elu(y + x[..., : y.shape[2]])

class FrameNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(1, 64, 7, 2, 3, bias=False), nn.BatchNorm1d(64), nn.ELU(),
            nn.MaxPool1d(3, 2, 1))
        widths, strides = (64, 64, 128, 128, 256), (1, 1, 2, 2)
        self.branches = nn.ModuleList([
            nn.Sequential(
                *(Residual(widths[i], widths[i + 1], kernel, strides[i]) for i in range(4)),
                nn.AvgPool1d(pool, 1))
            for kernel, pool in ((3, 16), (5, 11), (7, 6))])
        self.features = nn.Sequential(nn.Linear(6656, 3328), nn.ELU(), nn.Linear(3328, 3328))
    def one(self, x):
        x = self.stem(x[:, None])
        return torch.cat([branch(x) for branch in self.branches], 2).flatten(1)
    def forward(self, x):
        frames = [x[:, i * STEP : i * STEP + WINDOW] for i in range(FRAMES)]
        return self.features(torch.stack([self.one(x) for x in frames], 1))

class LowRank(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base, self.dropout = base, nn.Dropout(0.05)
        self.a = nn.Linear(base.in_features, 4, bias=False)
        self.b = nn.Linear(4, base.out_features, bias=False)
    def forward(self, x):
        return self.base(x) + 8.0 * self.b(self.a(self.dropout(x)))

class Block(nn.Module):
    def __init__(self, dim, heads=8):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.qkv, self.proj, self.heads = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim), heads
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
    def forward(self, x):
        rows, tokens, dim = x.shape
        qkv = self.qkv(self.norm1(x)).view(rows, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*qkv).transpose(1, 2).reshape(rows, tokens, dim)
        x = x + self.proj(y)
        return x + self.mlp(self.norm2(x))

def blocks(dim, count):
    return nn.Sequential(*(Block(dim) for _ in range(count)))

def projector(inputs, hidden, out):
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ELU(), nn.Linear(hidden, out))

def hide(x, keep):
    order = torch.rand(x.shape[:2]).argsort(1)
    restore = order.argsort(1)
    visible = x.gather(1, order[:, :keep, None].expand(-1, -1, x.shape[2]))
    return visible, restore, (restore >= keep).float()

def fill(x, restore, token):
    rest = token.expand(len(x), restore.shape[1] - x.shape[1], -1)
    return torch.cat([x, rest], 1).gather(1, restore[..., None].expand(-1, -1, x.shape[2]))

def masked_error(predicted, target, mask):
    return (((predicted - target) ** 2).mean(2) * mask).sum() / mask.sum()

def nt_xent(x, y, temperature):
    z = F.normalize(torch.cat([x, y]), dim=1)
    logits = (z @ z.T / temperature).masked_fill(torch.eye(len(z), dtype=bool), -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(x)))

class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.frame_network, self.patch_embed = FrameNetwork(), nn.Linear(3328, 768)
        self.cls = nn.Parameter(torch.zeros(1, 1, 768))
        self.positions = nn.Parameter(torch.randn(1, FRAMES + 1, 768))
        self.blocks, self.norm = blocks(768, 4), nn.LayerNorm(768, eps=1e-6)
    def encode(self, frames, keep=None):
        x, hidden = self.patch_embed(frames) + self.positions[:, 1:], ()
        if keep:
            x, *hidden = hide(x, keep)
        first = (self.cls + self.positions[:, :1]).expand(len(x), -1, -1)
        return self.norm(self.blocks(torch.cat([first, x], 1))), *hidden
    def forward(self, signal):
        return self.encode(self.frame_network(signal))[0]

class Stage1(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.embed = Encoder(), nn.Linear(768, 256)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 256))
        self.positions = nn.Parameter(torch.randn(1, FRAMES, 256))
        self.blocks, self.norm = blocks(256, 3), nn.LayerNorm(256, eps=1e-6)
        self.predict, self.projector = nn.Linear(256, 3328), projector(768, 1024, 512)
    def autoencode(self, frames):
        x, restore, mask = self.encoder.encode(frames, 5)
        y = fill(self.embed(x[:, 1:]), restore, self.mask_token) + self.positions
        error = masked_error(self.predict(self.norm(self.blocks(y))), frames, mask)
        return error, x[:, 0]
    def forward(self, signal):
        frames = self.encoder.frame_network(signal[:, 0])
        (first, x), (second, y) = self.autoencode(frames), self.autoencode(frames)
        return first + second + nt_xent(self.projector(x), self.projector(y), 0.05)

class Embedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.norm = nn.Linear(768, 512), nn.BatchNorm1d(512)
        self.out, self.table = nn.Linear(512, 512), nn.Parameter(torch.zeros(1, FRAMES, 512))
    def forward(self, x):
        x = self.norm(self.hidden(x).transpose(1, 2)).transpose(1, 2)
        return self.out(F.elu(x))[:, 1:] + self.table

class Stage2(nn.Module):
    def __init__(self, channels=4):
        super().__init__()
        self.encoders = nn.ModuleList([Encoder() for _ in range(channels)])
        for p in self.encoders.parameters():
            p.requires_grad = False
        for encoder in self.encoders:
            for block in encoder.blocks:
                block.proj = LowRank(block.proj)
        self.cls = nn.Parameter(torch.zeros(1, 1, 512))  # unused, as in the official code
        self.embeddings = nn.ModuleList([Embedding() for _ in range(channels)])
        fixed = {"requires_grad": False}
        self.positions = nn.Parameter(torch.randn(1, FRAMES, 512), **fixed)
        self.blocks, self.norm = blocks(512, 4), nn.LayerNorm(512, eps=1e-6)
        self.decoder_embed = nn.Linear(512, 256)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 256))
        self.decoder_positions = nn.Parameter(torch.randn(1, FRAMES, 256), **fixed)
        self.decoders = nn.ModuleList([blocks(256, 3) for _ in range(channels)])
        self.predictors = nn.ModuleList([nn.Linear(256, 768) for _ in range(channels)])
        self.decoder_norm = nn.LayerNorm(256, eps=1e-6)
        self.fusion = projector(512, 512, 256)
        self.projectors = nn.ModuleList([projector(768, 512, 256) for _ in range(channels)])
    def tokens(self, signal):
        unimodal = [encoder(signal[:, i]) for i, encoder in enumerate(self.encoders)]
        return unimodal, [e(x) + self.positions for e, x in zip(self.embeddings, unimodal)]
    def forward(self, signal):
        unimodal, tokens = self.tokens(signal)
        visible, restore, mask = zip(*(hide(x, 16) for x in tokens))
        fused = self.norm(self.blocks(torch.cat(visible, 1)))
        error = 0
        for i, x in enumerate(fused.chunk(len(tokens), 1)):
            x = fill(self.decoder_embed(x), restore[i], self.mask_token) + self.decoder_positions
            x = self.predictors[i](self.decoder_norm(self.decoders[i](x)))
            error = error + masked_error(x, unimodal[i][:, 1:], mask[i]) / len(tokens)
        whole = self.fusion(fused.mean(1))
        each = [p(x.mean(1)) for p, x in zip(self.projectors, unimodal)]
        return error + sum(nt_xent(whole, x, 0.1) for x in each) / len(each)
    def embed(self, signal):
        return self.norm(self.blocks(torch.cat(self.tokens(signal)[1], 1))).mean(1)

model = Stage1() if o["job"] == "stage1" else Stage2()
trained = [p for p in model.parameters() if p.requires_grad]
fixed = sum(p.numel() for p in model.parameters() if not p.requires_grad)
signal = torch.randn(o["rows"], 1 if o["job"] == "stage1" else 4, 3000)
if o["job"] == "night":
    model.eval()
    def turn():
        with torch.inference_mode():
            return model.embed(signal).mean()
else:
    optimizer = torch.optim.AdamW(trained, lr=1e-4 / 256, weight_decay=0.01)
    def turn():
        optimizer.zero_grad()
        loss = model(signal)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 2.0)
        optimizer.step()
        return loss.detach()

def rate():
    x = torch.randn(1024, 1024)
    best = float("inf")
    for _ in range(6):
        then = time.perf_counter()
        x @ x
        best = min(best, time.perf_counter() - then)
    return 2 * 1024**3 / best

print(json.dumps({"torch": torch.__version__, "matmul": rate(),
                  "parameters": [sum(p.numel() for p in trained), fixed]}), flush=True)
for _ in sys.stdin:
    then, cpu = time.perf_counter(), time.process_time()
    value = float(turn())
    spent = {"wall_s": time.perf_counter() - then, "cpu_s": time.process_time() - cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({**spent, "value": value, "peak_rss_gb": peak}), flush=True)
"""


def resolved(job: str) -> dict:
    """Return the config that a job of ours runs."""
    made = neuronet.get_config("base,ecg") if job == "stage1" else pretrain.get_config("base,four")
    names = made["data"]["modalities"]
    changes = {
        "objective.model.modalities": [
            {"name": name, "rate_hz": 100, "frames": 3000} for name in names
        ],
        "objective.model.dtype": "float32",
        "objective.model.remat": "none",
        "train.batch_size": ROWS.get(job, 1),
        "data.window_tokens": 1 if job in ROWS else EPOCHS.value,
    }
    if job != "stage1":
        changes["objective.modality_dropout"] = 0.0
    if job == "stage2_legacy":
        changes["objective.stop_gradient_target"] = False
        changes["objective.model.frozen_statistics"] = False
    return configs.change(configs.resolve(made), changes)


def noise(config: dict) -> dict[str, np.ndarray]:
    """Return a batch of noise."""
    rows, tokens = config["train"]["batch_size"], config["data"]["window_tokens"]
    names = [row["name"] for row in config["objective"]["model"]["modalities"]]
    rng = np.random.default_rng(0)
    samples = (rows, tokens, 3000)
    return {
        **{f"signal/{x}": rng.integers(-9000, 9000, samples).astype(np.int16) for x in names},
        "scale": np.full((rows, len(names)), 2e-4, np.float32),
        "valid": np.ones((rows, tokens, len(names)), bool),
        "present": np.ones((rows, len(names)), bool),
        "weight": np.ones(rows, np.float32),
    }


def ours(job: str) -> None:
    """Be our side: say what there is, then run once for each line that comes."""
    config, mesh = resolved(job), sharding.make_mesh(data=1, devices=jax.devices()[:1])
    objective, local = configs.make_objective(config), noise(config)
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
        rate = flops.matmul_rate(mesh)
        batch = sharding.put_batch(local, sharding.batch_sharding(mesh), len(local["weight"]))
        plan = make_plan(config, objective, mesh, batch)
        if job == "night":
            variables = nn.unbox(jax.jit(plan.init)(0))

            def embed(variables, batch):
                return objective.apply(variables, batch, method="embed").rows

            traced = jax.jit(embed).trace(variables, batch)
        else:
            state = plan.make()
            traced = plan.trace()
        then, cpu = time.perf_counter(), time.process_time()
        compiled = traced.lower().compile()
        said = {
            "jax": jax.__version__,
            "matmul": rate,
            "flop": sum(flops.matrix_flops(traced.jaxpr).values()),
            "compile_s": time.perf_counter() - then,
            "compile_cpu_s": time.process_time() - cpu,
        }
        if job != "night":
            said["parameters"] = sum(x.size for x in jax.tree.leaves(plan.state.params))
        print(json.dumps(said), flush=True)
        for _ in sys.stdin:
            then, cpu = time.perf_counter(), time.process_time()
            if job == "night":
                value = np.asarray(compiled(variables, batch)).mean()
            else:
                state, values = compiled(state, batch)
                value = values["loss"]
            value = float(value)
            spent = {"wall_s": time.perf_counter() - then, "cpu_s": time.process_time() - cpu}
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(json.dumps({**spent, "value": value, "peak_rss_gb": peak}), flush=True)


class Side:
    """A process that does one turn for each line it is given."""

    def __init__(self, arguments):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(arguments, **pipes)
        self.said = self.answer()

    def answer(self) -> dict:
        """Return the next JSON object that the process prints."""
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args[:2]} ended with {self.process.wait()}")
        return json.loads(line)

    def turn(self) -> dict:
        """Let it do its work once."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.answer()

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def measure(job: str) -> list[str]:
    """Print what the two sides of a job take, and return a row of the table."""
    kind, threads = job.removesuffix("_legacy"), os.cpu_count()
    options = {"job": kind, "rows": ROWS.get(job, EPOCHS.value), "threads": threads}
    sides = {
        "ours": Side([sys.executable, *sys.argv, f"--inside={job}"]),
        "reference": Side([REFERENCE.value, "-c", REFERENCE_CODE, json.dumps(options)]),
    }
    want = PARAMETERS.get(kind, PARAMETERS["stage2"])
    if tuple(sides["reference"].said["parameters"]) != want:
        raise SystemExit(f"{job}: {sides['reference'].said['parameters']} parameters, not {want}")
    turns = []
    for _ in tqdm.trange(PAIRS.value + 1, desc=job):
        turns.append({name: side.turn() for name, side in sides.items()})
    for side in sides.values():
        side.end()
    timed = turns[1:]
    peak = max(side.said["matmul"] for side in sides.values())
    scale = NIGHT / EPOCHS.value if job == "night" else 1
    cells = [job]
    for name, side in sides.items():
        wall, cpu = (statistics.median(t[name][x] for t in timed) for x in ("wall_s", "cpu_s"))
        row = {
            **side.said,
            "wall_s": [round(t[name]["wall_s"], 3) for t in timed],
            "cpu_s": [round(t[name]["cpu_s"], 3) for t in timed],
            "share_of_matmul": sides["ours"].said["flop"] / wall / peak,
            "peak_rss_gb": timed[-1][name]["peak_rss_gb"],
            "value": timed[-1][name]["value"],
        }
        print(json.dumps({"job": job, "side": name, **row}), flush=True)
        cells += [f"{scale * wall:.2f}", f"{scale * cpu:.2f}", f"{row['share_of_matmul']:.2f}"]
        cells += [f"{row['peak_rss_gb']:.1f}"]
    for clock in ("wall_s", "cpu_s"):
        ratios = sorted(t["ours"][clock] / t["reference"][clock] for t in timed)
        cells.append(f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    return cells


def main(argv):
    del argv
    if INSIDE.value:
        ours(INSIDE.value)
        return
    rows = [measure(job) for job in JOBS.value]
    heads = ["job"]
    for name in ("ours", "PyTorch"):
        heads += [f"{name}: wall s", "CPU s", "of matmul", "peak GB"]
    rows = [[*heads, "of its wall time", "of its CPU time"], *rows]
    rows.insert(1, ["---"] * len(rows[0]))
    print(*("| " + " | ".join(row) + " |" for row in rows), sep="\n")


if __name__ == "__main__":
    app.run(main)
