"""Builder of any folder of recordings with their scoring beside them."""

import pathlib

from data_pipelines.builders.recording_night import Pending

SUFFIXES = (".edf", ".bdf", ".rec", ".hea")
# Files of these names hold scoring only, and are found from the recording they belong to.
SCORING_NAMES = ("hypnogram", "sleepscoring")


def find_recordings(folder, *, cohort: str | None = None) -> tuple[dict[str, Pending], list]:
    """List the recordings below a folder by name, their path within it without the suffix.

    Returns:
        name -> what to prepare, and further files of one name as ``(file name, reason)``.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder of recordings")
    found, doubles = {}, []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if any(word in path.stem.lower() for word in SCORING_NAMES):
            continue
        within = path.relative_to(folder)
        name = within.with_suffix("").as_posix()
        if name in found:
            reason = f"{found[name].path.name} beside it has the same name"
            doubles.append((within.as_posix(), reason))
            continue
        found[name] = Pending(name=name, path=path, cohort=cohort)
    return found, doubles
