"""Names of files: which of a folder belong to a recording, and which of those say scoring."""

import dataclasses
import functools
import os
import pathlib
import re
import time
from collections.abc import Iterable

RECORDING_SUFFIXES = (".edf", ".bdf", ".rec", ".hea")


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


SCORING_WORDS = _set(
    """
    hypnogram hypnograms hypnogramm hypnogramme hypno hyp stage stages staging sleepstage
    sleepstages sleepstaging stadien stadium schlafstadien schlafprofil schlafprofile
    profil profile sleepprofile scoring scorings score scores scored sleepscoring
    sleepscore sleepscores sleepscored annotation annotations annot annots event events
    label labels base nsrr profusion remlogic noxturnal domino auswertung schlafauswertung
    etapas stades stadi
    """
)
"""Words of a file's name, beside the recording's, that say that it is a scoring."""

_STAGE_WORDS = SCORING_WORDS - _set(
    """
    annotation annotations annot annots event events label labels remlogic noxturnal
    domino
    """
)
_QUALIFIERS = _set(
    """
    sleep schlaf manual human expert consensus final aasm rk r k scorer rater reader
    export exported epoch epochs s sec txt csv psg eeg visual technician tech file
    """
)
_SIDECARS = re.compile(
    r"(_(channels|electrodes|coordsystem|scans|sessions)|^(participants|dataset_description)"
    r"|^readme|^changes|^records|^subjects?)$",
    re.IGNORECASE,
)
_RECORDING_WORD = re.compile(
    r"([ _.\-](psg|eeg|ieeg|edf|raw|signals?|recording)|\[\d{1,3}\])$", re.I
)
_TOKENS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+")
SLEEP_EDF = re.compile(r"(SC4|ST7)\d{3}[A-Z][0-9A-Z](-PSG)?", re.IGNORECASE)
"""Names of Sleep-EDF; a hypnogram has the same first 6 or 7 letters."""

RACY_S = 2.0
_KEPT = 4


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files of a folder, listed once.

    Attributes:
        folder: The folder.
        names: Its plain files by folded name; names that differ in case alone share an entry.
        recordings: Folded stem of every file that may be a recording -> it as written.
        keys: (folded key, key, stem) of every recording, as :func:`keys_of` gives them.
    """

    folder: pathlib.Path
    names: dict[str, list[str]]
    recordings: dict[str, list[str]]
    keys: list[tuple[str, str, str]]

    def get(self, name: str) -> pathlib.Path | None:
        """Return the file of a name, in whatever case where no file has it as written."""
        found = self.names.get(name.casefold(), [])
        chosen = name if name in found else min(found, default=None)
        return self.folder / chosen if chosen else None

    def all(self) -> list[str]:
        """Return every name, as written, in order."""
        return sorted(name for names in self.names.values() for name in names)

    @functools.cached_property
    def unclaimed(self) -> list[str]:
        """The names that speak of stages and hold no recording's name, in order."""
        keys = {key for key, _, _ in self.keys}
        letters = {key[:6] for key in keys if SLEEP_EDF.fullmatch(key)}
        found = []
        for name in self.all():
            stem = os.path.splitext(name)[0]
            folded = stem.casefold()
            parts = (folded[:end] for end in range(len(folded) + 1))
            lasts = (folded[start:] for start in range(len(folded)))
            claimed = folded[:6] in letters or any(x in keys for x in (*parts, *lasts))
            if not claimed and mentions_scoring(words_of(stem)) and not is_sidecar(stem):
                found.append(name)
        return found


_listings: dict[pathlib.Path, tuple[int, Listing]] = {}


def listing(folder) -> Listing:
    """List a folder; the listing is kept while the folder does not change.

    A folder that is not there, or may not be listed, has no files.
    """
    folder = pathlib.Path(folder)
    try:
        changed = os.stat(folder).st_mtime_ns
        kept = _listings.get(folder)
        if kept and kept[0] == changed:
            return kept[1]
        with os.scandir(folder) as entries:
            # Links that lead nowhere (files of git-annex that were not fetched) are told later.
            names = [entry.name for entry in entries if _is_listed(entry)]
    except OSError:
        return Listing(folder, {}, {}, [])
    made, folded = Listing(folder, {}, {}, []), {name.casefold() for name in names}
    for name in names:
        if name.startswith("."):
            continue
        made.names.setdefault(name.casefold(), []).append(name)
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in RECORDING_SUFFIXES and not holds_scoring_alone(stem, folded):
            stems = made.recordings.setdefault(stem.casefold(), [])
            if stem not in stems:
                stems.append(stem)
    for stems in made.recordings.values():
        for stem in stems:
            made.keys.extend((key.casefold(), key, stem) for key in keys_of(stem, made))
    # A folder that changed just now may change again within the clock's tick, unnoticed.
    if time.time() - changed / 1e9 > RACY_S:
        while len(_listings) >= _KEPT:
            _listings.pop(next(iter(_listings)))
        _listings[folder] = (changed, made)
    return made


def _is_listed(entry: os.DirEntry) -> bool:
    try:
        return entry.is_file() or (entry.is_symlink() and not entry.is_dir())
    except OSError:  # a link to itself
        return False


def holds_scoring_alone(stem: str, others: Iterable[str] = ()) -> bool:
    """Whether the name of an EDF file says that it is a scoring and no recording.

    `others` are the folded names beside it: `X Base.edf` is a scoring where there is `X PSG.edf`.
    """
    folded = stem.casefold()
    if "hypnogram" in folded or "sleepscoring" in folded or words_of(stem)[-1:] == ["hypno"]:
        return True
    return folded.endswith(" base") and f"{folded.removesuffix('base')}psg.edf" in others


@functools.lru_cache(4096)
def words_of(text: str) -> list[str]:
    """Return the words of a name: `-SleepStages_v2` has sleep, stages, v and 2."""
    return [word.casefold() for word in _TOKENS.findall(text)]


def says_scoring(words: list[str]) -> bool:
    """Whether words, all of them known, say that a file is a scoring."""
    return any(word in SCORING_WORDS for word in words) and all(
        word in SCORING_WORDS or word in _QUALIFIERS or (word.isdigit() and len(word) < 3)
        for word in words
    )


def mentions_scoring(words: list[str]) -> bool:
    """Whether one of the words is about stages, whatever the others are."""
    return any(word in _STAGE_WORDS for word in words)


def is_sidecar(stem: str) -> bool:
    """Whether a name is that of a table beside recordings that holds no scoring (BIDS)."""
    return bool(_SIDECARS.search(stem))


def keys_of(stem: str, names: Listing) -> list[str]:
    """Return what a scoring's name begins with: the recording's stem, and it without `PSG`."""
    keys = [stem]
    short = _RECORDING_WORD.sub("", stem)
    if short and short != stem and short.casefold() not in names.recordings:
        keys.append(short)
    return keys


def rest_of(stem: str, key: str) -> str | None:
    """Return what a name has beside a recording's, `""` if nothing, None if it is another's.

    `night_hypno`, `nightHypno`, `Hypnogram_night` belong to `night`; `night10` and `overnight`
    do not.
    """
    folded, own = stem.casefold(), key.casefold()
    if len(folded) != len(stem) or len(own) != len(key):
        return "" if folded == own else None
    if folded.startswith(own):
        rest = stem[len(key) :]
        camel = rest[:1].isupper() and not key[-1:].isupper()
        if not rest or not rest[0].isalnum() or camel:
            return rest
    if folded.endswith(own):
        lead = stem[: -len(key)]
        if not lead[-1].isalnum() and says_scoring(words_of(lead)):
            return lead
    return None


def own_files(path: pathlib.Path, names: Listing) -> dict[str, str]:
    """Return the names of files of a recording -> what they have beside its name.

    A name that fits several recordings of the folder belongs to the one with the longest name.
    """
    keys = keys_of(path.stem, names)
    short = keys[-1].casefold()
    near = [(key, stem) for own, key, stem in names.keys if short in own and stem != path.stem]
    found = {}
    for folded, written in names.names.items():
        if short not in folded:
            continue
        for name in written:
            stem, suffix = os.path.splitext(name)
            itself = stem if suffix.lower() in RECORDING_SUFFIXES else None
            for key in keys:
                rest = rest_of(stem, key)
                if rest is None or name == path.name:
                    continue
                longer = [
                    x
                    for x, other in near
                    if len(x) > len(key) and other != itself and rest_of(stem, x) is not None
                ]
                # `a.txt` is not the scoring of `A.edf` where there is an `a.edf` too.
                twins = len(names.recordings.get(path.stem.casefold(), ())) > 1
                if not longer and not (twins and key not in stem):
                    found[name] = rest
                break
    return found


def is_alone(path: pathlib.Path, names: Listing) -> bool:
    """Whether a recording is the only one of its folder."""
    return list(names.recordings) == [path.stem.casefold()]


def pattern_of(name: str, rest: str | None) -> str:
    """Return a file's name without what may name a person: `*_hypnogram.csv`, `*.txt`."""
    stem, suffix = os.path.splitext(name)
    if rest is None:
        return name if says_scoring(words_of(stem)) else f"*{suffix.lower()}"
    if rest and says_scoring(words_of(rest)):
        return f"*{rest}{suffix}" if stem.endswith(rest) else f"{rest}*{suffix}"
    return f"*{suffix.lower()}"
