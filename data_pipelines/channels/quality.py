"""Quality control of each channel before anything is computed from it: fixed, refused, or ok.

A model answers with the same confidence on a channel whose unit is wrong by 1000, on a flat one and
on an ECG labelled as EEG. :func:`check_quality` looks at short stretches spread over the recording
and says of every bound channel ``ok``, ``fixed`` (unit or polarity, and how) or ``refused`` (and
why).
The thresholds are ours, set on the public recordings named in the tests.
"""

import dataclasses

import numpy as np

from data_pipelines.channels import measures as measures
from data_pipelines.channels.labels import normalise
from data_pipelines.channels.resolve import Binding, Resolution
from data_pipelines.channels.table import CHANNELS
from data_pipelines.findings import Finding
from data_pipelines.recordings.base import Recording, RecordingError
from data_pipelines.recordings.opening import read_channel

PIECE_S = 20
MAX_PIECES = 24  # so that a night is checked on 8 minutes

# Median standard deviation of one second, in uV, that a worn electrode gives. Each range spans less
# than a factor of 1000, so that at most one power of 1000 can bring a reading into it.
PLAUSIBLE_UV = {"eeg": (1, 700), "eog": (1, 700), "emg": (0.2, 150), "ecg": (10, 5_000)}
PLAUSIBLE_NUMBER = {"spo2": (40, 100), "heart_rate": (25, 220)}
FEWEST_LEVELS = 8
MOST_FLAT = 0.95
MOST_CLIPPED = 0.5
NOTED_CLIPPED = 0.01
# log2 of the height of the peaks that point up over those that point down.
INVERTED_BELOW = -1.0
# Leads in which the main deflection of a healthy heart points down.
_DOWNWARD_LEADS = {"avr", "mcl1", "v1", "ecgavr", "ecgv1"}
ECG_LIKE_BEAT, ECG_LIKE_KURTOSIS, ECG_LIKE_UV = 0.6, 5.0, 40.0
NO_BEAT, NO_BREATH = 0.1, 0.3
HUM_DB, HUM_LEAD_DB = 6.0, 3.0


@dataclasses.dataclass(frozen=True)
class ChannelQuality:
    """Status of one channel, and the numbers behind it.

    Attributes:
        status: ``ok``, ``fixed`` or ``refused``.
        binding: How to read it, corrections included; give it to ``read_channel``.
        unit: Unit of that reading.
        rate_hz: Native rate.
        amplitude: Median over seconds of the standard deviation (median value for numbers), in
            ``unit``; None where nothing moves.
        flat_share, clipped_share, nan_share: Shares of the stretches looked at.
        notes: What was done, why it was refused, what to be careful about.
    """

    status: str
    binding: Binding
    unit: str
    rate_hz: float
    amplitude: float | None
    flat_share: float
    clipped_share: float
    nan_share: float
    notes: tuple[str, ...]

    def to_json(self) -> dict:
        """As a dictionary for a manifest; labels stay, nothing else of the header is there."""
        return {
            "status": self.status,
            "label": self.binding.label,
            "how": self.binding.how,
            "scale": self.binding.scale,
            "unit": self.unit,
            "rate_hz": round(self.rate_hz, 6),
            "amplitude": None if self.amplitude is None else float(f"{self.amplitude:.4g}"),
            "flat_share": round(self.flat_share, 4),
            "clipped_share": round(self.clipped_share, 4),
            "nan_share": round(self.nan_share, 4),
            "notes": list(self.notes),
        }


@dataclasses.dataclass(frozen=True)
class RecordingQuality:
    """Quality by canonical channel, and what holds for the whole recording.

    ``mains_hz`` is 50 or 60 as given or as seen in the spectrum, None where neither tells;
    ``findings`` are what a user should look at, those of reading the recording included.
    """

    channels: dict[str, ChannelQuality]
    mains_hz: int | None
    notes: tuple[str, ...]
    findings: tuple[Finding, ...] = ()

    def to_json(self) -> dict:
        """As a dictionary for a manifest."""
        return {
            "mains_hz": self.mains_hz,
            "notes": list(self.notes),
            "channels": {name: channel.to_json() for name, channel in self.channels.items()},
        }


def check_quality(
    recording: Recording, resolution: Resolution, *, mains_hz: int | None = None
) -> RecordingQuality:
    """Check every bound channel on up to 24 stretches of 20 s.

    Where the first binding of a channel is refused, its alternatives are tried in their order.

    Args:
        recording: An open recording.
        resolution: Its resolved labels.
        mains_hz: 50 or 60 where known; otherwise inferred from the hum of all voltage channels.

    Raises:
        ValueError: ``mains_hz`` is neither 50, 60 nor None.
    """
    if mains_hz not in (None, 50, 60):
        raise ValueError(f"mains_hz={mains_hz}: the mains frequency is 50 or 60 Hz")
    qualities: dict[str, ChannelQuality] = {}
    seen: dict[str, np.ndarray] = {}
    hums: list[dict[int, float]] = []
    for name, first in resolution.bindings.items():
        for binding in (first, *resolution.alternatives.get(name, ())):
            check = _ChannelCheck(recording, name, binding)
            pieces = check.examine()
            twin = None if check.status == "refused" else _twin(name, pieces, seen)
            if twin is not None:
                check.refuse(f"sample for sample the same as {twin}: one of the labels is wrong")
            if check.status != "refused":
                break
            qualities.setdefault(name, check.quality())
        if check.status == "refused":
            continue
        if name in qualities:
            why = qualities[name].notes[-1]
            check.notes.append(f"taken because {first.label!r} was refused ({why})")
        qualities[name] = check.quality()
        seen[name] = pieces
        if CHANNELS[name].signal_type in PLAUSIBLE_UV:
            hums.append(measures.line_hum_db(pieces, check.rate_hz))
    mains_hz, notes = _mains(mains_hz, hums)
    return RecordingQuality(
        qualities, mains_hz, (*recording.notes, *notes), tuple(recording.findings)
    )


def _twin(name: str, pieces: np.ndarray, seen: dict[str, np.ndarray]) -> str | None:
    for other, theirs in seen.items():
        if (
            CHANNELS[other].signal_type == CHANNELS[name].signal_type != "number"
            and theirs.shape == pieces.shape
            and np.array_equal(theirs, pieces, equal_nan=True)
        ):
            return other
    return None


def _mains(given: int | None, hums: list[dict[int, float]]) -> tuple[int | None, list[str]]:
    """Which line frequency stands out, by the upper quartile over channels."""
    height = {
        line: float(np.percentile([hum[line] for hum in hums if line in hum], 75))
        for line in (50, 60)
        if any(line in hum for hum in hums)
    }
    best = max(height, key=height.get, default=None)
    other = max((value for line, value in height.items() if line != best), default=0.0)
    seen = None
    if best is not None and height[best] >= HUM_DB and height[best] - other >= HUM_LEAD_DB:
        seen = best
    if given is not None:
        if seen not in (None, given):
            return given, [
                f"mains of {given} Hz was asked for, but the spectrum shows {seen} Hz "
                f"({height[seen]:.0f} dB above its surroundings)"
            ]
        return given, []
    if not height:
        return None, []
    if seen is None:
        return None, ["no line hum at 50 or 60 Hz stands out"]
    return seen, [f"{seen} Hz line hum, {height[seen]:.0f} dB above its surroundings"]


class _ChannelCheck:
    """The examination of one channel."""

    def __init__(self, recording: Recording, name: str, binding: Binding):
        self.recording = recording
        self.channel = CHANNELS[name]
        self.binding = binding
        self.rate_hz = 0.0
        self.status = "ok"
        self.notes = list(binding.notes)
        self.amplitude = None
        self.flat = self.clipped = self.missing = 0.0

    def quality(self) -> ChannelQuality:
        return ChannelQuality(
            status=self.status,
            binding=self.binding,
            unit=self._unit(),
            rate_hz=self.rate_hz,
            amplitude=self.amplitude,
            flat_share=self.flat,
            clipped_share=self.clipped,
            nan_share=self.missing,
            notes=tuple(self.notes),
        )

    def refuse(self, reason: str) -> None:
        self.status = "refused"
        self.notes.append(reason)

    def fix(self, factor: float, reason: str) -> None:
        self.status = "fixed"
        self.binding = dataclasses.replace(self.binding, scale=self.binding.scale * factor)
        self.notes.append(reason)

    def _unit(self) -> str:
        unit = self.recording.unit(self.binding.index)
        return "uV" if self.channel.signal_type in PLAUSIBLE_UV else unit

    def examine(self) -> np.ndarray | None:
        """Check, and return the stretches looked at with the corrections applied."""
        for index in (self.binding.index, self.binding.reference):
            problem = None if index is None else self.recording.problem(index)
            if problem is not None:
                self.refuse(f"cannot be read: {problem}")
                return None
        self.rate_hz = float(self.recording.sfreq_hz(self.binding.index))
        if self.rate_hz < self.channel.lowest_rate_hz:
            self.refuse(
                f"{self.rate_hz:g} Hz is too slow for {self.channel.name}, which needs at least "
                f"{self.channel.lowest_rate_hz:g} Hz: these are numbers or an envelope, not the "
                "waveform"
            )
            return None
        try:
            pieces = _pieces(self.recording, self.binding, self.rate_hz)
        except RecordingError as error:
            self.refuse(str(error).removeprefix(f"{self.recording.path}: "))
            return None
        self.missing = float(np.isnan(pieces).mean()) if pieces.size else 1.0
        if self.missing == 1:
            self.refuse("no samples: empty, or gaps throughout")
            return None
        if self.missing > 0.01:
            self.notes.append(f"{self.missing:.0%} missing")
        if self.channel.signal_type == "number":
            return self._number(pieces)
        pieces = self._waveform(pieces)
        if self.status != "refused":
            pieces = self._kind(pieces)
        return pieces

    def _number(self, pieces: np.ndarray) -> np.ndarray:
        self.amplitude = float(np.nanmedian(pieces))
        low, high = PLAUSIBLE_NUMBER.get(self.channel.name, (-np.inf, np.inf))
        if low <= self.amplitude <= high:
            return pieces
        if self.channel.name == "spo2" and 0.4 <= self.amplitude <= 1:
            self.fix(100, "times 100: a fraction, not per cent")
            self.amplitude *= 100
            return pieces * 100
        self.refuse(
            f"its median is {self.amplitude:.4g}; {self.channel.name} lies between {low} and {high}"
        )
        return pieces

    def _waveform(self, pieces: np.ndarray) -> np.ndarray:
        """Flat, clipped, few levels, and for voltages the unit."""
        window_s = 1.0 if self.rate_hz >= 32 else 5.0
        self.flat = measures.flat_share(pieces, self.rate_hz, window_s)
        self.clipped = measures.clipped_share(pieces, self.rate_hz)
        self.amplitude = measures.amplitude(pieces, self.rate_hz, window_s)
        values = pieces[~np.isnan(pieces)]
        levels = len(np.unique(values[:: 1 + len(values) // 20_000]))
        if self.amplitude is None or self.flat > MOST_FLAT:
            self.refuse(f"flat: {self.flat:.0%} of it does not move")
        elif levels < FEWEST_LEVELS:
            self.refuse(f"only {levels} different values: no signal at this gain")
        elif self.clipped > MOST_CLIPPED:
            self.refuse(f"clipped: {self.clipped:.0%} of it lies at the end of its range")
        if self.status == "refused":
            return pieces
        if self.flat > 0.05:
            self.notes.append(f"{self.flat:.0%} flat")
        if self.clipped > NOTED_CLIPPED:
            self.notes.append(f"{self.clipped:.0%} clipped")
        if self.channel.signal_type not in PLAUSIBLE_UV:
            return pieces
        factor = self._unit_factor()
        self.amplitude *= factor
        return pieces if factor == 1 else pieces * factor

    def _unit_factor(self) -> float:
        low, high = PLAUSIBLE_UV[self.channel.signal_type]
        seen = self.amplitude
        declared = self.recording.declared_unit(self.binding.index)
        in_volts = self.recording.unit(self.binding.index) == "uV"
        said = f"declared in {declared!r}" if declared else "without a unit"
        if low <= seen <= high:
            if not in_volts:
                self.notes.append(f"{said}; its amplitude fits uV, so taken as that")
            return 1.0
        # Just outside the range, a poor electrode is likelier than a wrong unit.
        near = in_volts and low / 10 <= seen <= high * 10
        for factor in () if near else (1e-3, 1e3, 1e-6, 1e6):
            if low <= seen * factor <= high:
                self.fix(
                    factor,
                    f"times {factor:g}: {said}, and {seen:.3g} uV a second is no "
                    f"{self.channel.signal_type.upper()} ({low} to {high} uV)",
                )
                return factor
        too = "small" if seen < low else "large"
        message = f"{seen:.3g} uV a second is {too} for {self.channel.signal_type.upper()}"
        if seen > 100 * high or seen < low / 100:
            self.refuse(f"{message}, and no unit explains it")
        else:
            self.notes.append(message)
        return 1.0

    def _kind(self, pieces: np.ndarray) -> np.ndarray:
        """Does it look like what its label says; which way do R peaks point."""
        kind = self.channel.signal_type
        if kind in ("eeg", "eog", "emg"):
            beat = measures.beat_score(pieces, self.rate_hz)
            if beat >= ECG_LIKE_BEAT and self.amplitude >= ECG_LIKE_UV:
                _, kurtosis = measures.peakedness(pieces, self.rate_hz)
                if kurtosis >= ECG_LIKE_KURTOSIS:
                    self.refuse(
                        f"looks like an ECG: regular sharp beats (rhythm {beat:.2f}) of "
                        f"{self.amplitude:.0f} uV; its label may be wrong"
                    )
            elif beat >= ECG_LIKE_BEAT:
                self.notes.append(f"heart beats are visible in it (rhythm {beat:.2f})")
        elif kind == "ecg":
            return self._heart(pieces)
        elif kind == "resp" and measures.breath_share(pieces, self.rate_hz) < NO_BREATH:
            self.notes.append("no breathing rhythm is visible in it")
        return pieces

    def _heart(self, pieces: np.ndarray) -> np.ndarray:
        upward, kurtosis = measures.peakedness(pieces, self.rate_hz)
        beat = measures.beat_score(pieces, self.rate_hz)
        if beat < NO_BEAT and kurtosis < 3:
            self.notes.append("no heart beat is visible in it")
        if upward < INVERTED_BELOW and kurtosis > 1:
            if normalise(self.binding.label) in _DOWNWARD_LEADS:
                self.notes.append("peaks point down, as they do in this lead")
            else:
                self.fix(-1, f"turned over: R peaks point down, {2**-upward:.1f} times as high")
                return -pieces
        return pieces


def _pieces(recording: Recording, binding: Binding, rate_hz: float) -> np.ndarray:
    """Stretches spread over the recording, ``[N, T]``; a short one ends in NaN."""
    duration_s = recording.duration_s
    count = int(min(MAX_PIECES, max(1, duration_s // PIECE_S)))
    length_s = min(PIECE_S, duration_s)
    size = max(1, int(length_s * rate_hz))
    starts = np.linspace(0, duration_s - length_s, count)
    pieces = np.full((count, size), np.nan)
    for row, start_s in zip(pieces, starts):
        signal, _ = read_channel(recording, binding, float(start_s), float(start_s) + length_s)
        row[: len(signal)] = signal[:size]
    # Infinite readings are missing ones.
    pieces[~np.isfinite(pieces)] = np.nan
    return pieces
