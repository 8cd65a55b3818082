"""Facts of an epoch for tests of captions: one that says everything, and a strategy of any."""

from hypothesis import strategies as st

from data_pipelines.captions import facts as names
from data_pipelines.captions.facts import Facts, Interval, PositionChange

FULL = Facts(
    numbers={name: 12.345 + 1.7 * place for place, name in enumerate(names.SLOTS)},
    trends={
        "heart_rate": (
            Interval(0.9375, 5.625, "increasing"),
            Interval(5.625, 9.375, "stable"),
            Interval(9.375, 30.0, "decreasing"),
        ),
        "spo2": (Interval(3.75, 30.0, "decreasing"),),
    },
    position="supine",
    position_changes=(PositionChange(12.34, "left"),),
    stage="N2",
    events=(
        Interval(0.0, 12.26, "Arousal", before=True),
        Interval(14.0, 30.0, "Obstructive Apnea", after=True),
    ),
)


NEVER = st.just(False)


@st.composite
def facts(draw) -> Facts:
    """Draw the facts of an epoch: any of them may be missing."""
    numbers = draw(st.dictionaries(st.sampled_from(list(names.SLOTS)), st.floats(0, 100)))
    trends = {
        track: draw(_intervals(st.sampled_from(names.DIRECTIONS)))
        for track in draw(st.sets(st.sampled_from(names.TRACKS)))
    }
    changes = st.builds(PositionChange, _tenths(0, 300), st.sampled_from(names.POSITIONS))
    kinds, flag = st.sampled_from(list(names.EVENTS)), st.booleans()
    return Facts(
        numbers,
        {track: items for track, items in trends.items() if items},
        draw(st.none() | st.sampled_from(names.POSITIONS)),
        tuple(sorted(draw(st.lists(changes, max_size=3)), key=lambda change: change.at_s)),
        draw(st.none() | st.sampled_from(names.STAGES)),
        draw(st.none() | _intervals(kinds, flag)),
    )


@st.composite
def _intervals(draw, kinds, flag=NEVER) -> tuple[Interval, ...]:
    found = []
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, 299))
        stop = draw(st.integers(start + 1, 300))
        shift = draw(st.floats(-0.04, 0.04)) if start > 0 and stop < 300 else 0.0
        times = start / 10 + shift, stop / 10 + shift
        found.append(Interval(*times, draw(kinds), before=draw(flag), after=draw(flag)))
    return tuple(sorted(found, key=lambda item: round(item.start_s, 1)))


def _tenths(low, high):
    return st.integers(low, high).map(lambda number: number / 10)
