"""ConfigDict functions; each takes ``:smoke`` or a size and imports nothing heavy."""
