"""One file a source: what is cut from a store, and how it becomes batches.

``config.data.name`` is a file's name without ``.py``; the folder's listing is the registry. A file
has five functions:

- ``open_source(store, *, split, seed, **options)`` returns a ``pipeline.Source``; its keyword
  arguments are the keys of ``config.data``;
- ``shapes(data, objective)`` returns name -> (dtype, *shape of a row) of its batches from the
  filled sections of a config, without any data (what is compiled ahead needs no more);
- ``describe_paper()`` returns what ``Source.describe`` would say of the paper's data, to fill a
  config with where there are none;
- ``write_tiny(folder, seed)`` writes the tiny store on which configs without data are tried;
- ``tiny()`` returns the options of ``config.data`` by which least of it is read.

A source of several recipes has the option ``recipe`` of ``config.data``, a name, and takes it in
``describe_paper``, ``write_tiny`` and ``tiny`` too (``pipeline.recipe_option``).

A source whose batches an objective's ``embed`` reads (``Objective.embed_data``) has four more:

- ``whole_nights(data)``: the options of ``config.data`` under which its evaluation batches hold
  every token of every night once, with ``night`` (of ``store.nights``) and ``start`` in tokens;
- ``window_tokens(data)``: how many tokens ``embed`` sees at once;
- ``embed_shapes(modalities)``: name -> (dtype, *shape of a row) of what ``embed`` reads, ``"T"``
  being its tokens; arrays without ``"T"`` are 1 for a recording in memory;
- ``recording_batches(signals, *, data, modalities)`` yields batches of these arrays, of one row
  each, that the source would have cut from a night of these signals (name ->
  ``store.ChannelSignal``; any subset of the model's): the windows in order, padded to their full
  shape, with ``tokens``, how many of them are of the recording. It raises ``RecordingError`` where
  the signals hold none of what the model reads, or less than a token of it.

``TOKEN_S`` is what the ``Source`` has as ``token_s``.

The arrays of each are listed in ``hypnos_jax/batch.py``.
"""
