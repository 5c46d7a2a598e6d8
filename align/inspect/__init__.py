"""Prints what a recipe resolves to, and the parts to choose from, without loading a model."""
