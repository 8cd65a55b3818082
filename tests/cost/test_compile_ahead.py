"""Ahead-of-time compilation for TPUs through the command line; needs ``libtpu``, no TPU."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from hypnos_jax.cost import flops, hlo

ROOT = pathlib.Path(__file__).parents[2]
TOKENS = "--config=configs/hypnos/rq_transformer.py:test"
SIGNALS = "--config=configs/hypnos/rvq_tokenizer.py:test,resp"


def compile_ahead(*flags):
    pytest.importorskip("libtpu", reason="the TPU compiler is not installed: pip install .[tpu]")
    return subprocess.run(
        [sys.executable, "-m", "launch.compile_ahead", "--effort=-1", *flags],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"},
        capture_output=True,
        text=True,
        timeout=900,
    )


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_tokenizer_is_compiled_for_each_mesh_and_the_cheapest_named(tmp_path):
    done = compile_ahead(
        SIGNALS,
        "--topology=v5p:2x2x1",
        "--programs=embed",
        *("--mesh=fsdp=4", "--mesh=data=4"),
        f"--json={tmp_path}/reports.jsonl",
    )
    assert done.returncode == 0, done.stderr
    sharded, whole = read(tmp_path / "reports.jsonl")
    assert sharded["mesh"] == {"data": 1, "fsdp": 4, "tensor": 1}
    assert sharded["state"]["parameters"] < whole["state"]["parameters"]
    # Parameters are fetched; what a row becomes, here 16 s at 32 Hz and more, stays where it is.
    assert 0 < max(each["bytes"] for each in sharded["collectives"]) < 16 * 32 * 4
    assert not whole["collectives"]
    assert "cheapest mesh that fits, embed: {'data': 4" in done.stdout


@pytest.mark.slow
def test_a_train_step_moves_gradients_and_keeps_rows_where_they_are(tmp_path):
    done = compile_ahead(
        TOKENS,
        "--topology=v5e:2x2",
        "--mesh=fsdp=4",
        "--programs=train",
        "--config.train.batch_size=8",
        f"--json={tmp_path}/reports.jsonl",
    )
    assert done.returncode == 0, done.stderr
    (report,) = read(tmp_path / "reports.jsonl")
    assert report["fits"]
    assert 0 < report["temporaries"] < report["total"] <= report["memory"]
    state = report["state"]
    assert 1.8 < state["optimizer"] / state["parameters"] < 2.2
    # The network sees parameters and their gradients: never the logits of the batch.
    logits = 8 / 4 * 64 * 8 * 8 * 2048 * 4
    assert max(each["bytes"] for each in report["collectives"]) < logits / 2


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--topology=v9:2x2"], "topology 'v9:2x2' is not known"),
        (
            ["--topology=v5e:2x2", "--mesh=data=4", "--config.train.batch_size=6"],
            "batch_size=6 is not divisible",
        ),
    ],
)
def test_what_cannot_be_compiled_is_one_line(flags, words):
    done = compile_ahead(TOKENS, *flags)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_what_does_not_fit_is_named_by_its_largest_part(tmp_path):
    # The weights' copies alone are more than a chip has: found before anything is computed.
    done = compile_ahead(
        SIGNALS,
        "--topology=v5e:2x2",
        "--mesh=data=4",
        "--programs=embed",
        "--config.train.batch_size=4000000",
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "DOES NOT FIT" in done.stdout
    assert "most of it temporaries" in done.stderr or "most of it batch" in done.stderr


TEXT = """HloModule m, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %c = f32[]{:T(128)} add(%a, %b)
}

%take (p: f32[5,8,128], i: s32[]) -> f32[8,128] {
  %p = f32[5,8,128]{2,1,0:T(8,128)} parameter(0)
  %i = s32[]{:T(128)} parameter(1)
  %z = s32[]{:T(128)} constant(0)
  %s = f32[1,8,128]{2,1,0:T(8,128)} dynamic-slice(%p, %i, %z, %z), dynamic_slice_sizes={1,8,128}
  ROOT %r = f32[8,128]{1,0:T(8,128)} bitcast(%s)
}

%condition (t: (s32[], f32[5,8,128])) -> pred[] {
  %t = (s32[]{:T(128)}, f32[5,8,128]{2,1,0:T(8,128)}) parameter(0)
  %n = s32[]{:T(128)} constant(5)
  %k = s32[]{:T(128)} get-tuple-element(%t), index=0
  ROOT %l = pred[]{:T(512)} compare(%k, %n), direction=LT
}

%body (u: (s32[], f32[5,8,128])) -> (s32[], f32[5,8,128]) {
  %u = (s32[]{:T(128)}, f32[5,8,128]{2,1,0:T(8,128)}) parameter(0)
  %k2 = s32[]{:T(128)} get-tuple-element(%u), index=0
  %x = f32[5,8,128]{2,1,0:T(8,128)} get-tuple-element(%u), index=1
  %f = f32[8,128]{1,0:T(8,128)S(1)} fusion(%x, %k2), kind=kLoop, calls=%take
  %g = f32[32,128]{1,0:T(8,128)} all-gather(%f), replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}
  %h = f32[8,128]{1,0:T(8,128)} all-reduce(%f), replica_groups={{0,1},{2,3}}, to_apply=%add
  ROOT %o = (s32[]{:T(128)}, f32[5,8,128]{2,1,0:T(8,128)}) tuple(%k2, %x)
}

ENTRY %main (q: (s32[], f32[5,8,128])) -> (s32[], f32[5,8,128]) {
  %q = (s32[]{:T(128)}, f32[5,8,128]{2,1,0:T(8,128)}) parameter(0)
  ROOT %w = (s32[], f32[5,8,128]{2,1,0:T(8,128)}) while(%q), condition=%condition, body=%body
}
"""


def test_what_a_loop_moves_counts_as_often_as_it_runs():
    slab = 8 * 128 * 4
    program = hlo.HloModule(TEXT)
    assert program.collectives() == [
        hlo.Collective("all-gather", 4 * slab, (0, 2, 4, 6), 5),
        hlo.Collective("all-reduce", slab, (0, 1), 5),
    ]
    # The slice that is read and the loop's counter, what is gathered and what is reduced; not the
    # whole of the array, nor what stays in fast memory.
    assert program.traffic() == 5 * (slab + 4 + 4 * slab + slab)


def test_counted_arithmetic_is_that_of_an_unrolled_compilation():
    def layers(unroll):
        def run(x, w):
            return jnp.sum(
                jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w, unroll=unroll)[0]
            )

        return jax.jit(jax.grad(run, 1)).trace(jnp.ones((32, 64)), jnp.ones((6, 64, 64)))

    counted = sum(flops.matrix_flops(layers(1).jaxpr).values())
    compiled = layers(6).lower().compile().cost_analysis()["flops"]
    assert counted == pytest.approx(compiled, rel=0.1)  # XLA adds what is no product
    assert layers(1).lower().compile().cost_analysis()["flops"] < counted / 3
