from align.estimators import Estimator


class Sampled(Estimator):
    """The sampled token's Bregman value khat >= 0 with the exact expected gradient of D_f, on- and off-policy.

    Off-policy both carry rho = pi_theta/pi_old: `grad(rho * khat) = rho * c * grad log pi` holds per sample for every f. For
    reverse KL this is k3 with the importance ratio (DeepSeek-V3.2; TRL's `use_bias_correction_kl`).
    """

    weighted = True
