"""Simulated nights of sleep: written as EDF+ recordings with scoring, or as tiny stores.

What this is: a structured imitation of polysomnography, so that the whole program can be tried
and tested from files like a user's. Stages come from a semi-Markov chain counted on scored nights
(``stages``) or from label files; one plan of events per night (``plan``) drives EEG, EOG and chin
(``brain``), breathing, oxygen and heart (``body``); invented laboratories (``sites``) label,
scale and spoil the signals. Every number that is not ours names its publication where it stands.

What it is not: data. It holds what its tables say and nothing that nobody put in: no artefact,
rhythm or disease beyond those named, no correlation between people but age and sex. Stages are
easier or harder to tell than in people by choice of the tables. A score on simulated nights says
that the program works; it is no evidence about sleep, patients or the quality of a model.

Seeded: the same call gives the same bytes with the same versions of numpy and scipy on one kind of
processor; no clock, no hash order, no number of processes enters.
"""

from data_pipelines.synthetic.cohort import CohortError, plan_cohort, write_cohort
from data_pipelines.synthetic.night import SimulatedNight, simulate_night
from data_pipelines.synthetic.subjects import Subject, draw_subject
from data_pipelines.synthetic.tiny import (
    tiny_modalities,
    write_tiny_modalities,
    write_tiny_nights,
    write_tiny_tokens,
)

__all__ = [
    "CohortError",
    "SimulatedNight",
    "Subject",
    "draw_subject",
    "plan_cohort",
    "simulate_night",
    "tiny_modalities",
    "write_cohort",
    "write_tiny_modalities",
    "write_tiny_nights",
    "write_tiny_tokens",
]
