"""What a process needs before any model: other processes, signals, watchdog, files, storage."""
