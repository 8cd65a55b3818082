"""Pictures of signals and words: answers to prompts, cosines, epochs and nights in words."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.captions.facts import EPOCH_S, STAGES, Interval
from hypnos_jax.reports.figures import (
    BLUE,
    ORANGE,
    confusion_panel,
    new_figure,
    roc_panel,
    save_figure,
)

REFERENCE, SAID = BLUE, ORANGE


def draw_zero_shot(report: dict, path: str | os.PathLike) -> None:
    """Draw what ``zero_shot_<split>.json`` holds as a PNG: stages and events."""
    staging = report["tasks"].get("staging")
    curves = {
        f"{name} ({own['metrics']['auroc']['value']:.2f})": (own["curve"], None)
        for name, own in report["tasks"].items()
        if own.get("curve")
    }
    figure, (left, right) = new_figure(1, 2, (12, 5))
    if staging:
        confusion_panel(left, staging["confusion"], staging["classes"])
        value = staging["metrics"]
        told = f"accuracy {value['accuracy']['value']:.2f}"
        if value["kappa"]["value"] is not None:
            told += f", kappa {value['kappa']['value']:.2f}"
        left.set(xlabel="told by prompts", ylabel="scored")
        left.set_title(f"stages: {told}", fontsize=10)
    else:
        left.set_axis_off()
    roc_panel(right, curves)
    right.set_title("events and numbers (AUROC)", fontsize=10)
    figure.suptitle(f"prompts alone, {report['split']}, step {report['step']}", fontsize=11)
    save_figure(figure, path)


def draw_cosines(
    cosines: np.ndarray, stages: np.ndarray, path: str | os.PathLike, *, title: str
) -> None:
    """Draw cosines [P, P] of epochs and texts as a heat map, a PNG.

    Args:
        cosines: epochs by texts, both in the order of stages.
        stages: int [P], places in ``STAGES``, -1 unknown.
        path: the file; replaced whole.
        title: what the texts say.
    """
    figure, (axis,) = new_figure(1, 1, (7.2, 6.2))
    image = axis.imshow(cosines, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    edges = np.flatnonzero(np.diff(stages)) + 0.5
    for edge in edges:
        axis.axhline(edge, color="black", linewidth=0.6)
        axis.axvline(edge, color="black", linewidth=0.6)
    names = ["?" if stage < 0 else STAGES[stage] for stage in stages]
    first = np.concatenate([[-0.5], edges])
    middle = (first + np.append(first[1:], len(stages) - 0.5)) / 2
    labels = [names[int(np.ceil(at))] for at in first]
    axis.set_xticks(middle, labels)
    axis.set_yticks(middle, labels)
    axis.set(xlabel="texts, by stage", ylabel="epochs, by stage")
    axis.set_title(f"cosines; texts of {title}; the diagonal is right", fontsize=10, loc="left")
    figure.colorbar(image, shrink=0.8)
    save_figure(figure, path)


def draw_epoch(
    signals: Sequence[tuple[str, np.ndarray]],
    lanes: Mapping[str, tuple[Sequence[Interval], Sequence[Interval]]],
    path: str | os.PathLike,
    *,
    title: str,
) -> None:
    """Draw an epoch's signals, and below them when what is said to happen, a PNG.

    Args:
        signals: names and samples over the whole epoch; all of one value are drawn as a line.
        lanes: name of an event or trend -> (there, said), in seconds of the epoch.
        path: the file; replaced whole.
        title: above it.
    """
    heights = [1.6 * len(signals) / 4, 0.5 + 0.3 * max(len(lanes), 1)]
    figure, (top, low) = new_figure(
        2, 1, (11, 1.2 + sum(heights)), height_ratios=heights, sharex=True
    )
    for row, (_, samples) in enumerate(signals):
        spread = np.ptp(np.percentile(samples, [1, 99])) if len(samples) else 0.0
        scaled = (samples - np.median(samples)) / (spread or 1.0)
        seconds = np.arange(len(samples)) * EPOCH_S / max(len(samples), 1)
        top.plot(seconds, np.clip(0.8 * scaled, -0.7, 0.7) - row, color="#333333", linewidth=0.5)
    top.set_yticks([-row for row in range(len(signals))], [name for name, _ in signals], fontsize=8)
    top.set_ylim(-len(signals) + 0.2, 0.8)
    top.set_title(title, fontsize=10, loc="left")
    _lanes(low, lanes, 0.5)
    low.set(xlim=(0, EPOCH_S), xlabel="seconds of the epoch")
    save_figure(figure, path)


def draw_night(
    stages: tuple[np.ndarray, np.ndarray],
    lanes: Mapping[str, tuple[Sequence[Interval], Sequence[Interval]]],
    path: str | os.PathLike,
    *,
    title: str,
) -> None:
    """Draw a night's stages and events, scored and said, a PNG.

    Args:
        stages: scored and said, int [E] each, places in ``STAGES``, -1 unknown.
        lanes: name of an event -> (scored, said), in seconds of the night.
        path: the file; replaced whole.
        title: above it.
    """
    low_height = 0.5 + 0.35 * max(len(lanes), 1)
    figure, (top, low) = new_figure(
        2, 1, (12, 3.6 + low_height), height_ratios=[2.6, low_height], sharex=True
    )
    level = {0: 0, 4: 1, 1: 2, 2: 3, 3: 4}  # wake above, REM below it, N3 at the bottom
    for own, name, colour, shift in zip(
        stages, ("scored", "said"), (REFERENCE, SAID), (-0.06, 0.06)
    ):
        heights = np.array([-level[s] + shift if s >= 0 else np.nan for s in own.tolist()])
        edges = np.arange(len(own) + 1) * EPOCH_S / 60
        top.stairs(heights, edges, baseline=None, color=colour, linewidth=1.2, label=name)
    names = {place: STAGES[stage] for stage, place in level.items()}
    top.set_yticks([-place for place in sorted(names)], [names[place] for place in sorted(names)])
    top.legend(fontsize=8, frameon=False, ncols=2, loc="upper right")
    top.set_title(title, fontsize=10, loc="left")
    _lanes(low, lanes, 0.5, scale=1 / 60)
    low.set(xlim=(0, len(stages[0]) * EPOCH_S / 60), xlabel="minutes of the recording")
    save_figure(figure, path)


def _lanes(axis, lanes, width, scale=1.0) -> None:
    """Bars of what is there above bars of what is said, a lane for each name."""
    for row, (there, said) in enumerate(lanes.values()):
        for own, colour, shift in ((there, REFERENCE, 0.2), (said, SAID, -0.2)):
            spans = [(e.start_s * scale, (e.stop_s - e.start_s) * scale) for e in own]
            axis.broken_barh(spans, (-row + shift - 0.17, 0.34), color=colour)
    axis.set_yticks([-row for row in range(len(lanes))], list(lanes), fontsize=8)
    axis.set_ylim(-max(len(lanes), 1) + width, width)
    axis.set_title("blue: the facts; orange: what is said", fontsize=8, loc="right")
    axis.grid(axis="x", alpha=0.3)
