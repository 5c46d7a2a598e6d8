"""Section I of the methods' oracle table: the divergences of distillation, ref the teacher (rows 53 and 54)."""

from __future__ import annotations

import pytest
from golden.methods_table.toys import G5, close, mean, penalty_of
from torch import Tensor

from align.divergences.generalised_jsd import GeneralisedJsd
from align.divergences.skew_kl import SkewKl
from align.divergences.skew_reverse_kl import SkewReverseKl
from align.estimators.exact import Exact
from align.estimators.sampled import Sampled


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum()


@pytest.mark.parametrize("estimator", [Sampled(), Exact()], ids=["sampled", "exact"])
def test_row_53_skew_kl(estimator):
    """lam = 0 is the KL, lam -> 1 nothing ((1 - lam)^2/2 of a chi-squared); between them DistiLLM's definition, ref its teacher."""
    pi, ref = G5
    for lam in (0.1, 0.7):
        for divergence, expected in (
            (SkewKl(lam=lam), kl(ref, lam * ref + (1 - lam) * pi)),
            (SkewReverseKl(lam=lam), kl(pi, (1 - lam) * ref + lam * pi)),
        ):
            penalty, ctx, _ = penalty_of(divergence, estimator)
            close(mean(ctx, penalty.value), expected, 14)
    for divergence, expected in ((SkewKl(lam=0.0), 0.3792462753), (SkewReverseKl(lam=0.0), 0.3879189488)):
        penalty, ctx, _ = penalty_of(divergence, estimator)
        close(mean(ctx, penalty.value), expected)
    for family, chi_squared in ((SkewKl, 1.085), (SkewReverseKl, 1.06)):
        penalty, ctx, _ = penalty_of(family(lam=1 - 2.0**-20), estimator)
        close(mean(ctx, penalty.value) * 2.0**40, chi_squared / 2, 5)


@pytest.mark.parametrize("estimator", [Sampled(), Exact()], ids=["sampled", "exact"])
def test_row_54_generalised_jsd(estimator):
    """b = 1/2 is JSD; value/b -> KL(ref||pi) as b -> 0 and value/(1 - b) -> KL(pi||ref) as b -> 1."""
    pi, ref = G5

    def value(b: float) -> Tensor:
        penalty, ctx, _ = penalty_of(GeneralisedJsd(b=b), estimator)
        return mean(ctx, penalty.value)

    close(value(0.5), 0.0882289583)
    for b in (0.1, 0.8):
        m = (1 - b) * pi + b * ref
        close(value(b), b * kl(ref, m) + (1 - b) * kl(pi, m), 14)
    close(value(1e-8) / 1e-8, 0.3792462753, 7)
    close(value(1 - 1e-8) / 1e-8, 0.3879189488, 7)
