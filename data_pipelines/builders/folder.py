"""Builder of any folder of recordings with their scoring beside them."""

import collections
import os
import pathlib
import re
from collections.abc import Collection

from data_pipelines.builders.recording_night import Pending
from data_pipelines.files import walk
from data_pipelines.findings import Finding
from data_pipelines.participants.tables import SHEET_SUFFIXES, TABLE_SUFFIXES
from data_pipelines.scoring.search import names

SUFFIXES = (".edf", ".bdf", ".rec", ".hea")
TABLES_BELOW = "tables of participants in folders below"
TABLES_NEARLY = "files that may be tables of participants"
# Names of tables of people that are not called participants, copies and versions included.
_NEARLY = re.compile(
    r"(participant|subject|patient|proband|people|person|demographic)"
    r"|(participants|subjects|patients|people|persons|demographics|probanden|patienten|teilnehmer"
    r"|sujets|sujetos|pacientes|participantes|soggetti|pazienti|partecipanti|deelnemers"
    r"|proefpersonen)([-_ .(].*)?",
    re.I,
)
NAMED = 5  # ours: links that a sentence names


def find_recordings(
    folder, *, cohort: str | None = None, findings: list[Finding] | None = None
) -> tuple[dict[str, Pending], list]:
    """List the recordings below a folder by name, their path within it without the suffix.

    Args:
        folder: The folder; links to folders are followed, hidden folders left out.
        cohort: Cohort whose generic labels these are.
        findings: Where to add what was found about links.

    Returns:
        name -> what to prepare, and further files of one name as ``(file name, reason)``.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder of recordings")
    paths, copies = recordings_below(folder, SUFFIXES, findings)
    found, doubles = {}, []
    for path in paths:
        if is_scoring(path):
            continue
        within = path.relative_to(folder)
        name = name_of(path, folder)
        if name in found:
            reason = f"{found[name].path.name} beside it has the same name"
            doubles.append((within.as_posix(), reason))
            continue
        found[name] = Pending(name=name, path=path, cohort=cohort)
    for path, first in copies:
        name = path.relative_to(folder).as_posix()
        doubles.append((name, f"is a link to the same file as {first.relative_to(folder)}"))
    return found, doubles


def is_scoring(path: pathlib.Path) -> bool:
    """Whether a file of a recording's suffix holds scoring only, by its name."""
    return names.holds_scoring_alone(path.stem, names.listing(path.parent).names)


def name_of(path: pathlib.Path, folder: pathlib.Path) -> str:
    """The name of a recording below a folder: its path within it without the suffix."""
    return path.relative_to(folder).with_suffix("").as_posix()


def recordings_below(
    folder: pathlib.Path, suffixes: Collection[str], findings: list[Finding] | None = None
) -> tuple[list[pathlib.Path], list[tuple[pathlib.Path, pathlib.Path]]]:
    """List the recordings below a folder, each file once, whatever links lead to it.

    Args:
        folder: The folder; links to folders are followed, hidden folders left out.
        suffixes: Those of recordings, in small letters. Links of these suffixes that lead nowhere
            are in the list: opening one says so.
        findings: Where to add what was found about links, and tables of participants not read.

    Returns:
        the paths, sorted, and links to a file that is there already as ``(link, file)``.
    """
    below = walk(folder)
    if findings is not None:
        findings += _about_links(below)
        findings += _about_tables(below, folder)
    wanted = [
        path
        for path in sorted([*below.paths, *below.broken])
        if path.suffix.lower() in suffixes and not path.name.startswith(".")
    ]
    # A file keeps the name that it has without a link.
    links = [path for path in wanted if path.is_symlink() and path.exists()]
    first: dict[str, pathlib.Path] = {}
    if links:
        parents = {path.parent: os.path.realpath(path.parent) for path in wanted}
        plain = (path for path in wanted if not path.is_symlink())
        first = {os.path.join(parents[path.parent], path.name): path for path in plain}
    copies = []
    for path in links:
        other = first.setdefault(os.path.realpath(path), path)
        if other != path:
            copies.append((path, other))
    doubles = {path for path, _ in copies}
    if findings is not None:
        what = "links to a recording that is there already, so counted once"
        findings += _links(what, [path for path, _ in copies])
    return [path for path in wanted if path not in doubles], copies


def _about_tables(below, folder):
    """Tables of participants that are not where one is read."""
    suffixes = (*TABLE_SUFFIXES, *SHEET_SUFFIXES)
    files = [path for path in below.paths if path.suffix.lower() in suffixes]
    tables = [path for path in files if path.stem.lower() == "participants"]
    nearly = [path for path in files if path.parent == folder and _NEARLY.fullmatch(path.stem)]
    if any(path.parent == folder for path in tables):
        return
    if nearly:
        some = ", ".join(path.name for path in nearly[:NAMED]) + (" ..." if nearly[NAMED:] else "")
        yield Finding(
            "person",
            TABLES_NEARLY,
            f"{TABLES_NEARLY}, and were not read: {some}; call the one to read participants.csv, "
            "or name it by --subjects",
            count=len(nearly),
        )
    if tables:
        yield Finding(
            "person",
            TABLES_BELOW,
            f"{TABLES_BELOW}, where none is read (join them in the folder itself, or name one by "
            f"--subjects): {len(tables)}",
            count=len(tables),
        )


def _about_links(below):
    """What a user should know of the links below a folder."""
    yield from _links("links to folders that were followed", below.followed)
    yield from _links(
        "links to folders that are there already or hold this one, so not followed", below.known
    )
    yield from _links("folders that cannot be opened, so passed over", below.closed)
    nowhere = collections.defaultdict(list)
    for path in below.broken:
        nowhere[path.suffix.lower() or "no suffix"].append(path)
    for suffix, paths in sorted(nowhere.items(), key=lambda item: -len(item[1])):
        fetch = "; where DataLad or git-annex keeps the files, get them first (datalad get)"
        yield from _links(f"links that lead nowhere ({suffix})", paths, fetch)


def _links(what, paths, advice=""):
    if paths:
        some = ", ".join(path.name for path in paths[:NAMED]) + (" ..." if paths[NAMED:] else "")
        note = f"{what}: {len(paths)} ({some}){advice}"
        yield Finding("linked_folder", what, note, count=len(paths))
