"""Simulated people: what stays with a subject over all of its nights."""

import dataclasses
import zlib

import numpy as np


def stream(*keys) -> np.random.Generator:
    """Return a random generator that depends on the keys (integers and names) alone."""
    words = [zlib.crc32(k.encode()) if isinstance(k, str) else int(k) for k in keys]
    return np.random.default_rng(words)


@dataclasses.dataclass(frozen=True)
class Subject:
    """A person.

    Attributes:
        name: Name in the data set.
        age: Years.
        sex: "F" or "M".
        ahi: Apneas and hypopneas per hour of sleep, before the scoring rule thins hypopneas.
        central_share: Share of the apneas that are central.
        arousal_index: Arousals per hour of sleep that have no cause we simulate.
        plm_index: Leg movements per hour of sleep, in series.
        af: Atrial fibrillation on every night.
        heart_bpm: Heart rate asleep (N2).
        rsa: Relative swing of the heart rate with breathing, in N2.
        breaths_per_min: Rate in N2.
        spo2: Oxygen saturation of quiet breathing, percent.
        desaturation: Percent per (20 s without breath).
        circulation_s: Lung to finger.
        alpha_hz, alpha_db: Rhythm of relaxed wake, its height over the table of ``brain``.
        spindle_hz, spindles_per_min: In N2.
        slow_wave: Factor of the amplitude of slow waves.
        spectrum_db: Offsets of the EEG spectrum at the knots of ``brain``, one row per stage.
        eeg_gain: Factor of the amplitude of all EEG.
        chin_uv: Chin tone awake, rms.
        atonia: Chin tone in REM as a fraction of that awake.
        r_mv: Height of the R wave.
    """

    name: str
    age: int
    sex: str
    ahi: float
    central_share: float
    arousal_index: float
    plm_index: float
    af: bool
    heart_bpm: float
    rsa: float
    breaths_per_min: float
    spo2: float
    desaturation: float
    circulation_s: float
    alpha_hz: float
    alpha_db: float
    spindle_hz: float
    spindles_per_min: float
    slow_wave: float
    spectrum_db: np.ndarray
    eeg_gain: float
    chin_uv: float
    atonia: float
    r_mv: float


def draw_subject(seed: int, index: int, *, name: str | None = None, **fixed) -> Subject:
    """Draw the person number ``index`` of a cohort.

    Age moves the arousal index by 2.1 per h, the apnea-hypopnea index by 1.2 per h and the index
    of leg movements by 1.2 per h per decade (Boulos et al. 2019, Lancet Respir Med 7:533); men
    have more apneas (same source: direction only, the factor is ours). Slow waves shrink by
    age, more so in men (Redline et al. 2004, Arch Intern Med 164:406: direction; the sizes are
    ours), spindles become fewer and respiratory sinus arrhythmia smaller (ours). The cohort is
    meant to look like a sleep clinic's: a third of it has an apnea index of a patient (ours).

    Args:
        seed: The cohort.
        index: The person within it.
        name: Name in the data set; ``s001`` and so on by default (in the default split,
            the first four of these already fill train, validation and test).
        fixed: Attributes of :class:`Subject` to set instead of drawing them.
    """
    rng = stream(seed, "subject", index)
    age = int(np.clip(rng.normal(48, 16), 18, 85))
    sex = "FM"[int(rng.random() < 0.5)]
    decades = (age - 45) / 10
    old = max(decades, 0.0)
    is_male = sex == "M"
    healthy_ahi = max(0.3, 2.9 + 1.2 * decades) * rng.lognormal(0, 0.6)
    patient_ahi = rng.lognormal(np.log(24), 0.6) * (1.25 if is_male else 0.9)
    ahi = patient_ahi if rng.random() < (0.4 if is_male else 0.25) else healthy_ahi
    values = {
        "name": name or f"s{index + 1:03d}",
        "age": age,
        "sex": sex,
        "ahi": float(np.clip(ahi, 0.2, 90)),
        "central_share": float(rng.beta(1, 9)),
        "arousal_index": float(max(3.0, 9.0 + 2.1 * decades) * rng.lognormal(0, 0.25)),
        "plm_index": float(max(0.2, 2.5 + 1.2 * decades) * rng.lognormal(0, 0.9)),
        "af": bool(rng.random() < 0.02 + 0.03 * old),
        "heart_bpm": float(rng.normal(61 if is_male else 65, 6)),
        "rsa": float(np.clip(0.042 * np.exp(-0.25 * decades) * rng.lognormal(0, 0.4), 0.005, 0.2)),
        "breaths_per_min": float(np.clip(rng.normal(14.8, 1.8), 10, 21)),
        "spo2": float(np.clip(rng.normal(96.2 - 0.35 * old, 0.9), 91.5, 98.5)),
        "desaturation": float(rng.lognormal(np.log(4.2), 0.35)),
        "circulation_s": float(np.clip(rng.normal(13, 2.5), 7, 22)),
        "alpha_hz": float(rng.normal(10.0 - 0.1 * old, 0.7)),
        "alpha_db": float(rng.normal(7.0, 3.0)),
        "spindle_hz": float(rng.normal(13.3, 0.5)),
        "spindles_per_min": float(max(1.0, rng.normal(4.2 - 0.4 * decades, 1.2))),
        "slow_wave": float(
            np.exp(-(0.14 if is_male else 0.09) * decades + 0.12 * (not is_male))
            * rng.lognormal(0, 0.15)
        ),
        "spectrum_db": _spectrum_offsets(rng),
        "eeg_gain": float(rng.lognormal(0.2 - 0.04 * decades, 0.18)),
        "chin_uv": float(rng.lognormal(np.log(9.0), 0.45)),
        "atonia": float(np.clip(rng.lognormal(np.log(0.3), 0.4), 0.12, 0.8)),
        "r_mv": float(rng.lognormal(np.log(1.0), 0.3)),
    }
    unknown = set(fixed) - set(values)
    if unknown:
        raise ValueError(f"a subject has no {sorted(unknown)[0]!r}; it has {sorted(values)}")
    return Subject(**{**values, **fixed})


def _spectrum_offsets(rng, stages=5, knots=12):
    """Draw dB offsets: smooth over frequency, mostly shared by the stages (sizes ours)."""
    smooth = np.exp(-0.5 * ((np.arange(knots)[:, None] - np.arange(knots)) / 2.0) ** 2)
    smooth /= np.sqrt((smooth**2).sum(axis=1, keepdims=True))
    shared = 1.6 * smooth @ rng.standard_normal(knots)
    own = 1.0 * rng.standard_normal((stages, knots)) @ smooth.T
    return shared + own
