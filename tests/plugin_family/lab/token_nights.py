"""Windows of 5-s tokens of a store of ``lab.recipe``: every token of every night once an epoch."""

import tempfile

import numpy as np

from data_pipelines.builders.folder import find_recordings
from data_pipelines.builders.night_builder import write_store
from data_pipelines.builders.recording_night import PrepareRecording
from data_pipelines.pipeline import EmptySplitError, PipelineError, Source, contents
from data_pipelines.recipes import recipe_of_store
from data_pipelines.recordings.base import RecordingError
from data_pipelines.synthetic import write_cohort
from lab.recipe import RECIPE, ROWS, TOKEN_S

WINDOW_TOKENS = 24


def open_source(store, *, split, seed, window_tokens=WINDOW_TOKENS, threads=None):
    """Open a split; ``window_tokens`` is the length of a window."""
    if store.kind != "signals" or recipe_of_store(store).name != RECIPE.name:
        raise PipelineError(f"{store.path} was not prepared with --recipe={RECIPE.name}")
    nights = [night for night in store.select(split) if night.duration_s >= TOKEN_S]
    if not nights:
        raise EmptySplitError(f"no night of {TOKEN_S} s in split {split!r}: {contents(store)}")
    return TokenNights(store, nights, window_tokens, seed=seed, threads=threads)


class TokenNights(Source):
    """Batches of windows; see the module."""

    token_s = TOKEN_S

    def __init__(self, store, nights, length, *, seed, threads):
        self._windows = [
            (night, start)
            for night in nights
            for start in range(0, night.duration_s // TOKEN_S, length)
        ]
        self._length, self._number = length, {n.recording: i for i, n in enumerate(store.nights)}
        ones, about = [1] * len(self._windows), describe_paper()
        super().__init__(store, ones, 1, self._read_windows, about, seed=seed, threads=threads)

    def _read_windows(self, chosen, _):
        rows = [self._row(*self._windows[window]) for window in chosen]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    def _row(self, night, start):
        tokens = min(self._length, night.duration_s // TOKEN_S - start)
        at = start * TOKEN_S, (start + tokens) * TOKEN_S
        read = lambda name: (
            self.store.signal(night, name, *at),
            self.store.valid(night, name, *at),
        )
        batch = _window({name: read(name) for name in night.channels}, self._length)
        number = {"night": self._number[night.recording], "start": start}
        return {**batch, **{name: np.full(1, value, np.int32) for name, value in number.items()}}


def _window(signals, length):
    """A batch of one window of name -> (samples, valid seconds)."""
    batch = {
        name: np.zeros([1, *(length if n == "T" else n for n in shape)], dtype)
        for name, (dtype, *shape) in embed_shapes(describe_paper()["modalities"]).items()
    }
    for m, name in enumerate(ROWS):
        if name in signals:
            samples, seconds = signals[name]
            tokens = len(seconds) // TOKEN_S
            batch[f"signal/{name}"][0, :tokens] = samples.reshape(tokens, -1)
            batch["valid"][0, :tokens, m] = seconds.reshape(tokens, -1).mean(1) >= 0.5
            batch["present"][0, m] = True
    batch["weight"][0] = batch["valid"].any()
    return batch


def shapes(data, objective):
    """Return name -> (dtype, *shape of a row) of the batches of a config."""
    length, number = data["window_tokens"], {"night": (np.int32,), "start": (np.int32,)}
    reads = embed_shapes(objective["model"]["modalities"])
    return number | {
        name: (np.dtype(dtype), *(length if n == "T" else n for n in shape))
        for name, (dtype, *shape) in reads.items()
    }


def describe_paper():
    """Return what any store of the recipe describes."""
    rows = [{"name": r.name, "rate_hz": r.rate_hz, "frames": 5 * r.rate_hz} for r in ROWS.values()]
    return {"modalities": rows}


def tiny():
    """The options by which least of the tiny store is read."""
    return {"window_tokens": 8}


def write_tiny(folder, seed):
    """Write a tiny store of simulated recordings."""
    with tempfile.TemporaryDirectory() as recordings:
        write_cohort(recordings, 4, seed, 0.1)
        items, _ = find_recordings(recordings)
        make, about = PrepareRecording(RECIPE, tuple(ROWS)), {"synthetic": "lab", "seed": seed}
        given = {"items": items, "make_night": make, "provenance": about, "progress": False}
        write_store(folder, kind="signals", recipe=RECIPE.identity, **given)


def whole_nights(data):
    """Return the options under which evaluation batches hold every token of every night once."""
    return {"name": "lab.token_nights", **{k: data[k] for k in ("path", "window_tokens")}}


def window_tokens(data):
    """Return how many tokens ``embed`` sees at once."""
    return data.get("window_tokens", WINDOW_TOKENS)


def embed_shapes(modalities):
    """Return name -> (dtype, *shape of a row) of what ``embed`` reads, ``"T"`` being its tokens."""
    return {
        **{f"signal/{row['name']}": ("float32", "T", row["frames"]) for row in modalities},
        "valid": ("bool", "T", len(modalities)),
        "present": ("bool", len(modalities)),
        "weight": ("float32",),
    }


def recording_batches(signals, *, data, modalities):
    """Yield the windows of one recording in memory, a row a batch."""
    own = {name: signals[name] for name in ROWS if name in signals}
    tokens = min((len(x.valid) // TOKEN_S for x in own.values()), default=0)
    if not tokens:
        raise RecordingError(f"no token of {TOKEN_S} s of any of {list(ROWS)}")
    for start in range(0, tokens, window_tokens(data)):
        stop = min(start + window_tokens(data), tokens)
        cut = lambda x, rate, at=slice(start, stop): x[at.start * 5 * rate : at.stop * 5 * rate]
        pieces = {n: (cut(x.samples, x.rate_hz), cut(x.valid, 1)) for n, x in own.items()}
        tokens_here = np.full(1, stop - start, np.int32)
        yield {**_window(pieces, window_tokens(data)), "tokens": tokens_here}
