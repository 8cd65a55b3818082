"""Scored nights: what a model answers about one night, its files and its indices; without JAX."""
