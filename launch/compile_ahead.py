"""Compile a config ahead of time for a TPU topology, without TPUs: memory, collectives, step time.

    python -m launch.compile_ahead --config=configs/hypnos/rq_transformer.py:base \\
        --topology=v5e:16x16 --mesh=fsdp=16,data=16 --mesh=data=256 --config.train.batch_size=256

Needs ``pip install -e '.[tpu]'``, no TPU and no data: what a config leaves to the data is taken
from the paper (eight modalities, 8 levels of 2048 codes). Several ``--mesh`` are compared; exit
codes: 0 where one fits, 2 where none does, 1 an error. docs/scaling.md tells how times are
predicted, and how little that is worth before a TPU was measured.
"""

import dataclasses
import json
import os
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from launch.overrides import parse_flags

CONFIG = config_flags.DEFINE_config_file("config", None, "FILE:ARGUMENT, such as :base")
TOPOLOGY = flags.DEFINE_string("topology", None, "v5e:4x4, v5p:8x8x8, v6e:16x16, ...")
MESH = flags.DEFINE_multi_string("mesh", [], "such as fsdp=16,data=16; the config's by default")
PROGRAMS = flags.DEFINE_list("programs", ["train", "embed"], "of train, embed")
TOKENS = flags.DEFINE_float("tokens", None, "modality-seconds to train on; config's by default")
UTILISATION = flags.DEFINE_float("utilisation", 0.4, "share of the peak that arithmetic reaches")
EFFORT = flags.DEFINE_float("effort", 0.0, "-1: compile sooner, to more temporary memory")
JSON = flags.DEFINE_string("json", None, "file to append one JSON object per program to")


def sizes(text: str) -> dict[str, int]:
    """Return ``{"fsdp": 16, "data": 16}`` of ``"fsdp=16,data=16"``."""
    try:
        return {name: int(number) for name, number in (x.split("=") for x in text.split(","))}
    except ValueError as error:
        raise ValueError(f"--mesh={text}: give axes and sizes, such as fsdp=16,data=16") from error


def gib(number: float) -> str:
    return f"{number / 2**30:.2f} GiB"


def lines(report, tokens: float) -> list[str]:
    """Return a report in words."""
    mesh = " x ".join(f"{name} {size}" for name, size in report.mesh.items() if size > 1) or "1"
    said = [
        f"{report.program} on {report.topology} ({report.chips} chips), mesh {mesh}, {report.rows}"
        f" rows, {report.parameters / 1e6:.0f} M parameters; compiled in {report.compile_s} s",
        f"  {'fits' if report.fits else 'DOES NOT FIT'}: {gib(report.total)} of"
        f" {gib(report.memory)} a chip: "
        + ", ".join(f"{name} {gib(size)}" for name, size in report.parts().items()),
        f"  arithmetic {sum(report.flops.values()) / 1e12:.1f} TFLOP a step ("
        + ", ".join(f"{name} {count / 1e12:.1f}" for name, count in report.flops.items())
        + f"), {1000 * report.compute_s:.1f} ms at the peak",
    ]
    if not report.fits and not report.traffic:
        return said
    said += [
        f"  memory traffic {gib(report.traffic)} a chip, {1000 * report.memory_s:.1f} ms",
        f"  network {1000 * report.network_s:.2f} ms",
    ]
    for each in sorted(report.collectives, key=lambda each: -each["seconds"])[:12]:
        said.append(
            f"    {each['kind']} of {each['bytes'] / 2**20:.3f} MiB over"
            f" {'+'.join(each['axes']) or each['devices']} x {each['count']}:"
            f" {1000 * each['seconds']:.3f} ms"
        )
    rest = len(report.collectives) - 12
    if rest > 0:
        said.append(f"    and {rest} smaller kinds")
    step_s = report.step_s(UTILISATION.value)
    said.append(
        f"  step {1000 * report.peak_s():.1f} ms at the peak (bound by {report.bound()}),"
        f" {1000 * step_s:.1f} ms at {UTILISATION.value:.0%} of it:"
        f" {report.channel_seconds / step_s:.3g} modality-seconds/s"
    )
    if report.program == "train":
        days = tokens / report.channel_seconds * step_s / 86400
        said.append(
            f"  {tokens:.3g} modality-seconds: {days:.2f} days,"
            f" {24 * days * report.chips:,.0f} chip-hours"
        )
    return said


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    logging.set_verbosity(logging.INFO)
    os.environ["JAX_PLATFORMS"] = "cpu"  # nothing runs; the host's accelerator is left alone
    from data_pipelines import pipeline
    from hypnos_jax import config as configs
    from hypnos_jax.cost import compile_ahead  # after the flags: importing takes seconds

    try:
        config = configs.resolve(CONFIG.value)
        source = pipeline.find_source(config["data"]["name"])
        paper = source.describe_paper(**pipeline.recipe_option(config["data"]))
        config = configs.fill(config, paper)
        where = compile_ahead.topology(TOPOLOGY.value)
        if len(where.devices) > where.chip.largest:
            logging.warning(
                "no slice of %s is larger than %d chips: what follows is of one that nobody has",
                *(TOPOLOGY.value.split(":")[0], where.chip.largest),
            )
        meshes = [sizes(text) for text in MESH.value] or [config["mesh"]]
        reports = []
        for mesh in meshes:
            for program in PROGRAMS.value:
                report = compile_ahead.compile_ahead(
                    config, where, mesh, program=program, effort=EFFORT.value
                )
                reports.append(report)
                tokens = TOKENS.value or config["train"]["steps"] * report.channel_seconds
                print(*lines(report, tokens), sep="\n", flush=True)
                if JSON.value:
                    with open(JSON.value, "a") as file:
                        file.write(json.dumps(dataclasses.asdict(report)) + "\n")
    except (ValueError, OSError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        return 1
    failed = 0
    for program in PROGRAMS.value:
        own = [report for report in reports if report.program == program]
        best = compile_ahead.cheapest(own, UTILISATION.value)
        if best is None:
            least = min(own, key=lambda report: report.total)
            part, size = next(iter(least.parts().items()))
            logging.error(
                "%s does not fit on %s with any mesh given: %s of %s a chip with mesh %s, most of"
                " it %s (%s)",
                *(program, TOPOLOGY.value, gib(least.total), gib(least.memory), least.mesh),
                *(part, gib(size)),
            )
            failed = 2
        elif len(own) > 1:
            print(f"cheapest mesh that fits, {program}: {best.mesh}")
    return failed


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "topology"])
    sys.exit(app.run(main, flags_parser=parse_flags))
