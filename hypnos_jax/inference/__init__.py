"""From recordings to embeddings, tokens and generated signals, with a trained model."""
