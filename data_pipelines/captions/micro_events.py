"""Spindles and slow waves of the central EEG, found by YASA (Vallat and Walker 2021).

They are stored, and no caption says them. Spindles: 12-15 Hz, 0.5-2 s. Slow waves: 0.5-2 Hz, half
waves of 0.25-1 s, 75 uV from peak to peak or more. YASA's other thresholds are as they are; those
of the spindles are relative to the light and deep sleep of the night. An epoch counts where it was
scored N1, N2 or N3 and at least half of its seconds are usable EEG; all others have no number, for
nobody looked there. YASA is an extra (``pip install -e '.[yasa]'``).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util

import numpy as np

from data_pipelines.captions.epoch_signals import EpochSignal, NightSignals
from data_pipelines.captions.facts import STAGES
from data_pipelines.captions.measures_brain import clean
from data_pipelines.store import EPOCH_S

LOOKED_IN = tuple(STAGES.index(stage) for stage in ("N1", "N2", "N3"))
SPINDLES = {"freq_sp": (12, 15), "duration": (0.5, 2)}
SLOW_WAVES = {
    "freq_sw": (0.5, 2.0),
    "dur_neg": (0.25, 1.0),
    "dur_pos": (0.25, 1.0),
    "amp_neg": (None, None),
    "amp_pos": (None, None),
    "amp_ptp": (75, 500),
}
MISSING = (
    "Spindles and slow waves were not looked for: YASA is not installed (pip install -e '.[yasa]')"
)


def version() -> str | None:
    """Return what would find them, such as "yasa 0.8.1"; None where it is not installed."""
    if importlib.util.find_spec("yasa") is None:
        return None
    return f"yasa {importlib.metadata.version('yasa')}"


def measure(signals: NightSignals, stages: np.ndarray) -> dict[str, np.ndarray]:
    """Return slot -> float [E], NaN where nobody looked.

    Numbers are of those that begin in the epoch; seconds are those of the epoch that they cover.

    Args:
        signals: of the night, in uV.
        stages: int [E], places in ``STAGES``, negative unknown.

    Raises:
        ModuleNotFoundError: YASA is not installed.
    """
    found = {}
    for name in ("eeg_c3", "eeg_c4"):
        signal = signals.get(name)
        if signal is not None:
            found |= _of_channel(name, signal, stages)
    return found


def _of_channel(name: str, signal: EpochSignal, stages: np.ndarray) -> dict[str, np.ndarray]:
    looked = np.isin(stages, LOOKED_IN) & (clean(signal).mean(axis=1) >= 0.5)
    slots = {key: np.full(len(stages), np.nan) for key in _SLOTS}
    if looked.any():
        import yasa

        # Stages have the numbers of YASA; what is not looked at is "unscored" there, -2.
        hypnogram = np.repeat(np.where(looked, stages, -2), EPOCH_S * signal.rate_hz)
        given = {"data": signal.flat, "sf": signal.rate_hz, "hypno": hypnogram, "verbose": "error"}
        given["include"] = LOOKED_IN
        for kind, events in (
            ("spindle", yasa.spindles_detect(**given, **SPINDLES)),
            ("slow_wave", yasa.sw_detect(**given, **SLOW_WAVES)),
        ):
            starts, stops = _times(events)
            own = np.bincount((starts // EPOCH_S).astype(int), minlength=len(stages))
            slots[f"{kind}s"][looked] = own[looked]
            slots[f"{kind}_s"][looked] = _covered(starts, stops, len(stages))[looked]
    return {f"{name}.{key}": values for key, values in slots.items()}


_SLOTS = ("spindles", "spindle_s", "slow_waves", "slow_wave_s")


def _times(events) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends in seconds of what YASA found; it gives None where it found nothing."""
    if events is None:
        return np.zeros(0), np.zeros(0)
    table = events.summary()
    return table["Start"].to_numpy(float), table["End"].to_numpy(float)


def _covered(starts: np.ndarray, stops: np.ndarray, epochs: int) -> np.ndarray:
    """Seconds of each epoch that intervals cover, [E]."""
    edges = EPOCH_S * np.arange(epochs)[:, None]
    return np.clip(np.minimum(stops, edges + EPOCH_S) - np.maximum(starts, edges), 0, None).sum(1)
