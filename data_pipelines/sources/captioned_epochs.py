"""Epochs of 30 s with captions of them, as signals and token ids: for models of sleep in words.

Facts are read from beside the store (``python -m launch.caption_nights``), and text is rendered
when a batch is drawn: each draw of training has other words. Evaluation has the words and the order
of the grammar's ``reference`` mode. Epochs whose stage nobody scored are left out, and counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from data_pipelines.captions import clip_tokenizer
from data_pipelines.captions.facts import MODALITIES, Facts
from data_pipelines.captions.grammar import Caption, render
from data_pipelines.captions.parse import meaning
from data_pipelines.captions.side_file import FactsFile
from data_pipelines.captions.tokenizers import TOKENIZERS
from data_pipelines.captions.vocabulary import Vocabulary
from data_pipelines.labels import stages
from data_pipelines.pipeline import (
    Batch,
    DamagePolicy,
    EmptySplitError,
    PipelineError,
    Source,
    contents,
)
from data_pipelines.recipes import find_recipe
from data_pipelines.shuffle import mix
from data_pipelines.store import DamagedRecordError, NightStore
from data_pipelines.windows import (
    TOKEN_S,
    SubjectMetadata,
    Windows,
    describe,
    fill,
    modalities_of,
)

QUERY = ("stage_event", "brain")  # what is said of an epoch that is sought, one after the other
SINGLE_TEXT = (0.15, 0.15, 0.15, 0.15, 0.4)  # weights of MODALITIES where one text serves both
CONTEXT = 256  # of the published tokenizer's text encoder


def open_source(
    store: NightStore,
    *,
    split: str,
    seed: int,
    modalities: tuple[str, ...] = (),
    sites: tuple[str, ...] = (),
    tokenizer: str = "closed",
    context: int = CONTEXT,
    single_text: bool = False,
    held_out: tuple[str, ...] = (),
    recipe: str = "sleeplm",
    max_damaged: float = 0.01,
    threads: int | None = None,
) -> CaptionedEpochs:
    """Epochs with one caption each, and the text that they are sought by.

    Args:
        store: of the recipe sleeplm, with facts (``launch.caption_nights``).
        split: ``"train"``, ``"validation"`` or ``"test"``.
        seed: of order, captions and words.
        modalities: signals, only these; all of the store by default.
        sites: only nights of these; all by default.
        tokenizer: ``"closed"``, the words of the grammar, or ``"clip"``, the published one.
        context: token ids of a text; clauses that do not fit are left out.
        single_text: the caption is the text of the contrast too, so that one pass serves both.
        held_out: concepts that no caption of training and validation says, such as ``"alpha"``;
            those of the test say all.
        recipe: by which the store must be prepared.
        max_damaged: share of the records that may be damaged and left out; one always may, unless
            this is 0.
        threads: readers.

    Raises:
        PipelineError: the store has other signals or no facts, or an unknown tokenizer.
        EmptySplitError: no epoch of the split has a stage.
    """
    if tokenizer not in TOKENIZERS:
        raise PipelineError(
            f"config.data.tokenizer={tokenizer!r}: it is one of {sorted(TOKENIZERS)}"
        )
    rows = modalities_of(store, tuple(modalities), "captioned_epochs", recipe)
    windows = Windows.of(store, split, 1, 1, sites=tuple(sites))
    facts = FactsFile(store)
    scored = [stages(store, night) >= 0 for night in windows.nights]
    keep = np.array(
        [scored[n][e] for n, e in zip(windows.night.tolist(), windows.start.tolist())], bool
    )
    if not keep.any():
        raise EmptySplitError(
            f"{store.path} has no epoch with a stage in split {split!r}: {contents(store)} nights"
        )
    return CaptionedEpochs(
        store,
        rows,
        windows.only(np.flatnonzero(keep)),
        facts,
        TOKENIZERS[tokenizer](),
        context,
        single_text,
        () if split == "test" else tuple(held_out),
        left_out=int((~keep).sum()),
        seed=seed,
        max_damaged=max_damaged,
        threads=threads,
    )


def shapes(data: dict, objective: dict) -> dict[str, tuple]:
    """Return name -> (dtype, shape of a row) of the batches of a config."""
    modalities, context = objective["model"]["modalities"], data["context"]
    people = ("age", "sex", "site", "night", "subject", "start")
    return {
        **{f"signal/{m['name']}": (np.int16, 1, m["frames"]) for m in modalities},
        "scale": (np.float32, len(modalities)),
        "present": (np.bool_, len(modalities)),
        "valid": (np.bool_, 1, len(modalities)),
        "caption": (np.int32, context),
        "condition": (np.int32,),
        "query": (np.int32, context),
        "meaning": (np.int32,),
        **dict.fromkeys(people, (np.int32,)),
        "weight": (np.float32,),
    }


def describe_paper(recipe: str = "sleeplm") -> dict:
    """Return what a store of the recipe's own choice of signals would describe."""
    found = find_recipe(recipe)
    return {
        "modalities": describe([found.rows[name] for name in found.wanted()]),
        "vocab_size": clip_tokenizer.SIZE,
        "context": CONTEXT,
        "single_text": False,
    }


def write_tiny(folder, seed: int, recipe: str = "sleeplm") -> None:
    """Write a tiny store of simulated signals with facts."""
    from data_pipelines.captions.store_facts import measure_store
    from data_pipelines.synthetic import write_tiny_modalities  # only where no data are given

    write_tiny_modalities(folder, seed=seed, recipe=recipe)
    measure_store(NightStore(folder))


def tiny(recipe: str = "sleeplm") -> dict:
    """Return the options by which least of the tiny store is read."""
    return {"modalities": ("ecg", "eeg_c3", "emg_chin"), "context": 48}


class CaptionedEpochs(Source):
    """Batches of epochs with captions; see the module."""

    token_s = TOKEN_S

    def __init__(
        self,
        store,
        modalities,
        windows,
        facts,
        tokenizer,
        context,
        single_text,
        held_out,
        *,
        left_out,
        seed,
        max_damaged,
        threads,
    ):
        count = len(windows.night)
        super().__init__(
            store, [1] * count, 1, self._read_reference, {}, seed=seed, threads=threads
        )
        self._modalities, self._windows, self._facts = modalities, windows, facts
        self._tokenizer, self._context = tokenizer, context
        self._single_text, self._held_out = single_text, held_out
        self._subjects = SubjectMetadata(store, windows.nights)
        self._damage = DamagePolicy(store, len(windows.nights) * len(modalities), max_damaged)
        self._present = np.array(
            [[m.name in night.channels for m in modalities] for night in windows.nights]
        )
        self._description = {
            "modalities": describe(modalities),
            "sites": self._subjects.sites,
            "vocab_size": tokenizer.size,
            "vocabulary": tokenizer.identity,
            "context": context,
            "single_text": single_text,
            "token_s": TOKEN_S,
            "epochs_without_stage": left_out,
        }

    def encode(self, texts: Sequence[Caption | str]) -> np.ndarray:
        """Return the token ids of texts, int32 [N, X], as batches have them."""
        return np.stack([self._tokenizer.encode(text, self._context) for text in texts])

    @property
    def tokenizer(self) -> Vocabulary | clip_tokenizer.ClipTokenizer:
        """What makes token ids of texts, and texts of them."""
        return self._tokenizer

    def examples(self, first: int, stop: int) -> Batch:
        """Return training examples ``first`` to ``stop - 1``: words drawn by (seed, number)."""
        chosen, _ = self.draws(first, stop)
        numbers = np.arange(first, stop).astype(np.uint64)
        return self._read_epochs(chosen, mix(mix(self._seed + 2) + numbers), "train")

    def _read_reference(self, chosen: np.ndarray, _: np.ndarray) -> Batch:
        return self._read_epochs(chosen, mix(chosen.astype(np.uint64)), "reference")

    def _read_epochs(self, chosen, draws, mode) -> Batch:
        windows, nights = self._windows, self._windows.night[chosen]
        rows, names = len(chosen), [m.name for m in self._modalities]
        batch = {
            **{
                f"signal/{m.name}": np.zeros((rows, 1, m.frames), np.int16)
                for m in self._modalities
            },
            "scale": np.ones((rows, len(names)), np.float32),
            "valid": np.zeros((rows, 1, len(names)), bool),
            "caption": np.zeros((rows, self._context), np.int32),
            "condition": np.zeros(rows, np.int32),
            "query": np.zeros((rows, self._context), np.int32),
            "meaning": np.zeros(rows, np.int32),
        }
        weight = np.ones(rows, np.float32)
        for row, (window, draw) in enumerate(zip(chosen.tolist(), draws.tolist())):
            night, start = windows.nights[nights[row]], int(windows.start[window])
            try:
                facts = self._facts.facts(night, start)
                for m, modality in enumerate(self._modalities):
                    batch["scale"][row, m] = fill(
                        self.store,
                        night,
                        modality,
                        start,
                        1,
                        batch[f"signal/{modality.name}"][row],
                        batch["valid"][row, :, m],
                    )
            except DamagedRecordError as error:
                self._damage.leave_out(error)
                weight[row] = 0
                continue
            texts = self._texts(facts, night.recording, start, draw, mode)
            batch["caption"][row], batch["condition"][row], batch["query"][row] = texts
            batch["meaning"][row] = number_of(meaning(facts))
        return {
            **batch,
            "present": self._present[nights],
            **self._subjects.rows(nights),
            "start": windows.start[chosen],
            "weight": weight * batch["valid"].any(axis=(1, 2)),
        }

    def _texts(self, facts: Facts, recording: str, epoch: int, draw: int, mode: str):
        """The caption's ids, the place of its modality, and the ids that the epoch is sought by."""
        rng = np.random.Generator(np.random.Philox(key=draw))
        weights = SINGLE_TEXT if self._single_text else None
        place = int(rng.choice(len(MODALITIES), p=weights))
        variant = int(rng.integers(2**31)) if mode == "train" else 0

        def say(names: Sequence[str]) -> np.ndarray:
            captions = [
                render(
                    facts,
                    name,
                    recording=recording,
                    epoch=epoch,
                    variant=variant,
                    mode=mode,
                    held_out=self._held_out,
                )
                for name in names
            ]
            whole = Caption(tuple(clause for caption in captions for clause in caption.clauses))
            return self._tokenizer.encode(whole, self._context)

        caption = say([MODALITIES[place]])
        if self._single_text:
            return caption, place, caption
        # Half of the time what the caption says, so that the space knows every modality's words.
        by_query = mode == "reference" or rng.random() < 0.5
        return caption, place, say(QUERY) if by_query else caption


def number_of(text: str) -> int:
    """Return a number from 0 to 2^31 - 1 that stands for a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little") >> 1
