"""Plays episodes of several turns: an engine draws the assistant's turns, and an environment answers them.

All episodes of a call take their turns together, so a round is one call of the engine: prompt and episode so far are its prompt. An engine
needs nothing beyond its contract for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from align.config.frozen import checked_instance
from align.config.schema import Recipe
from align.engines import Drawing, RunningEngine, start_engine
from align.environments import Environment, RunningEnvironment, Turn, start_environment
from align.errors import UserError
from align.experience.turn_tokens import TurnTokens
from align.types import Group, Prompt
from align.vocabulary.files import load_tokenizer
from align.weight_sync.flattening import Weights
from align.workers.deadline import Deadline
from align.workers.limited import limited, limited_calls
from align.workers.playing_episode import PlayingEpisode
from align.workers.shards import checked_groups

Draw = Callable[[Sequence[Prompt], int, Sequence[int]], list[Group]]


def start_rollouts(recipe: Recipe, model_dir: str, max_prompt_tokens: int) -> RunningEngine:
    """The recipe's engine, started; with an environment its answers are episodes. Raises UserError as `Engine.start` does.

    Args: max_prompt_tokens: length of the longest prompt of the run.
    """
    if recipe.environment is None:
        return start_engine(recipe.engine, model_dir, recipe.sampling, max_prompt_tokens)
    environment = start_environment(recipe.environment)
    longest = max_prompt_tokens + recipe.response_tokens - recipe.sampling.max_tokens
    return PlayingEngine(recipe, environment, start_engine(recipe.engine, model_dir, recipe.sampling, longest), model_dir)


def turn_seed(seed: int, sample: int, turn: int) -> int:
    """The seed of a turn, from that of its prompt, so that it is the same for any number of processes. Turn 0 is the environment's."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{sample}/{turn}".encode()).digest()[:8]) >> 2


class PlayingEngine(RunningEngine):
    """An engine whose answers are episodes with an environment."""

    def __init__(self, recipe: Recipe, environment: Environment, engine: RunningEngine, model_dir: str):
        self._environment, self._engine, self._limits = environment, engine, recipe.episode
        self._turn_tokens, self._most = recipe.sampling.max_tokens, recipe.response_tokens
        self._turns = TurnTokens(load_tokenizer(model_dir), environment.role)

    def generate(self, prompts: Sequence[Prompt], samples: int, seeds: Sequence[int]) -> list[Group]:
        return self._played(partial(checked_groups, self._engine), prompts, samples, seeds)

    def generate_held_out(self, prompts: Sequence[Prompt], samples: int, seeds: Sequence[int], drawing: Drawing) -> list[Group]:
        return self._played(partial(checked_groups, self._engine, drawing=drawing), prompts, samples, seeds)

    def load(self, version: int, weights: Weights) -> None:
        self._engine.load(version, weights)
        self.version = version

    def close(self) -> None:
        self._environment.close()
        self._engine.close()

    def _played(self, draw: Draw, prompts: Sequence[Prompt], samples: int, seeds: Sequence[int]) -> list[Group]:
        episodes = [PlayingEpisode(prompt, seed, sample) for prompt, seed in zip(prompts, seeds, strict=True) for sample in range(samples)]
        answers = iter([e for group in draw(prompts, samples, seeds) for e in group.episodes])
        going = episodes
        for turn in range(1, self._limits.max_turns + 1):
            for episode, answer in zip(going, answers, strict=True):
                episode.add_assistant_turn(answer)
            with limited_calls() as deadline:
                for episode in going:
                    self._answer(episode, turn == self._limits.max_turns, deadline)
            going = [episode for episode in going if episode.goes_on]
            if not going:
                break
            drawn = draw([e.asked(turn) for e in going], 1, [turn_seed(e.seed, e.sample, turn) for e in going])
            answers = iter([group.episodes[0] for group in drawn])
        done = [episode.done() for episode in episodes]
        return [Group(prompt=p, episodes=tuple(done[i * samples : (i + 1) * samples])) for i, p in enumerate(prompts)]

    def _answer(self, episode: PlayingEpisode, last: bool, deadline: Deadline) -> None:
        """Let the environment answer the newest turn, and end the episode where that ends it."""
        turn = self._step(episode, deadline)
        episode.rewards.append(None if not self._environment.pays else 0.0 if turn is None else turn.reward)
        episode.goes_on = turn is not None and not turn.done and self._continues(episode, turn, last, deadline)
        if not episode.goes_on and episode.running is not None:
            self._call(episode, episode.running.close, deadline)

    def _step(self, episode: PlayingEpisode, deadline: Deadline) -> Turn | None:
        """The environment's turn; None where it failed, or was not asked because the length limit cut the assistant's turn."""
        if not episode.finished:
            return None
        if episode.running is None:
            seed = turn_seed(episode.seed, episode.sample, 0)
            made = self._call(episode, partial(self._environment.reset, episode.prompt, seed), deadline)
            if episode.failure is not None:
                return None
            episode.running = checked_instance(self._environment, made, RunningEnvironment)
        turn = self._call(episode, partial(episode.running.step, episode.last_text), deadline)
        if episode.failure is None and not isinstance(turn, Turn):
            raise UserError(f"environment: {type(episode.running).__name__}.step returned {turn!r:.60}, must be an align.environments.Turn")
        if turn is not None and turn.reward and not self._environment.pays:
            raise UserError(f"environment: {type(episode.running).__name__}.step gave a reward, and the environment declares pays = False")
        return turn

    def _continues(self, episode: PlayingEpisode, turn: Turn, last: bool, deadline: Deadline) -> bool:
        """Whether another assistant turn follows, for which the environment's text is then added."""
        if last:
            episode.limited = True
            return False
        before = episode.prompt.text + episode.written
        marked = self._call(episode, partial(self._turns.after, episode.prompt, before, turn.text), deadline)
        if marked is None:
            return False
        if episode.tokens + len(marked.ids) + self._turn_tokens > self._most:
            episode.limited, episode.finished = True, False
            return False
        episode.add_environment_turn(self._environment.role, marked)
        return True

    def _call(self, episode: PlayingEpisode, call: Callable[[], Any], deadline: Deadline) -> Any:
        """What a call returns; None where it fails: the episode has the reason."""
        answer, problem = limited(call, self._environment, self._limits.seconds, deadline)
        if problem is not None and episode.failure is None:
            episode.failure = f"its environment failed in turn {episode.turns}: {problem}"
        return None if problem is not None else answer
