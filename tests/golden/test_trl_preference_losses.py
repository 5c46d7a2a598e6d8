"""Divergence as link x preference loss against TRL 1.16's DPO trainer, loss and gradient, on random pairs of unequal lengths.

TRL's own `_compute_loss` runs, on a trainer whose model answers with given log-probs: what it reads of a trainer is `trainer` below.
Ours is the learner's loss, `learner/objective.py`, of `algorithm: dpo` and a regularizer with `placement: link`. alpha_TRL = 1 - alpha;
TRL's alpha knows no float64, so that link is compared in float32.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import built
from torch import Tensor

from align.coefficients.constant import Constant
from align.contexts import TokenContext
from align.divergences import Divergence
from align.divergences.alpha import Alpha
from align.divergences.forward_kl import ForwardKl
from align.divergences.jensen_shannon import JensenShannon
from align.divergences.reverse_kl import ReverseKl
from align.estimators.sampled import Sampled
from align.learner.metric_accumulator import MetricAccumulator
from align.learner.objective import total
from align.references.frozen import Frozen
from align.regularizers.composed import Composed
from align.types import TokenBatch
from align.weightings.uniform import Uniform

LONGEST, PROMPT, BETA = 8, 3, 0.5
LINKS: dict[str, tuple[str, float, Divergence]] = {
    "reverse_kl": ("reverse_kl", 0.5, ReverseKl()),
    "forward_kl": ("forward_kl", 0.5, ForwardKl()),
    "jensen_shannon": ("js_divergence", 0.5, JensenShannon()),
    "alpha 0.3": ("alpha_divergence", 0.7, Alpha(alpha=0.3)),
    "alpha 0.9": ("alpha_divergence", 0.1, Alpha(alpha=0.9)),
}
LOSSES: dict[str, dict[str, Any]] = {
    "sigmoid": {},
    "hinge": {"preference": "hinge"},
    "robust": {"preference": {"name": "robust", "label_smoothing": 0.1}},
    "ipo": {"preference": "ipo", "per_token": True},
    "sigmoid_norm": {"per_token": True},
}
"""By TRL's name: ours, keys of the algorithm."""


@pytest.fixture(scope="module")
def dpo() -> type:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TRL warns of the engine's version; no engine is used here
        from trl.trainer.dpo_trainer import DPOTrainer
    return DPOTrainer


class Draw:
    """Answers padded as TRL has them, the chosen ones first: log-probs of the policy, and sums of the reference's."""

    def __init__(self, seed: int, dtype: torch.dtype, pairs: int = 5):
        answers = 2 * pairs
        generator = torch.Generator().manual_seed(seed)
        self.lengths = torch.randint(1, LONGEST + 1, (answers,), generator=generator)
        self.mask = torch.arange(LONGEST) < self.lengths[:, None]
        ref = -torch.randn(answers, LONGEST, generator=generator, dtype=torch.float64).abs() - 0.05
        away = torch.randn(answers, LONGEST, generator=generator, dtype=torch.float64)
        self.ref, self.logp = (torch.where(self.mask, x, 0.0).to(dtype) for x in (ref, ref + away))


def theirs(trainer_class: type, draw: Draw, loss_type: str, f_divergence_type: str, alpha: float, smoothing: float = 0.0):
    """Loss, and its gradient with respect to each log-prob, [2 P, LONGEST]."""
    logp, answers = draw.logp.clone().requires_grad_(), len(draw.logp)
    unused = torch.zeros(answers, PROMPT - 1 + LONGEST)
    # A model's log-prob is 0 outside an answer, whatever stands there.
    log_probs = torch.cat([unused[:, LONGEST:].to(logp), logp * draw.mask], 1)
    outputs = SimpleNamespace(log_probs=log_probs, entropy=unused, mean_logits=unused, is_top1=unused.bool())
    trainer = object.__new__(trainer_class)
    vars(trainer).update(
        model=SimpleNamespace(training=True),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        use_weighting=False,
        f_divergence_type=f_divergence_type,
        f_alpha_divergence_coef=alpha,
        loss_types=[loss_type],
        loss_weights=[1.0],
        beta=BETA,
        label_smoothing=smoothing,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        accelerator=SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x),
    )
    completion = torch.cat([torch.zeros(answers, PROMPT, dtype=torch.int64), draw.mask.long()], 1)
    chosen, rejected = draw.ref.sum(1).chunk(2)
    inputs = {
        "input_ids": torch.ones_like(completion),
        "attention_mask": torch.ones_like(completion),
        "completion_mask": completion,
        "ref_chosen_logps": chosen,
        "ref_rejected_logps": rejected,
    }
    loss = trainer._compute_loss(lambda **kwargs: outputs, inputs, return_outputs=False)
    return loss.detach(), torch.autograd.grad(loss, logp)[0]


def ours(draw: Draw, divergence: Divergence, beta: float, **keys: Any) -> tuple[Tensor, Tensor]:
    """The same of the learner's loss, under these keys of the algorithm: the answers of a pair next to each other, the chosen first."""
    logp, pairs = draw.logp.clone().requires_grad_(), len(draw.logp) // 2
    order = torch.arange(2 * pairs).view(2, pairs).T.flatten()
    kept, lengths = draw.mask[order], draw.lengths[order]
    at = built.single_turn(torch.full((2 * pairs,), PROMPT), lengths)
    seq_ids = at["seq_ids"]
    batch = TokenBatch(
        input_ids=torch.full((2 * pairs, PROMPT + LONGEST), 7),
        **at,
        group_ids=torch.arange(pairs).repeat_interleave(2),
        betas={"kl": beta},
        ref_logp={"kl": draw.ref[order][kept]},
        penalty_weights={"kl": torch.ones(len(seq_ids), dtype=logp.dtype)},
        loss_weights=built.weights("sequence_sum", lengths, LONGEST)[seq_ids].to(logp.dtype),
    )
    ctx = TokenContext(batch=batch, logp=logp[order][kept], entropy=torch.zeros(len(seq_ids)))
    kl = Composed(
        divergence=divergence, estimator=Sampled(), coefficient=Constant(beta), weighting=Uniform(), reference=Frozen(), placement="link"
    )
    loss = total(
        SimpleNamespace(algorithm=built.algorithm("dpo", **keys), regularizers={"kl": kl}), ctx, MetricAccumulator(), MetricAccumulator()
    )
    return loss.detach(), torch.autograd.grad(loss, logp)[0]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("loss_type", LOSSES)
@pytest.mark.parametrize("name", LINKS)
def test_losses_of_the_dpo_trainer(name: str, loss_type: str, seed: int, dpo: type):
    f_divergence_type, alpha, divergence = LINKS[name]
    dtype = torch.float32 if f_divergence_type == "alpha_divergence" else torch.float64
    draw, keys = Draw(seed, dtype), LOSSES[loss_type]
    expected = theirs(dpo, draw, loss_type, f_divergence_type, alpha, smoothing=0.1 if loss_type == "robust" else 0.0)
    compare(expected, ours(draw, divergence, BETA, **keys))


@pytest.mark.parametrize("seed", range(3))
def test_cdpo_is_the_aot_of_a_single_pair(seed: int, dpo: type):
    """TRL's DPO trainer has conservative labels there alone; a batch of one pair has nothing to sort."""
    draw = Draw(seed, torch.float64, pairs=1)
    expected = theirs(dpo, draw, "aot_unpaired", "reverse_kl", 0.5, smoothing=0.2)
    compare(expected, ours(draw, ReverseKl(), BETA, preference={"name": "cdpo", "label_smoothing": 0.2}))


def compare(expected: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor]) -> None:
    """To 7 digits, the reductions' weights being float32; where TRL is in float32, to 6."""
    digits = {"rtol": 2e-7, "atol": 1e-7} if expected[0].dtype == torch.float64 else {"rtol": 2e-6, "atol": 1e-6}
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, **digits)
    assert expected[1].abs().max() > 1e-3


def test_the_hinge_is_met_from_both_sides():
    """Of the draws above, else the comparison would say little of it."""
    active = []
    for seed in range(3):
        draw = Draw(seed, torch.float64)
        active += (ours(draw, ReverseKl(), BETA, preference="hinge")[1].abs().sum(1) > 0)[:5].tolist()
    assert 0 < sum(active) < len(active)


def test_a_log_ratio_beyond_float32_stays_finite(dpo: type):
    """A chosen answer that the policy has given up, 100 nats below the reference: TRL's forward KL is inf, ours a steep pull back."""
    draw = Draw(0, torch.float32)
    draw.logp[0, 0] = draw.ref[0].sum() - 100
    loss, _ = theirs(dpo, draw, "sigmoid", "forward_kl", 0.5)
    assert not loss.isfinite()
    loss, gradient = ours(draw, ForwardKl(), BETA)
    assert loss.isfinite() and gradient.isfinite().all()
    assert gradient[0, 0] < -1e10
