"""Ends a run whose processes are alive but stuck, and names the one that holds the others up.

A process that hangs makes all others wait in a collective for ever; jax's heartbeats go on. Each
process says what it is doing (``Watchdog.enter``); a thread posts that for the others to read. When
a process has done the same for longer than it may, it looks at all of them: the one that is
furthest behind is what the others wait for, and only if that one is past its own deadline does the
run end, with every process's state and stacks in the log. So long as a process reads slow data or
compiles within its deadline, those that wait for it wait too.

A process that stands still as a whole, or whose host does, posts nothing, and jax would end the run
without a name. Process 0 reads what all post, and misses who posts nothing new. What is posted lies
on process 0, so that the others know of its stop by a question that it does not answer; since that
holds up the thread that asked, a second one watches it.
"""

from __future__ import annotations

import faulthandler
import json
import sys
import threading
import time

import jax
from absl import logging

from hypnos_jax.runtime import distributed
from hypnos_jax.runtime.exit_codes import STUCK

SLACK_S = 5.0  # ours: hosts' clocks may differ so much
SILENCE_S = 60.0  # ours; less than the 90 s after which jax aborts


class Watchdog:
    """``config.watchdog``: how long each kind of work may take, in seconds; use with ``with``.

    Args:
        step_s: from one training step to the next, logging included.
        data_s: for a batch to be read.
        save_s: for a checkpoint: what blocks, and the wait for the one before.
        evaluation_s: from one batch of an evaluation to the next, and for what has no batches.
        startup_s: for opening the data, restoring, compiling.
    """

    def __init__(
        self,
        *,
        step_s: float = 100.0,
        data_s: float = 600.0,
        save_s: float = 600.0,
        evaluation_s: float = 1800.0,
        startup_s: float = 1800.0,
    ):
        self.may_take_s = {
            "start-up": startup_s,
            "data": data_s,
            "step": step_s,
            "evaluation": evaluation_s,
            "save": save_s,
        }
        for phase, seconds in self.may_take_s.items():
            if not seconds > 0:
                raise ValueError(f"config.watchdog: {seconds} s for {phase}; give more than 0")
        self._look_s = min(5.0, min(self.may_take_s.values()) / 8)
        self._count, self._over = 0, threading.Event()
        self._questions, self._asking = 0, False
        self._heard: dict[int, tuple[int, int]] = {}  # the last post of each, and looks since
        self.enter("start-up")

    def enter(self, phase: str) -> None:
        """Say what this process does from now on: a key of ``may_take_s``."""
        # One assignment, so that the thread never sees half of it.
        self._count += 1
        self._state = (self._count, phase, time.monotonic())

    def __enter__(self) -> Watchdog:
        self.enter("start-up")
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")
        self._thread.start()
        if not distributed.is_first():
            threading.Thread(target=self._watch_first, daemon=True, name="watchdog").start()
        return self

    def __exit__(self, *error) -> None:
        self._over.set()
        self._thread.join(self._look_s)
        distributed.post("doing", "")  # who is done holds nobody up

    def _watch(self) -> None:
        then = time.monotonic()
        asleep_s = 0.0  # while this process was stopped (Ctrl-Z), nobody was stuck
        said, others_failed = None, False
        while not self._over.wait(self._look_s):
            now = time.monotonic()
            count, phase, since = self._state
            if said != count:
                said, asleep_s = count, 0.0
            asleep_s += max(0.0, now - then - 2 * self._look_s)
            then = now
            age_s = now - since - asleep_s
            self._questions, self._asking = self._questions + 1, True
            state = {"count": count, "phase": phase, "since": time.time() - age_s}
            state["posted"] = self._questions
            distributed.post("doing", json.dumps(state))
            try:
                distributed.require_nobody_failed()
            except distributed.OtherProcessError as error:
                # After a second look, to let this process come upon the same error by itself.
                if others_failed or error.code == STUCK:
                    logging.error("ending: %s", error)
                    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
                    distributed.leave(error.code)
                others_failed = True
            late = age_s > self.may_take_s[phase]
            if late or distributed.is_first():
                texts = distributed.posted("doing").items()
                everyone = {i: json.loads(text) for i, text in texts if text}
                everyone[jax.process_index()] = state
                silent = self._silent(everyone)
                stuck = silent or (self._stuck(everyone) if late else [])
                if stuck and not self._over.is_set():
                    self._end(everyone, stuck, "standing still" if silent else "stuck")
            self._asking = False

    def _watch_first(self) -> None:
        question, looks = 0, 0  # looks are counted, as none are made while this process is stopped
        while not self._over.wait(self._look_s):
            looks = looks + 1 if self._asking and self._questions == question else 0
            question = self._questions
            _, phase, since = self._state
            silence_s = looks * self._look_s
            if silence_s > min(SILENCE_S, self.may_take_s[phase]):
                logging.error(
                    "standing still: process 0, which has not answered for %.0f s: it, or its host,"
                    " is stopped, or cannot be reached. Ending with code %d.\n  process %d: %s for"
                    " %.0f s",
                    *(silence_s, STUCK, jax.process_index(), phase, time.monotonic() - since),
                )
                faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
                distributed.leave(STUCK)

    def _silent(self, everyone: dict[int, dict]) -> list[int]:
        """The processes that have posted nothing new for too long."""
        for i, state in everyone.items():
            last, looks = self._heard.get(i, (0, 0))
            self._heard[i] = state["posted"], looks + 1 if state["posted"] == last else 0
        return [i for i in everyone if self._heard[i][1] * self._look_s > SILENCE_S]

    def _stuck(self, everyone: dict[int, dict]) -> list[int]:
        """The processes furthest behind, if they are past their deadline."""
        least = min(state["count"] for state in everyone.values())
        behind = {i: state for i, state in everyone.items() if state["count"] == least}
        slack_s = SLACK_S if len(everyone) > 1 else 0.0
        late = [
            i
            for i, state in behind.items()
            if time.time() - state["since"] > self.may_take_s[state["phase"]] - slack_s
        ]
        return late if len(late) == len(behind) else []

    def _end(self, everyone: dict[int, dict], stuck: list[int], how: str) -> None:
        lines = [
            f"  process {i}: {state['phase']} for {time.time() - state['since']:.0f} s"
            f" (may take {self.may_take_s[state['phase']]:g} s), {state['count']} phases so far"
            for i, state in sorted(everyone.items())
            if i in stuck[:8] or i == jax.process_index()
        ]
        named = f"{how}: {distributed.processes_named(stuck)}"
        logging.error(
            "%s; config.watchdog sets the deadlines. Ending with code %d.\n%s",
            named,
            STUCK,
            "\n".join(lines),
        )
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        distributed.post_failure(named, STUCK)
        # Others must look once more: their collectives would tell them of a lost connection only.
        time.sleep(2 * self._look_s if jax.process_count() > 1 else 0)
        distributed.leave(STUCK)
