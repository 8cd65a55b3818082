"""Tiny stores on the spot, so that every config can be tried without any data."""

import pathlib

import numpy as np

from data_pipelines.builders.night_builder import write_store
from data_pipelines.store import TokenNight

_MODALITIES = (
    ("eeg_c3", "eeg"),
    ("eeg_c4", "eeg"),
    ("eog_e1", "eog"),
    ("eog_e2", "eog"),
    ("emg_chin", "emg"),
    ("ecg", "ecg"),
    ("resp_abd", "resp"),
    ("resp_thx", "resp"),
)
_SPLITS = ("train", "train", "train", "validation", "train", "train", "test", "train")


def tiny_modalities(levels: int = 4, codes: int = 64) -> list[dict]:
    """The eight modalities of Hypnos as a token store names them, all of one shape."""
    return [
        {"name": name, "levels": levels, "codes": codes, "channel_id": i, "signal_type": kind}
        for i, (name, kind) in enumerate(_MODALITIES)
    ]


def write_tiny_tokens(
    folder,
    seed: int = 0,
    modalities: list[dict] | None = None,
    *,
    nights: int = 8,
    duration_s: int = 900,
) -> None:
    """Write a small token store whose codes can be learnt: the trial input of token models.

    A hidden Markov chain walks the stages and, within a stage, a cycle of states; every modality's
    first code is its own table of that state with probability 0.85 and random otherwise, and every
    deeper code is a table of the one before it and the state. So a model gains from the past, from
    the other modalities and from the levels above. Nothing here was measured on a sleeper.

    Args:
        folder: The store to write.
        seed: Another seed is another language and other nights.
        modalities: ``{name, levels, codes, channel_id, signal_type}`` each; by default the eight
            of Hypnos with 4 levels of 64 codes.
        nights: Recordings; their splits go round train (6 of 8), validation and test.
        duration_s: Seconds of a recording.
    """
    modalities = modalities or tiny_modalities()
    items = {f"tiny-{seed}-{i:03d}": i for i in range(nights)}
    language = _Language(seed, modalities)
    write_store(
        pathlib.Path(folder),
        kind="tokens",
        items=items,
        make_night=lambda i: language.night(f"tiny-{seed}-{i:03d}", i, duration_s),
        modalities=modalities,
        provenance={"synthetic": "tiny tokens", "seed": seed},
        progress=False,
    )


class _Language:
    """Tables from the hidden state to the codes of each modality, and nights drawn from them."""

    STAGES, PHASES = 5, 6

    def __init__(self, seed, modalities):
        rng = np.random.default_rng([seed, 1])
        self.seed, self.modalities = seed, modalities
        states = self.STAGES * self.PHASES
        self.first = [rng.integers(m["codes"], size=states) for m in modalities]
        self.deeper = [
            rng.integers(m["codes"], size=(m["levels"], states, m["codes"])) for m in modalities
        ]

    def night(self, recording, index, duration_s):
        rng = np.random.default_rng([self.seed, 2, index])
        epochs = duration_s // 30
        stages = np.zeros(epochs, np.int8)
        for e in range(1, epochs):
            step = rng.random() < 0.25
            stages[e] = rng.integers(self.STAGES) if step else stages[e - 1]
        steps = 1 + (rng.random(duration_s) < 0.1)
        per_second = np.repeat(stages, 30)
        per_second = np.pad(per_second, (0, duration_s - len(per_second)), mode="edge")
        state = per_second * self.PHASES + np.cumsum(steps) % self.PHASES
        present = np.array([i == 0 or rng.random() > 0.1 for i in range(len(self.modalities))])
        codes = [self._codes(rng, m, state) * present[m] for m in range(len(self.modalities))]
        valid = np.repeat(present[None], duration_s, axis=0)
        tracks = rng.standard_normal((duration_s, len(present), 2)) * 0.1 + [0.0, 2.0]
        return TokenNight(
            recording=recording,
            subject=recording,
            split=_SPLITS[index % len(_SPLITS)],
            codes=np.concatenate(codes, axis=1).astype(np.uint16),
            present=present,
            valid=valid,
            tracks=(tracks * valid[..., None]).astype(np.float32),
            stages=stages,
        )

    def _codes(self, rng, m, state):
        size, levels = self.modalities[m]["codes"], self.modalities[m]["levels"]
        code, columns = self.first[m][state], []
        for level in range(levels):
            if level:
                code = self.deeper[m][level, state, code]
            noise = rng.random(len(state)) < 0.15
            code = np.where(noise, rng.integers(size, size=len(state)), code)
            columns.append(code)
        return np.stack(columns, axis=1)
