"""The scoring that lies beside a recording: which file it is, and what else lies there."""
