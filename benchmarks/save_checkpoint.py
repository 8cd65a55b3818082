"""Time for which saving holds up training, and time until the save is sealed.

    python benchmarks/save_checkpoint.py --megabytes=10,100,1000

A state of that size (parameters and Adam's moments) is trained by a step that donates it, as
``hypnos_jax.train`` does, for ``--seconds`` without and with saves, ``--every_s`` apart. Told: how
long each call of ``Checkpoints.save`` blocks the loop (the first, which compiles, apart), by the
clock, in CPU time, which a busy machine does not change, and as a share of the time between saves;
how long until it is sealed; what steps take while a save is being written; and how long the newest
takes to be verified and restored.
"""

import contextlib
import json
import os
import pathlib
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp
import optax
from absl import app, flags

from hypnos_jax import checkpoint, sharding, state

MEGABYTES = flags.DEFINE_list("megabytes", ["10", "100", "1000"], "sizes of the state")
SECONDS = flags.DEFINE_float("seconds", 30.0, "of training, without and with saves")
EVERY_S = flags.DEFINE_float("every_s", 5.0, "between saves")
FOLDER = flags.DEFINE_string("folder", None, "where to save; a temporary folder by default")


def measure(megabytes: float, folder: pathlib.Path) -> dict:
    """Return what saving a state of that size costs."""
    mesh = sharding.make_mesh(data=1, devices=jax.local_devices()[:1])
    side = int((megabytes * 2**20 / 4 / 3 / 16) ** 0.5)  # Adam keeps two arrays beside each of 16

    def init():
        key = jax.random.key(0)
        return {"params": {f"kernel_{i}": jax.random.normal(key, (side, side)) for i in range(16)}}

    make, abstract, tx = state.create(init, lambda matrices: optax.adam(1e-3), mesh)

    def update(current):
        def loss(params):
            x = jnp.ones((64, side))
            for kernel in params.values():
                x = jnp.tanh(x @ kernel / side**0.5)
            return (x**2).sum()

        grads = jax.grad(loss)(current.params)
        updates, opt_state = tx.update(grads, current.opt_state, current.params)
        params = optax.apply_updates(current.params, updates)
        return current.replace(step=current.step + 1, params=params, opt_state=opt_state)

    step = jax.jit(update, donate_argnums=0)
    current = jax.block_until_ready(step(make()))

    def train(keep):
        nonlocal current
        times, blocked, cpu, sealed = {False: [], True: []}, [], [], []
        end, saved_at, count = time.perf_counter() + SECONDS.value, time.perf_counter(), 0
        while time.perf_counter() < end:
            then = time.perf_counter()
            busy = keep is not None and keep._sealing is not None and not keep._sealing.done()
            current = jax.block_until_ready(step(current))
            times[busy].append(time.perf_counter() - then)
            if keep is not None and then - saved_at > EVERY_S.value and not busy:
                count, then, cpu_then = count + 1, time.perf_counter(), time.thread_time()
                saved_at = then
                keep.save(count, current, {})
                blocked.append(time.perf_counter() - then)
                cpu.append(time.thread_time() - cpu_then)
                keep._sealing.add_done_callback(
                    lambda _, then=then: sealed.append(time.perf_counter() - then)
                )
        return times, blocked, cpu, sealed

    alone, *_ = train(None)
    with contextlib.closing(checkpoint.Checkpoints(folder, keep=2)) as keep:
        times, blocked, cpu, sealed = train(keep)
    then = time.perf_counter()
    with contextlib.closing(checkpoint.Checkpoints(folder)) as keep:
        keep.restore(abstract)
    restore_s = time.perf_counter() - then

    def ms(found):
        return round(1000 * statistics.median(found), 2) if found else None

    return {
        "megabytes": megabytes,
        "saves": len(blocked),
        "first_blocks_ms": ms(blocked[:1]),
        "blocks_ms": ms(blocked[1:]),
        "blocks_cpu_ms": ms(cpu[1:]),
        "blocks_share": round(statistics.median(blocked[1:] or blocked) / EVERY_S.value, 5),
        "sealed_s": round(statistics.median(sealed), 3),
        "step_ms": ms(alone[False]),
        "step_while_saving_ms": ms(times[True]),
        "restore_s": round(restore_s, 3),
    }


def main(argv):
    del argv
    checkpoint.quiet()
    for megabytes in MEGABYTES.value:
        with tempfile.TemporaryDirectory(dir=FOLDER.value) as folder:
            print(json.dumps(measure(float(megabytes), pathlib.Path(folder))), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    app.run(main)
