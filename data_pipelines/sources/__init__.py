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

``TOKEN_S`` is what the ``Source`` has as ``token_s``.

The arrays of each are listed in ``hypnos_jax/batch.py``.
"""
