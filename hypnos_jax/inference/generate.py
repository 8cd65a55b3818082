"""Continue a recording second by second, or begin one from nothing, with a model of tokens.

Each second the backbone's state is advanced by the codes of the second before, and the depth
transformer draws the next codes of every modality; the tokenizers turn codes into waveforms. What
was heard before stays in the cache and is never run again. Source: Hypnos, arXiv 2606.09605, as its
released library generates (temperature 0.7, nucleus 0.95), which runs the whole past each second.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import os
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
import tqdm

from data_pipelines.builders.recording_night import Pending, PrepareRecording
from data_pipelines.channels.resolve import label_of
from data_pipelines.recipes.hypnos import RECIPE, ROWS
from data_pipelines.recordings.edf_writer import EdfSignal, write_edf
from data_pipelines.signals.rolling_scale import expand, last_scale
from data_pipelines.signals.timing import tokenizer_levels
from data_pipelines.store import ChannelSignal
from hypnos_jax.export.model import ModelError
from hypnos_jax.inference.token_embedder import Embedder
from hypnos_jax.models.code_axis import CodeAxis

FED_S = 512  # ours: seconds of the prompt that pass the backbone at once
LEAD_S = 10  # ours: seconds of the prompt that are decoded too, to be looked at
SCORED_UNIT = "z"  # what is written where no recording tells the unit


@dataclasses.dataclass(frozen=True)
class Prompt:
    """Signals to continue.

    Attributes:
        channels: name -> prepared channel; all end at the same second, which comes next.
        start_of_day_s: seconds from midnight to that end, or None where unknown.
    """

    channels: dict[str, ChannelSignal]
    start_of_day_s: float | None = None


@dataclasses.dataclass(frozen=True)
class Generated:
    """Signals that a model has made up, and their codes.

    Attributes:
        codes: name -> uint16 [S, K], timing codes among them, where the model has some.
        signals: name -> float32 [S x rate], z-scored and compressed like a ``ChannelSignal``.
        lead: name -> float32 [n x rate]: what the tokenizer makes of the prompt's last seconds,
            of which ``signals`` is the smooth continuation; n is 0 without a prompt.
        prompt: what was continued, or None.
    """

    codes: dict[str, np.ndarray]
    signals: dict[str, np.ndarray]
    lead: dict[str, np.ndarray]
    prompt: Prompt | None

    @property
    def seconds(self) -> int:
        """S."""
        return len(next(iter(self.codes.values())))

    def in_unit(self, name: str, samples: np.ndarray) -> tuple[np.ndarray, str]:
        """Undo compression, and the z-score where the prompt's last mean and spread are known.

        Args:
            name: a modality.
            samples: z-scored and compressed, as ``signals``, ``lead`` and the prompt's are.

        Returns:
            float64 samples and their unit: the channel's, after the filters; or ``"z"``.
        """
        normal = expand(np.asarray(samples, np.float64))
        scale = last_scale(self.prompt.channels[name]) if self.prompt else None
        if scale is None:
            return normal, SCORED_UNIT
        mean, std = scale
        return mean + std * normal, ROWS[name].unit

    def write_edf(self, path: str | os.PathLike) -> None:
        """Write the generated seconds as EDF+, one channel a modality under a canonical label.

        The date is EDF's 1 January 1985 of unknown dates; the time of day goes on from the
        prompt's, where it is known. What is beyond the largest number of EDF's header is clipped.
        """
        signals = []
        for name, own in self.signals.items():
            samples, unit = self.in_unit(name, own)
            # 2 % to spare: the header holds the limit in 8 characters, and no more than that.
            peak = min(1.02 * max(float(np.abs(samples).max()), 1e-3), 9_999_999)
            rate = ROWS[name].rate_hz
            signals.append(EdfSignal(label_of(name), unit, rate, samples, -peak, peak))
        start_s = (self.prompt and self.prompt.start_of_day_s) or 0
        start = datetime.datetime(1985, 1, 1) + datetime.timedelta(seconds=int(start_s) % 86_400)
        write_edf(path, signals, start)


def read_prompt(
    embedder: Embedder,
    recording: str | os.PathLike,
    modalities: Sequence[str] | None = None,
    *,
    start_s: int | None = None,
    mains_hz: int | None = None,
    aliases: dict[str, list] | None = None,
    cohort: str | None = None,
) -> Prompt:
    """Prepare a recording up to the second that is to be made up.

    It is prepared whole and then cut. So what preprocessing looks ahead for is in it: the mean and
    variance of the first minute, and the far side of gaps.

    Args:
        embedder: the model.
        recording: path of an EDF, BDF or WFDB file.
        modalities: only these; by default those of the model that the recording has.
        start_s: the first second to generate; the recording's end by default.
        mains_hz: 50 or 60; None infers it from the spectrum.
        aliases: further channel labels, as ``channels.load_aliases`` returns them.
        cohort: whose generic labels these are.

    Raises:
        RecordingError: not a recording, or it has none of the modalities.
        ValueError: the recording ends before ``start_s``, or lacks a modality that was asked for.
    """
    path = pathlib.Path(recording)
    names = embedder.names(modalities)
    prepare = PrepareRecording(RECIPE, tuple(names), mains_hz=mains_hz, aliases=aliases)
    night = prepare(Pending(name=path.stem, path=path, scoring=False, cohort=cohort))
    missing = [name for name in names if modalities and name not in night.channels]
    if missing:
        reason = night.qc["refused"].get(missing[0], "no label of it")
        raise ValueError(
            f"{path}: cannot be continued in {missing[0]}: {reason}; it has {[*night.channels]}"
        )
    seconds = min(len(channel.valid) for channel in night.channels.values())
    if start_s is not None and not 1 <= start_s <= seconds:
        raise ValueError(f"{path}: start_s={start_s}; it can be continued from 1 to {seconds} s")
    stop = seconds if start_s is None else start_s
    channels = {
        name: dataclasses.replace(
            channel,
            samples=channel.samples[: stop * channel.rate_hz],
            valid=channel.valid[:stop],
            tracks=channel.tracks[:stop],
        )
        for name, channel in night.channels.items()
    }
    start_of_day_s = night.metadata.get("start_of_day_s")
    return Prompt(channels, None if start_of_day_s is None else start_of_day_s + stop)


def generate(
    embedder: Embedder,
    seconds: int,
    *,
    prompt: Prompt | None = None,
    modalities: Sequence[str] | None = None,
    temperature: float = 0.7,
    top_p: float = 0.95,
    seed: int = 0,
    progress: bool = False,
) -> Generated:
    """Generate the next seconds of some modalities.

    Of a long prompt the model sees what its layers reach back to, which changes nothing.

    Args:
        embedder: the model, with its tokenizers.
        seconds: S.
        prompt: what to continue; None begins with the begin-of-sequence vectors alone.
        modalities: only these; by default the prompt's, or all of the model.
        temperature: divides the logits; 0 takes the likeliest codes.
        top_p: draw among the likeliest codes that together reach this probability.
        seed: of the draws; equal arguments give equal codes.
        progress: show a progress bar on stderr.

    Raises:
        ModelError: the model has no tokenizers, or reads timing levels alone, or is not one that
            can be run ahead.
        ValueError: a modality that the model or the prompt does not have; another value that is out
            of its range.
    """
    if seconds < 1 or temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(
            f"seconds={seconds}, temperature={temperature}, top_p={top_p}; must be 1 or more, 0 or"
            " more, and above 0 up to 1"
        )
    network, variables = embedder.network
    if network.use_tracks:
        raise ModelError("the model reads amplitude tracks, which codes do not tell: no generation")
    names = embedder.names(modalities)
    if prompt is not None:
        names = [name for name in names if modalities or name in prompt.channels]
        missing = [name for name in names if name not in prompt.channels]
        if missing or not names:
            raise ValueError(f"the prompt has {[*prompt.channels]}, not {missing or names}")
    silent = sorted(set(names) - set(embedder.with_waveform(names)))
    if silent:
        raise ModelError(
            f"the model reads timing levels alone of {silent}: no waveform to generate"
        )
    axis = CodeAxis(embedder.modalities)
    columns = dict(zip(axis.names, axis.columns))
    heard = embedder.tokenize({n: prompt.channels[n] for n in names}) if prompt else {}
    tokenizers = embedder.piecewise(names)

    # BOS and the prompt, as far back as the last second can tell: in whole pieces where it is long.
    length = min(map(len, heard.values()), default=0)
    fed = min(1 + length, -(-(embedder.reach + 2) // FED_S) * FED_S)
    codes = np.zeros((1, fed, axis.width), np.int32)  # the first row stands for BOS
    for name, own in heard.items():
        codes[0, 1:, columns[name]] = own[length - fed + 1 : length]
    rows = embedder.modalities
    batch = {
        "present": np.array([[row["name"] in names for row in rows]]),
        "channel_ids": np.array([[row["channel_id"] for row in rows]], np.int32),
    }
    cache, at = None, 0
    while at < fed:
        piece = (fed - at) % FED_S or FED_S
        given = {**batch, "codes": codes[:, at : at + piece]}
        context, cache = embedder.advance(given, cache)
        at += piece
    key, drawn = jax.random.key(seed), []
    for second in tqdm.trange(seconds, desc="generate", unit="s", disable=not progress):
        each = jax.random.fold_in(key, second)
        row = _draw(network, variables, context[:, :, -1], each, float(temperature), float(top_p))
        drawn.append(np.asarray(row)[0])
        if second < seconds - 1:
            given = {**batch, "codes": row[:, None]}
            context, cache = embedder.advance(given, cache)

    made, signals, lead = {}, {}, {}
    shown = min(length, LEAD_S)
    for name in names:
        tokenizer, rate = tokenizers[name], ROWS[name].rate_hz
        made[name] = np.stack(drawn)[:, columns[name]].astype(np.uint16)
        # The decoder too hears what came before, so that nothing jumps where the new begins.
        before = heard[name][:length][-shown - tokenizer.reach :] if heard else made[name][:0]
        plain = tokenizer_levels(embedder.row(name))
        decoded = np.concatenate([before, made[name]])[:, :plain]
        signal = tokenizer.decode(decoded[None])[0]
        start = len(before) * rate
        lead[name], signals[name] = signal[start - shown * rate : start], signal[start:]
    return Generated(made, signals, lead, prompt)


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def _draw(network, variables, context, key, temperature, top_p):
    options = {"temperature": temperature, "top_p": top_p}
    return network.apply(variables, context, key, **options, method="draw")
