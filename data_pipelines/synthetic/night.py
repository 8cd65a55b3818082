"""One simulated night: every channel at its rate, in its physical unit, from one plan."""

import dataclasses

import numpy as np

from data_pipelines.scoring import Event, Scoring
from data_pipelines.synthetic import body, brain
from data_pipelines.synthetic.noise import LATENT_HZ, at_rate, bumps
from data_pipelines.synthetic.plan import NightPlan, fill_unscored, make_plan
from data_pipelines.synthetic.stages import simulate_stages
from data_pipelines.synthetic.subjects import Subject, draw_subject, stream

RATES = {"eeg": 128, "eog": 128, "emg": 128, "ecg": 128, "resp": 32, "flow": 32, "leg": 64}
"""Samples per second by kind, where a site does not say otherwise. All whole numbers."""

EEG = ("eeg_c3", "eeg_c4", "eeg_f3", "eeg_f4", "eeg_o1", "eeg_o2")
POSITIONS = {"supine": 1, "left": 2, "right": 3, "prone": 4, "upright": 0}


@dataclasses.dataclass(frozen=True)
class SimulatedNight:
    """A night before any recorder touched it.

    Attributes:
        subject: Whose night.
        signals: Name -> float32 ``[duration_s * rate]``: canonical channels (EEG, EOG, EMG, ECG in
            uV, EEG and EOG against the contralateral mastoid; belts and flows about +-1; SpO2 in
            percent; heart rate per min) and ``m1``, ``m2``, the mastoids in uV against the
            recorder's own reference.
        rates: Name -> samples per second.
        scoring: What a scorer would write.
        beats: R peaks in s.
        plan: What happened.
        breathing: The breathing behind belts, flow and saturation.
    """

    subject: Subject
    signals: dict[str, np.ndarray]
    rates: dict[str, int]
    scoring: Scoring
    beats: np.ndarray
    plan: NightPlan
    breathing: body.Breathing

    @property
    def duration_s(self) -> int:
        return self.plan.duration_s


def simulate_night(
    seed: int,
    hours: float = 8.0,
    *,
    subject: Subject | None = None,
    night: int = 0,
    rates: dict[str, int] | None = None,
    channels=None,
    labels: Scoring | None = None,
) -> SimulatedNight:
    """Simulate one night.

    Args:
        seed: Same seed, same night (with the same numpy and scipy).
        hours: Length of the recording; not used where ``labels`` are given.
        subject: Whose night; drawn from the seed by default.
        night: Which of the subject's nights.
        rates: Kind ("eeg", "eog", "emg", "ecg", "resp", "flow", "leg") -> whole samples per
            second, over :data:`RATES`. The random draws depend on the rates.
        channels: Only these names; all by default.
        labels: Somebody's scoring to follow; the events in it, if it has any, too.

    Raises:
        ValueError: ``hours`` is out of range, or the labels hold no scored epoch.
    """
    subject = subject or draw_subject(seed, 0)
    rates = RATES | (rates or {})
    key = (seed, "night", subject.name, night)
    if labels is None:
        stages = simulate_stages(stream(*key, "stages"), hours, subject)
        plan = make_plan(stream(*key, "plan"), stages, subject)
    else:
        stages = fill_unscored(labels.stages)
        events = labels.events if labels.events_scored and labels.events else None
        plan = make_plan(stream(*key, "plan"), stages, subject, scored=labels.stages, events=events)
    breathing = body.make_breathing(key, subject, plan)
    beats = body.beat_times(key, subject, plan, body.heart_rate(key, subject, plan, breathing))
    signals, found = _signals(key, subject, plan, breathing, beats, rates, channels)
    return SimulatedNight(
        subject, signals, found, _scoring(plan, breathing), beats, plan, breathing
    )


def _signals(key, subject, plan, breathing, beats, rates, channels):
    def wanted(*names):
        return [name for name in names if channels is None or name in channels]

    seconds = plan.duration_s
    signals, found = {}, {}

    def put(name, values, rate):
        if channels is None or name in channels:
            signals[name], found[name] = values.astype(np.float32, copy=False), rate

    rate = rates["eeg"]
    heads = wanted(*EEG, "eog_e1", "eog_e2")
    if heads and rates["eog"] == rate:
        made = brain.make_eeg(key, subject, plan, rate, heads)
    else:
        made = brain.make_eeg(key, subject, plan, rate, wanted(*EEG))
        made |= brain.make_eeg(key, subject, plan, rates["eog"], wanted("eog_e1", "eog_e2"))
    if wanted("eog_e1", "eog_e2"):
        eyes = brain.make_eye_movements(key, subject, plan, rates["eog"])
        for name, moved in zip(("eog_e1", "eog_e2"), eyes, strict=True):
            if name in made:
                made[name] += moved
        # Frontal electrodes see the eyes as well.
        for name, share in (("eeg_f3", 0.12), ("eeg_f4", 0.12)):
            if name in made and rates["eog"] == rate:
                made[name] += np.float32(share) * (eyes[1] - eyes[0])
    for name in heads:
        own = rates["eog"] if name.startswith("eog") else rate
        made[name] += brain.movement_artefact((*key, "movement", name), plan, own)
        put(name, made.pop(name), own)

    tone = brain.chin_tone(key, subject, plan)
    if wanted("emg_chin"):
        put(
            "emg_chin", brain.make_muscle((*key, "chin"), tone, rates["emg"], seconds), rates["emg"]
        )
    for index, name in enumerate(wanted("emg_leg_l", "emg_leg_r")):
        rng = stream(*key, "legs", name)
        moves = [e for e in plan.of("leg_movement") if rng.random() < 0.75 or index == 0]
        level = np.full(seconds * LATENT_HZ + 1, 2.5)
        for event in moves:
            first = int(event.onset_s * LATENT_HZ)
            level[first : int((event.onset_s + event.duration_s) * LATENT_HZ) + 1] += 35
        level += bumps(seconds, plan.body_movements, 1.0, 3.0, 50.0)
        put(name, brain.make_muscle((*key, name), level, rates["leg"], seconds), rates["leg"])

    if wanted("ecg"):
        ecg_mv = body.make_ecg(key, subject, plan, breathing, beats, rates["ecg"])
        put("ecg", ecg_mv * np.float32(1000), rates["ecg"])
    if wanted("resp_thx", "resp_abd"):
        chest, belly = body.make_belts(key, breathing, rates["resp"], seconds)
        put("resp_thx", chest, rates["resp"])
        put("resp_abd", belly, rates["resp"])
    if wanted("airflow", "nasal_pressure"):
        thermal, pressure = body.make_airflow(key, breathing, rates["flow"], seconds)
        put("airflow", thermal, rates["flow"])
        put("nasal_pressure", pressure, rates["flow"])
    put("spo2", np.rint(breathing.saturation[: seconds * LATENT_HZ : LATENT_HZ]), 1)
    put("heart_rate", np.rint(body.rate_numbers(beats, seconds)), 1)
    place = np.zeros(seconds, np.float32)
    for event in plan.of("position"):
        stop = int(event.onset_s + event.duration_s)
        place[int(max(event.onset_s, 0)) : stop] = POSITIONS.get(event.value, 0)
    put("position", place, 1)
    if wanted("m1", "m2"):
        for name, mastoid in _mastoids(key, subject, plan, beats, rate).items():
            put(name, mastoid, rate)
    return signals, found


def _mastoids(key, subject, plan, beats, rate):
    """Mastoids against the recorder's reference: a little brain, the heart, and drift."""
    rng = stream(*key, "mastoids")
    seconds = plan.duration_s
    heart = np.zeros(seconds * rate, np.float32)
    size = rng.uniform(2, 10)

    def spike(t, i):
        return np.float32(size) * np.exp(-0.5 * ((t - 0.05) / 0.012) ** 2)

    brain.add_templates(heart, beats - 0.05, rate, np.full(len(beats), 0.1), spike)
    common = 12 * np.cumsum(rng.standard_normal(seconds * LATENT_HZ + 1)) * 0.05
    common = common - np.convolve(common, np.full(81, 1 / 81), mode="same")
    base = heart + at_rate(common, LATENT_HZ, rate, seconds)
    return {
        name: base + np.float32(4) * rng.standard_normal(len(base), np.float32)
        for name in ("m1", "m2")
    }


def _scoring(plan: NightPlan, breathing) -> Scoring:
    """Apply the scoring rules: desaturations are found, hypopneas need one or an arousal.

    Events that somebody gave all stay; desaturations are still those of the simulated oxygen.
    """
    falls = body.desaturations(breathing, plan)
    arousals = np.array([e.onset_s for e in plan.of("arousal")])
    starts = np.array([e.onset_s for e in falls])
    events: list[Event] = [*falls]
    for event in plan.events:
        if event.kind == "hypopnea" and not plan.events_given:
            end = event.onset_s + event.duration_s
            woke = np.any((arousals > end - 5) & (arousals < end + 5))
            fell = np.any((starts > event.onset_s) & (starts < end + 30))
            if not (woke or fell):
                continue
        events.append(event)
    events.sort(key=lambda event: (event.onset_s, event.kind))
    return Scoring(plan.scored, events, "synthetic")
