"""The modalities of sleep2vec (arXiv 2602.13857): names, keys, rates, what each is made of.

Only data lives here; :mod:`data_pipelines.signals.modalities` makes them. Rates and keys are those
of the official repository; which channels come first, the bands and the scales are inferred, as
neither paper nor code says them.
"""

import dataclasses

from data_pipelines.recipes import Recipe, Row
from data_pipelines.signals.modalities import make_modalities

TOKEN_S = 30  # a token is an AASM epoch
VERSION = 1
AS_GIVEN = "none"  # normalisation of imported files, whose scaling was done upstream


@dataclasses.dataclass(frozen=True)
class Modality(Row):
    """A modality; ``keys`` are its names in the official NPZ files: the first is written."""

    keys: tuple[str, ...] = ()


_EEG = (
    *("eeg_c3", "eeg_c4", "eeg_f3", "eeg_f4", "eeg_o1", "eeg_o2"),
    *("eeg_fpz_cz", "eeg_pz_oz"),
)
# Other sensors than the belt's first: a pair of one sensor with itself teaches nothing.
_RESP = ("resp_thx", "airflow", "nasal_pressure", "resp_abd", "ecg")


def _wave(name, key, rate_hz, made_of, band_hz, unit="uV"):
    return Modality(name, rate_hz, made_of, "waveform", band_hz, unit=unit, keys=(key,))


ROWS: dict[str, Modality] = {
    row.name: row
    for row in (
        Modality(
            *("ibi", 4, ("ecg",), "interbeat"),
            scaling="fixed",
            unit="s",
            keys=("heartbeat", "psg_heartbeat"),
        ),
        Modality("resp", 4, _RESP, "breathing", (0.05, 0.7), keys=("breath", "psg_breath")),
        _wave("eeg", "eeg_original", 128, _EEG, (0.3, 35.0)),
        _wave("ecg", "ecg_original", 128, ("ecg",), (0.5, 40.0)),
        _wave("eog", "eog_original", 128, ("eog_e1", "eog_e2", "eog_horizontal"), (0.3, 35.0)),
        _wave("emg", "emg_original", 128, ("emg_chin",), (10.0, 60.0)),
        Modality("spo2", 4, ("spo2",), "level", scaling="fixed", unit="%", keys=("spo2",)),
        _wave("belt", "resp_original", 4, ("resp_abd", "resp_thx"), (0.05, None), ""),
        _wave("airflow", "resp_nasal_original", 4, ("airflow", "nasal_pressure"), (0.05, None), ""),
        _wave("ppg", "ppg", 100, ("ppg",), (0.1, 30.0), ""),
        Modality("actigraphy", 32, ("acc_x", "acc_y", "acc_z"), "magnitude", keys=("actigraphy",)),
    )
}
ELEVEN = tuple(ROWS)
NINE = ELEVEN[:9]  # the paper's; the two wearables came with the official repository

RECIPE = Recipe(
    name="sleep2vec",
    version=VERSION,
    token_s=TOKEN_S,
    rows=ROWS,
    sets={"nine": NINE, "eleven": ELEVEN},
    make=make_modalities,
    # As stores said it before they carried a recipe, so that nights can be added to those.
    provenance={"modalities": f"sleep2vec/{VERSION}", "normalisation": "robust_z/1"},
)
