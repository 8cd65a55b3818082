"""Training of an RVQ tokenizer by reconstruction; Hypnos, arXiv 2606.09605, section 3 onwards.

The paper's losses for its tokenizers could not be read; these are ours: time L1, multi-resolution
spectra and the commitment of residual quantisation. Differs from what the paper may have used: no
adversarial phase yet.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax import losses
from hypnos_jax.models.rvq_tokenizer import RvqTokenizer
from hypnos_jax.objectives import Embedding, Loss


class RvqReconstruction(nn.Module):
    """Reconstruct a channel of one signal type through K codes a second.

    ``loss = time_weight L1 + stft_weight STFT + commitment_weight commitment``, each a mean over
    the valid seconds of a row; rows count by their valid seconds. Codebooks follow their points in
    the collection ``"vq"``, which invalid seconds and padding do not enter.

    Attributes:
        model: keyword arguments of ``RvqTokenizer``.
        signal_type: ``"eeg"``, ``"eog"``, ``"emg"``, ``"ecg"`` or ``"resp"``: of what.
        rate_hz: samples per second.
        time_weight, stft_weight, commitment_weight: of the loss's terms.
        stft_windows_s: windows of the spectra, in seconds.
        stft_floor: see ``losses.stft_distance``.
        flip: probability that a row's polarity is inverted in training.
    """

    model: dict[str, Any]
    signal_type: str
    rate_hz: int
    time_weight: float = 1.0
    stft_weight: float = 1.0
    commitment_weight: float = 0.25
    stft_windows_s: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    stft_floor: float = 1e-2
    flip: float = 0.0

    embed_data = "signal_crops"
    modalities = ()  # one signal
    title = (
        "a residual-VQ tokenizer of one type of sleep signal (Hypnos, arXiv 2606.09605): codes of"
        " each second"
    )
    rng_streams = ("vq", "bypass", "flip")
    couples_batch = False

    def setup(self):
        self.tokenizer = RvqTokenizer(**self.model)

    @property
    def token_s(self) -> float:
        """Seconds per token."""
        return RvqTokenizer(**self.model, parent=None).hop / self.rate_hz

    @property
    def causal(self) -> bool:
        """Whether codes of a second depend on nothing after it."""
        return RvqTokenizer(**self.model, parent=None).strict_causal

    @property
    def reach(self) -> int | None:
        """Tokens of the past that a token's codes depend on, at most; None for all."""
        return RvqTokenizer(**self.model, parent=None).reach

    def __call__(self, batch: dict[str, jax.Array], *, train: bool = False) -> Loss:
        """Return the loss and its parts as sums over valid seconds.

        Args:
            batch: ``signal`` float32 [B, T], ``valid`` bool [B, S], ``weight`` float32 [B].
            train: flip polarities, let the codebooks follow.

        Returns:
            Metrics: ``time_l1``, ``stft``, ``commitment``; ``snr_db``, mean over rows, of the
            reconstruction as it was decoded (past the quantiser where bypassed);
            ``quantized_share``, the share of the latents' energy that codewords explain;
            ``perplexity``, exp of the entropy of the codebooks' running counts, mean over levels.

        Raises:
            ValueError: the batch's seconds do not fit the tokens.
        """
        signal, valid = batch["signal"].astype(jnp.float32), batch["valid"]
        rows = (batch["weight"] > 0).astype(jnp.float32) * batch["weight"]
        self._check(signal, valid)
        if train and self.flip:
            flipped = jax.random.bernoulli(self.make_rng("flip"), self.flip, (len(signal), 1))
            signal = jnp.where(flipped, -signal, signal)
        counted = valid & (rows > 0)[:, None]
        estimate, quantized, latents = self.tokenizer(signal, counted, train=train)

        seconds = valid.sum(1) * rows
        windows = [round(window * self.rate_hz) for window in self.stft_windows_s]
        terms = {
            "time_l1": losses.time_l1(estimate, signal, valid),
            "stft": losses.stft_distance(
                estimate, signal, valid, windows=windows, floor=self.stft_floor
            ),
            "commitment": losses.masked_mean(quantized.commitment, valid),
        }
        total = (
            self.time_weight * terms["time_l1"]
            + self.stft_weight * terms["stft"]
            + self.commitment_weight * terms["commitment"]
        )
        weight = seconds.sum()
        metrics = {name: (jnp.sum(value * seconds), weight) for name, value in terms.items()}

        samples = jnp.repeat(valid, signal.shape[1] // valid.shape[1], axis=1)
        noise = losses.masked_mean((estimate - signal) ** 2, samples)
        power = losses.masked_mean(signal**2, samples)
        snr = 10 * jnp.log10((power + 1e-9) / (noise + 1e-9))
        metrics["snr_db"] = (jnp.sum(snr * seconds), weight)
        each = jnp.broadcast_to(counted[..., None], latents.shape)
        left = jnp.sum(jnp.where(each, (latents - quantized.values) ** 2, 0))
        all_of_it = jnp.sum(jnp.where(each, latents**2, 0))
        metrics["quantized_share"] = (all_of_it - left, all_of_it)
        metrics["perplexity"] = (self.tokenizer.quantizer.perplexity().mean() * weight, weight)
        return Loss(jnp.sum(total * seconds), weight, metrics)

    def _check(self, signal, valid):
        seconds = valid.shape[1]
        if signal.shape[1] != seconds * self.rate_hz:
            raise ValueError(
                f"signal has {signal.shape[1]} samples for {seconds} s; rate_hz={self.rate_hz}"
                f" means {seconds * self.rate_hz}"
            )
        if self.token_s != 1.0:
            raise ValueError(
                f"model.ratios={tuple(self.model['ratios'])} make tokens of {self.token_s} s at"
                f" rate_hz={self.rate_hz}; their product must be {self.rate_hz}, for tokens of 1 s"
            )

    def codes(self, batch: dict[str, jax.Array]) -> jax.Array:
        """Return the codes, int32 [B, S, K], of a batch's signals."""
        return self.tokenizer.encode(batch["signal"])

    def usage(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Return how the codes are used: on a batch, and in training so far.

        Returns:
            ``counts`` float32 [K, V], valid seconds of the batch that got each code;
            ``perplexity`` [K], of the codebooks' running counts; ``trained`` [K, V], assignments
            since training began.
        """
        counted = batch["valid"] & (batch["weight"] > 0)[:, None]
        return self.tokenizer.quantizer.usage(self.codes(batch), counted)

    def reconstruct(self, batch: dict[str, jax.Array]) -> jax.Array:
        """Return a batch's signals [B, T] after their way through the codes."""
        return self.tokenizer.decode(self.tokenizer.encode(batch["signal"]))

    def embed(self, batch: dict[str, jax.Array]) -> Embedding:
        """Return the vectors before quantisation, float32 [B, S, 1, C]."""
        latents = self.tokenizer.latents(batch["signal"])
        return Embedding(latents[:, :, None], batch["valid"][..., None])

    def latents(self, signal: jax.Array) -> jax.Array:
        """Return the vectors before quantisation, float32 [B, S, C], of ``signal`` [B, T]."""
        return self.tokenizer.latents(signal)

    def encode(self, signal: jax.Array) -> jax.Array:
        """Return the codes, int32 [B, S, K], of ``signal`` [B, T]."""
        return self.tokenizer.encode(signal)

    def dequantize(self, codes: jax.Array) -> jax.Array:
        """Return the sums of codewords, float32 [B, S, C], of ``codes`` [B, S, K]."""
        return self.tokenizer.dequantize(codes)

    def decode(self, codes: jax.Array) -> jax.Array:
        """Return the signal [B, T] of ``codes`` [B, S, K]."""
        return self.tokenizer.decode(codes)
