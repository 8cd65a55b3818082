"""Quality control of each channel before anything is computed from it: fixed, refused, or ok.

A model answers with the same confidence on a channel whose unit is wrong by 1000, on a flat one and
on an ECG labelled as EEG. :func:`check_quality` looks at short stretches spread over the recording
and says of every bound channel ``ok``, ``fixed`` (unit or polarity, and how) or ``refused`` (and
why).
Units are judged for the channels of a recording together (:mod:`.units`). The thresholds are ours,
set on the public recordings named in the tests.
"""

import dataclasses

import numpy as np

from data_pipelines.channels.channel_check import ChannelCheck, ChannelQuality
from data_pipelines.channels.resolve import Resolution
from data_pipelines.channels.table import CHANNELS
from data_pipelines.channels.units import PLAUSIBLE_UV
from data_pipelines.findings import Finding
from data_pipelines.recordings.base import Recording

HUM_DB, HUM_LEAD_DB = 6.0, 3.0


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
    firsts = {
        name: ChannelCheck(recording, name, binding)
        for name, binding in resolution.bindings.items()
    }
    readings = [x for check in firsts.values() if (x := check.measure()) is not None]
    qualities: dict[str, ChannelQuality] = {}
    findings = [*recording.findings, *resolution.findings]
    seen: dict[str, np.ndarray] = {}
    hums: list[dict[int, float]] = []
    for name, first in firsts.items():
        check = first
        for binding in (None, *resolution.alternatives.get(name, ())):
            if binding is not None:
                check = ChannelCheck(recording, name, binding)
                check.measure()
            pieces = check.judge(readings)
            twin = None if check.status == "refused" else _twin(name, pieces, seen)
            if twin is not None:
                check.doubt(f"sample for sample the same as {twin}: one of the labels is wrong")
            if check.status != "refused":
                break
            qualities.setdefault(name, check.quality())
        if first.doubted:
            findings.append(first.refusal())
        if check.status == "refused":
            if check.doubted and check.hum_db:
                hums.append(check.hum_db)
            continue
        if name in qualities:
            why = qualities[name].notes[-1]
            check.notes.append(f"taken because {first.binding.label!r} was refused ({why})")
        qualities[name] = check.quality()
        findings += check.findings()
        seen[name] = pieces
        if CHANNELS[name].signal_type in PLAUSIBLE_UV:
            hums.append(check.hum_db)
    mains_hz, notes = _mains(mains_hz, hums)
    return RecordingQuality(qualities, mains_hz, (*recording.notes, *notes), tuple(findings))


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
