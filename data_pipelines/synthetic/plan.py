"""The plan of a night: stages, breathing events, arousals, leg movements, positions.

The plan is made before any signal; every signal is made from the same plan, which is why an apnea
shows in the belts, the flow, the saturation, the pulse and the EEG of one night.

Definitions are those of the AASM manual (apnea and hypopnea of at least 10 s, arousal of 3-15 s,
leg movement of 0.5-10 s with 5-90 s between those of a series); rates come from the subject, all
other numbers are ours.
"""

import dataclasses

import numpy as np

from data_pipelines.scoring import Event
from data_pipelines.synthetic.stages import EPOCH_S, R, W

# Ours: relative rate of breathing events and arousals in W N1 N2 N3 R.
BREATHING_RATE = np.array([0.0, 1.4, 1.0, 0.25, 1.5])
AROUSAL_RATE = np.array([0.0, 1.8, 1.0, 0.35, 0.9])
LEG_RATE = np.array([0.3, 1.3, 1.2, 0.5, 0.2])
SUPINE_FACTOR = 1.6  # ours; apneas are more frequent on the back

BREATHING_KINDS = ("apnea_obstructive", "apnea_central", "apnea_mixed", "hypopnea")


@dataclasses.dataclass(frozen=True)
class Plan:
    """The course of one night.

    Attributes:
        stages: int8 ``[E]``; what the body does, without unscored epochs.
        scored: int8 ``[E]``; what the scoring will say, with -1 where nobody scored.
        events: Scored events by onset; hypopneas stand in it before it is known whether they
            desaturate.
        depths: Reduction of breathing per breathing event of ``events``, 0..1, in their order.
        body_movements: Onsets in s of movements of the whole body.
        events_given: The breathing events, arousals and leg movements are somebody's scoring.
    """

    stages: np.ndarray
    scored: np.ndarray
    events: list[Event]
    depths: np.ndarray
    body_movements: np.ndarray
    events_given: bool

    @property
    def duration_s(self) -> int:
        return len(self.stages) * EPOCH_S

    def of(self, *kinds: str) -> list[Event]:
        """The events of these kinds."""
        return [event for event in self.events if event.kind in kinds]


def make_plan(rng: np.random.Generator, stages, subject, *, scored=None, events=None) -> Plan:
    """Place events in a sequence of stages.

    Args:
        rng: Source of randomness.
        stages: int8 ``[E]`` without -1.
        subject: Whose indices of events are used.
        scored: What the scoring says where that differs from ``stages``.
        events: Somebody's events to use in place of simulated ones; positions are kept, too.
    """
    duration = len(stages) * EPOCH_S
    given = events is not None
    positions = [e for e in events or () if e.kind == "position"]
    positions = positions or _positions(rng, duration)
    breathing = (
        [e for e in events if e.kind in BREATHING_KINDS]
        if given
        else _breathing(rng, stages, subject, positions)
    )
    breathing = [e for e in breathing if e.onset_s >= 0 and e.onset_s + e.duration_s < duration]
    depths = np.array(
        [
            rng.uniform(0.45, 0.8) if e.kind == "hypopnea" else rng.uniform(0.93, 1)
            for e in breathing
        ]
    )
    if given:
        legs = [e for e in events if e.kind == "leg_movement"]
        arousals = [e for e in events if e.kind == "arousal"]
    else:
        legs = _leg_movements(rng, stages, subject)
        arousals = _arousals(rng, stages, subject, breathing, legs)
    moved = [e.onset_s for e in positions[1:]]
    awake = np.flatnonzero(np.asarray(stages) == W) * EPOCH_S
    awake = awake[rng.random(len(awake)) < 0.25]
    moved = np.sort(np.concatenate([moved, awake + rng.uniform(0, EPOCH_S, len(awake))]))
    lights = (
        [] if given else [Event("lights_off", 0.0, 0.0), Event("lights_on", duration - 1.0, 0.0)]
    )
    everything = [*breathing, *legs, *arousals, *positions, *lights]
    order = sorted(range(len(everything)), key=lambda i: (everything[i].onset_s, i))
    breathing_order = np.argsort([e.onset_s for e in breathing], kind="stable").astype(int)
    return Plan(
        stages=np.asarray(stages, np.int8),
        scored=np.asarray(stages if scored is None else scored, np.int8),
        events=[everything[i] for i in order],
        depths=depths[breathing_order],
        body_movements=moved,
        events_given=given,
    )


def _positions(rng, duration):
    times, now = [0.0], 0.0
    while True:
        now += rng.exponential(min(2400.0, duration / 3)) + 60
        if now > duration - 60:
            break
        times.append(round(now, 1))
    names, last = [], None
    for _ in times:
        choices = [n for n in ("supine", "left", "right", "prone") if n != last]
        shares = np.array([{"supine": 4, "left": 3, "right": 3, "prone": 1}[n] for n in choices])
        last = choices[int(np.searchsorted(np.cumsum(shares / shares.sum()), rng.random()))]
        names.append(last)
    ends = [*times[1:], float(duration)]
    return [
        Event("position", at, round(end - at, 1), name)
        for at, end, name in zip(times, ends, names, strict=True)
    ]


def _rate_per_s(stages, table, index):
    """Events per second and epoch such that sleep has ``index`` per hour on average."""
    rate = table[stages]
    asleep = np.asarray(stages) != W
    mean = rate[asleep].mean() if asleep.any() else 1.0
    return rate * index / 3600 / max(mean, 1e-9)


def _breathing(rng, stages, subject, positions):
    # A quarter more, for those that fall into wake or upon one another and are left out.
    rate = 1.25 * _rate_per_s(stages, BREATHING_RATE, subject.ahi)
    supine = np.zeros(len(stages), bool)
    for event in positions:
        if event.value == "supine":
            first = int(event.onset_s // EPOCH_S)
            supine[first : int((event.onset_s + event.duration_s) // EPOCH_S)] = True
    rate = rate * np.where(supine, SUPINE_FACTOR, 1.0)
    # Events come in clusters: a slow random modulation of the rate (ours).
    slow = np.repeat(rng.lognormal(-0.3, 0.8, len(stages) // 20 + 1), 20)[: len(stages)]
    rate = rate * slow
    events, now, duration = [], 15.0, len(stages) * EPOCH_S
    while now < duration - 60:
        epoch = int(now // EPOCH_S)
        if rate[epoch] <= 0:
            now = (epoch + 1) * EPOCH_S + rng.uniform(5, 15)
            continue
        # A breath or two at least between events; exponential waiting beyond.
        wait = rng.exponential(1 / rate[epoch])
        if wait > EPOCH_S:
            now += EPOCH_S
            continue
        onset = now + wait
        epoch = min(int(onset // EPOCH_S), len(stages) - 1)
        is_rem = stages[epoch] == R
        length = float(np.clip(rng.lognormal(np.log(24 if is_rem else 19), 0.35), 10, 75))
        end_epoch = min(int((onset + length) // EPOCH_S), len(stages) - 1)
        if onset + length > duration - 45 or W in stages[epoch : end_epoch + 1]:
            now = onset + EPOCH_S / 2
            continue
        if rng.random() < 0.55:
            kind = "hypopnea"
        elif rng.random() < subject.central_share * (0.5 if is_rem else 1.0):
            kind = "apnea_central"
        else:
            kind = "apnea_mixed" if rng.random() < 0.08 else "apnea_obstructive"
        events.append(Event(kind, round(onset, 1), round(length, 1)))
        now = onset + length + rng.uniform(9, 18)
    return events


def _leg_movements(rng, stages, subject):
    rate = _rate_per_s(stages, LEG_RATE, subject.plm_index)
    per_series = 1 + min(subject.plm_index / 4, 12)
    starts = rng.random(len(stages)) < rate * EPOCH_S / per_series
    events, busy = [], 0.0
    for epoch in np.flatnonzero(starts):
        at = epoch * EPOCH_S + rng.uniform(0, EPOCH_S)
        for _ in range(1 + rng.poisson(per_series - 1)):
            if at > busy and at < len(stages) * EPOCH_S - 15:
                length = float(np.clip(rng.lognormal(np.log(2), 0.5), 0.5, 10))
                events.append(Event("leg_movement", round(at, 1), round(length, 1)))
                busy = at + length + 1
            at += float(np.clip(rng.normal(26, 6), 6, 89))
    return sorted(events, key=lambda e: e.onset_s)


def _arousals(rng, stages, subject, breathing, legs):
    def length():
        return float(np.clip(rng.lognormal(np.log(6.5), 0.45), 3, 15))

    found = []
    for event in breathing:
        if rng.random() < (0.75 if event.kind != "hypopnea" else 0.55):
            at = event.onset_s + event.duration_s - rng.uniform(0, 1.5)
            found.append((at, length(), "respiratory"))
    for event in legs:
        if rng.random() < 0.2:
            found.append((event.onset_s + rng.uniform(-0.5, 0.5), length(), "leg_movement"))
    rate = _rate_per_s(stages, AROUSAL_RATE, subject.arousal_index) * EPOCH_S
    for epoch in np.flatnonzero(rng.random(len(stages)) < rate):
        found.append((epoch * EPOCH_S + rng.uniform(0, EPOCH_S), length(), "spontaneous"))
    events, busy = [], 0.0
    for at, lasts, value in sorted(found):
        epoch = int(at // EPOCH_S)
        # The manual asks for 10 s of sleep before an arousal.
        asleep = at - 10 >= 0 and at + lasts < len(stages) * EPOCH_S
        asleep = asleep and stages[epoch] != W and stages[int((at - 10) // EPOCH_S)] != W
        if asleep and at > busy:
            events.append(Event("arousal", round(at, 1), round(lasts, 1), value))
            busy = at + lasts + 10
    return events


def fill_unscored(stages) -> np.ndarray:
    """Give unscored epochs the stage before them (wake at the start), for the body to do."""
    stages = np.asarray(stages, np.int8)
    scored = np.flatnonzero(stages >= 0)
    if not len(scored):
        raise ValueError("the labels hold no scored epoch")
    last = np.maximum.accumulate(np.where(stages >= 0, np.arange(len(stages)), -1))
    return np.where(last >= 0, stages[np.maximum(last, 0)], W).astype(np.int8)
