"""R peaks of our detector and of sleepecg's, against beats that people annotated.

    python benchmarks/r_peaks.py --data=DIR    # needs sleepecg

``DIR/mitdb-lead1``: half-hour records with beats; sensitivity and precision within 150 ms, pooled
over all beats, at the records' 360 Hz and as a prepared night has them. ``DIR/cinc2017``:
half-minute records with their rhythm; how well the features of irregularity tell atrial
fibrillation from sinus rhythm (AUROC of a logistic regression, five folds, ten shuffles). And the
time and memory of a night of 8 h.
"""

import argparse
import csv
import pathlib
import time
import tracemalloc
from fractions import Fraction

import numpy as np
import scipy.io
import sklearn.impute
import sklearn.linear_model
import sklearn.metrics
import sklearn.model_selection
import sklearn.pipeline
import sklearn.preprocessing
import sleepecg

from data_pipelines.channels.table import CHANNELS
from data_pipelines.signals.causal import preprocess_channel
from data_pipelines.signals.heartbeats import RHYTHM_NAMES, find_r_peaks, rhythm_features

TOLERANCE_S = 0.15
BEATS = tuple("NLRejAaJSVEFfQB?n/")  # PhysioNet's codes of beats
RATE_HZ = CHANNELS["ecg"].rate_hz
DETECTORS = {
    "ours": find_r_peaks,
    "sleepecg": lambda signal, rate: sleepecg.detect_heartbeats(signal, rate) / rate,
}


def hits(found, true):
    """How many of two ascending lists of times are partners within the tolerance, one to one."""
    count = i = j = 0
    while i < len(found) and j < len(true):
        apart = found[i] - true[j]
        if abs(apart) <= TOLERANCE_S:
            count, i, j = count + 1, i + 1, j + 1
        elif apart < 0:
            i += 1
        else:
            j += 1
    return count


def prepared(signal, rate):
    made = preprocess_channel(signal, Fraction(int(rate)), CHANNELS["ecg"], mains_hz=60)
    return np.asarray(made.samples, np.float64)


def annotated(folder):
    counts = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            rate = int(file["rate_hz"])
            signal = (file["ecg"] - float(file["adc_zero"])) / float(file["adc_per_mv"])
            true = file["ann_sample"][np.isin(file["ann_symbol"], BEATS)] / rate
        for kind, x, hz in (("raw", signal, rate), ("prepared", prepared(signal, rate), RATE_HZ)):
            for name, detect in DETECTORS.items():
                found = detect(x, hz)
                row = hits(found, true), len(true), len(found)
                counts.setdefault((kind, name), {})[path.stem] = row
    for (kind, name), rows in counts.items():
        both, true, found = np.array(list(rows.values())).T
        share = {stem: 2 * x / (y + z) for stem, (x, y, z) in rows.items()}
        worst = sorted(share, key=share.get)[:4]
        worst = ", ".join(f"{k} {x / y:.3f}/{x / z:.3f}" for k in worst for x, y, z in (rows[k],))
        print(
            f"mitdb {kind:<8} {name:<8} {len(rows)} records, {true.sum()} beats: sensitivity"
            f" {both.sum() / true.sum():.4f}, precision {both.sum() / found.sum():.4f};"
            f" worst (each): {worst}",
            flush=True,
        )


def rhythms(folder):
    with open(folder / "REFERENCE.csv", newline="") as file:
        labels = {name: kind for name, kind in csv.reader(file) if kind in ("A", "N")}
    names = [name for name in sorted(labels) if (folder / f"{name}.mat").is_file()]
    truth = np.array([labels[name] == "A" for name in names])
    signals = [scipy.io.loadmat(folder / f"{name}.mat")["val"][0] for name in names]
    signals = [prepared(signal, 300) for signal in signals]
    for name, detect in DETECTORS.items():
        rows = np.array([rhythm_features(detect(signal, RATE_HZ)) for signal in signals])
        lost = np.isnan(rows).any(1)
        model = sklearn.pipeline.make_pipeline(
            sklearn.impute.SimpleImputer(),
            sklearn.preprocessing.StandardScaler(),
            sklearn.linear_model.LogisticRegression(max_iter=5000),
        )
        areas = [
            sklearn.model_selection.cross_val_score(
                model,
                rows,
                truth,
                scoring="roc_auc",
                cv=sklearn.model_selection.StratifiedKFold(5, shuffle=True, random_state=seed),
            ).mean()
            for seed in range(10)
        ]
        column = np.nan_to_num(rows[:, RHYTHM_NAMES.index("pnn50")])
        alone = sklearn.metrics.roc_auc_score(truth, column)
        print(
            f"cinc2017 {name:<8} {truth.sum()} of {len(truth)} fibrillate: AUROC"
            f" {np.mean(areas):.4f} (SD of shuffles {np.std(areas):.4f}), pNN50 alone {alone:.4f};"
            f" {lost.sum()} records without features",
            flush=True,
        )


def night(path):
    with np.load(path) as file:
        signal = prepared(file["ecg"].astype(np.float64), int(file["rate_hz"]))
    signal = np.resize(signal, 8 * 3600 * RATE_HZ)
    for name, detect in DETECTORS.items():
        began = time.process_time()
        detect(signal, RATE_HZ)
        took = time.process_time() - began
        tracemalloc.start()  # sees the arrays of NumPy, not what C allocates by itself
        detect(signal, RATE_HZ)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(f"8 h at {RATE_HZ} Hz {name:<8} {took:.2f} CPU s, {peak / 2**20:.0f} MiB more")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    data = parser.parse_args().data
    night(data / "mitdb-lead1" / "100.npz")
    rhythms(data / "cinc2017")
    annotated(data / "mitdb-lead1")


if __name__ == "__main__":
    main()
