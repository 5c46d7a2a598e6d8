"""Episodes of several turns: what of them is trained, and that the rest is context and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import built
from helpers.models import tiny_model
from helpers.paths import PLUGINS
from torch import Tensor
from transformers import AutoModelForCausalLM

from align.config import recipes
from align.core.segments import suffix_sum
from align.errors import RecipeError, UserError
from align.experience.packing import pack
from align.experience.prepare import prepare_batch
from align.experience.process_rewards import at_tokens
from align.learner.learner import Learner
from align.references.precomputed import _keys as keys_of
from align.run.step_metrics import staleness_metrics
from align.types import Episode, Group, Prompt, Rewards, Segment, TokenBatch

PLUGIN = PLUGINS / "systematic.py"
TEMPERATURE, BETA = 0.7, 0.3


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def segment(role: str, ids: Sequence[int], logp: float | None = None, **keys) -> Segment:
    """Trained where the assistant speaks; `logp` of each of its tokens."""
    trained = role == "assistant"
    drawn = {"logp": np.full(len(ids), logp, np.float32), "versions": ((0, len(ids)),)} if trained and logp is not None else {}
    return Segment(**{"role": role, "token_ids": np.array(ids, np.int32), "trained": trained} | drawn | keys)


def episode(*segments: Segment) -> Episode:
    return Episode(segments=segments, text="")


TOOL_CALLS = episode(
    segment("system", [9, 8]), segment("assistant", [5, 11, 6]), segment("tool", [20, 21, 22, 23]), segment("assistant", [7, 2])
)
TURNS = [
    TOOL_CALLS,
    episode(segment("assistant", [4, 13, 2])),
    episode(segment("assistant", [12]), segment("tool", [17, 3]), segment("assistant", [14, 15]), segment("tool", [18])),
    episode(segment("user", [19]), segment("assistant", [2])),
]


def groups() -> list[Group]:
    return [
        Group(prompt=Prompt(id="0", text="", token_ids=(3, 10, 4)), episodes=tuple(TURNS[:2])),
        Group(prompt=Prompt(id="1", text="", token_ids=(16,)), episodes=tuple(TURNS[2:])),
    ]


REWARDS = Rewards(values=np.array([1.0, 0.25, -0.5, 2.0], np.float32))


def masked() -> list[tuple[list[int], list[bool]]]:
    """Each sequence by hand: its tokens, and which of them are trained."""
    return [
        (
            [*g.prompt.token_ids, *(t for s in e.segments for t in s.token_ids.tolist())],
            [False] * len(g.prompt.token_ids) + [s.role == "assistant" for s in e.segments for _ in s.token_ids],
        )
        for g in groups()
        for e in g.episodes
    ]


def test_a_packed_episode_by_hand():
    batch = pack(groups()[:1], None, pad_id=25)
    assert batch.input_ids.tolist() == [[3, 10, 4, 9, 8, 5, 11, 6, 20, 21, 22, 23, 7, 2], [3, 10, 4, 4, 13, 2] + [25] * 8]
    assert batch.columns.tolist() == [5, 6, 7, 12, 13, 3, 4, 5] and batch.positions.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert batch.totals.tolist() == [14, 6] and batch.lengths.tolist() == [5, 3] and batch.first_columns.tolist() == [5, 3]
    assert batch.tokens.tolist() == [5, 11, 6, 7, 2, 4, 13, 2]
    assert TOOL_CALLS.trained_ids.tolist() == [5, 11, 6, 7, 2] and TOOL_CALLS.length == 5
    assert batch.versions is None and batch.sampler_logp is None


def learner(folder: Path, algorithm: dict, regularizers: dict, micro_tokens: int = 10_000) -> Learner:
    """In float64, away from its reference."""
    made = Learner(
        recipes.build(
            {
                "steps": 1,
                "task": f"{PLUGIN}:OnePrompt",
                "reward": f"{PLUGIN}:ByToken",
                "engine": f"{PLUGIN}:Systematic",
                "algorithm": algorithm,
                "model": {"path": str(folder)},
                "batch": {"prompts": 2, "samples": 2, "micro_tokens": micro_tokens},
                "sampling": {"max_tokens": 6, "temperature": TEMPERATURE},
                "optimizer": {"max_grad_norm": 1e9},
                "workers": {"backend": "local"},
                "evaluation": {"every": -1},
                "regularizers": regularizers,
            }
        ),
        str(folder),
    )
    made.policy.causal_lm.double()
    for _, p in made.policy.trained():
        p.data += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    made.version = 1
    return made


def updated(of: Learner) -> tuple[TokenBatch, dict, dict[str, Tensor]]:
    """The shaped batch, what an update says of it, and the gradient."""
    scored = of.compute_logprobs(replace(pack(groups(), REWARDS), betas={name: BETA for name in of.recipe.regularizers}))
    batch, gradient = prepare_batch(of.recipe, scored), {}
    of.optimizer.step = lambda: gradient.update({n: p.grad.clone() for n, p in of.policy.trained()})
    return batch, of.update(batch, 0), gradient


def by_hand(policy: torch.nn.Module, reference: torch.nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of GRPO with the exact KL, its KL a token and log-probs: one forward pass a sequence, and a mask."""
    logp, kl, advantages = [], [], []
    centred = [0.375, -0.375, -1.25, 1.25]
    for (ids, mask), advantage in zip(masked(), centred, strict=True):
        trained = torch.tensor(mask[1:])
        logits, ref = (m(torch.tensor([ids])).logits[0, :-1].double()[trained] / TEMPERATURE for m in (policy, reference))
        log_pi, log_ref = torch.log_softmax(logits, -1), torch.log_softmax(ref, -1).detach()
        logp.append(log_pi.gather(1, torch.tensor(ids[1:])[trained][:, None])[:, 0])
        kl.append((log_pi.exp() * (log_pi - log_ref)).sum(-1))
        advantages.append(torch.full_like(logp[-1], advantage))
    logp, kl, advantages = map(torch.cat, (logp, kl, advantages))
    weight = torch.tensor(1 / len(logp)).double()  # the learner's is a float32
    return weight * (BETA * kl - advantages * (logp - logp.detach()).exp()).sum(), kl.detach(), logp.detach()


@pytest.mark.parametrize("micro_tokens", [10_000, 20, 1])
def test_the_update_is_that_of_a_mask(folder: Path, micro_tokens: int):
    """Log-probs, loss and gradient in float64, however the batch is split."""
    of = learner(
        folder,
        {"name": "grpo", "advantage": "group_centred", "surrogate": "reinforce"},
        {"kl": {"estimator": "exact", "coefficient": BETA}},
        micro_tokens,
    )
    policy = of.policy.causal_lm
    loss, kl, logp = by_hand(policy, AutoModelForCausalLM.from_pretrained(folder).double())
    names = {id(p): n for n, p in of.policy.trained()}
    own = [p for p in policy.parameters() if id(p) in names]
    expected = {names[id(p)]: g for p, g in zip(own, torch.autograd.grad(loss, own), strict=True)}
    hidden = of.policy.hidden(pack(groups(), None))
    packed = torch.log_softmax(of.policy.head().logits(hidden, TEMPERATURE), -1).gather(1, pack(groups(), None).tokens[:, None])[:, 0]
    torch.testing.assert_close(packed.detach(), logp, rtol=1e-12, atol=1e-12)
    _, stats, gradient = updated(of)
    assert stats["loss/policy"].sum + stats["loss/reg/kl"].sum == pytest.approx(loss.item(), rel=1e-12)
    assert stats["divergence/kl"].mean == pytest.approx(kl.sum().item() / 4, rel=1e-12)
    assert gradient.keys() == expected.keys()
    for name, g in expected.items():
        torch.testing.assert_close(gradient[name], g, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_a_critic_reads_the_state_before_each_trained_token(folder: Path, kind: str):
    """Its values do not change with what stands behind a token, and do with a tool's output before it."""
    of = learner(folder, {"name": "ppo", "critic": {"name": kind}}, {})
    for _, p in of.critic.trained():
        p.data += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    if kind == "shared":
        of.policy.causal_lm.float()

    def values(batch: TokenBatch) -> Tensor:
        return of.critic.values(batch, of.policy.hidden(batch)).detach()

    whole = pack(groups(), None)
    found = values(whole)
    for t in range(len(found)):
        row, column = int(whole.seq_ids[t]), int(whole.columns[t])
        alone = TokenBatch(
            input_ids=whole.input_ids[row : row + 1, : column + 1].clone(),
            **built.single_turn(torch.tensor([column]), torch.tensor([1])),
            group_ids=torch.tensor([0]),
        )
        torch.testing.assert_close(values(alone)[0], found[t], rtol=0, atol=1e-5)
    output = whole.input_ids.clone()
    output[0, 9] = 24
    changed = (values(replace(whole, input_ids=output)) - found).abs() > 1e-5
    assert changed.nonzero()[:, 0].tolist() == [3, 4], "the tokens of the answer behind the tool"


def test_returns_and_credit_run_over_trained_tokens_alone():
    """GAE and returns by a loop over each episode's trained tokens; the penalty of a token by the sum over the trained ones behind it."""
    batch = pack(groups(), REWARDS)
    values = torch.linspace(-1, 1, len(batch.seq_ids))
    lam = 0.9
    ppo = built.algorithm("ppo", advantage={"lam": lam, "whiten": False})
    expected, later, first = [], [], 0
    for reward, length in zip(REWARDS.values.tolist(), (5, 3, 3, 1), strict=True):
        v, own = [*values[first : first + length].tolist(), 0.0], [0.0] * (length + 1)
        for t in reversed(range(length)):
            own[t] = (reward if t == length - 1 else 0.0) + v[t + 1] - v[t] + lam * own[t + 1]
        expected += own[:-1]
        later += [sum(range(first + t + 1, first + length)) for t in range(length)]
        first += length
    batch = replace(batch, values=values)
    torch.testing.assert_close(ppo.advantages(batch), torch.tensor(expected), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ppo.targets(batch), torch.tensor(expected) + values, rtol=1e-5, atol=1e-6)
    assert suffix_sum(torch.arange(12.0), batch.seq_ids, batch.positions).tolist() == later


def test_a_reference_after_a_longer_prompt_reads_every_turn(folder: Path):
    kl = {"estimator": "exact", "coefficient": BETA, "reference": {"name": "context", "prepend": "12+3"}}
    of = learner(folder, {"name": "grpo"}, {"kl": kl})
    told = of.policy.tokenizer("12+3", add_special_tokens=False)["input_ids"]
    longer = [replace(g, prompt=replace(g.prompt, token_ids=(*told, *g.prompt.token_ids))) for g in groups()]
    torch.testing.assert_close(
        of.references["kl"].hidden(pack(groups(), None)), of.references["kl"]._of.hidden(pack(longer, None)), rtol=1e-12, atol=1e-12
    )


def test_a_disturbed_prompt_leaves_every_turn_as_it_was():
    batch = pack(groups(), REWARDS)
    other = built.part("shaping", "uncertainty_bonus", steps=10**6, share=0.9).other_context(batch)
    assert torch.equal(other.tokens, batch.tokens) and not torch.equal(other.totals, batch.totals)
    for s in range(4):
        kept = other.input_ids[s, other.first_columns[s] - 1 : other.totals[s]]
        assert torch.equal(kept, batch.input_ids[s, batch.first_columns[s] - 1 : batch.totals[s]]), "from the last token before on"


def test_a_precomputed_reference_tells_what_is_trained_apart():
    """The same tokens, of which other ones are trained."""
    prompt = Prompt(id="0", text="", token_ids=(3,))
    both = [episode(segment("assistant", [4, 5]), segment(role, [6])) for role in ("assistant", "tool")]
    one, two = (keys_of(pack([Group(prompt=prompt, episodes=(e,))], None)) for e in both)
    assert one != two and one == keys_of(pack([Group(prompt=prompt, episodes=both[:1])], None))


def test_steps_are_paid_at_trained_tokens():
    """Characters 2 and 3 are a tool's: paid at the token that called it. The first of all has nothing before it."""
    spoken = [segment("assistant", [0, 1]), segment("tool", [2, 3]), segment("assistant", [4])]

    def decode(ids: Sequence[int]) -> str:
        return "".join("abcdefg"[i] for i in ids)

    steps = [(0, 1.0), (1, 2.0), (2, 4.0), (3, 8.0), (4, 16.0)]
    assert at_tokens(replace(episode(*spoken), text="abcde"), steps, decode).tolist() == [1.0, 14.0, 16.0]
    told = replace(episode(segment("system", [5]), *spoken), text="fabcde")
    assert at_tokens(told, [(0, 1.0), (1, 2.0), (5, 4.0)], decode).tolist() == [3.0, 0.0, 4.0]


def test_versions_are_those_of_each_token_and_staleness_the_mean_over_episodes():
    drawn = [
        episode(
            segment("assistant", [4, 5, 6], -1.0, versions=((2, 1), (3, 2))),
            segment("tool", [7]),
            segment("assistant", [8], -2.0, versions=((4, 1),)),
        ),
        episode(segment("assistant", [4], -1.0, versions=((1, 1),))),
    ]
    batch = pack([Group(prompt=groups()[0].prompt, episodes=tuple(drawn))], None)
    assert batch.versions.tolist() == [2, 3, 3, 4, 1] and batch.versions.dtype == torch.int64
    assert batch.sampler_logp.tolist() == [-1.0, -1.0, -1.0, -2.0, -1.0]
    assert staleness_metrics(batch, 5) == {"rollout/staleness": 5 - (3 + 1) / 2}


def test_parts_of_rewards_follow_the_samples_that_stay():
    values = np.array([1.0, np.nan, 0.0, 2.0], np.float32)
    parts = {"right": np.array([1, 2, 3, 4], np.float32), "form": np.array([np.nan, 5, 6, np.nan], np.float32)}
    batch = pack(groups(), Rewards(values=values, parts=parts))
    assert batch.reward_parts["right"].tolist() == [1, 3, 4] and batch.reward_parts["form"].isnan().tolist() == [True, False, True]
    assert batch.select(torch.tensor([1, 2])).reward_parts["right"].tolist() == [3, 4]
    assert batch.only(frozenset({"reward_parts"}), batch).reward_parts == batch.reward_parts
    with pytest.raises(RecipeError, match="reward_parts"):
        len(batch.only(frozenset(), batch).reward_parts)
    assert pack(groups(), None).reward_parts == {}


def test_an_episode_without_a_trained_token_is_refused_unless_its_reward_is_missing():
    silent = episode(segment("tool", [4, 5]), segment("assistant", []))
    drawn = [Group(prompt=Prompt(id="7", text="", token_ids=(3,)), episodes=(silent, TURNS[1]))]
    for given in (None, Rewards(values=np.array([0.0, 1.0], np.float32))):
        with pytest.raises(UserError, match="prompt 7: an episode has no trained token"):
            pack(drawn, given)
    assert pack(drawn, Rewards(values=np.array([np.nan, 1.0], np.float32))).tokens.tolist() == [4, 13, 2]
    assert pack(drawn, Rewards(values=np.full(2, np.nan, np.float32))) is None
    with pytest.raises(ValueError, match="no episode"):
        pack([], None)
    assert silent.length == 0 and silent.trained_ids.tolist() == [] and silent.response_ids.tolist() == [4, 5]


def test_what_cannot_be_trained_is_refused():
    empty = Prompt(id="7", text="", token_ids=())
    with pytest.raises(UserError, match="prompt 7: it has no tokens"):
        pack([Group(prompt=empty, episodes=(TURNS[1],))], None)
    assert pack([Group(prompt=empty, episodes=(TOOL_CALLS,))], None).columns.tolist() == [2, 3, 4, 9, 10]
    drawn = episode(segment("assistant", [4], -1.0))
    with pytest.raises(UserError, match="some episodes of a batch have log-probs"):
        pack([Group(prompt=groups()[0].prompt, episodes=(TURNS[1], drawn))], None)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: replace(segment("assistant", [4, 5], -1.0), logp=np.zeros(1, np.float32)), "2 tokens has 1 log-probs"),
        (lambda: segment("assistant", [4, 5], -1.0, versions=((0, 1),)), "cover 1 tokens, and it has 2 log-probs"),
        (lambda: segment("tool", [4], versions=((0, 1),)), "cover 1 tokens, and it has no log-probs"),
        (lambda: episode(segment("assistant", [4], -1.0), segment("assistant", [4])), "some trained segments"),
    ],
)
def test_a_segment_that_contradicts_itself_is_refused(make, says: str):
    with pytest.raises(ValueError, match=says):
        make()
