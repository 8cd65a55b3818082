"""What each family reads: one recipe a family, and how modalities are made."""
