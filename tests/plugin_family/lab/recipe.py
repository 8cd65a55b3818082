"""The signals that the family reads: one EEG, one EOG and the chin at 32 Hz, in tokens of 5 s."""

from data_pipelines.recipes import Recipe, Row
from data_pipelines.signals.modalities import make_modalities

TOKEN_S = 5
VERSION = 1


def _wave(name, made_of, band_hz):
    return Row(name, 32, made_of, "waveform", band_hz, unit="uV")


ROWS = {
    row.name: row
    for row in (
        _wave("eeg", ("eeg_c3", "eeg_c4", "eeg_fpz_cz"), (0.3, 15.0)),
        _wave("eog", ("eog_e1", "eog_e2", "eog_horizontal"), (0.3, 15.0)),
        _wave("emg", ("emg_chin",), (10.0, None)),
    )
}
RECIPE = Recipe(
    name="lab.recipe",
    version=VERSION,
    token_s=TOKEN_S,
    rows=ROWS,
    sets={"three": tuple(ROWS)},
    make=make_modalities,
)
