"""An eval job: follows a run's checkpoints and evaluates each once.

``workdir/evaluations/<evaluator>/<step>.json`` is one result: ``{"step", "evaluator", "results":
{"eval/<name>/<metric>": value}, "checkpoint", "code", "seconds", "job"}``; ``checkpoint`` is the
SHA-256 of the checkpoint's manifest. What the evaluator writes besides is in the folder
``<step>`` next to it. A result is created whole or not at all, and never replaced, so that a job
may be killed at any moment and several may share a run: at worst something is computed twice.
The trainer's own files are not touched (``metrics.read_run`` returns its metrics and these).
TensorBoard has them under ``evaluations``: every job writes the results of all, so that the newest
file holds everything.

A workdir elsewhere (``runtime/storage.py``) is followed through a copy of the checkpoint in work.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import statistics
import tempfile
import time

from absl import logging

from hypnos_jax import checkpoint, evaluate, metrics
from hypnos_jax import config as configs
from hypnos_jax.jobs import leases
from hypnos_jax.jobs.progress import over_at
from hypnos_jax.judgement import FINISHED
from hypnos_jax.metrics import EVALUATIONS
from hypnos_jax.runtime import seals
from hypnos_jax.runtime.files import finite, write_json
from hypnos_jax.runtime.storage import LocalFolder, RemoteFolder, open_folder

POLL_S = 5.0
COPIES = "hypnos_jax-checkpoints-"


class EvalJobError(ValueError):
    """A run that did not come to its end, or whose end cannot be evaluated."""


class EvalJob:
    """One eval job."""

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        changes: dict | None = None,
        patience_s: float = 0.0,
        poll_s: float = POLL_S,
        expire_s: float = leases.EXPIRE_S,
    ):
        """Take the run's folder; it need not be there yet.

        Args:
            workdir: a path, or a URL that fsspec reaches.
            changes: dotted config key -> value.
            patience_s: how long nothing new may come; 0 for ever.
            poll_s: between two looks.
            expire_s: see ``Leases``.

        Raises:
            ValueError: a URL that nothing reaches.
        """
        self._folder = open_folder(workdir)
        self._changes, self._patience_s, self._poll_s = changes or {}, patience_s, poll_s
        self._leases = leases.Leases(self._folder, f"{EVALUATIONS}/leases", expire_s=expire_s)
        self._stack = contextlib.ExitStack()
        if isinstance(self._folder, LocalFolder):
            self._home = self._folder.path
        else:
            self._home = self._stack.enter_context(_copy_folder())
        self._config, self._evaluation = None, None
        self._found: dict[tuple[str, int], dict] = {}
        self._damaged: dict[int, str] = {}  # step -> its seal
        self._seen, self._told = set(), set()
        self._board, self._seconds = None, []

    def close(self) -> None:
        """Let others do what this job had begun; may be called from another thread."""
        self._leases.close()
        self._stack.close()

    def run(self) -> None:
        """Evaluate until the run's last step is.

        Raises:
            EvalJobError: nothing new came for too long, or the last step is damaged.
            ConfigError, ValueError, OSError: what an evaluator or the folder raised.
        """
        last_news, waiting_for = time.monotonic(), None
        while True:
            self._prepare()
            # In this order: who sees the last step's result sees all steps before it too.
            news = self._read_results()
            steps = self._steps() if self._evaluation is not None else {}
            news |= bool(steps.keys() - self._seen)
            self._seen |= steps.keys()
            self._tell_lost(steps)
            pending = [step for step in steps if self._is_pending(step, steps[step])]
            for step in pending:
                if self._leases.take(str(step)):
                    try:
                        done = self._evaluate(step, steps[step], len(pending))
                    finally:
                        self._leases.release()
                    if not done:  # a file system may show for a while what has gone
                        time.sleep(self._poll_s)
                    news |= done
                    break  # look again: older ones may have gone, and newer ones come
            else:
                if self._evaluation is not None and self._is_done(steps, pending):
                    return
                newest = max(steps, default=None)
                words = "the run" if newest is None else f"what comes after step {newest}"
                words = f"other jobs, at {len(pending)} steps" if pending else words
                if words != waiting_for:
                    logging.info("%s: waiting for %s", self._folder, words)
                waiting_for = words
                if 0 < self._patience_s < time.monotonic() - last_news and not news:
                    raise EvalJobError(
                        f"{self._folder}: nothing new for {self._patience_s:g} s while waiting for"
                        f" {words}; has the training ended? --patience_s=0 waits for ever"
                    )
                time.sleep(self._poll_s)
            if news:
                last_news = time.monotonic()

    def _prepare(self) -> None:
        """Take the run's config, as it is by now, and build its evaluators."""
        content = self._folder.read("config.json")
        if content is None:
            return
        try:
            trained = json.loads(content)
        except ValueError as error:
            raise configs.ConfigError(f"{self._folder}/config.json: {error}") from error
        config = configs.change(trained, self._changes)
        if self._config is not None:
            same = ("objective", "data", "evals")
            if all(config[section] == self._config[section] for section in same):
                self._config = config
                return
        self._config = config
        if not evaluate.of_jobs(config["evals"]):
            logging.warning("%s: no evaluator of config.evals has every='job'", self._folder)
        self._evaluation = evaluate.Evaluation(config, self._home, trained=trained, jobs=True)

    @property
    def _last(self) -> int:
        return over_at(self._folder.read(FINISHED), self._config["train"]["steps"])

    def _steps(self) -> dict[int, str]:
        """Step -> manifest of every checkpoint that is there, oldest first."""
        found = {}
        for name in self._folder.glob(f"checkpoints/*/{seals.MANIFEST}"):
            step = name.split("/")[1]
            if step.isdecimal() and str(int(step)) == step:
                found[int(step)] = name
        return dict(sorted(found.items()))

    def _read_results(self) -> bool:
        """Read what jobs have found since the last look; return whether there is anything."""
        news = False
        for name in self._evaluation.names if self._evaluation is not None else ():
            for path in self._folder.glob(f"{EVALUATIONS}/{name}/*.json"):
                stem = path.rsplit("/", 1)[1].removesuffix(".json")
                if not stem.isdecimal() or (name, int(stem)) in self._found:
                    continue
                result = metrics.read_result(self._folder.read(path) or b"")
                if result is None:
                    logging.warning("%s/%s is not a result; it is made anew", self._folder, path)
                    self._folder.remove(path)
                    continue
                self._found[name, int(stem)] = result["results"]
                self._write_board(int(stem), result["results"])
                news = True
        return news

    def _missing(self, step: int) -> list[str]:
        return [name for name in self._evaluation.names if (name, step) not in self._found]

    def _is_pending(self, step: int, manifest: str) -> bool:
        if not self._missing(step):
            return False
        # A resumed run saves a damaged step again.
        return step not in self._damaged or self._damaged[step] != self._seal(manifest)

    def _seal(self, manifest: str) -> str | None:
        content = self._folder.read(manifest)
        return None if content is None else hashlib.sha256(content).hexdigest()

    def _is_done(self, steps, pending) -> bool:
        last = self._last
        if last in self._damaged:
            raise EvalJobError(f"{self._folder}: step {last}, the run's last, is damaged")
        return not pending and not self._missing(last)

    def _tell_lost(self, steps: dict[int, str]) -> None:
        """Warn of steps that went before they were evaluated."""
        if self._evaluation is None or not steps:
            return
        every = self._config["checkpoints"].get("every", 1000)
        expected = self._seen | set(range(every, max(steps), every))
        lost = expected - steps.keys() - self._told - self._damaged.keys()
        if any(map(self._missing, lost)):
            self._read_results()  # of a step that went since the last look, another job's
        lost = [step for step in sorted(lost) if self._missing(step)]
        if lost:
            self._told |= set(lost)
            logging.warning(
                "%s: checkpoints %s went before they were evaluated; a"
                " config.checkpoints.keep_for_jobs above %d would have kept them",
                self._folder,
                ", ".join(map(str, lost)),
                self._config["checkpoints"].get("keep_for_jobs", 0),
            )

    def _evaluate(self, step: int, manifest: str, pending: int) -> bool:
        """Evaluate one checkpoint, as far as others have not; return whether anything was new."""
        self._read_results()
        names = self._missing(step)
        if not names:
            return True
        begin = time.monotonic()
        loaded = self._load(step, manifest)
        if loaded is None:
            return False
        variables, seal = loaded
        placed, found = self._evaluation.place(variables), {}
        for name in names:
            then = time.monotonic()
            results = self._results(name, placed, step)
            content = {
                "step": step,
                "evaluator": name,
                "results": results,
                "checkpoint": seal,
                "code": configs.code_version(),
                "seconds": time.monotonic() - then,
                "job": self._leases.job,
            }
            text = json.dumps(finite(content), indent=1, allow_nan=False) + "\n"
            self._folder.create(f"{EVALUATIONS}/{name}/{step}.json", text.encode())
            found |= results
        self._seconds.append(time.monotonic() - begin)
        self._tell(step, found, pending - 1)
        return True

    def _load(self, step: int, manifest: str) -> tuple[dict, str] | None:
        """Return a checkpoint's variables and seal; None where it is damaged, or has gone."""
        folder = self._home / "checkpoints" / str(step)
        try:
            for _ in range(2):  # a file system may have shown it before it was whole
                seal = self._seal(manifest)
                if isinstance(self._folder, RemoteFolder):
                    self._folder.fetch(f"checkpoints/{step}", folder)
                fault = seals.damage(folder)
                if fault is None:
                    _, _, variables = checkpoint.load_variables(folder)
                    if seals.seal_of(folder) == seal:
                        self._damaged.pop(step, None)
                        return variables, seal
        except (FileNotFoundError, seals.CheckpointError) as error:
            fault = str(error)
        finally:
            if isinstance(self._folder, RemoteFolder):
                shutil.rmtree(folder, ignore_errors=True)
        if seal is not None and fault is not None and self._seal(manifest) == seal:
            self._damaged[step] = seal
            logging.error(
                "checkpoint %s/checkpoints/%d is damaged and not evaluated: %s",
                self._folder,
                step,
                fault,
            )
        else:
            logging.info("checkpoint %d went, or was saved again, while it was read", step)
        return None

    def _results(self, name: str, placed: dict, step: int) -> dict[str, float]:
        """Run one evaluator, and keep what it writes besides."""
        beside = f"{EVALUATIONS}/{name}/{step}"
        output = self._home / beside
        output.mkdir(parents=True, exist_ok=True)
        results = self._evaluation.results(name, placed, step, output)
        if isinstance(self._folder, RemoteFolder):
            self._folder.put(output, beside)
            shutil.rmtree(output)
        else:
            with contextlib.suppress(OSError):  # others may be at the same
                output.rmdir()  # which succeeds where nothing was written
        return results

    def _tell(self, step: int, found: dict[str, float], waiting: int) -> None:
        """Say what was found, how fast, and how long what is there will take."""
        each_s = statistics.median(self._seconds[-20:])
        left = int(waiting * each_s)
        logging.info(
            "evaluated step %d of %d: %s\n  %.1f s a step, %d waiting, %d:%02d:%02d left",
            step,
            self._last,
            metrics.words(found),
            each_s,
            waiting,
            left // 3600,
            left // 60 % 60,
            left % 60,
        )

    def _write_board(self, step: int, results: dict[str, float]) -> None:
        """Append to TensorBoard's file of this job, in a folder apart from the trainer's: of one
        folder it reads one file after the other, and never goes back."""
        if not self._config["logs"].get("tensorboard", True):
            return
        where = f"tensorboard/{EVALUATIONS}"
        try:
            if self._board is None:
                self._board = metrics.TensorBoardWriter(self._home / where, purge_step=0)
            self._board.write(step, results)
            if isinstance(self._folder, RemoteFolder):
                self._folder.put(self._home / where, where)
        except OSError as error:
            logging.warning("%s/%s: %s", self._folder, where, error)


@contextlib.contextmanager
def _copy_folder():
    """Give a temporary folder for copies, after removing those of jobs that were killed."""
    for path in pathlib.Path(tempfile.gettempdir()).glob(f"{COPIES}*/process.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # others', perhaps
            if leases.is_gone(json.loads(path.read_text())):
                shutil.rmtree(path.parent)
    with tempfile.TemporaryDirectory(prefix=COPIES, ignore_cleanup_errors=True) as folder:
        write_json(pathlib.Path(folder) / "process.json", leases.this_process())
        yield pathlib.Path(folder)
