"""The learned reward against transformers' own logits of token ids written out here, and what it makes of failures."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.models import tiny_model, tiny_scorer, tiny_tokenizer
from unit.rewards.test_scorer import pooled

from align.config import recipes
from align.config.nodes import build_part
from align.config.schema import RewardLimits
from align.errors import RecipeError, UserError
from align.rewards import Reward, start_reward
from align.rewards._scorer import LoadedScorer
from align.types import Episode, Group, Prompt
from align.vocabulary.continuation import Continuation
from align.workers import local, open_workers
from align.workers.reward_runner import run_rewards
from align.workers.shards import even_slices

LIMITS = RewardLimits(seconds=5.0)
BOS, EOS = 1, 2
CHARACTERS = {c: i for i, c in enumerate("0123456789+-*=:,sabcdef", start=3)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_scorer(tmp_path_factory.mktemp("scorer"))


def learned(folder: Path, **keys) -> LoadedScorer:
    return build_part("reward", {"name": "learned", "path": str(folder)} | keys, "reward").start()


def group(prompt: str, *answers: str, finished: bool = True, **fields) -> Group:
    return Group(
        prompt=Prompt(id=prompt, text=prompt, token_ids=(1,), fields=fields),
        episodes=tuple(Episode.single_turn(np.zeros(1, np.int32), a, finished=finished) for a in answers),
    )


def ids(text: str) -> list[int]:
    return [CHARACTERS[c] for c in text]


def score(folder: Path, tokens: list[int]) -> float:
    return pooled(folder, torch.tensor([tokens])).item()


def test_prompt_and_answer_and_end_token_are_scored_as_transformers_does(folder):
    groups = [group("1+2=", "3", "12", ""), group("s2,1:", "1,2")]
    expected = [score(folder, [*ids(g.prompt.text), *ids(e.text), EOS]) for g in groups for e in g.episodes]
    assert np.std(expected) > 0.1
    for size in (1, 2, 64):
        assert np.allclose(learned(folder, max_batch=size).score_groups(groups), expected, atol=1e-4)
    rewards = run_rewards(learned(folder), LIMITS, groups)
    assert np.allclose(rewards.values, expected, atol=1e-4) and rewards.parts == {} and rewards.failed == 0
    assert np.allclose(learned(folder).score(groups[0].prompt, "12"), expected[1], atol=1e-4)


def test_an_answer_cut_at_the_limit_has_no_end_token(folder):
    (found,) = learned(folder).score_groups([group("1+2=", "3", finished=False)])
    assert np.isclose(found, score(folder, ids("1+2=3")), atol=1e-4)


def test_the_gap_to_the_true_reward_is_in_the_parts(folder):
    right = {"skill": "countdown", "numbers": [1, 2], "target": 3}
    groups = [group("1,2=3:", "1+2", "3", **right)]
    rewards = run_rewards(learned(folder, gold="countdown_wordy"), LIMITS, groups)
    assert rewards.parts.keys() == {"learned", "gold"}
    assert np.array_equal(rewards.values, rewards.parts["learned"])
    assert np.allclose(rewards.parts["gold"], [1 + 0.02 * 3, 0.02]) and np.allclose(rewards.values, learned(folder).score_groups(groups))


class Gold(Reward):
    """Fails on short answers, hangs on long ones."""

    def score(self, prompt: Prompt, response: str) -> float:
        if len(response) > 3:
            time.sleep(5)
        return 1 / (len(response) - 1)


def test_a_gold_reward_that_fails_costs_its_own_answer_and_one_that_hangs_the_batch(folder):
    made = learned(folder)
    made._gold = Gold()
    failing = run_rewards(made, LIMITS, [group("1=", "12", "1", "123")])
    assert np.isnan(failing.values).tolist() == [False, True, False] and failing.failed == 1
    assert failing.first_failure.startswith("prompt 1=: ZeroDivisionError") and __file__ in failing.first_failure
    hanging = run_rewards(made, RewardLimits(seconds=0.1), [group("1=", "12", "1234")])
    assert hanging.failed == 2 and "took longer than 0.2 s" in hanging.first_failure


def test_a_text_the_tokenizer_cannot_read_costs_itself(folder, tmp_path):
    """As the embedded task's does: it knows its own characters and no token for others."""
    from align.tasks.countdown import Countdown

    made = learned(folder)
    made._tokenizer = Countdown().tokenizer()
    made._continuation = Continuation(made._tokenizer)
    rewards = run_rewards(made, LIMITS, [group("1=", "1", "é", "2")])
    assert np.isnan(rewards.values).tolist() == [False, True, False] and "UNK" in rewards.first_failure


def test_an_answer_cannot_spell_a_special_token(folder):
    """`<eos>` in a text is five characters, two of them in the alphabet; this tokenizer passes over the others."""
    (found,) = learned(folder).score_groups([group("1=", "<eos>3", finished=False)])
    assert np.isclose(found, score(folder, ids("1=es3")), atol=1e-4)
    assert not np.isclose(found, score(folder, [*ids("1="), EOS, *ids("3")]), atol=1e-3)


def test_of_a_text_beyond_the_models_positions_the_end_is_read(folder):
    (found,) = learned(folder).score_groups([group("1=", "9" * 600)])
    assert np.isclose(found, score(folder, [*ids("9" * 511), EOS]), atol=1e-4)


def test_a_leading_token_is_there_once(tmp_path):
    """A tokenizer that adds one, and a prompt that a chat template has begun with it."""
    folder, tokenizer = tiny_scorer(tmp_path), tiny_tokenizer()
    file = folder / "tokenizer.json"
    stored = json.loads(file.read_text())
    begin = {"SpecialToken": {"id": "<bos>", "type_id": 0}}
    stored["post_processor"]["single"].insert(0, begin)
    stored["post_processor"]["special_tokens"] = {"<bos>": {"id": "<bos>", "ids": [BOS], "tokens": ["<bos>"]}}
    file.write_text(json.dumps(stored))
    assert tokenizer("1")["input_ids"] == ids("1")
    found = learned(folder).score_groups([group("1=", "1"), group("<bos>1=", "1")])
    assert np.allclose(found, score(folder, [BOS, *ids("1=1"), EOS]), atol=1e-4)


def test_lower_precision_is_near(folder):
    groups = [group("1+2=", "3", "12")]
    full, half = (np.array(learned(folder, dtype=d).score_groups(groups)) for d in ("float32", "bfloat16"))
    assert not np.array_equal(full, half) and np.allclose(full, half, atol=0.2)


def test_no_groups_and_no_gradients(folder):
    made = learned(folder, gold="countdown_exact")
    assert made.score_groups([]) == [] and made.batched
    assert not made._model.training and not made._gold.batched


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda f: f / "nowhere", "holds no model"),
        (tiny_model, "holds Qwen2ForCausalLM and no reward model; train one from preferences"),
        (lambda f: tiny_scorer(f, num_labels=3), "has 3 output classes"),
        (lambda f: without(tiny_scorer(f), "tokenizer*"), "holds no tokenizer"),
        (lambda f: without(tiny_scorer(f), "*.safetensors"), "holds no reward model"),
        (lambda f: unpadded(tiny_scorer(f)), "needs a pad_token_id"),
    ],
    ids=["nothing", "policy", "classes", "tokenizer", "weights", "pad"],
)
def test_a_folder_that_cannot_serve_stops_the_run_before_any_work(make, problem, tmp_path, monkeypatch):
    policy = tiny_model(tmp_path / "policy")
    node = {
        "steps": 1,
        "task": "countdown",
        "algorithm": "grpo",
        "reward": {"name": "learned", "path": str(make(tmp_path / "scorer"))},
        "model": {"path": str(policy)},
        "workers": {"backend": "local"},
    }
    monkeypatch.setattr(local, "Learner", lambda *_: pytest.fail("the learner was loaded"))
    with pytest.raises(UserError, match=f"reward learned: path: .*{problem}"):
        open_workers(recipes.build(node), str(policy), 4)


def without(folder: Path, pattern: str) -> Path:
    for file in folder.glob(pattern):
        file.unlink()
    return folder


def unpadded(folder: Path) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": None}))
    return folder


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"max_batch": 0}, "max_batch must be at least 1, not 0"),
        ({"dtype": "half"}, "dtype must be float32 or bfloat16"),
        ({"gold": "countdown_exactt"}, "did you mean 'countdown_exact'"),
    ],
)
def test_wrong_keys_are_told(keys, problem):
    with pytest.raises(RecipeError, match=problem):
        build_part("reward", {"name": "learned", "path": "x"} | keys, "reward")


def test_a_relative_path_starts_at_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert build_part("reward", {"name": "learned", "path": "a/b"}, "reward").path == str(tmp_path / "a" / "b")


def test_a_reward_is_started_once_with_its_workers(folder, tmp_path):
    policy, plugin = tiny_model(tmp_path / "policy"), tmp_path / "reward.py"
    plugin.write_text(
        "from align.rewards import Reward\nSTARTED = []\n"
        "class Running(Reward):\n    def score(self, prompt, response):\n        return float(len(STARTED))\n"
        'class Part(Running):\n    """Counts."""\n    def start(self):\n        STARTED.append(1)\n'
        "        return Running()\n"
    )
    node = {
        "steps": 1,
        "task": "countdown",
        "algorithm": "grpo",
        "reward": f"{plugin}:Part",
        "model": {"path": str(policy)},
        "workers": {"backend": "local"},
    }
    workers = open_workers(recipes.build(node), str(policy), 4)
    for _ in range(2):
        assert workers.compute_rewards([group("1=", "1")]).values.tolist() == [1.0]
    workers.close()


def test_groups_are_dealt_out_evenly():
    assert even_slices("abcdefg", 3) == ["ab", "cd", "efg"] and even_slices("ab", 5) == ["a", "b"] and even_slices("", 2) == []


@dataclass
class Loaded(Reward):
    """Not batched, though it derives from the contract."""

    def score(self, prompt: Prompt, response: str) -> float:
        return 1.0


def test_starting_is_nothing_where_there_is_nothing_to_load():
    reward = Loaded()
    assert reward.start() is reward and not reward.batched


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (
            "self.model = 1",
            "Part writes to self.model: a reward is frozen, one object for every run. What changes is kept in the object that",
        ),
        ("pass", "Part.start must return an object that derives from align.rewards.Reward, and returned None"),
    ],
)
def test_a_reward_that_keeps_its_model_itself_is_told_where_it_belongs(tmp_path, body: str, says: str):
    (tmp_path / "mine.py").write_text(
        f"class Part:\n    def start(self):\n        {body}\n    def score(self, prompt, response):\n        return 1.0\n"
    )
    with pytest.raises(UserError, match=says):
        start_reward(build_part("reward", f"{tmp_path}/mine.py:Part", "reward"))


def test_the_part_scores_as_what_it_starts(folder):
    made, groups = build_part("reward", {"name": "learned", "path": str(folder)}, "reward"), [group("1=", "1", "2")]
    assert made.score_groups(groups) == made.start().score_groups(groups)
    assert made.score(groups[0].prompt, "1") == made.start().score(groups[0].prompt, "1")
