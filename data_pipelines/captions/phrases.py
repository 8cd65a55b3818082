"""What the words of captions mean: phrases of ``wording`` and of the official captions.

``PHRASES`` maps a tuple of tokens in lower case to its symbols, each a kind and a value. The
official words are those that 20 published captions of SleepLM (Xu et al. 2026) show.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

from data_pipelines.captions import wording
from data_pipelines.captions.facts import SLOTS

# Kinds of symbols. STATISTIC: the last part of a slot's name. SIDE: a position where the sentence
# is about one. CUE: the sentence is about position. OCCURRENCE: the word "event" and the like.
CHANNEL = "channel"
STATISTIC = "statistic"
STAGE = "stage"
EVENT = "event"
DIRECTION = "direction"
POSITION = "position"
SIDE = "side"
CUE = "cue"
NO = "no"
OCCURRENCE = "occurrence"
FLAG = "flag"
FILLER = "filler"
Symbol = tuple[str, str | None]

# A word with its digits and hyphens; a number; any other character.
_TOKEN = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*|[0-9]+(?:\.[0-9]+)?|\S")

_STAGES = {
    "W": ("awake", "wake stage"),
    "N1": ("n1", "light sleep", "n1 sleep"),
    "N2": ("n2", "stable light sleep", "n2 sleep"),
    "N3": ("n3", "deep sleep", "slow-wave sleep", "slow wave sleep", "n3 sleep"),
    "R": ("rem", "rem stage"),
}
_EVENTS = {
    "Obstructive Apnea": ("obstructive apnoea",),
    "Central Apnea": ("central apnoea",),
    "Mixed Apnea": ("mixed apnoea",),
    "Hypopnea": ("hypopnoea",),
    "Oxygen Desaturation": ("desaturation", "spo2 desaturation"),
    "RERA": ("respiratory effort related arousal", "respiratory effort-related arousal"),
    "Snore": ("snoring",),
}
_CHANNELS = {
    "eog_e1": ("eog-l", "eog left", "left eye", "left eog channel", "e1", "e1-a2"),
    "eog_e2": ("eog-r", "eog right", "right eye", "right eog channel", "e2", "e2-a1"),
    "eeg_c3": ("c3", "c3-a2", "eeg c3-a2"),
    "eeg_c4": ("c4", "c4-a1", "eeg c4-a1"),
    "ecg": ("ekg",),
    "heart_rate": ("hr", "heart-rate", "pulse", "pulse rate"),
    "spo2": ("spo2", "sao2", "blood oxygen", "blood oxygen saturation"),
    "resp_abd": ("abd", "abdominal"),
    "resp_thx": ("thx", "thoracic", "chest"),
    "airflow": ("af", "air flow", "nasal flow"),
    "emg_chin": ("emg", "chin"),
}
_BANDS = ("delta", "theta", "alpha", "beta")
_STATISTICS = {
    "slow": ("slow eye movement", "slow eye movements", "sem"),
    "saccadic": ("rem saccadic", "saccadic", "saccade", "rem saccades"),
    **{band: (band,) for band in _BANDS},
    "rate": ("rate", "breaths"),
    "rmssd": ("ultra-short rmssd", "ultra short rmssd"),
    "min": ("min", "lowest", "nadir"),
    "max": ("max", "highest", "peak"),
    "mean": ("avg", "averaging"),
    "variability": ("variability", "breath-interval variability", "breathing interval variability"),
    "flatness": ("flatness", "inspiratory flow flatness"),
    "burst_ratio": ("burst intensity",),
    "burst_rate": ("burst modulation", "burst frequency"),
}
_DIRECTIONS = {
    "increasing": ("increase", "rise", "upward", "ascending"),
    "decreasing": ("decrease", "fall", "downward", "descending", "declining"),
    "stable": ("flat", "constant", "plateau"),
}
_POSITIONS = {
    "right": ("right side", "right lateral", "right side lying"),
    "left": ("left side", "left lateral", "left side lying"),
    "supine": ("back",),
    "prone": ("stomach", "front"),
    "upright": ("sitting", "standing"),
}
_CUES = ("position", "posture", "body", "lying", "lies", "sleeper", "person", "subject", "patient")
_NOS = ("no", "not", "nothing", "without", "absence", "absent", "free", "undisturbed")
_NOS_OFFICIAL = ("none", "uneventful", "uninterrupted", "event-free", "neither", "devoid", "lack")
_OCCURRENCES = ("event", "events", "disturbance", "disturbances", "disruption", "disruptions")
_ALONE = ("undisturbed", "uneventful", "uninterrupted", "event-free")  # "no event" in one word
# Words of carriers and joints that mean nothing by themselves.
_FILLERS = (
    "a also an and are as at band be been being both bpm by channel characterized classified "
    "combined compared consistent contains corresponds current detected displays duration "
    "during entire equals exhibits falls finally for had has have having hz identified in "
    "includes including indicates is it its lasting lastly minute mm more ms near observed "
    "occurring occurs of on onset per percent plus power presenting reaches reading recorded "
    "recording relative remained remains respectively respiratory s sec second seconds segment "
    "signal sits sleep stage stages stands starting stays the their this throughout to trace "
    "tract value values via was were where which while whole with within"
)
_NUMBERED = ("these 30 seconds", "this 30 second", "30 - second", "this 30 - second", "30 - s")


def tokens(text: str) -> list[str]:
    """Return the tokens of a text in lower case: words, numbers, other characters."""
    return _TOKEN.findall(text)


def _phrases() -> dict[tuple[str, ...], tuple[Symbol, ...]]:
    phrases: dict[tuple[str, ...], tuple[Symbol, ...]] = {}

    def add(texts: Iterable[str], *symbols: Symbol) -> None:
        for text in texts:
            phrases[tuple(tokens(text.lower()))] = symbols

    words = itertools.chain(
        _FILLERS.split(),
        *(tokens(re.sub(r"\{[^}]*\}", " ", line.lower())) for line in _sentences()),
    )
    add((word for word in words if not word.isdecimal()), (FILLER, None))
    for kind, tables in (
        (CHANNEL, (wording.CHANNELS, _CHANNELS)),
        (STAGE, (wording.STAGES, _STAGES)),
        (DIRECTION, (wording.DIRECTIONS, _DIRECTIONS)),
        (STATISTIC, (wording.STATISTICS, _STATISTICS)),
        (POSITION, (wording.POSITIONS, _POSITIONS)),
    ):
        for value, texts in itertools.chain(*(table.items() for table in tables)):
            add(texts, (kind, value))
    for event, name in wording.EVENTS.items():
        for text in (name, *_EVENTS.get(event, ())):
            add((text, f"{text}s"), (EVENT, event))
    add((*wording.BEAT_RATE, "estimated heart rate"), (CHANNEL, "ecg"), (STATISTIC, "rate"))
    add(("airflow rate",), (CHANNEL, "airflow"), (STATISTIC, "rate"))
    for side in ("left", "right"):
        add((side,), (SIDE, side))
    add(_CUES, (CUE, None))
    add((*_NOS, *_NOS_OFFICIAL), (NO, None))
    add(_OCCURRENCES, (OCCURRENCE, None))
    add(_ALONE, (NO, None), (OCCURRENCE, None))
    add(wording.BEFORE, (FLAG, "before"))
    add(wording.AFTER, (FLAG, "after"))
    add(("while awake", "time awake", "rapid eye movement", *_NUMBERED), (FILLER, None))
    add((wording.EMPTY["stage_event"],), (FILLER, None))
    add(("nothing was scored as an event",), (NO, None), (OCCURRENCE, None))
    return phrases


def _sentences() -> Iterable[str]:
    return itertools.chain(
        wording.STAGE_SENTENCES,
        wording.EVENT_SENTENCES,
        wording.NO_EVENT,
        wording.NO_EVENT_ASLEEP,
        wording.NO_EVENT_AWAKE,
        wording.CHANNEL_LEADS,
        wording.RELATIONS,
        wording.HEDGES,
        wording.JOINTS,
        wording.TREND_LEADS,
        wording.TREND_NOUNS,
        (wording.TREND_TIMES,),
        wording.TREND_JOINTS,
        wording.POSITION_SENTENCES,
        wording.POSITION_CHANGES,
        wording.EMPTY.values(),
        ("% , : ; ( ) - = /",),
    )


PHRASES = _phrases()
LONGEST: dict[str, int] = {}  # first word -> tokens of the longest phrase that begins with it
for _phrase in PHRASES:
    LONGEST[_phrase[0]] = max(LONGEST.get(_phrase[0], 0), len(_phrase))
# Statistics of one channel alone, which a text need not name.
_owners: dict[str, list[str]] = {}
for _name in SLOTS:
    _owners.setdefault(_name.rpartition(".")[2], []).append(_name)
SLOT_OF = {statistic: names[0] for statistic, names in _owners.items() if len(names) == 1}
