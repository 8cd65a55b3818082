"""The channels of SleepLM (Xu et al. 2026, arXiv 2602.23605): rates, bands, what each is made of.

The ten of the released model at 64 Hz in its order, and the two that its captions speak of and it
does not see. Bands, filters and the scaling by night are inferred: neither paper nor code says
them. Body position keeps its code (``captions.facts.POSITIONS``, -1 unknown).
"""

from data_pipelines.recipes import Recipe, Row
from data_pipelines.signals.modalities import make_modalities

TOKEN_S = 30  # a token is an AASM epoch
VERSION = 1
RATE_HZ = 64

BREATH, EYE_OR_BRAIN = (0.05, 5.0), (0.3, 31.0)
ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        Row("ecg", RATE_HZ, ("ecg",), "waveform", (0.5, 31.0), unit="uV"),
        Row("resp_abd", RATE_HZ, ("resp_abd",), "waveform", BREATH),
        Row("resp_thx", RATE_HZ, ("resp_thx",), "waveform", BREATH),
        Row("airflow", RATE_HZ, ("airflow", "nasal_pressure"), "waveform", BREATH),
        Row("eog_e1", RATE_HZ, ("eog_e1",), "waveform", EYE_OR_BRAIN, unit="uV"),
        Row("eog_e2", RATE_HZ, ("eog_e2",), "waveform", EYE_OR_BRAIN, unit="uV"),
        Row("eeg_c3", RATE_HZ, ("eeg_c3",), "waveform", EYE_OR_BRAIN, unit="uV"),
        Row("eeg_c4", RATE_HZ, ("eeg_c4",), "waveform", EYE_OR_BRAIN, unit="uV"),
        Row("emg_chin", RATE_HZ, ("emg_chin",), "waveform", (10.0, 31.0), unit="uV"),
    )
}
TEN = tuple(ROWS)
TWELVE = TEN
RECIPE = Recipe(
    name="sleeplm",
    version=VERSION,
    token_s=TOKEN_S,
    rows=ROWS,
    sets={"ten": TEN, "twelve": TWELVE},
    make=make_modalities,
    provenance={"normalisation": "z/1"},
    stand_ins=False,
)
