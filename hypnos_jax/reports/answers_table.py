"""Tests of many fine-tuned models as one table and one picture, accuracy beside what it hides.

A run is described by its config: the channels, whether its backbone began from other weights, what
was trained (a head on a frozen backbone, or more, with a context or without), the task, the share
of the labels, and whose labels. Runs that differ in their seeds alone are one row: values are means
over seeds, and an interval reaches from the lowest to the highest of the seeds' own intervals over
people.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipelines.files import atomic_write
from hypnos_jax.reports.answers_figure import draw_table, judged_by
from hypnos_jax.reports.figures import METRICS, NAMES
from hypnos_jax.runtime.files import write_json

TESTED, PROBED = "downstream_test.json", "probe.json"
COLUMNS = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "majority_accuracy": "accuracy of the most frequent class",
    "prevalence": "prevalence",
    "kappa": "kappa",
    "auroc": "AUROC",
    "auprc": "AUPRC",
}
LEAK = "LEAK: the people of the test"


@dataclasses.dataclass(frozen=True)
class Setting:
    """What distinguishes a row.

    Attributes:
        task: its name in ``hypnos_jax.tasks``.
        trained_on: the split whose labels the run was trained on.
        weights: ``"pretrained"`` or ``"random"``, those that the backbone began with.
        channels: names.
        trained: what of the model was trained, in words.
        share: of the labels of training; above 1 a number of windows.
        of_people: how many people of training these are a share of; 0: all.
    """

    task: str
    trained_on: str
    weights: str
    channels: tuple[str, ...]
    trained: str
    share: float
    of_people: int = 0

    @classmethod
    def of(cls, config: dict) -> Setting:
        """Read the config of a fine-tuning run."""
        objective, data = config["objective"], config["data"]
        rows, context = objective["backbone"]["modalities"], objective.get("context")
        tuned = objective.get("train_backbone", True) or objective["backbone"].get("tuning")
        return cls(
            task=objective["task"],
            trained_on=data.get("trained_on", "train"),
            weights="pretrained" if config["train"].get("init_from") else "random",
            channels=tuple(row["name"] for row in rows),
            trained=("tuned" if tuned else "head") + (", context" if context else ""),
            share=data.get("few_shot") or 1.0,
            of_people=data.get("few_shot_subjects", 0),
        )


@dataclasses.dataclass(frozen=True)
class Row:
    """The runs of a setting.

    Attributes:
        setting: theirs.
        seeds: how many runs.
        people, labels: of the test.
        metrics: name -> {value, low, high, seeds: [value of each]}; low and high are None where the
            people are too few.
    """

    setting: Setting
    seeds: int
    people: int
    labels: int
    metrics: dict[str, dict]


def read_rows(folders: Sequence[pathlib.Path]) -> list[Row]:
    """Return the rows of all tested runs below some folders, ordered."""
    found = {}
    for path in _files(folders, TESTED):
        config = json.loads((path.parent / "config.json").read_text())
        key = (Setting.of(config), _but_seeds(config))
        found.setdefault(key, []).append(json.loads(path.read_text()))
    return [_row(setting, found[setting, rest]) for setting, rest in sorted(found, key=_order)]


def _but_seeds(config: dict) -> str:
    """What of a config must be the same for two runs to be two seeds of one, as JSON."""
    left_out = {"data": ("path", "few_shot_seed", "manifest_sha256"), "train": ("init_from",)}
    kept = {
        name: {k: v for k, v in config.get(name, {}).items() if k not in left_out.get(name, ())}
        for name in ("objective", "data", "optim", "train")
    }
    return json.dumps(kept, sort_keys=True)


def _order(key: tuple[Setting, str]) -> tuple:
    setting = key[0]
    own = (len(setting.channels), setting.channels, setting.trained)
    own = (*own, setting.of_people, setting.share)
    return setting.task, setting.trained_on != "train", setting.weights, *own


def _row(setting: Setting, reports: list[dict]) -> Row:
    first, metrics = reports[0]["conditions"]["all"], {}
    for name in COLUMNS:
        own = [report["conditions"]["all"]["metrics"].get(name) for report in reports]
        own = [value for value in own if value is not None and math.isfinite(value)]
        if not own:
            continue
        ends = [report.get("intervals", {}).get(name, {}) for report in reports]
        low, high = (
            [end[key] for end in ends if end.get(key) is not None] for key in ("low", "high")
        )
        metrics[name] = {
            "value": float(np.mean(own)),
            "low": min(low, default=None),
            "high": max(high, default=None),
            "seeds": own,
        }
    return Row(setting, len(reports), first["subjects"], first["labels"], metrics)


def read_probes(folders: Sequence[pathlib.Path]) -> Iterator[dict]:
    """Yield the linear probes below some folders: ``{run, channels, task, features, metric, share,
    people, value, low, high}``; low and high are the range over choices of people.
    """
    for path in _files(folders, PROBED):
        report = json.loads(path.read_text())
        config = json.loads((path.parent / "config.json").read_text())
        rows = next(part["modalities"] for part in config["objective"].values() if _has_rows(part))
        for task, found in report["tasks"].items():
            for features, curve in found["label_efficiency"].items():
                for point in curve:
                    values = [value for value in point["values"] if value is not None]
                    if values:
                        yield {
                            "run": path.parent.name,
                            "channels": [row["name"] for row in rows],
                            "task": task,
                            "features": features,
                            "metric": "auroc" if found["ranked"] else "kappa",
                            "share": point["fraction"],
                            "people": point["subjects"],
                            "value": float(np.mean(values)),
                            "low": min(values),
                            "high": max(values),
                        }


def _has_rows(part) -> bool:
    return isinstance(part, dict) and "modalities" in part


def _files(folders, name) -> list[pathlib.Path]:
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"--runs: {folder} is no folder")
    return sorted({path for folder in folders for path in folder.rglob(name)})


def write_table(folders: Sequence[pathlib.Path], output: pathlib.Path, *, title: str = "") -> str:
    """Write ``table.md``, ``table.json`` and ``table.png``; return the table as text.

    Args:
        folders: with runs below them.
        output: the folder of the three files.
        title: above the table and the picture.

    Raises:
        ValueError: no tested run is there.
    """
    rows, probes = read_rows(folders), list(read_probes(folders))
    if not rows:
        told = " or ".join(str(folder) for folder in folders)
        raise ValueError(f"no {TESTED} below {told}: evaluate runs by python -m launch.evaluate")
    output.mkdir(parents=True, exist_ok=True)
    text = f"# {title or 'Answers'}\n\n" + "\n".join([*_answers(rows), *_probes(probes)]) + "\n"
    with atomic_write(output / "table.md", "w") as file:
        file.write(text)
    found = {"title": title, "rows": [dataclasses.asdict(row) for row in rows], "probes": probes}
    write_json(output / "table.json", found)
    draw_table(rows, output / "table.png", title=title)
    return text


def short(channels: Sequence[str]) -> str:
    """Return names of channels in few letters: ``c4 e1 ecg``."""
    return " ".join(name.split("_", 1)[-1] for name in channels)


def share_of(setting: Setting) -> str:
    """Return the share of the labels in words."""
    share = setting.share
    text = f"{100 * share:g} %" if share <= 1 else f"{share:g} windows"
    return f"{text} of {setting.of_people} people" if setting.of_people else text


def _answers(rows: Sequence[Row]) -> list[str]:
    lines = []
    for task in dict.fromkeys(row.setting.task for row in rows):
        own = [row for row in rows if row.setting.task == task]
        columns = [name for name in COLUMNS if any(name in row.metrics for row in own)]
        head = ["channels", "weights", "trained", "labels", *(COLUMNS[name] for name in columns)]
        counts = {f"{row.labels:,} epochs of {row.people} people" for row in own}
        lines += [f"## {task}: {'; '.join(sorted(counts))}", "", _line(head)]
        lines.append(_line(["---"] * len(head)))
        for row in own:
            said = row.setting
            leak = "" if said.trained_on == "train" else f" ({LEAK})"
            shown = [short(said.channels), said.weights, said.trained + leak, share_of(said)]
            best = judged_by(task)
            lines.append(_line([*shown, *(_value(row.metrics.get(n), n == best) for n in columns)]))
        seeds = sorted({row.seeds for row in own})
        told = " to ".join(str(count) for count in dict.fromkeys((seeds[0], seeds[-1])))
        lines += ["", f"Seeds of a row: {told}. Brackets: 95 % over people.", ""]
    return lines


def _value(found: dict | None, bold: bool = False) -> str:
    if not found:
        return ""
    text = f"{found['value']:.3f}"
    if found["low"] is not None and found["high"] > found["low"]:
        text += f" ({found['low']:.2f}-{found['high']:.2f})"
    return f"**{text}**" if bold else text


def _probes(probes: Sequence[dict]) -> list[str]:
    if not probes:
        return []
    shares = sorted({probe["share"] for probe in probes})
    lines = ["## Linear probes of frozen features", ""]
    lines += [_line(["channels", "task", "measure", "features", *map(_people, shares)])]
    lines.append(_line(["---"] * (4 + len(shares))))
    own = {}
    for probe in probes:
        key = (short(probe["channels"]), probe["task"], METRICS[probe["metric"]])
        key = (*key, NAMES.get(probe["features"], probe["features"]))
        own.setdefault(key, {})[probe["share"]] = probe
    for key, found in sorted(own.items()):
        values = [found.get(share) for share in shares]
        lines.append(_line([*key, *map(_value, values)]))
    told = "Brackets: lowest and highest of several choices of people."
    return [*lines, "", f"Shares are of the people of training, one at least. {told}"]


def _people(share: float) -> str:
    return f"{100 * share:g} % of people"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
