"""DPO on real (tiny) transformers models: the learner against plain torch, its references, beta-DPO, whole runs, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from models import tiny_model, tiny_tokenizer
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM

from align import recipe
from align.coefficients.beta_dpo import BetaDpo
from align.errors import RecipeError, RunStopped
from align.evaluate import Suites
from align.learner.learner import Learner
from align.learner.micro_batches import micro_batches, minibatches
from align.pack import pack
from align.shape import shape
from align.train import train
from align.types import Group, Prompt, RefScore, Rollout, Stat, TokenBatch

BETA = 0.3
LORA = {"rank": 4, "alpha": 8.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), tied=False)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def node(folder: Path, *, link: dict | None = None, **changes) -> dict:
    return {
        "steps": 4, "task": {"name": "preferences", "path": "nowhere.jsonl"}, "algorithm": "dpo", "batch": {"prompts": 4},
        "model": {"path": str(folder)}, "sampling": {"max_tokens": 8, "temperature": 0.7}, "optimizer": {"lr": 1e-2},
        "workers": {"backend": "local"}, "evaluation": {"every": -1},
        "regularizers": {"kl": {"placement": "link", "coefficient": BETA} | (link or {})}} | changes


def make(folder: Path, **changes) -> Learner:
    return Learner(recipe.build(node(folder, **changes)), str(folder))


def moved(learner: Learner) -> Learner:
    """Away from the reference, as after a first batch."""
    for _, p in learner.policy.trained():
        p.data += 0.03 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    learner.version = 1
    return learner


def pairs(seed: int = 0, count: int = 4, answers: int = 2) -> list[Group]:
    rng = np.random.default_rng(seed)
    return [
        Group(prompt=Prompt(id=str(g), text="", token_ids=tuple(rng.integers(3, 26, rng.integers(2, 7)).tolist())), rollouts=tuple(
            Rollout(token_ids=rng.integers(2, 26, rng.integers(1, 8)).astype(np.int32), text="") for _ in range(answers)))
        for g in range(count)]


def batch(learner: Learner, seed: int = 0, step: int = 0, **keys) -> TokenBatch:
    betas = {name: r.coefficient.beta(step) for name, r in learner.recipe.regularizers.items()}
    return shape(learner.recipe, learner.score(replace(pack(pairs(seed, **keys), None), betas=betas)))


def gradient(learner: Learner, scored: TokenBatch) -> tuple[dict[str, Tensor], dict[str, Stat]]:
    found: dict[str, Tensor] = {}
    learner.optimizer.step = lambda: found.update({n: p.grad.clone() for n, p in learner.policy.trained()})
    return found, learner.update(scored, 0)


def log_ratios(policy: torch.nn.Module, reference: torch.nn.Module, packed: TokenBatch, temperature: float = 0.7) -> Tensor:
    """log pi/ref of each answer by transformers alone, each sequence by itself."""
    found = []
    for ids, start, n in zip(packed.input_ids, packed.prompt_lengths.tolist(), packed.lengths.tolist(), strict=True):
        row, answer = ids[None, : start + n], ids[start : start + n, None]
        with torch.no_grad():
            ref = torch.log_softmax(reference(row).logits[0, start - 1 : start + n - 1] / temperature, -1).gather(1, answer).sum()
        found.append(torch.log_softmax(policy(row).logits[0, start - 1 : start + n - 1] / temperature, -1).gather(1, answer).sum() - ref)
    return torch.stack(found)


def hf(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder)


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
    "robust": (lambda w, r: (-0.9 * logsigmoid(BETA * (w - r)) + 0.1 * logsigmoid(-BETA * (w - r))) / 0.8,
               {"preference": "robust", "label_smoothing": 0.1}, {}),
    "forward_kl": (lambda w, r: -logsigmoid(BETA * ((1 - torch.exp(-w)) - (1 - torch.exp(-r)))), {}, {"divergence": "forward_kl"}),
    "jensen_shannon": (lambda w, r: -logsigmoid(BETA * (logsigmoid(w) - logsigmoid(r))), {}, {"divergence": "jensen_shannon"}),
    "alpha": (lambda w, r: -logsigmoid(BETA * (torch.exp(-0.3 * r) - torch.exp(-0.3 * w)) / 0.3), {},
              {"divergence": {"name": "alpha", "alpha": 0.3}}),
    "tsallis": (lambda w, r: -logsigmoid(BETA * (torch.exp(-w / 2) - torch.exp(-r / 2)) * 0.5 / -0.5), {},
                {"divergence": {"name": "tsallis", "q": 0.5}}),
}
"""As TRL's `_compute_loss` writes them, alpha_TRL = 1 - alpha; with the keys of algorithm and link."""


@pytest.mark.parametrize("lora", [{}, LORA], ids=["whole", "lora"])
@pytest.mark.parametrize("name", FORMULAS)
def test_loss_and_gradient_are_those_of_plain_torch(model: Path, name: str, lora: dict):
    loss, algorithm, link = FORMULAS[name]
    learner = moved(make(model, link=link, algorithm={"name": "dpo"} | algorithm, model={"path": str(model), "lora": lora},
                         optimizer={"lr": 1e-2, "max_grad_norm": 1e9}))
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


# References


def test_tr_dpo_reset_at_each_step_stays_at_log_two(model: Path):
    """methods.md row 36; against a frozen reference (row 37) it does not."""
    losses = {}
    for name, reference in {"hard_reset": {"name": "hard_reset", "every": 1}, "frozen": {"name": "frozen"},
                            "ema": {"name": "ema", "rate": 0.5}}.items():
        learner = make(model, link={"reference": reference}, algorithm={"name": "dpo", "minibatches": 2})
        for step in range(3):
            learner.update(batch(learner, step), step)
        learner.optimizer.step = lambda: None
        losses[name] = learner.update(batch(learner, 0), 3)["loss/policy"].mean
    assert losses["hard_reset"] == pytest.approx(np.log(2), abs=1e-6)
    assert abs(losses["frozen"] - np.log(2)) > abs(losses["ema"] - np.log(2)) > 1e-3


def precomputed(folder: Path, lora: dict | None = None) -> Learner:
    return make(folder, link={"reference": "precomputed"}, model={"path": str(folder), "lora": lora or {}})


@pytest.mark.parametrize("lora", [{}, LORA], ids=["whole", "lora"])
def test_precomputed_is_frozen_asked_once(model: Path, cache: Path, lora: dict):
    frozen, known = make(model, model={"path": str(model), "lora": lora}), precomputed(model, lora)
    computed = [known.prepare(pack(pairs(seed), None)) for seed in range(3)]
    known.prepare(None)
    assert computed == [8, 8, 8] and len(list((cache / "reference_logp").iterdir())) == 3
    for step in range(3):
        one, two = batch(frozen, step), batch(known, step)
        torch.testing.assert_close(two.references["kl"].logp, one.references["kl"].logp, rtol=0, atol=1e-6)
        a, b = frozen.update(one, step), known.update(two, step)
        assert b["loss/policy"].mean == pytest.approx(a["loss/policy"].mean, abs=1e-6)
        assert b["divergence/kl"].mean == pytest.approx(a["divergence/kl"].mean, rel=1e-4, abs=1e-5)
    assert known.references["kl"]._initial is None, "the model was let go of, and is not loaded again"


def test_the_cache_is_used_again_and_told_apart_by_model_data_and_temperature(model: Path, cache: Path, tmp_path: Path):
    def files() -> int:
        return len(list((cache / "reference_logp").glob("*.safetensors")))

    assert precomputed(model).prepare(pack(pairs(), None)) == 8 and files() == 1
    again = precomputed(model)
    assert again.prepare(pack(pairs(), None)) == 0 and files() == 1
    assert again.references["kl"]._initial is None, "no model is loaded where all is known"
    assert precomputed(model, LORA).prepare(pack(pairs(), None)) == 8, "its hash is of what the adapter leaves alone"
    assert precomputed(model).prepare(pack(pairs(1), None)) == 8
    assert precomputed(tiny_model(tmp_path / "other", tied=False, seed=1)).prepare(pack(pairs(), None)) == 8
    warm = make(model, link={"reference": "precomputed"}, sampling={"max_tokens": 8, "temperature": 1.0})
    assert warm.prepare(pack(pairs(), None)) == 8
    # The prompt is part of the content, and where the answer begins in the same tokens.
    first = pairs()[0]
    ids = (*first.prompt.token_ids, *first.rollouts[0].token_ids.tolist())
    shifted = [Group(prompt=Prompt(id="0", text="", token_ids=ids[:n]), rollouts=(
        Rollout(token_ids=np.array(ids[n:], dtype=np.int32), text=""),)) for n in (1, 2)]
    known = precomputed(model)
    assert [known.prepare(pack([g], None)) for g in shifted] == [1, 1]
    assert known.references["kl"].known(pack(shifted, None)).shape == (2 * len(ids) - 3,)
    assert known.references["kl"].known(pack(pairs(7), None)) is None


def test_a_precomputed_reference_is_the_initial_policy_after_a_restart(model: Path, tmp_path: Path):
    one = precomputed(model)
    one.prepare(pack(pairs(), None))
    one.update(batch(one), 0)
    one.save(str(tmp_path / "checkpoint"))
    other = precomputed(model)
    assert other.prepare(pack(pairs(), None)) == 0
    other.load(str(tmp_path / "checkpoint"))
    assert torch.equal(batch(one).references["kl"].logp, batch(other).references["kl"].logp)
    assert one.update(batch(one), 1) == other.update(batch(other), 1)


# beta-DPO


def margins(by_hand: list[list[float]]) -> TokenBatch:
    """Groups of answers of one token, whose log-ratios are these."""
    log_u = torch.tensor([x for group in by_hand for x in group])
    count, groups = len(log_u), torch.tensor([g for g, group in enumerate(by_hand) for _ in group])
    ones = torch.ones(count, dtype=torch.int64)
    return TokenBatch(
        input_ids=torch.zeros(count, 2, dtype=torch.int64), prompt_lengths=ones, lengths=ones, seq_ids=torch.arange(count),
        positions=ones * 0, group_ids=groups, old_logp=log_u - 2, references={"kl": RefScore(logp=torch.full((count,), -2.0))})


def test_beta_dpo_of_each_pair_by_hand():
    """1 + 0.6 (M_i - M_0), M_i = 0.5 (lr_w - lr_l): margins 1, -1 and, of three answers, the mean over the pairs 2, 1, -1."""
    rule, packed = BetaDpo(value=0.5, sensitivity=0.6, momentum=0.75), margins([[1.0, -1.0], [0.5, 2.5], [3.0, -1.0, 1.0]])
    assert rule.beta(0) == rule.beta(9) == 0.5
    of_three = 0.5 * (4 + 2 - 2) / 3
    found = rule.multipliers(packed, "kl")
    torch.testing.assert_close(found, torch.tensor([1.6, 1.6, 0.4, 0.4, *[1 + 0.6 * of_three] * 3]))
    assert found.dtype == torch.float32 and torch.equal(rule.multipliers(packed, "kl"), found), "asking changes nothing"
    rule.update(123.0, 7)
    mean = (1 - 1 + of_three) / 3
    assert rule.state_dict() == {"usual": pytest.approx(0.25 * mean)}
    torch.testing.assert_close(rule.multipliers(packed, "kl"), found - 0.6 * 0.25 * mean)
    rule.update(123.0, 7)
    assert rule.state_dict() == {"usual": pytest.approx((0.75 * 0.25 + 0.25) * mean)}


def test_beta_dpo_of_a_batch_by_hand():
    rule = BetaDpo(value=0.5, sensitivity=1.5, momentum=0.0, per="batch")
    assert rule.multipliers(margins([[1.0, -1.0], [2.5, 0.5]]), "kl").tolist() == [2.5] * 4
    rule.update(0.0, 4)
    assert rule.multipliers(margins([[1.0, -1.0], [2.5, 0.5]]), "kl").tolist() == [1.0] * 4, "as usual"
    assert rule.multipliers(margins([[-9.0, 9.0]]), "kl").tolist() == pytest.approx([0.01] * 2), "never 0 or below"


@pytest.mark.parametrize("keys", [{"value": 0.0}, {"sensitivity": -1.0}, {"momentum": 1.0}, {"momentum": -0.1}, {"per": "token"}], ids=str)
def test_keys_of_beta_dpo_that_make_no_sense(keys: dict):
    with pytest.raises(ValueError, match=f"{next(iter(keys))} must"):
        BetaDpo(**keys)


@pytest.mark.parametrize("per", ["pair", "batch"])
def test_the_loss_has_the_beta_of_its_pair(model: Path, per: str):
    learner = moved(make(model, link={"coefficient": {"name": "beta_dpo", "value": BETA, "per": per}}))
    scored = batch(learner)
    x = log_ratios(learner.policy.module, hf(model), scored).detach()
    d = x[::2] - x[1::2]
    m = BETA * d if per == "pair" else (BETA * d).mean().expand(4)
    beta = BETA * (1 + 0.6 * m).clamp_min(0.01)
    assert (beta - BETA).abs().max() > 1e-3
    stats = gradient(learner, scored)[1]
    assert stats["loss/policy"].mean == pytest.approx(-logsigmoid(beta * d).mean().item(), rel=1e-4)
    assert stats["preference/margin"].mean == pytest.approx((beta * d).mean().item(), rel=1e-3)


# Whole runs


def rows(path: Path, count: int, seed: int) -> str:
    rng = np.random.default_rng(seed)
    drawn = {tuple(rng.integers(0, 10, 4)) for _ in range(count)}
    lines = [{"prompt": f"{a}{b}=", "chosen": f"{c}+{c}", "rejected": f"{d}-{c}{a}"} for a, b, c, d in sorted(drawn)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.fixture
def preferences(tmp_path: Path) -> dict:
    return {"name": "preferences", "path": rows(tmp_path / "pairs.jsonl", 24, 0), "eval_path": rows(tmp_path / "held_out.jsonl", 9, 1)}


def ran(made: recipe.Recipe, folder: Path, **options) -> list[dict]:
    train(made, folder, **options)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(("time/", "tokens/s", "sync/"))} for line in lines]


@pytest.mark.parametrize(("link", "changes"), [
    ({}, {}),
    ({"coefficient": {"name": "beta_dpo", "momentum": 0.5}, "reference": {"name": "ema", "rate": 0.2}, "weighting": "sampo"},
     {"algorithm": {"name": "dpo", "epochs": 2, "minibatches": 2}, "lora": LORA}),
    ({"reference": "precomputed", "divergence": "jensen_shannon"}, {"algorithm": {"name": "dpo", "minibatches": 2}}),
], ids=["plain", "beta_dpo, ema, sampo, lora", "precomputed"])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(model: Path, tmp_path: Path, preferences: dict, link: dict, changes: dict):
    lora = changes.get("lora", {})
    keys = {"task": preferences, "model": {"path": str(model), "lora": lora}, "evaluation": {"every": 2}, "link": link,
            "checkpoint": {"every": 2}, "algorithm": changes.get("algorithm", "dpo")}
    built = [recipe.build(node(model, **keys)) for _ in range(3)]
    whole = ran(built[0], tmp_path / "whole")
    ran(replace(built[1], steps=2), tmp_path / "parts")
    resumed = ran(built[2], tmp_path / "parts", resume=True)
    tensors = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "parts")]
    assert tensors[0].keys() == tensors[1].keys() and all(torch.equal(t, tensors[1][n]) for n, t in tensors[0].items())
    steps = [{line["step"]: line for line in lines if "loss/policy" in line} for lines in (whole, resumed)]
    assert steps[0] == steps[1] and len(steps[0]) == 4
    states = [made.regularizers["kl"].coefficient.state_dict() for made in (built[0], built[2])]
    assert states[0] == states[1] and (states[0] != {"usual": 0.0})


def test_held_out_rankings_are_measured_before_and_after(model: Path, tmp_path: Path, preferences: dict):
    lines = ran(recipe.build(node(model, task=preferences, steps=6, evaluation={"every": 3}, optimizer={"lr": 3e-2})), tmp_path / "run")
    held_out = [{k.removeprefix("eval/"): v for k, v in line.items()} for line in lines if "eval/rankings/preference/accuracy" in line]
    assert len(held_out) == 3
    assert held_out[0]["rankings/loss/policy"] == pytest.approx(np.log(2), abs=1e-6)
    assert held_out[0]["rankings/preference/margin"] == pytest.approx(0, abs=1e-5)
    assert held_out[-1]["rankings/preference/accuracy"] > 0.6, "the pairs have a rule"
    assert held_out[-1]["rankings/loss/policy"] < held_out[0]["rankings/loss/policy"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["after"]["rankings/preference/accuracy"] == held_out[-1]["rankings/preference/accuracy"]
    trained, initial = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model"), hf(model)
    made = recipe.build(node(model, task=preferences))
    # The exported model gives the last figures, by transformers alone.
    packed = pack(Suites(made, tiny_tokenizer()).rankings, None)
    x = log_ratios(trained, initial, packed).detach()
    d = x[::2] - x[1::2]
    assert held_out[-1]["rankings/preference/accuracy"] == pytest.approx((d > 0).float().mean().item())
    assert held_out[-1]["rankings/preference/margin"] == pytest.approx(BETA * d.mean().item(), rel=1e-3, abs=1e-4)


def test_what_was_precomputed_is_told(model: Path, tmp_path: Path, preferences: dict, monkeypatch):
    notes: list[str] = []
    monkeypatch.setattr("align.telemetry.note", notes.append)
    made = node(model, task=preferences, steps=1, link={"reference": "precomputed"}, evaluation={"every": 0})
    for name, says in (("one", "log-probs of answers computed, the others were kept from before"),
                       ("two", "references: the log-probs of all answers were kept from before")):
        train(recipe.build(made), tmp_path / name)
        assert any(says in note for note in notes), notes
        notes.clear()


def test_a_policy_that_is_not_its_reference_stops_the_run(model: Path):
    learner = make(model)
    for _, p in learner.policy.trained():
        p.data += 0.02
    with pytest.raises(RunStopped, match="before the first update the policy is"):
        learner.update(batch(learner), 0)


# Refusals


LINK = {"placement": "link", "coefficient": 0.1}
GRPO = {"algorithm": "grpo", "reward": "exact", "task": "countdown"}


@pytest.mark.parametrize(("changes", "where", "says"), [
    ({"regularizers": {}}, "regularizers", "dpo needs exactly one regularizer with placement: link, whose divergence and coefficient make "
     "the implicit reward; there are 0"),
    ({"regularizers": {"a": LINK, "b": LINK}}, "regularizers", "there are 2"),
    ({"regularizers": {"kl": {"coefficient": 0.1, "estimator": "exact"}}}, "regularizers", "there are 0"),
    ({"regularizers": {"kl": LINK}, **GRPO}, "regularizers.kl.placement", "grpo has no preference loss to link to"),
    ({"regularizers": {"kl": LINK | {"coefficient": 0.0}}}, "regularizers.kl.coefficient", "a link without beta has no implicit reward"),
    ({"regularizers": {"kl": LINK | {"coefficient": {"name": "linear", "start": 0.1, "end": 0.0, "steps": 3}}}},
     "regularizers.kl.coefficient", "is 0 at some step"),
    ({"regularizers": {"kl": LINK | {"coefficient": {"name": "adaptive", "target": 0.1}}}}, "regularizers.kl",
     "a ranking's answers are not drawn from the policy"),
    ({"regularizers": {"kl": {"coefficient": {"name": "beta_dpo"}}}, **GRPO}, "regularizers.kl", "compares ranked answers"),
    ({"regularizers": {"kl": LINK | {"weighting": "difficulty"}}}, "regularizers.kl",
     "looks at rewards, and this algorithm's data have none"),
    ({"regularizers": {"kl": LINK | {"reference": "precomputed", "estimator": "exact"}}}, "regularizers.kl.reference",
     "keeps the log-probs of the answers alone"),
    ({"regularizers": {"kl": {"coefficient": 0.1, "reference": "precomputed"}}, **GRPO}, "regularizers.kl.reference",
     "grpo learns from rollouts, and only rankings are known before the first step"),
    ({"regularizers": {"kl": {"coefficient": 0.1, "estimator": "exact", "reference": "precomputed"}}, "algorithm": "sft",
      "task": "countdown"}, "regularizers.kl.reference", "sft learns from demonstrations"),
    ({"regularizers": {"kl": LINK | {"reference": {"name": "hard_reset", "every": 1}}}}, "regularizers.kl.reference",
     "every divergence is 0"),
    ({"reward": "exact"}, "reward", "changes nothing: dpo learns from rankings; delete the key"),
    ({"batch": {"prompts": 4, "samples": 3}}, "batch.samples", "changes nothing: dpo learns from rankings"),
    ({"batch": {"prompts": 4}, "algorithm": {"name": "dpo", "minibatches": 3}}, "batch.prompts", "do not divide into 3 minibatches"),
    ({"reward_limits": {"seconds": 2.0}}, "reward_limits.seconds", "changes nothing: dpo learns from rankings"),
    ({"shapings": {"long": {"name": "overlong", "limit": 6, "buffer": 5}}}, "shapings.long", "changes nothing: dpo learns from rankings"),
    ({"algorithm": "reward_model"}, "regularizers.kl", "reward_model trains a scorer, and there is no policy to hold"),
    ({"algorithm": "reward_model", "regularizers": {}, "evaluation": {"samples": 3}}, "evaluation.samples", "writes no answers"),
], ids=lambda x: x if isinstance(x, str) else "")
def test_a_recipe_that_makes_no_sense_is_refused_at_its_key(changes: dict, where: str, says: str):
    with pytest.raises(RecipeError) as refused:
        recipe.build({k: v for k, v in node(Path("nowhere")).items() if k not in ("evaluation", "workers")} | changes)
    assert refused.value.where == where
    assert says in str(refused.value)


def test_what_looks_alike_and_is_right_is_built():
    for link in ({"coefficient": {"name": "adaptive", "target": 0.1}, "estimator": "exact"}, {"coefficient": {"name": "beta_dpo"}},
                 {"weighting": "sampo"}, {"reference": "precomputed"}):
        recipe.build(node(Path("nowhere"), link=link))
    recipe.build(node(Path("nowhere"), regularizers={"kl": LINK, "far": {"coefficient": 0.1, "estimator": "exact"}}))
