"""The life of a process: other processes, preemption, watchdog, files, storage, exit codes."""
