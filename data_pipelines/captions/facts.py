"""What captions may say of an epoch of 30 s: numbers, events, trends, position and stage.

Numbers have names, ``SLOTS``; one that a gate took (too little signal, too few beats) is not there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from data_pipelines.channels import table

EPOCH_S = 30.0
# The five captions of an epoch, in the order of the official conditions.
MODALITIES = ("brain", "heart", "respiratory", "position_muscle", "stage_event")
STAGES = ("W", "N1", "N2", "N3", "R")
POSITIONS = table.POSITIONS  # by the official codes, 0 to 4
TREND_STEP_S = 0.9375  # bounds of trends are multiples of 30 s / 32
# Word of an event in captions -> kinds of ``scoring.Event`` that it stands for.
EVENTS: dict[str, tuple[str, ...]] = {
    "Arousal": ("arousal",),
    "Obstructive Apnea": ("apnea_obstructive",),
    "Central Apnea": ("apnea_central",),
    "Mixed Apnea": ("apnea_mixed",),
    "Hypopnea": ("hypopnea",),
    "Apnea or Hypopnea": ("apnea_hypopnea",),
    "Oxygen Desaturation": ("desaturation",),
    "RERA": ("rera",),
    "Leg Movement": ("leg_movement",),
    "Periodic Leg Movement": ("periodic_leg_movement",),
    "Snore": ("snore",),
}


@dataclasses.dataclass(frozen=True)
class Slot:
    """A number of an epoch.

    Attributes:
        modality: whose caption says it; one of ``MODALITIES``.
        channel: what it is measured on: a row of the recipe ``sleeplm``.
        unit: "%", "bpm", "ms", "s", "Hz" or "" (a ratio).
        decimals: that are printed.
        printed: False for what is stored alone.
    """

    modality: str
    channel: str
    unit: str
    decimals: int = 2
    printed: bool = True


SLOTS: dict[str, Slot] = {
    **{
        f"{eye}.{name}": Slot("brain", eye, "%")
        for eye in ("eog_e1", "eog_e2")
        for name in ("slow", "saccadic")
    },
    **{
        f"{channel}.{band}": Slot("brain", channel, "%", printed=band != "sigma")
        for channel in ("eeg_c3", "eeg_c4")
        for band in ("delta", "theta", "alpha", "sigma", "beta")
    },
    "ecg.rate": Slot("heart", "ecg", "bpm", 1),
    "ecg.rmssd": Slot("heart", "ecg", "ms"),
    **{f"heart_rate.{name}": Slot("heart", "heart_rate", "bpm") for name in ("min", "max", "mean")},
    **{f"spo2.{name}": Slot("heart", "spo2", "%") for name in ("min", "mean")},
    **{
        f"{belt}.{name}": Slot("respiratory", belt, unit)
        for belt in ("resp_abd", "resp_thx")
        for name, unit in (("rate", "bpm"), ("variability", "s"))
    },
    "airflow.rate": Slot("respiratory", "airflow", "bpm"),
    "airflow.flatness": Slot("respiratory", "airflow", ""),
    "emg_chin.median_frequency": Slot("position_muscle", "emg_chin", "Hz"),
    "emg_chin.burst_ratio": Slot("position_muscle", "emg_chin", ""),
    "emg_chin.burst_rate": Slot("position_muscle", "emg_chin", "Hz"),
    # Stored, and printed by no caption of today.
    "eog.saccades": Slot("brain", "eog_e1", "", 0, printed=False),
    "eog.correlation": Slot("brain", "eog_e1", "", printed=False),
    "resp_abd.amplitude_ratio": Slot("respiratory", "resp_abd", "", printed=False),
    "resp_thx.amplitude_ratio": Slot("respiratory", "resp_thx", "", printed=False),
    "airflow.amplitude_ratio": Slot("respiratory", "airflow", "", printed=False),
    "resp.phase": Slot("respiratory", "resp_thx", "deg", printed=False),
    # Of ``micro_events``, where asked for. New slots stand last: files name them by their place.
    **{
        f"{channel}.{name}": Slot("brain", channel, unit, decimals, printed=False)
        for channel in ("eeg_c3", "eeg_c4")
        for name, unit, decimals in (
            ("spindles", "", 0),
            ("spindle_s", "s", 2),
            ("slow_waves", "", 0),
            ("slow_wave_s", "s", 2),
        )
    },
}
TRACKS = ("heart_rate", "spo2")  # which have trends
DIRECTIONS = ("increasing", "decreasing", "stable")


@dataclasses.dataclass(frozen=True, order=True)
class Interval:
    """A part of an epoch: an event or a trend.

    Attributes:
        start_s, stop_s: seconds of the epoch, 0 <= start < stop <= 30.
        kind: a key of ``EVENTS``, or one of ``DIRECTIONS``.
        before, after: the event began before the epoch, or goes on after it.
    """

    start_s: float
    stop_s: float
    kind: str
    before: bool = False
    after: bool = False


@dataclasses.dataclass(frozen=True)
class PositionChange:
    """A change of the body's position, ``at_s`` seconds into the epoch, to one of ``POSITIONS``."""

    at_s: float
    position: str


@dataclasses.dataclass(frozen=True)
class Facts:
    """All that is known of an epoch, or all that a caption says of it.

    Attributes:
        numbers: name in ``SLOTS`` -> value.
        trends: name in ``TRACKS`` -> intervals of ``DIRECTIONS``, by time; a track without is left
            out.
        position: where the epoch begins, one of ``POSITIONS``; None where unknown.
        position_changes: by time.
        stage: one of ``STAGES``; None where unknown.
        events: intervals of ``EVENTS``, by start. None where nobody looked, or nothing is said:
            an empty tuple is the statement that there is none.
    """

    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    trends: Mapping[str, tuple[Interval, ...]] = dataclasses.field(default_factory=dict)
    position: str | None = None
    position_changes: tuple[PositionChange, ...] = ()
    stage: str | None = None
    events: tuple[Interval, ...] | None = None

    def of(self, modality: str) -> Facts:
        """Return the facts that the caption of one modality may say."""
        chosen = {
            name: value for name, value in self.numbers.items() if SLOTS[name].modality == modality
        }
        if modality == "heart":
            return Facts(chosen, self.trends)
        if modality == "position_muscle":
            return Facts(chosen, {}, self.position, self.position_changes)
        if modality == "stage_event":
            return Facts(chosen, {}, None, (), self.stage, self.events)
        return Facts(chosen)

    def printed(self) -> Facts:
        """Return the facts as captions print them: rounded, without what none prints.

        Times have one decimal. Whether an event began before the epoch or goes on is kept.
        """
        numbers = {
            name: round(float(value), SLOTS[name].decimals)
            for name, value in self.numbers.items()
            if SLOTS[name].printed
        }
        trends = {name: tuple(map(_rounded, track)) for name, track in self.trends.items() if track}
        changes = tuple(
            PositionChange(round(change.at_s, 1), change.position)
            for change in self.position_changes
        )
        events = None if self.events is None else tuple(map(_rounded, self.events))
        return Facts(numbers, trends, self.position, changes, self.stage, events)


def _rounded(interval: Interval) -> Interval:
    return dataclasses.replace(
        interval, start_s=round(interval.start_s, 1), stop_s=round(interval.stop_s, 1)
    )
