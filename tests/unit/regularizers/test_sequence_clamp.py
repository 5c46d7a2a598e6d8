"""Under `credit: sequence` the clamp is on the log-ratio of the whole answer, not on those of its tokens."""

import math

import pytest
import torch

import align

IDS = torch.tensor([0, 0, 1, 1])
KHAT = {x: math.expm1(-x) + x for x in (0.9, 1.0, 2.0)}


@pytest.mark.parametrize(
    ("log_u", "clamp", "counts", "clamped"),
    [
        ([0.8, 0.8], 1.0, 1.0, True),  # each token within, the answer beyond
        ([5.0, -4.1], 1.0, 0.9, False),  # each token beyond, the answer within
        ([30.0, -28.0], None, 2.0, False),  # 40 nats by default, tokens beyond 20 included
    ],
)
def test_the_answer_is_clamped_and_not_its_tokens(log_u, clamp, counts, clamped):
    keys = {} if clamp is None else {"clamp": clamp}
    regularizer = align.regularizer(credit="sequence", coefficient=0.1, **keys)
    logp = torch.tensor([*log_u, 0.1, 0.1], dtype=torch.float64).sub(40).requires_grad_()
    found = align.penalty(logp, torch.full((4,), -40.0, dtype=torch.float64), seq_ids=IDS, regularizer=regularizer)
    assert found.value[:2].tolist() == pytest.approx([KHAT[counts], 0.0])
    assert found.shares["clamped"].tolist() == [clamped, clamped, False, False]
    assert torch.autograd.grad(found.loss.sum(), logp)[0][:2].tolist() == pytest.approx([counts, counts])
