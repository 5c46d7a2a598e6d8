"""Advantage x surrogate x reduction against TRL 1.16's GRPO and RLOO trainers, loss and gradient, on random batches.

TRL's own `_compute_loss` runs, on a trainer that is given the log-probs instead of a model: what it reads of a trainer is `trainer` below.
Ours is the learner's loss, `learner/objective.py`, of recipes that name a surrogate and a reduction; the reductions' weights are
float32: 7 digits.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import built
from torch import Tensor

from align.coefficients.constant import Constant
from align.contexts import TokenContext
from align.core.credit import Packing
from align.divergences.reverse_kl import ReverseKl
from align.estimators import Estimator
from align.estimators.k3 import K3
from align.estimators.sampled import Sampled
from align.learner.metric_accumulator import MetricAccumulator
from align.learner.objective import total
from align.references.frozen import Frozen
from align.regularizers.composed import Composed
from align.types import TokenBatch
from align.weightings.uniform import Uniform

LONGEST, MAX_TOKENS = 9, 12


@pytest.fixture(scope="module")
def trl() -> SimpleNamespace:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TRL warns of the engine's version; no engine is used here
        from trl.trainer.grpo_trainer import GRPOTrainer
        from trl.trainer.rloo_trainer import RLOOTrainer
    return SimpleNamespace(grpo=GRPOTrainer, rloo=RLOOTrainer)


class Draw:
    """Six answers of one to nine tokens, padded as TRL has them: log-probs of three policies a moderate way apart, and advantages."""

    def __init__(self, seed: int):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.lengths = torch.randint(1, LONGEST + 1, (6,), generator=generator)
        self.lengths[0] = LONGEST
        self.mask = (torch.arange(LONGEST) < self.lengths[:, None]).double()
        self.old = -normal(6, LONGEST).abs() - 0.05
        self.logp = self.old + 0.3 * normal(6, LONGEST)
        self.ref = self.old + 0.3 * normal(6, LONGEST)
        self.advantages = normal(6)
        self.advantages[1] = 0.0

    def inputs(self) -> dict[str, Tensor]:
        prompts = torch.ones(6, 2, dtype=torch.int64)
        return {
            "prompt_ids": prompts,
            "prompt_mask": prompts,
            "completion_ids": torch.ones(6, LONGEST, dtype=torch.int64),
            "completion_mask": self.mask,
            "advantages": self.advantages,
            "old_per_token_logps": self.old,
            "ref_per_token_logps": self.ref,
            "old_logps": (self.old * self.mask).sum(1),
            "num_items_in_batch": self.mask.sum(),
        }

    def packed(self, logp: Tensor) -> TokenContext:
        kept = self.mask.bool()
        count = int(self.lengths.sum())
        batch = TokenBatch(
            input_ids=torch.full((6, 2 + LONGEST), 7),
            **built.single_turn(torch.full((6,), 2), self.lengths),
            group_ids=torch.zeros(6, dtype=torch.int64),
            old_logp=self.old[kept],
            ref_logp={"kl": self.ref[kept]},
            penalty_weights={"kl": torch.ones(count, dtype=torch.float64)},
        )
        return TokenContext(batch=batch, logp=logp[kept], entropy=torch.zeros(count, dtype=torch.float64))

    def reduced(self, ctx: TokenContext, reduction: str) -> TokenContext:
        weights = built.weights(reduction, self.lengths, MAX_TOKENS)[ctx.batch.seq_ids].double()
        return replace(ctx, batch=replace(ctx.batch, advantages=self.advantages[ctx.batch.seq_ids], loss_weights=weights))


ARGS = {"use_bias_correction_kl": True, "delta": None, "sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05, "steps_per_generation": 1}
SETTINGS = {"beta": 0.0, "epsilon_low": 0.2, "epsilon_high": 0.2, "importance_sampling_level": "token", "loss_type": "grpo"}


def theirs(trainer_class: type, draw: Draw, **settings: Any) -> tuple[Tensor, Tensor]:
    """Loss, and its gradient with respect to each log-prob, [6, LONGEST]."""
    logp = draw.logp.clone().requires_grad_()
    trainer = object.__new__(trainer_class)
    vars(trainer).update(
        {**SETTINGS, **{k: v for k, v in settings.items() if k not in ARGS}},
        args=SimpleNamespace(**{**ARGS, **{k: v for k, v in settings.items() if k in ARGS}}),
        model=SimpleNamespace(training=True),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        current_gradient_accumulation_steps=1,
        max_completion_length=MAX_TOKENS,
        _entropy_bonus_enabled=False,
        accelerator=SimpleNamespace(num_processes=1, reduce=lambda x, reduction: x, gather=lambda x: x),
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (logp, torch.zeros_like(logp.detach()), None),
    )
    loss = trainer._compute_loss(None, draw.inputs())
    return loss.detach(), torch.autograd.grad(loss, logp)[0]


def ours(draw: Draw, keys: dict[str, Any], beta: float = 0.0, estimator: Estimator | None = None) -> tuple[Tensor, Tensor]:
    """The same of the learner's loss under these keys of the algorithm."""
    logp = draw.logp.clone().requires_grad_()
    algorithm, regularizers = built.algorithm("grpo", **keys), {}
    ctx = draw.reduced(draw.packed(logp), keys.get("reduction", "token"))
    if beta:
        regularizers["kl"] = Composed(
            divergence=ReverseKl(), estimator=estimator, coefficient=Constant(beta), weighting=Uniform(), reference=Frozen()
        )
        ctx = replace(ctx, batch=replace(ctx.batch, betas={"kl": beta}))
    loss = total(SimpleNamespace(algorithm=algorithm, regularizers=regularizers), ctx, MetricAccumulator(), MetricAccumulator())
    return loss.detach(), torch.autograd.grad(loss, logp)[0]


TABLE = {
    "grpo": ({}, {"reduction": "sequence_mean"}),
    "bnpo": ({"loss_type": "bnpo"}, {"reduction": "token"}),
    "dr_grpo": ({"loss_type": "dr_grpo"}, {"reduction": "constant"}),
    "dapo": ({"loss_type": "dapo", "epsilon_high": 0.28}, {"reduction": "token", "surrogate": {"clip_high": 0.28}}),
    "luspo": ({"loss_type": "luspo"}, {"reduction": "sequence_sum"}),
    "sapo": ({"loss_type": "sapo"}, {"reduction": "sequence_mean", "surrogate": "sapo"}),
    "sapo of other temperatures": (
        {"loss_type": "sapo", "sapo_temperature_pos": 0.5, "sapo_temperature_neg": 3.0},
        {"reduction": "sequence_mean", "surrogate": {"name": "sapo", "temperature": 0.5, "temperature_negative": 3.0}},
    ),
    "two-sided clip": ({"loss_type": "dapo", "delta": 1.3}, {"reduction": "token", "surrogate": {"name": "dual_clip", "ceiling": 1.3}}),
    "gspo": (
        {"importance_sampling_level": "sequence", "epsilon_low": 0.02, "epsilon_high": 0.03},
        {"reduction": "sequence_mean", "surrogate": {"name": "sequence_clipped", "clip_low": 0.02, "clip_high": 0.03}},
    ),
    "gspo summed": (
        {"importance_sampling_level": "sequence", "loss_type": "luspo"},
        {"reduction": "sequence_sum", "surrogate": "sequence_clipped"},
    ),
    "unclipped": ({"loss_type": "dapo", "epsilon_low": 1.0, "epsilon_high": 1e9}, {"reduction": "token", "surrogate": "reinforce"}),
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", TABLE)
def test_losses_of_the_grpo_trainer(name: str, seed: int, trl: SimpleNamespace):
    settings, keys = TABLE[name]
    draw = Draw(seed)
    compare(theirs(trl.grpo, draw, **settings), ours(draw, keys))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("loss_type", "reduction"), [("grpo", "sequence_mean"), ("dapo", "token"), ("dr_grpo", "constant")])
@pytest.mark.parametrize("estimator", [Sampled(), K3()], ids=["weighed by the ratio", "as published"])
def test_with_the_kl_in_the_loss(estimator: Estimator, loss_type: str, reduction: str, seed: int, trl: SimpleNamespace):
    """TRL's `use_bias_correction_kl` is `estimator: sampled`."""
    draw = Draw(seed)
    corrected = isinstance(estimator, Sampled)
    expected = theirs(trl.grpo, draw, loss_type=loss_type, beta=0.04, use_bias_correction_kl=corrected)
    compare(expected, ours(draw, {"reduction": reduction}, beta=0.04, estimator=estimator))


@pytest.mark.parametrize("seed", range(4))
def test_cispo(seed: int, trl: SimpleNamespace):
    """TRL's cap of 1.2 is clip_high = .2 with no bound from below; its loss is -w A log pi, where ours reads as -w A."""
    draw = Draw(seed)
    loss, gradient = theirs(trl.grpo, draw, loss_type="cispo", epsilon_high=1.2)
    keys = {"surrogate": {"name": "cispo", "clip_low": 1.0, "clip_high": 0.2}, "reduction": "token"}
    ctx = draw.reduced(draw.packed(draw.logp), "token")
    per_token, _ = built.algorithm("grpo", **keys).loss(ctx, ctx.batch.advantages)
    compare((loss, gradient), ((ctx.batch.loss_weights * per_token * ctx.logp).sum(), ours(draw, keys)[1]))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("clips", [(0.2, 0.2), (0.5, 2.0)], ids=["mostly cut", "mostly not"])
def test_loss_of_the_rloo_trainer(clips: tuple[float, float], seed: int, trl: SimpleNamespace):
    """The ratio of whole answers, which TRL sums over tokens and we put on the first."""
    draw = Draw(seed)
    keys = {
        "advantage": "leave_one_out",
        "reduction": "sequence_sum",
        "surrogate": {"name": "answer_clipped", "clip_low": clips[0], "clip_high": clips[1]},
    }
    compare(theirs(trl.rloo, draw, epsilon_low=clips[0], epsilon_high=clips[1]), ours(draw, keys))


def compare(theirs: tuple[Tensor, Tensor], ours: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(ours[0], theirs[0], rtol=2e-7, atol=2e-7)
    torch.testing.assert_close(ours[1], theirs[1], rtol=2e-7, atol=1e-14)
    assert theirs[1].abs().max() > 1e-3


def test_the_batches_meet_both_bounds():
    """Of the draws above, else the comparison would say nothing of clips."""
    cut = {"high": 0, "low": 0, "ceiling": 0, "answers": 0, "answers kept": 0}
    for seed in range(4):
        draw = Draw(seed)
        ctx = draw.packed(draw.logp)
        at = Packing(ctx.batch.seq_ids, ctx.batch.positions)
        advantages = draw.advantages[at.seq_ids]
        _, tokens = built.surrogate("clipped", ctx.log_rho, advantages, at, clip_high=0.28)
        _, answers = built.surrogate("answer_clipped", ctx.log_rho, advantages, at)
        cut["high"] += int((tokens & (advantages > 0)).sum())
        cut["low"] += int((tokens & (advantages < 0)).sum())
        cut["ceiling"] += int(((ctx.log_rho.exp() > 1.3) & (advantages < 0)).sum())
        cut["answers"] += int((answers & (at.positions == 0)).sum())
        cut["answers kept"] += int((~answers & (at.positions == 0)).sum())
    assert all(count >= 5 for count in cut.values()), cut
