"""A trained model as plain files: weights, card, programs; and loading any of them."""
