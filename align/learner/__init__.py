"""The learner: the policy, its optimizer and its references, in one process."""
