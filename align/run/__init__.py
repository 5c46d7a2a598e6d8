"""A run and its folder.

What a checkpoint holds: `state.py` (the loop's half, `driver.json`) and `align/learner/checkpoint.py` (the learner's half, tensors);
`checkpoints.py` writes, verifies and finds them. Besides: the initial policy, evaluation, samples, signals, and how a run ends.
"""
