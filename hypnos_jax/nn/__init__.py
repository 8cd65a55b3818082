"""Blocks that know neither sleep nor losses."""
