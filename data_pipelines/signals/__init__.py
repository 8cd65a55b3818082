"""Signal processing on the host: causal filters, the same as a stream, heart beats."""
