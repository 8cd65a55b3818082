"""A Mamba-2 layer forward and backward: chunked, as a scan, and in plain PyTorch; and long nights.

    python benchmarks/ssm.py --rows=32 --tokens=20 --pairs=7 --lengths=960,2500,5000,10000

The layer of SynthSleepNet's context (width 512, 16 heads of 64, state of 16), gradients to its
weights and its input. Beside it the same layer as a scan over positions, and ``Mamba2Mixer`` of
``transformers`` without CUDA kernels, whose chunk of 256 positions pads shorter sequences. All
take turns in this process; outputs are compared first. Then one night of each length, taking
turns too: time a token, and XLA's own count of temporary memory. Prints JSON objects.
"""

import json
import statistics
import time

import flax.linen as nn
import jax
import numpy as np
import torch
import tqdm
from absl import app, flags
from transformers.models.mamba2.modeling_mamba2 import Mamba2Config, Mamba2Mixer

from hypnos_jax.nn.ssm import Mamba1, Mamba2

ROWS = flags.DEFINE_integer("rows", 32, "sequences of a batch", 1)
TOKENS = flags.DEFINE_integer("tokens", 20, "tokens of a sequence", 1)
DIM = flags.DEFINE_integer("dim", 512, "width")
PAIRS = flags.DEFINE_integer("pairs", 7, "timed turns, after one that is not", 1)
LENGTHS = flags.DEFINE_list("lengths", ["960", "2500", "5000", "10000"], "tokens of one night")


def inputs(rows, length):
    """Return tokens, and what the sum of the outputs is weighted by."""
    return np.random.default_rng(0).standard_normal((2, rows, length, DIM.value), np.float32)


def compiled(module, variables, x, cotangent):
    """Return the compiled gradients of a layer, with its outputs."""

    def cost(variables, x):
        y = module.apply(variables, x)
        return (y * cotangent).sum(), y

    function = jax.jit(jax.grad(cost, argnums=(0, 1), has_aux=True))
    return function.lower(variables, x).compile()


def reference(params):
    """Return the PyTorch layer with these weights."""
    config = Mamba2Config(
        hidden_size=DIM.value, state_size=16, head_dim=64, num_heads=DIM.value // 32, n_groups=1
    )
    layer = Mamba2Mixer(config, layer_idx=0)
    values = {
        "in_proj.weight": params["in_proj_kernel"].T,
        "conv1d.weight": params["conv_kernel"].T[:, None],
        "conv1d.bias": params["conv_bias"],
        "dt_bias": params["dt_bias"],
        "A_log": params["A_log"],
        "D": params["D"],
        "norm.weight": params["norm_scale"],
        "out_proj.weight": params["out_proj_kernel"].T,
    }
    layer.load_state_dict({name: torch.tensor(np.array(v)) for name, v in values.items()})
    return layer


def in_turns(jobs):
    """Return each job's wall and CPU seconds, one of every turn."""
    times = {name: [] for name in jobs}
    for turn in tqdm.trange(PAIRS.value + 1):
        for name, job in jobs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            job()
            spent = time.perf_counter() - wall, time.process_time() - cpu
            if turn:
                times[name].append(spent)
    return times


def main(argv):
    del argv
    module = Mamba2()
    x, cotangent = inputs(ROWS.value, TOKENS.value)
    variables = nn.unbox(jax.jit(module.init)(jax.random.key(0), x))
    layer = reference(variables["params"])
    x_torch, cotangent_torch = torch.tensor(x, requires_grad=True), torch.tensor(cotangent)

    def in_torch():
        layer.zero_grad()
        x_torch.grad = None
        y = layer(x_torch)
        (y * cotangent_torch).sum().backward()
        return y.detach().numpy()

    ways = {
        "ours": (module, variables),
        "ours, a scan over positions": (module.clone(chunk=1), variables),
    }
    one = Mamba1()
    ways["Mamba-1, ours"] = one, nn.unbox(jax.jit(one.init)(jax.random.key(0), x))
    jobs, outputs = {}, {}
    for name, (way, weights) in ways.items():
        program = compiled(way, weights, x, cotangent)
        outputs[name] = np.asarray(program(weights, x)[1])
        jobs[name] = lambda p=program, w=weights: jax.block_until_ready(p(w, x))
    jobs["transformers"] = in_torch
    want = in_torch()
    apart = np.abs(outputs["ours"] - want).max() / np.abs(want).max()
    times = in_turns(jobs)
    theirs = times["transformers"]
    for name, own in times.items():
        pairs = [np.divide(*pair) for pair in zip(own, theirs, strict=True)]
        shares, cpu_shares = np.sort(pairs, 0).T
        row = {
            "layer": name,
            "rows x tokens": [ROWS.value, TOKENS.value],
            "wall_ms": round(1e3 * statistics.median(wall for wall, _ in own), 1),
            "cpu_ms": round(1e3 * statistics.median(cpu for _, cpu in own), 1),
            "of_transformers": round(statistics.median(shares), 3),
            "from_to": [round(shares[0], 3), round(shares[-1], 3)],
            "of_its_cpu": round(statistics.median(cpu_shares), 3),
        }
        print(json.dumps(row), flush=True)
    print(json.dumps({"largest_difference_to_transformers": float(apart)}), flush=True)

    jobs, memory = {}, {}
    for length in map(int, LENGTHS.value):
        x, cotangent = inputs(1, length)
        program = compiled(module, variables, x, cotangent)
        memory[length] = program.memory_analysis().temp_size_in_bytes
        jobs[length] = lambda p=program, x=x: jax.block_until_ready(p(variables, x))
    for length, own in in_turns(jobs).items() if jobs else ():
        wall = statistics.median(wall for wall, _ in own)
        row = {
            "tokens": length,
            "wall_ms": round(1e3 * wall, 1),
            "us_a_token": round(1e6 * wall / length, 1),
            "cpu_us_a_token": round(1e6 * statistics.median(cpu for _, cpu in own) / length, 1),
            "temporary_mib": round(memory[length] / 2**20, 1),
            "kib_a_token": round(memory[length] / length / 2**10, 1),
        }
        print(json.dumps(row), flush=True)
    versions = {"jax": jax.__version__, "torch": torch.__version__}
    print(json.dumps({**versions, "device": jax.devices()[0].device_kind}))


if __name__ == "__main__":
    app.run(main)
