"""A night's scoring on the grid of tokens: a stage a token, apneas and arousals a second.

The layout is that of the official repository of sleep2vec (arXiv 2602.13857): ``stage5``,
``ah_event`` (1 Hz), ``arousal_event`` (1 Hz, four types in the order RES, SPONT, Limb, PLM).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from data_pipelines.recipes.sleep2vec import TOKEN_S
from data_pipelines.store import NightEntry, NightStore

APNEAS = ("apnea_obstructive", "apnea_central", "apnea_mixed", "hypopnea", "apnea_hypopnea")
AROUSALS = ("respiratory", "spontaneous", "leg_movement", "periodic_leg_movement")
UNKNOWN = -1


@dataclasses.dataclass(frozen=True)
class TokenLabels:
    """Labels of the whole tokens of a night; -1 where nobody scored.

    Attributes:
        stage: int8 ``[N]``, 0 W, 1 N1, 2 N2, 3 N3, 4 R.
        apnea: int8 ``[N, 30]``, whether half of the second or more is in an apnea or hypopnea.
        arousal: int8 ``[N, 30, 4]``, likewise for arousals by their cause (``AROUSALS``). One whose
            cause the scoring does not tell counts for all four.
    """

    stage: np.ndarray
    apnea: np.ndarray
    arousal: np.ndarray

    @classmethod
    def of(cls, store: NightStore, night: NightEntry) -> TokenLabels:
        """Read the labels of a night.

        Events are unknown where ``metadata["events_scored"]`` does not say that somebody looked
        for them: ``True``, or a list of ``"apnea"`` and ``"arousal"``. A second of which the
        scoring says only that the epoch has an event is unknown too.
        """
        line, count = store.scoring_line(night), night.duration_s // TOKEN_S
        stages = ["W123R".find(letter) for letter in line["stages"][:count]]
        stage = np.full(count, UNKNOWN, np.int8)
        stage[: len(stages)] = stages
        scored = night.metadata.get("events_scored") or ()
        scored = ("apnea", "arousal") if scored is True else scored
        apnea = np.full(count * TOKEN_S, 0 if "apnea" in scored else UNKNOWN, np.int8)
        arousal = np.full((count * TOKEN_S, 4), 0 if "arousal" in scored else UNKNOWN, np.int8)
        # What is known of a second outweighs what is only known of its epoch.
        events = sorted(line["events"], key=lambda event: event[3] != "epoch")
        causes = {cause: (at,) for at, cause in enumerate(AROUSALS)}
        for kind, onset_s, duration_s, value in events:
            start, stop = (max(0, round(at)) for at in (onset_s, onset_s + duration_s))
            mark = UNKNOWN if value == "epoch" else 1
            if kind in APNEAS and "apnea" in scored:
                apnea[start:stop] = mark
            elif kind == "arousal" and "arousal" in scored:
                arousal[start:stop, causes.get(value, (0, 1, 2, 3))] = mark
        return cls(stage, apnea.reshape(count, TOKEN_S), arousal.reshape(count, TOKEN_S, 4))
