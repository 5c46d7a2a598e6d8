"""Episodes of several turns: their tokens, seeds and limits, and what happens where an environment fails."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from unit.environments.playing import EVERY, PROMPTS, playing, recipe, turns

from align.engines import start_engine
from align.errors import UserError
from align.experience.packing import pack
from align.types import Episode, Group
from align.workers.shards import generate, prompt_seeds
from align.workers.turns import PlayingEngine, start_rollouts, turn_seed

END = 2


def bits(groups: list[Group]) -> list:
    return [
        (g.prompt.id, turns(e), [None if s.logp is None else s.logp.tobytes() for s in e.segments], e.text, e.finished, e.played)
        for g in groups
        for e in g.episodes
    ]


@pytest.fixture(scope="module")
def drawn(folder: Path) -> list[Group]:
    """By the transformers engine with a random model."""
    return generate(recipe(folder).engine, start_rollouts(recipe(folder), str(folder), 4), PROMPTS, 4, 5)


def counted(groups: list[Group]) -> Counter:
    return Counter(len(e.played.rewards) for g in groups for e in g.episodes)


def test_the_texts_of_the_environment_stand_between_the_policys_tokens(folder: Path):
    """Which are kept as drawn, end tokens included; the text that is judged is the last turn's."""
    said = {"0+1=": "12", "1+1=": "7..."}
    engine = playing(folder, lambda p, s: said.get(p.text, "345"), episode={"max_turns": 2})
    (zero, one) = (g.episodes[0] for g in engine.generate(PROMPTS[:2], 1, [3, 4]))
    reply = zero.segments[1].token_ids.tolist()
    assert turns(zero) == [("assistant", [4, 5, END]), ("tool", reply), ("assistant", [6, 7, 8, END])]
    assert len(reply) == 2 and 3 <= reply[0] <= 12 and reply[1] == 16  # a digit of the seed and =
    assert [s.trained for s in zero.segments] == [True, False, True] and zero.segments[1].logp is None
    assert zero.text == "345" and zero.finished and zero.played.rewards == (None, None) and zero.played.limited
    assert zero.trained_ids.tolist() == [4, 5, END, 6, 7, 8, END] and zero.sampler_logp.tolist() == [-1.5] * 7
    assert turns(one) == [("assistant", [10])] and one.text == "7" and not one.finished, "a turn that was cut ends the episode, unanswered"
    assert one.played.rewards == (None,) and not one.played.limited
    (asked,) = engine._engine.asked[1]
    assert asked.token_ids == (*PROMPTS[0].token_ids, 4, 5, END, *reply)


def test_log_mu_is_of_the_whole_context(folder: Path, drawn: list[Group]):
    """One forward pass over prompt and episode gives the log-probs of the tokens of every turn."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert counted(drawn)[3] > 2
    for group in drawn:
        for e in group.episodes:
            ids = torch.tensor([[*group.prompt.token_ids, *e.response_ids.tolist()]])
            with torch.no_grad():
                logp = torch.log_softmax(model(ids).logits[0].float() / 8.0, -1)
            at = torch.from_numpy(e.trained_at) + len(group.prompt.token_ids)
            assert np.abs(logp[at - 1, ids[0, at]].numpy() - e.sampler_logp).max() < 1e-5


def test_what_the_environment_says_is_context_and_no_target(folder: Path, drawn: list[Group]):
    """The loss of the trained tokens has no gradient at the logits that predict its tokens, and one at the embeddings of its tokens."""
    batch = pack(drawn, None)
    model = AutoModelForCausalLM.from_pretrained(folder)
    embedded = model.get_input_embeddings()(batch.input_ids).detach().requires_grad_()
    logits = model(inputs_embeds=embedded).logits
    logits.retain_grad()
    torch.log_softmax(logits, -1)[batch.seq_ids, batch.columns - 1, batch.tokens].sum().backward()
    episodes = [(len(g.prompt.token_ids), e) for g in drawn for e in g.episodes]
    answers = 0
    for row, (start, e) in enumerate(episodes):
        for segment, end in zip(e.segments, start + np.cumsum([len(s.token_ids) for s in e.segments]), strict=True):
            first, targets = end - len(segment.token_ids), logits.grad[row, end - len(segment.token_ids) - 1 : end - 1]
            assert batch.input_ids[row, first:end].tolist() == segment.token_ids.tolist()
            assert (targets != 0).any(-1).tolist() == [segment.trained] * len(segment.token_ids)
            if not segment.trained:
                answers += 1
                assert (embedded.grad[row, first:end] != 0).any(-1).all()
    assert answers > 4


def test_the_first_turns_are_those_of_an_engine_without_an_environment(folder: Path, drawn: list[Group]):
    built = recipe(folder)
    alone = generate(built.engine, start_engine(built.engine, str(folder), built.sampling, 64), PROMPTS, 4, 5)
    for group, single in zip(drawn, alone, strict=True):
        for e, s in zip(group.episodes, single.episodes, strict=True):
            assert e.segments[0].token_ids.tolist() == s.response_ids.tolist()
            assert e.segments[0].logp.tobytes() == s.sampler_logp.tobytes()


def test_without_an_environment_there_is_the_engine_alone(folder: Path):
    started = start_rollouts(recipe(folder, environment=None, episode={}), str(folder), 4)
    assert not isinstance(started, PlayingEngine)
    assert all(e.played is None for g in started.generate(PROMPTS[:1], 2, [1]) for e in g.episodes)


def test_any_number_of_processes_plays_the_same_episodes(folder: Path):
    """Units are cut by the part of the engine; processes with weights of their own play them."""
    built = recipe(folder, engine={"name": "transformers", "max_batch": 8})
    engines = [start_rollouts(built, str(folder), 4) for _ in range(2)]
    one = generate(built.engine, engines[0], PROMPTS, 4, 5, workers=1)
    units = built.engine.units([4] * len(PROMPTS), 4)
    assert len(units) == 3
    seeds, found = prompt_seeds(len(PROMPTS), 5), {}
    for number, places in reversed(list(enumerate(units))):
        groups = engines[number % 2].generate([PROMPTS[i] for i in places], 4, [seeds[i] for i in places])
        found |= dict(zip(places, groups, strict=True))
    assert bits([found[i] for i in range(len(PROMPTS))]) == bits(one)
    assert counted(one)[2] + counted(one)[3] > 4


def test_the_seed_of_a_turn_is_a_function_of_prompt_sample_and_turn(folder: Path):
    engine = playing(folder, lambda p, s: "1")
    engine.generate(PROMPTS[:2], 2, [10, 20])
    first, second, third = engine._engine.seeds
    assert first == [10, 20]
    assert second == [turn_seed(p, s, 1) for p in (10, 20) for s in (0, 1)] and third == [
        turn_seed(p, s, 2) for p in (10, 20) for s in (0, 1)
    ]
    assert len({*second, *third}) == 8 and all(0 <= seed < 2**62 for seed in (*second, *third))
    assert turn_seed(10, 1, 2) == int.from_bytes(hashlib.sha256(b"10/1/2").digest()[:8]) >> 2, "the same on every machine"


def test_an_episode_ends_where_the_environment_or_a_limit_says(folder: Path):
    ends = playing(folder, lambda p, s: "1", environment={"name": EVERY, "most": 2}).generate(PROMPTS[:1], 1, [1])[0].episodes[0]
    assert (len(ends.played.rewards), ends.played.limited, ends.finished) == (2, False, True)
    limited = playing(folder, lambda p, s: "1").generate(PROMPTS[:1], 1, [1])[0].episodes[0]
    assert (len(limited.played.rewards), limited.played.limited, limited.finished) == (3, True, True)
    # 64 tokens: after a turn of 29, and the environment's 2, a turn of 30 fits; after another there are 62 and no room.
    full = playing(folder, lambda p, s: "1" * 28, episode={"max_turns": 3, "max_tokens": 64}).generate(PROMPTS[:1], 1, [1])[0].episodes[0]
    assert (len(full.played.rewards), full.played.limited, full.finished) == (2, True, False)
    assert full.segments[-1].role == "assistant" and len(full.response_ids) == 29 + 2 + 29


def test_no_episode_is_longer_than_the_recipe_says(folder: Path, drawn: list[Group]):
    built = recipe(folder)
    assert max(len(e.response_ids) for g in drawn for e in g.episodes) <= built.response_tokens == 90
    assert recipe(folder, episode={"max_turns": 3, "max_tokens": 100}).trained_tokens == 90
    assert recipe(folder, episode={"max_turns": 3, "max_tokens": 70}).trained_tokens == 70


FAILURES = {
    "raise": ("turn 2", "ValueError: no such move"),
    "hang": ("turn 2", "took longer than 0.05 s"),
    "nan": ("turn 2", "ValueError: the reward of a Turn is finite"),
    "blank": ("turn 2", "ValueError: a Turn has a text"),
    "start": ("turn 1", "OSError: no server"),
    "close": ("turn 3", "OSError: gone"),
}


@pytest.mark.parametrize("fails", FAILURES)
def test_a_failure_ends_its_episode_alone(folder: Path, fails: str):
    environment = {"name": EVERY, "fails": fails, "which": "1"}
    engine = playing(folder, lambda p, s: "12", environment=environment, episode={"max_turns": 3, "seconds": 0.05})
    zero, one = (g.episodes[0] for g in engine.generate(PROMPTS[:2], 1, [3, 4]))
    where, why = FAILURES[fails]
    assert zero.played.failure is None and len(zero.played.rewards) == 3
    assert one.played.failure.startswith(f"its environment failed in {where}: ") and why in one.played.failure
    assert "turns.py:" in one.played.failure or "environments/__init__.py:" in one.played.failure
    assert len(one.played.rewards) == (1 if fails == "start" else 3 if fails == "close" else 2) and one.length > 0


@pytest.mark.timeout(20)
def test_a_limit_that_no_call_can_keep_fails_every_episode_and_no_more(folder: Path):
    engine = playing(folder, lambda p, s: "12", episode={"max_turns": 3, "seconds": 1e-9})
    found = [g.episodes[0].played.failure for g in engine.generate(PROMPTS, 1, [1] * 6)]
    assert all(failure is not None and "took longer than 1e-09 s" in failure for failure in found)


@pytest.mark.parametrize(
    ("fails", "says"),
    [
        ("type", "step returned {'text': '1'}"),
        ("paid", "step gave a reward, and the environment declares pays = False"),
        ("object", "Every.reset must return an object that"),
    ],
)
def test_another_type_is_a_mistake_and_stops_the_run(folder: Path, fails: str, says: str):
    with pytest.raises(UserError, match=says):
        playing(folder, lambda p, s: "12", environment={"name": EVERY, "fails": fails}).generate(PROMPTS[:1], 1, [3])


def test_each_episode_is_closed_once(folder: Path):
    made = []
    engine = playing(folder, lambda p, s: "1..." if p.id == "1" else "1")
    reset = engine._environment.reset
    object.__setattr__(engine._environment, "__class__", type("Kept", (type(engine._environment),), {}))
    type(engine._environment).reset = lambda self, prompt, seed: (made.append(reset(prompt, seed)), made[-1])[1]
    engine.generate(PROMPTS[:3], 2, [1, 2, 3])
    assert [running.closed for running in made] == [1] * 4  # prompt 1 was cut before the environment was asked


def test_the_version_of_the_weights_is_the_engines(folder: Path):
    engine = playing(folder, lambda p, s: "1")
    engine.load(7, None)
    episode: Episode = engine.generate(PROMPTS[:1], 1, [3])[0].episodes[0]
    assert engine.version == 7 and episode.versions.tolist() == [7] * episode.length
