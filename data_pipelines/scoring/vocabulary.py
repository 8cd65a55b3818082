"""The words that scoring files use for stages and events, and the code books of bare numbers.

A word is compared whole, after `normalise`, never by substring: `R` is not in `RERA`. Words of the
languages met in real exports are here beside the English ones. What is in no table is dropped:
free text of a scorer never passes.
"""

import dataclasses
import re
import unicodedata

from data_pipelines.scoring.record import ScoringError

_SEPARATORS = re.compile(r"[^0-9a-z?+&]+")


def normalise(text: str) -> str:
    """Return `text` without accents, case and punctuation: `A. Centrale` is `a centrale`."""
    text = unicodedata.normalize("NFKD", text).casefold()
    text = "".join(letter for letter in text if not unicodedata.combining(letter))
    return _SEPARATORS.sub(" ", text).strip()


_STAGE_WORDS = {
    0: "w|wake|awake|wakefulness|stage w|stage wake|sleep stage w|sleep stage wake|sleep s0|s0|"
    "sleep w|sleep wake|stage 0|wake stage|sdo wakestate|eveil|veille|wach|vigilia|vigilie|sw",
    1: "n1|nrem1|nrem 1|s1|sn1|stage 1|stage n1|stage 1 sleep|stage n1 sleep|sleep stage 1|"
    "sleep stage n1|sleep s1|sleep n1|sdo nonrapideyemovementsleep n1|non rem 1",
    2: "n2|nrem2|nrem 2|s2|sn2|stage 2|stage n2|stage 2 sleep|stage n2 sleep|sleep stage 2|"
    "sleep stage n2|sleep s2|sleep n2|sdo nonrapideyemovementsleep n2|non rem 2",
    3: "n3|nrem3|nrem 3|nrem4|nrem 4|n4|s3|s4|sn3|sn4|stage 3|stage 4|stage n3|stage n4|"
    "stage 3 sleep|stage 4 sleep|stage n3 sleep|sleep stage 3|sleep stage 4|sleep stage n3|"
    "sleep stage n4|sleep s3|sleep s4|sleep n3|sdo nonrapideyemovementsleep n3|"
    "sdo nonrapideyemovementsleep n4|non rem 3|non rem 4|stage 3 4 sleep",
    4: "r|rem|rem sleep|stage r|stage rem|stage rem sleep|stage r sleep|sleep stage r|"
    "sleep stage rem|sleep rem|sleep r|sdo rapideyemovementsleep|sr|paradoxical sleep",
    -1: "?|sleep stage ?|unknown|unscored|stage ?|not scored|sleep unscored|unscored stage|"
    "movement|movement time|mt|m|sleep mt|sleep stage m|sleep stage mt|stage m|stage mt|"
    "stage movement|sleep movement|sdo movementtime|indeterminate|stage unscored|"
    "sleep stage n|nicht bewertet|non score|u|unsure stage|stage unknown|sleep stage unknown|"
    "no stage|stage no stage|stage undefined|undefined",
}
STAGE_WORDS: dict[str, int] = {
    word: stage for stage, words in _STAGE_WORDS.items() for word in words.split("|")
}
"""Normalised words for a stage; -1 for those that say the epoch has none."""

_EVENT_WORDS = {
    ("apnea_obstructive", ""): "obstructive apnea|obstructive apnoea|apnea obstructive|"
    "apnoea obstructive|a obstructive|oa|osa|osas|apnee obstructive|obstruktive apnoe|"
    "sdo obstructiveapneafinding|apneaobstructive|obstructive a",
    (
        "apnea_central",
        "",
    ): "central apnea|central apnoea|apnea central|apnoea central|a centrale|ca|"
    "apnee centrale|zentrale apnoe|sdo centralapneafinding|central a|a central",
    ("apnea_mixed", ""): "mixed apnea|mixed apnoea|apnea mixed|apnoea mixed|a mixte|ma|apnee mixte|"
    "gemischte apnoe|sdo mixedapneafinding|mixed a|a mixed",
    ("hypopnea", ""): "hypopnea|hypopnoea|hypopnee|hypopnoe|hyp|obstructive hypopnea|"
    "hypopnea obstructive|central hypopnea|hypopnea central|mixed hypopnea|hypopnea mixed|"
    "sdo hypopneafinding|h obstructive|h central|h mixed|h|h centrale|h mixte",
    ("apnea_hypopnea", ""): "apnea or hypopnea|apnea hypopnea",
    (
        "desaturation",
        "",
    ): "spo2 desaturation|desaturation|desat|desaturation spo2|oxygen desaturation|"
    "o2 desaturation|sdo hemoglobinoxygendesaturationfinding|entsattigung|sao2 desaturation|"
    "spo2 desat|desaturation en oxygene|relative desaturation",
    ("arousal", ""): "arousal|eeg arousal|asda arousal|micro eveil|microeveil|mikroarousal|"
    "micro arousal|microarousal|sdo sleeparousalfinding|sdo arousalfinding|arousal asda|"
    "external arousal|arousal cheshire|weckreaktion|arousal external|arousal adsa",
    ("arousal", "spontaneous"): "spontaneous arousal|arousal spont|arousal spontaneous|"
    "arousal aro spont|spont arousal|spontane arousal|arousal spon aro|arousal apon aro",
    ("arousal", "respiratory"): "arousal resulting from respiratory effort|arousal resp|"
    "respiratory arousal|arousal respiratory|arousal apnea|arousal hypopnea|arousal rera|"
    "arousal aro res|arousal resp aro|arousal desat|arousal snore",
    ("arousal", "leg_movement"): "arousal plm|arousal lm|arousal limb|plm arousal|lm arousal|"
    "arousal aro limb|arousal resulting from periodic leg movement|limb movement arousal|"
    "arousal resulting from limb movement|leg movement arousal",
    ("arousal", "periodic_leg_movement"): "periodic limb movement arousal",
    ("rera", ""): "rera|resp rera|respiratory effort related arousal|"
    "respiratory event related arousal|sdo respiratoryeffortrelatedarousalfinding",
    ("leg_movement", ""): "plm|lm|mj|plms|plm lm|leg movement|limb movement|limb movement left|"
    "limb movement right|periodic leg movement|periodic limb movement|plm left|plm right|left plm|"
    "right plm|periodic leg movement left|periodic leg movement right|leg movement left|"
    "leg movement right|sdo periodiclegmovementfinding|mpj|beinbewegung|mouvement de jambe|"
    "limb movement plm|lmm|isolated lm|sdo limbmovementfinding",
    ("position", "supine"): "supine|dos|position supine|back|body position supine|rucken|"
    "ruckenlage|sur le dos|body position back",
    ("position", "prone"): "prone|ventre|position prone|front|body position prone|bauchlage|"
    "body position front|stomach",
    ("position", "left"): "left|gauche|position left|body position left|links|linkslage|"
    "left side|position left side",
    ("position", "right"): "right|droite|position right|body position right|rechts|rechtslage|"
    "right side|position right side",
    ("position", "upright"): "upright|debout|position upright|sitting|aufrecht|assis|"
    "body position upright|position sitting",
    ("lights_off", ""): "lights off|light off|lights out|lightsoff|lights off event|licht aus|"
    "extinction des feux|extinction|lumieres eteintes|lo",
    ("lights_on", ""): "lights on|light on|lightson|lights on event|licht an|lumieres allumees",
}
EVENT_WORDS: dict[str, tuple[str, str]] = {
    word: kind for kind, words in _EVENT_WORDS.items() for word in words.split("|")
}
"""Normalised words for an event: its kind, and its value where the word says one."""


def stage_of(text: str) -> int | None:
    """Return the stage code that `text` names (-1: named as unscored), None if it names none."""
    return STAGE_WORDS.get(normalise(text))


def event_of(text: str) -> tuple[str, str] | None:
    """Return (kind, value) of the event that `text` names, None if it names none.

    `Hypopnea (epoch)` is one of which only the 30-s epoch is known, as `written_words` has it.
    """
    word = normalise(text)
    found = EVENT_WORDS.get(word)
    if found is None and word.endswith(" epoch"):
        found = EVENT_WORDS.get(word.removesuffix(" epoch"))
        return found and (found[0], "epoch")
    return found


def events_scored_of(text: str) -> bool | None:
    """Return what a row that says whether events were scored says, None if it is none."""
    return {"events scored": True, "events not scored": False}.get(normalise(text))


@dataclasses.dataclass(frozen=True)
class CodeBook:
    """Meaning of the entries of a plain list.

    Attributes:
        stages: entry as written -> stage code.
        step_s: seconds that one entry stands for, where the list has one entry per step.
        about: where this coding is used.
    """

    stages: dict[str, int]
    step_s: float
    about: str


def _book(about, step_s=30.0, /, **stages):
    mapping = {}
    for stage, entries in zip((0, 1, 2, 3, 4, -1), stages.values(), strict=True):
        mapping |= dict.fromkeys(entries.split(), stage)
    return CodeBook(mapping, step_s, about)


CODE_BOOKS: dict[str, CodeBook] = {
    "aasm5": _book("0 W, 1 N1, 2 N2, 3 N3, 4 R", w="0", n1="1", n2="2", n3="3", r="4", x="-1"),
    "rk5": _book(
        "Rechtschaffen and Kales, NSRR and Profusion: 0 W, 1-4 stages, 5 R, 6 movement, 9 unscored",
        w="0",
        n1="1",
        n2="2",
        n3="3 4",
        r="5",
        x="-1 6 7 9 10",
    ),
    "dod": _book("Dreem Open Datasets", w="0", n1="1", n2="2", n3="3", r="4", x="-1"),
    "boas": _book(
        "Bitbrain BOAS: 4 R, 8 artefact", w="0", n1="1", n2="2", n3="3", r="4", x="8 -1 -2"
    ),
    "yasa": _book(
        "YASA: -1 artefact, -2 unscored", w="0", n1="1", n2="2", n3="3", r="4", x="-1 -2"
    ),
    "dreams": _book(
        "DREAMS, one entry per 5 s: 5 W, 4 R, 3 N1, 2 N2, 1 N3",
        5.0,
        w="5",
        n1="3",
        n2="2",
        n3="1",
        r="4",
        x="0 -1 -2 -3",
    ),
    "dynamo": _book(
        "DYNAM-O: 5 W, 4 R, 3 N1, 2 N2, 1 N3", w="5", n1="3", n2="2", n3="1", r="4", x="0 -1 6"
    ),
    "ucddb": _book(
        "UCDDB: 0 W, 1 R, 2-5 stages 1-4", w="0", n1="2", n2="3", n3="4 5", r="1", x="6 7 8"
    ),
    "walch": _book("Walch et al. 2019", w="0", n1="1", n2="2", n3="3 4", r="5", x="-1"),
    "names": _book(
        "stage names",
        w="W w Wake wake",
        n1="N1 n1 S1",
        n2="N2 n2 S2",
        n3="N3 n3 S3 S4",
        r="R r REM rem",
        x="? U M MT A Art Artefact Uns -1 L",
    ),
}
"""The codings of bare entries by name. They contradict each other: 1 is N1, N3 or R."""


def code_book_of(name: str | None, path) -> CodeBook:
    """Return the code book called `name`, which may end in `@<seconds>` for another step.

    Raises:
        ScoringError: no name was given, or none of `CODE_BOOKS` has it; the message lists them.
    """
    if isinstance(name, str):
        stem, _, step = name.partition("@")
        book = CODE_BOOKS.get(stem)
        if book and not step:
            return book
        if book and re.fullmatch(r"\d{1,4}(\.\d{1,6})?", step) and 0 < float(step) <= 3600:
            return dataclasses.replace(book, step_s=float(step))
    choices = "; ".join(f"{key} ({book.about})" for key, book in CODE_BOOKS.items())
    said = "bare entries mean nothing without one" if name is None else f"there is no {name!r}"
    raise ScoringError(
        f"{path}: name the code book of this list ({said}). Choices, each with @<seconds> for "
        f"another step than its own: {choices}"
    )
