"""Costs that are counted before anything runs, and runs as a sweep leaves them."""

import json

import flax.linen as nn
import jax
import pytest
from tiny_models import MODALITIES, rq_config, rvq_config

from hypnos_jax import batch, config, sharding
from hypnos_jax.cost.cost import cost as cost_of
from hypnos_jax.laws.runs import read_sweep
from hypnos_jax.nn import backend
from hypnos_jax.step import make_plan


def xla_flops(resolved):
    """XLA's own count of a train step, before any optimisation; loops count once."""
    objective = config.make_objective(resolved)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
        plan = make_plan(resolved, objective, mesh, batch.shapes(resolved))
        return plan.trace().lower().cost_analysis()["flops"]


def test_a_cost_is_what_xla_counts_of_the_unrolled_program():
    # Wide and many rows: XLA counts elementwise work too, which is then small beside products.
    depth = {"depth_dim": 256, "depth_heads": 4}
    sizes = {"dim": 512, "heads": 8, "layers": 4, "local_window": 64, "wide_window": 64, **depth}
    rolled = rq_config(**sizes, chunk=16)
    unrolled = rq_config(**sizes, chunk=64, unroll=4)
    rolled["train"]["batch_size"] = unrolled["train"]["batch_size"] = 32
    cost = cost_of(rolled)
    assert cost.flops_per_step == pytest.approx(xla_flops(unrolled), rel=0.02)
    # 6 N D, with a second of one channel for a token.
    assert cost.flops_per_step == pytest.approx(
        6 * (cost.parameters - cost.embedding_parameters) * cost.channel_seconds_per_step, rel=0.1
    )
    groups = {m["group"]: m["levels"] * m["codes"] for m in MODALITIES}
    tables = (512 + 256) * sum(groups.values())  # of the backbone and of the depth transformer
    assert tables <= cost.embedding_parameters < 1.1 * tables
    assert cost.channel_seconds_per_step == 32 * 64 * len(MODALITIES)


@pytest.mark.slow
def test_a_cost_is_the_same_wherever_it_is_counted():
    wide = rq_config(dtype="bfloat16", chunk=64)
    here = cost_of(wide)
    with backend.assume("gpu"):  # where a kernel that needs one would be traced
        assert cost_of(wide) == here
    assert cost_of(rq_config(dtype="bfloat16", chunk=64, attention="splash")) == here


@pytest.mark.slow
def test_a_tokenizers_cost_is_what_xla_counts():
    resolved = rvq_config("eeg")
    resolved["objective"]["model"] |= {"filters": 64, "dim": 512, "layers": 1, "heads": 4}
    resolved["objective"]["model"] |= {"ffn_dim": 1024, "codebook_dim": 64, "window": 16}
    resolved["train"]["batch_size"] = 8
    assert cost_of(resolved).flops_per_step == pytest.approx(xla_flops(resolved), rel=0.02)


def write_run(
    folder, name, *, steps=4, at=4, loss=2.0, evaluated=True, embedding="embedding_parameters"
):
    """What the trainer leaves of a run that is at step ``at`` of ``steps``."""
    workdir = folder / "runs" / name
    workdir.mkdir(parents=True)
    model = {"modalities": [{"name": "eeg"}, {"name": "ecg"}]}
    about = {"objective": {"name": "x", "model": model}, "train": {"steps": steps, "batch_size": 8}}
    (workdir / "config.json").write_text(json.dumps(about))
    spent = {"parameters": 100, embedding: 40, "flops_per_step": 1e3}
    spent |= {"channel_seconds_per_step": 80, "examples_per_epoch": 16}
    (workdir / "cost.json").write_text(json.dumps(spent))
    lines = [{"step": i + 1, "loss": 9.0, "channel_seconds": 60.0} for i in range(at)]
    if evaluated:
        lines.append({"step": at, "eval/val/loss": loss, "eval/probe/kappa": 0.5})
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"name": name, "given": {"budget.flops": 4e3}}


@pytest.mark.parametrize("embedding", ["embedding_parameters", "looked_up"])  # older runs' name
def test_a_sweeps_finished_runs_are_read_and_the_others_named(tmp_path, embedding):
    entries = [
        write_run(tmp_path, "done", embedding=embedding),
        write_run(tmp_path, "half", at=2),
        write_run(tmp_path, "blind", evaluated=False),
        {"name": "new", "given": {}},
    ]
    (tmp_path / "sweep.json").write_text(json.dumps({"runs": entries}))
    (run,), left_out = read_sweep(tmp_path, "eval/val/loss")
    assert (run.name, run.parameters, run.embedding_parameters, run.steps) == ("done", 100, 40, 4)
    assert (run.data, run.flops, run.loss, run.modalities) == (240, 4e3, 2.0, 2)
    assert run.unique == 120  # 16 examples an epoch, 32 were drawn
    assert run.metrics["eval/probe/kappa"] == 0.5
    assert left_out == {
        "half": "is at step 2 of 4",
        "blind": "has no eval/val/loss at step 4; it has nothing",
        "new": "has not begun",
    }
    with pytest.raises(ValueError, match=r"holds no sweep"):
        read_sweep(tmp_path / "runs", "eval/val/loss")
