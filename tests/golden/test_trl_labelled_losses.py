"""KTO against TRL 1.16's trainer, loss and gradient, on random labelled answers and answers to other prompts; BCO against its definition.

TRL's own `_compute_loss` runs, on a trainer whose model answers with given log-probs. Ours is the learner's loss of the batch that
`prepare_batch` makes of scored answers.
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

from align.config import recipes
from align.contexts import TokenContext
from align.experience.prepare import prepare_batch
from align.learner.metric_accumulator import MetricAccumulator
from align.learner.objective import total
from align.types import TokenBatch

LONGEST, PROMPT, BETA, COUNT = 7, 3, 0.5, 8


@pytest.fixture(scope="module")
def kto() -> type:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TRL warns of the engine's version; no engine is used here
        from trl.trainer.kto_trainer import KTOTrainer
    return KTOTrainer


class Draw:
    """Eight labelled answers and eight to other prompts, padded: log-probs of the policy and the reference."""

    def __init__(self, seed: int, drift: float = 0.5, labels: str = "11010010"):
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.tensor([int(label) for label in labels])
        self.lengths = torch.randint(1, LONGEST + 1, (2 * COUNT,), generator=generator)
        self.mask = torch.arange(LONGEST) < self.lengths[:, None]
        ref = -torch.randn(2 * COUNT, LONGEST, generator=generator, dtype=torch.float64).abs() - 0.05
        away = torch.randn(2 * COUNT, LONGEST, generator=generator, dtype=torch.float64) + drift
        self.ref, self.logp = (torch.where(self.mask, x, 0.0) for x in (ref, ref + away))


def theirs(trainer_class: type, draw: Draw, good: float, bad: float) -> tuple[Tensor, Tensor]:
    logp = draw.logp.clone().requires_grad_()
    unused = torch.zeros(COUNT, PROMPT - 1 + LONGEST)

    def model(input_ids: Tensor, **_: Any) -> SimpleNamespace:
        rows = (logp * draw.mask)[COUNT:] if input_ids[0, 0] == 1 else (logp * draw.mask)[:COUNT]
        log_probs = torch.cat([unused[:, LONGEST:].to(logp), rows], 1)
        return SimpleNamespace(log_probs=log_probs, entropy=unused, mean_logits=unused)

    trainer = object.__new__(trainer_class)
    vars(trainer).update(
        model=SimpleNamespace(training=True), calculate_KL=True, aux_loss_enabled=False, precompute_ref_logps=True, loss_type="kto",
        beta=BETA,
        desirable_weight=good, undesirable_weight=bad, _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
        accelerator=SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x),
    )  # fmt: skip
    masks = torch.cat([torch.zeros(2 * COUNT, PROMPT, dtype=torch.int64), draw.mask.long()], 1)
    ones, ref = torch.ones_like(masks[:COUNT]), draw.ref.sum(1)
    inputs = {
        "input_ids": 0 * ones, "attention_mask": ones, "completion_mask": masks[:COUNT], "label": draw.labels.bool(),
        "ref_logps": ref[:COUNT],
        "KL_input_ids": ones, "KL_attention_mask": ones, "KL_completion_mask": masks[COUNT:], "ref_KL_logps": ref[COUNT:],
    }  # fmt: skip
    loss = trainer._compute_loss(model, inputs, return_outputs=False)
    return loss.detach(), torch.autograd.grad(loss, logp)[0]


def ours(draw: Draw, **algorithm: Any) -> tuple[Tensor, Tensor]:
    """The same of the learner's loss: each answer in a group with one to another prompt."""
    recipe = recipes.build(
        {
            "steps": 1,
            "task": {"name": "labelled", "path": "nowhere.jsonl"},
            "algorithm": algorithm,
            "batch": {"prompts": COUNT},
            "model": {"path": "nowhere"},
            "regularizers": {"kl": {"placement": "link", "coefficient": BETA}},
        }
    )
    order = torch.arange(2 * COUNT).view(2, COUNT).T.flatten()
    kept, lengths = draw.mask[order], draw.lengths[order]
    labels = torch.stack([draw.labels, -torch.ones_like(draw.labels)], 1).flatten()
    old = draw.logp[order][kept]
    batch = TokenBatch(
        input_ids=torch.full((2 * COUNT, PROMPT + LONGEST), 7),
        **built.single_turn(torch.full((2 * COUNT,), PROMPT), lengths),
        group_ids=torch.arange(COUNT).repeat_interleave(2),
        betas={"kl": BETA},
        old_logp=old,
        entropy=torch.zeros(len(old)),
        ref_logp={"kl": draw.ref[order][kept]},
        labels=labels,
    )
    prepared = prepare_batch(recipe, batch)
    assert prepared.labels is not None and torch.equal(prepared.labels, draw.labels)
    trained = draw.mask[:COUNT]
    weights = built.weights("sequence_sum", prepared.lengths, LONGEST)[prepared.seq_ids].to(old.dtype)
    logp = draw.logp.clone().requires_grad_()
    ctx = TokenContext(batch=replace(prepared, loss_weights=weights), logp=logp[:COUNT][trained], entropy=torch.zeros(len(weights)))
    loss = total(recipe, ctx, MetricAccumulator(), MetricAccumulator())
    return loss.detach(), torch.autograd.grad(loss, logp)[0]


def compare(expected: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor]) -> None:
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=2e-6, atol=1e-7)
    assert expected[1].abs().max() > 1e-3


@pytest.mark.parametrize(("good", "bad"), [(1.0, 1.0), (1.5, 0.25)])
@pytest.mark.parametrize("drift", [0.5, -0.5], ids=["farther", "nearer"])
def test_kto(drift: float, good: float, bad: float, kto: type):
    """With log-ratios of both signs: the estimate of the KL is kept at 0 where it is negative."""
    draw = Draw(1, drift)
    compare(theirs(kto, draw, good, bad), ours(draw, name="kto", good_weight=good, bad_weight=bad))


def test_kto_of_good_answers_alone(kto: type):
    draw = Draw(2, labels="11111111")
    compare(theirs(kto, draw, 1.0, 1.0), ours(draw, name="kto"))


def test_bco():
    """Jung et al. 2404.04656: cross-entropy of sigma(r - delta), delta = (E_good r + E_bad r)/2 without a gradient."""
    draw = Draw(3)
    logp, good = draw.logp.clone().requires_grad_(), draw.labels == 1
    reward = BETA * ((logp - draw.ref) * draw.mask).sum(1)[:COUNT]
    delta = (reward[good].mean() + reward[~good].mean()).detach() / 2
    loss = torch.nn.functional.binary_cross_entropy_with_logits(reward - delta, good.double())
    compare((loss.detach(), torch.autograd.grad(loss, logp)[0]), ours(draw, name="bco"))
