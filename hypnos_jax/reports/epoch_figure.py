"""A picture of an epoch: its signals, and below them when its events are."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from data_pipelines.captions.facts import EPOCH_S, Interval
from hypnos_jax.reports.figures import BLUE, GREY, new_figure, save_figure

ROW, LANE, HEAD = 0.42, 0.28, 0.9  # inches


def draw_epoch(
    signals: Sequence[tuple[str, np.ndarray]],
    events: Sequence[Interval],
    path: str | os.PathLike,
    *,
    title: str,
) -> None:
    """Draw an epoch as a PNG; each signal is scaled to its own row.

    Args:
        signals: names and samples over the whole epoch.
        events: what happens, in seconds of the epoch.
        path: the file; replaced whole.
        title: above it; drawn as it is, without mathematics.
    """
    kinds = list(dict.fromkeys(event.kind for event in events))
    rows, lanes = max(len(signals), 1), max(len(kinds), 1)
    heights = [ROW * rows, LANE * lanes + 0.1]
    figure, (top, low) = new_figure(
        2, 1, (10, HEAD + sum(heights)), height_ratios=heights, sharex=True
    )
    for row, (_, samples) in enumerate(signals):
        middle, spread = np.median(samples), np.ptp(np.percentile(samples, [1, 99]))
        scaled = np.clip((samples - middle) / (spread or 1.0), -0.6, 0.6)
        seconds = np.arange(len(samples)) * EPOCH_S / max(len(samples), 1)
        top.plot(seconds, 0.75 * scaled - row, color="#333333", linewidth=0.5)
    top.set_yticks([-row for row in range(len(signals))], [name for name, _ in signals], fontsize=8)
    top.set_ylim(-rows + 0.3, 0.7)
    top.set_title(title, fontsize=9, loc="left", parse_math=False)
    for lane, kind in enumerate(kinds):
        spans = [(e.start_s, e.stop_s - e.start_s) for e in events if e.kind == kind]
        low.broken_barh(spans, (-lane - 0.3, 0.6), color=BLUE)
    low.set_yticks([-lane for lane in range(len(kinds))], kinds, fontsize=8)
    low.set_ylim(-lanes + 0.4, 0.6)
    low.set(xlim=(0, EPOCH_S), xlabel="seconds of the epoch")
    for axis in (top, low):
        axis.grid(axis="x", color=GREY, linewidth=0.3)
    save_figure(figure, path)
