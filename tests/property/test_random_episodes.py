"""Packing of any episodes: each trained token stands at its column with its log-prob and version, and any part is as if packed alone."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import count

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from property.divergences import QUICK
from torch import Tensor

from align.experience.packing import pack
from align.learner.micro_batches import micro_batches
from align.types import Episode, Group, Prompt, Rewards, Segment, TokenBatch

PAD = -1
Turn = tuple[bool, list[int]]
"""Whether a segment is trained, and its spans by their lengths."""


def trains(turns: list[Turn]) -> bool:
    return any(trained and sum(spans) for trained, spans in turns)


turns = st.lists(st.tuples(st.booleans(), st.lists(st.integers(1, 3), max_size=2)), min_size=1, max_size=5).filter(trains)
worlds = st.lists(st.tuples(st.integers(1, 4), st.lists(turns, min_size=1, max_size=3)), min_size=1, max_size=3)


def built(world: list[tuple[int, list[list[Turn]]]]) -> list[Group]:
    """Groups whose tokens and versions are numbered through, so that each is in one place alone; a log-prob is minus its token."""
    ids, versions = count(), count(1)
    groups = []
    for g, (length, drawn) in enumerate(world):
        prompt = Prompt(id=str(g), text="", token_ids=tuple(next(ids) for _ in range(length)))
        groups.append(
            Group(
                prompt=prompt,
                episodes=tuple(
                    Episode(text="", segments=tuple(segment(trained, spans, ids, versions) for trained, spans in turns)) for turns in drawn
                ),
            )
        )
    return groups


def segment(trained: bool, spans: list[int], ids: count, versions: count) -> Segment:
    tokens = np.array([next(ids) for _ in range(sum(spans))], np.int32)
    if not trained:
        return Segment(role="tool", token_ids=tokens, trained=False)
    return Segment(
        role="assistant",
        token_ids=tokens,
        trained=True,
        logp=-tokens.astype(np.float32),
        versions=tuple((next(versions), n) for n in spans),
    )


def expected(groups: list[Group]) -> list[tuple]:
    """Of each trained token by a loop: sequence, position, column, token, log-prob, version."""
    found = []
    for s, (prompt, episode) in enumerate((g.prompt, e) for g in groups for e in g.episodes):
        column, position = len(prompt.token_ids), 0
        for part in episode.segments:
            drawn_by = [version for version, n in part.versions for _ in range(n)]
            for i, token in enumerate(part.token_ids.tolist()):
                if part.trained:
                    found.append((s, position, column, token, -token, drawn_by[i]))
                    position += 1
                column += 1
    return found


@QUICK
@given(world=worlds)
def test_every_trained_token_is_at_its_column(world):
    groups = built(world)
    batch = pack(groups, None, PAD)
    columns = (batch.seq_ids, batch.positions, batch.columns, batch.tokens, batch.sampler_logp, batch.versions)
    assert list(zip(*(c.tolist() for c in columns), strict=True)) == expected(groups)
    whole = [[*g.prompt.token_ids, *(t for part in e.segments for t in part.token_ids.tolist())] for g in groups for e in g.episodes]
    width = max(map(len, whole))
    assert batch.input_ids.tolist() == [ids + [PAD] * (width - len(ids)) for ids in whole]
    assert batch.totals.tolist() == [len(ids) for ids in whole]
    assert batch.lengths.tolist() == torch.bincount(batch.seq_ids).tolist()
    assert batch.first_columns.tolist() == [column for _, position, column, *_ in expected(groups) if position == 0]


@QUICK
@given(world=worlds, micro_tokens=st.integers(1, 60), data=st.data())
def test_a_selection_is_what_its_episodes_pack_to(world, micro_tokens, data):
    """By samples that were dropped, by `select`, and by micro-batches of any size."""
    groups = built(world)
    total = sum(len(g.episodes) for g in groups)
    values = np.arange(total, dtype=np.float32)
    rewards = Rewards(values=values, parts={"right": 2 * values})
    whole = pack(groups, rewards, PAD)
    kept = sorted(data.draw(st.sets(st.integers(0, total - 1), min_size=1)))
    dropped = np.where(np.isin(np.arange(total), kept), values, np.nan).astype(np.float32)
    same(whole.select(torch.tensor(kept)), pack(groups, replace(rewards, values=dropped), PAD))
    tokens = []
    for chosen, micro in micro_batches(whole, micro_tokens):
        assert torch.equal(micro.tokens, whole.tokens[chosen]) and torch.equal(micro.columns, whole.columns[chosen])
        assert micro.input_ids.shape[1] == micro.totals.max()
        tokens += chosen.tolist()
    assert sorted(tokens) == list(range(len(whole.seq_ids)))


def same(found: TokenBatch, packed: TokenBatch) -> None:
    """But for the numbers of groups, which a packing makes anew."""
    for field in fields(TokenBatch):
        one, other = getattr(found, field.name), getattr(packed, field.name)
        if field.name == "reward_parts":
            assert torch.equal(one["right"], other["right"])
        elif isinstance(one, Tensor) and field.name != "group_ids":
            assert torch.equal(one, other), field.name
        elif field.name != "group_ids":
            assert one == other, field.name
    assert torch.equal(torch.unique(found.group_ids, return_inverse=True)[1], packed.group_ids)
