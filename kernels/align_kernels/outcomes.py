"""Divergences of whole rows, or over merged outcomes (top-k and the rest, a user's own): value and gradient in torch.

The map from tokens to outcomes is any differentiable torch function of both log-probs, so it needs rows whole and its gradient is
autograd's, a chunk of tokens at a time.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from align_kernels.head import Comparison, Scaling, every_token
from align_kernels.terms import OfRows, exact_divergence
from align_kernels.torch_rows import log_prob, scaled, unscaled


def merges(compared: Comparison, vocabulary: int, like: Tensor) -> bool:
    """Whether the divergence needs whole rows: it is one of them, or its outcomes are others than the tokens themselves, as one row of
    log-probs [1, V] shows, on the device and in the type of `like`."""
    if isinstance(compared.divergence, OfRows):
        return True
    if compared.divergence is None or compared.outcomes is every_token:
        return False
    logp = like.new_full((1, vocabulary), -math.log(vocabulary))
    ref_logp = logp.clone()
    found = compared.outcomes(logp, ref_logp)
    return not (found[0] is logp and found[1] is ref_logp)


def log_probs(z: Tensor, lse: Tensor, scaling: Scaling) -> Tensor:
    return log_prob(scaled(z, *scaling), lse)


def outcome_sum(compared: Comparison, logp: Tensor, ref_logp: Tensor) -> Tensor:
    """log-probs [T, V] -> the divergence of the outcomes [T], with its transform."""
    return exact_divergence(compared.divergence, *compared.outcomes(logp, ref_logp))


def outcome_grad(compared: Comparison, z: Tensor, ref_z: Tensor, lse_p: Tensor, lse_q: Tensor, w: Tensor, policy: Scaling) -> Tensor:
    """The gradient of `(w * divergence).sum()` wrt the unscaled logits z [T, V]; `policy` is their scaling."""
    x: Any = scaled(z, *policy)
    with torch.enable_grad():
        logp = log_prob(x, lse_p).requires_grad_()
        value = outcome_sum(compared, logp, log_probs(ref_z, lse_q, compared.scaling))
        (pull,) = torch.autograd.grad(value, logp, w)
    return unscaled(pull - logp.detach().exp() * pull.sum(-1, keepdim=True), x, *policy)
