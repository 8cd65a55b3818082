"""The channels of SynthSleepNet (arXiv 2502.17481): rates, bands, what each is made of.

Bands and the robust scaling are those of the official code; the order is ours: the whole signal is
filtered at its own rate, then resampled, so that no epoch has edges of its own. The official order
is the recipe ``synthsleepnet_epochwise``. Clipping at 20 interquartile ranges is ours too.

A row is made of the one channel that it is named by, and is absent where a recording lacks it:
neither F4 nor Fpz-Cz takes the place of C4, unless an alias file says so. The official parser has
the names C3 and C4 of SHHS exchanged (its ``EEG`` is C4-A1, ``EEG(sec)`` is C3-A2); here each row
is what its name says, also there.
"""

from data_pipelines.recipes import Recipe, Row
from data_pipelines.signals.modalities import make_modalities

TOKEN_S = 30  # a token is an AASM epoch
VERSION = 1
RATE_HZ = 100

# In Hz, of each type of channel.
BANDS = {
    "eeg": (0.5, 40.0),
    "eog": (0.5, 40.0),
    "ecg": (3.0, 30.0),
    "emg": (25.0, 49.0),
    "airflow": (0.05, 1.0),
}
SIX = ("eeg_c4", "eeg_c3", "eog_e1", "eog_e2", "ecg", "emg_chin")
SEVEN = (*SIX, "airflow")  # which the official code stores, and no model of it reads


def rows_of(names: tuple[str, ...], bands: dict, made: str) -> dict[str, Row]:
    """Return rows of one canonical channel each; a name begins with its type, a key of bands."""
    return {
        name: Row(
            name,
            RATE_HZ,
            made_of=(name,),
            made=made,
            band_hz=bands[name.partition("_")[0]],
            scaling="robust_iqr",
            unit="" if name == "airflow" else "uV",
        )
        for name in names
    }


ROWS = rows_of(SEVEN, BANDS, "fir")
RECIPE = Recipe(
    name="synthsleepnet",
    version=VERSION,
    token_s=TOKEN_S,
    rows=ROWS,
    sets={"six": SIX, "seven": SEVEN},
    make=make_modalities,
    provenance={"order": "filter, resample, scale", "normalisation": "robust_iqr/1"},
    stand_ins=False,
)
