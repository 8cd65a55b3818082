"""Places where the runs of a sweep are started; all start the commands of ``PlannedRun``."""
