"""The modalities of sleep2vec (arXiv 2602.13857): names, keys, rates, what each is made of.

Only data lives here; :mod:`data_pipelines.recipes.modalities` makes them. Rates and keys are those
of the official repository; which channels come first, the bands and the scales are inferred, as
neither paper nor code says them.
"""

import dataclasses

TOKEN_S = 30  # a token is an AASM epoch
# In the manifest's provenance; another number where the same recording gives other signals.
VERSION = "sleep2vec/1"
NORMALISATION = "robust_z/1"
AS_GIVEN = "none"  # of imported files, whose scaling was done upstream


@dataclasses.dataclass(frozen=True)
class Modality:
    """A modality.

    Attributes:
        name: In stores, configs and batches.
        keys: In the official NPZ files; the first is written, all are read.
        rate_hz: Samples per second.
        channels: Canonical channels that it can be made of, best first.
        made: Function of :mod:`data_pipelines.recipes.modalities`.
        band_hz: Of its zero-phase band-pass; None leaves that side open.
    """

    name: str
    keys: tuple[str, ...]
    rate_hz: int
    channels: tuple[str, ...]
    made: str = "waveform"
    band_hz: tuple[float | None, float | None] = (None, None)

    @property
    def frames(self) -> int:
        """Samples of a token."""
        return TOKEN_S * self.rate_hz


_EEG = (
    *("eeg_c3", "eeg_c4", "eeg_f3", "eeg_f4", "eeg_o1", "eeg_o2"),
    *("eeg_fpz_cz", "eeg_pz_oz"),
)

MODALITIES: dict[str, Modality] = {
    modality.name: modality
    for modality in (
        Modality("ibi", ("heartbeat", "psg_heartbeat"), 4, ("ecg",), "interbeat"),
        # Other sensors than the belt's first: a pair of one sensor with itself teaches nothing.
        Modality(
            "resp",
            ("breath", "psg_breath"),
            4,
            ("resp_thx", "airflow", "nasal_pressure", "resp_abd", "ecg"),
            "breathing",
            (0.05, 0.7),
        ),
        Modality("eeg", ("eeg_original",), 128, _EEG, band_hz=(0.3, 35.0)),
        Modality("ecg", ("ecg_original",), 128, ("ecg",), band_hz=(0.5, 40.0)),
        Modality(
            "eog",
            ("eog_original",),
            128,
            ("eog_e1", "eog_e2", "eog_horizontal"),
            band_hz=(0.3, 35.0),
        ),
        Modality("emg", ("emg_original",), 128, ("emg_chin",), band_hz=(10.0, 60.0)),
        Modality("spo2", ("spo2",), 4, ("spo2",), "saturation"),
        Modality("belt", ("resp_original",), 4, ("resp_abd", "resp_thx"), band_hz=(0.05, None)),
        Modality(
            "airflow",
            ("resp_nasal_original",),
            4,
            ("airflow", "nasal_pressure"),
            band_hz=(0.05, None),
        ),
        Modality("ppg", ("ppg",), 100, ("ppg",), band_hz=(0.1, 30.0)),
        Modality("actigraphy", ("actigraphy",), 32, ("acc_x", "acc_y", "acc_z"), "magnitude"),
    )
}
ELEVEN = tuple(MODALITIES)
NINE = ELEVEN[:9]  # the paper's; the two wearables came with the official repository


def channels_for(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the canonical channels that modalities can be made of, each once."""
    return tuple(dict.fromkeys(channel for n in names for channel in MODALITIES[n].channels))
