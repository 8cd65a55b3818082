"""Exit codes of training and evaluation, for those who start them again; imports nothing."""

DONE = 0
FAILED = 1  # an error that names its cause: a config, the data, a folder
CRASHED = 70  # any other exception, such as a lost connection (EX_SOFTWARE)
STOPPED_EARLY = 75  # saved, start me again (EX_TEMPFAIL)
STUCK = 76  # ended by its watchdog
AT_ONCE = 130  # after a second SIGINT, as of a shell
