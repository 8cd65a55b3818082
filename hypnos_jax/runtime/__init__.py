"""Foundations of a process, below any model: other processes, signals, watchdog, files, storage."""
