"""TFDS builders that write ArrayRecord night stores."""
