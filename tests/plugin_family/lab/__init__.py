"""A family of models outside of the project: one recipe, one source, one model, one objective."""
