"""Nights in sleep2vec's own layout: there and back, and files that are not what they should be."""

import csv
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from data_pipelines import pipeline
from data_pipelines.builders import sleep2vec_npz
from data_pipelines.builders.night_builder import write_store
from data_pipelines.builders.npz_export import export_npz
from data_pipelines.recipes.sleep2vec import ELEVEN, NINE
from data_pipelines.recipes.sleep2vec import ROWS as MODALITIES
from data_pipelines.store import NightStore
from data_pipelines.synthetic import write_tiny_modalities

ROOT = pathlib.Path(__file__).parents[2]
SECONDS = 120
COLUMNS = ("path", "split", "duration", "age", "sex", "source", "patient_id", "asthma", "ward")


def arrays(seed=0, *, seconds=SECONDS, names=NINE):
    rng = np.random.default_rng(seed)
    return {
        MODALITIES[name].keys[0]: rng.standard_normal(seconds * MODALITIES[name].rate_hz).astype(
            np.float32
        )
        for name in names
    } | {"stage5": np.arange(seconds // 30) % 6 - 1, "duration": np.float64(seconds)}


def write_index(folder, rows, columns=COLUMNS):
    with open(folder / "index.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return folder / "index.csv"


def read(index, output, names=ELEVEN):
    items, left = sleep2vec_npz.find_nights(index)
    summary = write_store(
        output,
        kind="signals",
        items=items,
        make_night=sleep2vec_npz.ReadNpz(names),
        left_aside=left,
        provenance={"modalities": "sleep2vec/1", "normalisation": "none"},
        progress=False,
    )
    return dict(summary.rejected)


def test_rows_become_nights_with_their_people_and_labels(tmp_path):
    events = np.zeros(SECONDS)
    events[10:25] = events[60:61] = 1
    arousals = np.zeros((SECONDS, 4), np.float32)
    arousals[5:8, 0] = arousals[6:9, 2] = arousals[50:53, 3] = 1
    labels = {"ah_event": events, "arousal_event": arousals, "ahi": np.float64(31.5)}
    old = arrays(1)
    old["psg_heartbeat"] = old.pop("heartbeat")  # an alias of the same signal
    del old["stage5"]
    (tmp_path / "b").mkdir()
    np.savez(tmp_path / "a.npz", **arrays(0), **labels, body_movement=np.zeros(480, bool))
    np.savez(tmp_path / "b" / "x.npz", **old)
    np.savez(tmp_path / "c.npz", **arrays(2, names=("eeg", "ppg")))
    index = write_index(
        tmp_path,
        [
            dict(zip(COLUMNS, ("a.npz", "train", 120, 61.7, "Male", "shhs", "p1", 1, "east"))),
            dict(zip(COLUMNS, ("b/x.npz", "val", 125.5, "", "0", "wsc", "p1", "nan", ""))),
            dict(zip(COLUMNS, ("c.npz", "external", 120, "nan", "?", "apples", "", "", ""))),
        ],
    )
    assert read(index, tmp_path / "store") == {}
    store = NightStore(tmp_path / "store")
    a, x, c = store.nights
    assert (a.recording, x.recording, c.recording) == ("a", "b/x", "c")
    assert [night.split for night in store.nights] == ["train", "validation", "test"]
    assert [night.subject for night in store.nights] == ["shhs-p1", "wsc-p1", "c"]
    assert a.channels == NINE
    assert c.channels == ("eeg", "ppg")
    assert c.metadata["index_split"] == "external"
    assert a.metadata["outcomes"] == {"asthma": 1}  # a ward is no disease
    assert a.metadata["scalars"] == {"ahi": 31.5}
    heart = store.signal(x, "ibi", 0, SECONDS)
    np.testing.assert_allclose(heart, old["psg_heartbeat"], atol=1e-4)

    load = lambda split: pipeline.load(
        "modality_nights", path=store.path, split=split, seed=0, window_tokens=4
    ).examples(0, 1)
    batch = load("train")
    assert batch["stage"].tolist() == [[-1, 0, 1, 2]]
    np.testing.assert_array_equal(batch["apnea"].reshape(-1), events)
    np.testing.assert_array_equal(batch["arousal"].reshape(-1, 4), arousals)
    people = {
        split: [int(load(split)[name][0]) for name in ("age", "sex", "site")]
        for split in ("train", "validation", "test")
    }
    assert people == {"train": [61, 1, 1], "validation": [-1, 0, 2], "test": [-1, -1, 0]}
    assert load("train")["outcomes"].tolist() == [[1]]
    assert load("validation")["outcomes"].tolist() == [[-1]]
    assert (load("validation")["stage"] == -1).all()
    assert (load("validation")["apnea"] == -1).all()


def test_tokens_may_differ_by_one_and_are_cut_to_the_shortest(tmp_path):
    found = arrays()
    found["spo2"] = found["spo2"][:360]  # three tokens, the others four
    found["stage5"] = found["stage5"][:3]
    np.savez(tmp_path / "a.npz", **found)
    index = write_index(tmp_path, [{"path": "a.npz", "split": "test", "duration": 120}])
    assert read(index, tmp_path / "store") == {}
    assert NightStore(tmp_path / "store").nights[0].duration_s == 90


HARM = {
    "objects": (
        lambda a: a | {"eog_original": np.array([print, None], object)},
        r"bad.npz: 'eog_original' holds Python objects, which are never loaded",
    ),
    "nan": (
        lambda a: a | {"spo2": np.where(np.arange(480) == 7, np.nan, a["spo2"])},
        r"bad.npz: 'spo2' is nan at sample 7",
    ),
    "infinite": (
        lambda a: a | {"breath": np.where(np.arange(480) == 0, np.inf, a["breath"])},
        r"bad.npz: 'breath' is inf at sample 0",
    ),
    "rate": (
        lambda a: a | {"ecg_original": a["ecg_original"][::2]},
        r"bad.npz: 'ecg_original' has 7680 samples for 120 s, which is 64 Hz; must be 128 Hz",
    ),
    "shape": (
        lambda a: a | {"spo2": a["spo2"].reshape(2, -1)},
        r"bad.npz: 'spo2' is float32 of shape \(2, 240\), not a flat signal",
    ),
    "text": (
        lambda a: a | {"spo2": np.array(["96"] * 480)},
        r"bad.npz: 'spo2' is of type <U2, not numbers",
    ),
    "missing": (
        lambda a: {k: v for k, v in a.items() if k != "heartbeat"},
        r"bad.npz: no 'heartbeat', which the index says it has",
    ),
    "stages": (
        lambda a: a | {"stage5": np.array([0, 7, 2, 3])},
        r"bad.npz: 'stage5' has values other than -1 to 4",
    ),
    "epochs": (
        lambda a: a | {"stage5": np.zeros(9, int)},
        r"bad.npz: 'stage5' has 9 epochs, signals 4",
    ),
    "events": (
        lambda a: a | {"ah_event": np.zeros(30)},
        r"bad.npz: 'ah_event' has 30 s, signals 120 s",
    ),
    "nothing": (lambda a: {"stage5": a["stage5"]}, r"bad.npz: no 'heartbeat', which the index"),
    "cut off": (None, r"bad.npz: not an NPZ file that can be read \(BadZipFile\)"),
    "absent": (None, r"bad.npz: not an NPZ file that can be read \(No such file or directory\)"),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_file_that_is_not_what_it_should_be_is_rejected_with_the_reason(tmp_path, harm):
    change, reason = HARM[harm]
    np.savez(tmp_path / "good.npz", **arrays())
    if change is not None:
        np.savez(tmp_path / "bad.npz", **change(arrays()))
    elif harm == "cut off":
        (tmp_path / "bad.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:20_000])
    rows = [
        {"path": f"{name}.npz", "split": "train", "duration": 120, "heartbeat_mask": 1}
        for name in ("bad", "good")
    ]
    index = write_index(tmp_path, rows, ("path", "split", "duration", "heartbeat_mask"))
    rejected = read(index, tmp_path / "store")
    assert list(rejected) == ["bad"]
    assert re.search(reason, rejected["bad"]), rejected
    assert [night.recording for night in NightStore(tmp_path / "store").nights] == ["good"]
    (line,) = (tmp_path / "store" / "rejects.jsonl").read_text().splitlines()
    assert json.loads(line) == {"recording": "bad", "reason": rejected["bad"]}


def test_rows_that_cannot_be_used_are_rejected_with_their_line(tmp_path):
    rows = [
        ("a.npz", "train", 120, "p1"),
        ("b.npz", "dev", 120, "p2"),
        ("c.npz", "train", "", "p3"),
        ("d.npz", "test", 120, "p1"),
        ("a.npz", "train", 120, "p4"),
    ]
    columns = ("path", "split", "duration", "patient_id")
    index = write_index(tmp_path, [dict(zip(columns, row)) for row in rows], columns)
    items, left = sleep2vec_npz.find_nights(index)
    assert list(items) == ["a"]
    assert [path for path, _ in left] == ["b.npz", "c.npz", "d.npz", "a.npz"]
    for (_, reason), part in zip(
        left,
        (
            "split='dev'; must be one of train, val",
            "duration=''; must be seconds",
            "line 5: split 'test', and another night of the same person is in 'train'",
            "line 6: a second night called 'a'",
        ),
        strict=True,
    ):
        assert part in reason
    (tmp_path / "index.csv").write_text("path,split\n")
    with pytest.raises(sleep2vec_npz.NpzError, match="no column 'duration'"):
        sleep2vec_npz.find_nights(index)


def test_a_store_that_is_written_out_and_read_again_is_the_same(tmp_path):
    write_tiny_modalities(tmp_path / "store", 1, nights=6, tokens=40)
    index = export_npz(NightStore(tmp_path / "store"), tmp_path / "npz")
    assert read(index, tmp_path / "again") == {}
    old, new = NightStore(tmp_path / "store"), NightStore(tmp_path / "again")
    for a, b in zip(old.nights, new.nights, strict=True):
        assert (a.recording, a.split, a.channels) == (b.recording, b.split, b.channels)
        assert a.duration_s == b.duration_s
        np.testing.assert_array_equal(old.stages(a), new.stages(b))
        for name in a.channels:
            signals = [store.signal(night, name, 0, 1200) for store, night in ((old, a), (new, b))]
            np.testing.assert_allclose(*signals, atol=1e-6)
    batches = [
        pipeline.load("modality_nights", path=store.path, split="train", seed=0).examples(0, 5)
        for store in (old, new)
    ]
    for name in ("stage", "apnea", "arousal", "age", "sex", "site", "outcomes", "present"):
        np.testing.assert_array_equal(batches[0][name], batches[1][name])


def test_the_commands_write_out_and_read_again(tmp_path):
    write_tiny_modalities(tmp_path / "store", 1, nights=1, tokens=31, names=("ibi", "spo2"))
    run = lambda *command: subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    done = run("launch.export_npz", f"--nights={tmp_path}/store", f"--output={tmp_path}/npz")
    assert done.returncode == 0, done.stderr
    done = run(
        *("launch.prepare_nights", "--builder=sleep2vec_npz"),
        *(f"--input={tmp_path}/npz/index.csv", f"--output={tmp_path}/again"),
    )
    assert done.returncode == 0, done.stderr
    store = NightStore(tmp_path / "again")
    assert store.manifest["provenance"]["normalisation"] == "none"
    assert store.nights[0].channels == ("ibi", "spo2")
