"""Tiny stores on the spot, so that every config can be tried without any data."""

import pathlib

import numpy as np

from data_pipelines.builders.night_builder import write_store
from data_pipelines.recipes import find_recipe, hypnos
from data_pipelines.scoring import Event
from data_pipelines.signals.causal import amplitude_tracks, preprocess_channel
from data_pipelines.signals.modalities import LEVELS
from data_pipelines.store import EPOCH_S, ChannelSignal, Night, TokenNight
from data_pipelines.synthetic.night import simulate_night
from data_pipelines.synthetic.subjects import draw_subject, stream

_SPLITS = ("train", "train", "train", "validation", "train", "train", "test", "train")


def tiny_modalities(levels: int = 4, codes: int = 64) -> list[dict]:
    """The eight modalities of Hypnos as a token store names them, all of one shape."""
    return [
        {
            "name": name,
            "levels": levels,
            "codes": codes,
            "channel_id": hypnos.ROWS[name].id,
            "signal_type": hypnos.ROWS[name].signal_type,
        }
        for name in hypnos.EIGHT
    ]


def write_tiny_nights(folder, seed: int = 0, *, nights: int = 8, minutes: float = 6.0) -> None:
    """Write a small store of simulated, preprocessed nights: the trial input of signal models.

    Args:
        folder: The store to write.
        seed: Another seed is other people.
        nights: Recordings; their splits go round train (6 of 8), validation and test.
        minutes: Length of a recording, at least 3.5; all stages occur in each.
    """

    def make_night(index):
        subject = draw_subject(seed, index, name=f"tiny-{seed}-{index:03d}")
        made = simulate_night(seed, minutes / 60, subject=subject, channels=hypnos.EIGHT)
        channels = {
            name: preprocess_channel(
                made.signals[name], made.rates[name], hypnos.ROWS[name], mains_hz=None
            )
            for name in hypnos.EIGHT
        }
        return Night(
            recording=subject.name,
            subject=subject.name,
            split=_SPLITS[index % len(_SPLITS)],
            channels=channels,
            stages=made.scoring.stages,
            events=made.scoring.events,
            metadata={"age": subject.age, "sex": subject.sex, "site": "tiny"},
        )

    write_store(
        pathlib.Path(folder),
        kind="signals",
        items={f"tiny-{seed}-{i:03d}": i for i in range(nights)},
        make_night=make_night,
        provenance={"synthetic": "tiny nights", "seed": seed},
        recipe=hypnos.RECIPE.identity,
        progress=False,
    )


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
        recipe=hypnos.RECIPE.identity,
        progress=False,
    )


def write_tiny_modalities(
    folder,
    seed: int = 0,
    *,
    nights: int = 8,
    tokens: int = 48,
    names: tuple[str, ...] = (),
    recipe: str = "sleep2vec",
) -> None:
    """Write a small store of modalities that share a latent state: the trial input of towers.

    A token of a night has six latent numbers, which wander from token to token. In every modality
    they are the amplitudes of six sinusoids of its own frequencies, under noise as strong as they
    are: what two modalities have in common can be learnt, and nothing else is there. The first
    of the numbers, cut in five, is the stage; where the second is high there are apneas (the fifth
    is positive) or hypopneas, and arousals where the third is; the fourth tends to be higher in
    people with the one outcome there is, "marked". People have one night or two, sites are two, and
    age, sex, site, a modality and half a minute of another are missing somewhere.

    Args:
        folder: The store to write.
        seed: Another seed is other people.
        nights: Recordings; their splits go round train (6 of 8), validation and test.
        tokens: Of 30 s each in a night.
        names: Modalities; the recipe's own choice by default.
        recipe: Whose modalities, of tokens of 30 s.
    """
    made_by = find_recipe(recipe)
    names = names or made_by.wanted()
    people = (0, 0, 1, 2, 1, 3, 4, 5)  # of eight nights; whose nights are two are in one split

    def make_night(index):
        person, rng = people[index % 8] + 6 * (index // 8), stream(seed, "modalities", index)
        latent = np.zeros((tokens, 6))
        for at in range(tokens):
            before = latent[at - 1] if at else rng.standard_normal(6)
            latent[at] = 0.8 * before + 0.6 * rng.standard_normal(6)
        latent[:, 3] += person % 2
        metadata = {"age": 25 + 9 * person, "sex": "FM"[person % 2], "site": "AB"[person % 3 == 0]}
        metadata["events_scored"] = True
        metadata["outcomes"] = {"marked": person % 2}
        metadata["survival"] = {"marked": [10.0 - 5 * (person % 2) + 0.1 * person, person % 2]}
        metadata.pop({2: "age", 3: "sex", 4: "site"}.get(person, ""), None)
        channels = {
            name: _sinusoids(made_by.rows[name], latent, stream(seed, "modalities", index, name))
            for name in names
            if not (name == names[-1] and len(names) > 1 and index % 8 == 4)
        }
        if index % 8 == 1:
            lost = channels[names[0]]
            lost.valid[30:60] = False
            lost.samples[30 * lost.rate_hz : 60 * lost.rate_hz] = 0
        return Night(
            recording=f"tiny-{seed}-{index:03d}",
            subject=f"tiny-{seed}-person-{person}",
            split=_SPLITS[index % len(_SPLITS)],
            channels=channels,
            stages=np.digitize(latent[:, 0], (-0.8, -0.25, 0.25, 0.8)).astype(np.int8),
            events=[
                Event(kind, at * EPOCH_S + 4.0, length_s)
                for kind, where, length_s in (
                    ("apnea_obstructive", (latent[:, 1] > 1) & (latent[:, 4] > 0), 15.0),
                    ("hypopnea", (latent[:, 1] > 1) & (latent[:, 4] <= 0), 15.0),
                    ("arousal", latent[:, 2] > 1, 5.0),
                )
                for at in np.flatnonzero(where).tolist()
            ],
            metadata=metadata,
            qc={"scaling": {name: _scaling(made_by.rows[name]) for name in channels}},
        )

    write_store(
        pathlib.Path(folder),
        kind="signals",
        items={f"tiny-{seed}-{i:03d}": i for i in range(nights)},
        make_night=make_night,
        provenance={
            "synthetic": "tiny modalities",
            "seed": seed,
            **made_by.provenance,
        },
        recipe=made_by.identity,
        progress=False,
    )


def _sinusoids(modality, latent, rng):
    """A modality as amplitudes of sinusoids under noise, scaled as prepared ones are.

    One of codes follows the last of the latent numbers.
    """
    rate, tokens = modality.rate_hz, len(latent)
    if modality.scaling == "code":
        codes = np.digitize(latent[:, -1], (-1.0, 0.0, 1.0)).astype(np.float32)
        return _signal(modality, np.repeat(codes, modality.frames), tokens)
    # Whole cycles a second, or a token: the same amplitudes give the same token.
    highest = min(12.0, rate / 3)
    frequencies = np.linspace(0.1, 1.0, 6) * highest
    at = np.arange(modality.frames) / rate
    waves = np.sin(2 * np.pi * np.round(frequencies * EPOCH_S) / EPOCH_S * at[:, None])
    samples = latent @ waves.T / np.sqrt(3)
    samples = (samples + rng.standard_normal(samples.shape)) / np.sqrt(2)
    return _signal(modality, samples.astype(np.float32).reshape(-1), tokens)


def _signal(modality, samples, tokens):
    seconds = tokens * EPOCH_S
    spare = EPOCH_S * modality.rate_hz - modality.frames  # of series, whose tokens are filled up
    samples = np.pad(samples.reshape(tokens, -1), ((0, 0), (0, spare))).reshape(-1)
    tracks, _ = amplitude_tracks(samples.reshape(seconds, modality.rate_hz), np.ones(seconds, bool))
    return ChannelSignal(modality.name, modality.rate_hz, samples, np.ones(seconds, bool), tracks)


def _scaling(modality):
    """Centre and scale that give a modality an amplitude in its unit, as ``qc`` says them."""
    if modality.scaling == "fixed" and modality.made_of[0] in LEVELS:
        return [*LEVELS[modality.made_of[0]][1:]]
    return [0.0, 20.0 if modality.unit == "uV" else 1.0]


class _Language:
    """Tables from the hidden state to the codes of each modality, and nights drawn from them."""

    STAGES, PHASES = 5, 6

    def __init__(self, seed, modalities):
        rng = stream(seed, "language")
        self.seed, self.modalities = seed, modalities
        states = self.STAGES * self.PHASES
        self.first = [rng.integers(m["codes"], size=states) for m in modalities]
        self.deeper = [
            rng.integers(m["codes"], size=(m["levels"], states, m["codes"])) for m in modalities
        ]

    def night(self, recording, index, duration_s):
        rng = stream(self.seed, "tokens", index)
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
