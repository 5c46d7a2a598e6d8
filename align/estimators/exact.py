from align.estimators import Estimator


class Exact(Estimator):
    """The divergence summed over the whole vocabulary at every visited state: no variance from the token drawn there.

    Needs the reference's logits. `dD/dz_j = pi_j (c_j - sum_i pi_i c_i)`. The head computes it beside the log-prob, in chunks:
    `align_kernels/linear.py`, behind `core/logprobs.py`.
    """

    weighted = True
    full_vocabulary = True
