"""The steps of a pipeline: their commands, which of them are done, how long the others may take.

``pipeline.json`` in the pipeline's folder has a record of each step. A step is done when it ended
well, its command and the files outside the folder that it names (sizes and times of change) are the
same as then, and its output is there. A step that runs again makes all later ones undone that read
what it makes: each of these finds for itself what of it is left to do.
"""

from __future__ import annotations

import fnmatch
import hashlib
import inspect
import json
import os
import pathlib
import re
import runpy
from collections.abc import Sequence

from configs.pipelines import Step
from hypnos_jax.runtime.files import write_json

FILE = "pipeline.json"
OUTPUT = "{output}"
OWN_PATH = re.compile(re.escape(OUTPUT) + r"(?:/([^,=\s\"]*))?")


def load_pipeline(text: str, options: dict) -> list[Step]:
    """Return the steps of a pipeline.

    Args:
        text: ``"FILE"`` or ``"FILE:ARGUMENT"``.
        options: keyword arguments of its ``get_pipeline``.

    Raises:
        ValueError: no such file; an argument or option that it does not take, or one that it needs;
            two steps with one name or output.
    """
    file, _, argument = text.partition(":")
    if not pathlib.Path(file).is_file():
        raise ValueError(f"--pipeline={text}: there is no file {file}")
    get_pipeline = runpy.run_path(file).get("get_pipeline")
    if get_pipeline is None:
        raise ValueError(f"--pipeline={text}: {file} has no get_pipeline(argument, **options)")
    arguments, signature = [argument] if argument else [], inspect.signature(get_pipeline)
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        raise ValueError(f"--pipeline={text}: {error}; it takes {signature}") from error
    steps = get_pipeline(*arguments, **options)
    for field in ("name", "output"):
        values = [getattr(step, field) for step in steps]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"--pipeline={text}: several steps have the {field} {twice[0]!r}")
    return steps


def words(step: Step, folder: str | os.PathLike = OUTPUT) -> list[str]:
    """Return the arguments of ``python`` that run a step in a folder."""
    flags = [f"--{flag}={str(value).replace(OUTPUT, str(folder))}" for flag, value in _pairs(step)]
    return ["-m", f"launch.{step.command}", *flags]


def _pairs(step: Step) -> list[tuple[str, object]]:
    """Flags and values; a flag with a tuple is repeated."""
    return [
        (flag, one)
        for flag, value in step.arguments.items()
        for one in (value if isinstance(value, tuple) else (value,))
    ]


def reads(step: Step, earlier: Step) -> bool:
    """Whether a step's arguments name what an earlier one makes, a part of it, or the whole."""
    made = pathlib.PurePath(earlier.output)
    paths = [
        pathlib.PurePath(found.group(1) or "")
        for _, value in _pairs(step)
        for found in OWN_PATH.finditer(str(value))
    ]
    return any(path.is_relative_to(made) or made.is_relative_to(path) for path in paths)


def inputs(step: Step, folder: pathlib.Path) -> str:
    """Return a digest of the files outside the folder that a step names, "" for none.

    It is over names, sizes and times of change, so that further recordings are seen.
    """
    stamps, own = [], folder.resolve()
    for _, value in _pairs(step):
        for piece in dict.fromkeys([str(value), *re.split("[,=:]", str(value))]):
            if not piece or OUTPUT in piece or not os.path.exists(piece):
                continue
            path = pathlib.Path(piece)
            files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
            for file in files:
                if not file.resolve().is_relative_to(own):
                    stat = file.stat()
                    stamps.append([str(file.relative_to(path)), stat.st_size, stat.st_mtime_ns])
    return hashlib.sha256(json.dumps(stamps).encode()).hexdigest()[:16] if stamps else ""


def left_out(step: Step, folder: pathlib.Path) -> str:
    """Return why a step is left out, or "" where it is not.

    Raises:
        StoreError: the store that it asks is not there.
    """
    if step.needs is None:
        return ""
    from data_pipelines.labels import EVENT_LABELS, scored  # not for a list of commands
    from data_pipelines.store import NightStore

    store, names = step.needs
    for night in NightStore(folder / store).select("train"):
        for name in names:
            label = EVENT_LABELS.get(name)
            if scored(night, label.kinds) if label else fnmatch.filter(night.channels, name):
                return ""
    return f"no training night of {folder / store} has {' or '.join(names)}"


class Records:
    """Records of the steps of one folder."""

    def __init__(self, steps: Sequence[Step], folder: pathlib.Path):
        """Read ``pipeline.json``, where there is one.

        Raises:
            ValueError: it is not a file of this program.
        """
        self.steps, self.folder, self._path = steps, folder, folder / FILE
        try:
            self._rows = json.loads(self._path.read_text())["steps"]
        except FileNotFoundError:
            self._rows = {}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self._path} is no record of a pipeline: delete it") from error

    def is_done(self, step: Step) -> bool:
        """Whether a step need not run."""
        row = self._rows.get(step.name, {})
        if not row.get("done") or row["command"] != _line(step):
            return False
        there = (self.folder / step.output).exists()
        return there and row["inputs"] == inputs(step, self.folder)

    def forget(self, step: Step) -> None:
        """Take a step as not done, and all later ones that read what it makes, and so on."""
        undone = [step]
        for later in self.steps[self.steps.index(step) + 1 :]:
            if any(reads(later, earlier) for earlier in undone):
                undone.append(later)
        for one in undone:
            if one.name in self._rows:
                self._rows[one.name]["done"] = False

    def begin(self, step: Step) -> None:
        """Note that a step runs: should it be interrupted, it counts as not done."""
        self.forget(step)
        self._write()

    def finish(self, step: Step, seconds: float, read: str) -> None:
        """Note that a step ended well.

        Args:
            step: which.
            seconds: that it took.
            read: ``inputs`` of when it began.
        """
        row = {"command": _line(step), "inputs": read, "output": step.output}
        self._rows[step.name] = {**row, "seconds": seconds, "done": True}
        self._write()

    def seconds(self, step: Step) -> float | None:
        """What a step took when it last ended well; None where it never did."""
        return self._rows.get(step.name, {}).get("seconds")

    def expect(self, steps: Sequence[Step]) -> float:
        """Return about how many seconds steps take: as before, or as their shares of the others."""
        known = [step for step in self.steps if self.seconds(step) is not None]
        shares = sum(step.expected_s for step in known)
        scale = sum(map(self.seconds, known)) / shares if shares else 1.0
        times = [(self.seconds(step), step.expected_s * scale) for step in steps]
        return sum(guess if took is None else took for took, guess in times)

    def _write(self) -> None:
        write_json(self._path, {"steps": self._rows})


def read_seconds(folder: pathlib.Path) -> dict[str, float]:
    """Return step -> seconds of the pipeline that was run in a folder; nothing where none was."""
    path = folder / FILE
    rows = json.loads(path.read_text())["steps"] if path.is_file() else {}
    return {name: row["seconds"] for name, row in rows.items()}


def _line(step: Step) -> str:
    return " ".join(words(step))
