"""Processes find each other, and tell each other what they must."""

import hashlib
import json
import sys

import pytest
from processes import Group

from hypnos_jax.runtime import distributed, exit_codes
from hypnos_jax.runtime.ports import free_port

TALK = """
import json, sys, time
from hypnos_jax.runtime import distributed
distributed.initialize(*(json.loads(sys.argv[1])))
import jax
index, found = jax.process_index(), {"count": jax.process_count()}
found["gpus"] = jax.config.values["jax_cuda_visible_devices"]
found["gathered"] = distributed.gather("numbers", index * 2)
found["told"] = distributed.broadcast("a choice", {"step": 7} if index == 0 else None)
def write():
    raise ValueError("the disk is full")
for name, call in {
    "agree": lambda: distributed.agree({"same": 1, "config": {"a": 1, "b": {"c": index}}}),
    "once": lambda: distributed.once("writing", write),
    "late": lambda: (time.sleep(3 * index), distributed.barrier("the start", timeout_s=1.5)),
}.items():
    try:
        call()
    except (ValueError, RuntimeError) as error:
        found[name] = str(error)
with open(f"{sys.argv[2]}/{index}.json", "w") as file:
    json.dump(found, file)
distributed.barrier("the end")
distributed.shutdown()
"""


def talk(folder, arguments, environments):
    commands = [[sys.executable, "-c", TALK, json.dumps(a), str(folder)] for a in arguments]
    with Group(commands, folder, environments) as group:
        group.wait(60)
    return [json.loads((folder / f"{i}.json").read_text()) for i in range(len(arguments))]


def check(found):
    for told in found:
        assert told["count"] == 2
        assert told["gathered"] == [0, 2]
        assert told["told"] == {"step": 7}
        assert told["agree"] == (
            "the processes do not have the same config:\n"
            "  config.b.c: 0 on process 0, 1 on process 1"
        )
        assert told["once"] == "the disk is full"
        assert told["late"] == "the start: process 1 did not arrive within 1.5 s"


def test_processes_that_are_told_where_they_are(tmp_path):
    port = free_port()
    check(talk(tmp_path, [(f"127.0.0.1:{port}", 2, i) for i in range(2)], [{}, {}]))


@pytest.mark.parametrize("nodes, gpus", [(1, ["0", "1"]), (2, ["all", "all"])])
def test_processes_that_slurm_has_started(tmp_path, nodes, gpus):
    common = {
        "SLURM_JOB_ID": str(free_port()),  # jax takes the port from it
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_NODES": str(nodes),
    }
    places = [{"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i % (2 // nodes))} for i in range(2)]
    found = talk(tmp_path, [(), ()], [common | place for place in places])
    check(found)
    assert [told["gpus"] for told in found] == gpus


FAIL = """
import json, sys
from hypnos_jax.runtime import distributed
distributed.initialize(*(json.loads(sys.argv[1])))
import jax
with distributed.telling_others():
    if jax.process_index() == 1:
        raise OSError("no such shard")
    distributed.barrier("the start")
"""


def test_all_end_with_the_code_of_the_process_that_failed_first(tmp_path):
    port = free_port()
    commands = [
        [sys.executable, "-c", FAIL, json.dumps((f"127.0.0.1:{port}", 2, i))] for i in range(2)
    ]
    with Group(commands, tmp_path, [{}, {}]) as group:
        group.wait(60, codes=(exit_codes.FAILED,))
        assert "another process failed: process 1: OSError: no such shard" in (
            group.logs[0].read_text()
        )


@pytest.mark.parametrize(
    "given, message",
    [
        (("host:1", None, 0), "--processes missing"),
        (("host:1", 2, 2), "--process=2"),
        (("host", 2, 0), "host:port"),
    ],
)
def test_half_an_address_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        distributed.initialize(*given)


def test_the_digest_of_the_program_is_of_its_files():
    assert distributed.sources() != hashlib.sha256().hexdigest()[:16]


def test_one_process_agrees_with_itself():
    assert distributed.gather("x", {"a": (1, 2)}) == [{"a": [1, 2]}]
    assert distributed.broadcast("x", 3) == 3
    distributed.agree({"a": 1})
    distributed.barrier("x")
    with pytest.raises(OSError, match="full"):
        distributed.once("x", lambda: (_ for _ in ()).throw(OSError("full")))
