"""Quality of the signals that a tokenizer gives back, in numbers and in a picture."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator

import jax
import numpy as np
import scipy
from jax.experimental import multihost_utils

from hypnos_jax.runtime import distributed

EEG_BANDS = {
    "delta": (0.5, 4.0),
    "theta": (4.0, 8.0),
    "alpha": (8.0, 12.0),
    "sigma": (12.0, 15.0),
    "beta": (15.0, 30.0),
    "gamma": (30.0, 45.0),
}
# Hz, by signal type; within what the causal preprocessing lets through.
BANDS = {
    "eeg": EEG_BANDS,
    "eog": {name: EEG_BANDS[name] for name in ("delta", "theta", "alpha", "beta")},
    "emg": {"low": (10.0, 20.0), "mid": (20.0, 30.0), "high": (30.0, 45.0)},
    "ecg": {"t_wave": (0.5, 5.0), "qrs": (5.0, 20.0), "high": (20.0, 45.0)},
    "resp": {"slow": (0.05, 0.15), "breath": (0.15, 0.5), "fast": (0.5, 2.0)},
}
SEGMENT_S = {"resp": 8.0}  # of spectra; 2 s elsewhere
SHOWN_S = {"resp": 60.0}  # of a crop in the picture; 8 s elsewhere


@dataclasses.dataclass(frozen=True)
class Landmark:
    """A recurring event whose time matters: R-peaks, breaths.

    Attributes:
        name: of the metric.
        band_hz: where it is looked for; the low edge may be 0.
        apart_s: shortest distance between two of them.
        match_s: two peaks further apart are not the same event.
        energy: look for peaks of the squared signal, so that polarity does not matter.
    """

    name: str
    band_hz: tuple[float, float]
    apart_s: float
    match_s: float
    energy: bool


LANDMARKS = {
    "ecg": Landmark("r_peak", (5.0, 20.0), 0.3, 0.15, True),
    "resp": Landmark("breath", (0.0, 0.7), 1.5, 1.0, False),
}


class Reconstruction:
    """Original against reconstruction, over a split's crops.

    - ``snr_db``: signal power over error power, pooled over valid samples.
    - ``coherence/<band>``: magnitude-squared coherence, spectra pooled over all crops, mean over
      the band's bins.
    - ``log_spectral_distance_db``: root mean square over bins, up to 45 Hz, of the difference of
      log spectra of a crop, mean over crops.
    - ECG and respiration: ``r_peak`` or ``breath`` ``_error_ms``, median absolute time difference
      of matched peaks; ``_missed`` and ``_extra``, shares of peaks without a partner.

    All but the SNR use crops that are valid throughout.
    """

    def __init__(
        self,
        context,
        *,
        signal_type: str,
        split: str = "validation",
        batch_size: int | None = None,
        limit: int | None = None,
        rows: int = 4,
    ):
        """Plan the evaluation.

        Args:
            context: ``hypnos_jax.evaluate.Context`` of an objective with ``reconstruct(batch)``.
            signal_type: ``"eeg"``, ``"eog"``, ``"emg"``, ``"ecg"`` or ``"resp"``.
            split: which nights.
            batch_size: crops per batch; the training's by default.
            limit: at most this many batches; all by default.
            rows: crops in the picture, ``figures/<step>_reconstruction_<signal type>.png``; 0 for
                no picture.

        Raises:
            ValueError: another signal type.
        """
        if signal_type not in BANDS:
            raise ValueError(f"signal_type={signal_type!r}; use one of {sorted(BANDS)}")
        self.signal_type, self.rows = signal_type, rows
        self.reconstruct = context.functions("reconstruct")
        self.batches = lambda: context.batches(split, batch_size, limit)
        self.context = context

    def run(self, variables: dict, step: int) -> Iterator[tuple[str, float]]:
        """Yield the metrics, and draw the picture; nothing without valid seconds."""
        power = noise = 0.0
        originals, estimates = [], []
        for batch in self.batches():
            arrays = {name: batch[name] for name in ("signal", "valid", "weight")}
            arrays["estimate"] = self.reconstruct(variables, batch)
            if jax.process_count() > 1:
                arrays = multihost_utils.process_allgather(arrays, tiled=True)
            arrays = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
            valid = (arrays["valid"] > 0) & (arrays["weight"] > 0)[:, None]
            original, estimate = arrays["signal"], arrays["estimate"]
            rate_hz = original.shape[1] // valid.shape[1]
            counted = np.repeat(valid, rate_hz, axis=1)
            power += np.sum(original[counted] ** 2)
            noise += np.sum((estimate - original)[counted] ** 2)
            whole = valid.all(1)
            originals.append(original[whole])
            estimates.append(estimate[whole])
        if power > 0:
            yield "snr_db", float(10 * np.log10(power / max(noise, 1e-12)))
        original = np.concatenate(originals) if originals else np.zeros((0, 0))
        if not len(original):
            return
        estimate = np.concatenate(estimates)
        segment = int(min(SEGMENT_S.get(self.signal_type, 2.0) * rate_hz, original.shape[1]))
        spectra = Spectra.of(original, estimate, rate_hz, segment)
        for name, band in BANDS[self.signal_type].items():
            yield f"coherence/{name}", spectra.coherence_in(band)
        yield "log_spectral_distance_db", spectra.distance_db()
        if self.signal_type in LANDMARKS:
            landmark = LANDMARKS[self.signal_type]
            for name, value in timing(original, estimate, rate_hz, landmark).items():
                yield f"{landmark.name}_{name}", value
        if self.rows and distributed.is_first():
            figures = pathlib.Path(self.context.workdir) / "figures"
            figures.mkdir(parents=True, exist_ok=True)
            path = figures / f"{step}_reconstruction_{self.signal_type}.png"
            shown_s = SHOWN_S.get(self.signal_type, 8.0)
            title = f"{self.signal_type}, step {step}"
            draw(path, original, estimate, rate_hz, spectra, self.rows, shown_s, title)


@dataclasses.dataclass(frozen=True)
class Spectra:
    """Welch spectra of crops and of their reconstructions.

    Attributes:
        hz: [F].
        original, estimate: power densities of each crop, [N, F].
        cross: cross-spectrum, mean over crops, complex [F].
    """

    hz: np.ndarray
    original: np.ndarray
    estimate: np.ndarray
    cross: np.ndarray

    @classmethod
    def of(cls, original, estimate, rate_hz: int, segment: int) -> Spectra:
        """Estimate from [N, T] and [N, T] with Hann windows of ``segment`` samples, half apart."""
        options = {"fs": rate_hz, "nperseg": segment, "detrend": False}
        hz, x = scipy.signal.welch(original, **options)
        _, y = scipy.signal.welch(estimate, **options)
        _, cross = scipy.signal.csd(original, estimate, **options)
        return cls(hz, x, y, cross.mean(0))

    @property
    def coherence(self) -> np.ndarray:
        """Magnitude-squared coherence [F]."""
        product = self.original.mean(0) * self.estimate.mean(0)
        return np.abs(self.cross) ** 2 / np.maximum(product, 1e-20)

    def coherence_in(self, band: tuple[float, float]) -> float:
        """Mean coherence of the bins from the band's low edge up to its high edge."""
        inside = (self.hz >= band[0]) & (self.hz < band[1])
        return float(self.coherence[inside].mean()) if inside.any() else 0.0

    def distance_db(self, up_to_hz: float = 45.0, floor_db: float = -60.0) -> float:
        """Log-spectral distance; densities below the floor count as the floor."""
        inside = (self.hz > 0) & (self.hz <= up_to_hz)
        a, b = (
            np.maximum(10 * np.log10(np.maximum(x[:, inside], 1e-20)), floor_db)
            for x in (self.original, self.estimate)
        )
        return float(np.sqrt(((a - b) ** 2).mean(1)).mean())


def timing(original, estimate, rate_hz: int, landmark: Landmark) -> dict[str, float]:
    """Compare the times of a landmark in crops [N, T] and in their reconstructions.

    Returns:
        ``error_ms`` (NaN-free: absent where nothing matched), ``missed``, ``extra``.
    """
    errors, missed, extra, there, found = [], 0, 0, 0, 0
    for x, y in zip(original, estimate, strict=True):
        a, b = (peaks(signal, rate_hz, landmark) for signal in (x, y))
        pairs = match(a, b, round(landmark.match_s * rate_hz))
        errors += [abs(int(a[i]) - int(b[j])) for i, j in pairs]
        missed, extra = missed + len(a) - len(pairs), extra + len(b) - len(pairs)
        there, found = there + len(a), found + len(b)
    result = {"missed": missed / max(there, 1), "extra": extra / max(found, 1)}
    if errors:
        result["error_ms"] = float(np.median(errors)) / rate_hz * 1000
    return result


def peaks(signal: np.ndarray, rate_hz: int, landmark: Landmark) -> np.ndarray:
    """Return the samples at which the landmark's peaks are, int [n]."""
    low, high = landmark.band_hz
    edges, kind = ((low, high), "bandpass") if low else (high, "lowpass")
    sos = scipy.signal.butter(2, edges, kind, fs=rate_hz, output="sos")
    x = scipy.signal.sosfiltfilt(sos, signal)
    x = x**2 if landmark.energy else x
    # Of the upper tail where peaks are narrow, of the spread where they are half of the signal.
    least = 0.3 * np.percentile(x, 98) if landmark.energy else 0.5 * x.std()
    distance = max(round(landmark.apart_s * rate_hz), 1)
    return scipy.signal.find_peaks(x, distance=distance, prominence=max(least, 1e-9))[0]


def match(a: np.ndarray, b: np.ndarray, within: int) -> list[tuple[int, int]]:
    """Pair each time of ``a`` with the nearest of ``b`` where each is the other's nearest."""
    if not len(a) or not len(b):
        return []
    apart = np.abs(a[:, None] - b)
    to_b, to_a = apart.argmin(1), apart.argmin(0)
    return [(i, j) for i, j in enumerate(to_b) if to_a[j] == i and apart[i, j] <= within]


def draw(path, original, estimate, rate_hz, spectra, rows, shown_s, title) -> None:
    """Draw crops over their reconstructions, and the spectra and coherence below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no window system needed
    from matplotlib.figure import Figure

    rows = min(rows, len(original))
    chosen = np.linspace(0, len(original) - 1, rows).round().astype(int)
    shown = min(int(shown_s * rate_hz), original.shape[1])
    figure = Figure(figsize=(11, 1.7 * rows + 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(rows + 1, 2, height_ratios=[*[1.0] * rows, 1.5])
    figure.suptitle(title)
    # The end of a crop: its beginning is decoded without a past.
    seconds = np.arange(original.shape[1])[-shown:] / rate_hz
    first = None
    for line, row in enumerate(chosen):
        axis = first = figure.add_subplot(grid[line, :], sharex=first)
        axis.plot(seconds, original[row, -shown:], color="0.6", lw=1.6, label="original")
        axis.plot(seconds, estimate[row, -shown:], color="tab:red", lw=0.8, label="reconstruction")
        axis.set_ylabel("z-score")
        axis.margins(x=0)
        if line == 0:
            axis.legend(loc="upper right", ncols=2, fontsize=8, framealpha=0.8)
        axis.tick_params(labelbottom=line == rows - 1)
    axis.set_xlabel("time in the crop (s)")
    inside = (spectra.hz > 0) & (spectra.hz <= 45)
    hz = spectra.hz[inside]
    power = figure.add_subplot(grid[rows, 0])
    power.semilogy(hz, spectra.original.mean(0)[inside], color="0.6", lw=2, label="original")
    power.semilogy(
        hz, spectra.estimate.mean(0)[inside], color="tab:red", lw=1, label="reconstruction"
    )
    power.set(xlabel="frequency (Hz)", ylabel="power density (1/Hz)")
    power.legend(fontsize=8)
    coherence = figure.add_subplot(grid[rows, 1])
    coherence.plot(hz, spectra.coherence[inside], color="tab:blue")
    coherence.set(xlabel="frequency (Hz)", ylabel="coherence", ylim=(0, 1.02))
    figure.savefig(path, dpi=110)
