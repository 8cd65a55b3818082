"""Heads on frozen embeddings, and the guard before them: read, written and applied in NumPy."""
