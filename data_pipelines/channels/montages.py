"""Electrodes that only look like those of the 10-20 system, told by the labels of a recording.

``C3`` is a place on the scalp in the 10-20 system, the third contact of electrode C in the depth,
and one of 32 holes of bank C on a BioSemi cap. One label cannot tell, the set of labels can: the
10-20 system with its extensions (10-10, 10-5) has no ``C7``, no ``B5`` and no ``E12``. Letters that
run on past the numbers of the 10-20 system are banks, shafts or nets, and none of their electrodes
is bound. Where a recording holds such letters and another letter might be one of them, that one is
not bound either: a channel that is missing is seen, a wrong one is not.
"""

import dataclasses
import itertools
import re
import unicodedata
from collections.abc import Container, Sequence


def _numbers(*spans: tuple[int, int]) -> frozenset[int]:
    return frozenset(number for first, last in spans for number in range(first, last + 1))


def _letters(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Numbers that each letter has in the 10-20 system and its extensions (American Clinical
# Neurophysiology Society, Guideline 2, 2016: 10-10; Oostenveld and Praamstra, Clin Neurophysiol
# 2001: 10-5), with the older T3-T6, the ears A1 A2, the cerebellar CB1 CB2 and the nasopharyngeal
# PG1 PG2, and the names of eyes in polysomnography (AASM: E1 E2; two more stand above and below).
TEN_FIVE = {
    "fp": _numbers((1, 2)),
    "af": _numbers((1, 10)),
    "f": _numbers((1, 10)),
    "ft": _numbers((7, 10)),
    "fc": _numbers((1, 6)),
    "t": _numbers((1, 10)),
    "c": _numbers((1, 6)),
    "tp": _numbers((7, 10)),
    "cp": _numbers((1, 6)),
    "p": _numbers((1, 10)),
    "po": _numbers((1, 10)),
    "o": _numbers((1, 2), (9, 10)),
    "i": _numbers((1, 2)),
    "n": _numbers((1, 2)),
    "cb": _numbers((1, 2)),
    "a": _numbers((1, 2)),
    "m": _numbers((1, 2)),
    "e": _numbers((1, 4)),
    "pg": _numbers((1, 2)),
    "loc": _numbers((1, 2)),
    "roc": _numbers((1, 2)),
    **dict.fromkeys(
        _letters("afp aff fft ffc ftt fcc ttp ccp tpp cpp ppo poo oi"), _numbers((1, 10))
    ),
}
_TWO_LETTERS = ("af", "fc", "ft", "cp", "po")
# What the 10-20 system itself has of the letters that are bound; C1 is the 10-10 system's.
_TEN_TWENTY = {
    "f": {3, 4, 7, 8},
    "c": {3, 4},
    "o": {1, 2},
    "e": {1, 2},
}
_PAIRS = {"f": {3, 4}, "c": {3, 4}, "p": {3, 4}, "t": {3, 4}, "o": {1, 2}}

# Letters that count inputs of a polygraph, leads of an ECG or copies of a signal: they may run as
# far as they like and say nothing about the electrodes of the head.
_INPUTS = _letters(
    """ecg ekg v emg chin eog eeg dc ac x aux bip ch exg leg snore mic flow resp imu acc gsr in ad
    hb temp"""
)

_FEWEST_BEYOND = 2  # numbers past those of the 10-20 system; a single one may be a slip
_SHAFT, _SHORT_SHAFT = 5, 4  # consecutive contacts; short ones count where there are two
_FEWEST_OF_SHORT = 3  # contacts of a short shaft whose fourth was bad and left out
_HIGHEST = 10  # number that a letter of the 10-20 system has
_LONGEST_BANK = 32
_LONGEST_SHAFT = 18
_COPIES = {(ear, number) for ear in "am" for number in (12, 22)}
_FEWEST_COUNTED = 9  # electrodes of one word or none: EEG 001, EEG 002 ...


@dataclasses.dataclass(frozen=True)
class System:
    """A way to name electrodes that is not the 10-20 system's.

    Attributes:
        name: As a user is told it.
        families: All the letters that it uses; None for any.
        span: Between which numbers its longest letter ends.
        source: Who publishes these names.
    """

    name: str
    families: frozenset[str] | None
    span: tuple[int, int]
    source: str


# The first whose letters and numbers fit names the system.
SYSTEMS = (
    System(
        "an EGI geodesic sensor net",
        frozenset({"e"}),
        (15, 257),
        "EGI, layouts of the Geodesic and HydroCel nets: E1 to E32, E64, E128, E256, and a vertex",
    ),
    System(
        "a BioSemi cap",
        frozenset("abcdefgh"),
        (19, 32),
        "BioSemi, cap layouts of 16 to 256 electrodes: banks A to H of 32; shafts end at 18",
    ),
    System(
        "MEG sensors",
        frozenset({"a"}),
        (33, 248),
        "4D Neuroimaging, Magnes 2500 and 3600: A1 to A148 or A248",
    ),
    System(
        "MEG sensors",
        frozenset({"meg", *(f"m{side}{lobe}" for side in "lrz" for lobe in "cfopt")}),
        (1, 9999),
        "MEGIN Neuromag: MEG 0111 to MEG 2643; CTF: MLC11 ...",
    ),
    System(
        "electrodes that are only numbered",
        frozenset({"", "eeg"}),
        (1, 9999),
        "EasyCap, equidistant layouts M10 and M43: 1 to 61 or 63; MNE: EEG 001 ...",
    ),
    System(
        "depth electrodes, grids, or banks of a cap",
        None,
        (1, 9999),
        "contacts of SEEG and ECoG: letters of the shaft, ' for the left, a number from 1 on",
    ),
)


@dataclasses.dataclass(frozen=True)
class ForeignMontage:
    """Labels of a recording that belong to another system of electrodes than the 10-20.

    Attributes:
        system: What they look like.
        blocked: Index of each label that must not be bound -> the reason.
    """

    system: str
    blocked: dict[int, str]


_PRIMES = "'’`´′"
_KINDS = r"(?:(?:eeg|pol|psg|seeg|ieeg|ecog|depth)[ _:.\-]+)"
_CONTACT = rf"([^\W\d_]{{1,6}})([{_PRIMES}]?)[ _.]*0*(\d{{1,4}})(?![\w{_PRIMES}])"
_FIRST = re.compile(rf"(?:{_KINDS}|\d-)?\$?{_CONTACT}")
_NEXT = re.compile(rf"[ _:/.\-]*{_CONTACT}")
_PARTNER = re.compile(
    r"[ _:/.\-]+(?:ref\d?|avg|av|car|le|vref|com|cms|ar|g\d+|[acfp]?[fcpo]z|fpz|gnd|eg|[01])$"
)
_JOINED = re.compile(rf"{_KINDS}?([^\W\d_]{{1,3}})(\d)([am])([12])$")  # C3M2
_COUNTED = re.compile(r"(eeg|)[ _.\-]*0*(\d{1,4})(?:[ _.\-]+(?:ref|avg|vref|eg))?$")
_MIDLINE = re.compile(rf"{_KINDS}?([a-z]{{1,3}}z)(?![a-z0-9])")

Contact = tuple[str, int]


def find_foreign(labels: Sequence[str], *, skip: Container[int] = ()) -> ForeignMontage | None:
    """Find the electrodes of a recording that another system than the 10-20 names.

    Args:
        labels: All labels of a recording; their order and case do not matter.
        skip: Indices of labels whose meaning is known otherwise, as from a user's alias file.

    Returns:
        What they are and which must not be bound, or None where all may be of the 10-20 system.
    """
    texts = [unicodedata.normalize("NFKC", label).casefold().strip(" .") for label in labels]
    texts = ["" if i in skip else text for i, text in enumerate(texts)]
    contacts = _without_inputs([_contacts(text) for text in texts])
    families: dict[str, set[int]] = {}
    for parts in contacts:
        for family, number in _evidence(parts):
            families.setdefault(family, set()).add(number)
    foreign = _foreign_families(families, midline := _midline(texts))
    doubtful = _doubtful_families(families, midline, foreign)
    counted = {
        i: (match[1], int(match[2]))
        for i, text in enumerate(texts)
        if (match := _COUNTED.match(text))
    }
    words = [word for word, _ in set(counted.values())]
    words = {word for word in words if words.count(word) >= _FEWEST_COUNTED}
    if not foreign and not words:
        return None
    system = _name(foreign or words, max((max(families[x]) for x in foreign), default=1))
    blocked = {
        i: f"electrode of another naming than the 10-20 system's: {system}"
        for i, parts in enumerate(contacts)
        if any(family in foreign for family, _ in parts) or counted.get(i, (None,))[0] in words
    }
    blocked |= {
        i: f"may be a 10-20 electrode or one of the others here: {system}"
        for i, parts in enumerate(contacts)
        if i not in blocked and any(family in doubtful for family, _ in parts)
    }
    unsure = foreign | doubtful
    return ForeignMontage(
        system,
        {i: why for i, why in blocked.items() if not _is_contralateral(contacts[i], unsure)},
    )


def _contacts(text: str) -> list[Contact]:
    """The electrodes of a label: one, or those of a derivation; none where it is anything else."""
    joined = _JOINED.match(text)
    if joined:
        return [(joined[1], int(joined[2])), (joined[3], int(joined[4]))]
    match = _FIRST.match(text)
    if not match:
        return []
    parts, end = [_contact(match)], match.end()
    while (match := _NEXT.match(text, end)) and len(parts) < 3:
        parts.append(_contact(match))
        end = match.end()
    return parts if end == len(text) or _PARTNER.match(text, end) else []


def _contact(match: re.Match) -> Contact:
    letters, prime, number = match.groups()
    return letters + ("'" if prime else ""), int(number)


def _evidence(parts: list[Contact]) -> list[Contact]:
    """The contacts that tell how far a letter runs.

    ``C4-A12`` is often a second copy of C4-A1, so of a derivation only its first electrode counts,
    unless both are neighbours on one shaft.
    """
    if len(parts) == 2 and parts[0][0] == parts[1][0] and abs(parts[0][1] - parts[1][1]) <= 2:
        return parts
    return parts[:1]


def _without_inputs(contacts: list[list[Contact]]) -> list[list[Contact]]:
    """Give the free inputs of an amplifier another letter than the electrodes of the head.

    Beside a whole head, C3 and C4 are of it where the other C begin past the longest shaft: Natus
    calls inputs without an electrode C23 to C128.
    """
    families: dict[str, set[int]] = {}
    for family, number in itertools.chain.from_iterable(contacts):
        families.setdefault(family, set()).add(number)
    inputs = {
        family
        for family, places in _TEN_TWENTY.items()
        if min(families.get(family, places) - places, default=0) > _LONGEST_SHAFT
        and sum(families.get(x, set()) >= pair for x, pair in _PAIRS.items() if x != family) >= 2
    }
    return [
        [
            (f"{family} input" if family in inputs and number > _LONGEST_SHAFT else family, number)
            for family, number in parts
        ]
        for parts in contacts
    ]


def _midline(texts: list[str]) -> set[str]:
    return {match[1] for text in texts if (match := _MIDLINE.match(text))}


def _longest_run(numbers: set[int]) -> int:
    longest = run = 0
    for number in sorted(numbers):
        run = run + 1 if number - 1 in numbers else 1
        longest = max(longest, run)
    return longest


def _foreign_families(families: dict[str, set[int]], midline: set[str]) -> set[str]:
    """Letters that run past the 10-20 system's numbers, or that it does not have."""
    foreign = {
        family
        for family, numbers in families.items()
        if len(numbers - TEN_FIVE.get(family, numbers)) >= _FEWEST_BEYOND
    }
    runs = {
        family: _longest_run(numbers)
        for family, numbers in families.items()
        if family not in TEN_FIVE and family not in _INPUTS
    }
    short = {
        family
        for family in runs
        if len(families[family]) >= _FEWEST_OF_SHORT and max(families[family]) <= _SHORT_SHAFT
    }
    foreign |= {x for x in runs if runs[x] >= _SHAFT or len(families[x]) >= _FEWEST_COUNTED}
    if len(short) > 1:
        foreign |= short
    # Of a bank that was thinned out, high numbers are left; A12 alone may be a copy of A1.
    high = {
        (family, number)
        for family, numbers in families.items()
        for number in numbers
        if len(family) == 1 and family not in _INPUTS and _HIGHEST < number <= _LONGEST_BANK
    } - _COPIES
    if len(high) > (1 if _on_scalp(families, midline) else 0):
        foreign |= {family for family, _ in high}
    shafts = {
        family
        for family, numbers in families.items()
        if family in TEN_FIVE and len(family) == 1 and len(numbers) >= _SHAFT
    }
    rest = {family: families[family] for family in families.keys() - shafts}
    if not _on_scalp(rest, midline) and not any(family in rest for family in _TWO_LETTERS):
        # F1 to F8 with neither Fz nor FC1 is a shaft: no cap has the row without its neighbours.
        foreign |= shafts
    return foreign


def _on_scalp(families: dict[str, set[int]], midline: set[str]) -> bool:
    """Whether names are there that only the 10-20 system has."""
    pairs = sum(families.get(x, set()) >= pair for x, pair in _PAIRS.items())
    return bool(midline or "fp" in families or pairs >= 2)


def _doubtful_families(families, midline, foreign) -> set[str]:
    """Letters of the 10-20 system that may be one more shaft or bank beside the foreign ones."""
    own = {x: numbers for x, numbers in families.items() if x in TEN_FIVE and x not in foreign}
    if not foreign:
        return set()
    rows = sum(family in own for family in _TWO_LETTERS)
    ten_ten = len(midline) >= 6 or (len(midline) >= 2 and rows >= 2)
    beside = {x for x, numbers in own.items() if numbers - _TEN_TWENTY.get(x, numbers)}
    beside = set() if ten_ten else beside
    banks = {x for x in foreign if len(x.rstrip("'")) == 1}
    whole = all(len(families[x]) == max(families[x]) for x in banks)
    known = {x: numbers for x, numbers in own.items() if x not in beside}
    if banks <= {"e"} or whole or _on_scalp(known, midline):
        return beside
    # Some electrodes of the banks were taken out, so C3 may be what is left of bank C.
    return set(own)


def _is_contralateral(parts: list[Contact], unsure: set[str]) -> bool:
    """Whether it is a ready derivation of the 10-20 system, such as C3-A2, whatever A is here."""
    if len(parts) != 2 or parts[0][0] in unsure or parts[0][0] not in TEN_FIVE:
        return False
    (_, number), (ear, side) = parts
    return ear in ("a", "m") and side in (1, 2) and (number + side) % 2 == 1


def _name(families: set[str], longest: int) -> str:
    for system in SYSTEMS:
        fits = system.families is None or families <= system.families
        if fits and system.span[0] <= longest <= system.span[1]:
            return system.name
    raise AssertionError("the last row fits everything")
