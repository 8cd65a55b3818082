"""Sleep in words: facts of an epoch, the captions that say them, and reading captions back.

``facts`` names what may be said of 30 s, and ``measures`` computes it from a night's signals and
scoring; ``grammar`` renders facts as text, ``parse`` reads text as facts, and ``vocabulary`` makes
integers of text. Facts are stored beside a store of nights (``side_file``); text never is.
"""
