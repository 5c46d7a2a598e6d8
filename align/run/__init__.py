"""One run in its folder: state, checkpoints, initial policy, evaluation, signals."""
