"""Simulated nights: written as recordings with scoring beside them, or as tiny stores."""

from data_pipelines.synthetic.tiny import tiny_modalities, write_tiny_tokens

__all__ = ["tiny_modalities", "write_tiny_tokens"]
