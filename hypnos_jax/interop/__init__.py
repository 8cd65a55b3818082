"""Weights of other implementations, read and written: one file, one format."""
