"""Configs of SynthSleepNet, arXiv 2502.17481, and of NeuroNet, arXiv 2404.17585."""
