"""Hypnos: residual-VQ tokenizers and the RQ-Transformer (arXiv 2606.09605)."""
