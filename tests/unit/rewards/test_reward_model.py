"""Reward models trained from rankings by the learner and the loop: the loss by hand, what is learned, exported and resumed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.interrupted import stopped_at
from helpers.models import tiny_model
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from align.config import recipes
from align.engines.transformers import Transformers
from align.errors import RecipeError, UserError
from align.experience.packing import pack
from align.experience.prepare import prepare_batch
from align.learner.learner import Learner
from align.run.evaluation import evaluate
from align.train import train
from align.types import Episode, Group, Prompt, TokenBatch
from align.workers.resources import Need, needs

SIZES = (2, 3, 2, 5)
"""Answers of four rankings."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def rankings(tmp_path_factory) -> Path:
    """Sums before differences before products: which is better can be told by one character."""
    root = tmp_path_factory.mktemp("data")
    rows = [{"prompt": f"{a},{b}:", "answers": [f"{a}+{b}", f"{a}-{b}", f"{b}*{a}"]} for a in range(1, 10) for b in range(1, 10) if a != b]
    for name, part in (("train", [r for i, r in enumerate(rows) if i % 5]), ("held_out", rows[::5])):
        (root / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
        pairs = [{"prompt": r["prompt"], "chosen": r["answers"][0], "rejected": r["answers"][-1]} for r in part]
        (root / f"{name}_pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    return root


def node(folder: Path, task: dict, *, lora: int = 0, algorithm: dict | None = None, batch: dict | None = None, **changes) -> dict:
    return {
        "steps": 40,
        "task": {"name": "preferences"} | task,
        "algorithm": {"name": "reward_model"} | (algorithm or {}),
        "model": {"path": str(folder), "lora": {"rank": lora}},
        "batch": {"prompts": 8} | (batch or {}),
        "sampling": {"max_tokens": 6},
        "optimizer": {"lr": 1e-2, "betas": [0.9, 0.95], "schedule": "linear"},
        "workers": {"backend": "local"},
    } | changes


def of(rankings: Path, kind: str = "") -> dict:
    return {"path": str(rankings / f"train{kind}.jsonl"), "eval_path": str(rankings / f"held_out{kind}.jsonl")} | (
        {} if kind else {"answers": "answers"}
    )


def make(folder: Path, **changes) -> Learner:
    return Learner(
        recipes.build(node(folder, {"path": "nowhere.jsonl"}, batch={"prompts": 4} | changes.pop("batch", {}), **changes)), str(folder)
    )


def drawn(made: Learner, sizes: tuple[int, ...] = SIZES) -> TokenBatch:
    rng = np.random.default_rng(0)
    groups = [
        Group(
            prompt=Prompt(id=str(g), text="", token_ids=tuple(rng.integers(3, 26, rng.integers(2, 7)).tolist())),
            episodes=tuple(Episode.single_turn(rng.integers(2, 26, rng.integers(1, 7)).astype(np.int32), "") for _ in range(k)),
        )
        for g, k in enumerate(sizes)
    ]
    return prepare_batch(made.recipe, made.compute_logprobs(pack(groups, None)))


def by_hand(scores: list[float]) -> float:
    """-log of the probability that the best is drawn by softmax, then the best of the rest: nats."""
    return -sum(s - math.log(sum(map(math.exp, scores[k:]))) for k, s in enumerate(scores))


def scores_of(made: Learner, batch: TokenBatch) -> list[list[float]]:
    """By ranking, each answer alone and without padding."""
    found: dict[int, list[float]] = {}
    for i, group in enumerate(batch.group_ids.tolist()):
        with torch.no_grad():
            found.setdefault(group, []).append(made.policy.scores(batch.select(torch.tensor([i]))).item())
    return list(found.values())


def gradients(made: Learner, batch: TokenBatch) -> tuple[list[dict[str, Tensor]], dict]:
    found: list[dict[str, Tensor]] = []
    made.optimizer.step = lambda: found.append({n: p.grad.clone() for n, p in made.trained() if p.grad is not None})
    return found, made.update(batch, 0)


def parameters(made: Learner) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in made.trained()}


# The loss


@pytest.mark.parametrize("sizes", [(2, 2, 2), (4, 4), (5,)], ids=str)
def test_the_loss_is_the_mean_over_rankings_of_plackett_luce(sizes: tuple[int, ...], folder: Path):
    made = make(folder)
    batch = drawn(made, sizes)
    scores = scores_of(made, batch)
    assert [len(s) for s in scores] == list(sizes)
    stats = made.update(batch, 0)
    assert stats["loss/policy"].mean == pytest.approx(np.mean([by_hand(s) for s in scores]), rel=1e-4)
    if set(sizes) == {2}:
        assert stats["loss/policy"].mean == pytest.approx(np.mean([math.log1p(math.exp(b - a)) for a, b in scores]), rel=1e-4)
    margins = [a - b for s in scores for i, a in enumerate(s) for b in s[i + 1 :]]
    assert stats["preference/margin"].mean == pytest.approx(np.mean(margins), rel=1e-3)
    assert stats["preference/accuracy"].mean == pytest.approx(np.mean([m > 0 for m in margins]))
    assert stats["score/mean"].mean == pytest.approx(np.mean([x for s in scores for x in s]), rel=1e-4)
    assert {name for name in stats if name.startswith(("kl", "divergence", "entropy", "engine"))} == set()


def test_in_a_batch_of_mixed_sizes_a_ranking_weighs_by_its_answers(folder: Path):
    made = make(folder)
    batch = drawn(made)
    scores = scores_of(made, batch)
    expected = sum(len(s) * by_hand(s) for s in scores) / sum(SIZES)
    assert made.update(batch, 0)["loss/policy"].mean == pytest.approx(expected, rel=1e-4)


def test_centring_adds_the_mean_square(folder: Path):
    made, plain = make(folder, algorithm={"centre": 0.5}), make(folder)
    batch = drawn(made)
    square = np.mean([x * x for s in scores_of(made, batch) for x in s])
    gap = made.update(batch, 0)["loss/policy"].mean - plain.update(batch, 0)["loss/policy"].mean
    assert gap == pytest.approx(0.5 * square, rel=1e-3)
    assert any(not torch.equal(p, parameters(plain)[n]) for n, p in parameters(made).items())


@pytest.mark.parametrize("lora", [0, 2])
def test_the_gradient_does_not_depend_on_micro_batches(lora: int, folder: Path):
    """Rankings stay whole: of a ranking cut in two there is no likelihood."""
    algorithm = {"epochs": 2, "minibatches": 2, "centre": 0.1}
    runs = []
    for micro_tokens in (10_000, 40, 1):
        made = make(folder, lora=lora, algorithm=algorithm, batch={"micro_tokens": micro_tokens})
        runs.append(gradients(made, drawn(made)))
    (expected, stats), *others = runs
    assert len(expected) == 4 and max(g.abs().max() for g in expected[0].values()) > 1e-3
    for found, told in others:
        for name, stat in stats.items():
            assert told[name].mean == pytest.approx(stat.mean, rel=1e-4, abs=1e-6), name
        for a, b in zip(found, expected, strict=True):
            for name, g in b.items():
                torch.testing.assert_close(a[name], g, rtol=1e-4, atol=1e-6)


def test_measuring_changes_nothing_and_says_what_the_update_would(folder: Path):
    made = make(folder)
    batch, before = drawn(made), parameters(made)
    told = made.measure(batch)
    assert all(torch.equal(p, before[n]) for n, p in parameters(made).items())
    updated = made.update(batch, 0)
    assert told.keys() == updated.keys() - {"grad/norm", "lr"}
    assert all(told[name] == updated[name] for name in told)


# Runs


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("kind", "lora"), [("", 0), ("_pairs", 4)], ids=["three answers", "pairs, lora"])
def test_what_can_be_told_apart_is_learned_and_exported(kind: str, lora: int, folder: Path, rankings: Path, tmp_path: Path, monkeypatch):
    def started(*args):
        raise AssertionError("no engine is needed")

    monkeypatch.setattr(Transformers, "start", started)
    summary = train(recipes.build(node(folder, of(rankings, kind), lora=lora)), tmp_path)
    before, after = summary["before"], summary["after"]
    assert (
        before.keys()
        == after.keys()
        == {"rankings/loss/policy", "rankings/preference/margin", "rankings/preference/accuracy", "rankings/score/mean"}
    )
    assert before["rankings/preference/accuracy"] < 0.9 and after["rankings/preference/accuracy"] > 0.97
    assert after["rankings/loss/policy"] < 0.1 < before["rankings/loss/policy"]
    assert lines(tmp_path)[-1]["eval/rankings/preference/accuracy"] == after["rankings/preference/accuracy"]
    # As anyone reads it: text to tokens to logits, one answer at a time.
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    rows = [json.loads(line) for line in (rankings / f"held_out{kind}.jsonl").read_text().splitlines()]
    margins, losses = [], []
    for row in rows:
        texts = row["answers"] if "answers" in row else [row["chosen"], row["rejected"]]
        with torch.no_grad():
            scores = [model(**tokenizer(row["prompt"] + text + tokenizer.eos_token, return_tensors="pt")).logits.item() for text in texts]
        margins += [a - b for i, a in enumerate(scores) for b in scores[i + 1 :]]
        losses.append(by_hand(scores))
    assert after["rankings/preference/accuracy"] == pytest.approx(np.mean([m > 0 for m in margins]))
    assert after["rankings/preference/margin"] == pytest.approx(np.mean(margins), rel=1e-3)
    assert after["rankings/loss/policy"] == pytest.approx(np.mean(losses), rel=1e-2, abs=1e-4)
    with pytest.raises(UserError, match="trained a reward model, which generates no answers"):
        evaluate(tmp_path)


@pytest.mark.parametrize("lora", [0, 2])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(lora: int, folder: Path, rankings: Path, tmp_path: Path, monkeypatch):
    def start(name: str, resume: bool = False) -> list[dict]:
        train(
            recipes.build(
                node(folder, of(rankings), lora=lora, steps=4, algorithm={"epochs": 2, "minibatches": 2}, checkpoint={"every": 2})
            ),
            tmp_path / name,
            resume=resume,
        )
        return lines(tmp_path / name)

    whole = start("whole")
    with stopped_at(3, monkeypatch):
        start("parts")
    parts = start("parts", resume=True)
    timing = ("time", "memory", "tokens/s")
    for a, b in zip(whole, parts, strict=True):
        assert {k: v for k, v in a.items() if not k.startswith(timing)} == {k: v for k, v in b.items() if not k.startswith(timing)}
    models = [AutoModelForSequenceClassification.from_pretrained(tmp_path / name / "model").state_dict() for name in ("whole", "parts")]
    assert all(torch.equal(t, models[1][name]) for name, t in models[0].items())
    start_model = AutoModelForSequenceClassification.from_pretrained(folder).state_dict()
    assert any(not torch.equal(t, start_model[name]) for name, t in models[0].items() if "layers" in name)


def test_no_rollout_actor_is_wanted(folder: Path):
    of_ray = recipes.build(node(folder, {"path": "nowhere.jsonl"}, workers={"backend": "ray", "rollout": 2}))
    assert needs(of_ray, 0) == [Need("learner", 1, 0.5, 0.0)]


# Refusals


@pytest.mark.parametrize(
    ("changes", "where", "says"),
    [
        (
            {"regularizers": {"kl": {"coefficient": 0.1}}},
            "regularizers.kl",
            "trains a reward model, so there is no policy to regularize; delete it",
        ),
        (
            {"regularizers": {"kl": {"coefficient": 0.1, "placement": "link"}}},
            "regularizers.kl",
            "trains a reward model, so there is no policy",
        ),
        ({"shapings": {"sure": "entropy_bonus"}}, "shapings.sure", "changes nothing: reward_model learns from rankings; delete the key"),
        ({"reward": "countdown_wordy"}, "reward", "changes nothing: reward_model learns from rankings; delete the key"),
        ({"reward_limits": {"seconds": 1.0}}, "reward_limits.seconds", "changes nothing: reward_model learns from rankings"),
        ({"batch": {"samples": 2}}, "batch.samples", "changes nothing: reward_model learns from rankings"),
        ({"evaluation": {"samples": 2}}, "evaluation.samples", "trains a reward model, which has no answers"),
        ({"algorithm": {"minibatches": 3}}, "batch.prompts", "8 prompts do not divide into 3 minibatches"),
        ({"algorithm": {"centre": -0.1}}, "algorithm", "centre must be >= 0"),
        ({"algorithm": {"epochs": 0}}, "algorithm", "epochs must be at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused_at_its_key(changes: dict, where: str, says: str):
    with pytest.raises(RecipeError) as refused:
        recipes.build(node(Path("nowhere"), {"path": "nowhere.jsonl"}, **changes))
    assert refused.value.where == where and says in str(refused.value)


def test_demonstrations_are_no_rankings(folder: Path, tmp_path: Path):
    one = node(folder, {}) | {"task": {"name": "countdown", "size": 16, "demonstrations": True}}
    with pytest.raises(UserError, match="preferences are learned from two or more"):
        train(recipes.build(one), tmp_path)


def test_a_checkpoint_of_a_policy_is_none_of_a_scorer(folder: Path, tmp_path: Path):
    made = make(folder)
    made.update(drawn(made), 0)
    made.save(str(tmp_path / "checkpoint"))
    other = make(folder, lora=2)
    with pytest.raises(UserError, match="does not fit this recipe's model"):
        other.load(str(tmp_path / "checkpoint"))
    again = make(folder)
    again.load(str(tmp_path / "checkpoint"))
    assert again.version == 1 and all(torch.equal(p, parameters(again)[n]) for n, p in parameters(made).items())
    batch = drawn(made)
    assert made.update(batch, 1) == again.update(replace(batch), 1)
