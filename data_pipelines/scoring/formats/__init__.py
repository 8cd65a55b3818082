"""Formats of scoring: one file reads one kind."""
