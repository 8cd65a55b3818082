"""The folder of arrays that the scripts beside this one write, and who is in which split.

A script is run as ``python -m benchmarks.real.NAME --data=DIR [--test=DIR2] --output=FOLDER``; ``DIR``
and ``DIR2`` hold the data set's folder. People of ``DIR2`` are in the split ``test``, those of ``DIR``
in the others. Without ``DIR2``, a part of the people of ``DIR`` is the split ``test``. A person who
is in both is an error. Then ``prepare_nights --builder=arrays --input=FOLDER`` makes the store.
"""  # noqa: E501

import argparse
import csv
import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Iterable

import numpy as np

FIELDS = ("file", "night", "subject", "split", "site", "age", "sex")
EVENT_FIELDS = ("night", "kind", "onset_s", "duration_s")


@dataclasses.dataclass(frozen=True)
class Night:
    """A night of a data set.

    Attributes:
        name: its own in the data set.
        subject: the person.
        arrays: key -> array of its file.
        facts: of ``FIELDS``, and outcomes.
        events: rows (kind, onset in s, duration in s).
    """

    name: str
    subject: str
    arrays: dict[str, np.ndarray]
    facts: dict = dataclasses.field(default_factory=dict)
    events: list[tuple[str, float, float]] = dataclasses.field(default_factory=list)


def write(
    about: str,
    name: str,
    declared: str,
    nights_of: Callable[[pathlib.Path], Iterable[Night]],
    *,
    labelled: bool = True,
) -> None:
    """Read the command line and write the folder of arrays of a data set.

    Args:
        about: what ``--help`` says.
        name: folder of the data set in ``--data``.
        declared: text of ``series.toml``.
        nights_of: reads that folder.
        labelled: without labels there is nothing to judge: nobody of ``--data`` is in the split
            test.

    Raises:
        SystemExit: a folder is missing, or a person is in both.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--data", type=pathlib.Path, required=True, help=f"holds {name}/")
    parser.add_argument("--test", default="", help=f"holds {name}/ of people who are only judged")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--folds", type=int, default=0, help="without --test: parts, 5 by default")
    parser.add_argument("--fold", type=int, default=0, help="which of them is the split test")
    args = parser.parse_args()
    sources = [(args.data / name, False)]
    if args.test:
        sources.append((pathlib.Path(args.test) / name, True))
    nights = []
    for folder, judged in sources:
        if not folder.is_dir():
            parser.exit(1, f"{folder} is not there\n")
        nights += [(night, judged) for night in nights_of(folder)]
    splits = split_people(
        {night.subject for night, judged in nights if not judged},
        {night.subject for night, judged in nights if judged},
        (args.folds or 5) if labelled else 0,
        args.fold,
    )
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "nights").mkdir(exist_ok=True)
    outcomes = sorted({key for night, _ in nights for key in night.facts} - {*FIELDS})
    with (
        open(args.output / "index.csv", "w", newline="", encoding="utf-8") as index,
        open(args.output / "events.csv", "w", newline="", encoding="utf-8") as events,
    ):
        rows = csv.DictWriter(index, [*FIELDS, *outcomes], restval="")
        rows.writeheader()
        marks = csv.writer(events)
        marks.writerow(EVENT_FIELDS)
        for night, _ in nights:
            file = f"nights/{night.name}.npz"
            np.savez(args.output / file, allow_pickle=False, **night.arrays)
            own = {"file": file, "night": night.name, "subject": night.subject, "site": name}
            rows.writerow({**own, "split": splits[night.subject], **night.facts})
            marks.writerows((night.name, *event) for event in night.events)
    (args.output / "series.toml").write_text(declared, encoding="utf-8")
    counts = {word: sum(x == word for x in splits.values()) for word in sorted({*splits.values()})}
    print(f"{args.output}: {len(nights)} nights; people: {counts}")


def split_people(people: set[str], judged: set[str], folds: int, fold: int) -> dict[str, str]:
    """Return person -> split: a pure function of the names, whatever their order.

    Args:
        people: who may be learnt from.
        judged: who are only judged; where there are any, nobody else is in the split test.
        folds: where nobody is, in how many parts the people are cut; 0: nobody is judged.
        fold: which part is the split test.

    Raises:
        SystemExit: a person is in both.
    """
    if both := sorted(people & judged):
        raise SystemExit(f"{both[0]!r} is in --data and in --test: nobody learnt from is judged")
    order = sorted(people, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    tested = set(order[fold % folds :: folds]) if folds and not judged else set()
    left = [name for name in order if name not in tested]
    validation = set(left[::5])
    splits = {x: "validation" if x in validation else "train" for x in left}
    return splits | dict.fromkeys(tested | judged, "test")
