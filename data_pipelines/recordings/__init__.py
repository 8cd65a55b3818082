"""Recordings of every format, read on one time axis: EDF, BDF, WFDB, mne.io.Raw, arrays."""
