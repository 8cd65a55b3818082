"""The page of a recording in doubt: what stands on it, and that it is always drawn."""

import pathlib
import subprocess
import sys

import edf_files
import numpy as np
import pytest
from tiny_recordings import CANARY, write_edf, write_hypnogram

from data_pipelines import scoring
from data_pipelines.channels import resolve
from data_pipelines.channels.quality import check_quality
from data_pipelines.findings import Finding
from data_pipelines.recordings.opening import open_recording
from data_pipelines.scoring import Event, Scoring
from hypnos_jax.reports import recording_figure

pytest.importorskip("matplotlib")
ROOT = pathlib.Path(__file__).parents[2]
MANY = (
    "C3-M2 C4-M1 E1-M2 E2-M1 Chin1-Chin2 ECG Abdomen Thorax F3-M2 F4-M1 O1-M2 O2-M1 Airflow "
    "Nasal&Pressure SpO2 Pulse Pleth Leg/L Leg/R Snore"
)


def page_of(path, **options):
    recording = open_recording(path)
    resolution = resolve.resolve(recording.labels, unreadable=recording.unreadable)
    quality = check_quality(recording, resolution)
    return recording_figure.figure_of(recording, quality, **options), quality, recording


def words(figure):
    texts = [text.get_text() for text in figure.texts]
    for axis in figure.axes:
        texts += [text.get_text() for text in axis.texts]
        texts += [label.get_text() for label in axis.get_yticklabels()]
    return "\n".join(texts)


def gapped_edf(path):
    """Ten minutes in three pieces; an EEG, an ECG turned over, eyes that are flat."""
    seconds, rate_hz = 600, 100
    rng = np.random.default_rng(0)
    beats = np.zeros(seconds * rate_hz)
    beats[::85], beats[1::85] = -9000, -7000
    eeg = rng.normal(0, 700, beats.shape)
    signals = [
        edf_files.signal(label, samples.astype("<i2").reshape(seconds, rate_hz))
        for label, samples in (
            ("C3-M2", eeg),
            ("ECG II", beats + rng.normal(0, 100, beats.shape)),
            ("E1-M2", 0 * eeg),
            ("$odd_{$", eeg),
        )
    ]
    times = [k + 200 * (k >= 150) + 300 * (k >= 400) for k in range(seconds)]
    signals.append(edf_files.annotations([edf_files.onset(at) for at in times]))
    path.write_bytes(edf_files.edf(signals, reserved="EDF+D", start="23.50.00"))
    return path


@pytest.fixture
def scored():
    stages = [-1] * 4 + [0] * 3 + [1] * 2 + [2] * 6 + [-1] * 3 + [3] * 5 + [2] * 3 + [4] * 12
    events = [Event("hypopnea", 420.0, 20.0), Event("arousal", 441.0, 5.0, "respiratory")]
    events += [Event("lights_off", 60.0, 0.0), Event("position", 0.0, 500.0, "supine")]
    return Scoring(np.array(stages, np.int8), events, "made")


def test_what_the_page_says(tmp_path, scored):
    path = gapped_edf(tmp_path / "a.edf")
    findings = [
        Finding("scoring_shifted", "start", "moved by 60 s to where the clocks put it"),
        Finding("scoring_trimmed", "scoring after the recording's end", "too long", seconds=90.0),
    ]
    notes = ["something else was odd"]
    figure, quality, _ = page_of(path, scored=scored, findings=findings, notes=notes)
    text = words(figure)
    assert [channel.status for channel in quality.channels.values()] == ["ok", "refused", "fixed"]
    for word in ("ok", "REFUSED", "FIXED", "does not move", "turned over", "ECG II,  100 Hz"):
        assert word in text
    assert "- moved by 60 s to where the clocks put it" in text
    assert "0:01:30 of scoring left out \u25ba" in text
    assert "- something else was odd" in text
    assert "from 23:50:00" in text and "0:18:20 h" in text
    assert "hypopnea (1)" in text and "arousal (1)" in text and "supine" in text
    assert "lights off" in text
    assert "hatched: unscored, 18% of it" in text
    assert "gap" not in text.splitlines()  # the pieces of sleep are chosen beside the gaps


def test_pieces_are_of_sleep_and_beside_gaps(tmp_path, scored):
    recording = open_recording(gapped_edf(tmp_path / "a.edf"))
    assert recording.gaps == [(150.0, 350.0), (600.0, 900.0)]
    places = recording_figure.places_of(recording, scored)
    assert [place.name for place in places] == ["sleep begins", "half of sleep", "last sleep"]
    for place in places:
        assert scored.stages[int(place.start_s // 30)] > 0
        assert all(
            place.start_s + 30 <= start or place.start_s >= stop for start, stop in recording.gaps
        )
    names = [place.name for place in recording_figure.places_of(recording, None)]
    assert names == ["a tenth", "half", "nine tenths"]


def test_a_voltage_is_drawn_in_its_unit(tmp_path):
    """A sine of 100 uV has a spectrum of 10 log10(100^2 / 2) dB over its frequency."""
    times = np.arange(300 * 100) / 100
    wave = (100 * np.sin(2 * np.pi * 10 * times) * 32.7675).round()
    noise = np.random.default_rng(0).normal(0, 30, times.shape)
    signal = edf_files.signal("C3-M2", (wave + noise).astype("<i2").reshape(300, 100))
    (tmp_path / "a.edf").write_bytes(edf_files.edf([signal]))
    figure, _, _ = page_of(tmp_path / "a.edf")
    pieces, spectrum = figure.axes[:2]
    drawn = np.concatenate([line.get_ydata() for line in pieces.lines[:3]])
    assert 95 < np.max(np.abs(drawn)) < 110
    (line,) = (line for line in spectrum.lines if len(line.get_xdata()) > 2)
    peak = np.argmax(line.get_ydata())
    assert 10 ** line.get_xdata()[peak] == pytest.approx(10, abs=0.3)
    power = np.sum(10 ** (line.get_ydata()[peak - 2 : peak + 3] / 10)) * 0.25
    assert power == pytest.approx(100**2 / 2, rel=0.05)


@pytest.mark.parametrize(("count", "seconds"), [(1, 20), (2, 40), (20, 70)])
def test_any_number_of_channels_and_any_length(tmp_path, count, seconds):
    labels = dict.fromkeys((label.replace("&", " ") for label in MANY.split()[:count]), 30.0)
    figure, quality, _ = page_of(write_edf(tmp_path / "a.edf", seconds=seconds, labels=labels))
    assert len(quality.channels) == count
    text = words(figure)
    assert all(name in text for name in quality.channels)
    assert "no scoring" in text
    assert CANARY.split()[0] not in text and "1961" not in text and "1985" not in text


@pytest.mark.parametrize("rate_hz", [0.1, 0.5, 3, 4000])
def test_odd_rates_and_values(rate_hz):
    count = round(65 * rate_hz)
    noise = np.random.default_rng(0).normal(0, 20, count)
    odd = noise.copy()
    odd[::7], odd[1::7], odd[2::7] = np.inf, np.nan, 1e30
    signals = {
        "C3-M2": noise,
        "C4-M1": odd,
        "ECG": np.full(count, np.nan),
        "Chin1-Chin2": np.full(count, 1e-30),
        "Thorax": odd,
        "Airflow": np.full(count, -np.inf),
        "SpO2": odd,
        "Pulse": np.full(count, 60.0),
    }
    figure, quality, _ = page_of({label: (samples, rate_hz) for label, samples in signals.items()})
    figure.canvas.draw()
    assert len(quality.channels) == len(signals)


def test_a_recording_without_known_channels_has_a_page(tmp_path):
    path = write_edf(tmp_path / "a.edf", seconds=60, labels={"Wombat": 3.0})
    figure, _, _ = page_of(path)
    assert "none of its labels is a known channel" in words(figure)


def test_check_recordings_draws_a_page_a_recording(tmp_path):
    for folder in ("a", "b"):
        write_edf(tmp_path / folder / "night.edf", seconds=90)
    write_hypnogram(tmp_path / "a/night-Hypnogram.edf", [0, 2, 2])
    (tmp_path / "a/broken.edf").write_bytes(b"no recording")
    pages = tmp_path / "pages"
    done = subprocess.run(
        [sys.executable, "-m", "launch.check_recordings", f"--figure={pages}", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1  # of the broken one
    assert sorted(path.name for path in pages.iterdir()) == ["night-2.png", "night.png"]
    import matplotlib.image

    for path in pages.iterdir():
        assert path.name in done.stderr
        image = matplotlib.image.imread(path)
        assert image.shape[0] > 500 and image.std() > 0.05
        assert CANARY.split()[0].encode() not in path.read_bytes()
    assert scoring.find_scoring(tmp_path / "a/night.edf") is not None
