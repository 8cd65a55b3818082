"""Times of a scoring, brought to the time axis of its recording."""
