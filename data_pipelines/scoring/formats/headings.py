"""Headings of columns in tables of stages and events, normalised, in several languages.

Sources: BIDS (onset, duration, trial_type), NSRR STAGES (`Start Time,Duration (seconds),Event`),
Polyman as in HMC (`Recording onset`), Snooz (`start_sec`, `duration_sec`), YASA (`Epoch,Stage`),
MNE (`onset,duration,description`); the others are plain words of clinical exports.
"""


def _set(text: str) -> frozenset[str]:
    return frozenset(word.strip() for word in text.replace("\n", "|").split("|"))


STAGE = _set(
    """stage|stages|sleep stage|sleep stages|sleepstage|sleepstages|hypnogram|hypno|hyp|score
    scoring|staging|label|labels|stage hum|consensus|annotation|description|event|trial type|value
    stadium|stadien|schlafstadium|schlafstadien|schlafphase|stade|stades|stade de sommeil
    stade du sommeil|etapa|etapas|fase|fases|estadio|estadios|stadio|stadi|slaapstadium|slaapfase"""
)
TEXT = STAGE | _set(
    """event type|type|name|text|comment|marker|class|annotations|eventname|event name|event label
    ereignis|bezeichnung|kommentar|evenement|nom|evento|nome|gebeurtenis|naam"""
)
TIME = _set(
    """onset|start|start time|time|begin|begins|from|recording onset|start sec|t|seconds|clock
    clock time|timestamp|date time|datetime|time hh mm ss|begsample|sample|beginn|startzeit|zeit
    uhrzeit|debut|heure|heure de debut|temps|inicio|hora|hora de inicio|tiempo|tempo|inizio|ora
    ora di inizio|aanvang|begintijd|starttijd|tijd"""
)
EPOCH = _set(
    """epoch|epochs|epoche|epochen|epoca|epocas|epoque|epoques|epoc|epoch number|epoch no|epoch nr
    epoch index|epoch num|epoch id|epochnumber|epochnr|epoche nr|30 s epoch|nr epoki"""
)
INDEX = _set("|unnamed 0|index|idx|no|nr|n|number|row")
LENGTH = _set(
    """duration|length|dauer|duree|duracion|duracao|durata|duur|duration hh mm ss|duration second"""
)
END = _set(
    """end|end time|stop|stop time|to|offset time|ende|endzeit|fin|heure de fin|hora de fin|fine
    ora di fine|fim|einde|eindtijd"""
)
_UNITS = _set("s|sec|secs|second|seconds|sek|sekunden|ms|msec|min|minutes|h|hours|samples")


def bare(name: str) -> str:
    """Return a normalised heading without its unit: `onset s` is `onset`."""
    first, _, last = name.rpartition(" ")
    return bare(first) if first and last in _UNITS else name
