"""Timing codes against beats, breaths and spindles that people annotated, and what they cost.

    python benchmarks/timing_codes.py --data=DIR

``DIR/mitdb-lead1``: beats within 150 ms, sensitivity and precision pooled over all, and the share
of seconds whose codes are those of the annotated beats that can be known by then. ``DIR/bidmc``:
breaths within 0.75 s of the first annotator's; where in a breath he put his mark is not told, so
one constant for all recordings is taken off. ``DIR/dreams-spindles``: how well the code of a
quarter of a second tells whether the first expert sees a spindle in it, against the mean of its
second's codes. And how much faster than real time an 8-h night is.
"""

import argparse
import pathlib
import time
from fractions import Fraction

import numpy as np
import sklearn.metrics

from data_pipelines.recipes.hypnos import ROWS
from data_pipelines.signals.causal import preprocess_channel
from data_pipelines.signals.timing import TIMINGS, TimingStream

BEATS = tuple("NLRejAaJSVEFfQB?n/")  # PhysioNet's codes of beats


def prepared(name, signal, rate, mains_hz=None):
    return preprocess_channel(signal, Fraction(rate), ROWS[name], mains_hz=mains_hz)


def peaks_and_codes(channel):
    """Times of all peaks (s), and the codes, of a stream that hears one second at a time."""
    row = ROWS[channel.name]
    stream, peaks, codes = TimingStream(row.signal_type, row.rate_hz), [], []
    for second, valid in enumerate(channel.valid):
        own = slice(second * row.rate_hz, (second + 1) * row.rate_hz)
        codes.append(stream.push(channel.samples[own], [valid])[0])
        peaks.append(stream.state()["peaks"])
    peaks = np.unique(np.concatenate(peaks))
    times = peaks[np.isfinite(peaks)] / row.rate_hz - TIMINGS[row.signal_type].delay_s
    return times, np.array(codes, int)


def partners(found, true, tolerance_s):
    """Differences (s) of the times that are partners within the tolerance, one to one."""
    apart, i, j = [], 0, 0
    while i < len(found) and j < len(true):
        difference = found[i] - true[j]
        if abs(difference) <= tolerance_s:
            apart.append(difference)
            i, j = i + 1, j + 1
        elif difference < 0:
            i += 1
        else:
            j += 1
    return apart


def right_codes(codes, true, timing):
    """Which codes [S, 3] lie within a bin of those of the true peaks that can be known."""
    ends = np.arange(len(codes)) + 1.0
    known = np.searchsorted(true, ends - timing.settle_s - timing.delay_s)
    ok = np.zeros(codes.shape, bool)
    # Whether the newest is known may differ by one.
    for shift in (-1, 0, 1):
        place = np.clip(known + shift, 3, len(true)) - 1
        newest, before = true[place] - true[place - 1], true[place - 1] - true[place - 2]
        span = np.log(timing.longest_s / timing.shortest_s)
        own = [40 * np.log(x / timing.shortest_s) / span for x in (newest, before)]
        own.append(40 * (ends - true[place]) / timing.longest_s)
        near = np.abs(codes - 0.5 - np.clip(np.stack(own, 1), 0, 40)) <= 1.5
        ok |= near & near.all(axis=1, keepdims=True)
    return ok.all(axis=1)


def beats(folder):
    rows, share = {}, []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            rate = int(file["rate_hz"])
            signal = (file["ecg"] - float(file["adc_zero"])) / float(file["adc_per_mv"]) * 1000
            true = file["ann_sample"][np.isin(file["ann_symbol"], BEATS)] / rate
        found, codes = peaks_and_codes(prepared("ecg", signal, rate, 60))
        apart = partners(found, true, 0.15)
        rows[path.stem] = len(apart), len(true), len(found), apart
        share.append(right_codes(codes, true, TIMINGS["ecg"])[10:])
    both, true, found = (sum(row[i] for row in rows.values()) for i in range(3))
    apart = np.concatenate([row[3] for row in rows.values()])
    worst = sorted(rows, key=lambda name: min(rows[name][0] / np.array(rows[name][1:3])))[:4]
    worst = [f"{n} {rows[n][0] / rows[n][1]:.3f}/{rows[n][0] / rows[n][2]:.3f}" for n in worst]
    print(
        f"beats: {len(rows)} records, {true} annotated: sensitivity {both / true:.4f}, precision"
        f" {both / found:.4f}; {np.median(apart) * 1000:.0f} ms late (SD {apart.std() * 1000:.0f});"
        f" codes within a bin in {np.concatenate(share).mean():.3f} of the seconds;"
        f" worst (each): {', '.join(worst)}",
        flush=True,
    )


def breaths(folder):
    found, true, other = [], [], []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            signal = file["RESP"] / (20000 if file["RESP"].dtype == np.int16 else 1)
            true.append(file["breaths_ann1"] / 125)
            other.append(file["breaths_ann2"] / 125)
        found.append(peaks_and_codes(prepared("resp_thx", np.float64(signal), 125))[0])

    def score(made, late=0.0):
        both = sum(len(partners(a - late, b, 0.75)) for a, b in zip(made, true))
        return both / sum(map(len, true)), both / sum(map(len, made))

    late = max(np.arange(-1.0, 1.0, 0.05), key=lambda late: sum(score(found, late)))
    for name, pair in (("ours", score(found, late)), ("second annotator", score(other))):
        print(
            f"breaths {name}: {len(true)} recordings, {sum(map(len, true))} breaths: sensitivity"
            f" {pair[0]:.3f}, precision {pair[1]:.3f}",
            flush=True,
        )
    print(f"breaths: peaks {-late:.2f} s before the annotator's marks")


def spindles(folder):
    slots, means, truth = [], [], []
    for path in sorted(folder.glob("excerpt*.npz")):
        with np.load(path) as file:
            if "spindles_expert1" not in file or file["rate_hz"] < 100:
                continue
            channel = prepared("eeg_c3", np.float64(file["eeg"]), int(file["rate_hz"]), 50)
            events = file["spindles_expert1"]
        codes = slot_codes(channel)
        middle = (np.arange(codes.size) + 0.5) / codes.shape[1]
        inside = np.zeros(codes.size, bool)
        for onset, duration in events:
            inside |= (middle >= onset) & (middle <= onset + duration)
        slots.append(codes.reshape(-1))
        means.append(np.repeat(codes.mean(axis=1), codes.shape[1]))
        truth.append(inside.reshape(codes.shape))
    truth = np.concatenate(truth)
    mixed = np.repeat((truth.any(1) & ~truth.all(1)), truth.shape[1])
    slots, means, truth = np.concatenate(slots), np.concatenate(means), truth.reshape(-1)
    area = sklearn.metrics.roc_auc_score
    print(
        f"spindles: {truth.mean():.3f} of {len(truth)} quarters: AUROC of the quarter's code"
        f" {area(truth, slots):.3f}, of its second's mean {area(truth, means):.3f}; within seconds"
        f" where one begins or ends {area(truth[mixed], slots[mixed]):.3f},"
        f" {area(truth[mixed], means[mixed]):.3f}",
        flush=True,
    )


def slot_codes(channel):
    row = ROWS[channel.name]
    return TimingStream(row.signal_type, row.rate_hz).push(channel.samples, channel.valid)


def night():
    rng = np.random.default_rng(0)
    for signal_type in TIMINGS:
        rate = 32 if signal_type == "resp" else 128
        seconds = 8 * 3600
        samples = rng.standard_normal(seconds * rate).astype(np.float32)
        began = time.process_time()
        TimingStream(signal_type, rate).push(samples, np.ones(seconds, bool))
        whole = time.process_time() - began
        stream, began = TimingStream(signal_type, rate), time.process_time()
        for at in range(600):
            stream.push(samples[at * rate : (at + 1) * rate], np.ones(1, bool))
        each = (time.process_time() - began) / 600
        print(
            f"{signal_type}: 8 h of noise in {whole:.2f} CPU s, {seconds / whole:,.0f} times real"
            f" time; second by second {each * 1000:.2f} ms a second",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    data = parser.parse_args().data
    night()
    spindles(data / "dreams-spindles")
    breaths(data / "bidmc")
    beats(data / "mitdb-lead1")


if __name__ == "__main__":
    main()
