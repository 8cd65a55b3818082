"""A recording's labels bound to canonical channels, and reasons why the others are not used.

The rules, in order (the table itself is :mod:`data_pipelines.channels.table`):

1. Labels are compared whole, after normalisation; nothing matches by a part of its text.
2. A user's alias file beats a cohort's meaning, which beats the table.
3. EEG and EOG: a ready contralateral derivation; else electrode minus the wanted mastoid; else
   another mastoid derivation; else the bare electrode where the file holds no mastoid at all. A
   bare electrode beside mastoids of which the wanted one is missing is dropped.
4. Chin: a ready bipolar channel; else the first pair of chin electrodes; else a single electrode.
5. Generic labels (``EEG``, ``EMG`` ...) bind only in a named cohort or by an alias file.
6. Where the labels together are those of another system of electrodes (BioSemi, EGI, depth
   electrodes), those that only look like 10-20 names are not bound (:mod:`.montages`).
"""

import collections.abc
import dataclasses
import json
import pathlib
import tomllib

from data_pipelines.channels import table as table
from data_pipelines.channels.labels import Meaning, alias_rank, look_up, normalise
from data_pipelines.channels.montages import ForeignMontage, find_foreign
from data_pipelines.channels.table import CHANNELS, COHORTS, Channel
from data_pipelines.findings import Finding

__all__ = [
    "CHANNELS",
    "COHORTS",
    "AliasError",
    "Binding",
    "Channel",
    "Resolution",
    "label_of",
    "load_aliases",
    "normalise",
    "resolve",
]


FEWEST_TOLD = 8  # foreign electrodes of a recording that has no channel of the head


class AliasError(ValueError):
    """An alias file, or a mapping of aliases, that cannot be used."""


@dataclasses.dataclass(frozen=True)
class Binding:
    """Recipe for reading a canonical channel of a recording: ``scale * (index - reference)``.

    Attributes:
        channel: Canonical name.
        label: Label of the electrode or ready channel, as the file spells it.
        index: Its index among the recording's labels.
        reference: Index of the label to subtract, or None.
        reference_label: Its label.
        scale: -1 for an inverted derivation, times any correction of unit or polarity.
        how: In words, for reports: ``as labelled``, ``minus M2`` ...
        notes: What a user should know before trusting it.
        inferred: Whether it is a guess that a user should look at: neither a ready derivation, nor
            an electrode less the wanted mastoid, nor what a user's alias file says.
        reference_scale: Factor that brings the reference into the electrode's unit, where the file
            does not say both units; None where it does.
        codes: Pairs of a number that the channel holds and the word of ``table.POSITIONS`` that it
            stands for; None where nobody says what its numbers mean.
    """

    channel: str
    label: str
    index: int
    reference: int | None = None
    reference_label: str | None = None
    scale: float = 1.0
    how: str = "as labelled"
    notes: tuple[str, ...] = ()
    inferred: bool = False
    reference_scale: float | None = None
    codes: tuple[tuple[float, str], ...] | None = None


@dataclasses.dataclass(frozen=True)
class Resolution:
    """Result of :func:`resolve`.

    Attributes:
        bindings: By canonical name, in the order of the table.
        unused: The labels left over, each with the reason.
        alternatives: Further bindings of a channel, best first, for the case that the first one
            turns out to be flat or unreadable.
        findings: What the labels together say that a user should look at.
    """

    bindings: dict[str, Binding]
    unused: list[tuple[str, str]]
    alternatives: dict[str, tuple[Binding, ...]] = dataclasses.field(default_factory=dict)
    findings: tuple[Finding, ...] = ()


def label_of(channel: str) -> str:
    """Return a label that :func:`resolve` binds to a canonical channel, for files to be written."""
    if channel in table.ELECTRODES:
        return f"{table.ELECTRODES[channel][0]}-{table.WANTED_REFERENCE[channel]}"
    return CHANNELS[channel].aliases[0]


def resolve(
    labels,
    *,
    aliases=None,
    cohort: str | None = None,
    unreadable=None,
    stand_ins: bool = True,
) -> Resolution:
    """Bind the labels of a recording to canonical channels.

    A label is bound to one channel at most; a reference electrode may serve several channels.

    Args:
        labels: The labels in file order.
        aliases: ``{channel name: [entry, ...]}`` as :func:`load_aliases` returns it; an entry is a
            label, or ``{"label": ..., "minus": ..., "invert": ..., "codes": ...}``. They come
            before the table.
        cohort: A name of ``COHORTS`` whose generic labels have documented meanings.
        unreadable: ``{index: reason}`` of labels to leave out (``Recording.unreadable``), so that
            the next best channel takes the place.
        stand_ins: Whether the cohort's labels may stand for channels that they are not; where not,
            such a label is what the table says.

    Raises:
        ValueError: Unknown cohort.
        AliasError: Unknown channel, malformed entry, or one label claimed by two channels.
    """
    labels = list(labels)
    cohort_labels = {
        label: meaning
        for label, meaning in _cohort_labels(cohort).items()
        if stand_ins or not meaning.stand_in
    }
    claims = _check_aliases(aliases or {})
    candidates: dict[str, list[tuple[float, Binding]]] = {}
    reasons: dict[int, str] = {}

    def offer(priority, binding):
        candidates.setdefault(binding.channel, []).append((priority, binding))

    reasons.update({i: f"cannot be read: {reason}" for i, reason in (unreadable or {}).items()})
    unread = set(reasons)
    explicit = _offer_claims(labels, claims, unread, offer)
    meanings: dict[int, tuple[Meaning, float]] = {}
    for i, label in enumerate(labels):
        if i in explicit | unread:
            continue
        meaning, form, demerit = look_up(label)
        special = cohort_labels.get(form) or cohort_labels.get(normalise(label))
        if special is not None:
            explicit.add(i)
        if special is not None and special.channel is None:
            reasons[i] = special.note
        elif special is not None:
            offer(1 + demerit, _cohort_binding(labels, i, special, unread))
        elif meaning is None:
            reasons[i] = "not in the table of channels; name it in an alias file to use it"
        else:
            meanings[i] = meaning, demerit
    foreign = find_foreign(labels, skip=explicit)
    blocked = {} if foreign is None else foreign.blocked
    misleading = [meanings.pop(i)[0] for i in blocked if i in meanings]
    # A mastoid that cannot be read still shows that the recorder did not reference by itself.
    lost = [
        labels[i]
        for i in unread - blocked.keys()
        if getattr(look_up(labels[i])[0], "kind", "") == "reference"
    ]
    _offer_table(labels, meanings, lost, offer, reasons)

    bindings: dict[str, Binding] = {}
    alternatives: dict[str, tuple[Binding, ...]] = {}
    for name in CHANNELS:
        offers = sorted(candidates.get(name, []), key=lambda item: (item[0], item[1].index))
        if offers:
            bindings[name] = offers[0][1]
        if len(offers) > 1:
            alternatives[name] = tuple(binding for _, binding in offers[1:])
        for _, loser in offers[1:]:
            reasons.setdefault(
                loser.index, f"{name} is taken from {offers[0][1].label!r}, which ranks before it"
            )
    findings = ()
    if foreign is not None and _matters(misleading, blocked, bindings):
        reasons |= {i: why for i, why in blocked.items() if i not in unread}
        findings = (_foreign_finding(labels, foreign),)
    used = {b.index for b in bindings.values()} | {b.reference for b in bindings.values()}
    unused = [
        (label, reasons.get(i, "not needed")) for i, label in enumerate(labels) if i not in used
    ]
    return Resolution(bindings, unused, alternatives, findings)


def load_aliases(path) -> dict[str, list]:
    """Read a user's aliases from a JSON or TOML file of ``channel name -> list of entries``.

    An entry is a label, or a table with ``label`` and optionally ``minus`` (a label to subtract)
    and ``invert`` (true for a derivation of the other sign), and for the position of the body what
    its numbers mean (``table.POSITIONS``)::

        eeg_c3 = ["Kanal 1"]
        emg_chin = [{label = "X5", minus = "X6"}]
        position = [{label = "Lage", codes = {1 = "supine", 2 = "left", 3 = "right"}}]

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
            unknown = set(claim) - {"label", "minus", "invert", "codes"}
            if unknown:
                raise AliasError(
                    f"{channel}: unknown key {sorted(unknown)[0]!r}; use label, minus, invert,"
                    " codes"
                )
            _codes_of(channel, claim)
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


def _codes_of(channel, claim):
    """The codes of a position as pairs; None where the entry has none."""
    codes = claim.get("codes")
    if codes is None:
        return None
    wrong = f"{channel}: codes are a table of number -> one of {', '.join(table.POSITIONS)}"
    if channel != "position" or not isinstance(codes, collections.abc.Mapping):
        raise AliasError(f"{wrong}, of position alone, not {codes!r}")
    try:
        pairs = tuple((float(code), word) for code, word in codes.items())
    except ValueError:
        raise AliasError(f"{wrong}, not {codes!r}") from None
    if not pairs or any(word not in table.POSITIONS for _, word in pairs):
        raise AliasError(f"{wrong}, not {codes!r}")
    return pairs


def _offer_claims(labels, claims, unread, offer) -> set[int]:
    """Offer every label that a user named; they are no longer looked up in the table."""
    claimed = set()
    forms = ["" if i in unread else normalise(label) for i, label in enumerate(labels)]
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
                        codes=_codes_of(channel, entry),
                    ),
                )
    return claimed


def _cohort_labels(cohort):
    if cohort is None:
        return {}
    if cohort not in COHORTS:
        raise ValueError(f"unknown cohort {cohort!r}; there are {', '.join(sorted(COHORTS))}")
    return {normalise(label): meaning for label, meaning in COHORTS[cohort].items()}


def _cohort_binding(labels, i, special, unread) -> Binding:
    how, reference = "by cohort", None
    minus = [
        j for j, x in enumerate(labels) if x.strip() == special.minus and j not in unread | {i}
    ]
    if minus:
        reference = minus[0]
        how += f", minus {labels[reference]}"
    return Binding(
        special.channel,
        labels[i],
        i,
        reference,
        None if reference is None else labels[reference],
        how=how,
        notes=(special.note,),
        inferred=special.stand_in,
        codes=special.codes,
    )


# --- electrodes of other systems ------------------------------------------------------------------


def _matters(misleading, blocked, bindings) -> bool:
    """Whether a user must know: a label was kept from binding, or the head has no channel."""
    if any(meaning.kind in ("alias", "electrode", "reference", "nox") for meaning in misleading):
        return True
    head = any(CHANNELS[name].signal_type in ("eeg", "eog") for name in bindings)
    return not head and len(blocked) >= FEWEST_TOLD


def _foreign_finding(labels, foreign: ForeignMontage) -> Finding:
    some = ", ".join(labels[i] for i in list(foreign.blocked)[:3])
    return Finding(
        "foreign_montage",
        foreign.system,
        f"{len(foreign.blocked)} labels ({some} ...) look like {foreign.system}; none of them is "
        "taken for an electrode of the 10-20 system. Name the channels to use in an alias file "
        "(--aliases=FILE)",
    )


# --- the table ------------------------------------------------------------------------------------


def _offer_table(labels, meanings, lost, offer, reasons) -> None:
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
            _offer_electrode(labels, i, meaning, demerit, references, lost, offer, reasons)
    _offer_chin(labels, chin, nox, offer, reasons)
    ecg = [aliases.get("ecg", {}).get(alias_rank("ecg", label)) for label in table.ECG_PAIR]
    if None not in ecg:
        left, right = ecg
        how = f"minus {labels[right]}"
        rank = 9.5 + alias_rank("ecg", table.ECG_PAIR[0])
        offer(rank, Binding("ecg", labels[left], left, right, labels[right], how=how))


def _offer_alias(labels, i, meaning, demerit, offer) -> None:
    last_resort = meaning.rank >= len(CHANNELS[meaning.channel].aliases)
    notes = ("used because nothing better is in the file",) if last_resort else ()
    priority = 10 + meaning.rank + 1000 * last_resort + demerit
    offer(
        priority,
        Binding(meaning.channel, labels[i], i, notes=notes, inferred=last_resort),
    )


def _offer_electrode(labels, i, meaning, demerit, references, lost, offer, reasons) -> None:
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
    elif references or lost:
        others = ", ".join([labels[j] for j in references.values()] + [f"{x} (bad)" for x in lost])
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
            inferred=bool(notes),
        ),
    )


def _offer_chin(labels, chin, nox, offer, reasons) -> None:
    for rank, (first, second) in enumerate(table.CHIN_PAIRS):
        if first in chin and second in chin:
            i, j = chin[first], chin[second]
            how = f"minus {labels[j]}"
            offer(500 + rank, Binding("emg_chin", labels[i], i, j, labels[j], how=how))
    for i in chin.values():
        notes = ("a single chin electrode, not bipolar",)
        offer(900, Binding("emg_chin", labels[i], i, notes=notes, inferred=True))
    if len(nox) == len(table.NOX_CHIN):
        i = nox[table.NOX_PREFERRED]
        notes = ("Nox chin electrodes, known by standing together",)
        offer(100, Binding("emg_chin", labels[i], i, notes=notes, inferred=True))
        reasons.update(dict.fromkeys(nox.values(), "Nox chin electrode that is not needed"))


def _generic_reason(label: str, reason: str) -> str:
    meanings = {name: _cohort_labels(name).get(normalise(label)) for name in COHORTS}
    cohorts = [name for name, meaning in meanings.items() if meaning and meaning.channel]
    known = f", or name the cohort ({', '.join(cohorts)})" if cohorts else ""
    if reason in table.NOX_CHIN:
        reason = "is a chin electrode on Nox devices only, where six such labels stand together"
    return f"generic: {reason}; bind it in an alias file{known}"
