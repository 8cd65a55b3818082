"""Arrays to arrays: the networks, found by a file's name as objectives are.

``hypnos_jax.plugins.load("models", "modality_towers")`` returns the class ``ModalityTowers``.

A *backbone*, which ``objectives/finetune.py`` puts a head on, is a Linen module with

- ``encode_tokens(batch, kept, *, train) -> (hidden, valid, cls)``: of a batch of nights (see
  ``hypnos_jax.batch``) float32 [B, L, M, H], one row for each token of each modality, or M = 1
  where it fuses them; bool [B, L, M], where a row rests on signal; and float32 [B, M, H] of whole
  windows, or None. ``kept`` bool [B, L, M'], of the batch's modalities, says what of the signal may
  be used (None: all): nothing else may change the result. Dropout is of the stream ``"dropout"``.

A *context* is a Linen module with

- ``__call__(x, valid, *, train) -> y``: float32 [B, L, H'] of [B, L, H], tokens in the order of
  time, given those that are ``valid`` [B, L]. H' is H unless the context says otherwise.

Plain attributes of both, which may be left out:

- ``causal``: True where a row depends on nothing that comes after its token; one that encodes each
  token alone is causal. What looks back keeps what it must know in the collection ``"cache"`` where
  that is mutable, so that the tokens of a night may come in pieces of any length; zeros stand
  before the first.
- ``couples_batch``: True where rows of a batch change each other in training, as batch statistics
  make them.
- ``title``: what a backbone is, in words that begin with a small letter and end without a full
  stop.
"""
