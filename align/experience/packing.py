"""Packs groups of episodes into the learner's batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np
import torch

from align.errors import UserError
from align.experience import teacher_logp
from align.experience.process_rewards import at_tokens, at_turn_ends
from align.types import Episode, Group, Prompt, Rewards, TokenBatch


@overload
def pack(groups: Sequence[Group], rewards: None, pad_id: int = 0, decode: Callable[[Sequence[int]], str] | None = None) -> TokenBatch: ...


@overload
def pack(
    groups: Sequence[Group], rewards: Rewards | None, pad_id: int = 0, decode: Callable[[Sequence[int]], str] | None = None
) -> TokenBatch | None: ...


def pack(
    groups: Sequence[Group], rewards: Rewards | None, pad_id: int = 0, decode: Callable[[Sequence[int]], str] | None = None
) -> TokenBatch | None:
    """Concatenates the trained tokens and right-pads the inputs. Samples with a NaN reward are left out; returns None if none is left.

    Groups keep their order and are renumbered without gaps. Process rewards need `decode`, the engine's conversion of tokens to text.

    Raises UserError for an episode without a trained token, for a trained token without a token before it, and if only some episodes
    have log-probs; ValueError for no episodes without rewards. Give a reward of NaN to an episode that may end before the policy's turn.
    """
    rows = [(i, group.prompt, episode) for i, group in enumerate(groups) for episode in group.episodes]
    if rewards is not None and len(rewards.values) != len(rows):
        raise ValueError(f"{len(rewards.values)} rewards for {len(rows)} episodes")
    kept = kept_episodes(len(rows), rewards)
    rows = [rows[i] for i in kept]
    if not rows:
        if rewards is None:
            raise ValueError("there is no episode to pack")
        return None
    for _, prompt, episode in rows:
        _check(prompt, episode)
    logp = [x for _, _, episode in rows if (x := episode.sampler_logp) is not None]
    sampled = bool(logp)
    if sampled and len(logp) < len(rows):
        raise UserError("some episodes of a batch have log-probs and others have none; an engine reports those of every token it draws")
    totals = torch.tensor([len(prompt.token_ids) + len(episode.response_ids) for _, prompt, episode in rows])
    lengths = torch.tensor([episode.length for _, _, episode in rows])
    input_ids = torch.full((len(rows), int(totals.max())), pad_id)
    flat = np.concatenate([ids for _, prompt, episode in rows for ids in (prompt.token_ids, episode.response_ids)]).astype(np.int64)
    input_ids[torch.arange(input_ids.shape[1]) < totals[:, None]] = torch.from_numpy(flat)
    seq_ids = torch.repeat_interleave(torch.arange(len(rows)), lengths)
    known = None if sampled else teacher_logp.of([(prompt, episode) for _, prompt, episode in rows])
    starts = torch.cumsum(lengths, 0) - lengths
    return TokenBatch(
        input_ids=input_ids,
        totals=totals,
        lengths=lengths,
        seq_ids=seq_ids,
        positions=torch.arange(len(seq_ids)) - starts[seq_ids],
        columns=torch.from_numpy(np.concatenate([len(prompt.token_ids) + episode.trained_at for _, prompt, episode in rows])),
        group_ids=torch.unique(torch.tensor([i for i, _, _ in rows]), return_inverse=True)[1],
        versions=torch.from_numpy(np.concatenate([episode.versions for _, _, episode in rows])) if sampled else None,
        prompt_ids=tuple(prompt.id for _, prompt, _ in rows),
        teacher_logp=known,
        sampler_logp=torch.from_numpy(np.concatenate(logp)) if sampled else None,
        labels=_labels([episode for _, _, episode in rows]),
        **({} if rewards is None else _reward_fields(rewards, kept, [episode for _, _, episode in rows], decode)),
    )


def kept_episodes(count: int, rewards: Rewards | None) -> np.ndarray:
    """int64 [S], ascending: which of `count` episodes are in the batch, those whose reward is not NaN."""
    return np.arange(count) if rewards is None else np.flatnonzero(~np.isnan(rewards.values))


def _labels(episodes: Sequence[Episode]) -> torch.Tensor | None:
    """int64 [S]; None if no episode is labelled."""
    if all(episode.label is None for episode in episodes):
        return None
    return torch.tensor([-1 if episode.label is None else int(episode.label) for episode in episodes])


def _reward_fields(
    rewards: Rewards, kept: np.ndarray, episodes: Sequence[Episode], decode: Callable[[Sequence[int]], str] | None
) -> dict[str, Any]:
    """Batch fields with the rewards of `episodes`, whose indices among all episodes are `kept` (int64 [S])."""
    inside = []
    if any(rewards.step_rewards):
        if decode is None:
            raise ValueError("rewards are paid inside answers: their tokens are found by `decode`")
        inside.append([at_tokens(episode, rewards.step_rewards[i], decode) for i, episode in zip(kept, episodes, strict=True)])
    if any(rewards.turn_rewards):
        inside.append([at_turn_ends(episode, rewards.turn_rewards[i]) for i, episode in zip(kept, episodes, strict=True)])
    step_rewards = torch.from_numpy(sum(map(np.concatenate, inside))) if inside else None
    return {
        "rewards": torch.from_numpy(rewards.values[kept].astype(np.float32)),
        "reward_parts": {name: torch.from_numpy(part[kept].astype(np.float32)) for name, part in rewards.parts.items()},
        "step_rewards": step_rewards,
    }


def _check(prompt: Prompt, episode: Episode) -> None:
    if not episode.length:
        raise UserError(
            f"prompt {prompt.id}: an episode has no trained token, so there is nothing to learn from it; mark what the policy "
            "wrote as trained, or give the episode a reward of NaN, which leaves it out"
        )
    if not prompt.token_ids and episode.trained_at[0] == 0:
        raise UserError(
            f"prompt {prompt.id}: it has no tokens, so the first token of an answer is drawn after nothing; give it a text, or "
            "a tokenizer that begins texts with a token of its own"
        )
