"""Scaling laws: finished runs in, fitted laws, figures and a report out."""
