"""SleepLM's embedding, captions and training step at size ``base``, beside plain PyTorch.

    python benchmarks/sleeplm.py --jobs=night,caption,captions,step --pairs=3

The reference has the official modules at the published sizes (Xu et al. 2026), rebuilt from the
layers of ``torch.nn`` alone: dual blocks with attention written out, PyTorch's own attention in
poolers and text towers, no cache. Its parameters are counted against the published number. Each
side is a process of its own, with a thread a core, and both take turns: the figure is the median
over the pairs of the ratio of two turns that follow each other.

``night`` is 960 epochs, scaled from ``--epochs``. ``caption`` is one caption of 256 ids and
``captions`` 32 of them, of which the time of one is given; the reference, three equal beams that
pass the whole prefix for each word, is timed at two lengths, and what lies between and beyond them
is taken to grow as a line. ``step`` is a training step of two rows, with dropout and AdamW.
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
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from absl import app, flags

from hypnos_jax.inference.caption_decoding import CaptionWriter, Decoding
from hypnos_jax.models.sleep_language_model import SleepLanguageModel

JOBS = flags.DEFINE_list("jobs", ["night", "caption", "captions", "step"], "what is timed")
PAIRS = flags.DEFINE_integer("pairs", 3, "timed turns of each side, after one that is not", 1)
EPOCHS = flags.DEFINE_integer("epochs", 4, "epochs of the night that are embedded")
LENGTHS = flags.DEFINE_list("lengths", ["32", "224"], "prefixes that the reference is timed at")
SMALL = flags.DEFINE_bool("small", False, "small sizes, to try this file")
REFERENCE = flags.DEFINE_string("reference_python", sys.executable, "with torch")
INSIDE = flags.DEFINE_string("inside", None, "be our side of a job (internal)")

NIGHT, MANY = 960, 32  # epochs
PARAMETERS = 402_549_409
BASE = {"width": 768, "heads": 12, "layers": 12, "vocab": 49408, "context": 256, "embed": 512}
TRIED = {"width": 32, "heads": 2, "layers": 1, "vocab": 64, "context": 256, "embed": 16}

REFERENCE_CODE = """
import json, math, resource, sys, time, torch
from torch import nn
from torch.nn import functional as F

o = json.loads(sys.argv[1])
torch.manual_seed(0)
torch.set_num_threads(o["threads"])
D, H, L, V, X, Z = (o[k] for k in ("width", "heads", "layers", "vocab", "context", "embed"))
C, T = 10, 120

def rotate(x, freqs):
    angle = torch.arange(x.shape[2]).float()[:, None] * freqs
    cos, sin = angle.cos(), angle.sin()
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(D, D, bias=False) for _ in range(3))
        self.out, self.drop = nn.Linear(D, D), nn.Dropout(0.1)
    def forward(self, x, freqs):
        n, s, _ = x.shape
        q, k, v = (f(x).view(n, s, H, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        w = rotate(q, freqs) @ rotate(k, freqs).transpose(2, 3) * (D // H) ** -0.5
        return self.out((self.drop(w.softmax(-1)) @ v).transpose(1, 2).reshape(n, s, D))

class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1, self.w2 = (nn.Linear(D, 3 * D, bias=False) for _ in range(2))
        self.down, self.drop = nn.Linear(3 * D, D, bias=False), nn.Dropout(0.1)
    def forward(self, x):
        return self.drop(self.down(self.drop(F.silu(self.w1(x)) * self.w2(x))))

class Half(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.ffn = Attention(), Gated()
        self.norm1, self.norm2 = nn.RMSNorm(D, 1e-6), nn.RMSNorm(D, 1e-6)
    def forward(self, x, freqs):
        x = self.norm1(x + self.attention(x, freqs))
        return self.norm2(x + self.ffn(x))

class Signals(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.project = nn.Conv1d(1, 256, 16, 16), nn.Linear(256, D)
        self.ids, self.freqs = nn.Embedding(C, D), nn.Parameter(torch.randn(D // H // 2) * 0.02)
        self.register_buffer("fixed", 1e4 ** (-torch.arange(0, D // H, 2) / (D // H)))
        self.across = nn.ModuleList([Half() for _ in range(3)])
        self.along = nn.ModuleList([Half() for _ in range(3)])
        self.norm = nn.RMSNorm(D, 1e-6)
        self.query = nn.Parameter(torch.randn(1, 1, D) * 0.02)
        self.queries = nn.Parameter(torch.randn(1, 32, D) * 0.02)
        self.one, self.many, self.pool = (
            nn.MultiheadAttention(D, H, batch_first=True) for _ in range(3))
        self.embed = nn.Linear(D, Z)
    def forward(self, x):
        n = len(x)
        x = self.conv(x.reshape(n * C, 1, -1)).transpose(1, 2).reshape(n, C, T, 256)
        x = self.project(x) + self.ids.weight[:, None]
        for a, b in zip(self.across, self.along):
            x = a(x.transpose(1, 2).reshape(n * T, C, D), self.freqs)
            x = x.view(n, T, C, D).transpose(1, 2)
            x = b(x.reshape(n * C, T, D), self.fixed).view(n, C, T, D)
        x = self.norm(x).reshape(n, C * T, D)
        g = self.one(self.query.expand(n, -1, -1), x, x)[0]
        m = self.many(self.queries.expand(n, -1, -1), x, x)[0]
        return F.normalize(self.embed(self.pool(g, m, m)[0][:, 0]), dim=-1), m

class Block(nn.Module):
    def __init__(self, cross=False):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.kv = nn.LayerNorm(D) if cross else None
        self.attention = nn.MultiheadAttention(D, H, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(D, 4 * D), nn.GELU(), nn.Linear(4 * D, D))
    def forward(self, x, mask=None, memory=None):
        q = self.ln1(x)
        k = q if memory is None else self.kv(memory)
        x = x + self.attention(q, k, k, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln2(x))

def causal(n, prefix=0):
    last = torch.arange(n)[:, None].clamp(min=prefix - 1)
    return torch.arange(n)[None] > last

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.signals = Signals()
        self.words, self.places = nn.Embedding(V, D), nn.Parameter(torch.randn(X + 1, D) * 0.01)
        self.cls, self.projection = nn.Parameter(torch.randn(D)), nn.Parameter(torch.randn(D, Z))
        self.text, self.text_norm = nn.ModuleList([Block() for _ in range(L)]), nn.LayerNorm(D)
        self.own = nn.ModuleList([Block() for _ in range(L)])
        self.cross = nn.ModuleList([Block(True) for _ in range(L)])
        self.norm, self.head = nn.LayerNorm(D), nn.Parameter(torch.randn(D, V) * D**-0.5)
        self.table, self.none = nn.Parameter(torch.randn(5, D)), nn.Parameter(torch.randn(D))
        layer = nn.TransformerEncoderLayer(D, H, 2 * D, batch_first=True, norm_first=True)
        self.rebuild = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Sequential(
            nn.Linear(D, D // 2), nn.ReLU(), nn.Linear(D // 2, C * 1920))
        self.scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
    def encode_text(self, ids):
        x = torch.cat([self.words(ids), self.cls.expand(len(ids), 1, -1)], 1)
        x = x + self.places[: x.shape[1]]
        mask = causal(x.shape[1])
        for block in self.text:
            x = block(x, mask)
        feature = self.text_norm(x[:, -1]) @ self.projection
        return F.normalize(feature, dim=-1), x[:, :-1]
    def decode(self, hidden, memory):
        first = torch.stack([self.table[0], self.none]).expand(len(hidden), -1, -1)
        x = torch.cat([first, hidden], 1)
        mask = causal(x.shape[1], 2)
        for own, cross in zip(self.own, self.cross):
            x = cross(own(x, mask), memory=memory)
        return self.norm(x)[:, 2:] @ self.head
    def forward(self, x, ids):
        s, memory = self.signals(x)
        t, hidden = self.encode_text(ids)
        logits = self.decode(hidden[:, :-1], memory)
        both, right = self.scale.exp() * s @ t.T, torch.arange(len(s))
        contrast = (F.cross_entropy(both, right) + F.cross_entropy(both.T, right)) / 2
        caption = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=0)
        drawn = self.out(self.rebuild(memory).mean(1)).view(x.shape)
        return contrast + 2 * caption + ((drawn - x) ** 2).mean()

model = Model()
x = torch.randn(o["rows"], C, 1920)
ids = torch.randint(1, V, (o["rows"], X))
if o["job"] == "step":
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.98))
    def turn():
        optimizer.zero_grad()
        loss = model(x, ids)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return {"value": float(loss)}
else:
    model.eval()
    def turn():
        with torch.inference_mode():
            if o["job"] == "night":
                return {"value": float(model.signals(x)[0].mean())}
            memory = model.signals(x)[1].repeat(3, 1, 1)
            found = {}
            for length in o["lengths"]:
                then = time.perf_counter()
                prefix = ids[:1, :length].repeat(3, 1)
                value = float(model.decode(model.encode_text(prefix)[1], memory)[:, -1].mean())
                found[str(length)] = time.perf_counter() - then
            return {"value": value, "tokens": found}

count = sum(p.numel() for p in model.parameters())
print(json.dumps({"torch": torch.__version__, "parameters": count}), flush=True)
for _ in sys.stdin:
    then, cpu = time.perf_counter(), time.process_time()
    made = turn()
    spent = {"wall_s": time.perf_counter() - then, "cpu_s": time.process_time() - cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({**spent, **made, "peak_rss_gb": peak}), flush=True)
"""


def sizes() -> dict[str, int]:
    """Return the sizes that both sides have."""
    return TRIED if SMALL.value else BASE


def rows_of(job: str) -> int:
    """Return how many epochs a turn of a job takes."""
    return {"night": EPOCHS.value, "caption": 1, "captions": MANY, "step": 2}[job]


def ours(job: str) -> None:
    """Be our side: say what there is, then run once for each line that comes."""
    own, rows = sizes(), rows_of(job)
    channels = [{"name": f"c{i}", "rate_hz": 64, "frames": 1920} for i in range(10)]
    network = SleepLanguageModel(
        tuple(channels),
        width=own["width"],
        heads=own["heads"],
        text_layers=own["layers"],
        decoder_layers=own["layers"],
        vocab_size=own["vocab"],
        context=own["context"],
        embed_dim=own["embed"],
        remat="none",
    )
    params = nn.unbox(jax.jit(lambda: network.init(jax.random.key(0), method="whole"))())
    rng = np.random.default_rng(0)
    signals = rng.normal(size=(rows, 10, 1920)).astype(np.float32)
    ids = rng.integers(3, own["vocab"], (rows, own["context"])).astype(np.int32)
    conditions = np.tile(np.array([[0, -1]]), (rows, 1))

    def encode(params, signals):
        return network.apply(params, signals, method="encode_signals")

    encoder = jax.jit(encode)
    state = {"params": params}
    if job == "night":

        def turn():
            return float(encoder(params, signals)[0].mean())

    elif job == "step":
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4, b2=0.98))

        def loss(params, key):
            def parts(network):
                s, memory = network.encode_signals(jnp.asarray(signals), train=True)
                t, hidden = network.encode_text(jnp.asarray(ids))
                made = network.decode_hidden(hidden[:, :-1], memory, jnp.asarray(conditions))
                nll, _ = network.caption_cost(made, jnp.asarray(ids[:, 1:]))
                both = jnp.exp(network.logit_scale) * s @ t.T
                right = jnp.arange(rows)
                costs = optax.softmax_cross_entropy_with_integer_labels
                contrast = (costs(both, right).mean() + costs(both.T, right).mean()) / 2
                drawn = network.reconstruct_signals(memory, train=True)
                caption = nll.sum() / ids[:, 1:].size
                return contrast + 2 * caption + ((drawn - signals) ** 2).mean()

            return network.apply(params, rngs={"dropout": key}, method=parts)

        def step(params, moments, key):
            value, slope = jax.value_and_grad(loss)(params, key)
            change, moments = optimizer.update(slope, moments, params)
            return optax.apply_updates(params, change), moments, value

        advance = jax.jit(step, donate_argnums=(0, 1))
        state["moments"] = jax.jit(optimizer.init)(params)
        del params

        def turn():
            made = advance(state["params"], state["moments"], jax.random.key(1))
            state["params"], state["moments"], value = made
            return float(value)

    else:
        # No end before the last place, so that all captions have their 256 ids.
        decoding = Decoding(sot=1, eot=2, shortest=own["context"] - 1)
        writer = CaptionWriter(network, decoding)

        def turn():
            memory = encoder(params, signals)[1]
            return float(writer(params, memory, conditions)[1].mean())

    count = sum(x.size for x in jax.tree.leaves(state["params"]))
    print(json.dumps({"jax": jax.__version__, "parameters": count}), flush=True)
    for _ in sys.stdin:
        then, cpu = time.perf_counter(), time.process_time()
        value = turn()
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
        """Close it."""
        self.process.stdin.close()
        self.process.wait()


def whole_s(job: str, turn: dict, side: str) -> float:
    """Return the seconds of the job that a turn stands for: a night, a caption, a step."""
    if job == "night":
        return turn["wall_s"] * NIGHT / EPOCHS.value
    if side == "ours":
        return turn["wall_s"] / (rows_of(job) if job == "captions" else 1)
    if job == "step":
        return turn["wall_s"]
    lengths = np.array([int(length) for length in turn["tokens"]])
    slope, start = np.polyfit(lengths, list(turn["tokens"].values()), 1)
    return float(sum(start + slope * length for length in range(1, sizes()["context"])))


def measure(job: str) -> list[str]:
    """Print what the two sides of a job take, and return a row of the table."""
    rows = 1 if job.startswith("caption") else rows_of(job)
    options = {"job": job, "rows": rows, "threads": os.cpu_count(), **sizes()}
    options["lengths"] = [int(length) for length in LENGTHS.value]
    sides = {
        "ours": Side([sys.executable, *sys.argv, f"--inside={job}"]),
        "reference": Side([REFERENCE.value, "-c", REFERENCE_CODE, json.dumps(options)]),
    }
    counts = {side.said["parameters"] for side in sides.values()}
    if len(counts) > 1 or (not SMALL.value and counts != {PARAMETERS}):
        raise SystemExit(f"{job}: {counts} parameters; {PARAMETERS} are published")
    turns = []
    for _ in tqdm.trange(PAIRS.value + 1, desc=job):
        turns.append({name: side.turn() for name, side in sides.items()})
    for side in sides.values():
        side.end()
    cells, spent = [job], {}
    for name, side in sides.items():
        spent[name] = [whole_s(job, turn[name], name) for turn in turns[1:]]
        peak = turns[-1][name]["peak_rss_gb"]
        row = {**side.said, "turns": [turn[name] for turn in turns[1:]], "whole_s": spent[name]}
        print(json.dumps({"job": job, "side": name, **row}), flush=True)
        cells += [f"{statistics.median(spent[name]):.2f}", f"{peak:.1f}"]
    ratios = sorted(a / b for a, b in zip(spent["ours"], spent["reference"]))
    return [*cells, f"{statistics.median(ratios):.4f} ({ratios[0]:.4f} to {ratios[-1]:.4f})"]


def main(argv):
    del argv
    if INSIDE.value:
        ours(INSIDE.value)
        return
    rows = [measure(job) for job in JOBS.value]
    heads = ["job", "ours: s", "peak GB", "PyTorch: s", "peak GB", "of its time"]
    rows = [heads, ["---"] * len(heads), *rows]
    print(*("| " + " | ".join(row) + " |" for row in rows), sep="\n")


if __name__ == "__main__":
    app.run(main)
