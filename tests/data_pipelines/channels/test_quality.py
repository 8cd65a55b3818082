"""Verdicts on made signals with one fault each, and on real recordings."""

import json
from fractions import Fraction

import numpy as np
import pytest
import scipy.io

from data_pipelines.channels import resolve
from data_pipelines.channels.quality import check_quality
from data_pipelines.recordings.base import Recording, sample_range
from data_pipelines.recordings.opening import open_recording, read_channel

RATE = 200
SECONDS = 120


class Arrays(Recording):
    """Signals by label: ``{label: (signal, unit)}`` or ``(signal, unit, declared unit, rate)``."""

    def __init__(self, signals):
        self.name, self.path, self.start_of_day_s, self.notes = "arrays", None, None, []
        self.labels = list(signals)
        self._signals = list(signals.values())
        signal, *rest = self._signals[0]
        self.duration_s = len(signal) / (rest[2] if len(rest) > 2 else RATE)

    def sfreq_hz(self, index):
        return Fraction(self._signals[index][3] if len(self._signals[index]) > 3 else RATE)

    def unit(self, index):
        return self._signals[index][1]

    def declared_unit(self, index):
        return self._signals[index][2] if len(self._signals[index]) > 2 else self.unit(index)

    def read(self, index, start_s=0, stop_s=None):
        signal = self._signals[index][0]
        begin, end = sample_range(start_s, stop_s, self.sfreq_hz(index), len(signal))
        return np.array(signal[begin:end], float)


def eeg(seed=0, seconds=SECONDS, rate=RATE):
    """Pink noise of about 20 uV with some alpha."""
    rng = np.random.default_rng(seed)
    size = seconds * rate
    spectrum = np.fft.rfft(rng.standard_normal(size))
    freqs = np.fft.rfftfreq(size, 1 / rate)
    pink = np.fft.irfft(spectrum / np.maximum(freqs, 0.5), size)
    alpha = np.sin(2 * np.pi * 10 * np.arange(size) / rate) * np.convolve(
        rng.standard_normal(size), np.ones(rate) / rate, "same"
    )
    return 20 * pink / pink.std() + 20 * alpha


def ecg(seed=0, seconds=SECONDS, rate=RATE, height=1000.0):
    """R peaks with small T waves at about 60 a minute, jittered."""
    rng = np.random.default_rng(seed)
    times = np.arange(seconds * rate) / rate
    beats = np.cumsum(rng.normal(1.0, 0.03, seconds + 5))
    signal = rng.normal(0, 10, len(times))
    for beat in beats:
        signal += height * np.exp(-(((times - beat) / 0.015) ** 2))
        signal += 0.2 * height * np.exp(-(((times - beat - 0.25) / 0.06) ** 2))
    return signal


def belt(seed=0, seconds=SECONDS, rate=RATE):
    rng = np.random.default_rng(seed)
    times = np.arange(seconds * rate) / rate
    return np.sin(2 * np.pi * 0.25 * times) + rng.normal(0, 0.02, len(times))


def checked(signals, **kwargs):
    recording = Arrays(signals)
    quality = check_quality(recording, resolve.resolve(recording.labels), **kwargs)
    return recording, quality


def one(label, signal, *rest):
    recording, quality = checked({label: (signal, *rest)})
    (channel,) = quality.channels.values()
    return recording, channel


def test_sound_channels_are_left_alone():
    _, quality = checked(
        {
            "C3-M2": (eeg(), "uV"),
            "ECG": (ecg(), "uV"),
            "THOR RES": (belt(), ""),
            "SpO2": (np.full(SECONDS * RATE, 96.0), "%"),
        }
    )
    assert [channel.status for channel in quality.channels.values()] == ["ok"] * 4
    assert all(channel.notes == () for channel in quality.channels.values())
    assert all(channel.binding.scale == 1 for channel in quality.channels.values())


@pytest.mark.parametrize(
    "label, signal, unit, declared, wrong",
    [
        ("C3-M2", eeg(), "uV", "mV", 1e3),
        ("C3-M2", eeg(), "uV", "uV", 1e-3),
        ("C3-M2", eeg(), "", "", 1e-6),
        ("ECG", ecg(), "uV", "V", 1e3),
        ("ECG", ecg(), "uV", "uV", 1e-3),
        ("E1-M2", eeg(2), "uV", "uV", 1e-3),
    ],
)
def test_units_wrong_by_a_thousand_are_set_right(label, signal, unit, declared, wrong):
    recording, channel = one(label, signal * wrong, unit, declared)
    assert channel.status == "fixed"
    assert channel.unit == "uV"
    assert f"times {1 / wrong:g}" in channel.notes[0]
    assert (repr(declared) if declared else "without a unit") in channel.notes[0]
    read, _ = read_channel(recording, channel.binding)
    np.testing.assert_allclose(read, signal)
    assert channel.amplitude == pytest.approx(
        np.std(signal.reshape(-1, RATE), axis=1).mean(), rel=1
    )


def test_a_missing_unit_that_fits_is_noted():
    _, channel = one("C3-M2", eeg(), "", "")
    assert channel.status == "ok"
    assert "without a unit; its amplitude fits uV" in channel.notes[0]


def test_a_poor_electrode_is_not_a_wrong_unit():
    _, channel = one("C3-M2", 100 * eeg(), "uV")
    assert channel.status == "ok"
    assert "is large for EEG" in channel.notes[0]


def test_an_amplitude_that_no_unit_explains_is_refused():
    _, channel = one("C3-M2", 1e-12 * eeg(), "uV")
    assert channel.status == "refused"
    assert "no unit explains it" in channel.notes[0]


def test_an_ecg_upside_down_is_turned():
    recording, channel = one("ECG", -ecg(), "uV")
    assert channel.status == "fixed"
    assert "R peaks point down" in channel.notes[0]
    read, _ = read_channel(recording, channel.binding)
    np.testing.assert_allclose(read, ecg())


def test_leads_that_point_down_by_nature_are_not_turned():
    _, channel = one("AVR", -ecg(), "uV")
    assert channel.status == "ok"
    assert channel.notes == ("peaks point down, as they do in this lead",)


def test_unit_and_polarity_are_both_set_right():
    recording, channel = one("ECG", -1e-3 * ecg(), "uV")
    assert channel.binding.scale == pytest.approx(-1e3)
    np.testing.assert_allclose(read_channel(recording, channel.binding)[0], ecg())


def test_a_derived_channel_keeps_its_inversion():
    recording, channel = one("M2-C3", -1e-3 * eeg(), "uV")
    np.testing.assert_allclose(read_channel(recording, channel.binding)[0], eeg())


@pytest.mark.parametrize("label", ["C3-M2", "E1-M2", "EMG Chin"])
def test_an_ecg_under_another_label_is_refused(label):
    _, channel = one(label, 0.3 * ecg(), "uV")
    assert channel.status == "refused"
    assert "looks like an ECG" in channel.notes[0]


def test_traces_of_the_heart_in_the_chin_are_only_noted():
    signal = (
        np.random.default_rng(1).normal(0, 1, SECONDS * RATE) + ecg(height=20.0) - ecg(height=0)
    )
    _, channel = one("EMG Chin", signal, "uV")
    assert channel.status == "ok"
    assert "heart beats are visible" in channel.notes[0]


def test_an_ecg_without_beats_is_noted():
    noise = np.random.default_rng(0).normal(0, 100, SECONDS * RATE)
    _, channel = one("ECG", noise, "uV")
    assert channel.notes == ("no heart beat is visible in it",)


def test_a_belt_that_does_not_breathe_is_noted():
    noise = np.random.default_rng(0).normal(0, 1, SECONDS * RATE)
    _, channel = one("THOR RES", noise, "")
    assert channel.notes == ("no breathing rhythm is visible in it",)


@pytest.mark.parametrize(
    "signal, message",
    [
        (np.zeros(SECONDS * RATE), "flat: 100% of it does not move"),
        (np.full(SECONDS * RATE, 37.5), "flat"),
        (np.full(SECONDS * RATE, np.nan), "no samples"),
        (np.sign(eeg()) * 20, "different values"),
        (np.clip(eeg(), -1, 1), "clipped"),
        (np.concatenate([eeg(seconds=2), np.zeros((SECONDS - 2) * RATE)]), "flat"),
    ],
)
def test_channels_without_a_signal_are_refused(signal, message):
    _, channel = one("C3-M2", signal, "uV")
    assert channel.status == "refused"
    assert message in channel.notes[-1]


def test_infinite_readings_count_as_missing():
    signal = eeg()
    signal[: len(signal) // 4] = np.inf
    _, channel = one("C3-M2", signal, "uV")
    assert channel.status == "ok"
    assert channel.nan_share == pytest.approx(0.25, abs=0.01)
    assert channel.notes == ("25% missing",)


def test_shares():
    signal = eeg()
    signal[: 30 * RATE] = 0
    signal = np.clip(signal, -60, 25)
    _, channel = one("C3-M2", signal, "uV")
    assert channel.flat_share == pytest.approx(0.25, abs=0.02)
    plateau = np.mean(signal[30 * RATE :] == 25)
    assert channel.clipped_share == pytest.approx(plateau, rel=0.3)
    assert channel.notes[0] == "25% flat"


def test_copies_of_a_channel_are_refused():
    _, quality = checked({"C3-M2": (eeg(), "uV"), "C4-M1": (eeg(), "uV"), "F3-M2": (eeg(5), "uV")})
    assert quality.channels["eeg_c3"].status == "ok"
    assert quality.channels["eeg_c4"].status == "refused"
    assert "the same as eeg_c3" in quality.channels["eeg_c4"].notes[-1]
    assert quality.channels["eeg_f3"].status == "ok"


def test_the_next_best_takes_the_place_of_a_flat_channel():
    flat = np.zeros(SECONDS * RATE)
    recording, quality = checked(
        {"C3-M2": (flat, "uV"), "C3": (eeg(1) + eeg(2), "uV"), "M2": (eeg(2), "uV")}
    )
    channel = quality.channels["eeg_c3"]
    assert channel.status == "ok"
    assert channel.notes == ("taken because 'C3-M2' was refused (flat: 100% of it does not move)",)
    np.testing.assert_allclose(read_channel(recording, channel.binding)[0], eeg(1), atol=1e-9)


def test_the_first_refusal_stands_where_nothing_else_is_better():
    flat = np.zeros(SECONDS * RATE)
    _, quality = checked({"ECG": (flat, "uV"), "ECG2": (np.nan * flat, "uV")})
    assert quality.channels["ecg"].binding.label == "ECG"
    assert "flat" in quality.channels["ecg"].notes[-1]


@pytest.mark.parametrize("level, status", [(0.96, "fixed"), (96, "ok"), (3000, "refused")])
def test_saturation_in_per_cent(level, status):
    recording, channel = one("SpO2", np.full(SECONDS * RATE, level), "%")
    assert channel.status == status
    if status != "refused":
        np.testing.assert_allclose(read_channel(recording, channel.binding)[0], 96)


@pytest.mark.parametrize("label, rate", [("EMG submental", 1), ("THOR RES", 1), ("C3-M2", 25)])
def test_numbers_are_not_waveforms(label, rate):
    signal = np.random.default_rng(0).normal(0, 20, SECONDS * rate)
    _, channel = one(label, signal, "uV", "uV", rate)
    assert channel.status == "refused"
    assert f"{rate} Hz is too slow" in channel.notes[0]


# --- mains ----------------------------------------------------------------------------------------


def hum(frequency, height=2.0):
    return eeg() + height * np.sin(2 * np.pi * frequency * np.arange(SECONDS * RATE) / RATE)


@pytest.mark.parametrize("frequency", [50, 60])
def test_the_mains_frequency_is_seen(frequency):
    _, quality = checked({"C3-M2": (hum(frequency), "uV"), "C4-M1": (eeg(3), "uV")})
    assert quality.mains_hz == frequency
    assert quality.notes[0].startswith(f"{frequency} Hz line hum")


def test_without_hum_the_mains_frequency_stays_open():
    _, quality = checked({"C3-M2": (eeg(), "uV")})
    assert quality.mains_hz is None
    assert quality.notes == ("no line hum at 50 or 60 Hz stands out",)


def test_the_given_mains_frequency_holds_and_doubt_is_said():
    _, quality = checked({"C3-M2": (hum(60), "uV")}, mains_hz=50)
    assert quality.mains_hz == 50
    assert "the spectrum shows 60 Hz" in quality.notes[0]
    with pytest.raises(ValueError, match="mains_hz=55"):
        checked({"C3-M2": (eeg(), "uV")}, mains_hz=55)


# --- real recordings ------------------------------------------------------------------------------


def checked_file(path, **kwargs):
    recording = open_recording(path)
    return check_quality(recording, resolve.resolve(recording.labels, **kwargs))


def test_the_nox_night(test_data):
    quality = checked_file(test_data / "nox-a1/subject1.edf")
    assert quality.mains_hz == 50
    assert {channel.status for channel in quality.channels.values()} == {"ok"}
    assert quality.channels["emg_leg_l"].flat_share > 0.5


@pytest.mark.parametrize("wrong", [1, 1e3, 1e-3, 1e-6])
def test_84_minutes_of_sleep_eeg_in_any_unit(test_data, wrong):
    """All stages of a real night's EEG in uV: sound as it is, and set right when it is not."""
    signal = scipy.io.loadmat(test_data / "dynamo/segment_data.mat")["data"].ravel()
    recording, channel = one("C3-M2", signal * wrong, "uV", "uV", 100)
    assert channel.status == ("ok" if wrong == 1 else "fixed")
    read, _ = read_channel(recording, channel.binding, 0, 60)
    np.testing.assert_allclose(read, signal[:6000])


def test_the_sleep_edf_night(test_data):
    quality = checked_file(test_data / "sleep-edf/short_psg.edf", cohort="sleep_edf")
    assert quality.channels["eeg_c3"].status == "ok"
    assert "stand-in" in quality.channels["eeg_c3"].notes[0]
    assert quality.channels["emg_chin"].status == "refused"


def test_other_peoples_hearts(test_data):
    pytest.importorskip("wfdb")
    sinus = checked_file(test_data / "wfdb-samples/100.hea")
    assert (sinus.channels["ecg"].status, sinus.mains_hz) == ("ok", 60)
    monitor = checked_file(test_data / "wfdb-samples/03700181.hea")
    assert monitor.channels["ecg"].status == "ok"  # lead MCL1 points down by nature


def test_inverted_cinc_records_are_turned_and_upright_ones_are_not(test_data):
    """Read off the plotted records: in these the R peak is plain and of one direction."""
    for name, status in [
        ("A00112", "fixed"),
        ("A00188", "fixed"),
        ("A00207", "fixed"),
        ("A00001", "ok"),
        ("A00002", "ok"),
    ]:
        assert checked_file(test_data / f"cinc2017/{name}.mat").channels["ecg"].status == status


def test_a_verdict_goes_into_a_manifest(test_data):
    quality = checked_file(test_data / "nox-a1/subject1.edf")
    text = json.dumps(quality.to_json(), allow_nan=False)
    assert json.loads(text)["channels"]["ecg"]["label"] == "ECG"
    assert str(test_data) not in text
