"""A night of noise shaped like the eight signals of the paper, as EDF, for the benchmarks."""

import numpy as np

LABELS = ("C3-M2", "C4-M1", "E1-M2", "E2-M1", "Chin", "ECG", "ABD", "Thor")


def write_edf(path, hours, sfreq_hz, extra):
    """Write an EDF of noise shaped like the eight signals, plus ``extra`` channels of noise."""
    rng = np.random.default_rng(0)
    labels = [*LABELS, *(f"X{n}" for n in range(extra))]
    count, seconds = len(labels), int(hours * 3600)
    head = f"0       {'X':80}{'X':80}01.01.8522.30.00{256 * (count + 1):<8}{'':44}"
    head += f"{seconds:<8}{1:<8}{count:<4}"
    fields = (("", 80), ("uV", 8), ("-3276.8", 8), ("3276.7", 8), ("-32768", 8), ("32767", 8))
    columns = [f"{label:16}" for label in labels]
    columns += [f"{text:{width}}" for text, width in fields for _ in labels]
    columns += [f"{'':80}"] * count + [f"{sfreq_hz:<8}"] * count + [f"{'':32}"] * count
    with open(path, "wb") as file:
        file.write((head + "".join(columns)).encode("ascii"))
        t = np.arange(60 * sfreq_hz) / sfreq_hz
        slow = np.sin(2 * np.pi * t)  # beats and breaths of a sort, so that no channel is refused
        for at in range(0, seconds, 60):
            block = rng.normal(0, 300, (count, 60 * sfreq_hz))
            block[5] += 5000 * np.maximum(slow, 0) ** 60
            block[6:8] = block[6:8] / 10 + 2000 * np.sin(2 * np.pi * 0.25 * t)
            block = block[:, : min(60, seconds - at) * sfreq_hz]
            records = block.reshape(count, -1, sfreq_hz).transpose(1, 0, 2)
            file.write(records.astype("<i2").tobytes())
