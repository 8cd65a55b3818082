"""Channels: the canonical table, labels and their meanings, quality control."""
