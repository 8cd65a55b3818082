"""A folder on this machine, or behind a URL that fsspec reaches (``gs://``, ``s3://``, ...).

What is written is whole or not at all: here by a rename within the folder, elsewhere by one
request, as object stores have it.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil

from data_pipelines.files import atomic_write


def open_folder(path: str | os.PathLike) -> LocalFolder | RemoteFolder:
    """Return the folder at a path or URL; it need not be there yet.

    Raises:
        ValueError: a URL that fsspec does not know, or whose package is not installed.
    """
    text = os.fspath(path)
    if "://" in text and not text.startswith("file://"):
        return RemoteFolder(text)
    return LocalFolder(text.removeprefix("file://"))


class LocalFolder:
    """A folder of this machine, network file systems included."""

    def __init__(self, path: str | os.PathLike):
        """Take the path."""
        self.path = pathlib.Path(path).absolute()  # Orbax takes no other

    def __str__(self) -> str:
        return str(self.path)

    def glob(self, pattern: str) -> list[str]:
        """Return the names of files that match, below this folder, with ``/``."""
        return sorted(p.relative_to(self.path).as_posix() for p in self.path.glob(pattern))

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, or None where there is none."""
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def create(self, name: str, content: bytes) -> bool:
        """Write a file that is not there; return False, and change nothing, where it is."""
        try:
            self._write(name, content, "xb")
        except FileExistsError:
            return False
        return True

    def replace(self, name: str, content: bytes) -> None:
        """Write a file, whatever is there."""
        self._write(name, content, "wb")

    def _write(self, name: str, content: bytes, mode: str) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, mode) as file:
            file.write(content)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self.path / name).unlink(missing_ok=True)


class RemoteFolder:
    """A folder behind a URL; needs the package of its kind, such as gcsfs or s3fs."""

    def __init__(self, url: str):
        """Take the URL.

        Raises:
            ValueError: nothing knows it.
        """
        import fsspec  # orbax brings it

        try:
            self.fs, self.root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise ValueError(f"{url} cannot be reached: {error}") from error
        self.url, self.root = url, self.root.rstrip("/")

    def __str__(self) -> str:
        return self.url

    def _at(self, name: str) -> str:
        return f"{self.root}/{name}"

    def glob(self, pattern: str) -> list[str]:
        """Return the names of files that match, below this folder, with ``/``."""
        self.fs.invalidate_cache()
        found = self.fs.glob(self._at(pattern))
        begin = len(self.fs._strip_protocol(self.root)) + 1
        return sorted(self.fs._strip_protocol(path)[begin:] for path in found)

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, or None where there is none."""
        try:
            return self.fs.cat_file(self._at(name))
        except FileNotFoundError:
            return None

    def create(self, name: str, content: bytes) -> bool:
        """Write a file that is not there; return False, and change nothing, where it is.

        Two that create it at once may both succeed on systems without conditional requests; the
        file is then the last one's.
        """
        path = self._at(name)
        self.fs.invalidate_cache()
        if self.fs.exists(path):
            return False
        self.fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        try:
            self.fs.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        return True

    def replace(self, name: str, content: bytes) -> None:
        """Write a file, whatever is there."""
        path = self._at(name)
        self.fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        self.fs.pipe_file(path, content)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self._at(name))

    def fetch(self, name: str, path: pathlib.Path) -> None:
        """Copy a folder below this one to this machine; an earlier copy is replaced.

        Raises:
            FileNotFoundError: it, or a file of it, has gone.
        """
        shutil.rmtree(path, ignore_errors=True)
        self.fs.invalidate_cache()
        begin = len(self.fs._strip_protocol(self._at(name))) + 1
        for source in self.fs.find(self._at(name)):
            target = path / self.fs._strip_protocol(source)[begin:]
            target.parent.mkdir(parents=True, exist_ok=True)
            self.fs.get_file(source, str(target))

    def put(self, path: pathlib.Path, name: str) -> None:
        """Copy the files of a folder of this machine to one below this."""
        for source in sorted(path.rglob("*")):
            if source.is_file():
                self.replace(f"{name}/{source.relative_to(path).as_posix()}", source.read_bytes())
