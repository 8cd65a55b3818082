"""A store of signal nights to a store of token nights, self-contained and resumable."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import logging

from data_pipelines.builders import night_builder
from data_pipelines.recipes.hypnos import EIGHT, ROWS
from data_pipelines.signals import timing as timings
from data_pipelines.store import PHASES, NightEntry, NightStore, StoreError, TokenNight
from hypnos_jax.export.model import CONFIG, TOKENIZERS, load_model
from hypnos_jax.export.write import export
from hypnos_jax.inference.tokenizer import Tokenizer, TokenizerError, load_tokenizers


def tokenize_nights(
    nights: str | pathlib.Path,
    tokenizers: str | pathlib.Path | None,
    output: str | pathlib.Path,
    *,
    timing: Sequence[str] = (),
    shifts: int = 1,
) -> night_builder.StoreUpdate:
    """Encode every night of a store, channel by channel, and copy the tokenizers beside the tokens.

    The modalities are the channels of ``recipes.hypnos.EIGHT`` whose signal type has a tokenizer
    or is named in ``timing``, in that order; a night without one of them has it as absent.

    With ``shifts`` above 1 the nights of training are encoded so many times, on grids of a second
    that begin a fraction of a second later each: ``output`` is the first grid, and
    ``output/phases/<fraction>`` a store of tokens for each further one (``token_windows`` draws
    among them). A second's tokens depend on where in it a beat or a wave lies, so that a small
    corpus gives a model of tokens several times as much to read.

    Args:
        nights: a store of signals.
        tokenizers: a folder with a run's workdir or an export per signal type; None where timing
            levels alone are wanted.
        output: folder of the token store; may hold tokens made by the same tokenizers.
        timing: signal types whose channels get timing levels (``data_pipelines.signals.timing``)
            after those of the tokenizer.
        shifts: grids of a second.

    Returns:
        What was done for the first grid.

    Raises:
        ModelError: a tokenizer that cannot be loaded.
        StoreError: ``nights`` holds no signals; ``output`` holds something else; the disk is full.
        TokenizerError: tokenizers that do not fit each other or the nights.
        ValueError: a signal type without a timing.
    """
    store, output = NightStore(nights), pathlib.Path(output)
    if store.kind != "signals":
        raise StoreError(f"{nights} holds {store.kind}; give a store of signals")
    found = load_tokenizers(tokenizers) if tokenizers is not None else {}
    made = {signal_type: timings.describe(signal_type) for signal_type in timing}
    modalities = [
        _modality(ROWS[name], found, made)
        for name in EIGHT
        if ROWS[name].signal_type in found.keys() | made.keys()
    ]
    if not modalities:
        raise TokenizerError(
            f"{tokenizers} holds tokenizers of {sorted(found)}, none of a type of {EIGHT}, and"
            f" timing={list(timing)} names none"
        )
    own = {name: pair[1] for name, pair in found.items()}
    fractions = [index / shifts for index in range(shifts)]
    encoders = [EncodeNight(store, own, modalities, shift_s=shift_s) for shift_s in fractions]
    for encode in encoders:
        encode.check_rates()
    keep_tokenizers({name: path for name, (path, _) in found.items()}, output / TOKENIZERS)
    said = {name: row["timing_by"] for name, row in sorted(made.items())}
    provenance = {
        "tokenizers": {
            name: {"checksum": tokenizer.checksum, "step": tokenizer.step}
            for name, (_, tokenizer) in sorted(found.items())
        },
        **({"timing": said} if said else {}),
        "nights": store.manifest["provenance"],
    }
    given = {"kind": "tokens", "modalities": modalities, "recipe": store.recipe}
    for encode in encoders[1:]:
        update = night_builder.write_store(
            output / PHASES / f"{encode.shift_s:g}",
            items={night.recording: night for night in store.select("train")},
            make_night=encode,
            provenance={**provenance, "shift_s": encode.shift_s},
            **given,
        )
        logging.info(
            "shifted by %g s: %d nights of training added, %d were there, %d rejected",
            encode.shift_s,
            *map(len, (update.added, update.kept, update.rejected)),
        )
    return night_builder.write_store(
        output,
        items={night.recording: night for night in store.nights},
        make_night=encoders[0],
        provenance=provenance,
        beside=[TOKENIZERS] if found else [],
        **given,
    )


def _modality(row, tokenizers, timing):
    """What the store's manifest says of the codes of a channel."""
    levels, codes = 0, 0
    if row.signal_type in tokenizers:
        tokenizer = tokenizers[row.signal_type][1]
        levels, codes = tokenizer.levels, tokenizer.codes
    added = timing.get(row.signal_type, {})
    return {
        "name": row.name,
        "levels": levels + len(added.get("timing", ())),
        "codes": codes,
        "channel_id": row.id,
        "signal_type": row.signal_type,
        **added,
    }


def keep_tokenizers(folders: dict[str, pathlib.Path], beside: pathlib.Path) -> None:
    """Export tokenizers to ``beside``; those there already must be the same.

    Args:
        folders: signal type -> a run's workdir or an export.
        beside: gets one folder per signal type.

    Raises:
        StoreError: another tokenizer of that type is there, or one that is not given.
    """
    there = {path.name for path in beside.iterdir()} if beside.is_dir() else set()
    there = {name for name in there if not name.startswith(".")}
    if there - set(folders):
        raise StoreError(
            f"{beside} holds tokenizers of {sorted(there)}, this run has {sorted(folders)};"
            " choose another folder"
        )
    for name, path in folders.items():
        if name not in there:
            export(path, beside / name, programs=False)
            continue
        old = json.loads((beside / name / CONFIG).read_text())["checksum"]
        new = load_model(path).checksum
        if old != new:
            raise StoreError(
                f"{beside / name} is another tokenizer ({old[:12]}...) than {path} ({new[:12]}...);"
                " choose another folder"
            )


class EncodeNight:
    """Encode one night of a store: a function of its ``NightEntry``."""

    def __init__(
        self,
        store: NightStore,
        tokenizers: dict[str, Tokenizer],
        modalities: list[dict],
        *,
        shift_s: float = 0.0,
    ):
        """Take a store of signals, signal type -> tokenizer, and the modalities of the tokens.

        With ``shift_s``, below 1, each second begins so much later than the night's; the last is
        not whole, and no token. What is known of whole seconds is taken from both that it touches.
        """
        self.store, self.tokenizers, self.modalities = store, tokenizers, modalities
        self.shift_s = shift_s

    def check_rates(self) -> None:
        """Compare rates of nights and tokenizers.

        Raises:
            TokenizerError: a tokenizer of another rate than the nights' channels, or a shift that
                is no whole number of samples.
        """
        for row in self.store.manifest["channels"]:
            tokenizer = self.tokenizers.get(ROWS[row["name"]].signal_type)
            if tokenizer is not None and tokenizer.rate_hz != row["rate_hz"]:
                raise TokenizerError(
                    f"the {tokenizer.signal_type} tokenizer reads {tokenizer.rate_hz} Hz, but"
                    f" {row['name']} of {self.store.path} has {row['rate_hz']} Hz"
                )
            read = any(modality["name"] == row["name"] for modality in self.modalities)
            if read and (self.shift_s * row["rate_hz"]) % 1:
                raise TokenizerError(
                    f"a shift of {self.shift_s:g} s is no whole number of samples of"
                    f" {row['name']} at {row['rate_hz']} Hz; give 2, 4 or 8 shifts"
                )

    def __call__(self, night: NightEntry) -> TokenNight:
        """Return the night as tokens.

        Raises:
            TokenizerError: the night has no channel that a tokenizer reads.
        """
        names = [modality["name"] for modality in self.modalities]
        present = np.array([name in night.channels for name in names])
        if not present.any():
            raise TokenizerError(
                f"none of its channels {list(night.channels)} has a tokenizer; there are those of"
                f" {sorted(self.tokenizers)}"
            )
        seconds, levels = night.duration_s, [modality["levels"] for modality in self.modalities]
        firsts = np.cumsum([0, *levels])
        codes = np.zeros((seconds, firsts[-1]), np.uint16)
        valid = np.zeros((seconds, len(names)), bool)
        tracks = np.zeros((seconds, len(names), 2), np.float32)
        for signal_type in dict.fromkeys(row["signal_type"] for row in self.modalities):
            columns = [
                i
                for i, modality in enumerate(self.modalities)
                if modality["signal_type"] == signal_type and present[i]
            ]
            if not columns:
                continue
            signals = [self._signal(night, names[i]) for i in columns]
            for i, signal in zip(columns, signals):
                valid[:, i], tracks[:, i] = self._seconds(night, names[i])
                added = len(self.modalities[i].get("timing", ()))
                if added:
                    stream = timings.TimingStream(signal_type, self.store.rate_hz(names[i]))
                    last = slice(firsts[i + 1] - added, firsts[i + 1])
                    codes[:, last] = stream.push(signal, valid[:, i])
            if signal_type in self.tokenizers:
                tokenizer = self.tokenizers[signal_type]
                for i, found in zip(columns, tokenizer.encode(np.stack(signals)), strict=True):
                    codes[:, firsts[i] : firsts[i] + tokenizer.levels] = found
        return TokenNight(
            recording=night.recording,
            subject=night.subject,
            split=night.split,
            codes=codes,
            present=present,
            valid=valid,
            tracks=tracks,
            stages=self.store.stages(night),
            events=self.store.events(night),
            labels=night.labels,
            metadata=night.metadata,
            qc=night.qc,
        )

    def _signal(self, night: NightEntry, name: str) -> np.ndarray:
        """A channel's samples from the shift on, with zeros behind."""
        signal = self.store.signal(night, name, 0, night.duration_s)
        late = round(self.shift_s * self.store.rate_hz(name))
        return np.concatenate([signal[late:], np.zeros(late, signal.dtype)])

    def _seconds(self, night: NightEntry, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Which seconds are valid, and their tracks: of a shifted one by its share of two."""
        valid = self.store.valid(night, name, 0, night.duration_s)
        tracks = self.store.tracks(night, name, 0, night.duration_s)
        if not self.shift_s:
            return valid, tracks
        valid = valid & np.append(valid[1:], False)
        later = np.append(tracks[1:], tracks[-1:], axis=0)
        mixed = (1 - self.shift_s) * tracks + self.shift_s * later
        return valid, np.where(valid[:, None], mixed, 0)
