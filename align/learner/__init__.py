"""The learner: the policy, its optimizer and its references, in one process.

`learner.py` has the update, `objective.py` the loss of a micro-batch, `checkpoint.py` the tensors that a checkpoint holds.
"""
