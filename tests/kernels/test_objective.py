"""`linear_objective`: the value and the gradients of the composable form, in one sweep."""

import pytest
import torch
from kernels.heads import H, T, V, make_head, normal

from align.divergences.jensen_shannon import JensenShannon
from align.divergences.reverse_kl import ReverseKl
from align.estimators.top_k import TopK
from align_kernels import Compared, Head, linear_objective, linear_stats, sampled, weighted

LABELS = torch.where(torch.arange(T) % 5 == 0, -100, torch.arange(T) * 3 % V)


def setting():
    leaves = [normal(T, H, seed=0).requires_grad_(), *(t.requires_grad_() for t in make_head("bias")[:2])]
    ref_hidden, ref_head = normal(T, H, seed=2), make_head(seed=3)
    compared = {"js": Compared(JensenShannon(), ref_hidden, ref_head), "sampled": Compared(None, ref_hidden, ref_head),
                "top": Compared(ReverseKl(), ref_hidden, ref_head, TopK(k=3).outcomes)}
    return leaves, compared


def surrogate(stats, at):
    """GRPO's clipped surrogate, an exact and a sampled regularizer, an entropy bonus: per token, off-policy."""
    old, advantages = normal(T, seed=4)[at] - 3, normal(T, seed=5)[at]
    ratio = (stats.logp - old).exp()
    policy = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    k3 = sampled(ReverseKl(), stats.logp, stats.ref_logp["sampled"])
    return policy + 0.3 * stats.div["js"].square() + 0.1 * stats.div["top"] + 0.2 * k3 - 0.05 * stats.entropy


KNOWN = weighted(normal(T, seed=6), normal(T, seed=7), {"js": normal(T, seed=8), "top": normal(T, seed=9)})


@pytest.mark.parametrize("elements", [1, 4 * 5 * V, 1 << 24])
@pytest.mark.parametrize("objective", [surrogate, KNOWN], ids=["surrogate", "known weights"])
def test_equals_the_composable_form(objective, elements):
    leaves, compared = setting()
    kept = LABELS != -100
    stats = linear_stats(leaves[0], Head(*leaves[1:]), LABELS, temperature=0.7, compared=compared)
    expected = objective(stats, torch.arange(T))[kept].sum()
    total, found = linear_objective(leaves[0], Head(*leaves[1:]), LABELS, objective, temperature=0.7, compared=compared, elements=elements)
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((found.logp, found.entropy, found.ref_logp, found.div), tuple(stats), rtol=1e-12, atol=1e-12)
    assert not found.logp.requires_grad and not found.div["js"].requires_grad
    # What comes from above is a number other than 1.
    for one, other in zip(*(torch.autograd.grad(-2.5 * t, leaves) for t in (total, expected)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


def test_gradcheck():
    head, ref_hidden, ref_head = make_head("bias", vocabulary=6, width=2), normal(3, 2, seed=2), make_head("plain", 3, 6, 2)
    compared = {"js": Compared(JensenShannon(), ref_hidden, ref_head)}
    leaves = [t.requires_grad_() for t in (normal(3, 2, seed=0), head.weight, head.bias)]

    def total(hidden, weight, bias):
        return linear_objective(hidden, Head(weight, bias), torch.tensor([0, 5, 2]), lambda stats, at: stats.logp.exp() * stats.div["js"]
                                - stats.entropy.square(), compared=compared, elements=2 * 2 * 6)[0]

    assert torch.autograd.gradcheck(total, leaves, eps=1e-6, atol=1e-7, rtol=1e-6)


def test_only_what_is_trained_gets_a_gradient():
    leaves, compared = setting()
    whole = torch.autograd.grad(linear_objective(leaves[0], Head(*leaves[1:]), LABELS, surrogate, compared=compared)[0], leaves)
    for i, leaf in enumerate(leaves):
        others = [t if t is leaf else t.detach() for t in leaves]
        (grad,) = torch.autograd.grad(linear_objective(others[0], Head(*others[1:]), LABELS, surrogate, compared=compared)[0], [leaf])
        torch.testing.assert_close(grad, whole[i], rtol=1e-13, atol=1e-14)


def test_without_gradients_it_is_a_number():
    leaves, compared = setting()
    with torch.no_grad():
        total, _ = linear_objective(leaves[0], Head(*leaves[1:]), LABELS, surrogate, compared=compared)
    assert not total.requires_grad


def test_half_precision_gradients_are_summed_in_float32():
    """Many chunks' contributions to the head, rounded once."""
    hidden, weight = (normal(n, H, seed=n, dtype=torch.bfloat16).requires_grad_() for n in (512, V))
    labels = torch.arange(512) % V
    total, _ = linear_objective(hidden, Head(weight), labels, weighted(torch.ones(512)), elements=2 * V)
    leaves = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    torch.log_softmax(leaves[0] @ leaves[1].T, -1).gather(1, labels[:, None]).sum().backward()
    for found, leaf in zip(torch.autograd.grad(total, [hidden, weight]), leaves, strict=True):
        assert (found.double() - leaf.grad).abs().max() <= 8e-3 * leaf.grad.abs().max()


def test_an_objective_that_is_not_per_token_is_refused():
    leaves, compared = setting()
    with pytest.raises(ValueError, match="one number for each token"):
        linear_objective(leaves[0], Head(*leaves[1:]), LABELS, lambda stats, at: stats.logp.sum(), compared=compared)
