"""The channels of SleepLM (Xu et al. 2026, arXiv 2602.23605): rates, bands, what each is made of.

The ten of the released model in its order: nine waveforms at 64 Hz and the position of the body,
which keeps its integer code (``channels.table.POSITIONS``, -1 unknown); and the two that its
captions speak of and it does not see. These three have a sample a second. Bands, filters and the
z-score by recording are inferred: neither paper nor code says them. A store for captions wants all
twelve.
"""

from data_pipelines.recipes import Recipe, Row
from data_pipelines.signals.modalities import make_modalities

TOKEN_S = 30  # a token is an AASM epoch
VERSION = 1
RATE_HZ, NUMBER_HZ = 64, 1

_BREATH, _HEAD, _HEART, _CHIN = (0.05, 5.0), (0.3, 31.0), (0.5, 31.0), (10.0, 31.0)


def _wave(name, band_hz, unit="uV", made_of=()):
    return Row(name, RATE_HZ, made_of or (name,), "waveform", band_hz, scaling="z", unit=unit)


def _number(name, unit):
    return Row(name, NUMBER_HZ, (name,), "level", scaling="fixed", unit=unit)


ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        _wave("ecg", _HEART),
        _wave("resp_abd", _BREATH, ""),
        _wave("resp_thx", _BREATH, ""),
        _wave("airflow", _BREATH, "", ("airflow", "nasal_pressure")),
        _wave("eog_e1", _HEAD),
        _wave("eog_e2", _HEAD),
        _wave("eeg_c3", _HEAD),
        _wave("eeg_c4", _HEAD),
        _wave("emg_chin", _CHIN),
        Row("position", NUMBER_HZ, ("position",), "code", scaling="code"),
        _number("heart_rate", "bpm"),
        _number("spo2", "%"),
    )
}
TWELVE = tuple(ROWS)
TEN = TWELVE[:10]
RECIPE = Recipe(
    name="sleeplm",
    version=VERSION,
    token_s=TOKEN_S,
    rows=ROWS,
    sets={"ten": TEN, "twelve": TWELVE},
    make=make_modalities,
    provenance={"normalisation": "z/1"},
    stand_ins=False,
    absent_rows=True,
)
