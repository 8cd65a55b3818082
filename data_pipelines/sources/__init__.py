"""One file a source: what is cut from a store, and how it becomes batches.

``config.data.name`` is a file's name without ``.py``; the folder's listing is the registry. A file
has four functions:

- ``open_source(store, *, split, seed, **options)`` returns a ``pipeline.Source``; its keyword
  arguments are the keys of ``config.data``;
- ``shapes(data, objective)`` returns name -> (dtype, *shape of a row) of its batches from the
  filled sections of a config, without any data (what is compiled ahead needs no more);
- ``describe_paper()`` returns what ``Source.describe`` would say of the paper's data, to fill a
  config with where there are none;
- ``write_tiny(folder, seed)`` writes the tiny store on which configs without data are tried.

A source that also serves to embed single recordings has a fifth:

- ``recording_batches(signals, *, data, objective)`` yields the batches, of one row each, that the
  source would have cut from a night of these signals (name -> ``store.ChannelSignal``; any subset
  of the model's): the windows in order, padded to their full shape, with ``start`` in tokens,
  ``weight`` 1, signals as float32 with ``scale`` 1, and -1 for what is unknown. ``data`` and
  ``objective`` are sections of a config. It raises ``RecordingError`` where the signals hold none
  of what the model reads, or less than a token of it.

``TOKEN_S`` is what the ``Source`` has as ``token_s``.

The arrays of each are listed in ``hypnos_jax/batch.py``.
"""
