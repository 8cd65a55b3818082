"""Meanings of single labels by the table of channels: the first half of resolving a recording."""

import dataclasses
import functools
import re
import unicodedata

from data_pipelines.channels import table as table
from data_pipelines.channels.table import CHANNELS

# Words before a label that only say what kind of signal it is, and the types they may precede.
_PREFIXES = {
    "eeg": None,  # written before everything by some recorders
    "psg": None,
    "pol": None,
    "eog": {"eog"},
    "emg": {"emg"},
    "ecg": {"ecg"},
    "ekg": {"ecg"},
    "resp": {"resp", "flow"},
}
_SUFFIXES = {"eg", "cu", "dr", "pds", "ref", "0", "1"}  # added by exporters, without meaning


@dataclasses.dataclass(frozen=True)
class Meaning:
    """Meaning of a normalised label.

    ``kind`` is one of alias, electrode, reference, chin, generic, excluded, nox. For an electrode
    ``detail`` is its partner: None, ``M1``, ``M2``, ``linked``, or the text of another partner.
    """

    kind: str
    channel: str | None = None
    detail: str | None = None
    rank: int = 0
    sign: int = 1


def normalise(label: str) -> str:
    """The form in which labels are compared: lower case, without separators.

    ``"EEG C3-M2"``, ``"eeg_c3:m2"`` and ``"EEG C3/M2"`` are all ``"eegc3m2"``.
    """
    return "".join(_words(label))


def _words(label: str) -> list[str]:
    text = unicodedata.normalize("NFKC", label).casefold().replace(".", "")
    return [word for word in re.split(r"[\s_\-:/()#,+]+", text) if word]


def look_up(label: str) -> tuple[Meaning | None, str, float]:
    """Find a label in the table: whole first, then without prefix, suffix, or copy number.

    Returns:
        The meaning or None, the normalised form that was found, and a demerit below 1 that puts
        a second copy behind the first.
    """
    text = re.sub(r"\.(\d)$", r" \1", label.strip())
    words = _words(text)
    if not words:
        return Meaning("excluded", detail="empty label"), "", 0.0
    for word in (words[0], words[-1]):
        if word in table.EXCLUDING_WORDS:
            return Meaning("excluded", detail=table.EXCLUDING_WORDS[word]), "".join(words), 0.0
    known = _table()
    starts = [(words, None)]
    if len(words) > 1 and words[0] in _PREFIXES:
        starts.append((words[1:], _PREFIXES[words[0]]))
    for demerit, shorten in enumerate((list, _without_suffix, _without_copy_number)):
        for rest, types in starts:
            form = "".join(shorten(rest))
            meaning = known.get(form)
            if meaning is None or not form:
                continue
            if types is not None and not _fits(meaning, types):
                continue
            return meaning, form, demerit / 4
    return None, "".join(words), 0.0


def _fits(meaning: Meaning, types: set[str]) -> bool:
    """Whether a label that began with a type of signal may mean this."""
    if meaning.channel is not None:
        return CHANNELS[meaning.channel].signal_type in types
    return meaning.kind != "nox" and not (meaning.kind == "chin" and "emg" not in types)


def _without_suffix(words: list[str]) -> list[str]:
    return words[:-1] if len(words) > 1 and words[-1] in _SUFFIXES else []


def _without_copy_number(words: list[str]) -> list[str]:
    """``C4-A12`` is a second C4-A1 and ``ECG_II2`` a second ECG II; ``E12`` and ``M2`` are not."""
    last = words[-1]
    if re.fullmatch(r"[2-9]", last) and len(words) > 1 and re.fullmatch(r"[^\W\d]{2,}", words[-2]):
        return words[:-1]
    copied = re.fullmatch(r"([am][12](?=[2-9])|[^\W\d]{2,})[1-9]", last)
    if copied is None or (last[0] in "am" and last[1].isdigit() and len(words) == 1):
        return []
    return [*words[:-1], copied[1]]


def alias_rank(channel: str, label: str) -> int:
    return CHANNELS[channel].aliases.index(label)


@functools.cache
def _table() -> dict[str, Meaning]:
    known: dict[str, Meaning] = {}

    def add(text, meaning):
        form = normalise(text)
        other = known.setdefault(form, meaning)
        same = (other.kind, other.channel, other.detail) == (
            meaning.kind,
            meaning.channel,
            meaning.detail,
        )
        assert same, f"{text!r} means both {other} and {meaning}"

    for text in table.NOX_CHIN:
        add(text, Meaning("nox", detail=text))
    for text, reason in table.GENERIC.items():
        add(text, Meaning("generic", detail=reason))
    for text, reason in table.EXCLUDED.items():
        for form in (text, *(f"{text}-{recorder}" for recorder in table.RECORDER_REFERENCES)):
            add(form, Meaning("excluded", detail=reason))
    for name, channel in CHANNELS.items():
        for rank, text in enumerate(channel.aliases + channel.last_resort):
            add(text, Meaning("alias", name, rank=rank))
    for side, texts in table.CHIN_ELECTRODES.items():
        for text in texts:
            add(text, Meaning("chin", detail=side))
    for side, texts in table.REFERENCES.items():
        for text in texts:
            add(text, Meaning("reference", detail=side))
            for recorder in table.RECORDER_REFERENCES:
                add(f"{text}-{recorder}", Meaning("reference", detail=side))
    for text in table.LINKED_REFERENCES:
        add(text, Meaning("reference", detail="linked"))
    for name, texts in table.ELECTRODES.items():
        _add_derivations(name, texts, add, known)
    for text in table.TYPOS_OF_M2_C3:
        add(text, Meaning("electrode", "eeg_c3", "typo", sign=-1))
    return known


def _add_derivations(name, texts, add, known) -> None:
    partners = {partner: side for side, names in table.REFERENCES.items() for partner in names}
    partners |= dict.fromkeys(table.LINKED_REFERENCES, "linked")
    others = table.OTHER_PARTNERS + table.SAME_SIDE_PARTNERS.get(name, ())
    partners |= {partner: partner for partner in others}
    for text in texts:
        if text not in table.ONLY_IN_DERIVATIONS:
            add(text, Meaning("electrode", name))
        for recorder in table.RECORDER_REFERENCES:
            add(f"{text}-{recorder}", Meaning("electrode", name))
        for partner, side in partners.items():
            # An explicit entry of the table (E1-E2, M1-Cz ...) beats a composed one.
            if normalise(f"{text}-{partner}") not in known:
                add(f"{text}-{partner}", Meaning("electrode", name, side))
            if normalise(f"{partner}-{text}") not in known:
                add(f"{partner}-{text}", Meaning("electrode", name, side, sign=-1))
