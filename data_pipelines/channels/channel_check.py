"""The check of one channel: amplitude, dropouts, unit, polarity, and whether it is what it says."""

import dataclasses

import numpy as np

from data_pipelines.channels import measures as measures
from data_pipelines.channels.labels import normalise
from data_pipelines.channels.resolve import Binding
from data_pipelines.channels.table import CHANNELS
from data_pipelines.channels.units import NOTED_HUM, PLAUSIBLE_UV, Reading, common_unit, no_contact
from data_pipelines.findings import Finding
from data_pipelines.recordings.base import Recording, RecordingError
from data_pipelines.recordings.opening import read_channel

PIECE_S = 20
MAX_PIECES = 24  # so that a night is checked on 8 minutes

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


class ChannelCheck:
    """The examination of one channel: measured alone, then judged with the others.

    Attributes:
        channel: The canonical channel.
        binding: How to read it, with the corrections found so far.
        status, notes: As :class:`ChannelQuality` has them.
        doubted: Why the signal is not what the header says; empty where that is not in doubt.
        hum_db: Height of the mains lines, by frequency.
    """

    def __init__(self, recording: Recording, name: str, binding: Binding):
        self.recording = recording
        self.channel = CHANNELS[name]
        self.binding = binding
        self.rate_hz = 0.0
        self.status = "ok"
        self.notes = list(binding.notes)
        self.repairs: list[str] = []
        self.doubted = ""
        self.pieces: np.ndarray | None = None
        self.reading: Reading | None = None
        self.hum_db: dict[int, float] = {}
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

    def findings(self) -> list[Finding]:
        """What a user should look at of a channel that is used."""
        name, binding, found = self.channel.name, self.binding, []
        source = binding.label
        if binding.reference_label is not None:
            source += f" - {binding.reference_label}"
        if binding.inferred:
            why = "; ".join([*([binding.how] if "taken as" in binding.how else []), *binding.notes])
            found.append(Finding("inferred_channel", f"{name} from {source}", f"{name}: {why}"))
        if self.repairs:
            why = "; ".join(self.repairs)
            found.append(Finding("repaired_unit", name, f"{name} from {source}: {why}"))
        return found

    def refusal(self) -> Finding:
        """What a user should look at of a channel that is not what its label says."""
        name = self.channel.name
        note = f"{name} from {self.binding.label} refused: {self.doubted}"
        return Finding("refused_channel", name, note)

    def refuse(self, reason: str) -> None:
        self.status = "refused"
        self.notes.append(reason)

    def doubt(self, reason: str) -> None:
        """Refuse a signal that is there but is not what the header says."""
        self.doubted = reason
        self.refuse(reason)

    def fix(self, factor: float, reason: str) -> None:
        self.status = "fixed"
        self.binding = dataclasses.replace(self.binding, scale=self.binding.scale * factor)
        self.repairs.append(reason)
        self.notes.append(reason)

    def _unit(self) -> str:
        unit = self.recording.unit(self.binding.index)
        return "uV" if self.channel.signal_type in PLAUSIBLE_UV else unit

    def measure(self) -> Reading | None:
        """Read the stretches and what of them needs no other channel.

        Returns:
            The reading of a voltage that its siblings can be judged by; None of anything else.
        """
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
            self._reconcile()
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
        self.pieces = pieces
        if self.channel.signal_type == "number":
            return None
        self._movement(pieces)
        if self.status == "refused" or self.channel.signal_type not in PLAUSIBLE_UV:
            return None
        share, line_hz = 0.0, 50
        spectrum = measures.spectrum(pieces, self.rate_hz)
        if spectrum is not None:
            self.hum_db = measures.line_hum_db(*spectrum)
            share, line_hz = measures.hum_share(*spectrum)
        self.reading = Reading(
            name=self.channel.name,
            signal_type=self.channel.signal_type,
            declared=self.recording.declared_unit(self.binding.index),
            in_volts=self.recording.unit(self.binding.index) == "uV",
            amplitude=self.amplitude,
            hum=share,
            line_hz=line_hz,
        )
        return self.reading

    def judge(self, readings: list[Reading]) -> np.ndarray | None:
        """Finish the check; returns the stretches looked at with the corrections applied."""
        if self.status == "refused" or self.pieces is None:
            return self.pieces
        if self.channel.signal_type == "number":
            return self._number(self.pieces)
        pieces = self.pieces
        if self.reading is not None:
            factor = self._unit_factor(readings)
            self.amplitude *= factor
            pieces = pieces if factor == 1 else pieces * factor
        if self.status != "refused":
            pieces = self._kind(pieces)
        return pieces

    def _reconcile(self) -> None:
        """Bring a reference to the electrode's unit where the file does not say both units.

        Two electrodes of one recorder read alike before one is subtracted from the other, so the
        power of 1000 that makes them alike is the one between their units.

        Raises:
            RecordingError: No power of 1000 does, or one of them is no voltage.
        """
        binding = self.binding
        if binding.reference is None:
            return
        declared = [self.recording.declared_unit(x) for x in (binding.index, binding.reference)]
        if declared[0].casefold() == declared[1].casefold():
            return
        units = [self.recording.unit(x) for x in (binding.index, binding.reference)]
        if any(unit and "v" not in unit.casefold() for unit in units):
            return  # a saturation is no electrode: reading the channel will refuse it
        sizes, hums = [], []
        for index in (binding.index, binding.reference):
            bare = dataclasses.replace(binding, index=index, reference=None, scale=1.0)
            rate_hz = float(self.recording.sfreq_hz(index))
            pieces = _pieces(self.recording, bare, rate_hz)
            sizes.append(measures.amplitude(pieces, rate_hz))
            spectrum = measures.spectrum(pieces, rate_hz)
            hums.append(0.0 if spectrum is None else measures.hum_share(*spectrum)[0])
        label, reference = binding.label, binding.reference_label
        factor = common_unit(*sizes) if all(sizes) else None
        if factor != 1 and max(hums) >= NOTED_HUM:
            factor = None  # one of them hangs in the air: its size says nothing about its unit
        said = [f"{unit!r}" if unit else "no unit" for unit in declared]
        if factor is None and units[0] == units[1]:
            return
        if factor is None:
            raise RecordingError(
                f"{label!r} is in {said[0]} and its reference {reference!r} in {said[1]}, and "
                "their amplitudes fit no unit that both could have"
            )
        if units[0] == units[1] and factor == 1:
            return
        reason = (
            f"{label!r} is in {said[0]} and its reference {reference!r} in {said[1]}: subtracted "
            + ("as if both were in one unit" if factor == 1 else f"after times {factor:g}")
            + ", as their amplitudes say"
        )
        self.binding = dataclasses.replace(
            binding,
            reference_scale=factor,
            notes=(*binding.notes, reason),
            inferred=True,
        )
        self.notes.append(reason)

    def _number(self, pieces: np.ndarray) -> np.ndarray:
        self.amplitude = float(np.nanmedian(pieces))
        low, high = PLAUSIBLE_NUMBER.get(self.channel.name, (-np.inf, np.inf))
        if low <= self.amplitude <= high:
            return pieces
        if self.channel.name == "spo2" and 0.4 <= self.amplitude <= 1:
            self.fix(100, "times 100: a fraction, not per cent")
            self.amplitude *= 100
            return pieces * 100
        self.doubt(
            f"its median is {self.amplitude:.4g}; {self.channel.name} lies between {low} and {high}"
        )
        return pieces

    def _movement(self, pieces: np.ndarray) -> None:
        """Flat, clipped, few levels."""
        window_s = 1.0 if self.rate_hz >= 32 else 5.0
        self.flat = measures.flat_share(pieces, self.rate_hz, window_s)
        self.clipped = measures.clipped_share(pieces, self.rate_hz)
        self.amplitude = measures.amplitude(pieces, self.rate_hz, window_s)
        values = pieces[~np.isnan(pieces)]
        levels = len(np.unique(values[:: 1 + len(values) // 20_000]))
        if self.flat > MOST_FLAT:
            self.refuse(f"flat: {self.flat:.0%} of it does not move")
        elif self.amplitude is None:
            self.refuse(f"no {window_s:g} s of it are without a gap")
        elif levels < FEWEST_LEVELS:
            self.refuse(f"only {levels} different values: no signal at this gain")
        elif self.clipped > MOST_CLIPPED:
            self.refuse(f"clipped: {self.clipped:.0%} of it lies at the end of its range")
        if self.status == "refused":
            return
        if self.flat > 0.05:
            self.notes.append(f"{self.flat:.0%} flat")
        if self.clipped > NOTED_CLIPPED:
            self.notes.append(f"{self.clipped:.0%} clipped")

    def _unit_factor(self, readings: list[Reading]) -> float:
        """What the samples are multiplied by to be in uV; notes or refuses what is odd."""
        reading = self.reading
        low, high = PLAUSIBLE_UV[reading.signal_type]
        lost = no_contact(reading, readings)
        if lost is not None:
            self.doubt(lost)
            return 1.0
        if reading.hum >= NOTED_HUM:
            self.notes.append(f"{reading.hum:.0%} of its power is {reading.line_hz} Hz hum")
        seen, factor = reading.amplitude, reading.factor
        if factor not in (None, 1.0):
            self.fix(
                factor,
                f"times {factor:g}: {reading.said}, and {reading.size} is no "
                f"{reading.signal_type.upper()} ({low} to {high} uV)",
            )
            return factor
        if low <= seen <= high:
            if not reading.in_volts:
                self.notes.append(f"{reading.said}; its amplitude fits uV, so taken as that")
            return 1.0
        too = "small" if seen < low else "large"
        message = f"{reading.size} is {too} for {reading.signal_type.upper()}"
        if seen > 100 * high or seen < low / 100:
            self.doubt(f"{message}, and no unit explains it")
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
                    self.doubt(
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
