"""A run and its folder: state, checkpoints, initial policy, evaluation, signals."""
