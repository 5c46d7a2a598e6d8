"""Regularizers in other training loops than align's."""
