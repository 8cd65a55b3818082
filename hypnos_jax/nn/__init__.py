"""Blocks that know nothing of sleep."""
