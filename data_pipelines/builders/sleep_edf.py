"""Download of Sleep-EDF Expanded from PhysioNet (open access, ODC-By 1.0, 8 GB).

The files are fetched by TFDS's download manager, checked against the data set's own list of
sha256 sums and linked under their own names, so that the folder builder finds them.
"""

import os
import pathlib
import re
import shutil

from data_pipelines.files import atomic_write
from data_pipelines.store import sha256

URL = "https://physionet.org/files/sleep-edfx/1.0.0/"
SUMS = "SHA256SUMS.txt"
SIMULTANEOUS = 4  # PhysioNet serves slowly and asks not to be crowded
_LINE = re.compile(r"([0-9a-f]{64})\s+\*?(sleep-(?:cassette|telemetry)/[A-Z0-9]{8}-\w+\.edf)")


def download(output, *, limit: int | None = None, url: str = URL) -> pathlib.Path:
    """Download recordings and hypnograms; what is there and whole is not fetched again.

    Args:
        output: Folder of the store; the files go to ``downloads`` within it.
        limit: Number of recordings, in order of name; None takes all 197.
        url: Where the data set lies.

    Returns:
        The folder with the recordings and their hypnograms.

    Raises:
        ValueError: A file cannot be fetched, or is not what the list of sums says.
    """
    import tensorflow_datasets as tfds  # slow to import, and needed for this alone

    downloads = pathlib.Path(output) / "downloads"
    folder = downloads / "sleep-edf"
    manager = tfds.download.DownloadManager(
        download_dir=downloads / "tfds", max_simultaneous_downloads=SIMULTANEOUS
    )
    sums = _fetch(manager, {SUMS: url + SUMS})[SUMS].read_text("utf-8")
    wanted = _chosen({name: digest for digest, name in _LINE.findall(sums)}, limit)
    if not wanted:
        raise ValueError(f"{url}{SUMS} lists no recordings of Sleep-EDF")
    missing = {name: url + name for name in wanted if not (folder / name).is_file()}
    for name, path in _fetch(manager, missing).items():
        if sha256(path) != wanted[name]:
            path.with_name(f"{path.name}.INFO").unlink()  # the manager's note of what it fetched
            path.unlink()
            raise ValueError(f"{url}{name}: the download is damaged; run the same command again")
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except OSError:  # a file system without links
            with open(path, "rb") as source, atomic_write(target) as copy:
                shutil.copyfileobj(source, copy)
    return folder


def _fetch(manager, urls):
    try:
        paths = manager.download(urls)
    except Exception as error:  # the manager lets through whatever its libraries raise
        first = next(iter(urls.values()))
        raise ValueError(f"cannot download {first} or another file beside it: {error}") from None
    return {name: pathlib.Path(os.fspath(path)) for name, path in paths.items()}


def _chosen(sums, limit):
    """The recordings up to the limit and the hypnograms that belong to them."""
    recordings = sorted(name for name in sums if name.endswith("-PSG.edf"))[:limit]
    keys = {name.split("/")[1][:7] for name in recordings}
    return {name: sums[name] for name in sorted(sums) if name.split("/")[1][:7] in keys}
