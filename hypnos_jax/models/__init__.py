"""Arrays to arrays: the networks."""
