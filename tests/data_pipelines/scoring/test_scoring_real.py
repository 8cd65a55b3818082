"""Scorings as real programs and cohorts wrote them."""

import collections
import types

import numpy as np
import pytest

from data_pipelines import scoring
from data_pipelines.scoring import ScoringError, read_scoring


def counts(found):
    return collections.Counter(event.kind for event in found.events)


def test_sleep_edf_hypnogram_equals_the_second_by_second_export(test_data):
    folder = test_data / "sleep-edf"
    found = read_scoring(folder / "SC4001EC-Hypnogram.edf")
    assert len(found.stages) == 86400 // 30
    assert not found.events_scored
    codes = np.loadtxt(folder / "hypnograms_1s" / "SC4001E0-PSG.edf.csv", dtype=int)
    stages = np.array([0, 1, 2, 3, 3, 4], np.int8)[codes]
    offset = 27330
    per_second = np.repeat(found.stages, 30)[offset : offset + len(stages)]
    np.testing.assert_array_equal(per_second, stages)
    # The same night as a WFDB annotation file ends where the signals do.
    same = read_scoring(folder / "SC4001E0-PSG.edf.hyp")
    np.testing.assert_array_equal(same.stages, found.stages[:2650])
    assert (found.stages[2650:] == -1).all()


def test_sleep_edf_files_are_found_by_their_first_letters(test_data, tmp_path):
    for name in ("SC4001EC-Hypnogram.edf", "short_psg.edf"):
        data = (test_data / "sleep-edf" / name).read_bytes()
        (tmp_path / name.replace("short_psg", "SC4001E0-PSG")).write_bytes(data)
    recording = tmp_path / "SC4001E0-PSG.edf"
    path = scoring.find_scoring(recording)
    assert path.name == "SC4001EC-Hypnogram.edf"
    opened = types.SimpleNamespace(path=recording, start_of_day_s=58380.0, duration_s=300.0)
    found, notes = scoring.align(read_scoring(path, recording=opened), 300.0)
    assert found.stages.tolist() == [0] * 10
    assert "longer than the recording" in notes[0]


def test_a_hypnogram_of_another_night_is_refused(test_data):
    other = types.SimpleNamespace(
        path=test_data / "nox-a1" / "subject1.edf", start_of_day_s=5810.0, duration_s=120.0
    )
    with pytest.raises(ScoringError, match="belongs to another recording"):
        read_scoring(test_data / "sleep-edf" / "SC4001EC-Hypnogram.edf", recording=other)
    for path in sorted((test_data / "nox-a1").glob("*.csv")):
        with pytest.raises(ScoringError, match="another night"):
            read_scoring(path, recording=other)


def test_noxturnal_exports(test_data):
    starts_a_little_early = types.SimpleNamespace(
        path=None, start_of_day_s=22.5 * 3600, duration_s=45000.0
    )
    path = test_data / "nox-a1" / "noxturnal_events_example_unicode.csv"
    found = read_scoring(path, recording=starts_a_little_early)
    stages = np.bincount(found.stages[found.stages >= 0])
    assert stages.tolist() == [213, 66, 466, 364, 249]
    assert found.stages[0] == 0
    assert counts(found) == {"arousal": 22}

    path = test_data / "nox-a1" / "noxturnal_events_example_unicode_2.csv"
    night = types.SimpleNamespace(
        path=None, start_of_day_s=23 * 3600.0 + 45 * 60, duration_s=26000.0
    )
    found = read_scoring(path, recording=night)
    stages = np.bincount(found.stages[found.stages >= 0])
    assert stages.tolist() == [169, 38, 354, 141, 146]
    assert counts(found) == {
        "apnea_obstructive": 114,
        "apnea_mixed": 1,
        "hypopnea": 89,
        "desaturation": 191,
        "arousal": 76,
        "leg_movement": 29,
        "position": 18 + 12 + 4 + 3,
    }
    first = next(event for event in found.events if event.kind == "desaturation")
    assert (first.onset_s, first.duration_s) == (131.0, 9.333)


def test_slpdb(test_data):
    found = {path.stem: read_scoring(path) for path in (test_data / "slpdb").glob("*.st")}
    leading = {"slp14": 180, "slp16": 780, "slp37": 60, "slp59": 660, "slp61": 600}
    for name, night in found.items():
        unlabelled = leading.get(name, 0) // 30
        assert (night.stages[:unlabelled] == -1).all(), name
        assert night.stages[unlabelled] >= 0, name
        assert night.events_scored == (name not in ("slp41", "slp45")), name
        assert all(event.onset_s % 30 == 0 for event in night.events), name
    # Both files of a part say how long it is: 6 h, 4 h and so on at 250 Hz.
    assert len(found["slp03"].stages) == 720
    assert np.bincount(found["slp41"].stages + 1).tolist() == [0, 229, 230, 218, 13, 90]
    assert counts(found["slp03"])["apnea_central"] == 12


def test_boas(test_data):
    paths = sorted((test_data / "boas").glob("sub-*/eeg/*acq-psg_events.tsv"))
    assert paths
    for path in paths:
        found = read_scoring(path)
        assert 300 < len(found.stages) < 1500, path.name
        assert {0, 2} <= set(found.stages.tolist()) <= {-1, 0, 1, 2, 3, 4}, path.name


def test_dreem_consensus_lies_between_the_scorers(test_data):
    folders = sorted((test_data / "dod-scorers" / "scorers").iterdir())
    agreements, apart, nights = [], [], 0
    for folder in folders:
        for path in sorted((folder / "scorer_1").glob("*.json"))[:10]:
            paths = [folder / f"scorer_{k}" / path.name for k in range(1, 6)]
            alone = np.stack([read_scoring(p, code_book="dod").stages for p in paths])
            agreed = scoring.read_consensus(paths).stages
            assert agreed.shape == alone.shape[1:]
            scored = (alone >= 0).all(axis=0)
            unanimous = scored & (alone == alone[0]).all(axis=0)
            np.testing.assert_array_equal(agreed[unanimous], alone[0, unanimous])
            agreements.append((alone == agreed)[:, scored].mean())
            pairs = [(alone[i] == alone[j])[scored].mean() for i in range(5) for j in range(i)]
            apart.append(np.mean(pairs))
            nights += 1
    assert nights == 20
    assert np.mean(agreements) > np.mean(apart) + 0.03


def test_plain_lists(test_data):
    path = test_data / "dreams" / "HypnogramAASM_subject1.txt"
    found = read_scoring(path, code_book="dreams")
    entries = path.read_text().split()[1:]
    assert len(found.stages) == -(-len(entries) // 6)
    assert np.bincount(found.stages + 1).tolist() == [1, 231, 39, 299, 279, 113]
    with pytest.raises(ScoringError, match="name the code book"):
        read_scoring(path)

    found = read_scoring(test_data / "dynamo" / "segment_stages.csv", code_book="dynamo")
    assert set(found.stages.tolist()) == {0, 1, 2, 3, 4}
    assert found.stages[0] == 4

    path = test_data / "yasa-samples" / "data_full_6hrs_100Hz_hypno_30s.txt"
    assert len(read_scoring(path, code_book="yasa").stages) == 720
    path = test_data / "yasa-samples" / "sub-02_hypno_30s.txt"
    assert set(read_scoring(path, code_book="names").stages.tolist()) == {0, 1, 2, 3}
