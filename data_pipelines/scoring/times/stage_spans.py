"""Whether the onsets and durations of a table's stages are in seconds, or in what else."""

from collections.abc import Sequence

import numpy as np

from data_pipelines.findings import Finding
from data_pipelines.scoring.record import EPOCH_S, ScoringError
from data_pipelines.scoring.times.time_units import (
    COMMON_RATES_HZ,
    EPOCH,
    HOUR,
    MILLISECOND,
    MINUTE,
    SAMPLE,
    is_step,
    rates_of,
)


def scales_of(
    onsets: Sequence[float], lengths: Sequence[float | None], recording, path
) -> tuple[float, float, list[Finding]]:
    """Return what to multiply the onsets and durations of stages by to have seconds.

    Stages in a row tell it: each lasts until the next, so both columns have one unit, and that is
    another than seconds where the shortest stage would last a quarter of an hour and the whole
    many times as long as the recording.

    Raises:
        ScoringError: They are not in seconds, and it cannot be said in what.
    """
    if not any(lengths):
        lengths = [*np.diff(onsets).tolist(), 0.0][: len(onsets)]  # each until the next
    pairs = sorted((a, b) for a, b in zip(onsets, lengths) if b)
    if len(pairs) < 3 or not np.isfinite(pairs).all():
        return 1.0, 1.0, []
    starts, spans = np.array(pairs, float).T
    gap, length = float(np.median(np.diff(starts))), float(np.median(spans))
    duration_s = getattr(recording, "duration_s", None)
    end = float((starts + spans).max())
    if gap <= 0 or length <= 0:
        return 1.0, 1.0, []
    rates = [rate for rate in rates_of(recording) if rate > 1]
    known = {1000.0: MILLISECOND} | {rate: SAMPLE for rate in rates if rate != 1000}

    def within(seconds, low=0.0):
        if duration_s is None:
            return True
        return low * duration_s <= seconds <= 1.1 * duration_s + 60

    if 0.2 < gap / length < 5:
        shortest = float(spans.min())
        larger = {30.0: EPOCH, 60.0: MINUTE, 3600.0: HOUR}
        found = [
            (by, unit)
            for by, unit in larger.items()
            if duration_s is not None
            and end < 0.1 * duration_s
            and 0.8 * duration_s <= end * by <= 1.1 * duration_s
            and (is_step(shortest * by) or round(shortest * by % EPOCH_S, 3) == 0)
        ]
        if len(found) == 1:
            ((factor, unit),) = found
            note = f"onsets and durations were taken as {unit}: as seconds the scoring is one "
            note += f"{factor:g}th as long"
            return factor, factor, [Finding("time_axis", unit, note)]
        if shortest < 900 or (duration_s is not None and within(end)):
            return 1.0, 1.0, []
        fits = {f: u for f, u in known.items() if is_step(shortest / f) and within(end / f, 0.5)}
        if not fits and duration_s is None:
            fits = {float(f): SAMPLE for f in COMMON_RATES_HZ if is_step(shortest / f)}
        if not fits:
            return 1.0, 1.0, []
        if len(fits) > 1 or (SAMPLE in fits.values() and not rates):
            names = " or ".join(sorted(set(fits.values())))
            raise ScoringError(
                f"{path}: its shortest stage would last {shortest:g} s; its times seem to be in "
                f"{names}. Expected seconds"
            )
        (factor, unit), *_ = fits.items()
        note = f"onsets and durations were taken as {unit}: as seconds the scoring is {factor:g} "
        note += "times as long"
        return 1 / factor, 1 / factor, [Finding("time_axis", unit, note)]
    ratio = max(gap / length, length / gap)
    steady = np.mean(np.isclose(np.diff(starts), gap, rtol=0.01)) > 0.9
    if ratio < 20 or not steady or (gap > length and duration_s is not None and within(end)):
        return 1.0, 1.0, []
    which = "onsets" if gap > length else "durations"
    unit = next((u for f, u in known.items() if np.isclose(ratio, f, rtol=0.01)), None)
    if unit is None:
        raise ScoringError(
            f"{path}: the {which} of its stages are {ratio:g} times too large beside the other "
            "column: they are in another unit. Expected seconds"
        )
    note = f"the {which} of stages were taken as {unit}: beside the other column they are "
    note += f"{ratio:g} times too large"
    finding = Finding("time_axis", f"{which} in {unit}", note)
    return (1 / ratio, 1.0, [finding]) if gap > length else (1.0, 1 / ratio, [finding])
