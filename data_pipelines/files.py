"""Files that are complete or absent, whatever ends the process that writes them; folders walked."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import pathlib
import uuid
import zipfile
from collections.abc import Iterator
from typing import IO

PARTIALS = ".*.partial-*"  # names of what a killed process leaves
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
NO_FOLDER_SYNC = (errno.EINVAL, errno.EACCES, errno.EPERM, errno.ENOTSUP, errno.ENOSYS)


@contextlib.contextmanager
def atomic_write(
    path: str | os.PathLike,
    mode: str = "wb",
    *,
    partial_in: pathlib.Path | None = None,
    newline: str | None = None,
) -> Iterator[IO]:
    """Open a partial file that takes its place at ``path`` when the block ends without an error.

    The content is on the disk before the name is; after an error the partial is removed and what
    was at ``path`` is as it was.

    Args:
        path: the file, in a folder that is there.
        mode: as of ``open``; text is UTF-8. ``"x"`` in place of ``"w"`` replaces no file.
        partial_in: folder of the partial, on the same file system; that of ``path`` by default.
        newline: as of ``open``.

    Yields:
        The partial, open; a library that wants a path may write to its ``name`` instead.

    Raises:
        FileExistsError: the mode has ``"x"``, and the file is there.
        OSError: the file cannot be written; it names ``path``.
    """
    path = pathlib.Path(path)
    name = f".{path.name}.partial-{uuid.uuid4().hex[:12]}"  # other hosts may write the same file
    partial = (partial_in or path.parent) / name
    encoding = None if "b" in mode else "utf-8"
    try:
        with open(partial, mode.replace("x", "w"), encoding=encoding, newline=newline) as file:
            yield file
        _sync(partial)
        if "x" in mode:
            _place_new(partial, path)
        else:
            os.replace(partial, path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(partial)):
            raise  # of another file, that the block reads
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class Walk:
    """What lies below a folder.

    Attributes:
        paths: Files and folders, by their paths through links, sorted; a folder that several links
            lead to is there once.
        followed: Links to folders that were followed.
        known: Links to folders that are there under another name, or that hold the folder itself.
        broken: Links that lead nowhere, such as files that git-annex has not fetched.
        closed: Folders that cannot be opened.
    """

    paths: list[pathlib.Path]
    followed: list[pathlib.Path]
    known: list[pathlib.Path]
    broken: list[pathlib.Path]
    closed: list[pathlib.Path]


def walk(folder: str | os.PathLike) -> Walk:
    """List what is below a folder, links to folders followed, hidden folders left out.

    A folder that is there without a link keeps that path; of several links to one, the first in
    order of name and the fewest folders down is followed. So loops of links end.
    """
    found = Walk([], [], [], [], [])
    root = os.path.realpath(folder)
    seen = {root}
    links = _walk_plain(pathlib.Path(folder), root, seen, found)
    while links:
        deeper = []
        for link in sorted(links):
            real = os.path.realpath(link)
            if real in seen or f"{root}/".startswith(f"{real.rstrip('/')}/"):
                found.known.append(link)
                continue
            seen.add(real)
            found.followed.append(link)
            deeper += _walk_plain(link, real, seen, found)
        links = deeper
    for paths in (found.paths, found.followed, found.known, found.broken, found.closed):
        paths.sort()
    return found


def _walk_plain(folder, real, seen, found):
    """Add what is below a folder without following links; return the links to folders."""
    links, todo = [], [(folder, real)]
    while todo:
        folder, real = todo.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            found.closed.append(folder)
            continue
        for entry in entries:
            path, below = folder / entry.name, os.path.join(real, entry.name)
            try:
                is_folder, is_link = entry.is_dir(), entry.is_symlink()
                if is_link:
                    path.stat()
            except OSError:  # it leads nowhere, or to itself
                found.broken.append(path)
                continue
            if not is_folder:
                found.paths.append(path)
            elif entry.name.startswith(".") or (not is_link and below in seen):
                continue
            elif is_link:
                found.paths.append(path)
                links.append(path)
            else:
                seen.add(below)
                found.paths.append(path)
                todo.append((path, below))
    return links


def remove_partials(folder: pathlib.Path) -> None:
    """Remove what killed processes left in a folder that only the caller writes to."""
    for leftover in folder.glob(PARTIALS):
        leftover.unlink()


def _place_new(partial: pathlib.Path, path: pathlib.Path) -> None:
    try:
        os.link(partial, path)  # unlike a rename it replaces nothing
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if path.exists():  # another process may still write it between this line and the next
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        os.replace(partial, path)


def _sync(path: pathlib.Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _sync_folder(folder: pathlib.Path) -> None:
    """Put a new name on the disk; some network file systems do so by themselves and refuse this."""
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise


def archive_comment(path: str | os.PathLike) -> str | None:
    """Return the comment of a zip archive, such as ``.npz``; None where it is not there whole."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment.decode()
    except (OSError, ValueError, zipfile.BadZipFile):
        return None
