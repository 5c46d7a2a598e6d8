"""The one door to the head: log-prob, entropy and exact divergence equal the direct computation, without a [T, V] matrix."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.sizes import Sizes
from torch import Tensor

from align.core.logprobs import Compared, Head, exact_divergence, token_stats
from align.divergences.forward_kl import ForwardKl
from align.divergences.jensen_shannon import JensenShannon
from align.divergences.reverse_kl import ReverseKl
from align.divergences.tsallis import Tsallis

T, V, H = 48, 37, 5
KINDS = {
    "plain": {},
    "bias": {"bias": True},
    "granite": {"scale": 0.125},
    "gemma2": {"softcap": 3.0},
    "all": {"bias": True, "scale": 1.7, "softcap": 2.0},
}


def normal(*shape: int, seed: int, dtype=torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def make_head(kind: str, seed: int) -> Head:
    keys = dict(KINDS[kind])
    bias = normal(V, seed=seed + 1) if keys.pop("bias", False) else None
    return Head(weight=0.7 * normal(V, H, seed=seed), bias=bias, **keys)


def direct_logits(hidden: Tensor, head: Head, temperature: float) -> Tensor:
    """As transformers' models write it: projection, `logit_scale`, `final_logit_softcapping`; then the sampler's temperature."""
    logits = hidden @ head.weight.T
    if head.bias is not None:
        logits = logits + head.bias
    logits = logits * head.scale
    if head.softcap is not None:
        logits = torch.tanh(logits / head.softcap) * head.softcap
    return logits / temperature


@pytest.mark.parametrize("elements", [1, 5 * V, 1 << 24])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_direct_computation(kind, temperature, elements):
    tokens = 13  # odd, so that the last chunk is a rest; the labels go up to the last of the vocabulary
    hidden, labels = normal(tokens, H, seed=0).requires_grad_(), torch.arange(tokens) * 3
    head, ref_head, ref_hidden = make_head(kind, 1), make_head(kind, 5), normal(tokens, H, seed=9)
    trained = [hidden, head.weight.requires_grad_(), *([head.bias.requires_grad_()] if head.bias is not None else [])]

    p = torch.softmax(direct_logits(hidden, head, temperature), -1)
    q = torch.softmax(direct_logits(ref_hidden, ref_head, temperature), -1)
    exact = {"rkl": (p * (p / q).log()).sum(-1), "fkl": (q * (q / p).log()).sum(-1), "chi2": ((p - q) ** 2 / q).sum(-1)}
    logp = p[torch.arange(tokens), labels].log()
    entropy = -(p * p.log()).sum(-1)

    divergences = {"rkl": ReverseKl(), "fkl": ForwardKl(), "chi2": Tsallis(q=2.0)}
    compared = {name: Compared(d, ref_hidden, ref_head) for name, d in divergences.items()}
    stats = token_stats(hidden, head, labels, temperature=temperature, compared=compared, elements=elements)
    torch.testing.assert_close(stats.logp, logp, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(stats.entropy, entropy.detach(), rtol=1e-11, atol=1e-11)
    assert not stats.entropy.requires_grad
    weights = normal(4, tokens, seed=11)
    for name, expected in exact.items():
        torch.testing.assert_close(stats.exact[name], expected, rtol=1e-10, atol=1e-10)
    total = (weights[0] * stats.logp).sum() + sum((w * stats.exact[n]).sum() for w, n in zip(weights[1:], exact, strict=True))
    wanted = (weights[0] * logp).sum() + sum((w * exact[n]).sum() for w, n in zip(weights[1:], exact, strict=True))
    for found, expected in zip(torch.autograd.grad(total, trained), torch.autograd.grad(wanted, trained), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_get_float32_logits(dtype):
    """Nothing after the hidden states is rounded to the model's type, and a log-prob does not depend on what else was asked."""
    hidden, head = normal(T, H, seed=0, dtype=dtype), Head(weight=normal(V, H, seed=1, dtype=dtype), softcap=3.0)
    ref, labels = Compared(ReverseKl(), normal(T, H, seed=2, dtype=dtype), head), torch.arange(T) % V
    stats = token_stats(hidden, head, labels, temperature=0.7, compared={"kl": ref})
    assert {stats.logp.dtype, stats.entropy.dtype, stats.exact["kl"].dtype} == {torch.float32}
    logits = hidden.double() @ head.weight.double().T
    expected = torch.log_softmax(torch.tanh(logits / 3) * 3 / 0.7, -1)[torch.arange(T), labels]
    torch.testing.assert_close(stats.logp.double(), expected, rtol=0, atol=2e-6)
    assert torch.equal(stats.logp, token_stats(hidden, head, labels, temperature=0.7).logp)


def test_impossible_tokens():
    """Logits of -inf (padding of a vocabulary) on both sides: entropy, divergence and gradients are those without the tokens."""
    bias = torch.zeros(V, dtype=torch.float64)
    bias[-4:] = -torch.inf
    hidden, weight, ref_hidden = normal(T, H, seed=0).requires_grad_(), normal(V, H, seed=1), normal(T, H, seed=2)
    labels = torch.arange(T) % (V - 4)
    for divergence in (ReverseKl(), ForwardKl(), JensenShannon(), Tsallis(q=0.5)):
        results = []
        for head in (Head(weight, bias), Head(weight[:-4])):
            stats = token_stats(hidden, head, labels, compared={"d": Compared(divergence, ref_hidden, head)})
            (grad,) = torch.autograd.grad(stats.logp.sum() + stats.exact["d"].sum(), hidden)
            results.append((stats.logp, stats.entropy, stats.exact["d"], grad))
        for masked, shorter in zip(*results, strict=True):
            torch.testing.assert_close(masked, shorter, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outcomes_only_one_side_allows(dtype):
    """At u = 0 and u = inf a bounded f has a limit: reverse KL drops the lost mass, Jensen-Shannon and Hellinger stay below their bound."""
    full, cut = torch.tensor([0.2, 0.3, 0.5], dtype=dtype), torch.tensor([0.0, 0.4, 0.6], dtype=dtype)
    kl = torch.tensor(0.4 * math.log(0.4 / 0.3) + 0.6 * math.log(0.6 / 0.5), dtype=dtype)
    middle = (full + cut) / 2
    shannon = torch.special.xlogy(full, full / middle).sum() + torch.special.xlogy(cut, cut / middle).sum()
    hellinger = ((full.sqrt() - cut.sqrt()) ** 2).sum()
    cases = [
        (ReverseKl(), cut, full, kl),
        (ForwardKl(), full, cut, kl),
        (JensenShannon(), cut, full, shannon),
        (JensenShannon(), full, cut, shannon),
        (Tsallis(q=0.5), cut, full, hellinger),
        (Tsallis(q=0.5), full, cut, hellinger),
    ]
    for divergence, pi, ref, expected in cases:
        logits = pi.log().requires_grad_()
        found = exact_divergence(divergence, torch.log_softmax(logits, -1), ref.log())
        torch.testing.assert_close(found, expected, rtol=8 * torch.finfo(dtype).eps, atol=0)
        (grad,) = torch.autograd.grad(found, logits)
        assert torch.isfinite(grad).all()


def test_the_logits_never_exist_at_once():
    """Neither in the forward nor in the backward pass: the largest tensor is a chunk, and no chunk is kept for the backward."""
    tokens, vocabulary, width, rows = 300, 500, 4, 8
    hidden, ref_hidden = normal(tokens, width, seed=0).requires_grad_(), normal(tokens, width, seed=1)
    head, labels = Head(normal(vocabulary, width, seed=2).requires_grad_()), torch.arange(tokens)
    compared = {"kl": Compared(ReverseKl(), ref_hidden, Head(normal(vocabulary, width, seed=3)))}
    kept = []
    with Sizes() as sizes, torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        stats = token_stats(hidden, head, labels, compared=compared, elements=2 * rows * vocabulary)
        kept_after_forward = sum(kept)
        (stats.logp.sum() + stats.exact["kl"].sum()).backward()
    assert sizes.largest == rows * vocabulary, "the policy's and the reference's logits share the budget"
    assert kept_after_forward < tokens * vocabulary / 9
    assert hidden.grad.abs().sum() > 0 and head.weight.grad.abs().sum() > 0


def test_one_row_is_the_least():
    """`elements` below the vocabulary still makes progress, one token at a time."""
    hidden, head, labels = normal(T, H, seed=0), make_head("plain", 1), torch.arange(T) % V
    with Sizes() as sizes:
        token_stats(hidden, head, labels, elements=1)
    assert sizes.largest == V * H, "the weight itself"
