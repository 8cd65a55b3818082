"""Units of voltages, judged for the channels of a recording together.

A header with a wrong unit is wrong for all channels that declare it; an electrode without contact
is wrong alone. So a channel that reads 1,000 times too large is set right where its siblings (the
EEG and EOG, the EMG, or the ECG channels that declare the same unit) need the same factor, and is
refused where they read plausibly as declared. The hum of the mains tells of a channel that has no
siblings: an electrode in the air is an antenna.
"""

import dataclasses
import math
import statistics

from data_pipelines.recordings.base import MICROVOLTS_PER

# Median standard deviation of one second, in uV, that a worn electrode gives. Each range spans less
# than a factor of 1000, so that at most one power of 1000 can bring a reading into it.
PLAUSIBLE_UV = {"eeg": (1, 700), "eog": (1, 700), "emg": (0.2, 150), "ecg": (10, 5_000)}
FACTORS = (1e-3, 1e3, 1e-6, 1e6)

# Shares of the power above 1 Hz that lie at the mains frequency and its multiples. Electrodes of
# clinical recordings without a shielded room were met with up to 0.986, and read well once the line
# is notched out; in the air they give more. NOTED is half of the power, and what a channel of
# another size than its kind's must stay below to be taken for one in another unit.
NOTED_HUM, LARGE_HUM, NO_CONTACT_HUM = 0.5, 0.9, 0.99

# An electrode of the head that gives more than this, and so many times what the others give.
LARGE_UV, MOST_TIMES = 300, 20

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
    def unit(self) -> float | str:
        """Its unit to compare with that of others, whatever its spelling."""
        spelt = self.declared.casefold().replace("μ", "µ")
        return MICROVOLTS_PER.get(spelt, spelt)

    @property
    def said(self) -> str:
        """Its unit in words."""
        return f"declared in {self.declared!r}" if self.declared else "without a unit"

    @property
    def size(self) -> str:
        """Its amplitude in words."""
        digits = ",.0f" if 1000 <= self.amplitude < 1e9 else ".3g"
        return f"{self.amplitude:{digits}} uV a second"


def common_unit(size: float, other: float) -> float | None:
    """The factor that makes a second electrode read about as large as the first.

    Electrodes of one recorder differ by less than 100, so only more than that is a matter of units.
    """
    ratio = size / other
    if 1e-2 <= ratio <= 1e2:
        return 1.0
    return next((factor for factor in FACTORS if 1 / 30 <= ratio / factor <= 30), None)


def no_contact(reading: Reading, others: list[Reading]) -> str | None:
    """Why a channel is an electrode without contact; None where it is none.

    Args:
        reading: The channel.
        others: The channels of the recording that were read; itself may be among them.
    """
    hum = f"{reading.hum:.0%} of its power is {reading.line_hz} Hz hum"
    _, high = PLAUSIBLE_UV[reading.signal_type]
    factor = reading.factor
    large = factor == 1 and reading.amplitude > high and reading.in_volts
    if reading.hum >= (LARGE_HUM if large else NO_CONTACT_HUM):
        return f"no contact: {reading.size}, and {hum}"
    if factor is None:
        return None
    siblings = [
        other
        for other in others
        if other.name != reading.name
        and _TOGETHER[other.signal_type] == _TOGETHER[reading.signal_type]
        and other.unit == reading.unit
        and other.factor is not None
    ]
    agreeing = [other for other in siblings if other.factor == factor]
    # Hum of a loose electrode may look plausible in a unit in which the others are too small.
    most = NO_CONTACT_HUM if factor < 1 else NOTED_HUM
    telling = [other for other in siblings if other.hum < most]
    if factor == 1:
        return _lost_though_plausible(reading, telling, hum) or _out_of_proportion(reading, telling)
    size = f"no contact: {reading.size} is no {reading.signal_type.upper()}"
    nearer = [x for x in telling if _distance(x.factor) < _distance(factor)]
    if reading.hum >= NOTED_HUM and (nearer or not agreeing):
        return f"{size}, and {hum}"
    fitting = [other for other in nearer if other.factor == 1]
    if not nearer or _is_gain_of_its_kind(reading, telling):
        return None
    if fitting and factor > 1 and len(agreeing) >= len(fitting):
        return None  # too small for a wrong unit to be an accident: a loose one may look plausible
    sibling = (fitting or nearer)[0]
    return (
        f"{size} in a unit in which {sibling.name}, {sibling.said} too, reads "
        f"{sibling.amplitude * sibling.factor:.3g} uV"
    )


def _lost_though_plausible(reading: Reading, telling: list[Reading], hum: str) -> str | None:
    """A loose electrode that fits uV by accident, where the unit is wrong for all others."""
    wrong = {other.factor for other in telling}
    if reading.hum < NOTED_HUM or len(telling) < 2 or len(wrong) != 1 or wrong == {1.0}:
        return None
    return (
        f"no contact: {hum}, and {telling[0].name} and {telling[1].name}, {reading.said} too, show "
        f"that the unit is wrong by {wrong.pop():g}"
    )


def _out_of_proportion(reading: Reading, telling: list[Reading]) -> str | None:
    """Noise or drift of a loose electrode of the head, many times as large as the others are."""
    sizes = [other.amplitude for other in telling if other.factor == 1]
    if _TOGETHER[reading.signal_type] != "head" or len(sizes) < 2:
        return None
    usual = statistics.median(sizes)
    if reading.amplitude <= max(LARGE_UV, MOST_TIMES * usual):
        return None
    return (
        f"no contact: {reading.size}, and the other electrodes of the head, {reading.said} too, "
        f"give {usual:.3g} uV"
    )


def _is_gain_of_its_kind(reading: Reading, telling: list[Reading]) -> bool:
    """Whether all eyes, or all of the EEG, need one factor: a gain that is declared wrong."""
    same = [other for other in telling if other.signal_type == reading.signal_type]
    return bool(same) and all(other.factor == reading.factor for other in same)


def _distance(factor: float) -> float:
    return abs(math.log10(factor))
