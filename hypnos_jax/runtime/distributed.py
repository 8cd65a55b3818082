"""Many processes as one program: how they find each other, what they agree on, how they end.

``launch.train`` calls ``initialize`` first, with one process too: without it SIGTERM would end a
run with nothing saved. What processes tell each other here goes through the key-value store of
jax's coordination service, on process 0, and touches no device: it works before the mesh does, has
a deadline, and names whom it waits for. Where ``initialize`` was not called (a notebook, a test)
there is one process, which agrees with itself.

Processes that fail end at once (``fail``): a normal exit would wait for the others, which wait for
this one in a collective.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging as python_logging
import os
import pathlib
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import jax
from absl import logging

from data_pipelines import plugins
from hypnos_jax.runtime import preemption
from hypnos_jax.runtime.exit_codes import CRASHED, FAILED
from hypnos_jax.runtime.ports import free_port

TIMEOUT_S = 300.0
SLICE_S = 1.0  # between two looks at whether another process has failed
LAST_WORDS_S = 2.0  # ours

_exchanges = itertools.count()
_told: int | None = None


class StragglerError(RuntimeError):
    """Processes that did not arrive in time, by number."""


class DisagreementError(ValueError):
    """Settings that differ between the processes of a run."""


class OtherProcessError(RuntimeError):
    """Another process failed; the message has its reason, ``code`` is its exit code."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


def initialize(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
    heartbeat_s: float = 100.0,
) -> None:
    """Join the processes of this run; before the first use of a device.

    With ``coordinator``: as told. Without: as the environment tells (TPU pods, Slurm, Open MPI,
    Kubernetes; what ``jax.distributed.initialize`` knows), else one process.

    Args:
        coordinator: ``host:port`` on the host of process 0.
        processes: how many there are.
        process: which of them this is, from 0.
        timeout_s: for all to arrive.
        heartbeat_s: silence after which jax takes a process for dead.

    Raises:
        ValueError: only some of the three are given, or they do not fit.
    """
    given = {"coordinator": coordinator, "processes": processes, "process": process}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if 0 < len(missing) < 3:
        raise ValueError(f"{' and '.join(missing)} missing: give all of {list(given)}, or none")
    if not missing and not (0 <= process < processes and ":" in coordinator):
        raise ValueError(
            f"--coordinator={coordinator} --processes={processes} --process={process}: give"
            " host:port, and a process from 0 to processes - 1"
        )
    sys.excepthook = _end_at_once
    python_logging.getLogger("jax._src.distributed").setLevel("WARNING")  # its addresses
    preemption.listen()
    common = {
        "initialization_timeout": int(timeout_s),
        "heartbeat_timeout_seconds": int(heartbeat_s),
    }
    if not missing:
        common["cluster_detection_method"] = "deactivate"
        jax.distributed.initialize(coordinator, processes, process, **common)
    elif not _initialize_from_environment(common):
        # The only process cannot miss itself: a laptop may sleep for a day.
        common |= {"heartbeat_timeout_seconds": 10**6, "cluster_detection_method": "deactivate"}
        # Its devices need no sockets between them, and sum in the same order as without this call.
        jax.config.update("jax_cpu_collectives_implementation", None)
        address = f"127.0.0.1:{free_port()}"
        jax.distributed.initialize(address, 1, 0, coordinator_bind_address=address, **common)
    preemption.connect()


def _initialize_from_environment(options: dict) -> bool:
    try:
        jax.distributed.initialize(**options)
    except ValueError as error:
        if "coordinator_address should be defined" not in str(error):
            raise
        return False
    if _is_alone_on_its_node() and "JAX_LOCAL_DEVICE_IDS" not in os.environ:
        # jax takes each process of Slurm and Open MPI for that of one GPU.
        for kind in ("cuda", "rocm"):
            jax.config.update(f"jax_{kind}_visible_devices", "all")
    return True


def _is_alone_on_its_node() -> bool:
    """Whether a launcher has started one process on each node, for all devices there."""
    if "OMPI_COMM_WORLD_LOCAL_SIZE" in os.environ:
        return os.environ["OMPI_COMM_WORLD_LOCAL_SIZE"] == "1"
    nodes = os.environ.get("SLURM_STEP_NUM_NODES")
    return nodes is not None and nodes == os.environ.get("SLURM_NTASKS")


def is_first() -> bool:
    """Whether this is process 0, which writes what is written once."""
    return jax.process_index() == 0


def shutdown() -> None:
    """Leave after the others are done too; on the normal path alone."""
    if client() is not None:
        jax.distributed.shutdown()


def fail(error: BaseException, code: int = FAILED) -> None:
    """Tell the other processes why, and end this one at once."""
    post_failure(f"{type(error).__name__}: {error}", code)
    leave(_told)


def post_failure(text: str, code: int = FAILED) -> None:
    """Tell the other processes why this one will end; its exit code stays the first one told."""
    global _told
    _told = _told or code
    post("failed", json.dumps({"text": text, "code": _told}))


@contextlib.contextmanager
def telling_others():
    """Tell the other processes if the block raises, before anything waits for them.

    Not where one of them has failed first: it has the cause, and its exit code becomes this one's.
    """
    try:
        yield
    except Exception as error:
        if not posted("failed"):
            code = FAILED if isinstance(error, ValueError | OSError) else CRASHED
            post_failure(f"{type(error).__name__}: {error}", code)
        raise


def leave(code: int) -> None:
    """End this process at once; process 0 lets the others log first, whom its end cuts off."""
    logging.flush()
    sys.stdout.flush()
    sys.stderr.flush()
    if client() is not None and jax.process_count() > 1 and is_first():
        time.sleep(LAST_WORDS_S)
    os._exit(code)


def _end_at_once(kind, error, trace) -> None:
    traceback.print_exception(kind, error, trace)
    code = CRASHED
    try:
        require_nobody_failed()  # what a collective says of it does not name the cause
    except OtherProcessError as cause:
        logging.error("%s", cause)
        code = cause.code
    fail(error, code)


def client():
    """Return the client of jax's coordination service, or None before ``initialize``."""
    from jax._src import distributed  # jax has no public name for it

    return distributed.global_state.client


def post(topic: str, text: str) -> None:
    """Put up this process's newest text on a topic, for ``posted``."""
    if client() is None:
        return
    try:
        key = f"hypnos_jax/{topic}/{jax.process_index()}"
        client().key_value_set(key, text, allow_overwrite=True)
    except Exception as error:  # on the way out, or of a coordinator that has gone
        logging.warning("cannot post %s: %s", topic, str(error)[:200])


def posted(topic: str) -> dict[int, str]:
    """Return process -> its newest text on a topic; nothing where the coordinator has gone."""
    if client() is None:
        return {}
    try:
        found = client().key_value_dir_get(f"hypnos_jax/{topic}/")
    except jax.errors.JaxRuntimeError as error:
        logging.warning("cannot read what is posted as %s: %s", topic, str(error)[:200])
        return {}
    return {int(key.rsplit("/", 1)[1]): text for key, text in found}


def gather(name: str, value: Any, *, timeout_s: float = TIMEOUT_S) -> list:
    """Return every process's value, in the order of their numbers.

    All processes must call this, ``broadcast``, ``agree``, ``once`` and ``barrier`` in the same
    order.

    Args:
        name: what is exchanged, for the error.
        value: JSON value.
        timeout_s: for all to arrive.

    Raises:
        StragglerError: some process did not arrive in time; names them.
        OtherProcessError: some process failed meanwhile.
    """
    if client() is None or jax.process_count() == 1:
        return [json.loads(json.dumps(value))]
    key = f"hypnos_jax/exchange/{next(_exchanges)}/{name.replace('/', '_')}"
    client().key_value_set(f"{key}/{jax.process_index()}", json.dumps(value))
    end = time.monotonic() + timeout_s
    # Process 0 collects, so that n processes make 2 n requests and all see the same outcome.
    if is_first():
        texts = [_wait(f"{key}/{i}", end) for i in range(jax.process_count())]
        late = [i for i, text in enumerate(texts) if text is None]
        whole = {"late": late, "values": [None if t is None else json.loads(t) for t in texts]}
        client().key_value_set(f"{key}/all", json.dumps(whole))
    else:
        text = _wait(f"{key}/all", end + 2 * SLICE_S)
        whole = {"late": [0]} if text is None else json.loads(text)
    if whole["late"]:
        raise StragglerError(
            f"{name}: {processes_named(whole['late'])} did not arrive within {timeout_s:g} s"
        )
    return whole["values"]


def _wait(key: str, end: float) -> str | None:
    """Return the text under a key once it is there, or None after ``end``."""
    while True:
        left = min(SLICE_S, end - time.monotonic())
        try:
            # A text that is already there is returned even when the time is up.
            return client().blocking_key_value_get(key, max(int(left * 1000), 50))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
        require_nobody_failed()
        if left < SLICE_S:
            return None


def require_nobody_failed() -> None:
    """Raise ``OtherProcessError`` where others have failed and this process has not."""
    failed = posted("failed")
    if failed and jax.process_index() not in failed:
        found = {i: json.loads(text) for i, text in sorted(failed.items())}
        words = "; ".join(f"process {i}: {told['text']}" for i, told in found.items())
        code = max(told["code"] for told in found.values())
        raise OtherProcessError(f"another process failed: {words}", code)


def broadcast(name: str, value: Any = None, *, timeout_s: float = TIMEOUT_S) -> Any:
    """Return process 0's value, a JSON value, on every process."""
    mine = value if is_first() else None
    return gather(name, mine, timeout_s=timeout_s)[0]


def barrier(name: str, *, timeout_s: float = TIMEOUT_S) -> None:
    """Wait until every process is here; ``StragglerError`` names those that are not."""
    gather(name, None, timeout_s=timeout_s)


def once(name: str, function: Callable[[], Any], *, timeout_s: float = TIMEOUT_S) -> Any:
    """Call a function on process 0 while the others wait; return its JSON value on all.

    Raises:
        ValueError: what the function raised, on every process.
    """
    if client() is None or jax.process_count() == 1:
        return function()
    value = error = None
    if is_first():
        try:
            value = function()
        except (ValueError, OSError) as raised:
            error = raised
    told = {"value": value, "error": None if error is None else str(error)}
    told = broadcast(name, told, timeout_s=timeout_s)
    if error is not None:
        raise error
    if told["error"] is not None:
        raise ValueError(told["error"])
    return told["value"]


def agree(values: dict[str, Any], *, timeout_s: float = TIMEOUT_S) -> None:
    """Require that every process has the same values.

    Digests are compared; only what differs is then told, key by key.

    Args:
        values: name -> JSON value, such as ``{"config": ..., "data": ...}``.
        timeout_s: for all to arrive.

    Raises:
        DisagreementError: on every process alike: which values differ, and who has which.
    """
    own = {name: _digest(value) for name, value in values.items()}
    everyone = gather("the digests of " + ", ".join(values), own, timeout_s=timeout_s)
    differing = [name for name in everyone[0] if len({told.get(name) for told in everyone}) > 1]
    if not differing:
        return
    own = {name: _flat(values[name]) for name in differing}
    everyone = gather("what differs", own, timeout_s=timeout_s)
    lines = []
    for name in differing:
        keys = sorted({key for told in everyone for key in told[name]})
        for key in keys:
            having: dict[str, list[int]] = {}
            for process, told in enumerate(everyone):
                having.setdefault(str(told[name].get(key, "absent")), []).append(process)
            if len(having) > 1:
                sides = [f"{text} on {processes_named(who)}" for text, who in having.items()]
                lines.append(f"{name}{key}: " + ", ".join(sides))
    raise DisagreementError(
        f"the processes do not have the same {' and '.join(differing)}:\n  " + "\n  ".join(lines)
    )


def sources() -> str:
    """Return a digest of the program's source files, which a version may not tell apart.

    Those of the packages that the user allowed are among them (``data_pipelines.plugins``).
    """
    root = pathlib.Path(__file__).parents[2]
    found = hashlib.sha256()
    for folder in (root / "hypnos_jax", root / "data_pipelines", *plugins.folders()):
        for path in sorted(folder.rglob("*.py")):
            found.update(str(path.relative_to(folder.parent)).encode() + path.read_bytes())
    return found.hexdigest()[:16]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Dotted key -> JSON text of every leaf."""
    if isinstance(value, dict) and value:
        out = {}
        for key, item in value.items():
            out |= _flat(item, f"{prefix}.{key}")
        return out
    return {prefix: json.dumps(value)}


def processes_named(numbers: list[int]) -> str:
    """``process 3`` or ``processes 0, 1, 2 and 60 more``."""
    shown = ", ".join(map(str, numbers[:8]))
    more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
    return f"process{'es' if len(numbers) > 1 else ''} {shown}{more}"
