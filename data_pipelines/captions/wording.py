"""The words of captions: tables that ``grammar`` draws from, and all others are built of.

The wording is our own; the lists are at least as long as those of the official captions (Xu et al.
2026), of which 20 are known. Sentences start in lower case and have no full stop: ``sentence`` adds
both. Numbers stand in braces: ``{a}`` and ``{b}`` are the bounds of an interval, ``{at}`` a time,
all in seconds. No sentence begins with a digit, so that a full stop is never read as a decimal
point.
"""

STAGES: dict[str, tuple[str, ...]] = {
    "W": ("wakefulness", "wake", "stage W", "the waking state"),
    "N1": ("stage N1", "light sleep (N1)", "N1 non-REM sleep", "transitional sleep (N1)"),
    "N2": ("stage N2", "stable light sleep (N2)", "N2 non-REM sleep", "intermediate sleep (N2)"),
    "N3": ("stage N3", "deep sleep (N3)", "N3 non-REM sleep", "slow-wave sleep (N3)"),
    "R": ("REM sleep", "stage R", "stage REM", "rapid eye movement sleep"),
}
STAGE_SENTENCES = (
    "epoch scored as {stage}",
    "segment scored as {stage}",
    "window scored as {stage}",
    "{stage} is the prevailing state here",
    "{stage} is what the scorer saw",
    "the sleeper is in {stage}",
    "the person is in {stage}",
    "staging result: {stage}",
    "sleep stage: {stage}",
    "these 30 seconds show {stage}",
    "this epoch shows {stage}",
    "this epoch belongs to {stage}",
    "the scorer marked {stage}",
    "state of the sleeper: {stage}",
    "the record is of {stage}",
    "the epoch counts as {stage}",
)
EVENTS: dict[str, str] = {
    "Arousal": "arousal",
    "Obstructive Apnea": "obstructive apnea",
    "Central Apnea": "central apnea",
    "Mixed Apnea": "mixed apnea",
    "Hypopnea": "hypopnea",
    "Apnea or Hypopnea": "apnea or hypopnea",
    "Oxygen Desaturation": "oxygen desaturation",
    "RERA": "RERA",
    "Leg Movement": "leg movement",
    "Periodic Leg Movement": "periodic leg movement",
    "Snore": "snore",
}
EVENT_SENTENCES = (  # {an event}: with its article
    "{an event} runs from {a} to {b} seconds",
    "{an event} lasts from {a} to {b} s",
    "{an event} spans {a} to {b} s",
    "{an event} begins at {a} s and ends at {b} s",
    "{an event} was scored from {a} to {b} s",
    "{event} present between {a} and {b} s",
    "{event} scored between {a} s and {b} s",
    "{event} seen from {a} s up to {b} s",
    "{event}: {a} to {b} s",
    "from {a} s until {b} s there is {an event}",
    "between {a} and {b} s the scorer marked {an event}",
    "there is {an event} that starts at {a} s and stops at {b} s",
)
BEFORE = ("already under way at the start", "begun before this epoch")
AFTER = ("continuing beyond the end", "going on after this epoch")
NO_EVENT = (  # in any state
    "no scored event",
    "no event is scored in this epoch",
    "no scored respiratory or arousal event",
    "nothing was scored as an event",
    "the scorer marked no event",
    "there is no scored event here",
    "the epoch is free of scored events",
    "without any scored event",
)
NO_EVENT_ASLEEP = (
    "the sleep is undisturbed by any scored event",
    "no scored event disturbs the sleep",
    "sleep goes on without any scored event",
)
NO_EVENT_AWAKE = (
    "no scored event while awake",
    "no event is scored while awake",
    "the time awake is free of scored events",
)

CHANNELS: dict[str, tuple[str, ...]] = {
    "eog_e1": ("left EOG", "EOG E1", "left eye channel"),
    "eog_e2": ("right EOG", "EOG E2", "right eye channel"),
    "eeg_c3": ("EEG C3", "left central EEG", "channel C3"),
    "eeg_c4": ("EEG C4", "right central EEG", "channel C4"),
    "ecg": ("ECG", "electrocardiogram", "ECG lead"),
    "heart_rate": ("heart rate", "heart rate track", "pulse track"),
    "spo2": ("SpO2", "oxygen saturation", "SpO2 track"),
    "resp_abd": ("abdominal belt", "abdominal effort", "abdomen"),
    "resp_thx": ("thoracic belt", "thoracic effort", "thorax"),
    "airflow": ("airflow", "airflow channel", "breathing flow"),
    "emg_chin": ("chin EMG", "EMG of the chin", "chin muscle"),
}
CHANNEL_LEADS = (
    "{channel}:",
    "{channel} gives",
    "{channel} shows",
    "measured on {channel}:",
    "results of {channel}:",
)
_BAND = ("{0} share", "relative {0} power", "{0}-band fraction")
_RATE = ("breathing rate", "respiratory rate", "breath rate")
STATISTICS: dict[str, tuple[str, ...]] = {  # last part of a slot's name -> its labels
    "slow": ("slow eye movement share", "relative slow eye movement power", "slow-rolling share"),
    "saccadic": ("saccadic share", "relative saccadic power", "saccade-band fraction"),
    **{
        band: tuple(label.format(band) for label in _BAND)
        for band in ("delta", "theta", "alpha", "beta")
    },
    "rate": _RATE,
    "rmssd": ("RMSSD", "short-term RMSSD", "beat-to-beat variability"),
    "min": ("minimum", "lowest value", "low point"),
    "max": ("maximum", "highest value", "high point"),
    "mean": ("mean", "average", "mean value"),
    "variability": (
        "breath interval variability",
        "spread of breath intervals",
        "variability of breath intervals",
    ),
    "flatness": ("inspiratory flatness", "flow flatness", "flatness of inspiration"),
    "median_frequency": ("median frequency", "spectral median", "middle frequency"),
    "burst_ratio": ("burst intensity ratio", "burst ratio", "burst strength"),
    "burst_rate": ("burst modulation rate", "burst rate", "rate of bursts"),
}
BEAT_RATE = ("beat rate", "estimated beat rate", "cardiac rate")  # of "ecg.rate"
RELATIONS = ("of", "at", "equal to", "valued at", "measuring")
HEDGES = ("about", "around", "roughly", "approximately", "close to")
JOINTS = (  # between two statistics
    ",",
    "and",
    ", and",
    ", and also",
    ", then",
    "plus",
    "along with",
    "together with",
    "as well as",
    "in addition to",
    "combined with",
    "accompanied by",
)

DIRECTIONS: dict[str, tuple[str, ...]] = {
    "increasing": ("rising", "increasing"),
    "decreasing": ("falling", "decreasing"),
    "stable": ("steady", "stable"),
}
TREND_LEADS = (
    "course of {channel}:",
    "trends of {channel}:",
    "{channel} over time:",
    "{channel} takes this course:",
)
TREND_NOUNS = (
    "trend",
    "phase",
    "segment",
    "period",
    "interval",
    "pattern",
    "behaviour",
    "tendency",
    "progression",
    "movement",
)
TREND_TIMES = "from {a} to {b} s"
TREND_JOINTS = (",", ", then", "and", "followed by")

POSITIONS: dict[str | None, tuple[str, ...]] = {
    "right": ("on the right side", "right-sided", "turned to the right"),
    "left": ("on the left side", "left-sided", "turned to the left"),
    "supine": ("supine", "on the back", "face up"),
    "prone": ("prone", "on the stomach", "face down"),
    "upright": ("upright", "sitting up", "sitting upright"),
    None: ("in an unknown position",),
}
POSITION_SENTENCES = (
    "body position: {position}",
    "position of the body: {position}",
    "posture: {position}",
    "body posture: {position}",
    "the body is {position}",
    "the sleeper is {position}",
    "the person is {position}",
)
POSITION_CHANGES = (
    ", then {position} from {at} s",
    ", and {position} from {at} s",
    ", later {position} from {at} s",
)

EMPTY: dict[str, str] = {  # what is said where the facts leave nothing to say
    "brain": "no usable EEG or EOG signal",
    "heart": "no usable ECG or pulse signal",
    "respiratory": "no usable breathing signal",
    "position_muscle": "no usable EMG or position signal",
    "stage_event": "this epoch is not scored",
    "global": "nothing is known of this epoch",
}


def statistic_labels(slot: str) -> tuple[str, ...]:
    """Return the labels of a name in ``facts.SLOTS``."""
    return BEAT_RATE if slot == "ecg.rate" else STATISTICS[slot.rpartition(".")[2]]


def with_article(name: str) -> str:
    """Put "a" or "an" before the name of an event."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def sentence(words: str) -> str:
    """Make a sentence of words: a capital letter, and a full stop."""
    return f"{words[0].upper()}{words[1:]}."
