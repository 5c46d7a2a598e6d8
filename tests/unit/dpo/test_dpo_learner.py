"""DPO in the learner against plain torch: loss, gradient, micro-batches that keep pairs together, minibatches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from unit.dpo.pairs import BETA, LORA, batch, gradient, hf, log_ratios, make, moved, pairs

from align.errors import RunStopped
from align.experience.packing import pack
from align.learner.learner import Learner
from align.learner.micro_batches import micro_batches, minibatches
from align.types import TokenBatch


def direct(learner: Learner, folder: Path, packed: TokenBatch, loss) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradient of the policy by plain torch, `loss` a function of the log-ratios of chosen and rejected."""
    x = log_ratios(learner.policy.module, hf(folder), packed)
    value = loss(x[::2], x[1::2]).mean()
    names, parameters = zip(*learner.policy.trained(), strict=True)
    return value.detach(), dict(zip(names, torch.autograd.grad(value, parameters), strict=True))


FORMULAS = {
    "sigmoid": (lambda w, r: -logsigmoid(BETA * (w - r)), {}, {}),
    "hinge": (lambda w, r: torch.relu(1 - BETA * (w - r)), {"preference": "hinge"}, {}),
    "ipo": (lambda w, r: (w - r - 1 / (2 * BETA)) ** 2, {"preference": "ipo"}, {}),
    "robust": (
        lambda w, r: (-0.9 * logsigmoid(BETA * (w - r)) + 0.1 * logsigmoid(-BETA * (w - r))) / 0.8,
        {"preference": {"name": "robust", "label_smoothing": 0.1}},
        {},
    ),
    "forward_kl": (lambda w, r: -logsigmoid(BETA * ((1 - torch.exp(-w)) - (1 - torch.exp(-r)))), {}, {"divergence": "forward_kl"}),
    "jensen_shannon": (lambda w, r: -logsigmoid(BETA * (logsigmoid(w) - logsigmoid(r))), {}, {"divergence": "jensen_shannon"}),
    "alpha": (
        lambda w, r: -logsigmoid(BETA * (torch.exp(-0.3 * r) - torch.exp(-0.3 * w)) / 0.3),
        {},
        {"divergence": {"name": "alpha", "alpha": 0.3}},
    ),
    "tsallis": (
        lambda w, r: -logsigmoid(BETA * (torch.exp(-w / 2) - torch.exp(-r / 2)) * 0.5 / -0.5),
        {},
        {"divergence": {"name": "tsallis", "q": 0.5}},
    ),
}
"""As TRL's `_compute_loss` writes them, alpha_TRL = 1 - alpha; with the keys of algorithm and link."""


@pytest.mark.parametrize("lora", [{}, LORA], ids=["whole", "lora"])
@pytest.mark.parametrize("name", FORMULAS)
def test_loss_and_gradient_are_those_of_plain_torch(model: Path, name: str, lora: dict):
    loss, algorithm, link = FORMULAS[name]
    learner = moved(
        make(
            model,
            link=link,
            algorithm={"name": "dpo"} | algorithm,
            model={"path": str(model), "lora": lora},
            optimizer={"lr": 1e-2, "max_grad_norm": 1e9},
        )
    )
    scored = batch(learner)
    expected, by_hand = direct(learner, model, scored, loss)
    found, stats = gradient(learner, scored)
    assert stats["loss/policy"].mean == pytest.approx(expected.item(), rel=2e-5)
    size = max(g.abs().max() for g in by_hand.values())
    assert found.keys() == by_hand.keys() and size > 1e-3
    for n, g in by_hand.items():
        torch.testing.assert_close(found[n], g, rtol=1e-3, atol=2e-5 * size.item())


@pytest.mark.parametrize("lora", [{}, LORA], ids=["whole", "lora"])
def test_the_first_update_starts_at_log_two(model: Path, lora: dict):
    learner = make(model, model={"path": str(model), "lora": lora})
    stats = learner.update(batch(learner), 0)
    assert stats["loss/policy"].mean == pytest.approx(np.log(2), abs=1e-6)
    assert stats["preference/margin"].mean == pytest.approx(0, abs=1e-5) and stats["divergence/kl"].mean == pytest.approx(0, abs=1e-5)
    later = [learner.update(batch(learner), step) for step in range(1, 12)][-1]
    assert later["loss/policy"].mean < 0.6 and later["preference/accuracy"].mean > 0.7, "it learns the pairs it is shown"
    assert later["preference/chosen"].mean > later["preference/rejected"].mean


@pytest.mark.parametrize("answers", [2, 4])
def test_the_gradient_does_not_depend_on_micro_batches(model: Path, answers: int):
    found = {}
    for micro_tokens in (10_000, 40, 1):
        learner = moved(make(model, batch={"prompts": 4, "micro_tokens": micro_tokens}))
        found[micro_tokens] = gradient(learner, batch(learner, answers=answers))
    whole, stats = found[10_000]
    for micro_tokens in (40, 1):
        for n, g in whole.items():
            torch.testing.assert_close(found[micro_tokens][0][n], g, rtol=1e-4, atol=1e-6)
        other = found[micro_tokens][1]
        for key in ("loss/policy", "preference/margin", "preference/accuracy", "divergence/kl"):
            assert other[key].mean == pytest.approx(stats[key].mean, rel=1e-4, abs=1e-6) and other[key].count == stats[key].count, key


@pytest.mark.parametrize("answers", [2, 3])
def test_no_group_is_split_and_every_token_comes_once(answers: int):
    packed = pack(pairs(1, 9, answers), None)
    for limit in (1, 60, 10_000):
        seen, parts = [], list(micro_batches(packed, limit, whole_groups=True))
        for chosen, micro in parts:
            assert torch.equal(micro.tokens, packed.tokens[chosen])
            assert (torch.bincount(micro.group_ids)[micro.group_ids.unique()] == answers).all()
            assert micro.input_ids.numel() <= limit or len(micro.lengths) == answers
            assert micro.prompt_ids == tuple(str(g) for g in micro.group_ids.tolist()), "best first, as they stood"
            seen += chosen.tolist()
        assert sorted(seen) == list(range(len(packed.seq_ids)))
        assert len(parts) == {1: 9, 10_000: 1}.get(limit, len(parts)) and (limit != 60 or 1 < len(parts) < 9)
    minis = list(minibatches(packed, 3, seed=0))
    assert [len(m.lengths) for m in minis] == [3 * answers] * 3
    assert all((torch.bincount(m.group_ids)[m.group_ids.unique()] == answers).all() for m in minis)


def test_minibatches_and_epochs_are_updates_against_the_reference_that_scored_the_batch(model: Path):
    learner = make(model, algorithm={"name": "dpo", "epochs": 2, "minibatches": 2}, link={"reference": {"name": "hard_reset", "every": 1}})
    stats = learner.update(batch(learner), 0)
    assert learner.updates == 4 and stats["ref/kl/version"].mean == 4
    assert stats["preference/margin"].count == 2 * 4 and abs(stats["preference/margin"].mean) > 1e-4


def test_a_policy_that_is_not_its_reference_stops_the_run(model: Path):
    learner = make(model)
    for _, p in learner.policy.trained():
        p.data += 0.02
    with pytest.raises(RunStopped, match="before the first update the policy is"):
        learner.update(batch(learner), 0)
