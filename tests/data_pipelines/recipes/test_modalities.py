"""Modalities of a recording: derived signals against what they were made from, gaps, scales."""

import json
import os
import pathlib
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import tiny_recordings

from data_pipelines import pipeline
from data_pipelines.recipes.sleep2vec import ELEVEN, NINE, RECIPE
from data_pipelines.recipes.sleep2vec import ROWS as MODALITIES
from data_pipelines.signals.causal import UnusableSignal
from data_pipelines.signals.modalities import make_modality
from data_pipelines.store import NightStore

ROOT = pathlib.Path(__file__).parents[3]


def make(name, **signals):
    """Make a modality of ``channel=(signal, rate)``."""
    return make_modality(MODALITIES[name], lambda channel: signals[channel], list(signals))


def ecg_of(beats_s, seconds, rate, heights=None):
    """An ECG of narrow R waves at given times, over some drift."""
    at = np.arange(seconds * rate) / rate
    signal = 200 * np.sin(0.4 * at)
    for beat, height in zip(beats_s, heights if heights is not None else np.ones(len(beats_s))):
        near = np.abs(at - beat) < 0.1
        signal[near] += 1000 * height * np.exp(-0.5 * ((at[near] - beat) / 0.012) ** 2)
    return signal, Fraction(rate)


def test_the_table_is_the_official_one():
    assert NINE == ("ibi", "resp", "eeg", "ecg", "eog", "emg", "spo2", "belt", "airflow")
    assert [MODALITIES[name].frames for name in ELEVEN] == [
        *(120, 120, 3840, 3840, 3840, 3840, 120, 120, 120),
        *(3000, 960),
    ]
    assert MODALITIES["ibi"].keys == ("heartbeat", "psg_heartbeat")
    assert RECIPE.channels_for(("ibi", "ecg")) == ("ecg",)


@pytest.mark.parametrize("rate", [125, 200, 512])
def test_intervals_between_beats_are_those_that_were_planted(rate):
    rng, seconds = np.random.default_rng(0), 300
    intervals = 0.9 + 0.08 * np.sin(0.05 * np.arange(400)) + 0.02 * rng.standard_normal(400)
    beats = np.cumsum(intervals)
    beats, intervals = beats[beats < seconds], intervals[beats < seconds]
    made = make("ibi", ecg=ecg_of(beats, seconds, rate)).signal
    assert made.samples.shape == (seconds * 4,)
    at = np.arange(seconds * 4) / 4
    expected = np.interp(at, beats[1:], intervals[1:])
    expected = (expected - np.median(expected)) / 0.1
    assert made.valid[5:-5].all()
    assert np.median(np.abs(made.samples - expected)[20:-20]) < 0.03  # 3 ms
    # The interval itself is kept in seconds beside it.
    assert made.tracks[100, 0] == pytest.approx(np.interp(100.4, beats, intervals), abs=0.01)


def test_seconds_without_beats_are_not_valid():
    beats = np.concatenate([np.arange(1, 100, 0.8), np.arange(160, 300, 0.8)])
    made = make("ibi", ecg=ecg_of(beats, 300, 200)).signal
    assert not made.valid[104:156].any()
    assert made.valid[5:98].all()
    assert not made.samples[104 * 4 : 156 * 4].any()


def test_breathing_is_a_belt_or_flow_and_else_what_moves_the_r_peaks():
    seconds, at = 400, np.arange(400 * 25) / 25
    breaths = np.sin(2 * np.pi * 0.25 * at)
    belt = 3 + 0.01 * at + breaths, Fraction(25)  # drifts
    made = make("resp", resp_thx=belt)
    expected = np.sin(2 * np.pi * 0.25 * np.arange(seconds * 4) / 4)
    assert np.corrcoef(made.signal.samples[80:-80], expected[80:-80])[0, 1] > 0.999
    beats = np.arange(0.5, seconds, 0.83)
    ecg = ecg_of(beats, seconds, 200, 1 + 0.2 * np.sin(2 * np.pi * 0.25 * beats))
    made = make("resp", ecg=ecg)
    assert made.channels == ("ecg",)
    assert np.corrcoef(made.signal.samples[80:-80], expected[80:-80])[0, 1] > 0.95
    # Where the belt is the abdominal one, breathing is another sensor's.
    both = {"resp_abd": belt, "airflow": belt, "ecg": ecg}
    assert make("belt", **both).channels == ("resp_abd",)
    assert make("resp", **both).channels == ("airflow",)


def test_oxygen_holds_the_last_reading_over_artefacts():
    readings = np.full(300, 96.0)
    readings[100:110] = 90
    readings[110:120] = 0  # an artefact holds the 90 before it
    readings[200:260] = 127  # too long to be held
    readings[:5] = np.nan
    made = make("spo2", spo2=(readings, Fraction(1))).signal
    by_second = made.samples.reshape(300, 4)
    assert by_second[50] == pytest.approx((96 - 95) / 5)
    assert by_second[112] == pytest.approx((90 - 95) / 5)
    assert by_second[150] == pytest.approx((96 - 95) / 5)
    assert not made.valid[:5].any()
    assert made.valid[5:228].all()
    assert not made.valid[232:260].any()
    assert made.valid[261:].all()
    assert not by_second[~made.valid].any()


def test_waveforms_are_scaled_by_the_spread_of_the_night_and_clipped():
    rng = np.random.default_rng(1)
    signal = rng.standard_normal(600 * 200)
    signal[1000] = 1e5
    made = make("eeg", eeg_c3=(signal, Fraction(200))).signal
    lower, median, upper = np.percentile(made.samples, (25, 50, 75))
    assert median == pytest.approx(0, abs=0.01)
    assert 0.7413 * (upper - lower) == pytest.approx(1, abs=0.01)
    assert np.abs(made.samples).max() == 20
    # Neither unit nor offset nor the edges of the recording matter.
    other = make("eeg", eeg_c3=(1e-6 * signal + 3, Fraction(200))).signal
    np.testing.assert_allclose(other.samples, made.samples, atol=2e-3)


@pytest.mark.parametrize(
    "name, channel, kept_hz, lost_hz",
    [("eeg", "eeg_c4", 10, 50), ("emg", "emg_chin", 40, 4), ("ecg", "ecg", 8, 0.1)],
)
def test_bands_are_kept_in_phase_and_the_rest_is_lost(name, channel, kept_hz, lost_hz):
    seconds, rate = 120, 256
    at, out = np.arange(seconds * rate) / rate, np.arange(seconds * 128) / 128
    wave = lambda hz, at: np.sin(2 * np.pi * hz * at)
    signal = wave(kept_hz, at) + wave(lost_hz, at)
    made = make(name, **{channel: (signal, Fraction(rate))}).signal
    assert np.corrcoef(made.samples[1280:-1280], wave(kept_hz, out)[1280:-1280])[0, 1] > 0.99


def test_a_gap_is_zero_and_disturbs_no_other_second():
    rng = np.random.default_rng(2)
    signal = rng.standard_normal(300 * 256)
    whole = make("eog", eog_e1=(signal, Fraction(256))).signal
    signal = signal.copy()
    signal[100 * 256 : 140 * 256] = np.nan
    made = make("eog", eog_e1=(signal, Fraction(256))).signal
    assert made.valid.tolist() == [not 100 <= second < 140 for second in range(300)]
    assert not made.samples[100 * 128 : 140 * 128].any()
    far = np.r_[0 : 95 * 128, 145 * 128 : 300 * 128]
    assert np.corrcoef(made.samples[far], whole.samples[far])[0, 1] > 0.999


def test_the_next_channel_takes_the_place_of_one_that_is_flat():
    rng = np.random.default_rng(3)
    flat, noise = np.zeros(60 * 100), rng.standard_normal(60 * 100)
    channels = {"eeg_c3": (flat, Fraction(100)), "eeg_o2": (noise, Fraction(100))}
    assert make("eeg", **channels).channels == ("eeg_o2",)
    with pytest.raises(UnusableSignal, match="eeg_c3 is flat"):
        make("eeg", eeg_c3=(flat, Fraction(100)))
    assert make("eeg", ecg=(noise, Fraction(100))) is None


def prepare(source, output, *arguments):
    command = [sys.executable, "-m", "launch.prepare_nights", f"--input={source}"]
    return subprocess.run(
        [*command, f"--output={output}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_recordings_become_a_store_that_pairs_are_drawn_from(tmp_path):
    labels = {"EEG C3-M2": 20.0, "EEG C4-M1": 20.0, "ABD": 5.0, "E1-M2": 20.0, "Chin EMG": 5.0}
    tiny_recordings.write_edf(tmp_path / "in" / "one.edf", seconds=1200, labels=labels)
    done = prepare(tmp_path / "in", tmp_path / "out", "--modalities=eeg,emg,belt,airflow")
    assert done.returncode == 0, done.stderr
    store = NightStore(tmp_path / "out")
    assert store.manifest["provenance"]["modalities"] == "sleep2vec/1"
    assert store.manifest["provenance"]["normalisation"] == "robust_z/1"
    (night,) = store.nights
    assert night.channels == ("eeg", "emg", "belt")
    assert night.qc["made_of"] == {"eeg": ["eeg_c3"], "emg": ["emg_chin"], "belt": ["resp_abd"]}
    source = pipeline.load(
        "modality_pairs", path=tmp_path / "out", split=night.split, seed=0, window_tokens=40
    )
    (batch,) = source.evaluation_batches(1, 1)
    assert batch["valid"].all()
    assert source.describe()["pairs"] == [["eeg", "emg"], ["eeg", "belt"], ["emg", "belt"]]

    done = prepare(tmp_path / "in", tmp_path / "out", "--modalities=nine", "--channels=all")
    assert done.returncode == 1
    assert "--channels and --modalities: give one" in done.stderr


def test_an_unknown_modality_is_named():
    with pytest.raises(ValueError, match=r"\['heart'\] not among nine, eleven, ibi"):
        RECIPE.wanted("eeg,heart")
    assert RECIPE.wanted("eleven") == ELEVEN
    assert RECIPE.wanted("ecg,ibi") == ("ibi", "ecg")


@pytest.mark.skipif("HYPNOS_TEST_DATA" not in os.environ, reason="HYPNOS_TEST_DATA is not set")
def test_a_real_recording_has_all_nine(tmp_path):
    data = pathlib.Path(os.environ["HYPNOS_TEST_DATA"])
    done = prepare(data / "nox-a1", tmp_path, "--modalities=nine")
    assert done.returncode == 0, done.stderr
    (night,) = json.loads((tmp_path / "manifest.json").read_text())["nights"]
    assert night["channels"] == list(NINE)
    store = NightStore(tmp_path)
    entry = store.nights[0]
    for name in NINE:
        assert store.valid(entry, name, 0, 120).all(), name
    # The beats of the derived intervals are those that the recorder's own heart rate tells.
    assert 60 / store.tracks(entry, "ibi", 0, 120)[:, 0].mean() == pytest.approx(68, abs=3)
    # Both belts breathe together.
    belt, breath = (store.signal(entry, name, 10, 110) for name in ("belt", "resp"))
    assert np.corrcoef(belt, breath)[0, 1] > 0.7
