"""One picture of what a model made up: the recording's last seconds, and how they go on."""

from __future__ import annotations

import os

import numpy as np

from data_pipelines.recipes.hypnos import ROWS
from hypnos_jax.inference.generate import Generated
from hypnos_jax.reports.figures import new_figure, save_figure

SHOWN_S = 30  # ours: generated seconds shown, an epoch as it is scored
# Okabe and Ito's colours, told apart by colour-blind readers too.
RECORDED, DECODED, GENERATED = "#BBBBBB", "#0072B2", "#D55E00"


def draw_generated(made: Generated, path: str | os.PathLike, *, title: str = "") -> None:
    """Draw each modality over time as a PNG.

    Args:
        made: what was generated.
        path: the file; replaced whole.
        title: what to say of how it was made.
    """
    from matplotlib.ticker import MultipleLocator

    shown = min(made.seconds, SHOWN_S)
    rows = len(made.signals)
    figure, axes = new_figure(rows, 1, (16, 1.3 * rows + 1.2), sharex=True)
    start_s = 0
    for axis, (name, signal) in zip(axes, made.signals.items()):
        rate = ROWS[name].rate_hz
        lead = made.lead[name]
        if made.prompt:
            channel = made.prompt.channels[name]
            start_s = len(channel.valid)
            recorded, unit = made.in_unit(name, channel.samples[len(channel.samples) - len(lead) :])
            axis.plot(
                _seconds(recorded, rate, start_s - len(lead) // rate),
                recorded,
                color=RECORDED,
                lw=2.2,
                label="recorded",
            )
        drawn, unit = made.in_unit(name, np.concatenate([lead, signal[: shown * rate]]))
        at = _seconds(drawn, rate, start_s - len(lead) // rate)
        cut = len(lead)
        if cut:
            before = at[: cut + 1], drawn[: cut + 1]
            axis.plot(*before, color=DECODED, lw=0.9, label="decoded from its codes")
            axis.axvline(start_s, color="black", lw=0.8, ls=":")
            axis.axvspan(start_s, start_s + shown, color=GENERATED, alpha=0.06, lw=0)
        axis.plot(at[cut:], drawn[cut:], color=GENERATED, lw=0.9, label="generated")
        unit = {"uV": "µV", "z": "z-score", "": "a.u."}.get(unit, unit)
        axis.set_ylabel(f"{name}\n({unit})", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.margins(x=0)
        axis.xaxis.set_major_locator(MultipleLocator(5))
        axis.spines[["top", "right"]].set_visible(False)
    figure.align_ylabels(axes)
    axes[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, fontsize=8, frameon=False)
    axes[-1].set_xlabel("seconds of the recording" if made.prompt else "seconds")
    what = f"Continued from second {start_s}" if made.prompt else "Begun from nothing"
    part = f"the first {shown} of {made.seconds} s" if shown < made.seconds else f"{shown} s"
    figure.suptitle(f"{what}: {part}; {title}".rstrip("; "), fontsize=11, x=0.01, ha="left")
    save_figure(figure, path)


def _seconds(samples, rate_hz, start_s):
    return start_s + np.arange(len(samples)) / rate_hz
