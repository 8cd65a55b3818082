"""SynthSleepNet's channels: filters against MNE's, both orders, and which channel a row is of."""

from fractions import Fraction

import numpy as np
import pytest
import scipy.signal

from data_pipelines.builders.recording_night import Pending, PrepareRecording
from data_pipelines.channels.resolve import resolve
from data_pipelines.recipes import find_recipe, sleep_edfx, synthsleepnet, synthsleepnet_epochwise
from data_pipelines.recordings.base import RecordingError
from data_pipelines.recordings.opening import open_recording, read_channel
from data_pipelines.signals.causal import UnusableSignal
from data_pipelines.signals.fir import filter_fir, fir_taps
from data_pipelines.signals.modalities import make_modality
from data_pipelines.signals.resampling import resample

BANDS = synthsleepnet.BANDS


def make(row, signal, sfreq):
    return make_modality(row, lambda channel: (signal, Fraction(sfreq)), [*row.made_of]).signal


def real(folder, name):
    """A channel of two minutes of a real night."""
    recording = open_recording(folder / "nox-a1" / "subject1.edf")
    return read_channel(recording, resolve(recording.labels).bindings[name])


@pytest.fixture(scope="module")
def mne_filter():
    filters = pytest.importorskip("mne.filter")
    return lambda x, rate, band: filters.filter_data(x, rate, *band, verbose="error")


def test_the_rows_are_the_channels_that_the_official_code_parses():
    assert synthsleepnet.RECIPE.wanted() == (
        *("eeg_c4", "eeg_c3", "eog_e1", "eog_e2", "ecg", "emg_chin"),
    )
    assert synthsleepnet.RECIPE.wanted("seven")[-1] == "airflow"
    assert {row.frames for row in synthsleepnet.ROWS.values()} == {3000}
    assert sleep_edfx.RECIPE.wanted() == ("eeg_fpz_cz", "eeg_pz_oz", "eog_horizontal")
    lengths = {kind: len(fir_taps(100.0, band, 50.0)) for kind, band in BANDS.items()}
    assert lengths == {"eeg": 661, "eog": 661, "ecg": 165, "emg": 331, "airflow": 6601}


@pytest.mark.parametrize("kind", [*BANDS, "sleep_edfx"])
def test_the_filters_are_those_of_mne(test_data, mne_filter, kind):
    band = BANDS.get(kind, (None, 40.0))
    signal, sfreq = real(test_data, "eeg_c4")
    for rate, x in (
        (float(sfreq), signal),
        (100.0, signal[: 3000 * 4].reshape(4, 3000)),  # each row for itself; shorter than 6,601
    ):
        found = filter_fir(x, rate, band, nyquist_hz=rate / 2)
        expected = mne_filter(x, rate, band)
        np.testing.assert_allclose(found, expected, atol=1e-9 * np.abs(expected).max())


def test_a_row_is_filtered_whole_then_resampled_then_scaled(test_data, mne_filter):
    signal, sfreq = real(test_data, "eeg_c4")
    made = make(synthsleepnet.ROWS["eeg_c4"], signal, sfreq)
    expected = resample(mne_filter(signal, float(sfreq), (0.5, 40.0)), sfreq, 100)
    lower, median, upper = np.percentile(expected, (25, 50, 75))
    expected = np.clip((expected - median) / (upper - lower), -20, 20)
    # Nothing but the ends, where a resampler has nothing before and behind, may differ.
    np.testing.assert_allclose(made.samples[100:-100], expected[100:-100], atol=2e-3)
    lower, median, upper = np.percentile(made.samples, (25, 50, 75))
    assert median == pytest.approx(0, abs=1e-5)
    assert upper - lower == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["eeg_c3", "ecg", "emg_chin"])
def test_the_official_order_is_epoch_by_epoch(test_data, mne_filter, name):
    signal, sfreq = real(test_data, name)
    row = synthsleepnet_epochwise.ROWS[name]
    made = make(row, signal, sfreq)
    by_epoch = signal.reshape(-1, 30 * int(sfreq))
    by_epoch = scipy.signal.resample(by_epoch, 3000, axis=-1)
    flat = np.concatenate([mne_filter(epoch, 100.0, row.band_hz) for epoch in by_epoch])
    quartiles = np.percentile(flat, (25, 50, 75))
    expected = np.clip((flat - quartiles[1]) / (quartiles[2] - quartiles[0]), -20, 20)
    np.testing.assert_allclose(made.samples, expected, atol=1e-5)
    other = make(synthsleepnet.ROWS[name], signal, sfreq)
    assert np.abs(other.samples - expected).max() > 0.1  # an edge rings in the one alone


def test_the_official_order_leaves_out_what_is_less_than_an_epoch():
    row, noise = synthsleepnet_epochwise.ROWS["ecg"], np.random.default_rng(0)
    made = make(row, noise.standard_normal(70 * 125), 125)
    assert made.valid.tolist() == [True] * 60 + [False] * 10
    with pytest.raises(UnusableSignal, match="no whole number"):
        make(row, noise.standard_normal(6000), Fraction(1000, 7))
    with pytest.raises(UnusableSignal, match="no whole epoch"):
        make(row, noise.standard_normal(29 * 125), 125)


@pytest.mark.parametrize("rate", [125, 256])
def test_the_chin_keeps_its_band_and_neither_hum_nor_what_would_fold_into_it(rate):
    at, seconds = np.arange(rate * 120) / rate, 120
    rng = np.random.default_rng(1)
    power = {}
    for hz in (35.0, 46.0, 50.0, 53.0, 60.0):
        signal = 0.01 * rng.standard_normal(len(at)) + np.sin(2 * np.pi * hz * at)
        filtered = filter_fir(signal, rate, BANDS["emg"], nyquist_hz=50.0)
        out = resample(filtered, Fraction(rate), 100)[500 : 100 * seconds - 500]
        power[hz] = float(np.square(out).mean())
    assert power[35.0] == pytest.approx(0.5, rel=0.02)
    assert power[46.0] > 0.3  # the resampler is 1 dB down there
    assert max(power[50.0], power[53.0], power[60.0]) < 5e-4


def test_a_rate_that_holds_less_of_the_band_gives_what_it_holds():
    rng = np.random.default_rng(2)
    made = make(synthsleepnet.ROWS["eog_e1"], rng.standard_normal(120 * 50), 50)
    frequency, power = scipy.signal.welch(made.samples, 100, nperseg=1000)
    assert power[(frequency > 1) & (frequency < 22)].min() > 20 * power[frequency > 28].max()
    with pytest.raises(UnusableSignal, match="emg_chin: 50 Hz holds nothing of 25 Hz"):
        make(synthsleepnet.ROWS["emg_chin"], rng.standard_normal(6000), 50)


def test_a_gap_is_zero_and_disturbs_no_far_second():
    signal = np.random.default_rng(3).standard_normal(300 * 125)
    whole = make(synthsleepnet.ROWS["eeg_c4"], signal, 125)
    signal[100 * 125 : 140 * 125] = np.nan
    made = make(synthsleepnet.ROWS["eeg_c4"], signal, 125)
    assert made.valid.tolist() == [not 100 <= second < 140 for second in range(300)]
    assert not made.samples[100 * 100 : 140 * 100].any()
    far = np.r_[0 : 95 * 100, 145 * 100 : 300 * 100]
    assert np.corrcoef(made.samples[far], whole.samples[far])[0, 1] > 0.999


def prepare(labels, recipe, cohort=None):
    rng = np.random.default_rng(4)
    signals = {label: (20 * rng.standard_normal(120 * 125), 125) for label in labels}
    recipe = find_recipe(recipe)
    make_night = PrepareRecording(recipe, recipe.wanted(list(recipe.sets)[-1]), mains_hz=60)
    return make_night(Pending("one", signals, scoring=False, cohort=cohort))


@pytest.mark.parametrize("second", ["EEG(sec)", "EEG(SEC)", "EEG sec", "EEG SEC", "EEG2", "EEG 2"])
def test_in_shhs_the_first_eeg_is_c4_and_the_second_c3(second):
    labels = ["EEG", second, "EOG(L)", "EOG(R)", "ECG", "EMG"]
    qc = prepare(labels, "synthsleepnet", "shhs").qc["channels"]
    assert {name: facts["label"] for name, facts in qc.items()} == {
        "eeg_c4": "EEG",
        "eeg_c3": second,
        "eog_e1": "EOG(L)",
        "eog_e2": "EOG(R)",
        "ecg": "ECG",
        "emg_chin": "EMG",
    }


@pytest.mark.parametrize("label", ["NEW AIR", "NEWAIR", "New Air", "NEW A/F", "AIRFLOW"])
def test_the_airflow_of_shhs_by_any_of_its_names(label):
    assert resolve(["EEG", label], cohort="shhs").bindings["airflow"].label == label


def test_no_channel_takes_the_place_of_another():
    night = prepare(["F4-M1", "Fpz-Cz", "E1-M2"], "synthsleepnet")
    assert set(night.channels) == {"eog_e1"}
    with pytest.raises(
        RecordingError,
        match="it has eeg_f3, eeg_f4, and synthsleepnet is made of eeg_c4, eeg_c3, eog_e1",
    ):
        prepare(["F3-M2", "F4-M1"], "synthsleepnet")
    # In Sleep-EDF other families take these for C3, C4 and E1.
    labels = ["EEG Fpz-Cz", "EEG Pz-Oz", "EOG horizontal"]
    assert set(prepare(labels, "sleep_edfx", "sleep_edf").channels) == set(sleep_edfx.THREE)
    with pytest.raises(RecordingError, match="it has eeg_fpz_cz, eeg_pz_oz, eog_horizontal"):
        prepare(labels, "synthsleepnet", "sleep_edf")
    assert set(prepare(labels, "hypnos", "sleep_edf").channels) >= {"eeg_c3", "eeg_c4", "eog_e1"}
