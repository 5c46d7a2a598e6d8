"""References on real (tiny) models: what each stands for, when it changes, what a restart keeps, and what is refused."""

from __future__ import annotations

import copy
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from models import tiny_model, tiny_tokenizer
from rollouts import groups
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from unit.enumeration import NAME, Problem

from align import recipe, registry
from align.config import build_part
from align.errors import RecipeError, RunStopped, UserError
from align.learner.learner import Learner
from align.pack import pack
from align.shape import shape
from align.types import Rewards, TokenBatch

PLUGIN = Path(__file__).parents[1] / "plugins" / "systematic.py"
INITIAL = ["frozen", "ema", "hard_reset", "behaviour"]
"""Those that begin as the policy."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """`initial`, `second` and `third` of one architecture, heads untied; `adapter`, trained on `initial` with rank 4 and alpha 32."""
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("initial", "second", "third")):
        tiny_model(root / name, tied=False, seed=seed)
    trained = make(root, "frozen", lora=4)
    for step in range(2):
        trained.update(batch(trained, step), step)
    trained.export(str(root / "run"))
    shutil.copytree(root / "run" / "adapter", root / "adapter")
    return root


def reference(folder: Path, name: str) -> dict:
    """A recipe's node for each shipped reference."""
    return {"name": name} | {
        "ema": {"rate": 0.3, "every": 2}, "hard_reset": {"every": 4}, "soup": {"paths": [str(folder / "second")], "weights": [0.4]},
        "teacher": {"path": str(folder / "second")}, "checkpoint": {"path": str(folder / "third")}}.get(name, {})


def make(folder: Path, ref: str | dict, *, lora: int = 0, minibatches: int = 2, model: str = "initial", alpha: float = 32.0,
         **keys) -> Learner:
    node = reference(folder, ref) if isinstance(ref, str) else ref
    options = {"rank": lora, "alpha": alpha} if lora else {}
    return Learner(recipe.build({
        "steps": 8, "task": f"{PLUGIN}:OnePrompt", "reward": f"{PLUGIN}:ByToken", "engine": f"{PLUGIN}:Systematic",
        "algorithm": {"name": "grpo", "minibatches": minibatches} | keys.pop("algorithm", {}),
        "model": {"path": str(folder / model), "lora": options},
        "batch": {"prompts": 4, "samples": 3}, "sampling": {"max_tokens": 6, "temperature": 0.7}, "optimizer": {"lr": 1e-2},
        "workers": {"backend": "local"}, "evaluation": {"every": -1},
        "regularizers": {"kl": {"coefficient": 0.1, "reference": node, "estimator": "exact"} | keys},
    }), str(folder / model))


def batch(learner: Learner, seed: int = 0) -> TokenBatch:
    rewards = Rewards(values=np.random.default_rng(seed).random(12).astype(np.float32))
    packed = replace(pack(groups(seed), rewards), betas={"kl": 0.1}, step=seed)
    return shape(learner.recipe, learner.score(packed))


def logp_of(model: torch.nn.Module, packed: TokenBatch, temperature: float = 0.7, rows: int | None = None) -> Tensor:
    """log-probs [T, V] at each response token by transformers alone, each sequence by itself."""
    parts = []
    for i, ids in enumerate(packed.input_ids):
        start, n = int(packed.prompt_lengths[i]), int(packed.lengths[i])
        with torch.no_grad():
            logits = model(ids[None, : start + n]).logits[0, start - 1 : start + n - 1, :rows]
        parts.append(torch.log_softmax(logits / temperature, -1))
    return torch.cat(parts)


def sampled(logp: Tensor, packed: TokenBatch) -> Tensor:
    return logp.gather(1, packed.tokens[:, None]).squeeze(1)


def hf(folder: Path, name: str) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder / name)


def trained(learner: Learner) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in learner.policy.trained()}


def after_each_step(learner: Learner) -> list[dict[str, Tensor]]:
    """Filled, as the learner works, with the policy after every optimizer step."""
    seen, step = [], learner.optimizer.step

    def stepped():
        step()
        seen.append(trained(learner))

    learner.optimizer.step = stepped
    return seen


def exact_kl(learner: Learner, scored: TokenBatch) -> float:
    """Nats an answer, as an update that moves nothing measures it."""
    step, learner.optimizer.step = learner.optimizer.step, lambda: None
    measured = learner.update(scored, 0)["divergence/kl"].mean
    learner.optimizer.step = step
    return measured


# Those that begin as the policy


@pytest.mark.parametrize("lora", [0, 4])
@pytest.mark.parametrize("name", INITIAL)
def test_the_first_batch_finds_the_policy(folder: Path, name: str, lora: int):
    learner = make(folder, name, lora=lora)
    scored = batch(learner)
    torch.testing.assert_close(scored.references["kl"].logp, scored.old_logp, rtol=0, atol=1e-6)
    learner.update(scored, 0)
    later = batch(learner, 1)
    distance = (later.references["kl"].logp - later.old_logp).abs().max()
    assert distance < 1e-6 if name == "behaviour" else distance > 1e-3


def test_an_adapter_that_the_reference_lacks_stops_the_run(folder: Path):
    learner = make(folder, "frozen", lora=4, estimator="sampled")
    for name, p in learner.policy.trained():  # as one loaded from elsewhere: B is not 0
        p.data += 0.05 if "lora_B" in name else 0
    before, scored = trained(learner), batch(learner)
    with pytest.raises(RunStopped, match=r"step 5: before the first update .* from the reference of regularizers\.kl \(frozen\)"):
        learner.update(scored, 5)
    assert all(torch.equal(p, before[n]) for n, p in learner.policy.trained())
    learner.version = 1
    learner.update(scored, 5)


def test_a_distance_that_is_no_number_stops_too(folder: Path):
    """Exact forms do not look at the reference's log-prob of the token, so the loss is finite."""
    learner = make(folder, "frozen")
    scored = batch(learner)
    score = replace(scored.references["kl"], logp=scored.references["kl"].logp * float("nan"))
    with pytest.raises(RunStopped, match="before the first update the policy is nan nats"):
        learner.update(replace(scored, references={"kl": score}), 0)


def test_another_model_as_reference_does_not_stop(folder: Path):
    for name in ("teacher", "checkpoint", "soup"):
        learner = make(folder, name)
        assert learner.update(batch(learner), 0)["kl/ref/k3"].mean > 1e-2


def test_the_average_counts_optimizer_steps(folder: Path):
    learner = make(folder, {"name": "ema", "rate": 0.25, "every": 2}, minibatches=4)
    start, seen = trained(learner), after_each_step(learner)
    stats = learner.update(batch(learner), 0)
    assert len(seen) == 4 and stats["ref/kl/version"].mean == learner.references["kl"].version == 2
    for name, value in learner.references["kl"].parameters().items():
        once = 0.75 * start[name] + 0.25 * seen[1][name]
        torch.testing.assert_close(value, 0.75 * once + 0.25 * seen[3][name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("lora", [0, 4])
def test_a_hard_reset_is_the_policy_of_that_step(folder: Path, lora: int):
    learner = make(folder, {"name": "hard_reset", "every": 3}, lora=lora)
    start, seen, held = trained(learner), after_each_step(learner), []
    for step in range(3):
        learner.update(batch(learner, step), step)
        held.append(learner.references["kl"].parameters())
    for copied, expected in zip(held, (start, seen[2], seen[5]), strict=True):
        assert copied.keys() == expected.keys() and all(torch.equal(copied[n], expected[n]) for n in expected)
    assert learner.references["kl"].version == 2


@pytest.mark.parametrize("name", ["ema", "hard_reset", "behaviour"])
def test_a_reference_that_moves_within_a_batch_is_compared_as_it_was_scored(folder: Path, name: str):
    node = {"name": name} | ({} if name == "behaviour" else {"every": 1})
    learner = make(folder, node, minibatches=1, algorithm={"epochs": 3})
    models = [copy.deepcopy(learner.policy.module)]
    step = learner.optimizer.step
    learner.optimizer.step = lambda: (step(), models.append(copy.deepcopy(learner.policy.module)))
    scored = batch(learner)
    stats = learner.update(scored, 0)
    tables = [logp_of(m, scored) for m in models]
    # The three updates see the policies of before the first, second and third step; the reference is the first throughout.
    expected = sum((t.exp() * (t - tables[0])).sum().item() for t in tables[:3]) / (3 * 12)
    assert expected > 1e-2
    assert stats["divergence/kl"].mean == pytest.approx(expected, rel=1e-3)


def test_one_that_can_never_differ_is_refused(folder: Path):
    always_at_it = ((reference(folder, "behaviour"), "starts at the reference"), ({"name": "hard_reset", "every": 1}, "the policy again"))
    for node, says in always_at_it:
        with pytest.raises(RecipeError, match=says) as refused:
            make(folder, node, minibatches=1)
        assert refused.value.where == "regularizers.kl.reference"
        make(folder, node, minibatches=2)
    make(folder, {"name": "hard_reset", "every": 2}, minibatches=1)


# Other models


def test_a_teacher_of_another_architecture(folder: Path, tmp_path: Path):
    tiny_model(tmp_path, kind="llama", seed=5, hidden_size=16, num_hidden_layers=1)
    wide = AutoModelForCausalLM.from_pretrained(tmp_path)
    wide.resize_token_embeddings(40)  # padded, as families do for their larger models
    wide.save_pretrained(tmp_path)
    learner = make(folder, {"name": "teacher", "path": str(tmp_path)})
    scored = batch(learner)
    teacher, policy = logp_of(AutoModelForCausalLM.from_pretrained(tmp_path), scored, rows=26), logp_of(hf(folder, "initial"), scored)
    torch.testing.assert_close(scored.references["kl"].logp, sampled(teacher, scored), rtol=0, atol=1e-5)
    assert exact_kl(learner, scored) == pytest.approx((policy.exp() * (policy - teacher)).sum().item() / 12, rel=1e-5)
    before = learner.references["kl"].content_hash(learner.policy)
    learner.update(scored, 0)
    assert learner.references["kl"].content_hash(learner.policy) == before


def test_a_teacher_over_other_tokens_is_refused(folder: Path, tmp_path: Path):
    narrow = hf(folder, "second")
    narrow.resize_token_embeddings(20)
    narrow.save_pretrained(tmp_path / "narrow")
    tiny_tokenizer().save_pretrained(tmp_path / "narrow")
    with pytest.raises(UserError, match=r"reference teacher: the head of .* has 20 rows, the policy's has 26"):
        make(folder, {"name": "teacher", "path": str(tmp_path / "narrow")})
    shutil.copytree(folder / "second", tmp_path / "other")
    words = tiny_tokenizer().backend_tokenizer.to_str().replace('"7":10', '"7":11').replace('"8":11', '"8":10')
    (tmp_path / "other" / "tokenizer.json").write_text(words)
    assert PreTrainedTokenizerFast.from_pretrained(tmp_path / "other").get_vocab()["7"] == 11
    with pytest.raises(UserError, match=r"another vocabulary than the policy: 2 tokens differ, the first '7' \(id 10 here, 11 there\)"):
        make(folder, {"name": "teacher", "path": str(tmp_path / "other")})
    with pytest.raises(UserError, match=r"reference teacher: path: .*nowhere"):
        make(folder, {"name": "teacher", "path": str(tmp_path / "nowhere")})


@pytest.mark.parametrize(("path", "lora", "alpha", "model"), [
    ("third", 0, 32.0, "third"), ("third", 4, 32.0, "third"),
    ("adapter", 0, 32.0, "run"), ("adapter", 4, 32.0, "run"), ("adapter", 4, 8.0, "run"),
])
def test_a_checkpoint_is_that_model(folder: Path, path: str, lora: int, alpha: float, model: str):
    """`run` is `adapter` merged into `initial`, by the export that has its own test."""
    learner = make(folder, {"name": "checkpoint", "path": str(folder / path)}, lora=lora, alpha=alpha)
    for step in range(2):  # it stays, whatever the policy does
        scored = batch(learner, step)
        torch.testing.assert_close(scored.references["kl"].logp, sampled(logp_of(hf(folder, model), scored), scored), rtol=0, atol=2e-5)
        learner.update(scored, step)
    if path == "adapter" and lora:
        assert learner.references["kl"].parameters().keys() == trained(learner).keys(), "an adapter costs an adapter"


def test_a_checkpoint_that_does_not_fit_is_refused(folder: Path, tmp_path: Path):
    tiny_model(tmp_path / "wide", tied=False, intermediate_size=64)
    tiny_model(tmp_path / "tied")
    for path, lora, says in (("wide", 0, r"down_proj.weight is \[32, 64\], the policy's is \[32, 48\]"),
                             ("tied", 0, "lm_head.weight is in one of them only"), ("wide", 4, "not of the policy's architecture")):
        with pytest.raises(UserError, match=says):
            make(folder, {"name": "checkpoint", "path": str(tmp_path / path)}, lora=lora)
    with pytest.raises(UserError, match=r"not of the policy's shape: .*lora_A.* is \[4, 48\], the policy's is \[2, 48\]"):
        make(folder, {"name": "checkpoint", "path": str(folder / "adapter")}, lora=2)


def test_a_folder_with_an_adapter_is_no_initial_policy(folder: Path, tmp_path: Path):
    shutil.copytree(folder / "initial", tmp_path / "both")
    shutil.copy(folder / "adapter" / "adapter_config.json", tmp_path / "both")
    with pytest.raises(UserError, match="holds a peft adapter; give a folder with the merged model"):
        make(tmp_path, "frozen", model="both")


def test_a_head_with_an_adapter_is_refused(folder: Path):
    node = copy.deepcopy(make(folder, "frozen").recipe)
    with pytest.raises(UserError, match="the head cannot have an adapter"):
        Learner(replace(node, model=replace(node.model, lora=recipe.Lora(rank=2, targets="q_proj,lm_head"))), str(folder / "initial"))


@pytest.mark.parametrize("lora", [0, 4])
@pytest.mark.parametrize(("weights", "shares"), [
    ([], (1 / 3, 1 / 3, 1 / 3)), ([0.2, 0.5], (0.3, 0.2, 0.5)), ([0.25, 0.75], (0, 0.25, 0.75))])
def test_a_soup_is_the_average_of_the_weights(folder: Path, lora: int, weights: list[float], shares: tuple[float, ...]):
    paths = [str(folder / "second"), str(folder / "third")]
    learner = make(folder, {"name": "soup", "paths": paths, "weights": weights}, lora=lora)
    soup = hf(folder, "initial")
    parts = [dict(hf(folder, name).named_parameters()) for name in ("initial", "second", "third")]
    with torch.no_grad():
        for name, p in soup.named_parameters():
            p.copy_(sum(share * part[name].double() for share, part in zip(shares, parts, strict=True)).float())
    scored = batch(learner)
    torch.testing.assert_close(scored.references["kl"].logp, sampled(logp_of(soup, scored), scored), rtol=0, atol=2e-5)


def test_the_kl_to_a_soup_of_two_heads(folder: Path, tmp_path: Path):
    """SALSA, exact where logits are linear in what differs: KL(pi||soup) = mean_i KL(pi||SFT_i) + log sum_y sqrt(SFT_1 SFT_2)."""
    other = hf(folder, "initial")
    with torch.no_grad():
        other.lm_head.weight.copy_(hf(folder, "second").lm_head.weight)
    other.save_pretrained(tmp_path)
    learner = make(folder, {"name": "soup", "paths": [str(tmp_path)], "weights": [0.5]})
    for _, p in learner.policy.trained():
        p.data += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    scored = batch(learner)
    one, two, pi = (logp_of(m, scored).double() for m in (hf(folder, "initial"), other, learner.policy.module))
    mean = ((pi.exp() * (2 * pi - one - two)).sum(-1)) / 2
    expected = (mean + torch.logsumexp((one + two) / 2, -1)).sum().item() / 12
    assert exact_kl(learner, scored) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("node", "says"), [
    ({"name": "soup", "paths": []}, "at least one"),
    ({"name": "soup", "paths": ["a"], "weights": [0.5, 0.5]}, "one for each path: 1, not 2"),
    ({"name": "soup", "paths": ["a", "b"], "weights": [0.7, 0.7]}, "at most 1"),
    ({"name": "soup", "paths": ["a"], "weights": [0.0]}, "positive"),
    ({"name": "hard_reset", "every": 0}, "at least 1"),
    ({"name": "ema", "rate": 1.0}, "hard_reset"), ({"name": "ema", "rate": 0.0}, "frozen"), ({"name": "ema", "every": 0}, "at least 1"),
    ({"name": "teacher"}, "must be given"), ({"name": "checkpoint"}, "must be given"), ({"name": "soup"}, "must be given"),
])
def test_keys_that_make_no_sense_are_refused(node: dict, says: str):
    with pytest.raises(RecipeError, match=says):
        build_part("reference", node, "here")


def test_folders_are_absolute_before_they_travel(monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    built = build_part("reference", {"name": "soup", "paths": ["a", "/b"]}, "here")
    assert built.paths == (f"{tmp_path}/a", "/b")
    assert build_part("reference", {"name": "teacher", "path": "a"}, "here").path == f"{tmp_path}/a"
    assert build_part("reference", {"name": "checkpoint", "path": "../a"}, "here").path == f"{tmp_path}/../a"


# Restarts


@pytest.mark.parametrize("lora", [0, 4])
@pytest.mark.parametrize("name", ["frozen", "ema", "hard_reset", "behaviour", "soup", "teacher", "checkpoint"])
def test_a_restart_keeps_the_reference_bit_for_bit(folder: Path, tmp_path: Path, name: str, lora: int):
    one = make(folder, name, lora=lora)
    for step in range(3):
        one.update(batch(one, step), step)
    one.save(str(tmp_path / "checkpoint"))
    other = make(folder, name, lora=lora)
    other.load(str(tmp_path / "checkpoint"))
    assert other.described_references() == one.described_references()
    assert other.references["kl"].version == {"ema": 3, "hard_reset": 1, "behaviour": 3}.get(name, 0)
    for step in (3, 4):
        a, b = batch(one, step), batch(other, step)
        assert torch.equal(a.references["kl"].logp, b.references["kl"].logp)
        assert one.update(a, step) == other.update(b, step)
    assert other.described_references() == one.described_references()


def test_the_tests_above_name_every_reference():
    names = {"frozen", "ema", "hard_reset", "behaviour", "soup", "teacher", "checkpoint"}
    assert set(registry.shipped("reference")) == names | {"precomputed"}, "which is for rankings alone: test_dpo.py"
    initial = {n for n in names if registry.resolve("reference", n, "").starts_at_policy}
    assert initial == set(INITIAL)


def test_a_reference_that_is_no_longer_the_same_is_refused(folder: Path, tmp_path: Path):
    shutil.copytree(folder / "second", tmp_path / "teacher")
    node = {"name": "teacher", "path": str(tmp_path / "teacher")}
    make(folder, node).save(str(tmp_path / "checkpoint"))
    make(folder, node).load(str(tmp_path / "checkpoint"))
    changed = hf(folder, "second")
    with torch.no_grad():
        changed.lm_head.weight[3, 4] += 1e-6
    changed.save_pretrained(tmp_path / "teacher")
    with pytest.raises(UserError, match=r"the reference of regularizers\.kl \(teacher\(.* is not the one the run was started with"):
        make(folder, node).load(str(tmp_path / "checkpoint"))


def test_the_hash_is_of_the_parameters_alone(folder: Path):
    learner = make(folder, "frozen")
    frozen, policy = learner.references["kl"], learner.policy
    start = frozen.content_hash(policy)
    assert len(bytes.fromhex(start)) == 8
    assert start == make(folder, "hard_reset").references["kl"].content_hash(policy) == policy.content_hash()
    assert start == policy.content_hash(dict(reversed(list(frozen.parameters().items())))), "whatever their order"
    learner.update(batch(learner), 0)
    assert frozen.content_hash(policy) == start != policy.content_hash()
    with_lora = make(folder, "frozen", lora=4)
    base = with_lora.references["kl"].content_hash(with_lora.policy)
    with_lora.update(batch(with_lora), 0)
    assert with_lora.references["kl"].content_hash(with_lora.policy) == base


# What references are for: oracles on tables


def dpo(logp: Tensor, scored: TokenBatch, beta: float) -> Tensor:
    """-log sigmoid(beta (lr_w - lr_l)) of the first two answers."""
    ratio = torch.zeros(12).index_add(0, scored.seq_ids, logp - scored.references["kl"].logp)
    return -torch.nn.functional.logsigmoid(beta * (ratio[0] - ratio[1]))


def test_dpo_against_a_reference_reset_at_each_step_stays_at_log_two(folder: Path):
    """TR-DPO with alpha = 1: the loss is log 2, its gradient -beta/2 (s_w - s_l)."""
    learner = make(folder, {"name": "hard_reset", "every": 1}, minibatches=2)
    for step in range(2):
        learner.update(batch(learner, step), step)
    scored = batch(learner, 2)
    logp = learner._context(scored).logp
    loss = dpo(logp, scored, 0.4)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, logp)
    expected = torch.where(scored.seq_ids == 0, -0.2, torch.where(scored.seq_ids == 1, 0.2, 0.0))
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)


def test_dpo_against_a_frozen_reference_is_plain_dpo(folder: Path):
    learner = make(folder, "frozen")
    for step in range(2):
        learner.update(batch(learner, step), step)
    scored = batch(learner, 2)
    loss = dpo(learner._context(scored).logp, scored, 0.4)
    table = logp_of(learner.policy.module, scored) - logp_of(hf(folder, "initial"), scored)
    ratio = torch.zeros(12).index_add(0, scored.seq_ids, sampled(table, scored))
    assert loss.item() == pytest.approx(math.log1p(math.exp(-0.4 * (ratio[0] - ratio[1]).item())), rel=1e-4)
    assert abs(loss.item() - math.log(2)) > 1e-3


def slope(logits: Tensor, rewards: Tensor, penalties: dict[str, tuple[float, Tensor]]) -> float:
    """The largest entry of the gradient of E[R] - sum_i beta_i KL(pi||ref_i) at a table of logits, by the regularizers themselves."""
    x, problem = logits.clone().requires_grad_(), Problem(len(rewards))
    loss = torch.zeros((), dtype=x.dtype)
    for beta, ref in penalties.values():
        ctx = problem.context(x, None, ref)
        part = build_part("regularizer", {"coefficient": beta}, NAME).penalty(ctx, NAME)
        loss = loss + beta * (ctx.batch.loss_weights * part.loss).sum()
    loss = loss - (ctx.batch.loss_weights * rewards[ctx.batch.tokens] * ctx.logp).sum()
    (gradient,) = torch.autograd.grad(loss, x)
    return gradient.abs().max().item()


@pytest.mark.parametrize("speed", [0.1, 1.0, 5.0])
def test_mirror_descent_tends_to_the_fixed_references_optimum(speed: float):
    """pi_{k+1} prop pi_k^b ref^(1-b) exp(R/(lambda + tau)), lambda to the behaviour policy and tau to the frozen one: ref exp(R/tau)."""
    problem, tau = Problem(5), 0.5
    ref, policy, rewards = problem.random(0), problem.random(1), problem.random(2)[0]
    share = speed / (speed + tau)
    for _ in range(3):
        following = share * policy + (1 - share) * ref + rewards / (speed + tau)
        assert slope(following, rewards, {"near": (speed, policy), "far": (tau, ref)}) < 1e-14
        assert slope(policy, rewards, {"near": (speed, policy), "far": (tau, ref)}) > 1e-4
        policy = following
    for _ in range(400):
        policy = share * policy + (1 - share) * ref + rewards / (speed + tau)
    torch.testing.assert_close(torch.log_softmax(policy, -1), torch.log_softmax(ref + rewards / tau, -1), rtol=0, atol=1e-12)
    assert slope(policy, rewards, {"far": (tau, ref)}) < 1e-12


def test_resets_weaken_the_pull():
    """m problems solved exactly, the reference reset after each, are one problem with beta/m."""
    problem, beta, resets = Problem(5), 2.0, 4
    start, rewards = problem.random(0), problem.random(2)[0]
    policy = start
    for _ in range(resets):
        solved = policy + rewards / beta
        assert slope(solved, rewards, {"near": (beta, policy)}) < 1e-14
        policy = solved
    assert slope(policy, rewards, {"far": (beta / resets, start)}) < 1e-14
    assert slope(policy, rewards, {"far": (beta, start)}) > 1e-2
