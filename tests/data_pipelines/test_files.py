"""``files.atomic_write``: the old file or the new one, never a part, whatever goes wrong."""

import errno
import os
import resource

import pytest

from data_pipelines.files import atomic_write, remove_partials
from hypnos_jax.runtime.files import write_json


@pytest.fixture
def small_files():
    """No file of this process may grow beyond 64 kB: as on a full disk, a write fails midway."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_appears_when_its_block_ends(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_write(path, "w") as file:
        file.write("µV")
        assert not path.exists()
    assert path.read_bytes() == "µV".encode()
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_disk_that_takes_no_more_leaves_the_old_file_and_is_told_with_its_path(
    tmp_path, small_files
):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="a.bin'$") as told, atomic_write(path) as file:
        for _ in range(100):
            file.write(bytes(4096))
    assert told.value.errno == errno.EFBIG
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_full_disk_that_is_noticed_only_when_synced_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def full(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left.*/a.json'$"):
        write_json(path, {"new": 2})
    assert '"old": 1' in path.read_text()
    assert os.listdir(tmp_path) == ["a.json"]


def test_an_error_of_the_writer_leaves_the_old_file_and_is_raised_as_it_is(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyError, match="lost"), atomic_write(path, "w") as file:
        file.write("new")
        raise KeyError("lost")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="/elsewhere'$"), atomic_write(tmp_path / "a"):
        (tmp_path / "elsewhere").read_text()
    with pytest.raises(FileNotFoundError, match="/none/a'$"), atomic_write(tmp_path / "none" / "a"):
        pass


def test_content_and_name_are_on_the_disk(tmp_path, monkeypatch):
    synced, sync = [], os.fsync
    seen = lambda number: synced.append(os.readlink(f"/proc/self/fd/{number}")) or sync(number)
    monkeypatch.setattr(os, "fsync", seen)
    write_json(tmp_path / "a.json", {})
    assert [os.path.dirname(synced[0]), synced[1]] == [str(tmp_path), str(tmp_path)]
    assert os.path.basename(synced[0]).startswith(".a.json.partial-")


@pytest.mark.parametrize("links", [True, False])
def test_an_exclusive_write_replaces_nothing(links, tmp_path, monkeypatch):
    if not links:

        def link(*_):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", link)
    for content in ("first", "second"):
        try:
            with atomic_write(tmp_path / "a", "x") as file:
                file.write(content)
        except FileExistsError:
            assert content == "second"
    assert (tmp_path / "a").read_text() == "first"
    assert os.listdir(tmp_path) == ["a"]


def test_what_a_killed_writer_leaves_is_found_and_removed(tmp_path):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with atomic_write(tmp_path / "a"):
            os.write(write, b"!")
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"!"
    assert len(os.listdir(tmp_path)) == 1 and not (tmp_path / "a").exists()
    (tmp_path / "b").write_text("kept")
    remove_partials(tmp_path)
    assert os.listdir(tmp_path) == ["b"]
