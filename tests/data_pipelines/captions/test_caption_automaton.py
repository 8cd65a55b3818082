"""The automaton of captions: what it accepts, what it refuses, and that all its paths are read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spoken_facts import FULL, facts

from data_pipelines.captions.automaton import MIN_ROOM, advance, allowed, automaton
from data_pipelines.captions.facts import MODALITIES
from data_pipelines.captions.grammar import render
from data_pipelines.captions.parse import parse
from data_pipelines.captions.vocabulary import closed

WORDS = closed()


@settings(max_examples=20, deadline=None)
@given(facts(), st.integers(0, 10_000), st.booleans())
def test_every_caption_is_accepted_by_its_own_modality_alone(facts, epoch, trains):
    mode = "train" if trains else "reference"
    for modality in MODALITIES:
        text = str(render(facts, modality, recording="r", epoch=epoch, mode=mode))
        assert automaton(modality).accepts(text), text
        assert not automaton(MODALITIES[MODALITIES.index(modality) - 1]).accepts(text)
        assert not automaton(modality).accepts(text[:-1])


@pytest.mark.parametrize("modality", MODALITIES)
def test_random_paths_end_in_time_in_captions_that_are_read_whole(modality):
    machine, draws = automaton(modality), np.random.default_rng(0)
    room = draws.integers(MIN_ROOM, 200, 48)
    room[:16] = MIN_ROOM
    state, path = machine.start(48), []
    for step in range(200):
        words = allowed(machine.tables, state, np.maximum(room - step, 1))
        assert words.any(-1).all()  # there is always a way on
        # By a draw for each word, so that all that may follow are as likely.
        word = np.where(words, draws.random(words.shape), -1).argmax(-1).astype(np.int32)
        path.append(word)
        state = advance(machine.tables, state, word)
    for ids, most in zip(np.stack(path, 1), room):
        assert WORDS.eot in ids[:most]
        caption = WORDS.decode(ids)
        assert not parse(caption).unread, caption
        assert machine.accepts(caption)


@pytest.mark.parametrize(
    ("modality", "right", "wrong"),
    [
        ("stage_event", "Arousal: 3.0 to 4.0 s.", "Arousal: 4.0 to 3.0 s."),
        ("stage_event", "Arousal: 3.0 to 3.1 s.", "Arousal: 3.0 to 3.0 s."),
        ("stage_event", "Arousal: 29.9 to 30.0 s.", "Arousal: 30.0 to 30.0 s."),
        ("stage_event", "Arousal: 3.0 to 30.0 s.", "Arousal: 3.0 to 30.1 s."),
        ("stage_event", "Arousal: 3.0 to 4.0 s.", "Arousal: 03.0 to 4.0 s."),
        ("stage_event", "Arousal: 3.0 to 4.0 s.", "Arousal: 3.00 to 4.0 s."),
        ("stage_event", "Arousal: 3.0 to 4.0 s.", "Arousal: 3 to 4.0 s."),
        (
            "stage_event",
            "Arousal: 3.0 to 9.0 s. Snore: 3.0 to 4.0 s.",
            "Arousal: 3.0 to 9.0 s. Snore: 2.9 to 4.0 s.",
        ),
        (
            "stage_event",
            "Arousal: 3.0 to 9.0 s. Sleep stage: stage N1.",
            "Arousal: 3.0 to 9.0 s. No scored event.",
        ),
        (
            "stage_event",
            "No scored event while awake. Sleep stage: stage W.",
            "No scored event while awake. Sleep stage: stage N2.",
        ),
        ("stage_event", "No scored event.", "No scored event while awake."),
        ("stage_event", "Sleep stage: wake.", "Sleep stage: wake. Sleep stage: wake."),
        ("brain", "EEG C3: delta share of 100.00%.", "EEG C3: delta share of 100.01%."),
        ("brain", "EEG C3: delta share of about 7%.", "EEG C3: delta share of 7%."),
        ("brain", "EEG C3: delta share of 9.99%.", "EEG C3: delta share of 9.999%."),
        (
            "brain",
            "EEG C3: delta share of 9.99% and beta share of 0.00%.",
            "EEG C3: beta share of 0.00% and delta share of 9.99%.",
        ),
        (
            "brain",
            "EEG C4: delta share of 9.99%. EEG C3: delta share of 9.99%.",
            "EEG C3: delta share of 9.99%. EEG C3: beta share of 9.99%.",
        ),
        ("brain", "No usable EEG or EOG signal.", ""),
        (
            "heart",
            "Trends of SpO2: steady trend from 1.0 to 9.0 s, steady trend from 2.0 to 3.0 s. "
            "Trends of heart rate: steady trend from 0.0 to 9.0 s.",
            "Trends of SpO2: steady trend from 2.0 to 9.0 s, steady trend from 1.0 to 3.0 s.",
        ),
        (
            "respiratory",
            "Airflow: breath rate of 999.99 bpm.",
            "Airflow: breath rate of 1000.00 bpm.",
        ),
        (
            "respiratory",
            "Airflow: breath rate of 9.00 bpm.",
            "Airflow: breath rate of about 9 bpm.",
        ),
        (
            "position_muscle",
            "Posture: in an unknown position, then prone from 30.0 s.",
            "Posture: in an unknown position.",
        ),
    ],
)
def test_one_change_makes_a_caption_none(modality, right, wrong):
    assert automaton(modality).accepts(right)
    assert not automaton(modality).accepts(wrong)


def test_tables_are_small_and_work_within_a_compiled_program():
    machines = [automaton(modality) for modality in MODALITIES]
    assert sum(t.nbytes for machine in machines for t in machine.tables.values()) < 10e6
    machine = automaton("stage_event")
    text = str(render(FULL, "stage_event", recording="r", epoch=0))
    ids = np.array([*WORDS.ids(text), WORDS.eot, WORDS.pad], np.int32)

    @jax.jit
    def run(tables, state, ids):
        def step(state, word):
            words = allowed(tables, state)
            return advance(tables, state, jnp.full(2, word)), (words, state)

        return jax.lax.scan(step, state, ids)[1]

    tables = {name: jnp.asarray(table) for name, table in machine.tables.items()}
    words, states = run(tables, jnp.asarray(machine.start(2)), jnp.asarray(ids))
    state = machine.start(2)
    for place, word in enumerate(ids):
        np.testing.assert_array_equal(states[place], state)
        np.testing.assert_array_equal(words[place], allowed(machine.tables, state))
        assert words[place][:, word].all()
        state = advance(machine.tables, state, np.full(2, word))
