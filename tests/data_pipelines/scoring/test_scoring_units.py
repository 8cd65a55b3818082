"""What the times of a scoring count, in lists and in tables: right, or refused, or told."""

import types

import numpy as np
import pytest

from data_pipelines.scoring import ScoringError, read_scoring

STAGES = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 0, 2]
WORDS = ["W", "N1", "N2", "N3", "R"]
NIGHT = STAGES * 80  # 960 epochs, 8 h


class Recording(types.SimpleNamespace):
    """What a reader looks at of a recording."""

    def sfreq_hz(self, index):
        return self.rates[index]

    def problem(self, index):
        return None


def recording(epochs=12, start="22:00:00", rates=(256.0,), duration_s=None):
    hours, minutes, seconds = map(int, start.split(":"))
    return Recording(
        path=None,
        start_of_day_s=hours * 3600.0 + minutes * 60 + seconds,
        duration_s=epochs * 30.0 if duration_s is None else duration_s,
        labels=[f"c{k}" for k in range(len(rates))],
        rates=rates,
    )


@pytest.fixture
def read(tmp_path):
    def read(text, name="night.csv", code_book="aasm5", rec=None, **kwargs):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        rec = recording(**kwargs) if rec is None else rec
        return read_scoring(path, recording=rec or None, code_book=code_book)

    return read


def clock(seconds, start=0):
    seconds = int(seconds + start) % 86400
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def rows(times, stages=STAGES, heading="", mark=","):
    body = "".join(f"{t}{mark}{s}\n" for t, s in zip(times, stages))
    return f"{heading}\n{body}" if heading else body


E = range(len(STAGES))
COLUMNS = {
    "epochs from 0": rows(E),
    "epochs from 1": rows([e + 1 for e in E]),
    "YASA": rows(E, heading="Epoch,Stage"),
    "epochs from 1, named": rows([e + 1 for e in E], heading="Epoch,Stage"),
    "epochs in German": rows([e + 1 for e in E], heading="Epoche;Schlafstadium", mark=";"),
    "epochs in Spanish": rows(E, heading="Época\tEtapa", mark="\t"),
    "epochs in Italian": rows(E, heading="Epoca,Stadio"),
    "epochs in French": rows([e + 1 for e in E], heading="Époque;Stade", mark=";"),
    "a data frame's index": rows(E, heading=",Stage"),
    "index": rows(E, heading="index,hypnogram"),
    "with blanks": rows(E, mark=" "),
    "with tabs": rows([e + 1 for e in E], mark="\t"),
    "as 1.0": rows([f"{e}.0" for e in E]),
    "seconds": rows([30 * e for e in E]),
    "seconds, named": rows([30 * e for e in E], heading="Time (s),Stage"),
    "seconds, decimals": rows([f"{30 * e}.000" for e in E], heading="onset;stage", mark=";"),
    "seconds, commas": rows([f"{30 * e},0" for e in E], heading="Zeit;Stadium", mark=";"),
    "start of epoch": rows([30 * e for e in E], heading="Epoch,Stage"),
    "milliseconds": rows([30000 * e for e in E]),
    "milliseconds, named": rows([30000 * e for e in E], heading="onset_ms,stage"),
    "minutes": rows([0.5 * e for e in E]),
    "minutes, named": rows([0.5 * e for e in E], heading="Time [min],Stage"),
    "hours": rows([round(e / 120, 5) for e in E]),
    "samples": rows([7680 * e for e in E]),
    "samples, named": rows([7680 * e for e in E], heading="sample,stage"),
    "elapsed": rows([clock(30 * e) for e in E]),
    "elapsed, short": rows([clock(30 * e)[1:] for e in E], heading="Time;Stage", mark=";"),
    "of the day": rows([clock(30 * e, 79200) for e in E]),
    "of the day, named": rows(
        [clock(30 * e, 79200) for e in E], heading="Uhrzeit;Stadium", mark=";"
    ),
    "with milliseconds": rows([f"{clock(30 * e, 79200)}.000" for e in E], mark="\t"),
    "three columns": "epoch,start,stage\n" + "".join(f"{e + 1},{30 * e},{STAGES[e]}\n" for e in E),
    "four columns": "epoch,start,end,stage\n"
    + "".join(f"{e + 1},{30 * e},{30 * e + 30},{STAGES[e]}\n" for e in E),
    "with a confidence": "Epoch,Stage,Confidence\n"
    + "".join(f"{e},{STAGES[e]},0.{e}\n" for e in E),
    "stages first": "Stage,Epoch\n" + "".join(f"{STAGES[e]},{e}\n" for e in E),
    "stages alone": "Stage\n" + "".join(f"{s}\n" for s in STAGES),
}


@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize("kind", COLUMNS)
def test_the_column_of_times_is_read_as_what_it_counts(read, kind, words):
    text = COLUMNS[kind]
    if words:
        lines = text.splitlines()
        for at, line in enumerate(lines[-len(STAGES) :], len(lines) - len(STAGES)):
            mark = next((x for x in "\t;," if x in line), " ")
            fields = line.split(mark)
            place = 1 if "Confidence" in text else 0 if text.startswith("Stage") else -1
            fields[place] = WORDS[int(fields[place])]
            lines[at] = mark.join(fields)
        text = "\n".join(lines)
    found = read(text, code_book=None if words else "aasm5")
    assert found.stages.tolist() == STAGES


@pytest.mark.parametrize("kind", ["epochs from 0", "minutes", "milliseconds", "samples"])
def test_a_unit_that_the_file_does_not_name_is_told(read, kind):
    (finding,) = read(COLUMNS[kind]).findings
    assert finding.kind == "time_axis"
    assert finding.what in ("epoch numbers", "minutes", "milliseconds", "samples")
    named = {"epochs from 0": "YASA"}.get(kind, f"{kind}, named")
    assert read(COLUMNS[named]).findings == ()


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        # One a second or one an epoch: the recording is as long as neither.
        (rows(range(960), NIGHT), {"epochs": 100}, "neither as seconds nor as epochs"),
        (rows(range(960), NIGHT, heading="Time (s),Stage"), {"epochs": 960}, "neither"),
        (rows([7 * e for e in E]), {}, "7 apart"),
        (rows([e * 1000 for e in E]), {}, "1000 apart"),
        (rows([0, 3, 5, 9, 14, 20, 31, 55, 80, 300, 700, 900]), {"epochs": 960}, "epoch numbers"),
        (rows([1, 4, 9, 11, 20, 30], heading="Epoch,Stage"), {}, "leaves out epochs"),
        (rows([7680 * e for e in E], heading="sample,stage"), {"rates": ()}, "rate is not known"),
        (rows([5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5, 6]), {}, "2 columns"),
        ("".join(f"{s} {s}\n" for s in STAGES), {}, "2 of its columns are stages"),
        ("".join(f"{WORDS[s]} 30\n" for s in STAGES), {}, "2 columns"),
        ("".join(f"{e},{s},{s}\n" for e, s in enumerate(STAGES)), {}, "2 of its columns are"),
        (
            "Stage A,Stage B\n" + "".join(f"{s},{s}\n" for s in STAGES),
            {},
            "several of its columns",
        ),
        ("".join(f"{s}\n" for s in STAGES * 40), {"duration_s": 480.0}, "one every 1 s"),
        ("".join(f"{s}\n" for s in STAGES * 40), {"duration_s": 2400.0}, "NAME@5"),
        (rows([clock(30 * e, 3600) for e in E]), {}, "another"),
        (rows(["x"] * 12), {}, "2 columns|not in its code book|neither"),
    ],
)
def test_times_that_fit_no_unit_or_two_are_refused(read, text, options, message):
    with pytest.raises(ScoringError, match=message):
        read(text, **options)


def test_a_list_of_one_entry_a_second_is_seconds(read):
    per_second = np.repeat(STAGES, 30).tolist()
    found = read(rows(range(360), per_second))
    assert found.stages.tolist() == STAGES
    assert found.findings[0].what == "seconds"
    assert read(rows(range(360), per_second), code_book="aasm5@1").stages.tolist() == STAGES


def test_lists_of_changes_stay_seconds(read):
    times, stages = [0, 60, 120, 180, 240, 300, 330], [0, 1, 2, 3, 4, 0, 2]
    assert read(rows(times, stages)).stages.tolist() == STAGES
    assert read(rows(times, stages), rec=False).stages.tolist() == STAGES
    for few in ([0, 90], [0, 90, 180], [0, 60, 210]):
        assert read(rows(few, [1, 2, 4])).stages[:3].tolist() == [1, 1, 1 + (few[1] == 60)]
        assert read(rows(few, [1, 2, 4], heading="x,Stage")).stages[2] == 1 + (few[1] == 60)
    hours = rows([round(t / 3600, 5) for t in times], stages)
    assert read(hours).stages.tolist() == STAGES
    assert read(hours).findings[0].what == "hours"
    ms = [1000 * t for t in times]
    found = read(rows(ms, stages))
    assert found.stages.tolist() == STAGES
    assert found.findings[0].what == "milliseconds"


@pytest.mark.parametrize("step", [5, 10, 20, 60])
def test_other_steps_in_seconds_are_kept(read, step):
    times = [step * k for k in range(len(STAGES))]
    found = read(rows(times), duration_s=step * 12.0, code_book="aasm5")
    assert len(found.stages) == step * 12 / 30
    held = [0.0] * 6
    for k, stage in enumerate(STAGES):
        held[stage] += max(0, min(step * (k + 1), 30) - min(step * k, 30))
    expected = held.index(max(held)) if max(held) >= 15 else -1
    assert found.stages[0] == expected


def test_a_scoring_that_begins_at_midnight_is_told(read):
    text = rows([clock(30 * e) for e in E])
    (finding,) = read(text, start="22:00:00", duration_s=4 * 3600.0).findings
    assert finding.what == "times from 00:00:00"
    found = read(text, start="00:00:00")
    assert found.stages.tolist() == STAGES
    assert found.findings == ()
    late = read(rows([clock(30 * e, 79260) for e in E]), start="22:00:00", epochs=20)
    assert late.stages.tolist() == [-1, -1, *STAGES]


def test_an_unknown_name_in_a_list_is_unscored_and_told(read):
    names = [WORDS[stage] for stage in STAGES]
    text = "\n".join([*names[:4], "Quiet", *names[5:]])
    for book in (None, "aasm5"):
        found = read(text, code_book=book)
        assert found.stages.tolist() == [*STAGES[:4], -1, *STAGES[5:]]
        assert [finding.kind for finding in found.findings] == ["unknown_stage"]
    with pytest.raises(ScoringError, match="line 5 is not in its code book"):
        read("\n".join(map(str, [*STAGES[:4], "Quiet", *STAGES[5:]])))
    assert read("WAKE\nART\nuns\nN2\nREM\n", code_book=None).stages.tolist() == [0, -1, -1, 2, 4]


@pytest.mark.parametrize(
    "heading",
    ["Epoch,Scorer1,Scorer2", "Time (s),Expert A,Expert B", "epoch,stage rater 1,stage rater 2"],
)
def test_columns_of_several_scorers_are_kept_apart(read, heading):
    other = [*STAGES[:-1], 4]
    by = 30 if "Time" in heading else 1
    lines = [f"{by * e},{a},{b}" for e, (a, b) in enumerate(zip(STAGES, other))]
    found = read("\n".join([heading, *lines]))
    assert [row.tolist() for row in found.scorers] == [STAGES, other]
    assert found.stages.tolist() == [*STAGES[:-1], -1]
    assert [finding.kind for finding in found.findings] == ["several_scorers"]
    alone = "\n".join([heading.partition(",")[2], *(line.partition(",")[2] for line in lines)])
    assert [row.tolist() for row in read(alone).scorers] == [STAGES, other]


def test_missing_epochs_are_unscored(read):
    kept = [0, 1, 2, 5, 6, 7, 8, 9, 10, 11]
    text = rows(kept, [STAGES[e] for e in kept], heading="Epoch,Stage")
    assert read(text).stages.tolist() == [0, 0, 1, -1, -1, *STAGES[5:]]


BIDS = "onset\tduration\ttrial_type\n"


def bids(by_onset=1, by_length=1, words=True, heading=BIDS):
    stages = [WORDS[s] for s in STAGES] if words else STAGES
    return heading + "".join(
        f"{30 * by_onset * e}\t{30 * by_length}\t{stage}\n" for e, stage in enumerate(stages)
    )


@pytest.mark.parametrize(
    ("by_onset", "by_length", "what"),
    [
        (1000, 1000, "milliseconds"),
        (256, 256, "samples"),
        (200, 200, "samples"),
        (256, 1, "onsets in samples"),
        (1000, 1, "onsets in milliseconds"),
        (1, 256, "durations in samples"),
        (1, 1000, "durations in milliseconds"),
    ],
)
def test_events_in_another_unit_are_converted_and_told(read, by_onset, by_length, what):
    rate = float(by_onset if by_onset in (200, 256) else 256)
    text = bids(by_onset, by_length)
    found = read(text, "a_events.tsv", None, rates=(rate,))
    assert found.stages.tolist() == STAGES
    assert [finding.what for finding in found.findings] == [what]
    # Codes, too, and without a recording where the numbers leave no other unit.
    coded = bids(by_onset, by_length, words=False)
    assert read(coded, "a_events.tsv", rates=(rate,)).stages.tolist() == STAGES
    if what == "milliseconds":
        assert read(text, "a_events.tsv", None, rec=False).stages.tolist() == STAGES


def test_events_in_a_unit_that_cannot_be_told_are_refused(read):
    with pytest.raises(ScoringError, match="samples"):
        read(bids(256, 256), "a_events.tsv", None, rec=False)
    with pytest.raises(ScoringError, match="another unit"):
        read(bids(300, 1), "a_events.tsv", None)
    with pytest.raises(ScoringError, match="milliseconds or samples|samples"):
        read(bids(1000, 1000), "a_events.tsv", None, rates=(500.0,), duration_s=720.0)


def test_events_in_seconds_stay_as_they_are(read):
    assert read(bids(), "a_events.tsv", None).findings == ()
    long = BIDS + "0\t27000\tWake\n27000\t3000\tN2\n30000\t6000\tWake\n"
    found = read(long, "a_events.tsv", None, duration_s=36000.0)
    assert np.bincount(found.stages).tolist() == [1100, 0, 100]
    assert found.findings == ()
    sparse = BIDS + "".join(f"{3000 * k}\t30\tN2\n" for k in range(5))
    assert read(sparse, "a_events.tsv", None, duration_s=15000.0).findings == ()
