"""How good frozen features are: the protocol, its metrics, baselines, comparisons."""
