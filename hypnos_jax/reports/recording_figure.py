"""A page about one recording, for doubt: pieces of each channel, spectra, and the hypnogram.

Drawn in physical units as `read_channel` gives them, corrections included. No date is drawn, and no
text of the file but its labels.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import textwrap
from collections.abc import Sequence

import numpy as np
import scipy

from data_pipelines.channels.quality import PLAUSIBLE_UV, ChannelQuality, RecordingQuality
from data_pipelines.channels.table import CHANNELS
from data_pipelines.findings import Finding
from data_pipelines.recordings.base import Recording, RecordingError
from data_pipelines.recordings.opening import read_channel
from data_pipelines.scoring import EPOCH_S, Scoring
from hypnos_jax.reports.figures import BLUE, GREEN, GREY, ORANGE, save_figure
from hypnos_jax.reports.hypnogram import (
    BLACK,
    RED,
    clock_text,
    draw_night,
    hms,
    kinds_of,
    mark_left_out,
    shade,
)

PIECE_S = 30
SLOT_S = PIECE_S + 1  # a piece and the room after it
TRACES = {"ok": BLACK, "fixed": BLUE, "refused": "#aaaaaa"}
STATUS_COLOURS = {"ok": GREEN, "fixed": ORANGE, "refused": RED}
LOWEST_HZ = {"resp": 0.05}  # a breath takes longer than the 3 s of the other signals' lowest
OTHERS_LOWEST_HZ = 0.3
# The page in inches: what the channel is, three pieces, its spectrum.
WIDTH, MARGIN, ABOUT, PIECE, SPECTRUM = 17.0, 0.25, 2.75, 3.45, 2.3
HEAD, ROW, STAGES, LANE, LINE = 1.0, 0.92, 1.5, 0.17, 0.165
LETTERS = 190  # of the widest line of text
LEGEND = (
    "EEG, EOG, EMG and ECG are drawn above 0.3 Hz; the spectra are of all that was read. A bar is "
    "as high as it says; of each channel the outermost 0.5 % are cut."
)


@dataclasses.dataclass(frozen=True)
class Place:
    """A stretch that is drawn: its start in s, and why it was chosen."""

    start_s: float
    name: str


def places_of(recording: Recording, scored: Scoring | None) -> list[Place]:
    """Return up to three stretches of 30 s: of the night's sleep where it is known.

    Gaps are avoided among the epochs of sleep.
    """
    duration_s = recording.duration_s
    asleep = np.flatnonzero(scored.stages > 0) * EPOCH_S if scored else np.zeros(0)
    asleep = asleep[asleep + EPOCH_S <= duration_s]
    for start, stop in recording.gaps:
        outside = asleep[(asleep + EPOCH_S <= start) | (asleep >= stop)]
        asleep = outside if len(outside) else asleep
    last = max(0.0, duration_s - PIECE_S)
    if len(asleep):
        middle = asleep[len(asleep) // 2]
        chosen = [
            (asleep[0], "sleep begins"),
            (middle, "half of sleep"),
            (asleep[-1], "last sleep"),
        ]
    else:
        chosen = [(0.1 * last, "a tenth"), (0.5 * last, "half"), (0.9 * last, "nine tenths")]
    if duration_s < 2 * PIECE_S:
        chosen = [(0.0, "all of it")]
    places = {float(min(at, last)): name for at, name in reversed(chosen)}
    return [Place(at, places[at]) for at in sorted(places)]


def draw_recording(path: str | os.PathLike, recording: Recording, quality, **options) -> None:
    """Draw a recording as a PNG; replaced whole. Arguments are as of `figure_of`."""
    save_figure(figure_of(recording, quality, **options), path)


def figure_of(
    recording: Recording,
    quality: RecordingQuality,
    *,
    scored: Scoring | None = None,
    findings: Sequence[Finding] = (),
    notes: Sequence[str] = (),
):
    """Return the page of a recording as a figure of matplotlib.

    Args:
        recording: an open recording; 30 s at three places are read of each channel.
        quality: of its channels, refused ones too.
        scored: its scoring on the recording's time axis; None where it has none.
        findings: what a user should look at, to be written below; what was left out of the scoring
            is marked.
        notes: what else is written below.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    places = places_of(recording, scored)
    lines = _lines(findings, notes)
    kinds = kinds_of(scored)
    rows = max(1, len(quality.channels))
    stages_height = STAGES if scored else STAGES / 4
    below = 1.1 + stages_height + LANE * max(1, len(kinds))
    height = HEAD + ROW * rows + below + LINE * (len(lines) + 2)
    figure = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(figure)
    page = _Page(figure, height)
    _head(page, recording, quality, scored, places)
    for number, name in enumerate(quality.channels):
        _draw_channel(page, HEAD + ROW * number, recording, quality, name, places)
    if not quality.channels:
        page.write(MARGIN, HEAD + 0.3, "none of its labels is a known channel", color=RED)
    left, top, width = MARGIN + ABOUT, HEAD + ROW * rows + 0.75, WIDTH - 3 * MARGIN - ABOUT
    stages = page.axes(left, top, width, stages_height)
    lanes = page.axes(left, top + stages_height + 0.04, width, LANE * max(1, len(kinds)))
    marks_s = [place.start_s + PIECE_S / 2 for place in places]
    draw_night(stages, lanes, recording, scored, kinds, marks_s)
    mark_left_out(stages, findings)
    if scored is not None:
        share = float(np.mean(scored.stages < 0)) if len(scored.stages) else 1.0
        page.write(MARGIN, top, "Hypnogram", fontsize=10, weight="bold")
        page.write(MARGIN, top + 0.18, f"hatched: unscored, {share:.0%} of it")
    if recording.gaps:
        page.write(
            MARGIN, top + 0.33, f"red: {len(recording.gaps)} gaps in the recording", color=RED
        )
    top = HEAD + ROW * rows + below + LINE
    for number, (text, colour) in enumerate(lines):
        page.write(MARGIN, top + LINE * number, text, color=colour, fontsize=8.5)
    return figure


class _Page:
    """A figure that is laid out in inches from its upper left corner."""

    def __init__(self, figure, height: float):
        self.figure, self.height = figure, height

    def axes(self, left: float, top: float, width: float, height: float, **options):
        bottom = self.height - top - height
        box = left / WIDTH, bottom / self.height, width / WIDTH, height / self.height
        return self.figure.add_axes(box, **options)

    def write(self, left: float, top: float, text: str, **options) -> None:
        options = {"fontsize": 8, "va": "top", "color": BLACK, "parse_math": False} | options
        self.figure.text(left / WIDTH, 1 - top / self.height, text, **options)


def _lines(findings, notes) -> list[tuple[str, str]]:
    """What is written below the pictures, and in which colour: what to look at, then the notes."""
    texts = [(finding.note, RED) for finding in findings] + [(note, "#555555") for note in notes]
    lines = []
    for text, colour in texts:
        wrapped = textwrap.wrap(text, LETTERS, initial_indent="- ", subsequent_indent="  ")
        lines += [(line, colour) for line in wrapped]
    return lines


def _head(page, recording, quality, scored, places) -> None:
    page.write(MARGIN, 0.15, recording.name, fontsize=14, weight="bold")
    counts = dict.fromkeys(STATUS_COLOURS, 0)
    for channel in quality.channels.values():
        counts[channel.status] += 1
    told = [f"{hms(recording.duration_s)} h, {len(recording.labels)} labels"]
    if recording.start_of_day_s is not None and not recording.start_is_filler:
        told.append(f"from {clock_text(recording.start_of_day_s)}")
    told.append("channels: " + ", ".join(f"{n} {status}" for status, n in counts.items()))
    told.append(f"mains {quality.mains_hz} Hz" if quality.mains_hz else "mains not seen")
    told.append(f"scoring: {scored.source}" if scored else "no scoring")
    page.write(MARGIN, 0.45, "   |   ".join(told), fontsize=9.5)
    for column, place in enumerate(places):
        at = MARGIN + ABOUT + column * PIECE
        title = f"{column + 1}: {place.name}, from {hms(place.start_s)}"
        page.write(at, HEAD - 0.17, f"{title}  ({PIECE_S} s, a line each 5 s)", fontsize=8.5)
    at = MARGIN + ABOUT + 3 * PIECE + 0.3
    mains = "red: mains" if quality.mains_hz else "dotted: 50 and 60 Hz"
    page.write(at, HEAD - 0.17, f"spectrum over Hz; {mains}", fontsize=8.5)
    page.write(MARGIN + ABOUT, HEAD + ROW * max(1, len(quality.channels)), LEGEND, fontsize=7)


def _about(page, top, name, channel: ChannelQuality) -> None:
    colour = STATUS_COLOURS[channel.status]
    page.write(MARGIN, top, name, fontsize=10, weight="bold")
    page.write(
        MARGIN + 1.4,
        top + 0.02,
        channel.status.upper() if channel.status != "ok" else "ok",
        fontsize=9,
        weight="bold",
        color=colour,
    )
    binding = channel.binding
    source = binding.label
    if binding.reference is not None:
        source += f" - {binding.reference_label}"
    page.write(MARGIN, top + 0.17, f"{source},  {channel.rate_hz:g} Hz", fontsize=8)
    told = (
        "; ".join(reversed(channel.notes)) if channel.status != "ok" else "; ".join(channel.notes)
    )
    wrapped = textwrap.wrap(told, 36, max_lines=4, placeholder=" ...")
    page.write(
        MARGIN,
        top + 0.31,
        "\n".join(wrapped),
        fontsize=7,
        color="#555555" if channel.status == "ok" else colour,
    )


def _draw_channel(page, top, recording, quality, name, places) -> None:
    channel = quality.channels[name]
    _about(page, top, name, channel)
    try:
        pieces = [
            read_channel(recording, channel.binding, place.start_s, place.start_s + PIECE_S)[0]
            for place in places
        ]
    except RecordingError as error:
        told = str(error).removeprefix(f"{recording.path}: ")
        page.write(MARGIN + ABOUT, top + 0.3, f"cannot be read: {told}", color=RED)
        return
    pieces = [np.where(np.isfinite(piece), piece, np.nan) for piece in pieces]
    _draw_pieces(page, top, name, channel, pieces, places)
    _draw_spectrum(page, top, name, channel, pieces, quality.mains_hz)


def _draw_pieces(page, top, name, channel, pieces, places) -> None:
    number = CHANNELS[name].signal_type == "number"
    left, width = MARGIN + ABOUT, PIECE * len(places)
    axis = page.axes(left, top, width, ROW - 0.08)
    axis.set_axis_off()
    shown = [_without_drift(piece, name, channel.rate_hz) for piece in pieces]
    low, high = _limits(np.concatenate(shown), number)
    axis.set(xlim=(0, len(places) * SLOT_S), ylim=(low, high))
    seconds = np.arange(0, PIECE_S + 1, 5)[None] + SLOT_S * np.arange(len(places))[:, None]
    axis.vlines(seconds.ravel(), low, high, colors="#e4e4e4", linewidth=0.7, zorder=0)
    for column, piece in enumerate(shown):
        times = SLOT_S * column + np.arange(len(piece)) / channel.rate_hz
        axis.plot(*_thinned(times, piece), color=TRACES[channel.status], linewidth=0.6)
        for start_s, stop_s in _gaps(piece, channel.rate_hz):
            start, stop = SLOT_S * column + start_s, SLOT_S * column + stop_s
            shade(axis, start, stop)
            if stop - start > 3:
                middle = (start + stop) / 2, (low + high) / 2
                axis.text(*middle, "gap", ha="center", va="center", color=RED)
    _scale_bar(page, axis, left, top, channel.unit, number)


def _without_drift(piece, name, rate_hz):
    """A voltage above 0.3 Hz, as it is looked at; of other signals the median is taken away."""
    kind = CHANNELS[name].signal_type
    if kind == "number" or not np.isfinite(piece).any():
        return piece
    piece = piece - np.nanmedian(piece)
    if kind not in PLAUSIBLE_UV or rate_hz < 1 or np.nanmax(np.abs(piece)) == 0:
        return piece
    high_pass = scipy.signal.butter(1, OTHERS_LOWEST_HZ, "high", fs=rate_hz, output="sos")
    for first, stop in _runs(np.isfinite(piece)):
        if stop - first > 3 * rate_hz:
            piece[first:stop] = scipy.signal.sosfiltfilt(
                high_pass, piece[first:stop], padtype="even", padlen=int(2 * rate_hz)
            )
    return piece


def _limits(values, number) -> tuple[float, float]:
    """The range drawn: all but the outermost 0.5 % on each side."""
    values = values[np.isfinite(values)]
    if not len(values):
        return -1.0, 1.0
    low, high = np.percentile(values, [0.5, 99.5])
    if number:
        room = max(0.1 * (high - low), 0.02 * abs(high), 1e-9)
        return low - room, high + room
    reach = 1.15 * max(abs(low), abs(high))
    return (-reach, reach) if reach > 0 else (-1.0, 1.0)


def _scale_bar(page, axis, left, top, unit, number) -> None:
    """A bar of a round number of units, left of the first piece; of a number, its range."""
    unit = {"uV": "µV"}.get(unit, unit)
    height = ROW - 0.08
    low, high = axis.get_ylim()
    if number:
        page.write(left - 0.06, top, f"{high:.4g} {unit}", fontsize=7, ha="right")
        bottom = top + height
        page.write(left - 0.06, bottom, f"{low:.4g}", fontsize=7, ha="right", va="bottom")
        return
    span = high - low
    size = 10.0 ** np.floor(np.log10(span / 2))
    size *= max(step for step in (1, 2, 5) if size * step <= span / 2)
    at = axis.get_xlim()[1] * -0.06 / (axis.get_position().width * WIDTH)
    bar = axis.plot([at, at], [-size / 2, size / 2], color=BLACK, linewidth=2.2)
    bar[0].set(clip_on=False, solid_capstyle="butt")
    text = f"{size:g} {unit}" if unit else f"{size:g} (no unit)"
    page.write(left - 0.12, top + height / 2, text, fontsize=7, ha="right", va="center")


def _thinned(times, values, columns: int = 700):
    """The lowest and the highest sample of each column of pixels, so that no peak is lost."""
    length = len(values) // columns
    if length < 4:
        return times, values
    count = len(values) // length
    cut = values[: count * length].reshape(count, length)
    pairs = np.stack([np.fmin.reduce(cut, axis=1), np.fmax.reduce(cut, axis=1)], axis=1)
    at = times[: count * length : length]
    return np.repeat(at, 2), pairs.ravel()


def _gaps(piece, rate_hz) -> list[tuple[float, float]]:
    """Start and stop in s of what holds no sample, seen in steps of a tenth of a second."""
    length = max(1, int(rate_hz / 10))
    count = len(piece) // length
    empty = ~np.isfinite(piece[: count * length].reshape(count, length)).any(axis=1)
    step_s = length / rate_hz
    return [(first * step_s, stop * step_s) for first, stop in _runs(empty)]


def _runs(mask) -> list[tuple[int, int]]:
    """First and stop of each run of true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(mask, int), [0]])))
    return [(int(first), int(stop)) for first, stop in edges.reshape(-1, 2)]


def _draw_spectrum(page, top, name, channel, pieces, mains_hz) -> None:
    left = MARGIN + ABOUT + 3 * PIECE + 0.3
    kind = CHANNELS[name].signal_type
    spectrum = None if kind == "number" else _spectrum(pieces, channel.rate_hz, kind)
    if spectrum is None:
        page.write(left, top + 0.35, "no spectrum", fontsize=7, color=GREY)
        return
    freqs, power = spectrum
    lowest, nyquist = LOWEST_HZ.get(kind, OTHERS_LOWEST_HZ), channel.rate_hz / 2
    axis = page.axes(left, top, SPECTRUM, ROW - 0.3)
    # A logarithm of ours: an axis of matplotlib's takes ten times as long to draw.
    axis.plot(np.log10(freqs), power, color=TRACES[channel.status], linewidth=0.9)
    ticks = [t for t in (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000) if lowest <= t <= nyquist]
    axis.set_xticks(np.log10(ticks), [f"{tick:g}" for tick in ticks])
    axis.set_xlim(np.log10(lowest), np.log10(max(nyquist, 2 * lowest)))
    low, high = np.floor(np.percentile(power, 1) / 20) * 20, np.ceil(power.max() / 20) * 20
    step = 20 * max(1, round((high - low) / 60))
    axis.set(ylim=(low, high + 5), yticks=np.arange(low, high + 1, step))
    axis.tick_params(labelsize=6.5, length=2, pad=1)
    axis.grid(color="#eeeeee", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    for line in (mains_hz,) if mains_hz else (50, 60):
        if line < nyquist:
            style = "-" if mains_hz else ":"
            axis.axvline(np.log10(line), color=RED, linewidth=0.9, linestyle=style, zorder=0)
    unit = {"uV": "µV", "": "1"}.get(channel.unit, channel.unit)
    page.write(left + SPECTRUM + 0.05, top, f"dB of {unit}²/Hz", fontsize=6.5, color="#555555")


def _spectrum(pieces, rate_hz, kind):
    """Frequencies and power in dB by Welch's method, over stretches without gaps."""
    length = int(rate_hz * (15 if kind == "resp" else 4))
    total, weight = 0.0, 0
    for piece in pieces:
        for first, stop in _runs(np.isfinite(piece)):
            if length >= 8 and stop - first >= length and np.ptp(piece[first:stop]) > 0:
                freqs, power = scipy.signal.welch(
                    piece[first:stop], rate_hz, nperseg=length, detrend="linear"
                )
                total, weight = total + power * (stop - first), weight + stop - first
    if not weight or not np.any(total > 0):
        return None
    kept = freqs >= LOWEST_HZ.get(kind, OTHERS_LOWEST_HZ) / 1.5
    power = total[kept] / weight
    return freqs[kept], 10 * np.log10(np.maximum(power, power.max() * 1e-12))


class Pages:
    """Pages of recordings in a folder: a PNG each, under the stem of the recording's file."""

    def __init__(self, folder: str | os.PathLike):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._taken: set[str] = set()

    def draw(self, recording: Recording, quality: RecordingQuality, **options) -> pathlib.Path:
        """Draw a page and return its file; the second of a name gets a number.

        Options are as of `figure_of`.
        """
        number, name = 1, recording.name
        while name.casefold() in self._taken:  # some file systems know one case alone
            number += 1
            name = f"{recording.name}-{number}"
        self._taken.add(name.casefold())
        path = self.folder / f"{name}.png"
        draw_recording(path, recording, quality, **options)
        return path
