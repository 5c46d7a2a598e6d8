"""The learner on real (tiny) transformers models: what it computes, what it keeps, and when it stops."""

import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from models import tiny_model
from rollouts import groups
from transformers import AutoModelForCausalLM

from align.config import recipes
from align.config.schema import Model, Optimizer
from align.errors import RunStopped, UserError
from align.experience.packing import pack
from align.experience.prepare import prepare_batch
from align.learner.learner import Learner
from align.learner.micro_batches import micro_batches, minibatches
from align.learner.optimizer import schedule
from align.learner.policy import Policy
from align.run.state import RunState
from align.types import Rewards, TokenBatch
from align.weight_sync.packing import unpack

PLUGIN = Path(__file__).parents[1] / "plugins" / "systematic.py"


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def model(request, tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp(request.param), kind=request.param, tied=request.param == "qwen2")


def node(folder: Path, **changes) -> dict:
    return {
        "steps": 4,
        "task": f"{PLUGIN}:OnePrompt",
        "reward": f"{PLUGIN}:ByToken",
        "engine": f"{PLUGIN}:Systematic",
        "algorithm": "grpo",
        "model": {"path": str(folder)},
        "batch": {"prompts": 4, "samples": 3},
        "sampling": {"max_tokens": 6},
        "optimizer": {"lr": 1e-2},
        "workers": {"backend": "local"},
        "evaluation": {"every": -1},
    } | changes


def make(folder: Path, **changes) -> Learner:
    return Learner(recipes.build(node(folder, **changes)), str(folder))


def batch(learner: Learner, seed: int = 0) -> TokenBatch:
    rewards = Rewards(values=np.random.default_rng(seed).random(12).astype(np.float32))
    betas = RunState(learner.recipe).betas(0)
    scored = learner.score(replace(pack(groups(seed), rewards), betas=betas))
    return prepare_batch(learner.recipe, scored)


def parameters(learner: Learner) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in learner.policy.trained()}


def test_packed_hidden_states_are_those_of_each_sequence_alone(model: Path):
    policy, packed = Policy(str(model), Model(path=str(model))), pack(groups(), None)
    hidden = policy.hidden(packed)
    whole = AutoModelForCausalLM.from_pretrained(model)
    logp = torch.log_softmax(policy.head().logits(hidden, 1.0), -1).gather(1, packed.tokens[:, None]).squeeze(1)
    row = 0
    for group in groups():
        for episode in group.episodes:
            ids = torch.tensor([[*group.prompt.token_ids, *episode.trained_ids]])
            alone = torch.log_softmax(whole(ids).logits[0, :-1].float(), -1).gather(1, ids[0, 1:, None]).squeeze(1)
            expected = alone[len(group.prompt.token_ids) - 1 :]
            torch.testing.assert_close(logp[packed.seq_ids == row], expected, rtol=0, atol=1e-5)
            row += 1


@pytest.mark.parametrize(
    "options",
    [
        {"algorithm": {"name": "grpo", "reduction": "token"}},
        {"algorithm": {"name": "grpo", "reduction": "sequence_mean"}},
        {"algorithm": {"name": "grpo", "reduction": "constant"}},
    ],
)
def test_the_gradient_does_not_depend_on_micro_batches(model: Path, options: dict):
    regularizers = {
        "a": {"estimator": "exact", "coefficient": 0.1, "credit": "summed"},
        "b": {"divergence": "jensen_shannon", "coefficient": 0.2, "placement": "reward", "credit": "summed"},
    }
    steps = {}
    for micro_tokens in (10_000, 30, 1):
        learner = make(model, regularizers=regularizers, batch={"prompts": 4, "samples": 3, "micro_tokens": micro_tokens}, **options)
        for _, p in learner.policy.trained():  # away from the reference, where every divergence is 0
            p.data += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
        learner.version = 1  # and past the batch that must find it there
        gradient = capture_gradient(learner, batch(learner))
        steps[micro_tokens] = gradient
    for micro_tokens in (30, 1):
        for name, g in steps[10_000].items():
            torch.testing.assert_close(steps[micro_tokens][name], g, rtol=1e-4, atol=1e-7)


def capture_gradient(learner: Learner, scored: TokenBatch) -> dict[str, torch.Tensor]:
    gradient = {}
    learner.optimizer.step = lambda: gradient.update({n: p.grad.clone() for n, p in learner.policy.trained()})
    learner.update(scored, 0)
    return gradient


def moved(learner: Learner) -> Learner:
    """Away from the reference, as after a first batch."""
    for _, p in learner.policy.trained():
        p.data += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    learner.version = 1
    return learner


def test_a_penalty_pulls_alike_in_the_loss_and_in_the_reward(model: Path):
    in_loss, in_reward, without = (
        capture_gradient(learner, batch(learner))
        for learner in (
            moved(make(model, regularizers=regularizers))
            for regularizers in (
                {"kl": {"coefficient": 0.3, "placement": "loss", "divergence": "forward_kl"}},
                {"kl": {"coefficient": 0.3, "placement": "reward", "divergence": "forward_kl"}},
                {},
            )
        )
    )
    for name, g in in_loss.items():
        torch.testing.assert_close(in_reward[name], g, rtol=1e-4, atol=1e-6)
    assert any((in_loss[name] - g).abs().max() > 1e-3 for name, g in without.items())


def test_scores_are_in_the_order_of_the_batch(model: Path):
    """Micro-batches are cut by length, and their scores put back."""
    regularizers = {"kl": {"coefficient": 0.1, "estimator": "exact"}}
    learners = [
        moved(
            make(
                model,
                regularizers=regularizers,
                algorithm={"name": "grpo", "epochs": 2},
                batch={"prompts": 4, "samples": 3, "micro_tokens": n},
            )
        )
        for n in (10_000, 1)
    ]
    whole, cut = map(batch, learners)
    states = [learner.states.of(["kl"], scored)["kl"] for learner, scored in zip(learners, (whole, cut), strict=True)]
    for a, b in ((whole.old_logp, cut.old_logp), (whole.entropy, cut.entropy), states):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


def test_activation_checkpointing_changes_nothing(model: Path):
    plain, saving = make(model), make(model, model={"path": str(model), "activation_checkpointing": True})
    a, b = capture_gradient(plain, batch(plain)), capture_gradient(saving, batch(saving))
    for name, g in a.items():
        torch.testing.assert_close(b[name], g, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("lora", [0, 4])
@pytest.mark.parametrize("reference", ["frozen", "ema"])
def test_the_divergence_to_an_initial_reference_starts_at_zero(model: Path, lora: int, reference: str):
    learner = make(
        model,
        model={"path": str(model), "lora": {"rank": lora}},
        regularizers={"kl": {"coefficient": 0.1, "reference": reference, "estimator": "exact"}},
    )
    first = learner.update(batch(learner), 0)
    assert first["divergence/kl"].mean == pytest.approx(0, abs=1e-6)
    second = learner.update(batch(learner, seed=1), 1)
    moved = second["divergence/kl"].mean
    assert moved > 1e-4 if reference == "frozen" else moved > 1e-7


def test_the_moving_average_reference_is_the_moving_average(model: Path):
    learner = make(model, regularizers={"kl": {"coefficient": 0.1, "reference": {"name": "ema", "rate": 0.25, "every": 2}}})
    start = parameters(learner)
    shadow = learner.references["kl"].parameters()
    learner.update(batch(learner), 0)
    assert all(torch.equal(shadow[n], start[n]) for n in start)
    learner.update(batch(learner, 1), 1)
    now = parameters(learner)
    for n in start:
        torch.testing.assert_close(shadow[n], 0.75 * start[n] + 0.25 * now[n], rtol=1e-6, atol=1e-7)


def test_equal_references_are_one(model: Path):
    learner = make(
        model,
        regularizers={
            "a": {"coefficient": 0.1},
            "b": {"coefficient": 0.1, "divergence": "forward_kl"},
            "c": {"coefficient": 0.1, "reference": "ema"},
        },
    )
    assert learner.references["a"] is learner.references["b"] is not learner.references["c"]


@pytest.mark.parametrize("form", [{}, {"placement": "reward"}, {"divergence": "pearson", "credit": "summed"}])
def test_a_coefficient_of_zero_measures_and_trains_nothing(model: Path, form: dict):
    plain, silent = make(model), make(model, regularizers={"kl": {"coefficient": 0.0, **form}})
    for step in range(2):
        stats, other = plain.update(batch(plain, step), step), silent.update(batch(silent, step), step)
        assert all(other[name] == stat for name, stat in stats.items()) and other["loss/reg/kl"].mean == 0
    assert other["divergence/kl"].mean > 0 and other["kl/ref/k3"].mean > 0
    assert all(torch.equal(p, q) for p, q in zip(parameters(plain).values(), parameters(silent).values(), strict=True))


def test_a_divergence_that_overflows_is_measured_without_harm(model: Path):
    learner = make(model, regularizers={"kl": {"coefficient": 0.0, "divergence": "neyman", "estimator": "exact"}})
    for p in learner.policy.trained():
        p[1].data *= 6.0
    learner.version = 1
    stats = learner.update(batch(learner), 0)
    assert math.isfinite(stats["grad/norm"].mean)


@pytest.mark.parametrize("lora", [0, 4])
def test_exported_and_published_weights_are_the_policy(model: Path, tmp_path: Path, lora: int):
    learner = make(model, model={"path": str(model), "lora": {"rank": lora}})
    base = {n: t.clone() for n, t in Policy(str(model), Model(path=str(model))).tensors()}
    for step in range(2):
        learner.update(batch(learner, step), step)
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        expected = learner.policy.module(ids).logits
        learner.export(str(tmp_path / "model"))
        exported = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        torch.testing.assert_close(exported(ids).logits, expected, rtol=1e-4, atol=1e-5)
        published = dict(unpack(learner.weights()))
        assert published.keys() == base.keys()
        fresh = AutoModelForCausalLM.from_pretrained(model)
        fresh.load_state_dict(published, strict=False)
        torch.testing.assert_close(fresh(ids).logits, expected, rtol=1e-4, atol=1e-5)
        assert (fresh(ids).logits - AutoModelForCausalLM.from_pretrained(model)(ids).logits).abs().max() > 1e-3


@pytest.mark.parametrize("lora", [0, 4])
def test_a_restored_learner_goes_on_bit_for_bit(model: Path, tmp_path: Path, lora: int):
    options = {
        "model": {"path": str(model), "lora": {"rank": lora}},
        "regularizers": {"kl": {"coefficient": 0.1, "estimator": "exact", "reference": "ema"}, "f": {"coefficient": 0.1}},
    }
    one = make(model, **options)
    for step in range(2):
        one.update(batch(one, step), step)
    one.save(str(tmp_path / "checkpoint"))
    other = make(model, **options)
    other.load(str(tmp_path / "checkpoint"))
    assert other.version == 2
    for step in (2, 3):
        a, b = one.update(batch(one, step), step), other.update(batch(other, step), step)
        assert a == b
    assert all(torch.equal(p, q) for p, q in zip(parameters(one).values(), parameters(other).values(), strict=True))


def test_a_checkpoint_of_another_model_is_refused(model: Path, tmp_path: Path):
    make(model).save(str(tmp_path / "checkpoint"))
    other = make(model, model={"path": str(model), "lora": {"rank": 2}})
    with pytest.raises(UserError, match="does not fit this recipe's model"):
        other.load(str(tmp_path / "checkpoint"))
    with pytest.raises(UserError, match="not a complete checkpoint"):
        other.load(str(tmp_path / "nothing"))


def test_a_loss_that_is_not_finite_stops_before_the_update(model: Path):
    learner = make(model, regularizers={"kl": {"coefficient": 0.1}})
    before, scored = parameters(learner), batch(learner)
    poisoned = replace(scored, penalty_weights={"kl": torch.full_like(scored.advantages, float("inf"))})
    with pytest.raises(RunStopped, match=r"step 3: loss/reg/kl is (nan|inf)"):
        learner.update(poisoned, 3)
    with pytest.raises(RunStopped, match=r"step 3: loss/policy is nan"):
        learner.update(replace(scored, advantages=scored.advantages * float("nan")), 3)
    assert all(torch.equal(p, before[n]) for n, p in learner.policy.trained())


def test_an_engine_with_other_weights_stops_the_run(model: Path):
    learner = make(model)
    scored = batch(learner)
    with torch.no_grad():
        logp = learner._context(scored).logp
    stats = learner.update(replace(scored, sampler_logp=logp), 0)
    assert stats["engine/gap"].mean < 1e-6 and stats["kl/engine"].mean < 1e-6
    with pytest.raises(RunStopped, match="step 1: the engine's log-probs differ from the learner's by 1"):
        learner.update(replace(scored, sampler_logp=logp - 1.0), 1)


def test_an_engine_of_another_precision_is_expected_of_bfloat16(model: Path):
    """A gap of 4e-3 nats, as bfloat16 has it, stops float32 alone; 0.06 stops both."""
    remedy = "step 0: .* --resume alone stops here again.* add max_engine_gap="
    for dtype, gap, told in (("float32", 4e-3, "0.008 "), ("bfloat16", 4e-3, None), ("bfloat16", 0.06, "0.1 ")):
        learner = make(model, model={"path": str(model), "dtype": dtype})
        scored = batch(learner)
        with torch.no_grad():
            logp = learner._context(scored).logp
        with pytest.raises(RunStopped, match=remedy + told) if told else nullcontext():
            learner.update(replace(scored, sampler_logp=logp - gap), 0)


def test_the_distance_to_the_engine_is_that_of_its_own_samples(model: Path):
    """KL(mu||pi_old) where log pi_old - log mu is 1/2 throughout: e^(1/2) - 1 - 1/2 a token."""
    learner = make(model, max_engine_gap=1.0)
    scored = batch(learner)
    with torch.no_grad():
        logp = learner._context(scored).logp
    stats = learner.update(replace(scored, sampler_logp=logp - 0.5), 0)
    assert stats["kl/engine"].mean == pytest.approx(0.1487212707, rel=1e-5) and stats["engine/gap"].mean == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("estimator", ["sampled", "exact"])
def test_policy_and_reference_have_the_same_temperature(model: Path, estimator: str):
    learner = make(
        model,
        sampling={"max_tokens": 6, "temperature": 0.5},
        regularizers={"kl": {"coefficient": 0.1, "reference": "ema", "estimator": estimator}},
    )
    first = learner.update(batch(learner), 0)
    assert first["divergence/kl"].mean == pytest.approx(0, abs=1e-6) and first["kl/ref/k3"].mean == pytest.approx(0, abs=1e-6)


def test_the_divergence_told_is_that_of_an_answer(model: Path):
    learner = make(model, regularizers={"kl": {"coefficient": 0.1, "estimator": "exact"}})
    learner.update(batch(learner), 0)
    stats = learner.update(batch(learner, 1), 1)
    assert stats["divergence/kl"].count == 12
    assert stats["divergence/kl"].sum == pytest.approx(stats["kl/ref/exact"].sum, rel=1e-6)


def test_dropout_follows_from_the_seed_and_the_step(model: Path):
    def after(noise: int, step: int) -> torch.Tensor:
        torch.manual_seed(0)  # of the adapter's first values
        learner = make(model, model={"path": str(model), "lora": {"rank": 4, "dropout": 0.5}})
        scored = batch(learner)
        torch.manual_seed(noise)
        learner.update(scored, step)
        return torch.cat([p.flatten() for p in parameters(learner).values()])

    assert torch.equal(after(1, 0), after(2, 0)) and not torch.equal(after(1, 0), after(1, 1))


def test_every_optimizer_key_changes_the_update(model: Path):
    def after(**options) -> torch.Tensor:
        learner = make(model, optimizer={"lr": 1e-2} | options)
        for step in range(3):
            learner.update(batch(learner, step), step)
        return torch.cat([p.flatten() for p in parameters(learner).values()])

    plain = after()
    for options in (
        {"lr": 2e-2},
        {"betas": [0.8, 0.99]},
        {"betas": [0.9, 0.9]},
        {"weight_decay": 0.1},
        {"warmup_steps": 2},
        {"schedule": "linear"},
        {"schedule": "cosine"},
        {"max_grad_norm": 1e-3},
    ):
        assert not torch.equal(after(**options), plain), options
    assert not torch.equal(after(schedule="linear"), after(schedule="linear", final_fraction=0.5))


def test_the_learning_rate_follows_its_schedule():
    linear = Optimizer(lr=1.0, warmup_steps=2, schedule="linear", final_fraction=0.1)
    assert [schedule(linear, s, 7) for s in range(7)] == pytest.approx([0.5, 1.0, 1.0, 0.775, 0.55, 0.325, 0.1])
    cosine = Optimizer(lr=2.0, schedule="cosine")
    assert [schedule(cosine, s, 3) for s in range(3)] == pytest.approx([1.0, 0.5, 0.0])


def test_minibatches_are_whole_groups_and_everything_once():
    packed = pack(groups(), Rewards(values=np.arange(12, dtype=np.float32)))
    parts = list(minibatches(packed, 2, seed=3))
    assert sorted(torch.cat([p.rewards for p in parts]).tolist()) == list(range(12))
    assert all((torch.bincount(p.group_ids)[p.group_ids.unique()] == 3).all() for p in parts)
    assert not torch.equal(parts[0].rewards, next(minibatches(packed, 2, seed=4)).rewards)


def test_micro_batches_cover_every_token_and_keep_to_the_limit():
    packed = pack(groups(), None)
    seen = []
    for chosen, micro in micro_batches(packed, 24):
        assert torch.equal(micro.tokens, packed.tokens[chosen])
        assert micro.input_ids.numel() <= 24 or len(micro.lengths) == 1
        seen += chosen.tolist()
    assert sorted(seen) == list(range(len(packed.seq_ids)))


def test_dropped_samples_leave_no_trace():
    values = np.arange(12, dtype=np.float32)
    values[[0, 1, 2, 7]] = np.nan
    packed = pack(groups(), Rewards(values=values))
    assert packed.rewards.tolist() == [3, 4, 5, 6, 8, 9, 10, 11]
    assert packed.group_ids.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert pack(groups(), Rewards(values=np.full(12, np.nan, dtype=np.float32))) is None


def test_the_seed_decides_the_first_adapter(model: Path):
    first = [
        torch.cat([p.flatten() for p in parameters(make(model, seed=seed, model={"path": str(model), "lora": {"rank": 2}})).values()])
        for seed in (0, 0, 1)
    ]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])
