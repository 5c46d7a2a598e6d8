"""A regularizer in a training loop that is not align's."""
