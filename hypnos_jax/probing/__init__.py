"""Probes of frozen features: the protocol, its metrics, baselines, comparisons."""
