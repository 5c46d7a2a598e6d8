"""Weightings: their numbers, every key alive, and what every weighting must be: detached, >= 0, one number a token."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from helpers.built import single_turn

from align.config import recipes, registry
from align.config.nodes import build_part
from align.errors import RecipeError
from align.types import EARLY, REWARDED, TokenBatch
from align.weightings import Weighting
from align.weightings.difficulty import Difficulty
from align.weightings.uniform import Uniform

LENGTHS = [2, 1, 3, 1, 1, 2]
GROUPS = [0, 1, 0, 1, 0, 2]
REWARDS = [1.0, 0.0, 0.0, 0.0, 0.6, 1.0]
"""Group 0 has one of three rollouts solved (two at 0.5 or above), group 1 none, group 2 its only one."""
SIGNS = [1, 1, -1, -1, 1, 1]


OLD = [-0.1, -0.9, -0.5, -1.0, -2.0, -0.2, -0.7, -0.3, -1.5, -0.4]
"""log pi_old of the ten tokens."""
RATIOS = [0.3, -0.2, 0.0, 0.1, -0.4, 0.0, 0.2, -0.1, 0.5, -0.3]
"""log pi_old - log ref."""
ENTROPY = [0.5, 1.5, 1.0, 2.0, 0.25, 0.75, 1.25, 1.75, 2.25, 0.125]
TOKENS = [3, 7, 5, 7, 4, 2, 9, 7, 2, 3]


def batch(rewards=REWARDS) -> TokenBatch:
    lengths = torch.tensor(LENGTHS)
    at, old = single_turn(torch.ones(len(LENGTHS), dtype=torch.int64), lengths), torch.tensor(OLD)
    seq_ids = at["seq_ids"]
    return TokenBatch(
        input_ids=torch.zeros(len(LENGTHS), 5, dtype=torch.int64).index_put((seq_ids, at["columns"]), torch.tensor(TOKENS)),
        **at,
        group_ids=torch.tensor(GROUPS),
        rewards=torch.tensor(rewards),
        advantages=torch.tensor(SIGNS, dtype=torch.float32)[seq_ids],
        old_logp=old,
        entropy=torch.tensor(ENTROPY),
        ref_logp={"kl": old - torch.tensor(RATIOS)},
    )


def by_token(per_sequence: list[float]) -> torch.Tensor:
    return torch.tensor([w for w, n in zip(per_sequence, LENGTHS, strict=True) for _ in range(n)])


def test_uniform_is_one_everywhere():
    assert torch.equal(Uniform().weights(batch(), "kl"), torch.ones(sum(LENGTHS)))


def test_difficulty_by_hand():
    """1 of 3 solved: positive advantages of that group weigh 1 - exp(-e/3); no or all solved, or a negative advantage: 1."""
    eased = 1 - math.exp(-math.e / 3)
    torch.testing.assert_close(Difficulty().weights(batch(), "kl"), by_token([eased, 1, 1, 1, eased, 1]), rtol=1e-6, atol=0)


def test_solved_at_moves_the_line():
    eased = 1 - math.exp(-math.e * 2 / 3)
    torch.testing.assert_close(Difficulty(solved_at=0.5).weights(batch(), "kl"), by_token([eased, 1, 1, 1, eased, 1]), rtol=1e-6, atol=0)
    assert torch.equal(Difficulty(solved_at=2.0).weights(batch(), "kl"), torch.ones(sum(LENGTHS))), "nobody solved anything"


def test_sharpness_by_hand():
    eased = 1 - math.exp(-0.5 / 3)
    torch.testing.assert_close(Difficulty(sharpness=0.5).weights(batch(), "kl"), by_token([eased, 1, 1, 1, eased, 1]), rtol=1e-6, atol=0)


def test_the_tests_above_name_every_key():
    assert {f.name for f in fields(Difficulty)} == {"sharpness", "solved_at"}


def test_harder_prompts_are_held_back_less():
    weights = [Difficulty().weights(batch([float(i < solved) for i in range(6)]), "kl")[0].item() for solved in (1, 3)]
    assert weights[0] < weights[1] < 1


@pytest.mark.parametrize("sharpness", [0.0, -1.0])
def test_a_sharpness_without_meaning_is_refused(sharpness):
    with pytest.raises(ValueError, match="sharpness must be positive"):
        Difficulty(sharpness=sharpness)


NODES = {
    "advantage_sign": {"positive": 0.25, "negative": 2.0},
    "confidence": {},
    "difficulty": {},
    "entropy_gate": {"keep": "high", "quantile": 0.5},
    "kl_covariance": {"ratio": 0.3},
    "log_ratio_sign": {"above": 2.0, "below": 0.5},
    "normalized": {"of": {"name": "reward_guided"}},
    "reward_guided": {},
    "sampo": {},
    "token_mask": {"first": 1},
    "uniform": {},
}
"""Every weighting with the keys that it must be given."""
OTHER = {
    "advantage_sign": {"positive": 0.5, "negative": 1.0, "zero": 3.0},
    "confidence": {"complement": True},
    "difficulty": {"sharpness": 0.5, "solved_at": 0.5},
    "entropy_gate": {"keep": "low", "quantile": 0.25, "threshold": None},
    "kl_covariance": {"ratio": 0.1},
    "log_ratio_sign": {"above": 3.0, "below": 0.25, "equal": 7.0},
    "normalized": {"of": {"name": "token_mask", "first": 1}},
    "reward_guided": {"keep": "group", "solved_at": 0.5},
    "sampo": {"seed": 1},
    "token_mask": {"first": 2, "last": 1, "token_ids": [7], "keep": "others"},
    "uniform": {},
}


def build(name: str, **keys) -> Weighting:
    return build_part("weighting", {"name": name, **NODES[name], **keys}, "regularizers.kl.weighting")


def weigh(name: str, given: TokenBatch | None = None, **keys) -> list[float]:
    return build(name, **keys).weights(batch() if given is None else given, "kl").tolist()


def some_zero() -> TokenBatch:
    """With advantages of every sign inside one answer, as a critic gives them."""
    return replace(batch(), advantages=torch.tensor([0.5, -0.5, 0.0, 1.0, 0.0, -2.0, -1.0, 1.0, 1.0, 0.0]))


def test_the_tables_above_hold_every_weighting():
    assert tuple(NODES) == registry.shipped("weighting") == tuple(OTHER)


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in OTHER.items() for key in keys if key != "threshold"])
def test_every_key_is_alive(name: str, key: str):
    assert {f.name for f in fields(build(name))} == OTHER[name].keys()
    assert weigh(name, some_zero(), **{key: OTHER[name][key]}) != weigh(name, some_zero())


EXTREMES = [
    *NODES.items(),
    ("difficulty", {"sharpness": 50.0}),
    ("difficulty", {"sharpness": 1e-3}),
    ("entropy_gate", {"keep": "low", "quantile": None, "threshold": 99.0}),
    ("token_mask", {"first": 99, "keep": "others"}),
]


@pytest.mark.parametrize(("name", "keys"), EXTREMES, ids=lambda x: x if isinstance(x, str) else "")
def test_weights_are_detached_and_not_negative(name: str, keys: dict):
    weights = build(name, **keys).weights(batch(), "kl")
    assert weights.shape == (sum(LENGTHS),) and weights.dtype == torch.float32 and weights.is_contiguous()
    assert (weights >= 0).all() and not weights.requires_grad


def test_advantage_sign_by_hand():
    assert weigh("advantage_sign") == [0.25, 0.25, 0.25, 2, 2, 2, 2, 0.25, 0.25, 0.25]
    assert weigh("advantage_sign", some_zero(), zero=0.0) == [0.25, 2, 0, 0.25, 0, 2, 2, 0.25, 0.25, 0]


def test_log_ratio_sign_by_hand():
    assert weigh("log_ratio_sign") == [2, 0.5, 1, 2, 0.5, 1, 2, 0.5, 2, 0.5]
    assert weigh("log_ratio_sign", above=0.0, below=1.0, equal=0.0) == [0, 1, 0, 0, 1, 0, 0, 1, 0, 1]


def test_entropy_gate_by_hand():
    """Sorted: .125 .25 .5 .75 1 1.25 1.5 1.75 2 2.25; the median lies between 1 and 1.25, the quantile 2/9 is .5 itself."""
    assert weigh("entropy_gate") == [0, 1, 0, 1, 0, 0, 1, 1, 1, 0]
    assert weigh("entropy_gate", quantile=2 / 9) == [1, 1, 1, 1, 0, 1, 1, 1, 1, 0]
    assert weigh("entropy_gate", quantile=None, threshold=1.5) == [0, 1, 0, 1, 0, 0, 0, 1, 1, 0]
    assert weigh("entropy_gate", quantile=None, threshold=1.5, keep="low") == [1, 0, 1, 0, 1, 1, 1, 0, 0, 1]


def test_kl_covariance_by_hand():
    """Means: log pi_old -0.76, A 0.2. Of each token (log pi_old + 0.76)(A - 0.2), the largest: 4 (1.488), 0 (0.528), 7 (0.368)."""
    by_hand = [(a + 0.76) * (s - 0.2) for a, s in zip(OLD, [1, 1, 1, -1, -1, -1, -1, 1, 1, 1], strict=True)]
    assert sorted(range(10), key=lambda i: -by_hand[i])[:3] == [4, 0, 7]
    assert weigh("kl_covariance") == [1, 0, 0, 0, 1, 0, 0, 1, 0, 0]
    assert weigh("kl_covariance", ratio=0.29) == [1, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert weigh("kl_covariance", ratio=2e-4) == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0], "at least one"


def test_token_mask_by_hand():
    """Answers of 2, 1, 3, 1, 1 and 2 tokens."""
    assert weigh("token_mask") == [1, 0, 1, 1, 0, 0, 1, 1, 1, 0]
    assert weigh("token_mask", first=0, last=2) == [1, 1, 1, 0, 1, 1, 1, 1, 1, 1]
    assert weigh("token_mask", first=0, token_ids=[7, 9]) == [0, 1, 0, 1, 0, 0, 1, 1, 0, 0]
    assert weigh("token_mask", last=1, token_ids=[4]) == [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    assert weigh("token_mask", keep="others") == [0, 1, 0, 0, 1, 1, 0, 0, 0, 1]


def test_reward_guided_row_52():
    """Rewards 1 0 0 0 .6 1 in groups 0 1 0 1 0 2: answers that failed; the one prompt that nobody solved; all solved: none."""
    assert weigh("reward_guided") == by_token([0, 1, 1, 1, 1, 0]).tolist()
    assert weigh("reward_guided", solved_at=0.6) == by_token([0, 1, 1, 1, 0, 0]).tolist()
    assert weigh("reward_guided", keep="group") == by_token([0, 1, 0, 1, 0, 0]).tolist()
    for keep in ("response", "group"):
        assert weigh("reward_guided", batch([1.0] * 6), keep=keep) == [0] * 10


def test_confidence_by_hand():
    """gamma: the mean over the six answers of the mean of exp(log ref)."""
    p = [math.exp(old - ratio) for old, ratio in zip(OLD, RATIOS, strict=True)]
    gamma = ((p[0] + p[1]) / 2 + p[2] + (p[3] + p[4] + p[5]) / 3 + p[6] + p[7] + (p[8] + p[9]) / 2) / 6
    assert weigh("confidence") == pytest.approx([gamma] * 10, rel=1e-6)
    assert weigh("confidence", complement=True) == pytest.approx([1 - gamma] * 10, rel=1e-6)


def test_normalized_by_hand():
    """Six of the ten tokens belong to answers that failed; where none did, nothing is divided by 0."""
    assert weigh("normalized") == pytest.approx((by_token([0, 1, 1, 1, 1, 0]) * 10 / 6).tolist(), rel=1e-6)
    assert weigh("normalized", of={"name": "advantage_sign", "positive": 1, "negative": 3}) == pytest.approx(
        [1 / 1.8, 1 / 1.8, 1 / 1.8, 3 / 1.8, 3 / 1.8, 3 / 1.8, 3 / 1.8, 1 / 1.8, 1 / 1.8, 1 / 1.8], rel=1e-6
    )
    assert weigh("normalized", batch([1.0] * 6)) == [0] * 10


def test_normalized_needs_what_it_scales_needs():
    for name in NODES:
        inner = build(name)
        outer = build("normalized", of={"name": name, **NODES[name]})
        assert outer.needs == inner.needs


def test_sampo_keeps_as_many_tokens_as_the_shortest_has():
    """Groups 0 (2, 3 and 1 tokens), 1 (1 and 1) and 2 (its only one, 2 tokens): one token each, and two of the last."""
    for seed in range(30):
        weights = torch.tensor(weigh("sampo", seed=seed))
        assert set(weights.tolist()) <= {0.0, 1.0}
        assert [int(weights[batch().seq_ids == s].sum()) for s in range(6)] == [1, 1, 1, 1, 1, 2]


def test_sampo_draws_every_token_alike():
    """Row 39: the expected weight of a token is shortest/own length. 1500 draws: six standard deviations are 0.08."""
    mean = torch.tensor([weigh("sampo", seed=seed) for seed in range(1500)]).mean(0)
    expected = torch.tensor([1 / 2, 1 / 2, 1, 1 / 3, 1 / 3, 1 / 3, 1, 1, 1, 1])
    assert (mean - expected).abs().max() < 0.08 and torch.equal(mean[expected == 1], expected[expected == 1])


def test_sampo_on_equal_lengths_is_uniform():
    whole = batch()
    assert weigh("sampo", whole.select(torch.tensor([1, 3]))) == [1.0, 1.0]
    assert weigh("sampo", replace(whole, group_ids=torch.arange(6))) == [1.0] * 10, "nobody to be matched with"


def test_sampo_follows_from_the_batch_alone():
    """The same batch draws the same, whatever torch drew meanwhile; other answers draw anew."""
    long = TokenBatch(
        input_ids=torch.arange(2 * 60).reshape(2, 60),
        **single_turn(torch.tensor([10, 10]), torch.tensor([50, 20])),
        group_ids=torch.tensor([0, 0]),
    )
    first = weigh("sampo", long)
    torch.rand(3)
    assert weigh("sampo", long) == first and sum(first) == 40 and first[50:] == [1.0] * 20
    assert weigh("sampo", replace(long, input_ids=long.input_ids + 1)) != first
    assert weigh("sampo", replace(long, old_logp=torch.zeros(70))) == first, "whatever else was computed"


REFUSED = [
    ("advantage_sign", {"positive": 1.0, "negative": 1.0}, "are equal"),
    ("advantage_sign", {"positive": -1.0}, "positive must be >= 0"),
    ("advantage_sign", {"zero": math.inf}, "zero: must be finite"),
    ("log_ratio_sign", {"above": 1.0, "below": 1.0}, "are equal"),
    ("log_ratio_sign", {"below": math.nan}, "nan is not a number"),
    ("entropy_gate", {"keep": "all"}, "keep must be high or low"),
    ("entropy_gate", {"quantile": None}, "exactly one"),
    ("entropy_gate", {"threshold": 1.0}, "exactly one"),
    ("entropy_gate", {"quantile": 1.0}, "quantile must lie"),
    ("entropy_gate", {"quantile": None, "threshold": 0.0}, "threshold must be positive"),
    ("kl_covariance", {"ratio": 0.0}, "ratio must lie"),
    ("kl_covariance", {"ratio": 1.0}, "ratio must lie"),
    ("token_mask", {"first": 0}, "names no token"),
    ("token_mask", {"last": -1}, "must be >= 0"),
    ("token_mask", {"token_ids": [-2]}, "must be >= 0"),
    ("token_mask", {"keep": "all"}, "keep must be named or others"),
    ("reward_guided", {"keep": "all"}, "keep must be response or group"),
    ("normalized", {"of": None}, "must name its weighting"),
]


@pytest.mark.parametrize(("name", "keys", "message"), REFUSED, ids=lambda x: x if isinstance(x, str) else "")
def test_what_has_no_meaning_is_refused(name: str, keys: dict, message: str):
    with pytest.raises(RecipeError, match=message) as caught:
        build(name, **keys)
    assert caught.value.where.startswith("regularizers.kl.weighting")


@pytest.mark.parametrize("name", NODES)
def test_needs_say_what_is_read(name: str):
    """A weighting works without what it does not name; on demonstrations one that needs rewards is refused."""
    weighting = build(name)
    assert weighting.needs <= EARLY
    assert len(weighting.weights(batch().only(weighting.needs, weighting), "kl")) == 10
    node = {
        "steps": 1,
        "task": "countdown",
        "algorithm": "sft",
        "model": {"path": "nowhere"},
        "regularizers": {"kl": {"estimator": "exact", "coefficient": 0.1, "weighting": {"name": name, **NODES[name]}}},
    }
    if weighting.needs & REWARDED:
        with pytest.raises(RecipeError, match=r"kl\.weighting(\.\w+)*: weighting .* looks at rewards, and this algorithm's data"):
            recipes.build(node)
    else:
        recipes.build(node)


def test_the_sign_of_the_log_ratio_makes_another_f_divergence():
    """E_pi[w khat] and E_pi[w c s] are the value and gradient of D_g with g(u) = w(u) (u log u - u + 1), by enumeration in float64."""
    from align.divergences.reverse_kl import ReverseKl
    from align.estimators.sampled import Sampled

    logits = torch.tensor([0.7, -0.2, 0.1, 1.5, -1.0], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([0.1, 0.3, 0.2, 0.15, 0.25], dtype=torch.float64)
    logp = torch.log_softmax(logits, 0)
    u = logp.exp() / ref
    generator = torch.where(u > 1, 2.0, 0.5) * (u * u.log() - u + 1)
    expected = torch.autograd.grad((ref * generator).sum(), logits, retain_graph=True)[0]
    one = torch.arange(5)
    given = TokenBatch(
        input_ids=one[:, None], **single_turn(one * 0, one * 0 + 1), group_ids=one, old_logp=logp.detach(), ref_logp={"kl": ref.log()}
    )
    weights, log_u = torch.tensor(weigh("log_ratio_sign", given)), u.detach().log()
    assert set(weights.tolist()) == {2.0, 0.5}
    value = (logp.exp().detach() * weights * Sampled().value(ReverseKl(), log_u)).sum()
    torch.testing.assert_close(value, (ref * generator).sum().detach(), rtol=1e-12, atol=0)
    surrogate = (logp.exp().detach() * weights * Sampled().grad_weight(ReverseKl(), log_u) * logp).sum()
    torch.testing.assert_close(torch.autograd.grad(surrogate, logits)[0], expected, rtol=1e-10, atol=1e-14)


def test_a_need_that_no_column_is_called_is_refused(tmp_path: Path):
    (tmp_path / "mine.py").write_text("""
class Mine:
    needs = frozenset({"reward", "entropy"})

    def weights(self, batch, name):
        return batch.entropy
""")
    node = {
        "steps": 1,
        "task": "countdown",
        "algorithm": "grpo",
        "reward": "countdown_exact",
        "model": {"path": "nowhere"},
        "regularizers": {"kl": {"coefficient": 0.1, "weighting": f"{tmp_path}/mine.py:Mine"}},
    }
    with pytest.raises(
        RecipeError,
        match=r"kl\.weighting: weighting .*Mine.* needs reward, which no column of a batch is called; there "
        r"are: advantages, entropy, old_logp, ref_logp, reward_parts, rewards",
    ):
        recipes.build(node)
