"""Simulated laboratories: how each labels, samples, scales and spoils what it records.

The five sites are invented. Their labels, rates, units and habits are of the kind met in public
collections: ready derivations or bare electrodes with separate mastoids, inverted derivations,
belts at 10, 25 or 32 Hz, volts or microvolts in the header, 50 or 60 Hz hum, lost electrodes.
"""

import dataclasses

import numpy as np

from data_pipelines.recordings.edf_writer import EdfSignal

MICROVOLTS = {"uV": 1.0, "mV": 1e3, "V": 1e6}


@dataclasses.dataclass(frozen=True)
class Lead:
    """One signal of a site's montage.

    Attributes:
        label: Label in the file.
        parts: Names of simulated signals and their signs; ``("eeg_c3", 1), ("m2", 1)`` is C3
            against the recorder's reference.
        unit: Unit in the header.
        peak: Half of the physical range, in that unit.
        hum: Whether it picks up the mains.
        gain: Units per simulated unit where that is arbitrary (belts, flows).
    """

    label: str
    parts: tuple[tuple[str, float], ...]
    unit: str
    peak: float
    hum: bool = True
    gain: float = 1.0


@dataclasses.dataclass(frozen=True)
class Site:
    """A laboratory.

    Attributes:
        name: Its name, as in ``participants.csv``.
        mains_hz: Frequency of the hum.
        hum_uv: Typical amplitude of the hum.
        rates: Kind -> samples per second.
        leads: The montage.
        scoring: Form of the scoring beside the recordings, of ``scoring_files.SUFFIXES``.
        loses: Labels of which now and then one is missing for the whole night.
        flipped_ecg: The ECG is recorded upside down.
    """

    name: str
    mains_hz: int
    hum_uv: float
    rates: dict[str, int]
    leads: tuple[Lead, ...]
    scoring: str
    loses: tuple[str, ...]
    flipped_ecg: bool = False


def _derived(label, name, unit="uV", peak=3276.7, sign=1.0):
    return Lead(label, ((name, sign),), unit, peak)


def _bare(label, name, mastoid, unit="uV", peak=3276.7):
    return Lead(label, ((name, 1.0), (mastoid, 1.0)), unit, peak)


def _ecg(label, unit="mV", peak=8.0, sign=1.0):
    return Lead(label, (("ecg", sign),), unit, peak)


def _free(label, name, unit="", peak=10.0, gain=1.0):
    return Lead(label, ((name, 1.0),), unit, peak, hum=False, gain=gain)


def _numbers(spo2="SpO2", rate="Heart Rate", position="Position"):
    return (
        Lead(spo2, (("spo2", 1.0),), "%", 128.0, hum=False),
        Lead(rate, (("heart_rate", 1.0),), "bpm", 256.0, hum=False),
        Lead(position, (("position", 1.0),), "", 16.0, hum=False),
    )


SITES = (
    Site(
        name="aster",
        mains_hz=50,
        hum_uv=1.5,
        rates={"eeg": 128, "eog": 128, "emg": 128, "ecg": 128, "resp": 32, "flow": 32, "leg": 64},
        leads=(
            _derived("C3-M2", "eeg_c3"),
            _derived("C4-M1", "eeg_c4"),
            _derived("F4-M1", "eeg_f4"),
            _derived("O2-M1", "eeg_o2"),
            _derived("E1-M2", "eog_e1"),
            _derived("E2-M1", "eog_e2"),
            _derived("Chin1-Chin2", "emg_chin"),
            _ecg("ECG II"),
            _free("Thorax", "resp_thx"),
            _free("Abdomen", "resp_abd"),
            _free("Nasal Pressure", "nasal_pressure", "cmH2O", 20.0),
            _free("Thermistor", "airflow"),
            _derived("Leg_1", "emg_leg_l"),
            _derived("Leg_2", "emg_leg_r"),
            *_numbers(),
        ),
        scoring="edf",
        loses=("Thorax", "E2-M1", "Nasal Pressure"),
    ),
    Site(
        name="birch",
        mains_hz=60,
        hum_uv=3.0,
        rates={"eeg": 256, "eog": 256, "emg": 256, "ecg": 256, "resp": 32, "flow": 32, "leg": 128},
        leads=(
            _bare("C3", "eeg_c3", "m2"),
            _bare("C4", "eeg_c4", "m1"),
            Lead("M1", (("m1", 1.0),), "uV", 3276.7),
            Lead("M2", (("m2", 1.0),), "uV", 3276.7),
            _bare("E1", "eog_e1", "m2"),
            _bare("E2", "eog_e2", "m1"),
            _derived("EMG Chin", "emg_chin"),
            _ecg("EKG"),
            _free("THOR EFFORT", "resp_thx", "mV", 20.0, 2.0),
            _free("ABDO EFFORT", "resp_abd", "mV", 20.0, 2.0),
            _free("AIRFLOW", "airflow", "mV", 20.0, 2.0),
            _derived("Leg L", "emg_leg_l"),
            *_numbers("SaO2", "PR", "POSITION"),
        ),
        scoring="nsrr",
        loses=("M1", "ABDO EFFORT", "EMG Chin"),
    ),
    Site(
        name="cedar",
        mains_hz=60,
        hum_uv=1.0,
        rates={"eeg": 100, "eog": 100, "emg": 100, "ecg": 200, "resp": 10, "flow": 10, "leg": 100},
        leads=(
            _derived("EEG C3-A2", "eeg_c3", "mV", 3.2767),
            _derived("EEG C4-A1", "eeg_c4", "mV", 3.2767),
            _derived("LOC-A2", "eog_e1", "mV", 3.2767),
            _derived("ROC-A1", "eog_e2", "mV", 3.2767),
            _derived("CHIN", "emg_chin", "mV", 3.2767),
            _ecg("ECG L-ECG R"),
            _free("Chest", "resp_thx", gain=0.4),
            _free("Abdominal", "resp_abd", gain=0.4),
            *_numbers("SAO2", "Pulse", "Body Position"),
        ),
        scoring="luna",
        loses=("CHIN", "Chest", "ROC-A1"),
        flipped_ecg=True,
    ),
    Site(
        name="dahlia",
        mains_hz=50,
        hum_uv=6.0,
        rates={"eeg": 200, "eog": 200, "emg": 200, "ecg": 200, "resp": 25, "flow": 25, "leg": 200},
        leads=(
            _derived("C3-M2", "eeg_c3", "V", 0.0033),
            _derived("C4-M1", "eeg_c4", "V", 0.0033),
            _derived("O1-M2", "eeg_o1", "V", 0.0033),
            _derived("E1-M2", "eog_e1", "V", 0.0033),
            _derived("E2-M1", "eog_e2", "V", 0.0033),
            _derived("Chin 1-Chin 2", "emg_chin", "V", 0.0033),
            _ecg("ECG", "V", 0.008),
            _free("RIP Thorax", "resp_thx", "V", 0.02, 0.001),
            _free("RIP Abdomen", "resp_abd", "V", 0.02, 0.001),
            _free("Nasal Pressure", "nasal_pressure", "cmH2O", 20.0),
            *_numbers("Saturation", "Heart Rate", "Pos"),
        ),
        scoring="edf",
        loses=("E1-M2", "RIP Thorax", "Nasal Pressure"),
    ),
    Site(
        name="elm",
        mains_hz=60,
        hum_uv=2.0,
        rates={"eeg": 125, "eog": 50, "emg": 125, "ecg": 250, "resp": 10, "flow": 10, "leg": 125},
        leads=(
            _derived("M2-C3", "eeg_c3", sign=-1.0),
            _derived("M1-C4", "eeg_c4", sign=-1.0),
            _derived("EOG(L)", "eog_e1"),
            _derived("EOG(R)", "eog_e2"),
            _derived("L Chin-R Chin", "emg_chin"),
            _ecg("ECG1-ECG2"),
            _free("THOR RES", "resp_thx"),
            _free("ABDO RES", "resp_abd"),
            _free("NEW AIR", "airflow"),
            *_numbers("SaO2", "H.R.", "POSITION"),
        ),
        scoring="nsrr",
        loses=("EOG(R)", "THOR RES", "NEW AIR"),
    ),
)

_KINDS = {"resp_thx": "resp", "resp_abd": "resp", "airflow": "flow", "nasal_pressure": "flow"}


def site_named(name: str) -> Site:
    """Return a site.

    Raises:
        ValueError: There is none of that name.
    """
    for site in SITES:
        if site.name == name:
            return site
    raise ValueError(f"no site {name!r}; there are {[site.name for site in SITES]}")


def channels_of(site: Site) -> tuple[str, ...]:
    """Names of the simulated signals that a site's montage needs."""
    return tuple(sorted({name for lead in site.leads for name, _ in lead.parts}))


def record(rng: np.random.Generator, night, site: Site, *, clean: bool = False) -> list[EdfSignal]:
    """Turn a simulated night into the signals of a site's file.

    Args:
        rng: Draws hum, dropouts and missing signals.
        night: A :class:`~data_pipelines.synthetic.night.SimulatedNight` at the site's rates.
        site: The laboratory.
        clean: No hum, no dropouts, nothing missing: only labels, units and polarity.

    Returns:
        One signal per lead that was recorded, in the montage's order.
    """
    missing = site.loses[rng.integers(len(site.loses))] if rng.random() < 0.12 else None
    seconds = night.duration_s
    signals = []
    phase = rng.uniform(0, 2 * np.pi)
    swell = _swell(rng, seconds)
    for lead in site.leads:
        name = lead.parts[0][0]
        rate = night.rates[name]
        samples = sum(np.float32(sign) * night.signals[part] for part, sign in lead.parts).astype(
            np.float32
        )
        if name == "ecg" and site.flipped_ecg:
            samples = -samples
        hum = rng.lognormal(np.log(site.hum_uv), 0.6) * (5 if name == "ecg" else 1)
        bad = _dropouts(rng, seconds) if rng.random() < 0.15 else []
        if not clean:
            if lead.hum and rate > 2 * site.mains_hz:
                times = np.arange(len(samples), dtype=np.float64) / rate
                wave = np.sin(2 * np.pi * site.mains_hz * times + phase)
                samples += (hum * np.repeat(swell, rate) * wave).astype(np.float32)
            _spoil(rng, samples, rate, bad, name)
            if lead.label == missing:
                continue
        factor = lead.gain / MICROVOLTS[lead.unit] if lead.hum else lead.gain
        low = 0.0 if lead.unit in ("%", "bpm") else -lead.peak
        signals.append(EdfSignal(lead.label, lead.unit, rate, samples * factor, low, lead.peak))
    return signals


def _swell(rng, seconds):
    """Slow change of the hum over the night, around 1, per second."""
    knots = np.exp(0.4 * rng.standard_normal(seconds // 600 + 2))
    return np.interp(np.arange(seconds) / 600, np.arange(len(knots)), knots)


def _dropouts(rng, seconds):
    """Stretches in s in which a sensor is off."""
    count = 1 + rng.poisson(0.7)
    starts = np.sort(rng.uniform(0, seconds, count)).astype(int)
    lengths = np.clip(rng.lognormal(np.log(60), 0.9, count), 5, 0.1 * seconds).astype(int)
    return [(s, min(s + n, seconds)) for s, n in zip(starts, lengths, strict=True) if n]


def _spoil(rng, samples, rate, stretches, name):
    for start, stop in stretches:
        part = slice(start * rate, stop * rate)
        if name == "spo2":
            samples[part] = 0 if rng.random() < 0.7 else 127
        elif name in _KINDS or name in ("heart_rate", "position") or rng.random() < 0.5:
            samples[part] = 0
        else:
            # A loose electrode: large slow drift.
            walk = np.cumsum(rng.standard_normal(len(samples[part]))) * 400 / rate**0.5
            samples[part] += walk.astype(np.float32)
