"""Critics on real (tiny) policies, whole and with LoRA: what they begin as, whose states they read, and what their loss moves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.models import tiny_model, tiny_scorer, tiny_tokenizer
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from unit.rewards.test_scorer import batch, pooled, same

from align.config.nodes import build_part
from align.config.schema import Lora, Model
from align.critics import RunningCritic
from align.errors import RecipeError, UserError
from align.learner.policy import Policy


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A `policy`, and a `scorer` of its vocabulary."""
    root = tmp_path_factory.mktemp("models")
    tiny_model(root / "policy")
    tiny_scorer(root / "scorer", seed=5)
    return root


def policy(folder: Path, *, lora: int = 0, **options) -> Policy:
    torch.manual_seed(0)
    return Policy(str(folder / "policy"), Model(path=str(folder / "policy"), lora=Lora(rank=lora), **options))


def critic(beside: Policy, name: str, seed: int = 0, **keys) -> RunningCritic:
    made = build_part("critic", {"name": name} | keys, "algorithm.critic")
    torch.manual_seed(seed)
    return made.start(beside)


def values(made: RunningCritic, beside: Policy) -> torch.Tensor:
    return made.values(batch(), beside.hidden(batch()))


def gradients(made: RunningCritic, beside: Policy) -> tuple[dict, dict]:
    """Of the squared values plus one: the critic's and the policy's, where there are any."""
    beside.module.zero_grad()
    (values(made, beside) + 1).square().sum().backward()
    own, policy = ({n: p.grad for n, p in x.trained() if p.grad is not None} for x in (made, beside))
    return own, policy


@torch.no_grad()
def set_head(made: RunningCritic) -> None:
    for _, p in made.trained():
        p.copy_(torch.linspace(-0.3, 0.4, p.numel()).reshape(p.shape))


@pytest.mark.parametrize("lora", [0, 2], ids=["whole", "lora"])
def test_a_shared_head_begins_at_zero_and_is_linear_in_the_policys_states(folder, lora):
    beside = policy(folder, lora=lora)
    made = critic(beside, "shared")
    assert torch.equal(values(made, beside), torch.zeros(15))
    assert {n: tuple(p.shape) for n, p in made.trained()} == {"critic.weight": (1, 32), "critic.bias": (1,)}
    set_head(made)
    expected = (beside.hidden(batch()) * torch.linspace(-0.3, 0.4, 32)).sum(-1) - 0.3
    assert same(values(made, beside).detach(), expected.detach())


@pytest.mark.parametrize("lora", [0, 2], ids=["whole", "lora"])
def test_the_value_loss_moves_the_backbone_unless_detached(folder, lora):
    beside = policy(folder, lora=lora)
    with torch.no_grad():
        for n, p in beside.trained():
            if "lora_B" in n:  # else the gradient of its partner is zero
                p.fill_(0.1)
    for detach in (False, True):
        made = critic(beside, "shared", detach=detach)
        set_head(made)
        own, others = gradients(made, beside)
        assert own.keys() == {"critic.weight", "critic.bias"} and all(g.abs().max() > 0 for g in own.values())
        if detach:
            assert not others
        else:
            assert all(g.abs().max() > 0 for n, g in others.items() if "k_proj.bias" not in n)
            assert others.keys() == {n for n, _ in beside.trained()}
        for _, p in made.trained():
            p.grad = None


def test_the_shared_head_is_float32_beside_a_lower_precision(folder):
    beside = policy(folder, dtype="bfloat16")
    made = critic(beside, "shared")
    set_head(made)
    assert {p.dtype for _, p in made.trained()} == {torch.float32} == {values(made, beside).dtype}


def test_a_separate_critic_begins_as_the_initial_policy_with_a_small_head(folder):
    beside = policy(folder, lora=2)
    made = critic(beside, "separate", seed=3)
    trained = dict(made.trained())
    initial = beside.initial().causal_lm.state_dict()
    assert torch.equal(trained["critic.model.embed_tokens.weight"], initial["model.embed_tokens.weight"])
    assert trained.keys() - {"critic.score.weight"} == {f"critic.{n}" for n in initial} - {"critic.lm_head.weight"}
    states = Policy(str(folder / "policy"), Model(path=str(folder / "policy"))).hidden(batch())
    assert same(values(made, beside).detach(), (states @ trained["critic.score.weight"].T).squeeze(-1).detach())
    assert 0 < values(made, beside).abs().max() < 1
    for seed, equal in ((3, True), (4, False)):
        assert (
            torch.equal(dict(critic(beside, "separate", seed=seed).trained())["critic.score.weight"], trained["critic.score.weight"])
            is equal
        )


def test_a_separate_critic_may_begin_as_a_learned_reward(folder):
    """Its value is then the score of the answer so far, as transformers reads it."""
    beside = policy(folder)
    b, found = batch(), values(critic(beside, "separate", path=str(folder / "scorer")), beside)
    for t in range(0, 15, 4):
        prefix = b.input_ids[b.seq_ids[t], : b.columns[t]]
        assert same(found[t : t + 1].detach(), pooled(folder / "scorer", prefix[None]))


def test_a_separate_critic_learns_all_of_itself_and_nothing_of_the_policy(folder):
    beside = policy(folder, dtype="bfloat16", activation_checkpointing=True)
    made = critic(beside, "separate")
    own, others = gradients(made, beside)
    assert own.keys() == {n for n, _ in made.trained()} and not others
    assert {p.dtype for _, p in made.trained()} == {torch.bfloat16} and values(made, beside).dtype == torch.float32


def test_a_copy_with_the_trained_tensors_is_the_same_critic(folder):
    """What a checkpoint holds is enough."""
    beside = policy(folder)
    for name in ("shared", "separate"):
        made, resumed = critic(beside, name), critic(beside, name, seed=1)
        set_head(made)
        with torch.no_grad():
            for (n, p), (m, q) in zip(resumed.trained(), made.trained(), strict=True):
                assert n == m and p.shape == q.shape
                p.copy_(q)
        assert torch.equal(values(made, beside), values(resumed, beside))


def test_a_critic_of_another_vocabulary_is_refused(tmp_path, folder):
    vocabulary = {token: i for i, token in enumerate([*list(tiny_tokenizer().get_vocab())[::-1], "?"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    other = tiny_scorer(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>").save_pretrained(other)
    with pytest.raises(UserError, match=r"critic separate: path: .*another vocabulary: \d+ of the policy's tokens differ, the first '"):
        critic(policy(folder), "separate", path=str(other))


def test_a_folder_that_is_none_is_refused_and_a_relative_one_is_of_this_directory(tmp_path, folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = build_part("critic", {"name": "separate", "path": "somewhere"}, "")
    assert made.path == str(tmp_path / "somewhere")
    with pytest.raises(UserError, match=r"critic separate: path: .*somewhere holds no model"):
        made.start(policy(folder))


@pytest.mark.parametrize("name", ["shared", "separate"])
def test_a_learning_rate_is_positive_or_the_optimizers(name):
    assert build_part("critic", name, "").lr is None
    assert build_part("critic", {"name": name, "lr": 1e-4}, "").lr == 1e-4
    with pytest.raises(RecipeError, match="lr must be positive, not 0"):
        build_part("critic", {"name": name, "lr": 0.0}, "algorithm.critic")
