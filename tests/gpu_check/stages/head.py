"""The head of a 1.5B model alone: log-prob and exact reverse KL, forward and backward, by the memory it may take."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from align.divergences.reverse_kl import ReverseKl
from align_kernels import Compared, Head, LinearStats, linear_stats
from gpu_check.findings import Findings
from gpu_check.measure import cost

CHECKED = 256
"""Tokens whose float64 truth is computed."""
CHUNK = 2048
"""Tokens at a time of the plain form."""


@dataclass(frozen=True)
class Operands:
    """A policy near its reference, as in training: logits of standard deviation 3, hidden states a little off."""

    hidden: Tensor
    """[T, H]; it and `weight` [V, H] get gradients."""
    weight: Tensor
    labels: Tensor
    ref_hidden: Tensor
    ref_weight: Tensor
    logp_weight: Tensor
    """float32 [T], the upstream gradient of the log-probs; `div_weight` that of the divergence."""
    div_weight: Tensor

    def first(self, tokens: int) -> Operands:
        return Operands(
            self.hidden[:tokens].detach().requires_grad_(),
            self.weight,
            self.labels[:tokens],
            self.ref_hidden[:tokens],
            self.ref_weight,
            self.logp_weight[:tokens],
            self.div_weight[:tokens],
        )


def run(found: Findings, device: str) -> None:
    large = device == "cuda"
    tokens, width, vocabulary = (32768, 1536, 151936) if large else (300, 32, 1009)
    at = operands(tokens, width, vocabulary, torch.bfloat16 if large else torch.float32, device)
    found.put("tokens x width x vocabulary", f"{tokens}x{width}x{vocabulary}")
    with found.case("errors"):
        found.put("against float64", errors(at.first(CHECKED)))
    small = 0 if large else 12
    budgets = {"2^24": 1 << 24 - small, "2^28": 1 << 28 - small, "2^30": 1 << 30 - small, "logits kept": 2 * tokens * vocabulary}
    for name, elements in budgets.items():
        with found.case(name):
            found.put(f"{name}, forward", cost(lambda elements=elements: forward(at, elements), device))
            found.put(f"{name}, forward and backward", cost(lambda elements=elements: both(at, elements), device))
    # No batch has a round number of tokens.
    odd = at.first(tokens - 37)
    with found.case("odd count"):
        found.put("2^28, 37 tokens fewer, forward and backward", cost(lambda: both(odd, budgets["2^28"]), device))
    with found.case("plain torch"):
        found.put(f"plain torch, {CHUNK} tokens at a time, forward and backward", cost(lambda: plain(at), device))


def operands(tokens: int, width: int, vocabulary: int, dtype: torch.dtype, device: str) -> Operands:
    generator = torch.Generator(device).manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, device=device)

    hidden, weight = normal(tokens, width), (3 * normal(vocabulary, width) / width**0.5).to(dtype)
    ref_hidden = (hidden + 0.03 * normal(tokens, width)).to(dtype)
    labels = torch.randint(vocabulary, (tokens,), generator=generator, device=device)
    ones = torch.ones(tokens, device=device)
    return Operands(
        hidden.to(dtype).requires_grad_(), weight.clone().requires_grad_(), labels, ref_hidden, weight, -ones / tokens, 0.1 * ones / tokens
    )


def stats(at: Operands, elements: int) -> LinearStats:
    """As the learner asks for them: float32 logits."""
    return linear_stats(
        at.hidden,
        Head(at.weight),
        at.labels,
        compared={"kl": Compared(ReverseKl(), at.ref_hidden, Head(at.ref_weight))},
        elements=elements,
        logits_dtype=torch.float32,
        ignore_index=None,
    )


@torch.no_grad()
def forward(at: Operands, elements: int) -> None:
    stats(at, elements)


def both(at: Operands, elements: int) -> None:
    at.hidden.grad = at.weight.grad = None
    s = stats(at, elements)
    (at.logp_weight * s.logp + at.div_weight * s.div["kl"]).sum().backward()


def plain(at: Operands) -> None:
    """What is usually written: logits in the model's type, float32 log-softmax, the gradients of chunks added up."""
    at.hidden.grad = at.weight.grad = None
    for i in range(0, len(at.labels), CHUNK):
        chosen = slice(i, i + CHUNK)
        with torch.no_grad():
            ref = torch.log_softmax((at.ref_hidden[chosen] @ at.ref_weight.T).float(), -1)
        own = torch.log_softmax((at.hidden[chosen] @ at.weight.T).float(), -1)
        logp, kl = own.gather(1, at.labels[chosen, None])[:, 0], (own.exp() * (own - ref)).sum(-1)
        (at.logp_weight[chosen] * logp + at.div_weight[chosen] * kl).sum().backward()


def errors(at: Operands) -> dict[str, float]:
    """Of both forms: the log-prob's error in nats, the KL's relative one, and of the hidden states' gradient the largest error over its
    largest element."""
    hidden, weight = (t.detach().double().requires_grad_() for t in (at.hidden, at.weight))
    own = torch.log_softmax(hidden @ weight.T, -1)
    ref = torch.log_softmax(at.ref_hidden.double() @ at.ref_weight.double().T, -1)
    logp, kl = own.gather(1, at.labels[:, None])[:, 0], (own.exp() * (own - ref)).sum(-1)
    (at.logp_weight * logp + at.div_weight * kl).sum().backward()
    s = stats(at, 1 << 28)
    found = {"log-prob": (s.logp - logp).abs().max().item(), "KL": ((s.div["kl"] - kl).abs() / kl).max().item()}
    for name, form in (("gradient", lambda: both(at, 1 << 28)), ("gradient of plain torch", lambda: plain(at))):
        form()
        found[name] = ((at.hidden.grad - hidden.grad).abs().max() / hidden.grad.abs().max()).item()
    return found
