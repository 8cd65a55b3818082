"""Measuring frozen features: the protocol, its metrics, baselines, comparisons."""
