"""sleep2vec: contrastive towers of all modalities of a night (arXiv 2602.13857)."""
