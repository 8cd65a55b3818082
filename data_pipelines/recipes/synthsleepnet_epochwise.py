"""The channels of SynthSleepNet, made in the order of the official code: for comparisons.

Every epoch for itself is resampled by FFT, then filtered, so its edges ring; the scaling is over
the night. Beside ``synthsleepnet`` nothing else differs. The official code has no clipping, drops
channels that are no whole number of epochs long, and brings all channels to the highest rate first.
"""

from data_pipelines.recipes import Recipe
from data_pipelines.recipes.synthsleepnet import BANDS, SEVEN, SIX, rows_of
from data_pipelines.signals.modalities import make_modalities

TOKEN_S = 30
VERSION = 1

ROWS = rows_of(SEVEN, BANDS, "fir_epochwise")
RECIPE = Recipe(
    name="synthsleepnet_epochwise",
    version=VERSION,
    token_s=TOKEN_S,
    rows=ROWS,
    sets={"six": SIX, "seven": SEVEN},
    make=make_modalities,
    provenance={"order": "resample, filter by epoch, scale", "normalisation": "robust_iqr/1"},
    stand_ins=False,
)
