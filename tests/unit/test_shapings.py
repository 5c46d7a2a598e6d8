"""Shapings: their numbers by hand and by TRL, every key alive, and what reaches the loss, the log and `explain`."""

from __future__ import annotations

import io
import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from models import tiny_model
from rich.console import Console
from torch import Tensor
from transformers import AutoModelForCausalLM

from align import recipe, registry
from align.catalogue import catalogue
from align.config import build_part
from align.core.advantages import group_standardised
from align.errors import RecipeError
from align.explain import explain
from align.learner.learner import Learner
from align.pack import pack
from align.shape import shape
from align.types import Group, Prompt, Rewards, Rollout, TokenBatch

PLUGIN = Path(__file__).parents[1] / "plugins" / "systematic.py"
LENGTHS = [2, 1, 3, 4]
SEQUENCES = torch.repeat_interleave(torch.arange(4), torch.tensor(LENGTHS))
ADVANTAGES = [0.8, 0.8, -0.5, -1.2, -1.2, -1.2, 0.0, 0.6, -0.3, 0.6]
ENTROPY = [0.5, 1.5, 2.0, 0.25, 0.75, 3.0, 1.25, 0.125, 0.5, 4.0]
OLD = [-0.1, -0.9, -0.5, -1.0, -40.0, -0.2, -0.7, -0.3, -1.5, -0.4]
GAP = [0.4, -0.1, 0.9, 0.0, -0.6, 0.1, -0.8, 0.2, 1.2, -0.2]
"""log pi_old - log mu."""


def batch(rewards=(1.0, 0.0, 0.0, 0.5), lengths=LENGTHS, groups=(0, 0, 0, 1), **changes) -> TokenBatch:
    lengths = torch.tensor(lengths)
    seq_ids = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    return replace(TokenBatch(
        input_ids=torch.arange(40).reshape(4, 10), prompt_lengths=torch.tensor([5, 5, 5, 3]), lengths=lengths, seq_ids=seq_ids,
        positions=torch.cat([torch.arange(n) for n in lengths]), group_ids=torch.tensor(groups), rewards=torch.tensor(rewards),
        old_logp=torch.tensor(OLD), sampler_logp=torch.tensor(OLD) - torch.tensor(GAP), entropy=torch.tensor(ENTROPY)), **changes)


def shaping(name: str, **keys):
    return build_part("shaping", {"name": name} | keys, "here")


def shaped(name: str, of: TokenBatch | None = None, advantages=ADVANTAGES, **keys) -> Tensor:
    return shaping(name, **keys).advantages(batch() if of is None else of, torch.tensor(advantages), "x")


def close(found: Tensor, expected) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), rtol=1e-6, atol=1e-7)


# overlong


def test_overlong_punishment_of_dapo():
    """The paper's numbers: at most 20480 tokens, 4096 of them buffer."""
    many = batch(lengths=[10000, 16384, 18432, 20480]), torch.tensor([1.0, 0.5, 0.5, -1.0])
    close(shaping("overlong", limit=20480, buffer=4096).rewards(*many), [1.0, 0.5, 0.0, -2.0])
    close(shaping("overlong", limit=20480, buffer=4096, factor=0.5).rewards(*many), [1.0, 0.5, 0.25, -1.5])
    close(shaping("overlong", limit=18432, buffer=8192).rewards(*many), [1.0, -0.25, -0.5, -2.0])


# length_complexity


def test_excess_length_of_wrong_answers_by_hand():
    """A group whose solved answers have 3 tokens on average; excess 0, 1000 and 1e5, A < 0 (methods, row 33)."""
    for excess, factor in ((0, 1.0), (1000, 1.0099501167), (100_000, 1.6321187194)):
        many = batch(rewards=(1.0, 1.0, 0.0, 0.0), lengths=[2, 4, 3 + excess, 3], groups=(0, 0, 0, 1))
        count = int(many.lengths.sum())
        found = shaping("length_complexity").advantages(many, torch.full((count,), -2.0), "x")
        torch.testing.assert_close(found[6:-3] / -2, torch.full((3 + excess,), factor), rtol=1e-6, atol=0)
        assert (found[:6] == -2).all() and (found[-3:] == -2).all(), "solved answers, and a group without any, stay"


def test_excess_length_spares_what_is_credited():
    many = batch(rewards=(1.0, 0.0, 0.0, 0.0), groups=(0, 0, 0, 0))
    mixed = torch.tensor([-1.0, -1.0, -1.0, -1.0, 2.0, 0.0, -1.0, 1.0, -1.0, -1.0])
    one, two = 1 + (1 - 1 / 1.5), 1 + (1 - 1 / 1.5**2)
    close(shaping("length_complexity", base=1.5).advantages(many, mixed, "x"), [-1, -1, -1, -one, 2, 0, -two, 1, -two, -two])


def test_solved_at_moves_the_line():
    many = batch(rewards=(0.6, 0.0, 0.0, 0.0), groups=(0, 0, 0, 0))
    flat = torch.full((10,), -1.0)
    assert torch.equal(shaping("length_complexity", base=1.5).advantages(many, flat, "x"), flat)
    assert not torch.equal(shaping("length_complexity", base=1.5, solved_at=0.6).advantages(many, flat, "x"), flat)


# entropy_bonus


def test_entropy_bonus_by_hand():
    expected = [a + min(0.4 * h, abs(a) / 2) for a, h in zip(ADVANTAGES, ENTROPY, strict=True)]
    close(shaped("entropy_bonus"), expected)
    assert {min(0.4 * h, abs(a) / 2) == 0.4 * h for a, h in zip(ADVANTAGES, ENTROPY, strict=True)} == {True, False}
    lower = [a + min(0.1 * h, abs(a) / 1.5) for a, h in zip(ADVANTAGES, ENTROPY, strict=True)]
    close(shaped("entropy_bonus", gain=0.1, bound=1.5), lower)
    assert torch.equal(shaped("entropy_bonus").sign(), torch.tensor(ADVANTAGES).sign())


# uncertainty_bonus


def test_uncertainty_bonus_by_hand():
    """|A| = 1: u = 2 gives .5 and .5, u = .3 gives .12 and .30 (methods, row 35). `contexts` holds the symmetric sum, 2 u."""
    for u, entropy_part, divergence_part in ((2.0, 0.5, 0.5), (0.3, 0.12, 0.30)):
        every = torch.full((10,), u)
        both = shaped("uncertainty_bonus", batch(entropy=every, contexts={"x": 2 * every}), [1.0, -1.0] * 5, steps=9)
        close(both, [1 + entropy_part + divergence_part, -1 + entropy_part + divergence_part] * 5)
        same = shaped("uncertainty_bonus", batch(entropy=every, contexts={"x": 0 * every}), [1.0] * 10, steps=9)
        raw = shaped("uncertainty_bonus", batch(entropy=every), [1.0] * 10, steps=9)
        close(same, [1 + entropy_part] * 10)
        assert torch.equal(raw, same), "a batch without a disturbed prompt has no second branch"


@pytest.mark.parametrize("key", ["entropy_gain", "entropy_bound", "divergence_gain", "divergence_bound"])
def test_every_gain_and_bound_counts(key: str):
    many = batch(contexts={"x": torch.tensor(ENTROPY).flip(0)})
    assert not torch.equal(shaped("uncertainty_bonus", many, steps=9), shaped("uncertainty_bonus", many, steps=9, **{key: 3.0}))


def prompts(of: TokenBatch) -> list[list[int]]:
    return [of.input_ids[i, :n].tolist() for i, n in enumerate(of.prompt_lengths.tolist())]


def test_other_context_leaves_out_prompt_tokens_and_nothing_else():
    one = batch(input_ids=torch.tensor([list(range(10)), list(range(10)), list(range(10)), list(range(20, 30))]))
    other = shaping("uncertainty_bonus", steps=10**6, share=0.5).other_context(one)
    assert torch.equal(other.tokens, one.tokens) and torch.equal(other.lengths, one.lengths)
    before, after = prompts(one), prompts(other)
    assert after[0] == after[1] == after[2], "a group shares its prompt, and its disturbed prompt"
    for old, new in zip(before, after, strict=True):
        assert new == [t for t in old if t in new] and new[-1] == old[-1]
    assert after != before
    masked = shaping("uncertainty_bonus", steps=10**6, share=0.5, mask_id=99).other_context(one)
    kept = [[t for t in row if t != 99] for row in prompts(masked)]
    assert kept == after and [len(p) for p in prompts(masked)] == [5, 5, 5, 3]


def test_the_share_the_schedule_and_the_seed_of_the_noise():
    groups = torch.arange(2000)
    wide = TokenBatch(input_ids=torch.ones(2000, 13, dtype=torch.int64), prompt_lengths=torch.full((2000,), 11),
                      lengths=torch.ones(2000).long(), seq_ids=groups, positions=torch.zeros(2000).long(), group_ids=groups)

    def hit(step: int, **keys) -> Tensor:
        other = shaping("uncertainty_bonus", steps=100, mask_id=0, **keys).other_context(replace(wide, step=step))
        return torch.zeros(2000, 13).bool() if other is None else other.input_ids == 0

    # A binomial share of n tokens has standard deviation sqrt(p q/n): 0.0042 at most over the 20000 here. Groups: 0.011.
    assert hit(0)[:, :10].float().mean() == pytest.approx(0.1, abs=0.017)
    assert hit(0, share=0.4)[:, :10].float().mean() == pytest.approx(0.4, abs=0.017)
    assert hit(75, share=0.9)[:, :10].any(1).float().mean() == pytest.approx(0.25, abs=0.045)
    assert not hit(0, share=0.9)[:, 10:].any(), "the last prompt token and what follows stay"
    assert not hit(100).any() and not hit(250).any()
    assert not torch.equal(hit(0), hit(0, seed=1)) and not torch.equal(hit(1), hit(2)) and torch.equal(hit(1), hit(1))


# munchausen


def test_munchausen_by_hand():
    bonus = [0.9 * max(0.03 * x, -1.0) for x in OLD]
    assert 0.9 * -1.0 in bonus, "one is at the floor"
    close(shaped("munchausen"), [a + b for a, b in zip(ADVANTAGES, bonus, strict=True)])
    others = [a + 0.5 * max(0.1 * x, -0.06) for a, x in zip(ADVANTAGES, OLD, strict=True)]
    close(shaped("munchausen", alpha=0.5, tau=0.1, floor=-0.06), others)
    close(shaped("munchausen", q=2.0), [a + 0.9 * 0.03 * (math.exp(x) - 1) for a, x in zip(ADVANTAGES, OLD, strict=True)])
    close(shaped("munchausen", q=0.5, floor=-0.02), [a + 0.9 * max(0.06 * (1 - math.exp(-x / 2)), -0.02)
                                                     for a, x in zip(ADVANTAGES, OLD, strict=True)])
    near = shaped("munchausen", q=1 + 1e-6)
    torch.testing.assert_close(near, shaped("munchausen"), rtol=0, atol=1e-4)


def test_munchausen_as_a_reward_reaches_the_tokens_before():
    b = [0.9 * max(0.03 * x, -1.0) for x in OLD]
    later = [b[1], 0, 0, b[4] + b[5], b[5], 0, b[7] + b[8] + b[9], b[8] + b[9], b[9], 0]
    close(shaped("munchausen", credit="summed"), [a + own + rest for a, own, rest in zip(ADVANTAGES, b, later, strict=True)])


def test_munchausens_identity():
    """<pi, q + bonus> + tau H(pi) = <pi, q> - alpha tau KL(pi||pi_k) + (1 - alpha) tau H(pi), nothing clipped (methods, row 31)."""
    generator = torch.Generator().manual_seed(0)
    q, pi, before = torch.randn(3, 10, generator=generator, dtype=torch.float64)
    pi, before = torch.softmax(pi, 0), torch.softmax(before, 0)
    alpha, tau = 0.7, 0.2
    rewarded = shaping("munchausen", alpha=alpha, tau=tau, floor=-100.0).advantages(batch(old_logp=before.log()), q, "x")
    entropy, kl = -(pi * pi.log()).sum(), (pi * (pi / before).log()).sum()
    torch.testing.assert_close((pi * rewarded).sum() + tau * entropy, (pi * q).sum() - alpha * tau * kl + (1 - alpha) * tau * entropy,
                               rtol=0, atol=1e-15)


# off_policy_mask and importance


TRL_KEEPS = {
    (-1.0, -1.0, -1.0, -1.0): {-0.5: [0, 1, 0, 0], -0.12: [1, 1, 0, 0], 0.1: [1, 1, 0, 1], 0.3: [1, 1, 1, 1]},
    (1.0, -1.0, 0.0, -1.0): {-0.5: [1, 1, 1, 0], -0.12: [1, 1, 1, 0], 0.1: [1, 1, 1, 1], 0.3: [1, 1, 1, 1]}}
"""By the advantage of each answer, then by threshold: `GRPOTrainer.get_off_policy_mask` of TRL 1.16 on the log-probs above, padded, with
`per_token_logps` log pi_old and `sampling_per_token_logps` log mu."""


def test_off_policy_mask_of_trl():
    for advantages, by_threshold in TRL_KEEPS.items():
        for threshold, kept in by_threshold.items():
            found = shaped("off_policy_mask", advantages=torch.tensor(advantages)[SEQUENCES].tolist(), threshold=threshold)
            assert torch.equal(found, (torch.tensor(kept) * torch.tensor(advantages))[SEQUENCES])


def test_no_mismatch_weighs_nothing():
    same = batch(sampler_logp=torch.tensor(OLD))
    for keys in ({}, {"level": "sequence"}, {"beyond_cap": "mask"}, {"level": "sequence", "beyond_cap": "mask", "cap": 1.0001}):
        assert torch.equal(shaped("importance", same, **keys), torch.tensor(ADVANTAGES))


@pytest.mark.parametrize("cap", [1.3, 2.0])
def test_truncated_and_masked_importance_by_hand(cap: float):
    ratios = [math.exp(g) for g in GAP]
    answers = [math.exp(sum(g for g, s in zip(GAP, SEQUENCES.tolist(), strict=True) if s == i)) for i in SEQUENCES.tolist()]
    for level, weights in (("token", ratios), ("sequence", answers)):
        assert any(w > cap for w in weights) and any(w < 1 for w in weights)
        cut = {"truncate": [min(w, cap) for w in weights], "mask": [0.0 if w > cap else w for w in weights]}
        for beyond_cap, expected in cut.items():
            exactly = batch(old_logp=torch.tensor(GAP), sampler_logp=torch.zeros(10))  # -40 plus a gap loses its last digits
            found = shaped("importance", exactly, level=level, cap=cap, beyond_cap=beyond_cap)
            close(found, [w * a for w, a in zip(expected, ADVANTAGES, strict=True)])
    assert torch.equal(shaped("importance"), shaped("importance", cap=2.0))


def test_the_ratio_is_logged_before_it_is_cut():
    metrics = shaping("importance", beyond_cap="mask").metrics(batch(), "x")
    ratios = [math.exp(g) for g in GAP]
    assert metrics == pytest.approx({"weight": sum(ratios) / 10, "weight/largest": math.exp(1.2), "share/capped": 0.2}, rel=1e-6)


# In a recipe


def node(shapings: dict, **changes) -> dict:
    return {
        "steps": 4, "task": f"{PLUGIN}:OnePrompt", "reward": f"{PLUGIN}:ByToken", "engine": f"{PLUGIN}:Systematic", "algorithm": "grpo",
        "model": {"path": "nowhere"}, "batch": {"prompts": 2, "samples": 2, "micro_tokens": 20}, "sampling": {"max_tokens": 4},
        "optimizer": {"lr": 1e-2}, "workers": {"backend": "local"}, "evaluation": {"every": -1}, "shapings": shapings} | changes


def test_rewards_are_shaped_before_the_advantages_and_stay_what_they_were():
    two = {"short": {"name": "overlong", "limit": 4, "buffer": 2, "factor": 0.5},
           "shorter": {"name": "overlong", "limit": 3, "buffer": 3}, "entropy": "entropy_bonus"}
    made = recipe.build(node(two))
    one = replace(batch(), betas={})
    done = shape(made, one)
    rewards = torch.tensor([1.0 - 2 / 3, -1 / 3, -0.25 - 1, 0.5 - 0.5 - 1])
    plain = group_standardised(rewards, one.group_ids)[SEQUENCES]
    close(done.advantages, plain + torch.minimum(0.4 * one.entropy, plain.abs() / 2))
    assert torch.equal(done.rewards, one.rewards)
    bonus = torch.minimum(0.4 * one.entropy, plain.abs() / 2)
    assert done.shaped == pytest.approx({
        "shaping/short/rewards": -0.75 / 4, "shaping/short/share/rewards": 0.5,
        "shaping/shorter/rewards": -3 / 4, "shaping/shorter/share/rewards": 1.0,
        "shaping/entropy/advantages": bonus.mean().item(), "shaping/entropy/share/advantages": 0.6}, rel=1e-5)


@pytest.mark.parametrize(("shapings", "changes", "where", "says"), [
    ({"x": "entropy_bonus"}, {"algorithm": "sft", "reward": None, "batch": {"prompts": 2}}, "shapings.x", "sft learns from demonstrations"),
    ({"x": {"name": "overlong", "limit": 20, "buffer": 8}}, {}, "shapings.x", "starts above limit - buffer = 12"),
    ({"x": {"name": "overlong", "limit": 4, "buffer": 5}}, {}, "shapings.x", "buffer must lie in"),
    ({"x": {"name": "overlong", "limit": 4, "buffer": 2, "factor": 0.0}}, {}, "shapings.x", "factor must be positive"),
    ({"x": {"name": "length_complexity", "base": 1.0}}, {}, "shapings.x", "base must be above 1"),
    ({"x": {"name": "entropy_bonus", "bound": 1.0}}, {}, "shapings.x", "can undo the advantage"),
    ({"x": {"name": "uncertainty_bonus"}}, {}, "shapings.x.steps", "must be given"),
    ({"x": {"name": "uncertainty_bonus", "steps": 9, "entropy_bound": 1.5}}, {}, "shapings.x", "turn the sign"),
    ({"x": {"name": "uncertainty_bonus", "steps": 9, "share": 1.0}}, {}, "shapings.x", "share must lie in"),
    ({"x": {"name": "uncertainty_bonus", "steps": 9, "divergence_gain": 0.0}}, {}, "shapings.x", "use entropy_bonus"),
    ({"x": {"name": "uncertainty_bonus", "steps": 9, "mask_id": -1}}, {}, "shapings.x", "must be a token id"),
    ({"x": {"name": "munchausen", "floor": 0.0}}, {}, "shapings.x", "floor negative"),
    ({"x": {"name": "munchausen", "credit": "sequence"}}, {}, "shapings.x", "credit must be one of local, summed"),
    ({"x": {"name": "importance", "level": "answer"}}, {}, "shapings.x", "level must be one of token, sequence"),
    ({"x": {"name": "importance", "beyond_cap": "clip"}}, {}, "shapings.x", "beyond_cap must be"),
    ({"x": {"name": "importance", "cap": 1.0}}, {}, "shapings.x", "cap must be above 1"),
    ({"x": "overlongs"}, {}, "shapings.x", "did you mean 'overlong'?"),
    ("entropy_bonus", {}, "shapings", "must map a name of your choice to a shaping"),
])
def test_one_that_makes_no_sense_is_refused_at_its_key(shapings, changes: dict, where: str, says: str):
    with pytest.raises(RecipeError) as refused:
        recipe.build(node(shapings, **changes))
    assert refused.value.where == where and says in str(refused.value)


def test_an_algorithm_without_advantages_has_nothing_to_shape(tmp_path: Path):
    file = tmp_path / "own.py"
    file.write_text("class Own:\n    reduction: str = 'token'\n    def loss(self, ctx, advantages): ...\n")
    with pytest.raises(RecipeError, match="uses no advantages"):
        recipe.build(node({"x": "entropy_bonus"}, algorithm=f"{file}:Own"))


def test_a_shaping_of_ones_own(tmp_path: Path):
    file = tmp_path / "own.py"
    file.write_text("class Halved:\n    '''Half of it.'''\n    by: float = 2.0\n    def advantages(self, batch, advantages, name):\n"
                    "        return advantages / self.by\n")
    made = recipe.build(node({"x": {"name": f"{file}:Halved", "by": 4.0}}))
    plain = shape(recipe.build(node({})), replace(batch(), betas={}))
    assert torch.equal(shape(made, replace(batch(), betas={})).advantages, plain.advantages / 4)


def test_every_shaping_and_key_is_listed_explained_and_tested():
    listed = {part["name"]: {key["name"] for key in part["keys"]} for part in catalogue("shaping")}
    assert listed == {name: {f.name for f in fields(registry.resolve("shaping", name, ""))} for name in registry.shipped("shaping")}
    assert listed == {
        "overlong": {"limit", "buffer", "factor"}, "length_complexity": {"base", "solved_at"}, "entropy_bonus": {"gain", "bound"},
        "uncertainty_bonus": {"steps", "share", "mask_id", "seed", "entropy_gain", "entropy_bound", "divergence_gain", "divergence_bound"},
        "munchausen": {"alpha", "tau", "floor", "q", "credit"}, "off_policy_mask": {"threshold"},
        "importance": {"level", "cap", "beyond_cap"}}, "the tests above are of these"
    console = Console(file=io.StringIO(), width=300)
    explain(recipe.build(node({"long": {"name": "overlong", "limit": 4, "buffer": 2}, "sure": "importance"})), console)
    text = console.file.getvalue()
    assert "shaped by long, sure: see below" in text
    section = text.split("shapings, in this order")[1].split("batch")[0]
    first, second = "overlong(limit=4, buffer=2, factor=1.0): DAPO's soft overlong punishment", "importance(level=token"
    assert section.index(first) < section.index(second)
    assert "align/shapings/importance.py:" in section


# In the learner


def learner(folder: Path, shapings: dict, **changes) -> Learner:
    return Learner(recipe.build(node(shapings, model={"path": str(folder)}, **changes)), str(folder))


def drawn() -> list[Group]:
    rng = np.random.default_rng(0)
    return [Group(prompt=Prompt(id=str(g), text="", token_ids=tuple(rng.integers(3, 26, 5 + g).tolist())), rollouts=tuple(
        Rollout(token_ids=rng.integers(2, 26, 2 + i).astype(np.int32), text="", sampler_logp=-rng.random(2 + i).astype(np.float32))
        for i in range(2))) for g in range(2)]


def scored(of: Learner, step: int = 0) -> TokenBatch:
    rewards = Rewards(values=np.array([1.0, 0.0, 0.0, 0.5], dtype=np.float32))
    betas = {name: 0.1 for name in of.recipe.regularizers}
    return of.score(replace(pack(drawn(), rewards), step=step, betas=betas))


def test_the_divergence_between_contexts_is_that_of_two_forward_passes(tmp_path: Path):
    folder = tiny_model(tmp_path)
    uncertain = {"name": "uncertainty_bonus", "steps": 3, "share": 0.6}
    worker = learner(folder, {"v": uncertain, "masked": uncertain | {"mask_id": 4, "seed": 2}},
                     sampling={"max_tokens": 4, "temperature": 0.8}, regularizers={"v": {"coefficient": 0.1, "estimator": "exact"}})
    done, model = scored(worker), AutoModelForCausalLM.from_pretrained(folder)
    plain = pack(drawn(), None)

    def table(of: TokenBatch) -> Tensor:
        parts = []
        for ids, start, n in zip(of.input_ids, of.prompt_lengths.tolist(), of.lengths.tolist(), strict=True):
            with torch.no_grad():
                parts.append(torch.log_softmax(model(ids[None, : start + n]).logits[0, start - 1 : start + n - 1].double() / 0.8, -1))
        return torch.cat(parts)

    p = table(plain)
    for name in ("v", "masked"):
        other = worker.recipe.shapings[name].other_context(plain)
        q = table(other)
        expected = ((p.exp() - q.exp()) * (p - q)).sum(-1)
        assert expected.max() > 0.1
        torch.testing.assert_close(done.contexts[name].double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(done.entropy.double(), -(p.exp() * p).sum(-1), rtol=1e-4, atol=1e-5)
    assert shape(worker.recipe, done).shaped["shaping/v/divergence"] == pytest.approx(done.contexts["v"].mean().item() / 2)
    late = scored(worker, step=3)
    assert late.contexts == {} and shape(worker.recipe, late).shaped["shaping/v/divergence"] == 0.0
    part = done.select(torch.tensor([1, 3]))
    assert torch.equal(part.contexts["v"], done.contexts["v"][(done.seq_ids == 1) | (done.seq_ids == 3)])


def test_a_shaping_of_ones_own_may_ask_for_another_context(tmp_path: Path):
    folder, file = tiny_model(tmp_path / "model"), tmp_path / "own.py"
    file.write_text("""
from dataclasses import replace
from align.divergences.reverse_kl import ReverseKl

class Moved:
    context_divergence = ReverseKl()

    def other_context(self, batch):
        ids = batch.input_ids.clone()
        ids[:, 0] = 3
        return replace(batch, input_ids=ids)

    def advantages(self, batch, advantages, name):
        return advantages + batch.contexts[name]
""")
    worker = learner(folder, {"x": f"{file}:Moved"})
    done = scored(worker)
    assert (done.contexts["x"] > 0).all()
    plain = shape(learner(folder, {}).recipe, done).advantages
    assert torch.equal(shape(worker.recipe, done).advantages, plain + done.contexts["x"])


def test_only_what_asks_for_the_policy_costs_a_forward_pass(tmp_path: Path):
    folder = tiny_model(tmp_path)
    required = {"overlong": {"limit": 4, "buffer": 2}, "uncertainty_bonus": {"steps": 3}, "off_policy_mask": {"threshold": 0.1}}
    for name in registry.shipped("shaping"):
        done = scored(learner(folder, {"x": {"name": name} | required.get(name, {})}))
        assert (done.old_logp is None) == (name in ("overlong", "length_complexity")) == (done.entropy is None)


def test_a_weight_on_the_policy_term_is_none_on_a_penalty(tmp_path: Path):
    """Masking every token of the policy term leaves the gradient that rewards without differences have: the penalty's own."""
    folder = tiny_model(tmp_path)
    penalty = {"kl": {"coefficient": 0.1, "placement": "reward", "divergence": "forward_kl"}}
    gradients = []
    for shapings in ({"x": {"name": "importance", "beyond_cap": "mask", "cap": 1.01}}, {}):
        worker = learner(folder, shapings, regularizers=penalty, max_engine_gap=1e9, algorithm={"name": "grpo", "epochs": 2})
        for _, p in worker.policy.trained():
            p.data += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
        worker.version, done, seen = 1, scored(worker), []
        done = replace(done, **({"sampler_logp": done.old_logp - 0.1} if shapings else {"rewards": torch.zeros(4)}))
        worker.optimizer.step = lambda seen=seen, worker=worker: seen.append([p.grad.clone() for _, p in worker.policy.trained()])
        worker.update(shape(worker.recipe, done), 0)
        gradients.append(seen[0])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert max(g.abs().max() for g in gradients[0]) > 1e-3
