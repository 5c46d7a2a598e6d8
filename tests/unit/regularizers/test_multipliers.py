"""A coefficient for each prompt: from the batch through the learner and back, against the same penalty weighed by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.models import tiny_model
from helpers.paths import PLUGINS

from align.config import recipes, schema
from align.experience.packing import pack
from align.experience.prepare import prepare_batch
from align.learner.learner import Learner
from align.learner.metric_accumulator import MetricAccumulator
from align.run.state import RunState
from align.run.step_metrics import beta_metrics
from align.train import train
from align.types import Episode, Group, Prompt, Rewards, Stat, TokenBatch

PLUGIN = PLUGINS / "systematic.py"
IDS = ["first", "second", "first"]
"""The prompts of three groups of two; one comes twice."""
OWN = {"first": 0.5, "second": 3.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def build(folder: Path, regularizer: dict, algorithm: dict | None = None, **batch) -> schema.Recipe:
    return recipes.build(
        {
            "steps": 3,
            "task": f"{PLUGIN}:OnePrompt",
            "reward": f"{PLUGIN}:ByToken",
            "engine": f"{PLUGIN}:Systematic",
            "algorithm": {"name": "grpo"} | (algorithm or {}),
            "model": {"path": str(folder)},
            "batch": {"prompts": 3, "samples": 2} | batch,
            "sampling": {"max_tokens": 6},
            "optimizer": {"lr": 1e-2},
            "workers": {"backend": "local"},
            "evaluation": {"every": -1},
            "regularizers": {"kl": regularizer},
        }
    )


def learner(*args, **batch) -> Learner:
    """Away from its reference, where every divergence is 0."""
    made = Learner(build(*args, **batch), str(args[0]))
    for _, p in made.policy.trained():
        p.data += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    made.version = 1  # the first batch must find it there, and stops the run
    return made


def packed(drop: int | None = None) -> TokenBatch:
    rng = np.random.default_rng(0)
    groups = [
        Group(
            prompt=Prompt(id=i, text="", token_ids=(3, 4, 5)),
            episodes=tuple(Episode.single_turn(rng.integers(2, 26, n).astype(np.int32), "") for n in (2 + g, 5 - g)),
        )
        for g, i in enumerate(IDS)
    ]
    values = rng.random(6).astype(np.float32)
    if drop is not None:
        values[drop] = np.nan
    batch = pack(groups, Rewards(values=values))
    assert batch is not None
    return batch


def scored(made: Learner, **multipliers: float) -> TokenBatch:
    """`multipliers` of prompts that have another than the first."""
    state = RunState(made.recipe)
    if multipliers:
        state.coefficients["kl"] = {"multipliers": multipliers}
    return prepare_batch(made.recipe, made.compute_logprobs(replace(packed(), betas=state.betas(0))), state.coefficients)


def gradient(made: Learner, batch: TokenBatch) -> tuple[dict[str, torch.Tensor], dict[str, Stat]]:
    found = {}
    made.optimizer.step = lambda: found.update({n: p.grad.clone() for n, p in made.policy.trained()})
    stats = made.update(batch, 0)
    return found, stats


def test_a_batch_knows_its_prompts():
    assert packed().prompt_ids == ("first", "first", "second", "second", "first", "first")
    assert packed(drop=3).prompt_ids == ("first", "first", "second", "first", "first")
    assert packed().select(torch.tensor([1, 2, 5])).prompt_ids == ("first", "second", "first")


def test_shape_asks_for_the_multipliers(model: Path):
    made = learner(model, {"coefficient": {"name": "feasible", "tolerance": 0.0, "initial": 3.0}})
    batch = scored(made, first=0.5)
    assert batch.betas == {"kl": 1.0} and batch.multipliers["kl"].tolist() == [0.5, 0.5, 3.0, 3.0, 0.5, 0.5]
    assert batch.multipliers["kl"].dtype == torch.float32
    assert beta_metrics(batch) == pytest.approx({"beta/kl": 8 / 6, "beta/kl/largest": 3.0})
    plain = scored(learner(model, {"coefficient": 0.25}))
    assert plain.multipliers == {} and beta_metrics(plain) == {"beta/kl": 0.25}


def test_a_weighting_weighs_what_is_measured_at_beta_zero(model: Path):
    made = learner(model, {"coefficient": {"name": "linear", "start": 0.0, "end": 0.1, "steps": 2}, "weighting": "confidence"})
    batch = scored(made)
    assert batch.betas == {"kl": 0.0} and batch.ref_logp.keys() == batch.penalty_weights.keys() == {"kl"}
    assert made.update(batch, 0)["divergence/kl"].mean > 0


FORMS = [
    ("sampled", "loss", "local"),
    ("sampled", "loss", "summed"),
    ("sampled", "loss", "sequence"),
    ("exact", "loss", "summed"),
    ("sampled", "reward", "summed"),
]


@pytest.mark.parametrize(("estimator", "placement", "credit"), FORMS, ids=lambda x: x)
@pytest.mark.parametrize("micro_tokens", [10_000, 20])
def test_multipliers_scale_the_penalty_of_each_sequence(model: Path, estimator: str, placement: str, credit: str, micro_tokens: int):
    """The gradient is that of the same penalty under weights of the same numbers, and the loss that is reported is too."""
    form = {"estimator": estimator, "placement": placement, "credit": credit}
    feasible = learner(model, form | {"coefficient": {"name": "feasible"}}, micro_tokens=micro_tokens)
    constant = learner(model, form | {"coefficient": 1.0})
    batch = scored(constant)
    by_token = torch.tensor([OWN[p] for p in batch.prompt_ids])[batch.seq_ids]
    expected, by_hand = gradient(constant, replace(batch, penalty_weights={"kl": by_token}))
    found, stats = gradient(feasible, scored(feasible, **OWN))
    for name, g in expected.items():
        torch.testing.assert_close(found[name], g, rtol=1e-4, atol=1e-7)
    assert stats["loss/reg/kl"].mean == pytest.approx(by_hand["loss/reg/kl"].mean, rel=1e-5)
    unscaled = gradient(learner(model, form | {"coefficient": 1.0}), batch)[1]
    assert stats["divergence/kl"].mean == pytest.approx(unscaled["divergence/kl"].mean, rel=1e-5), "multipliers are no part of it"


@pytest.mark.parametrize(("minibatches", "micro_tokens"), [(1, 10_000), (1, 20), (3, 10_000)])
def test_the_divergence_comes_back_by_prompt(model: Path, minibatches: int, micro_tokens: int):
    """However the batch is cut: of each prompt the mean over its rollouts. Nothing is learned in between."""
    form = {"estimator": "exact", "coefficient": {"name": "feasible"}}
    made = learner(model, form, {"minibatches": minibatches}, micro_tokens=micro_tokens)
    made.optimizer.step = lambda: None
    batch = scored(made)
    stat = made.update(batch, 0)["divergence/kl"]
    expected = {}
    for prompt in OWN:
        chosen = torch.tensor([i for i, p in enumerate(batch.prompt_ids) if p == prompt])
        alone = learner(model, {"estimator": "exact", "coefficient": 1.0})
        expected[prompt] = alone.update(batch.select(chosen), 0)["divergence/kl"]
    assert {p: s.count for p, s in stat.by_prompt.items()} == {p: s.count for p, s in expected.items()} == {"first": 4, "second": 2}
    assert {p: s.mean for p, s in stat.by_prompt.items()} == pytest.approx({p: s.mean for p, s in expected.items()}, rel=1e-4)
    assert stat.count == 6 and sum(s.sum for s in stat.by_prompt.values()) == pytest.approx(stat.sum, rel=1e-5)
    assert stat.by_prompt["first"].mean > 1e-4


def test_others_report_no_prompts(model: Path):
    made = learner(model, {"coefficient": 0.1})
    assert not any(stat.by_prompt for stat in made.update(scored(made), 0).values())


def test_stats_add_up_by_prompt():
    one, two, three = (Stat(sum=x, count=n) for x, n in ((1.0, 1), (6.0, 2), (4.0, 4)))
    both = Stat(sum=7.0, count=3, by_prompt={"a": one, "b": two}) + Stat(sum=4.0, count=4, by_prompt={"b": three})
    assert both == Stat(sum=11.0, count=7, by_prompt={"a": one, "b": Stat(sum=10.0, count=6)})
    tally, other = MetricAccumulator(), MetricAccumulator()
    for each, values, prompts in ((tally, [1.0, 2.0], ("a", "b")), (other, [4.0], ("b",))):
        each.add("d", torch.tensor(values).sum(), len(values))
        each.add_by_prompt("d", torch.tensor(values), prompts)
    tally.merge(other)
    assert tally.stats() == {"d": Stat(sum=7.0, count=3.0, by_prompt={"a": Stat(sum=1.0, count=1), "b": Stat(sum=6.0, count=2)})}


def test_the_loop_tells_the_coefficient(model: Path):
    """`control` gives every coefficient the mean, and one with multipliers each prompt's."""
    state = RunState(build(model, {"coefficient": {"name": "feasible", "tolerance": 0.5}}))
    measured = Stat(sum=9.0, count=4, by_prompt={"first": Stat(sum=2.0, count=2), "second": Stat(sum=7.0, count=2)})
    state.control(packed(), {"divergence/kl": measured, "entropy": Stat(sum=1.0, count=1)})
    assert state.coefficients["kl"] == {"multipliers": {"first": 1 + 0.5 - 0.5, "second": 1 + 3.0 - 0.5}}
    # The mean, 9/4, is below 4/1.5 and halves it; the sum would double it.
    plain = RunState(build(model, {"coefficient": {"name": "ppo_penalty", "target": 4.0}}))
    plain.control(packed(), {"divergence/kl": measured})
    assert plain.betas(1) == {"kl": 0.5}
    horizon = RunState(build(model, {"coefficient": {"name": "adaptive", "target": 1.0, "horizon": 60.0}}))
    horizon.control(packed(), {"divergence/kl": measured})
    assert horizon.betas(1) == {"kl": pytest.approx(0.2 * (1 + 0.2 * 6 / 60))}, "six rollouts"


def kept(run_dir: Path, step: int) -> dict:
    """The states of the coefficients in a checkpoint."""
    return json.loads((run_dir / "checkpoints" / f"step_{step:06d}" / "driver.json").read_text())["coefficients"]


def test_a_run_follows_the_dual_and_resumes(model: Path, tmp_path: Path):
    """Two steps and one more after a restart are three steps; the checkpoint holds the multiplier of the one prompt."""
    regularizer = {"estimator": "exact", "coefficient": {"name": "feasible", "tolerance": 0.05, "initial": 0.3}}
    whole = build(model, regularizer)
    train(whole, tmp_path / "whole")
    train(replace(build(model, regularizer), steps=2), tmp_path / "parts")
    parts = build(model, regularizer)
    train(parts, tmp_path / "parts", resume=True)
    found, resumed = (kept(tmp_path / name, 3)["kl"] for name in ("whole", "parts"))
    assert found == resumed and found["multipliers"].keys() == {"0"}
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "divergence/kl" in row]
    value = 0.3
    for row in steps:
        assert (row["beta/kl"], row["beta/kl/largest"]) == pytest.approx((value, value), rel=1e-6)
        assert row["loss/reg/kl"] == pytest.approx(value * row["divergence/kl"], rel=1e-5), "answers of one token"
        value = max(value + row["divergence/kl"] - 0.05 - value / 2, 0.0)
    assert len(steps) == 3 and found["multipliers"]["0"] == pytest.approx(value, rel=1e-6) and value != 0.3
