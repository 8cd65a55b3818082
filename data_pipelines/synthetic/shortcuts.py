"""A cohort of modalities with planted shortcuts: sites and ages that every signal of a night shows.

For one question: what does a contrastive loss learn where telling sites apart is easier than
telling states of sleep? Modalities are written directly, without recordings, so that hundreds of
nights take minutes.

What is planted, each in every modality of a night:

- sleep: stages, a wandering depth within them, movements, apneas with their desaturations, a heart
  rate and a breathing rate that follow them;
- people: their own rates, spectra and amplitudes; age lowers slow waves, heart-rate variability
  and oxygen;
- the shortcut, times ``shortcut``: a site's devices colour the noise, add a tone, leave a gain and
  smooth edges, and with age a slow wander grows. None of it tells anything of sleep.

Sites differ in the ages they see, so site and age are confounded; the last site can be held out
(all of it is in the test split), and its devices are unlike the others'. Nothing here was measured
on a sleeper, and a result on it is one about losses, not about sleep.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import types

import numpy as np
import scipy

from data_pipelines.builders.night_builder import write_store
from data_pipelines.recipes.sleep2vec import NINE, RECIPE, ROWS, TOKEN_S
from data_pipelines.scoring import Event
from data_pipelines.signals.causal import amplitude_tracks
from data_pipelines.store import ChannelSignal, Night
from data_pipelines.synthetic.stages import simulate_stages
from data_pipelines.synthetic.subjects import stream

SITES = "ABCDEFGHIJ"
MISSING = 0.1  # share of nights without an age, and of those without a sex
SECOND_NIGHTS = 0.25  # share of people with two nights
CLIP = 20.0

# By stage W N1 N2 N3 R. Of each band: edges in Hz and amplitude; all numbers here are ours.
EEG_BANDS = {
    (0.5, 4.0): (0.6, 0.9, 1.4, 3.2, 0.8),
    (4.0, 8.0): (0.5, 1.0, 1.0, 0.9, 1.0),
    (8.0, 12.0): (1.6, 0.7, 0.4, 0.3, 0.5),
    (12.0, 15.0): (0.4, 0.3, 1.0, 0.6, 0.2),
    (16.0, 30.0): (0.8, 0.5, 0.3, 0.2, 0.5),
}
EYE_BANDS = {
    (0.3, 1.0): (0.8, 2.0, 0.3, 0.2, 0.4),
    (1.0, 4.0): (1.6, 0.5, 0.6, 1.4, 2.2),
    (16.0, 30.0): (0.7, 0.4, 0.3, 0.2, 0.3),
}
CHIN = (2.0, 1.3, 0.9, 0.7, 0.35)
HEART_BPM = (70.0, 66.0, 62.0, 59.0, 65.0)
BREATHS_PER_MIN = (16.0, 15.0, 14.5, 14.0, 16.5)
BREATHING_IRREGULARITY = (0.25, 0.15, 0.08, 0.03, 0.3)
APNEAS_PER_TOKEN = (0.0, 0.25, 0.2, 0.03, 0.35)  # for the sickest


@dataclasses.dataclass(frozen=True)
class Device:
    """Effect of a site's equipment on every signal, in units of the signal's spread.

    Attributes:
        noise: Of the added noise.
        colour: Pole of the noise's one-pole filter, -1 to 1.
        tone: Height of an added tone.
        tone_cycle: Its place between 0 and the half of the sampling rate, 0 to 1.
        gain: Left after normalisation.
        smoothing: Pole of a one-pole low-pass.
    """

    noise: float
    colour: float
    tone: float
    tone_cycle: float
    gain: float
    smoothing: float

    @classmethod
    def draw(cls, seed: int, site: int) -> Device:
        """Draw the equipment of a site; sites are spread over each range, so no two are alike."""
        rng = stream(seed, "device", site)
        place = (0.13 + 0.38197 * site) % 1.0
        return cls(
            noise=0.2 + 0.5 * ((place + 0.5) % 1.0),
            colour=-0.6 + 1.5 * place,
            tone=0.4 + 0.5 * rng.random(),
            tone_cycle=0.08 + 0.8 * place,
            gain=math.exp(0.35 * rng.standard_normal()),
            smoothing=0.5 * ((place + 0.3) % 1.0),
        )


@dataclasses.dataclass(frozen=True)
class _Person:
    name: str
    age: int
    sex: str
    site: int
    apnea: float
    split: str
    number: int

    @property
    def slow_wave(self) -> float:
        return math.exp(-0.15 * (self.age - 45) / 10)


@dataclasses.dataclass(frozen=True)
class MakeNight:
    """Make one night; picklable. Attributes as in :func:`write_shortcut_cohort`."""

    seed: int
    tokens: int
    shortcut: float
    names: tuple[str, ...]

    def __call__(self, item: tuple[str, _Person, int]) -> Night:
        """Simulate a night of a person: (recording, person, which night)."""
        recording, person, which = item
        rng = stream(self.seed, "shortcuts", person.number, which)
        hours = self.tokens * TOKEN_S / 3600
        sleeper = types.SimpleNamespace(age=person.age, slow_wave=person.slow_wave)
        stages = simulate_stages(rng, hours, sleeper)
        body = _Body(rng, stages, person, stream(self.seed, "person", person.number))
        device = Device.draw(self.seed, person.site)
        channels = {}
        for name in self.names:
            rng = stream(self.seed, "shortcuts", person.number, which, name)
            clean = body.signal(name, rng)
            channels[name] = _finish(ROWS[name], clean, device, person, self.shortcut, rng)
        metadata = {"site": SITES[person.site], "events_scored": True, **_outcomes(rng, person)}
        if rng.random() >= MISSING:
            metadata["age"] = person.age
        if rng.random() >= MISSING:
            metadata["sex"] = person.sex
        return Night(
            recording=recording,
            subject=person.name,
            split=person.split,
            channels=channels,
            stages=stages,
            events=body.events,
            metadata=metadata,
        )


def write_shortcut_cohort(
    folder,
    nights: int,
    seed: int,
    *,
    sites: int = 3,
    hold_out: bool = True,
    hours: float = 8.0,
    shortcut: float = 1.0,
    names: tuple[str, ...] = NINE,
    jobs: int = 1,
    progress: bool = True,
):
    """Write a store of simulated modalities from several sites.

    Args:
        folder: The store.
        nights: Recordings, shared out evenly over the sites.
        seed: Another seed is other people and other devices.
        sites: How many; they are called A, B, C, ...
        hold_out: Whether all of the last one is in the test split. The people of the others are
            split 3 to 1 to 1, at each site.
        hours: Length of a night; 0.06 at least.
        shortcut: Strength of what site and age do; 0 plants none.
        names: Modalities.
        jobs: Processes.
        progress: Show a progress bar.

    Returns:
        The ``Summary`` of ``write_store``.

    Raises:
        ValueError: Sites or nights do not fit.
    """
    if not 1 <= sites <= len(SITES):
        raise ValueError(f"sites={sites}; must be 1 to {len(SITES)}")
    if nights < sites:
        raise ValueError(f"nights={nights} are too few for {sites} sites")
    people = _people(seed, nights, sites, hold_out and sites > 1)
    return write_store(
        pathlib.Path(folder),
        kind="signals",
        items={recording: (recording, person, which) for recording, person, which in people},
        make_night=MakeNight(seed, int(hours * 3600 // TOKEN_S), shortcut, tuple(names)),
        jobs=jobs,
        provenance={
            "synthetic": "shortcuts",
            "seed": seed,
            "sites": sites,
            "hold_out": hold_out,
            "hours": hours,
            "shortcut": shortcut,
            "channels": list(names),
            **RECIPE.provenance,
        },
        recipe=RECIPE.identity,
        progress=progress,
    )


def _people(seed, nights, sites, hold_out):
    """(recording, person, which night) of every night; a night more adds one and moves none."""
    made, counts = [], [0] * sites
    number = 0
    while len(made) < nights:
        site = number % sites
        rng = stream(seed, "people", number)
        # Sites see other ages: from mostly young to mostly old.
        mean = 35 + 30 * site / max(1, sites - 1)
        age = int(np.clip(rng.normal(mean, 14), 18, 90))
        split = ("train", "train", "validation", "train", "test")[counts[site] % 5]
        if hold_out and site == sites - 1:
            split = "test"
        person = _Person(
            name=f"{SITES[site].lower()}{number:04d}",
            age=age,
            sex="FM"[int(rng.random() < 0.5)],
            site=site,
            apnea=float(rng.beta(1, 3)),
            split=split,
            number=number,
        )
        counts[site] += 1
        number += 1
        for which in range(1 + (rng.random() < SECOND_NIGHTS)):
            made.append((f"{person.name}-n{which + 1}", person, which))
    return made[:nights]


def _outcomes(rng, person):
    """Outcomes that depend on age and apnea, and so on the site alone where ages do."""
    risk = 0.06 * (person.age - 55) + 3.0 * (person.apnea - 0.25)
    has = bool(stream(person.number, "outcome").random() < 1 / (1 + math.exp(-risk)))
    time = float(rng.exponential(12 * math.exp(-0.5 * risk)))
    return {
        "outcomes": {"hypertension": int(has)},
        "survival": {"death": [round(min(time, 15.0), 3), int(time < 15)]},
    }


class _Body:
    """Common causes of all signals of a night, on a grid of 4 Hz or of tokens."""

    RATE_HZ = 4

    def __init__(self, rng, stages, person, own):
        """Draw a night; ``own`` is the person's stream, equal in all of their nights."""
        count = len(stages)
        self.person, self.tokens = person, count
        self.stage = stages.astype(int)
        self.traits = {key: float(own.standard_normal()) for key in ("heart", "breath", "chin")}
        self.spectrum = {band: math.exp(0.2 * own.standard_normal()) for band in EEG_BANDS}
        self.eyes = {band: math.exp(0.2 * own.standard_normal()) for band in EYE_BANDS}
        # A depth that wanders from token to token, seen by all.
        self.depth = _wander(rng, count, 0.85)
        self.arousal = _wander(rng, count, 0.5)
        self.moves = rng.random(count) < np.array([0.12, 0.08, 0.04, 0.02, 0.06])[self.stage]
        apneic = rng.random(count) < person.apnea * np.array(APNEAS_PER_TOKEN)[self.stage]
        self.effort = np.ones(count * TOKEN_S * self.RATE_HZ)
        self.events, dips = [], np.zeros_like(self.effort)
        for token in np.flatnonzero(apneic):
            onset, length = token * TOKEN_S + rng.uniform(0, 8), rng.uniform(10, 22)
            first, last = (int(at * self.RATE_HZ) for at in (onset, onset + length))
            self.effort[first:last] = 0.08
            dips[last : last + 40] += 1.0
            self.events.append(Event("apnea_obstructive", round(onset, 2), round(length, 2)))
            if rng.random() < 0.7:
                self.events.append(Event("arousal", round(onset + length, 2), 4.0, "respiratory"))
                self.moves[min(token + 1, count - 1)] = True
        self.events.sort(key=lambda event: (event.onset_s, event.kind))
        # 20 s late, and slow.
        late = np.concatenate([np.zeros(80), dips])[: len(dips)]
        self.dips = scipy.signal.lfilter([0.05], [1, -0.95], late)
        rate = self._even(np.array(BREATHS_PER_MIN)) / 60
        rate *= 1 + 0.06 * self.traits["breath"]
        loose = self._even(np.array(BREATHING_IRREGULARITY))
        rate *= np.exp(loose * _wander(rng, len(rate), 0.98))
        self.breath = 2 * np.pi * np.cumsum(rate) / self.RATE_HZ
        self.volume = np.exp(
            0.25 * self._even_of(self.depth) + loose * _wander(rng, len(rate), 0.97)
        )
        bpm = self._even(np.array(HEART_BPM)) + 6 * self.traits["heart"]
        bpm += 3 * self._even_of(self.arousal) + 8 * self._even_of(self.moves.astype(float))
        young = math.exp(-0.3 * (person.age - 45) / 10)
        swing = 0.05 * young * np.sin(self.breath)
        self.bpm = bpm * (1 + swing + 0.02 * young * _wander(rng, len(rate), 0.99))

    def _even(self, by_stage):
        """A value by stage at 4 Hz, smooth over the changes."""
        return self._even_of(by_stage[self.stage])

    def _even_of(self, by_token):
        at = np.arange(self.tokens * TOKEN_S * self.RATE_HZ) / (TOKEN_S * self.RATE_HZ)
        return np.interp(at, np.arange(self.tokens) + 0.5, by_token)

    def signal(self, name, rng):
        """One modality, before the device."""
        modality = ROWS[name]
        count = self.tokens * modality.frames
        if name in ("eeg", "eog"):
            bands, own = (EEG_BANDS, self.spectrum) if name == "eeg" else (EYE_BANDS, self.eyes)
            out = np.zeros(count, np.float32)
            for band, heights in bands.items():
                height = np.array(heights)[self.stage] * own[band]
                if band[1] <= 4:
                    height *= np.exp(0.35 * self.depth) * self.person.slow_wave
                else:
                    height *= np.exp(-0.2 * self.depth + 0.2 * self.arousal)
                out += self._at(height, modality) * _band_noise(rng, count, modality.rate_hz, band)
            return out + self._at(4.0 * self.moves, modality) * _noise(rng, count, 0.9)
        if name == "emg":
            tone = np.array(CHIN)[self.stage] * np.exp(
                0.2 * self.traits["chin"] + 0.3 * self.arousal
            )
            return self._at(tone + 6.0 * self.moves, modality) * _noise(rng, count, -0.2)
        if name in ("ecg", "ppg"):
            return self._pulse(rng, modality, count)
        if name == "actigraphy":
            return self._at(0.1 + 3.0 * self.moves, modality) * np.abs(_noise(rng, count, 0.3))
        at_4_hz = {
            "ibi": 60 / self.bpm * 10,
            "resp": self.volume * np.sin(self.breath) * (0.5 + 0.5 * self.effort),
            "belt": self.volume * np.sin(self.breath + 0.3) * (0.35 + 0.65 * self.effort),
            "airflow": self.volume * np.cos(self.breath) * self.effort,
            "spo2": -1.2 * self.dips - 0.02 * (self.person.age - 45),
        }[name]
        shake = self._even_of(self.moves.astype(float)) * _noise(rng, count, 0.7)
        return at_4_hz + (0 if name == "spo2" else 1.5 * shake)

    def _at(self, by_token, modality):
        at = np.arange(self.tokens * modality.frames) / modality.frames
        heights = np.interp(at, np.arange(self.tokens) + 0.5, by_token)
        return heights.astype(np.float32)

    def _pulse(self, rng, modality, count):
        """Beats at the heart rate: narrow in an ECG, wide in a pulse wave."""
        phase = np.cumsum(self.bpm / 60) / self.RATE_HZ
        at = np.arange(count) / modality.rate_hz
        phase = np.interp(at, (np.arange(len(phase)) + 1) / self.RATE_HZ, phase)
        width = 0.025 if modality.name == "ecg" else 0.2
        beats = np.exp(-0.5 * (((phase + 0.5) % 1.0 - 0.5) / width) ** 2)
        height = np.interp(at, np.arange(len(self.breath)) / self.RATE_HZ, np.sin(self.breath))
        shake = self._at(1.0 * self.moves, modality) * _noise(rng, count, 0.8)
        return (6 * (1 + 0.15 * height) * beats).astype(np.float32) + shake


def _finish(modality, clean, device, person, shortcut, rng):
    """Scale by the spread of the night, add what the site and the age do, clip."""
    count, rate = len(clean), modality.rate_hz
    sample = clean[:: max(1, count // 20_000)]
    lower, median, upper = np.percentile(sample, (25, 50, 75))
    # Beats are rare in an ECG, and would all be clipped if what lies between them were the scale.
    spread = max(0.7413 * (upper - lower), 0.4 * float(sample.std()), 1e-3)
    if modality.name in ("ibi", "spo2"):
        spread = 1.0  # of the size that prepared ones have
    samples = ((clean - median) / spread).astype(np.float32)
    samples += 0.2 * rng.standard_normal(count, np.float32)
    if shortcut:
        pole = shortcut * device.smoothing
        if 0 < pole < 1:
            samples = scipy.signal.lfilter([1 - pole], [1, -pole], samples).astype(np.float32)
        samples += shortcut * device.noise * _noise(rng, count, device.colour)
        at = np.arange(count, dtype=np.float32)
        cycle = np.float32(np.pi * device.tone_cycle)
        tone = np.sin(cycle * at + np.float32(rng.uniform(0, 2 * np.pi)))
        samples += np.float32(shortcut * device.tone) * tone
        # Slow wander, as of loose electrodes, that grows with age: the same in every modality.
        swing = 0.02 * shortcut * max(0, person.age - 20)
        samples += np.float32(swing) * np.sin(2 * np.pi * at / (7 * rate), dtype=np.float32)
        samples *= np.float32(device.gain**shortcut)
    samples = np.clip(samples, -CLIP, CLIP)
    seconds = count // rate
    valid = np.ones(seconds, bool)
    tracks, _ = amplitude_tracks(samples.reshape(seconds, rate), valid)
    return ChannelSignal(modality.name, rate, samples, valid, tracks)


def _wander(rng, count, pole):
    """A first-order autoregressive process of variance 1."""
    step = math.sqrt(1 - pole**2)
    start = [pole * rng.standard_normal()]
    return scipy.signal.lfilter([step], [1, -pole], rng.standard_normal(count), zi=start)[0]


def _noise(rng, count, pole):
    """Noise of variance 1, coloured by one pole."""
    white = rng.standard_normal(count, np.float32)
    return scipy.signal.lfilter([math.sqrt(1 - pole**2)], [1, -pole], white).astype(np.float32)


def _band_noise(rng, count, rate_hz, band):
    """Noise of variance 1 within a band."""
    sections = scipy.signal.butter(2, band, "bandpass", fs=rate_hz, output="sos")
    noise = scipy.signal.sosfilt(sections, rng.standard_normal(count, np.float32))
    return (noise / (noise[:: max(1, count // 20_000)].std() or 1.0)).astype(np.float32)
