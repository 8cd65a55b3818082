"""The channels of Sleep-EDF as SynthSleepNet's models read them: Fpz-Cz, Pz-Oz, horizontal EOG.

0-40 Hz at 100 Hz, the channels and band that its first author's PhysioME (arXiv 2510.11110) uses
there; filtered, resampled and scaled as in the recipe ``synthsleepnet``.
"""

from data_pipelines.recipes import Recipe
from data_pipelines.recipes.synthsleepnet import rows_of
from data_pipelines.signals.modalities import make_modalities

TOKEN_S = 30
VERSION = 1
THREE = ("eeg_fpz_cz", "eeg_pz_oz", "eog_horizontal")

ROWS = rows_of(THREE, dict.fromkeys(("eeg", "eog"), (None, 40.0)), "fir")
RECIPE = Recipe(
    name="sleep_edfx",
    version=VERSION,
    token_s=TOKEN_S,
    rows=ROWS,
    sets={"three": THREE},
    make=make_modalities,
    provenance={"order": "filter, resample, scale", "normalisation": "robust_iqr/1"},
    stand_ins=False,
)
