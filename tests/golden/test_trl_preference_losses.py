"""Divergence as link x preference loss against TRL 1.16's DPO trainer, loss and gradient, on random pairs of unequal lengths.

TRL's own `_compute_loss` runs, on a trainer whose model answers with given log-probs: what it reads of a trainer is `trainer` below.
alpha_TRL = 1 - alpha. TRL's alpha knows no float64, so that link is compared in float32.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from align.core import preference
from align.core.links import link
from align.core.segments import segment_sum
from align.divergences import Divergence
from align.divergences.alpha import Alpha
from align.divergences.forward_kl import ForwardKl
from align.divergences.jensen_shannon import JensenShannon
from align.divergences.reverse_kl import ReverseKl

LONGEST, PROMPT = 8, 3
LINKS: dict[str, tuple[str, float, Divergence]] = {
    "reverse_kl": ("reverse_kl", 0.5, ReverseKl()),
    "forward_kl": ("forward_kl", 0.5, ForwardKl()),
    "jensen_shannon": ("js_divergence", 0.5, JensenShannon()),
    "alpha 0.3": ("alpha_divergence", 0.7, Alpha(alpha=0.3)),
    "alpha 0.9": ("alpha_divergence", 0.1, Alpha(alpha=0.9)),
}
LOSSES = {"sigmoid": "sigmoid", "hinge": "hinge", "ipo": "ipo", "robust": "robust", "sigmoid_norm": "sigmoid"}
"""By TRL's name: ours. ipo and sigmoid_norm divide the scores by the lengths."""


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


def theirs(trainer_class: type, draw: Draw, loss_type: str, f_divergence_type: str, alpha: float, beta: float, smoothing: float):
    """Loss, and its gradient with respect to each log-prob, [2 P, LONGEST]."""
    logp, answers = draw.logp.clone().requires_grad_(), len(draw.logp)
    unused = torch.zeros(answers, PROMPT - 1 + LONGEST)
    # A model's log-prob is 0 outside an answer, whatever stands there.
    log_probs = torch.cat([unused[:, LONGEST:].to(logp), logp * draw.mask], 1)
    outputs = SimpleNamespace(log_probs=log_probs, entropy=unused, mean_logits=unused, is_top1=unused.bool())
    trainer = object.__new__(trainer_class)
    vars(trainer).update(
        model=SimpleNamespace(training=True), aux_loss_enabled=False, ld_alpha=None, precompute_ref_logps=True, use_weighting=False,
        f_divergence_type=f_divergence_type, f_alpha_divergence_coef=alpha, loss_types=[loss_type], loss_weights=[1.0], beta=beta,
        label_smoothing=smoothing, _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
        accelerator=SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x),
    )
    completion = torch.cat([torch.zeros(answers, PROMPT, dtype=torch.int64), draw.mask.long()], 1)
    chosen, rejected = draw.ref.sum(1).chunk(2)
    inputs = {"input_ids": torch.ones_like(completion), "attention_mask": torch.ones_like(completion), "completion_mask": completion,
              "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
    loss = trainer._compute_loss(lambda **kwargs: outputs, inputs, return_outputs=False)
    return loss.detach(), torch.autograd.grad(loss, logp)[0]


def ours(draw: Draw, loss_type: str, divergence: Divergence, beta: float, smoothing: float):
    """The same of ours."""
    logp = draw.logp.clone().requires_grad_()
    log_ratio = segment_sum((logp - draw.ref)[draw.mask], draw.mask.nonzero()[:, 0], len(logp))
    scores = link(divergence, log_ratio, limit=40.0)
    if loss_type in ("ipo", "sigmoid_norm"):
        scores = scores / draw.lengths
    loss = getattr(preference, LOSSES.get(loss_type, loss_type))(*scores.chunk(2), beta, smoothing).mean()
    return loss.detach(), torch.autograd.grad(loss, logp)[0]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("loss_type", LOSSES)
@pytest.mark.parametrize("name", LINKS)
def test_losses_of_the_dpo_trainer(name: str, loss_type: str, seed: int, dpo: type):
    f_divergence_type, alpha, divergence = LINKS[name]
    float32 = f_divergence_type == "alpha_divergence"
    draw = Draw(seed, torch.float32 if float32 else torch.float64)
    beta, smoothing = 0.5, 0.1 if loss_type == "robust" else 0.0
    expected = theirs(dpo, draw, loss_type, f_divergence_type, alpha, beta, smoothing)
    found = ours(draw, loss_type, divergence, beta, smoothing)
    digits = {"rtol": 2e-6, "atol": 1e-6} if float32 else {"rtol": 1e-12, "atol": 1e-13}
    torch.testing.assert_close(found[0], expected[0], **digits)
    torch.testing.assert_close(found[1], expected[1], **digits)
    assert expected[1].abs().max() > 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_cdpo_is_the_aot_of_a_single_pair(seed: int, dpo: type):
    """TRL's DPO trainer has conservative labels there alone; a batch of one pair has nothing to sort."""
    draw = Draw(seed, torch.float64, pairs=1)
    for found, expected in zip(ours(draw, "cdpo", ReverseKl(), 0.5, 0.2), theirs(dpo, draw, "aot_unpaired", "reverse_kl", 0.5, 0.5, 0.2),
                               strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


def test_the_hinge_is_met_from_both_sides():
    """Of the draws above, else the comparison would say little of it."""
    active = []
    for seed in range(3):
        draw = Draw(seed, torch.float64)
        active += (ours(draw, "hinge", ReverseKl(), 0.5, 0.0)[1].abs().sum(1) > 0)[:5].tolist()
    assert 0 < sum(active) < len(active)


def test_a_log_ratio_beyond_float32_stays_finite(dpo: type):
    """A chosen answer that the policy has given up, 100 nats below the reference: TRL's forward KL is inf, ours a steep pull back."""
    draw = Draw(0, torch.float32)
    draw.logp[0, 0] = draw.ref[0].sum() - 100
    loss, _ = theirs(dpo, draw, "sigmoid", "forward_kl", 0.5, 0.3, 0.0)
    assert not loss.isfinite()
    loss, gradient = ours(draw, "sigmoid", ForwardKl(), 0.3, 0.0)
    assert loss.isfinite() and gradient.isfinite().all()
    assert gradient[0, 0] < -1e10
