"""The surprise of a recording: how unexpected each token was to a model that predicts tokens.

Statistics of it are features of their own: a stretch that is hard to predict, such as the beats of
atrial fibrillation to a model that has learnt rhythm, has a high mean without any label.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from data_pipelines.store import EPOCH_S
from hypnos_jax.objectives import Surprise

MEASURES = ("nll", "entropy")
PERCENTILES = (50, 75, 90, 97)
STATISTICS = ("mean", "sd", *(f"p{percent}" for percent in PERCENTILES))


def column_names(groups: Sequence[str]) -> list[str]:
    """Return ``nll``, ``entropy``, and of a further group of levels ``timing_nll`` and so on."""
    heads = ("" if group == "all" else f"{group}_" for group in groups)
    return [f"{head}{measure}" for head in heads for measure in MEASURES]


def columns(surprise: Surprise) -> np.ndarray:
    """Return float32 [..., C] of a surprise [..., G], in the order of ``column_names``."""
    both = np.stack([np.asarray(surprise.nll), np.asarray(surprise.entropy)], axis=-1)
    return both.reshape(*both.shape[:-2], both.shape[-2] * len(MEASURES)).astype(np.float32)


def by_epoch(values: np.ndarray) -> np.ndarray:
    """Return [E, 30, ...], the whole 30-s epochs of [S, ...]; the rest is cut."""
    count = len(values) // EPOCH_S
    return values[: count * EPOCH_S].reshape(count, EPOCH_S, *values.shape[1:])


def statistics(values: np.ndarray) -> np.ndarray:
    """Return mean, standard deviation and percentiles over time, those of a column together.

    Args:
        values: float32 [..., S, C], NaN where nothing is known.

    Returns:
        float32 [..., C x 6], NaN where a column has no value.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # columns without a value
        found = [np.nanmean(values, axis=-2), np.nanstd(values, axis=-2)]
        found += list(np.nanpercentile(values, PERCENTILES, axis=-2))
    found = np.stack(found, axis=-1)
    return found.reshape(*found.shape[:-2], found.shape[-2] * len(STATISTICS)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class RecordingSurprise:
    """The surprise of one recording, second by second.

    Attributes:
        columns: names of C: ``nll`` and ``entropy`` (nats), all levels of a token together, and
            the same of further groups of levels, such as ``timing_nll``.
        modalities: those present, name -> float32 [S, C]; NaN in seconds without signal, and in
            columns of levels that the modality does not have.
    """

    columns: list[str]
    modalities: dict[str, np.ndarray]

    @property
    def statistics(self) -> list[str]:
        """Names of the statistics of all columns, such as ``nll_mean``."""
        return [f"{column}_{name}" for column in self.columns for name in STATISTICS]

    def by_epoch(self) -> dict[str, np.ndarray]:
        """Return name -> statistics of each whole 30-s epoch, float32 [E, C x 6]."""
        return {name: statistics(by_epoch(x)) for name, x in self.modalities.items()}

    def whole(self) -> dict[str, np.ndarray]:
        """Return name -> statistics of the recording, float32 [C x 6]."""
        return {name: statistics(x) for name, x in self.modalities.items()}

    def table(self, unit: str, names: Sequence[str]) -> np.ndarray:
        """Return the features of some modalities side by side, NaN where one is absent.

        Args:
            unit: ``"row"``: the columns of each second; ``"epoch"`` or ``"recording"``: statistics.
            names: of the modalities, in order.

        Returns:
            float32 [N, F].
        """
        found: Mapping[str, np.ndarray] = {
            "row": lambda: self.modalities,
            "epoch": self.by_epoch,
            "recording": lambda: {name: x[None] for name, x in self.whole().items()},
        }[unit]()
        absent = np.full_like(next(iter(found.values())), np.nan)
        return np.concatenate([found.get(name, absent) for name in names], axis=1)

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield what a file holds of it, by the names of its arrays."""
        yield "surprise_columns", np.array(self.columns)
        yield "surprise_statistics", np.array(self.statistics)
        for head, found in (
            ("surprise", self.modalities),
            ("surprise_epochs", self.by_epoch()),
            ("surprise_recording", self.whole()),
        ):
            for name, values in found.items():
                yield f"{head}/{name}", values
