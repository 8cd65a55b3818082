"""SleepLM's rows: the order of the released model, z-scores with units, codes of positions."""

from fractions import Fraction

import numpy as np
import pytest

from data_pipelines.builders.recording_night import Pending, PrepareRecording
from data_pipelines.channels import table
from data_pipelines.channels.resolve import AliasError, resolve
from data_pipelines.recipes import sleeplm
from data_pipelines.signals.causal import UnusableSignal
from data_pipelines.signals.modalities import make_modality
from data_pipelines.synthetic.night import POSITIONS


def make(name, signal, sfreq, codes=None):
    read = {name: (np.asarray(signal, float), Fraction(sfreq))}
    return make_modality(sleeplm.ROWS[name], read.__getitem__, [name], {name: codes})


def test_the_ten_rows_are_in_the_order_of_the_released_model():
    assert sleeplm.RECIPE.wanted("ten") == (
        *("ecg", "resp_abd", "resp_thx", "airflow", "eog_e1", "eog_e2", "eeg_c3", "eeg_c4"),
        *("emg_chin", "position"),
    )
    assert sleeplm.RECIPE.wanted("twelve")[10:] == ("heart_rate", "spo2")
    assert [row.frames for row in sleeplm.ROWS.values()] == [1920] * 9 + [30] * 3


def test_a_waveform_has_mean_0_and_sd_1_and_its_unit_can_be_had_back():
    rng = np.random.default_rng(0)
    times = np.arange(60 * 128) / 128
    eeg = 5 + 30 * np.sin(2 * np.pi * 10 * times) + rng.standard_normal(len(times))
    eeg[10 * 128 : 12 * 128] = np.nan
    made = make("eeg_c3", eeg, 128)
    fine = made.signal.samples.reshape(60, 64)[made.signal.valid]
    assert (~made.signal.valid).sum() == 2
    assert fine.mean() == pytest.approx(0, abs=1e-4) and fine.std() == pytest.approx(1, abs=1e-4)
    in_uv = fine * made.scale + made.centre
    assert np.abs(in_uv[1:8]).max() == pytest.approx(30, rel=0.15)


def test_levels_have_a_fixed_scale_and_hold_what_is_implausible():
    rate = np.r_[np.full(10, 60.0), 0.0, 255.0, np.full(10, 80.0)]
    made = make("heart_rate", rate, 1)
    assert (made.centre, made.scale) == (65.0, 15.0)
    values = made.signal.samples * made.scale + made.centre
    assert values == pytest.approx(np.r_[np.full(12, 60.0), np.full(10, 80.0)], abs=1e-4)
    spo2 = make("spo2", np.r_[97.0, 20.0, 95.0], 1)
    assert spo2.signal.samples * 5 + 95 == pytest.approx([97, 97, 95], abs=1e-4)


def test_codes_of_positions_are_the_sites():
    codes = ((1, "supine"), (2, "left"), (7, "upright"))
    made = make("position", [1, 1.02, 2, 7, 5, np.nan, 2.5], 1, codes)
    assert made.signal.samples.tolist() == [2, 2, 1, 4, -1, -1, -1] and made.signal.valid.all()
    assert [(x.kind, x.what, x.seconds) for x in made.findings] == [
        ("position_code", "2", 1.0),
        ("position_code", "5", 1.0),
    ]
    held = make("position", np.repeat([1.0, 2.0], 80), 16, codes)
    assert held.signal.samples.tolist() == [2] * 5 + [1] * 5
    with pytest.raises(UnusableSignal, match="name the cohort"):
        make("position", [1, 1, 1], 1)
    with pytest.raises(UnusableSignal, match="no code that the site's table knows"):
        make("position", [9, 9, 9], 1, codes)


def test_codes_come_from_the_cohort_or_the_users_alias_file():
    assert resolve(["Position"]).bindings["position"].codes is None
    of_shhs = resolve(["POSITION"], cohort="shhs").bindings["position"].codes
    assert of_shhs == tuple(enumerate(table.POSITIONS))
    simulated = resolve(["Body Position"], cohort="synthetic").bindings["position"].codes
    assert {word: code for code, word in simulated} == POSITIONS
    own = {"position": [{"label": "Lage", "codes": {"1": "supine", "2.5": "left"}}]}
    assert resolve(["Lage"], aliases=own).bindings["position"].codes == (
        (1.0, "supine"),
        (2.5, "left"),
    )
    for wrong in ({"1": "on the back"}, {"x": "supine"}, {}, ["supine"], "supine"):
        with pytest.raises(AliasError, match="position: codes are a table"):
            resolve([], aliases={"position": [{"label": "Lage", "codes": wrong}]})
    with pytest.raises(AliasError, match="of position alone"):
        resolve([], aliases={"spo2": [{"label": "x", "codes": {"1": "supine"}}]})


def test_a_night_says_what_scaled_its_rows_and_which_codes_it_did_not_know():
    rng = np.random.default_rng(0)
    recording = {
        "EEG C3-M2": (20 * rng.standard_normal(120 * 128), 128),
        "SpO2": (np.full(120, 96.0), 1),
        "Position": (np.repeat([1.0, 2.0, 9.0], 40), 1),
    }
    prepare = PrepareRecording(sleeplm.RECIPE, sleeplm.TWELVE, mains_hz=50)
    night = prepare(Pending("a", recording, scoring=False, cohort="shhs"))
    assert set(night.channels) == {"eeg_c3", "spo2", "position"}
    assert night.qc["scaling"]["spo2"] == [95.0, 5.0]
    assert night.qc["scaling"]["position"] == [0.0, 1.0]
    assert night.qc["scaling"]["eeg_c3"][1] == pytest.approx(20, rel=0.4)
    assert [f["what"] for f in night.qc["findings"] if f["kind"] == "position_code"] == ["9"]
    without = prepare(Pending("a", recording, scoring=False))
    assert "position" in without.qc["refused"] and "position" not in without.channels
