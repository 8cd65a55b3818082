"""Which label of a recording is which canonical channel, and why the other labels are not used.

The rules, in order (the table itself is :mod:`data_pipelines.channel_table`):

1. Labels are compared whole, after normalisation; nothing matches by a part of its text.
2. A user's alias file beats a cohort's meaning, which beats the table.
3. EEG and EOG: a ready contralateral derivation; else electrode minus the wanted mastoid; else
   another mastoid derivation; else the bare electrode where the file holds no mastoid at all. A
   bare electrode beside mastoids of which the wanted one is missing is dropped.
4. Chin: a ready bipolar channel; else the first pair of chin electrodes; else a single electrode.
5. Generic labels (``EEG``, ``EMG`` ...) bind only in a named cohort or by an alias file.
"""

import collections.abc
import dataclasses
import functools
import json
import pathlib
import re
import tomllib
import unicodedata

from data_pipelines import channel_table as table
from data_pipelines.channel_table import CHANNELS, COHORTS, HYPNOS, Channel

__all__ = [
    "CHANNELS",
    "COHORTS",
    "HYPNOS",
    "AliasError",
    "Binding",
    "Channel",
    "Resolution",
    "load_aliases",
    "normalise",
    "resolve",
]

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
_SUFFIXES = {"eg", "cu", "dr", "pds", "0", "1"}  # added by exporters, without meaning


class AliasError(ValueError):
    """An alias file, or a mapping of aliases, that cannot be used."""


@dataclasses.dataclass(frozen=True)
class Binding:
    """How a canonical channel is read from a recording: ``scale * (index - reference)``.

    Attributes:
        channel: Canonical name.
        label: Label of the electrode or ready channel, as the file spells it.
        index: Its index among the recording's labels.
        reference: Index of the label to subtract, or None.
        reference_label: Its label.
        scale: -1 for an inverted derivation, times any correction of unit or polarity.
        how: In words, for reports: ``as labelled``, ``minus M2`` ...
        notes: What a user should know before trusting it.
    """

    channel: str
    label: str
    index: int
    reference: int | None = None
    reference_label: str | None = None
    scale: float = 1.0
    how: str = "as labelled"
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Resolution:
    """The bindings by canonical name (in the table's order), and the labels left over."""

    bindings: dict[str, Binding]
    unused: list[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class _Meaning:
    """What a normalised label stands for.

    ``kind`` is one of alias, electrode, reference, chin, generic, excluded, nox. For an electrode
    ``detail`` is its partner: None, ``M1``, ``M2``, ``linked``, or the text of another partner.
    """

    kind: str
    channel: str | None = None
    detail: str | None = None
    rank: int = 0
    sign: int = 1


def resolve(labels, *, aliases=None, cohort: str | None = None) -> Resolution:
    """Bind the labels of a recording to canonical channels.

    A label is bound to one channel at most; a reference electrode may serve several channels.

    Args:
        labels: The labels in file order.
        aliases: ``{channel name: [entry, ...]}`` as :func:`load_aliases` returns it; an entry is a
            label, or ``{"label": ..., "minus": ..., "invert": ...}``. They come before the table.
        cohort: A name of ``COHORTS`` whose generic labels have documented meanings.

    Raises:
        ValueError: Unknown cohort.
        AliasError: Unknown channel, malformed entry, or one label claimed by two channels.
    """
    labels = list(labels)
    cohort_labels = _cohort_labels(cohort)
    claims = _check_aliases(aliases or {})
    candidates: dict[str, list[tuple[float, Binding]]] = {}
    reasons: dict[int, str] = {}

    def offer(priority, binding):
        candidates.setdefault(binding.channel, []).append((priority, binding))

    claimed = _offer_claims(labels, claims, offer)
    meanings: dict[int, tuple[_Meaning, float]] = {}
    for i, label in enumerate(labels):
        if i in claimed:
            continue
        meaning, form, demerit = _look_up(label)
        special = cohort_labels.get(form) or cohort_labels.get(normalise(label))
        if special is not None:
            notes = (special.note,)
            offer(1 + demerit, Binding(special.channel, label, i, how="cohort", notes=notes))
        elif meaning is None:
            reasons[i] = "not in the table of channels; name it in an alias file to use it"
        else:
            meanings[i] = meaning, demerit
    _offer_table(labels, meanings, offer, reasons)

    bindings: dict[str, Binding] = {}
    for name in CHANNELS:
        offers = sorted(candidates.get(name, []), key=lambda item: (item[0], item[1].index))
        if offers:
            bindings[name] = offers[0][1]
        for _, loser in offers[1:]:
            reasons.setdefault(
                loser.index, f"{name} is taken from {offers[0][1].label!r}, which ranks before it"
            )
    used = {b.index for b in bindings.values()} | {b.reference for b in bindings.values()}
    unused = [
        (label, reasons.get(i, "not needed")) for i, label in enumerate(labels) if i not in used
    ]
    return Resolution(bindings, unused)


def normalise(label: str) -> str:
    """The form in which labels are compared: lower case, without separators.

    ``"EEG C3-M2"``, ``"eeg_c3:m2"`` and ``"EEG C3/M2"`` are all ``"eegc3m2"``.
    """
    return "".join(_words(label))


def load_aliases(path) -> dict[str, list]:
    """Read a user's aliases from a JSON or TOML file of ``channel name -> list of entries``.

    An entry is a label, or a table with ``label`` and optionally ``minus`` (a label to subtract)
    and ``invert`` (true for a derivation of the other sign)::

        eeg_c3 = ["Kanal 1"]
        emg_chin = [{label = "X5", minus = "X6"}]

    Raises:
        AliasError: The file cannot be read or parsed, or says something that :func:`resolve`
            would not take.
    """
    path = pathlib.Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise AliasError(f"{path}: cannot be read ({reason})") from error
    try:
        aliases = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except (ValueError, RecursionError) as error:
        kind = "TOML" if path.suffix.lower() == ".toml" else "JSON"
        raise AliasError(f"{path}: not valid {kind} ({error})") from error
    try:
        _check_aliases(aliases)
    except AliasError as error:
        raise AliasError(f"{path}: {error}") from None
    return aliases


# --- users' aliases -------------------------------------------------------------------------------


def _check_aliases(aliases) -> dict[str, list[dict]]:
    if not isinstance(aliases, collections.abc.Mapping):
        raise AliasError(f"a table of channel names is needed, not {type(aliases).__name__}")
    claims: dict[str, list[dict]] = {}
    owners: dict[str, str] = {}
    for channel, entries in aliases.items():
        if channel not in CHANNELS:
            raise AliasError(f"{channel!r} is not a channel; there are {', '.join(CHANNELS)}")
        if isinstance(entries, str) or not isinstance(entries, collections.abc.Sequence):
            raise AliasError(f"{channel}: a list of labels is needed, not {entries!r}")
        for entry in entries:
            claim = {"label": entry} if isinstance(entry, str) else entry
            if not isinstance(claim, collections.abc.Mapping):
                raise AliasError(f"{channel}: {entry!r} is neither a label nor a table")
            unknown = set(claim) - {"label", "minus", "invert"}
            if unknown:
                raise AliasError(
                    f"{channel}: unknown key {sorted(unknown)[0]!r}; use label, minus, invert"
                )
            for key in ("label", "minus"):
                value = claim.get(key, "x")
                if not isinstance(value, str) or not normalise(value):
                    raise AliasError(f"{channel}: {key} must be a label, not {value!r}")
            if "label" not in claim or not isinstance(claim.get("invert", False), bool):
                raise AliasError(f"{channel}: {entry!r} needs a label, and invert is true or false")
            owner = owners.setdefault(normalise(claim["label"]), channel)
            if owner != channel:
                raise AliasError(f"{claim['label']!r} is claimed by both {owner} and {channel}")
            claims.setdefault(channel, []).append(dict(claim))
    return claims


def _offer_claims(labels, claims, offer) -> set[int]:
    """Offer every label that a user named; they are no longer looked up in the table."""
    claimed = set()
    forms = [normalise(label) for label in labels]
    for channel, entries in claims.items():
        for rank, entry in enumerate(entries):
            matches = [i for i, form in enumerate(forms) if form == normalise(entry["label"])]
            claimed.update(matches)
            minus = entry.get("minus")
            reference = None
            if minus is not None:
                if normalise(minus) not in forms:
                    continue
                reference = forms.index(normalise(minus))
            for i in matches:
                how = (
                    "alias file" if reference is None else f"alias file, minus {labels[reference]}"
                )
                offer(
                    rank / 1e3 - 1,
                    Binding(
                        channel,
                        labels[i],
                        i,
                        reference,
                        None if reference is None else labels[reference],
                        scale=-1.0 if entry.get("invert") else 1.0,
                        how=how,
                    ),
                )
    return claimed


def _cohort_labels(cohort):
    if cohort is None:
        return {}
    if cohort not in COHORTS:
        raise ValueError(f"unknown cohort {cohort!r}; there are {', '.join(sorted(COHORTS))}")
    return {normalise(label): meaning for label, meaning in COHORTS[cohort].items()}


# --- the table ------------------------------------------------------------------------------------


def _offer_table(labels, meanings, offer, reasons) -> None:
    references: dict[str, int] = {}
    chin: dict[str, int] = {}
    nox: dict[str, int] = {}
    aliases: dict[str, dict[int, int]] = {}
    for i, (meaning, demerit) in meanings.items():
        if meaning.kind == "reference":
            references.setdefault(meaning.detail, i)
            reasons[i] = "reference electrode that no channel here needs"
        elif meaning.kind == "chin":
            chin.setdefault(meaning.detail, i)
            reasons[i] = "chin electrode that is not needed"
        elif meaning.kind == "nox":
            nox.setdefault(meaning.detail, i)
            reasons[i] = _generic_reason(labels[i], meaning.detail)
        elif meaning.kind == "generic":
            reasons[i] = _generic_reason(labels[i], meaning.detail)
        elif meaning.kind == "excluded":
            reasons[i] = meaning.detail
        elif meaning.kind == "alias":
            aliases.setdefault(meaning.channel, {}).setdefault(meaning.rank, i)
            _offer_alias(labels, i, meaning, demerit, offer)
    for i, (meaning, demerit) in meanings.items():
        if meaning.kind == "electrode":
            _offer_electrode(labels, i, meaning, demerit, references, offer, reasons)
    _offer_chin(labels, chin, nox, offer)
    ecg = [aliases.get("ecg", {}).get(_alias_rank("ecg", label)) for label in table.ECG_PAIR]
    if None not in ecg:
        left, right = ecg
        how = f"minus {labels[right]}"
        rank = 9.5 + _alias_rank("ecg", table.ECG_PAIR[0])
        offer(rank, Binding("ecg", labels[left], left, right, labels[right], how=how))


def _offer_alias(labels, i, meaning, demerit, offer) -> None:
    last_resort = meaning.rank >= len(CHANNELS[meaning.channel].aliases)
    notes = ("used because nothing better is in the file",) if last_resort else ()
    priority = 10 + meaning.rank + 1000 * last_resort + demerit
    offer(priority, Binding(meaning.channel, labels[i], i, notes=notes))


def _offer_electrode(labels, i, meaning, demerit, references, offer, reasons) -> None:
    """The decision tree of rule 3."""
    channel, partner, sign = meaning.channel, meaning.detail, meaning.sign
    wanted = table.WANTED_REFERENCE[channel]
    how = "as labelled" if sign > 0 else "inverted"
    notes: tuple[str, ...] = ()
    reference = None
    if partner == wanted:
        priority = 10
    elif partner in ("M1", "M2", "linked"):
        # AASM also allows both eyes against one mastoid, so this ranks lower for EEG only in note.
        priority = 30 if partner != "linked" else 31
        if CHANNELS[channel].signal_type == "eeg":
            notes = (f"referenced to {partner}, not to the contralateral {wanted}",)
    elif partner == "typo":
        priority, notes = 12, ("read as M2-C3: M2-C2 is a known typing error",)
    elif partner is not None:
        priority, notes = 50, (f"derivation against {partner}, not against {wanted}",)
    elif wanted in references:
        priority, reference = 20, references[wanted]
        how = f"minus {labels[reference]}"
    elif references:
        others = ", ".join(labels[j] for j in references.values())
        reasons[i] = f"unreferenced: needs {wanted}, and the file holds only {others}"
        return
    else:
        priority, how = 40, "as labelled, taken as referenced by the recorder"
        notes = ("no reference electrode in the file",)
    if sign < 0:
        priority += 1
    offer(
        priority + demerit,
        Binding(
            channel,
            labels[i],
            i,
            reference,
            None if reference is None else labels[reference],
            scale=float(sign),
            how=how,
            notes=notes,
        ),
    )


def _offer_chin(labels, chin, nox, offer) -> None:
    for rank, (first, second) in enumerate(table.CHIN_PAIRS):
        if first in chin and second in chin:
            i, j = chin[first], chin[second]
            how = f"minus {labels[j]}"
            offer(500 + rank, Binding("emg_chin", labels[i], i, j, labels[j], how=how))
    for i in chin.values():
        notes = ("a single chin electrode, not bipolar",)
        offer(900, Binding("emg_chin", labels[i], i, notes=notes))
    if len(nox) == len(table.NOX_CHIN):
        i = nox[table.NOX_PREFERRED]
        notes = ("Nox chin electrodes, known by standing together",)
        offer(100, Binding("emg_chin", labels[i], i, notes=notes))


def _generic_reason(label: str, reason: str) -> str:
    cohorts = [name for name in COHORTS if normalise(label) in _cohort_labels(name)]
    known = f", or name the cohort ({', '.join(cohorts)})" if cohorts else ""
    if reason in table.NOX_CHIN:
        reason = "is a chin electrode on Nox devices only, where six such labels stand together"
    return f"generic: {reason}; bind it in an alias file{known}"


# --- normalisation --------------------------------------------------------------------------------


def _words(label: str) -> list[str]:
    text = unicodedata.normalize("NFKC", label).casefold().replace(".", "")
    return [word for word in re.split(r"[\s_\-:/()#,+]+", text) if word]


def _look_up(label: str) -> tuple[_Meaning | None, str, float]:
    """Find a label in the table: whole first, then without prefix, suffix, or copy number.

    Returns:
        The meaning or None, the normalised form that was found, and a demerit below 1 that puts
        a second copy behind the first.
    """
    text = re.sub(r"\.(\d)$", r" \1", label.strip())
    words = _words(text)
    if not words:
        return _Meaning("excluded", detail="empty label"), "", 0.0
    for word in (words[0], words[-1]):
        if word in table.EXCLUDING_WORDS:
            return _Meaning("excluded", detail=table.EXCLUDING_WORDS[word]), "".join(words), 0.0
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
            if types is not None and meaning.channel is not None:
                if CHANNELS[meaning.channel].signal_type not in types:
                    continue
            if types is not None and meaning.kind in ("nox", "reference"):
                continue
            return meaning, form, demerit / 4
    return None, "".join(words), 0.0


def _without_suffix(words: list[str]) -> list[str]:
    return words[:-1] if len(words) > 1 and words[-1] in _SUFFIXES else []


def _without_copy_number(words: list[str]) -> list[str]:
    """``C4-A12`` is a second C4-A1 and ``ECG_II2`` a second ECG II; ``E12`` and ``M2`` are not."""
    last = words[-1]
    copied = re.fullmatch(r"([am][12]|[^\W\d]{2,})[2-9]", last)
    if copied is None or (last[0] in "am" and last[1].isdigit() and len(words) == 1):
        return []
    return [*words[:-1], copied[1]]


def _alias_rank(channel: str, label: str) -> int:
    return CHANNELS[channel].aliases.index(label)


@functools.cache
def _table() -> dict[str, _Meaning]:
    known: dict[str, _Meaning] = {}

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
        add(text, _Meaning("nox", detail=text))
    for text, reason in table.GENERIC.items():
        add(text, _Meaning("generic", detail=reason))
    for text, reason in table.EXCLUDED.items():
        for form in (text, *(f"{text}-{recorder}" for recorder in table.RECORDER_REFERENCES)):
            add(form, _Meaning("excluded", detail=reason))
    for name, channel in CHANNELS.items():
        for rank, text in enumerate(channel.aliases + channel.last_resort):
            add(text, _Meaning("alias", name, rank=rank))
    for side, texts in table.CHIN_ELECTRODES.items():
        for text in texts:
            add(text, _Meaning("chin", detail=side))
    for side, texts in table.REFERENCES.items():
        for text in texts:
            add(text, _Meaning("reference", detail=side))
            for recorder in table.RECORDER_REFERENCES:
                add(f"{text}-{recorder}", _Meaning("reference", detail=side))
    for text in table.LINKED_REFERENCES:
        add(text, _Meaning("reference", detail="linked"))
    for name, texts in table.ELECTRODES.items():
        _add_derivations(name, texts, add, known)
    for text in table.TYPOS_OF_M2_C3:
        add(text, _Meaning("electrode", "eeg_c3", "typo", sign=-1))
    return known


def _add_derivations(name, texts, add, known) -> None:
    partners = {partner: side for side, names in table.REFERENCES.items() for partner in names}
    partners |= dict.fromkeys(table.LINKED_REFERENCES, "linked")
    others = table.OTHER_PARTNERS + table.SAME_SIDE_PARTNERS.get(name, ())
    partners |= {partner: partner for partner in others}
    for text in texts:
        if text not in table.ONLY_IN_DERIVATIONS:
            add(text, _Meaning("electrode", name))
        for recorder in table.RECORDER_REFERENCES:
            add(f"{text}-{recorder}", _Meaning("electrode", name))
        for partner, side in partners.items():
            # An explicit entry of the table (E1-E2, M1-Cz ...) beats a composed one.
            if normalise(f"{text}-{partner}") not in known:
                add(f"{text}-{partner}", _Meaning("electrode", name, side))
            if normalise(f"{partner}-{text}") not in known:
                add(f"{partner}-{text}", _Meaning("electrode", name, side, sign=-1))
