"""`batch.refill`: which groups are in the batch, what a step counts, and that a resumed run draws the same prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import digit_run
from helpers.digit_run import lines
from safetensors.torch import load_file

from align.config import recipes
from align.config.schema import Recipe
from align.errors import RecipeError
from align.experience.examples import Examples
from align.experience.packing import pack
from align.experience.signal import chosen, with_signal
from align.learner.learner import Learner
from align.run.diagnostics.no_signal import NoSignal
from align.run.state import RunState
from align.train import train
from align.types import Episode, Group, Prompt, Rewards, TokenBatch
from align.vocabulary.files import load_tokenizer
from align.workers.local import LocalWorkers

PROMPTS, SAMPLES, REFILL = 4, 2, 3


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("refill")
    (root / "equal.py").write_text("def score(prompt, response):\n    return 1.0\n")
    return digit_run.places(root)


def recipe(places: Path, reward: str | None = "digit", refill: int | None = REFILL, **changes: Any) -> Recipe:
    """Two answers to each of four prompts, rewarded with 0 or 1."""
    judged = None if reward is None else f"{places / reward}.py:score"
    return recipes.build(digit_run.node(places, size=24, refill=refill, **{"steps": 4, "reward": judged} | changes))


@pytest.fixture(scope="module")
def whole(places: Path) -> Iterator[tuple[Path, list[TokenBatch]]]:
    """A run without a stop, and the batches that it learned from."""
    batches, update = [], Learner.update
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "update", lambda self, batch, step: (batches.append(batch), update(self, batch, step))[1])
        train(recipe(places), places / "whole")
    yield places / "whole", batches


def judged(*rewards: list[float], **parts: list[list[float]]) -> tuple[list[Group], Rewards]:
    """A group for each list."""
    episode = Episode.single_turn(np.array([5], dtype=np.int32), "")
    groups = [Group(prompt=Prompt(id=str(i), text="", token_ids=(3,)), episodes=(episode,) * len(own)) for i, own in enumerate(rewards)]
    flat = {name: np.concatenate(part).astype(np.float32) for name, part in parts.items()}
    return groups, Rewards(values=np.concatenate(rewards).astype(np.float32), parts=flat)


NAN = float("nan")


@pytest.mark.parametrize(
    ("rewards", "signal"),
    [([0, 0, 0], False), ([1, 1], False), ([0, 1, 0], True), ([NAN, 1, 1], False), ([NAN, 1, 0], True), ([NAN], False)],
)
def test_a_signal_is_a_difference_between_the_rewards_of_a_group(rewards: list[float], signal: bool):
    assert with_signal(*judged([0, 1], rewards, [1, 0])) == [True, signal, True]


def test_an_advantage_of_the_parts_compares_the_parts():
    groups, rewards = judged([1, 1], [1, 1], style=[[0, 1], [0.5, 0.5]])
    assert with_signal(groups, rewards) == [False, False]
    assert with_signal(groups, rewards, by_parts=True) == [True, False]


def test_the_groups_that_are_kept_keep_their_rewards():
    groups, rewards = judged([1, 0], [0, 0, 0], [0, 1], style=[[1, 2], [3, 4, 5], [6, 7]])
    kept, own = chosen(groups, rewards, [True, False, True])
    assert [g.prompt.id for g in kept] == ["0", "2"]
    assert own.values.tolist() == [1, 0, 0, 1] and own.parts["style"].tolist() == [1, 2, 6, 7]


def test_the_batch_is_the_one_chosen_by_hand(places: Path, whole: tuple[Path, list[TokenBatch]]):
    built, tokenizer = recipe(places), load_tokenizer(places / "model")
    workers = LocalWorkers(built, str(places / "model"), 32, learns=False)
    examples = Examples(built.task, tokenizer, PROMPTS, built.seed)
    kept, values, rounds, tokens, equal = [], [], 0, 0, 0
    while len(kept) < PROMPTS and rounds <= REFILL:
        for group in workers.generate(examples.prompts(rounds), SAMPLES, built.seed * 1_000_003 + rounds):
            rewards = [float(e.text[:1].isdigit()) for e in group.episodes]
            tokens += sum(e.length for e in group.episodes)
            equal += sum(rewards) in (0, SAMPLES)
            if 0 < sum(rewards) < SAMPLES and len(kept) < PROMPTS:
                kept.append(group)
                values += rewards
        rounds += 1
    by_hand = pack(kept, Rewards(values=np.array(values, dtype=np.float32)))
    batch, line = whole[1][0], lines(whole[0])[0]
    assert 1 < rounds <= REFILL and len(kept) == PROMPTS, "the case has a second round, and fills the batch"
    for name in ("input_ids", "rewards", "group_ids", "sampler_logp", "lengths"):
        assert torch.equal(getattr(batch, name), getattr(by_hand, name)), name
    assert batch.prompt_ids == by_hand.prompt_ids
    assert line["groups/rounds"] == rounds and line["groups/kept"] == PROMPTS and line["groups/refilled"] > 0
    assert line["groups/no_signal"] == pytest.approx(equal / (rounds * PROMPTS))
    assert line["groups/surplus"] == rounds * PROMPTS - equal - PROMPTS
    assert line["tokens/drawn"] == tokens and line["tokens/thrown_away"] == tokens - len(batch.seq_ids)
    assert line["answers"] == rounds * PROMPTS * SAMPLES and line["epoch"] == rounds * PROMPTS / 24


def test_no_prompt_of_an_epoch_is_drawn_twice(places: Path, whole: tuple[Path, list[TokenBatch]]):
    rounds = [line["groups/rounds"] for line in lines(whole[0])]
    trained = [prompt for batch in whole[1] for prompt in dict.fromkeys(batch.prompt_ids)]
    assert sum(rounds) > len(rounds) and lines(whole[0])[-1]["epoch"] == sum(rounds) * PROMPTS / 24
    in_first_epoch = [step for step in range(len(rounds)) if sum(rounds[: step + 1]) * PROMPTS <= 24]
    first = [p for step in in_first_epoch for p in dict.fromkeys(whole[1][step].prompt_ids)]
    assert trained[: len(first)] == first and len(first) == len(set(first)) > PROMPTS


def test_a_run_stopped_between_rounds_and_resumed_draws_the_same_prompts(places: Path, whole: tuple[Path, list[TokenBatch]], monkeypatch):
    rounds, stopped = [int(line["groups/rounds"]) for line in lines(whole[0])], places / "stopped"
    step = next(step for step in range(1, len(rounds)) if rounds[step] > 1)
    calls, judge = iter(range(sum(rounds))), LocalWorkers.compute_rewards

    def until(self: LocalWorkers, groups):
        if next(calls) == sum(rounds[:step]) + 1:
            raise KeyboardInterrupt
        return judge(self, groups)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(LocalWorkers, "compute_rewards", until)
        train(recipe(places), stopped)
    saved = json.loads((stopped / "checkpoints" / f"step_{step:06d}" / "driver.json").read_text())
    assert saved["rounds"] == sum(rounds[:step]) > step
    train(recipe(places), stopped, resume=True)
    assert lines(stopped) == lines(whole[0])
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in (stopped, whole[0]))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_rounds_of_a_step_that_was_not_completed_do_not_count(places: Path):
    state = RunState(recipe(places))
    state.drew(0, 3)
    assert state.state_dict()["rounds"] == 0 and state.rounds_before(1) == 3
    state.step = 1
    state.drew(1, 2)
    state.drew(2, 1)  # no answer of step 1 was learned from, so `step` stays
    assert state.state_dict()["rounds"] == 3 and state.rounds_before(3) == 6
    again = RunState(recipe(places))
    again.load_state_dict(state.state_dict())
    assert again.rounds_before(1) == 3
    before = {key: value for key, value in state.state_dict().items() if key != "rounds"}
    again.load_state_dict(before | {"step": 2})
    assert again.rounds_before(2) == 2, "a checkpoint without the count has a round for each step"


def test_without_further_rounds_the_batch_is_smaller(places: Path, capsys: pytest.CaptureFixture[str]):
    train(recipe(places, refill=0, steps=2), places / "smaller")
    found = lines(places / "smaller")
    assert [line["groups/rounds"] for line in found] == [1, 1]
    assert any(0 < line["groups/kept"] < PROMPTS for line in found)
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("groups with a signal, fewer than batch.prompts 4") == 1, "it is said once"


def test_a_step_without_any_signal_teaches_nothing_and_says_so(places: Path, capsys: pytest.CaptureFixture[str]):
    train(recipe(places, "equal", refill=1, steps=2), places / "equal_run")
    first, last = lines(places / "equal_run")
    assert first["groups/no_signal"] == 1 and first["groups/kept"] == 0 and first["groups/rounds"] == 2
    assert first["reward/mean"] == 1 and "loss/policy" not in first and last["epoch"] == 4 * PROMPTS / 24
    printed = capsys.readouterr()
    assert "step 0: 2 rounds of prompts had 0 groups with a signal" in printed.out + printed.err
    detector = NoSignal(True)
    stops = [step for step in range(25) if (found := detector.after(step, first)) is not None and found.stops]
    assert stops == [19]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"algorithm": "ppo"}, "trains a critic, which learns from every answer"),
        ({"algorithm": "log_variance"}, "learns also from a group whose answers all have the same reward"),
        ({"algorithm": "distill", "reward": None}, "changes nothing: distill learns from its regularizers alone"),
    ],
)
def test_it_is_refused_where_equal_rewards_teach(places: Path, changes: dict, says: str):
    kl = {"kl": {"divergence": "reverse_kl", "coefficient": 0.1}}
    with pytest.raises(RecipeError, match=says) as refused:
        recipe(places, **changes, regularizers=kl)
    assert refused.value.where == "batch.refill"


def test_it_is_refused_with_an_advantage_that_compares_no_group(places: Path):
    mine = places / "mine.py"
    mine.write_text(
        "from align.advantages import Advantage\nclass Own(Advantage):\n"
        "    def advantages(self, batch):\n        return batch.rewards[batch.seq_ids]\n    def formula(self):\n        return 'r'\n"
    )
    with pytest.raises(RecipeError, match="does not compare the answers of a group"):
        recipe(places, algorithm={"name": "grpo", "advantage": f"{mine}:Own"})
