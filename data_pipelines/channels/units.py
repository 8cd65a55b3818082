"""Units of voltages, judged for the channels of a recording together.

A header with a wrong unit is wrong for all channels that declare it; an electrode without contact
is wrong alone. So a channel that reads 1,000 times too large is set right where its siblings (the
EEG and EOG, the EMG, or the ECG channels that declare the same unit) need the same factor, and is
refused where they read plausibly as declared. The hum of the mains tells of a channel that has no
siblings: an electrode in the air is an antenna.
"""

import dataclasses

# Median standard deviation of one second, in uV, that a worn electrode gives. Each range spans less
# than a factor of 1000, so that at most one power of 1000 can bring a reading into it.
PLAUSIBLE_UV = {"eeg": (1, 700), "eog": (1, 700), "emg": (0.2, 150), "ecg": (10, 5_000)}
FACTORS = (1e-3, 1e3, 1e-6, 1e6)

# Shares of the power above 1 Hz that lie at the mains frequency and its multiples. Electrodes of
# clinical recordings without a shielded room were met with up to 0.986, and read well once the line
# is notched out; in the air they give more. NOTED is half of the power, and what a channel of
# another size than its kind's must stay below to be taken for a wrong unit.
NOTED_HUM, LARGE_HUM, NO_CONTACT_HUM = 0.5, 0.9, 0.99

_TOGETHER = {"eeg": "head", "eog": "head", "emg": "emg", "ecg": "ecg"}


@dataclasses.dataclass(frozen=True)
class Reading:
    """What is known of a channel before its unit is judged.

    Attributes:
        name: Its canonical name.
        signal_type: ``eeg``, ``eog``, ``emg`` or ``ecg``.
        declared: Its unit as the file spells it.
        in_volts: Whether that is a known unit of voltage, so that ``amplitude`` should be in uV.
        amplitude: Median over seconds of the standard deviation, as read.
        hum: Share of its power that is hum of the mains, where that can be seen.
        line_hz: Of which frequency.
    """

    name: str
    signal_type: str
    declared: str
    in_volts: bool
    amplitude: float
    hum: float = 0.0
    line_hz: int = 50

    @property
    def factor(self) -> float | None:
        """What brings it to a plausible amplitude; None where no power of 1000 does."""
        low, high = PLAUSIBLE_UV[self.signal_type]
        if low <= self.amplitude <= high:
            return 1.0
        # Just outside the range, a poor electrode is likelier than a wrong unit.
        if self.in_volts and low / 10 <= self.amplitude <= high * 10:
            return 1.0
        return next((x for x in FACTORS if low <= self.amplitude * x <= high), None)

    @property
    def said(self) -> str:
        """Its unit in words."""
        return f"declared in {self.declared!r}" if self.declared else "without a unit"

    @property
    def size(self) -> str:
        """Its amplitude in words."""
        digits = ",.0f" if 1000 <= self.amplitude < 1e9 else ".3g"
        return f"{self.amplitude:{digits}} uV a second"


def no_contact(reading: Reading, others: list[Reading]) -> str | None:
    """Why a channel is an electrode without contact; None where it is none.

    Args:
        reading: The channel.
        others: The channels of the recording that were read; itself may be among them.
    """
    _, high = PLAUSIBLE_UV[reading.signal_type]
    large = reading.amplitude > high
    hum = f"{reading.hum:.0%} of its power is {reading.line_hz} Hz hum"
    if reading.hum >= (LARGE_HUM if large and reading.in_volts else NO_CONTACT_HUM):
        return f"no contact: {reading.size}, and {hum}"
    factor = reading.factor
    if factor is None:
        return None
    if factor != 1 and reading.hum >= NOTED_HUM:
        return f"no contact: {reading.size}, no {_kind(reading)}, and {hum}"
    siblings = [
        other
        for other in others
        if other.name != reading.name
        and _TOGETHER[other.signal_type] == _TOGETHER[reading.signal_type]
        and other.declared.casefold() == reading.declared.casefold()
        and other.hum < NOTED_HUM
        and other.factor is not None
    ]
    fitting = [other for other in siblings if other.factor == 1]
    agreeing = [other for other in siblings if other.factor == factor]
    if factor != 1 and fitting:
        of_its_kind = [other for other in siblings if other.signal_type == reading.signal_type]
        if of_its_kind and all(other.factor == factor for other in of_its_kind):
            return None  # all eyes, or all of the EEG: a gain of their own that is declared wrong
        if factor > 1 and len(agreeing) >= len(fitting):
            return None
        return (
            f"no contact: {reading.size} is no {_kind(reading)}, while {fitting[0].name}, "
            f"{fitting[0].said} too, reads {fitting[0].size}"
        )
    if factor == 1 and reading.hum >= NOTED_HUM and not fitting:
        wrong = [other for other in siblings if other.factor > 1]
        if len(wrong) > 1:
            return (
                f"no contact: {hum}, and {reading.size} fits {reading.declared} only as declared; "
                f"{wrong[0].name} and {wrong[1].name} show that the unit is wrong by "
                f"{wrong[0].factor:g}"
            )
    return None


def _kind(reading: Reading) -> str:
    return reading.signal_type.upper()
