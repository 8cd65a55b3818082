"""The hypnogram and the events of a night on the time axis of its recording."""

from __future__ import annotations

import numpy as np

from data_pipelines.scoring import EPOCH_S
from hypnos_jax.reports.figures import BLUE, GREEN, GREY, ORANGE

RED, BLACK = "#D55E00", "#222222"
STAGE_ROWS = {0: 4, 4: 3, 1: 2, 2: 1, 3: 0}  # W above R above N1 .. N3
EVENT_COLOURS = {
    "apnea_obstructive": RED,
    "apnea_central": RED,
    "apnea_mixed": RED,
    "hypopnea": ORANGE,
    "apnea_hypopnea": ORANGE,
    "desaturation": BLUE,
    "arousal": BLACK,
    "rera": ORANGE,
    "leg_movement": GREEN,
}
POSITION_COLOURS = dict(
    zip(("supine", "prone", "left", "right", "upright"), (RED, ORANGE, BLUE, GREEN, GREY))
)


def kinds_of(scored) -> list[str]:
    """Kinds of events that get a lane; lights are lines."""
    found = {event.kind for event in scored.events} if scored else set()
    return [kind for kind in (*EVENT_COLOURS, "position") if kind in found]


def draw_night(stages, lanes, recording, scored, kinds, marks_s) -> None:
    """Draw stages, and events below them, on the time axis of a recording.

    Args:
        stages, lanes: axes of matplotlib.
        recording: an open recording; its length, gaps and start are looked at.
        scored: its scoring, or None.
        kinds: as of `kinds_of`.
        marks_s: times to be marked by numbers, in s.
    """
    end_s = recording.duration_s
    if scored is not None:
        end_s = max(end_s, min(len(scored.stages) * EPOCH_S, 3 * recording.duration_s))
    begin_s = min([0.0, *(event.onset_s for event in scored.events)]) if scored else 0.0
    begin_s = max(begin_s, -0.1 * end_s)
    for axis in (stages, lanes):
        axis.set_xlim(begin_s / 3600, end_s / 3600)
        for start, stop in ((recording.duration_s, end_s), (begin_s, 0.0)):
            if stop > start:
                axis.axvspan(start / 3600, stop / 3600, color="#e6e6e6", zorder=0)
        for start, stop in recording.gaps:
            shade(axis, start / 3600, stop / 3600)
    if end_s > recording.duration_s:
        stages.text(
            recording.duration_s / 3600, 4.35, " after the recording's end", fontsize=7, color=RED
        )
    if scored is not None:
        _draw_stages(stages, scored)
    else:
        stages.text(0.5, 0.3, "no scoring", transform=stages.transAxes, ha="center", color=GREY)
    names = ["W", "R", "N1", "N2", "N3"] if scored else []
    stages.set_yticks(list(STAGE_ROWS.values())[: len(names)], names, fontsize=8)
    stages.set_ylim(-0.6, 5.0)
    stages.set_xticks([])
    for number, mark in enumerate(marks_s, 1):
        stages.plot([mark / 3600], [4.85], "v", color=BLUE, markersize=5)
        beside = {"xytext": (5, 0), "textcoords": "offset points", "fontsize": 8, "color": BLUE}
        stages.annotate(f"{number}", (mark / 3600, 4.7), **beside)
    _draw_events(lanes, scored, kinds, end_s - begin_s)
    _draw_clock(stages, lanes, recording, begin_s, end_s)
    if scored is not None:
        _lights(stages, scored)


def mark_left_out(axis, findings) -> None:
    """Mark at the ends of a hypnogram what was left out of the scoring."""
    for finding in findings:
        if finding.kind == "scoring_trimmed" and finding.seconds:
            before = "before" in finding.what
            text = f"{hms(finding.seconds)} of scoring left out"
            text = f" \u25c4 {text}" if before else f"{text} \u25ba "
            place = {"transform": axis.transAxes, "ha": "left" if before else "right"}
            axis.text(0 if before else 1, 0.86, text, fontsize=8, color=RED, **place)


def _draw_stages(axis, scored) -> None:
    codes = scored.stages
    edges = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
    before = None
    for first, stop in zip(edges, edges[1:]):
        if stop == first:
            continue
        start, end = first * EPOCH_S / 3600, stop * EPOCH_S / 3600
        if codes[first] < 0:
            axis.axvspan(
                start, end, facecolor="none", edgecolor="#bbbbbb", hatch="////", linewidth=0
            )
            before = None
            continue
        level = STAGE_ROWS[int(codes[first])]
        if before is not None:
            axis.plot([start, start], [before, level], color=BLACK, linewidth=0.7)
        colour = RED if codes[first] == 4 else BLACK
        axis.plot([start, end], [level, level], color=colour, linewidth=2, solid_capstyle="butt")
        before = level


def _draw_events(axis, scored, kinds, span_s) -> None:
    axis.set_ylim(len(kinds) or 1, 0)
    names = []
    for lane, kind in enumerate(kinds):
        events = [event for event in scored.events if event.kind == kind]
        least = span_s / 1500  # a moment is drawn a pixel wide
        bars = [(e.onset_s / 3600, max(e.duration_s, least) / 3600) for e in events]
        colours = EVENT_COLOURS.get(kind) or [POSITION_COLOURS.get(e.value, GREY) for e in events]
        axis.broken_barh(bars, (lane + 0.12, 0.76), facecolors=colours)
        names.append(f"{kind.replace('_', ' ')} ({len(events)})")
    axis.set_yticks(np.arange(len(kinds)) + 0.5, names, fontsize=7.5)
    axis.tick_params(axis="y", length=0)
    if scored is None:
        return
    if not kinds:
        looked = "no events" if scored.events_scored else "nobody looked for events"
        axis.text(
            0.5, 0.5, looked, transform=axis.transAxes, ha="center", va="center", fontsize=7.5
        )
    elif not scored.events_scored:
        axis.text(1, 1.2, "events were not scored as such", transform=axis.transAxes, fontsize=7)
    for event in scored.events if "position" in kinds else ():
        if event.kind == "position" and event.duration_s > 0.04 * span_s:
            middle = (event.onset_s + event.duration_s / 2) / 3600
            lane = kinds.index("position") + 0.5
            word = axis.text(middle, lane, event.value, fontsize=6.5, color="white", clip_on=True)
            word.set(ha="center", va="center")


def _lights(axis, scored) -> None:
    for event in scored.events:
        if event.kind in ("lights_off", "lights_on"):
            at = event.onset_s / 3600
            side = "right" if at > sum(axis.get_xlim()) / 2 else "left"
            axis.axvline(at, color=BLUE, linewidth=0.9, linestyle="--")
            text = f" {event.kind.replace('_', ' ')} "
            axis.text(at, -0.5, text, fontsize=7, color=BLUE, ha=side)


def _draw_clock(upper, lower, recording, begin_s, end_s) -> None:
    """Hours below; times of day above where the recording's start is known."""
    span = end_s - begin_s
    step = next((s for s in (10, 30, 60, 300, 600, 1800, 3600, 7200) if span / s <= 16), 14400)
    ticks = np.arange(np.ceil(begin_s / step), np.floor(end_s / step) + 1) * step
    lower.set_xticks(ticks / 3600, [hms(tick) for tick in ticks], fontsize=7.5)
    lower.set_xlabel("h:min:s from the recording's start", fontsize=8)
    if recording.start_of_day_s is None or recording.start_is_filler:
        return
    clock = upper.secondary_xaxis("top")
    clock.set_xticks(ticks / 3600, [clock_text(recording.start_of_day_s + t) for t in ticks])
    clock.tick_params(labelsize=7.5, pad=2)


def hms(seconds: float) -> str:
    sign, seconds = "-" if seconds < 0 else "", round(abs(seconds))
    return f"{sign}{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def clock_text(second: float) -> str:
    second = int(second) % 86_400
    return f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"


def shade(axis, start, stop) -> None:
    """Mark what the recording holds no samples of."""
    axis.axvspan(start, stop, facecolor="#fdf3ee", edgecolor="#eeb898", hatch="//", linewidth=0.4)
