"""Models over the epochs of a night, of all channels together."""
