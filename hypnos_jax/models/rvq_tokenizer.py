"""The tokenizer of Hypnos: one channel's samples to K codes a second, and back.

samples -> SEANet encoder -> causal transformer -> linear -> residual vector quantiser -> linear ->
causal transformer -> SEANet decoder -> samples. Source: Hypnos, arXiv 2606.09605, as its released
library has it (transformer sizes are ours); the design follows Mimi, arXiv 2410.00037.

Shapes: B batch, S seconds (tokens), T = S x hop samples, C width of the codewords, K levels.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax.nn.conv import SeanetDecoder, SeanetEncoder
from hypnos_jax.nn.linear import zeros_init
from hypnos_jax.nn.quantize import Quantized, ResidualQuantizer
from hypnos_jax.nn.transformer import Transformer


class RvqTokenizer(nn.Module):
    """Codes of one channel, and the channel from its codes.

    Attributes:
        ratios: strides of the encoder; their product is the hop, samples per token.
        filters: channels of the first convolution.
        dim: D, width of the encoder's output and of the transformers.
        units, dilation_base, overlap, last_kernel, activation, norm, padding: see ``nn.conv``.
        layers, heads, window, ffn_dim: of the transformers on either side; 0 layers for none.
            ``window`` counts tokens seen, the token itself included; None for all before it.
        codebook_dim: C.
        levels: K.
        codes: V.
        decay, rotation, quantizer_dropout, expire_every: see ``nn.quantize``.
        bypass: probability per row that, in training, the decoder gets the vectors before
            quantisation.
        strict_causal: token t sees nothing after second t. False is the alignment of the released
            weights, whose token t sees also the first sample of second t + 1.
        remat: what of the transformers' layers is recomputed in the backward pass; see
            ``nn.transformer.rematerialised``.
        dtype: of convolutions and matrix products, ``"float32"`` or ``"bfloat16"``; norms, the
            transformers' residual streams and the quantiser are float32.
    """

    ratios: tuple[int, ...]
    filters: int = 64
    dim: int = 512
    units: int = 1
    dilation_base: int = 1
    overlap: int = 2
    last_kernel: int = 7
    activation: str = "elu"
    norm: str = "weight"
    padding: str = "zero"
    layers: int = 3
    heads: int = 8
    window: int | None = 32
    ffn_dim: int | None = None
    codebook_dim: int = 256
    levels: int = 8
    codes: int = 2048
    decay: float = 0.99
    rotation: bool = False
    quantizer_dropout: float = 0.0
    expire_every: int = 5
    bypass: float = 0.0
    strict_causal: bool = True
    remat: str = "none"
    dtype: str = "float32"

    def setup(self):
        if self.strict_causal and self.padding == "reflect":
            raise ValueError(
                "padding='reflect' mirrors the samples to come into the first tokens; with"
                " strict_causal=True use 'zero' or 'edge'"
            )
        seanet = {
            "filters": self.filters,
            "ratios": tuple(self.ratios),
            "units": self.units,
            "dilation_base": self.dilation_base,
            "overlap": self.overlap,
            "activation": self.activation,
            "norm": self.norm,
            "padding": self.padding,
            "dtype": jnp.dtype(self.dtype),
        }
        layer = {
            "dim": self.dim,
            "heads": self.heads,
            "window": self.window,
            "ffn_dim": self.ffn_dim,
            "dtype": jnp.dtype(self.dtype),
        }
        self.encoder = SeanetEncoder(dim=self.dim, last_kernel=self.last_kernel, **seanet)
        self.decoder = SeanetDecoder(channels=1, **seanet)
        if self.layers:
            self.encoder_transformer = Transformer(self.layers, layer, remat=self.remat)
            self.decoder_transformer = Transformer(self.layers, layer, remat=self.remat)
        self.project_in = self._linear(self.codebook_dim)
        self.project_out = self._linear(self.dim)
        self.quantizer = ResidualQuantizer(
            self.codebook_dim,
            self.levels,
            self.codes,
            self.decay,
            self.rotation,
            self.quantizer_dropout,
            self.expire_every,
        )

    def _linear(self, width):
        return nn.Dense(
            width,
            dtype=jnp.float32,
            kernel_init=nn.with_logical_partitioning(
                nn.initializers.lecun_normal(), ("channels", "embed")
            ),
            bias_init=zeros_init("embed"),
        )

    @property
    def hop(self) -> int:
        """Samples per token."""
        return math.prod(self.ratios)

    @property
    def reach(self) -> int | None:
        """Tokens before token t whose samples can change token t's codes, at most; None for all."""
        if self.layers and self.window is None:
            return None
        encoder = SeanetEncoder(
            self.dim,
            self.filters,
            tuple(self.ratios),
            self.units,
            self.dilation_base,
            self.overlap,
            last_kernel=self.last_kernel,
            parent=None,
        )
        attended = self.layers * (self.window - 1) if self.layers else 0
        return -(-encoder.past // self.hop) + attended

    def latents(self, signal: jax.Array) -> jax.Array:
        """Return the vectors before quantisation, float32 [B, S, C].

        Args:
            signal: [B, T], standardised, T a multiple of ``hop``.

        Raises:
            ValueError: T is not whole tokens.
        """
        rows, length = signal.shape
        if length % self.hop or not length:
            raise ValueError(
                f"signal has {length} samples; tokens are {self.hop} samples long: cut it to whole"
                " tokens"
            )
        # Output j of the encoder sees samples up to j * hop. A token then ends with its own
        # second, exactly (strict: one zero in front) or one sample late.
        ends = (1, 0) if self.strict_causal else (0, 1)
        return self.latents_next(jnp.pad(signal, ((0, 0), ends)))

    def latents_next(self, signal: jax.Array) -> jax.Array:
        """Return the vectors of a signal that comes in pieces, float32 [B, n, C].

        Apply with ``mutable=["cache"]`` and hand the cache on; so may ``encode_next`` be,
        ``synthesize`` and ``decode``. Pieces of any lengths give the vectors of ``latents``.

        Args:
            signal: [B, 1 + n * hop] for the first piece, [B, n * hop] after it, n > 0. The first
                sample of all is a zero with ``strict_causal``; else the signal's own, and after
                its last one comes a zero.
        """
        start = signal.shape[1] % self.hop
        x = self.encoder(signal[..., None])
        # What the encoder gives at the signal's first sample is no token.
        x = x[:, 1:] if start else x
        if self.layers:
            x = self.encoder_transformer(x)
        return self.project_in(x.astype(jnp.float32))

    def encode_next(self, signal: jax.Array) -> jax.Array:
        """Return the codes, int32 [B, n, K], of a piece of a signal; see ``latents_next``."""
        return self.quantizer(self.latents_next(signal)).codes

    def synthesize(self, latents: jax.Array) -> jax.Array:
        """Return the signal [B, T], float32, of ``latents`` [B, S, C]."""
        x = self.project_out(latents)
        if self.layers:
            x = self.decoder_transformer(x)
        return self.decoder(x)[..., 0].astype(jnp.float32)

    def quantize(
        self, latents: jax.Array, weight: jax.Array | None = None, *, train: bool = False
    ) -> Quantized:
        """Quantise ``latents`` [B, S, C]; see ``ResidualQuantizer.__call__``."""
        return self.quantizer(latents, weight, train=train)

    def encode(self, signal: jax.Array) -> jax.Array:
        """Return the codes, int32 [B, S, K], of ``signal`` [B, T]."""
        return self.quantizer(self.latents(signal)).codes

    def dequantize(self, codes: jax.Array) -> jax.Array:
        """Return the sums of codewords, float32 [B, S, C], of ``codes`` [B, S, K]."""
        return self.quantizer.dequantize(codes)

    def decode(self, codes: jax.Array) -> jax.Array:
        """Return the signal [B, T] of ``codes`` [B, S, K]."""
        return self.synthesize(self.dequantize(codes))

    def __call__(
        self, signal: jax.Array, weight: jax.Array | None = None, *, train: bool = False
    ) -> tuple[jax.Array, Quantized, jax.Array]:
        """Reconstruct a signal through its codes.

        Args:
            signal: [B, T].
            weight: [B, S]; tokens of weight 0 enter no statistic of the codebooks.
            train: let the codebooks follow, and bypass them at random (streams ``"vq"``,
                ``"bypass"``).

        Returns:
            The reconstruction [B, T], what the quantiser gave, and the vectors before it.
        """
        latents = self.latents(signal)
        quantized = self.quantizer(latents, weight, train=train)
        values = quantized.values
        if train and self.bypass:
            skip = jax.random.bernoulli(self.make_rng("bypass"), self.bypass, (len(signal), 1, 1))
            values = jnp.where(skip, latents, values)
        return self.synthesize(values), quantized, latents
