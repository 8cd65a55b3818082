"""The command that a user with an odd montage runs first."""

import pathlib
import subprocess
import sys

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]


def check(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "launch.check_recordings", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def plain_edf(path, labels, name=b"Erika Mustermann"):
    """A minute of noise at 100 Hz per label."""
    count, seconds = len(labels), 60
    head = b"0".ljust(8) + name.ljust(80) + b"Startdate 01-JAN-1999".ljust(80)
    head += b"01.01.9922.30.00" + str(256 * (count + 1)).encode().ljust(8) + b" " * 44
    head += str(seconds).encode().ljust(8) + b"1".ljust(8) + str(count).encode().ljust(4)
    head += b"".join(label.encode().ljust(16) for label in labels) + b" " * 80 * count
    for field in (b"uV", b"-100", b"100", b"-2048", b"2047"):
        head += field.ljust(8) * count
    head += b" " * 80 * count + b"100".ljust(8) * count + b" " * 32 * count
    noise = np.random.default_rng(0).normal(0, 400, (seconds, count, 100)).astype("<i2")
    path.write_bytes(head + noise.tobytes())
    return path


def test_it_tells_what_binds_what_does_not_and_why(tmp_path):
    path = plain_edf(tmp_path / "a.edf", ["C3", "M2", "EMG", "Wombat", "CPAP Flow"])
    result = check(path)
    assert result.returncode == 0
    lines = {
        line.split("  ")[1].strip(): line for line in result.stdout.splitlines() if "  " in line
    }
    assert "C3 - M2" in lines["eeg_c3"] and "100 Hz" in lines["eeg_c3"]
    assert lines["eeg_c3"].endswith("ok")
    assert "does not say" not in lines["EMG"] and "not which muscle" in lines["EMG"]
    assert "name it in an alias file" in lines["Wombat"]
    assert "positive-airway-pressure" in lines["CPAP Flow"]
    assert "from 22:30:00" in result.stdout
    assert "1 checked, 0 could not be read" in result.stdout


def test_a_broken_file_does_not_stop_the_others(tmp_path):
    plain_edf(tmp_path / "b.edf", ["C3"])
    (tmp_path / "a.edf").write_bytes(b"Erika" * 200)
    (tmp_path / "c.edf").mkdir()
    (tmp_path / "notes.txt").write_text("not a recording")
    result = check(tmp_path, tmp_path / "none.edf")
    assert result.returncode == 1
    assert "1 checked, 2 could not be read" in result.stdout
    assert "neither EDF nor BDF" in result.stderr
    assert "none.edf: no such file" in result.stderr
    assert "Traceback" not in result.stderr


def test_aliases_and_cohorts(tmp_path):
    path = plain_edf(tmp_path / "a.edf", ["EEG", "Wombat"])
    (tmp_path / "ours.toml").write_text('ecg = ["wombat"]')
    result = check("--cohort=shhs", f"--aliases={tmp_path / 'ours.toml'}", path)
    assert "eeg_c4" in result.stdout and "C4-A1 in SHHS" in result.stdout
    assert "ecg" in result.stdout and "alias file" in result.stdout
    (tmp_path / "ours.toml").write_text('heart = ["wombat"]')
    result = check(f"--aliases={tmp_path / 'ours.toml'}", path)
    assert result.returncode != 0
    assert "'heart' is not a channel" in result.stdout + result.stderr


def test_identity_is_not_printed(tmp_path):
    path = plain_edf(tmp_path / "a.edf", ["C3"])
    result = check(path)
    for secret in ("Erika", "Mustermann", "1999", "01.01.99"):
        assert secret not in result.stdout + result.stderr


def test_nothing_to_check_is_a_mistake(tmp_path):
    assert check().returncode != 0
    assert check(tmp_path).returncode == 1


def test_real_recordings(test_data):
    result = check(test_data / "sleep-edf", test_data / "edf-quirks", test_data / "nox-a1")
    assert result.returncode == 0
    assert "154 annotations (scoring, not signals)" in result.stdout
    assert "6 checked, 0 could not be read" in result.stdout
