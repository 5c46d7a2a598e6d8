"""The data that flows through a step: frozen, every field with its shape and unit.

Legend: S sequences (a prompt and its episode) in the batch, T trained tokens of all sequences packed end to end, L columns of the
padded input, H hidden size. Log-probabilities are in nats, of the distribution after temperature.

Three policies, never fewer: `sampler_logp` (mu, the engine that generated), `old_logp` (pi_old, the trainer's weights when
the batch was drawn) and, inside the learner, `logp` (pi_theta).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from itertools import accumulate
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from align.played import Played
from align.tensor_fields import each, joined, moved, taken
from align.undeclared import undeclared


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One question, tokenized once; completions are never tokenized again.

    Example:
        >>> Prompt(id="7", text="1+1=", token_ids=(3, 5, 3, 9), fields={"answer": "2"}).fields["answer"]
        '2'
    """

    id: str
    """Stable over epochs and processes; seeds and groups are derived from it."""
    text: str
    token_ids: tuple[int, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What the reward needs to judge an answer (JSON values only)."""
    messages: tuple[Mapping[str, Any], ...] = ()
    """The turns that a chat template wrote `text` from, for a reward model with its own template; empty where `text` is the prompt."""
    template: Mapping[str, Any] = field(default_factory=dict)
    """What the template reads beside the turns, such as `tools`."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Consecutive tokens of one role in an episode. Raises ValueError where log-probs or version spans do not fit the tokens.

    Example:
        >>> tool = Segment(role="tool", token_ids=np.int32([8, 8]), trained=False)
        >>> Segment(role="assistant", token_ids=np.int32([5, 2]), trained=True, logp=np.float32([-0.3, -0.1]), versions=((4, 1),))
        Traceback (most recent call last):
        ValueError: the version spans of a segment cover 1 tokens, and it has 2 log-probs
    """

    role: str
    """As a chat template has it: `assistant`, `tool`, `user`, `system`."""
    token_ids: np.ndarray
    """int32 [n]; of an answer with its end token if it has one."""
    trained: bool
    """Whether the policy learns these tokens. Others are context for the tokens behind them: a tool's output, a later question."""
    logp: np.ndarray | None = None
    """float32 [n], log mu of each token in nats, after temperature; None where no engine drew them."""
    versions: tuple[tuple[int, int], ...] = ()
    """Spans (version, count) in order: the weights that drew the next `count` tokens, by the steps that came before them. Where there
    is `logp` the counts add up to n; else ()."""

    def __post_init__(self):
        n = len(self.token_ids)
        if self.logp is not None and len(self.logp) != n:
            raise ValueError(f"a segment of {n} tokens has {len(self.logp)} log-probs")
        if any(count < 1 for _, count in self.versions):
            raise ValueError(f"each version span of a segment covers at least one token: {self.versions}")
        spanned = sum(count for _, count in self.versions)
        if spanned != (0 if self.logp is None else n):
            drawn = "no log-probs" if self.logp is None else f"{n} log-probs"
            raise ValueError(f"the version spans of a segment cover {spanned} tokens, and it has {drawn}")


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One answer to a prompt, as the engine drew it (or as a dataset demonstrates it): the segments behind the prompt.

    The first segment of every episode is its group's `Prompt`, which is never trained. The group holds it once: no ids are copied, and
    episodes whose rewards are compared cannot differ in it. A single-turn episode has one segment more, the answer.

    Raises ValueError where some trained segments have log-probs and others have none.

    Example:
        >>> episode = Episode.single_turn(np.int32([5, 2]), "2", logp=np.float32([-0.3, -0.1]), version=4)
        >>> episode.length, episode.versions.tolist()
        (2, [4, 4])
    """

    segments: tuple[Segment, ...]
    """Behind the prompt, in order."""
    text: str
    """What a reward judges: all of `segments`, decoded without special tokens; with `played` the last answer alone."""
    finished: bool = True
    """The last answer ended by the end token; False when cut at the length limit."""
    label: bool | None = None
    """What the data say of it, where they label answers: good or bad. None beside labelled ones: an answer to another prompt."""
    played: Played | None = None
    """What its environment made of it; None without one."""

    def __post_init__(self):
        if len({s.logp is None for s in self._trained}) > 1:
            raise ValueError("some trained segments of an episode have log-probs and others have none")

    @classmethod
    def single_turn(
        cls, token_ids: np.ndarray, text: str, logp: np.ndarray | None = None, version: int = 0, finished: bool = True
    ) -> Episode:
        """One answer, all of it trained. Args: token_ids: int32 [n]; logp: float32 [n], None for a demonstration."""
        versions = () if logp is None else ((version, len(token_ids)),)
        answer = Segment(role="assistant", token_ids=token_ids, trained=True, logp=logp, versions=versions)
        return cls(segments=(answer,), text=text, finished=finished)

    @property
    def _trained(self) -> list[Segment]:
        return [s for s in self.segments if s.trained]

    @property
    def length(self) -> int:
        """The number of trained tokens."""
        return sum(len(s.token_ids) for s in self._trained)

    @property
    def response_ids(self) -> np.ndarray:
        """int32, every token behind the prompt, trained or not."""
        return joined([s.token_ids for s in self.segments], np.int32)

    @property
    def trained_ids(self) -> np.ndarray:
        """int32 [length]."""
        return joined([s.token_ids for s in self._trained], np.int32)

    @property
    def trained_at(self) -> np.ndarray:
        """int64 [length], the index of each trained token in `response_ids`."""
        ends = accumulate(len(s.token_ids) for s in self.segments)
        return joined([np.arange(end - len(s.token_ids), end) for s, end in zip(self.segments, ends, strict=True) if s.trained], np.int64)

    @property
    def sampler_logp(self) -> np.ndarray | None:
        """float32 [length], log mu of the trained tokens in nats; None for a demonstration."""
        logp = [s.logp for s in self._trained if s.logp is not None]
        return None if len(logp) < len(self._trained) else joined(logp, np.float32)

    @property
    def versions(self) -> np.ndarray:
        """int64 [length], the version of the weights that drew each trained token; empty for a demonstration."""
        spans = np.array([span for s in self._trained for span in s.versions], np.int64).reshape(-1, 2)
        return np.repeat(spans[:, 0], spans[:, 1])


@dataclass(frozen=True, kw_only=True)
class Group:
    """All episodes of one prompt in one batch.

    Example:
        >>> right, wrong = (Episode.single_turn(np.int32([token, 2]), text) for token, text in ((5, "2"), (6, "3")))
        >>> Group(prompt=Prompt(id="7", text="1+1=", token_ids=(3, 5, 3, 9)), episodes=(right, wrong)).episodes[1].text
        '3'
    """

    prompt: Prompt
    episodes: tuple[Episode, ...]


@dataclass(frozen=True, kw_only=True)
class Rewards:
    """What the reward workers answered for a list of groups, one entry an episode in their order.

    Example: two answers; the first earns 0.25 of its reward at its third character, and the second is too long.
        >>> parts = {"correct": np.float32([1, 1]), "length": np.float32([0, -0.5])}
        >>> Rewards(values=np.float32([1, 0.5]), parts=parts, step_rewards=(((2, 0.25),), ())).values.tolist()
        [1.0, 0.5]
    """

    values: np.ndarray
    """float32 [S]; NaN where the sample is to be dropped."""
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Named components, float32 [S] each."""
    step_rewards: tuple[tuple[tuple[int, float], ...], ...] = ()
    """Of each episode the parts of its value that are paid inside the answer: (character, reward). Empty: all is paid at the last token."""
    turn_rewards: tuple[tuple[float, ...], ...] = ()
    """Of each episode the parts of its value that its environment paid, each at the end of a turn. Empty: it paid none."""
    failed: int = 0
    """Samples whose reward raised or ran out of time."""
    first_failure: str | None = None


@dataclass(frozen=True, kw_only=True)
class RewardPenalty:
    """What a regularizer takes from token rewards, so that a critic learns it too.

    Example: a penalty of 0.1 nats at the second token: the first token's return has it too, and its own advantage has not.
        >>> RewardPenalty(discounted=torch.tensor([0.0, 0.1]), direct=torch.zeros(2)).direct.tolist()
        [0.0, 0.0]
    """

    discounted: Tensor
    """float32 [T], nats: taken from the reward of each token, for which that token and those before it answer."""
    direct: Tensor
    """float32 [T], nats: taken from each token's own advantage alone."""


def by(axis: str, default: Any = MISSING) -> Any:
    """A field of a batch with one entry for each trained token, `T`, or each sequence, `S`; `select` reads it. `dict`: tensors by name."""
    if default is dict:
        return field(default_factory=dict, metadata={"axis": axis})
    return field(default=default, metadata={"axis": axis})


@dataclass(frozen=True, kw_only=True)
class TokenBatch:
    """A batch ready for the learner. Trained tokens, named by `columns`, are packed to [T]; inputs are right-padded [S, L].

    Example: after prompts of 2 tokens (7, 7) an answer of 3 tokens, and an answer of 1, a tool's output of 2 (8, 8) and 1 token more.
        >>> batch = TokenBatch(
        ...     input_ids=torch.tensor([[7, 7, 1, 2, 3, 0], [7, 7, 4, 8, 8, 5]]),
        ...     totals=torch.tensor([5, 6]), lengths=torch.tensor([3, 2]), group_ids=torch.tensor([0, 1]),
        ...     seq_ids=torch.tensor([0, 0, 0, 1, 1]), positions=torch.tensor([0, 1, 2, 0, 1]), columns=torch.tensor([2, 3, 4, 2, 5]),
        ... )
        >>> batch.tokens.tolist(), batch.select(torch.tensor([1])).tokens.tolist()
        ([1, 2, 3, 4, 5], [4, 5])
    """

    input_ids: Tensor
    """int64 [S, L], the prompt and what followed, right-padded (causal attention never looks at the padding)."""
    totals: Tensor = by("S")
    """int64 [S], the input columns that are no padding."""
    lengths: Tensor = by("S")
    """int64 [S], trained tokens, at least 1."""
    seq_ids: Tensor
    """int64 [T], the sequence each trained token belongs to, increasing."""
    positions: Tensor = by("T")
    """int64 [T], the index of each token among the trained ones of its sequence, from 0."""
    columns: Tensor = by("T")
    """int64 [T], the column of `input_ids` that holds each token, at least 1, increasing within a sequence."""
    group_ids: Tensor = by("S")
    """int64 [S]."""
    rows: tuple[int, ...] = by("S", ())
    """[S], each sequence's place in the batch that was scored: what the learner keeps of a sequence is found by it."""
    versions: Tensor | None = by("T", None)
    """int64 [T], the version of the weights that drew each token; None where nothing was drawn."""
    prompt_ids: tuple[str, ...] = by("S", ())
    """[S], `Prompt.id` of each sequence: what a coefficient keeps a multiplier for."""
    rewards: Tensor | None = by("S", None)
    """float32 [S]."""
    reward_parts: Mapping[str, Tensor] = by("S", dict)
    """float32 [S] by name, what the reward says its value is made of; NaN where the reward of a sequence has no such part."""
    labels: Tensor | None = by("S", None)
    """int64 [S], of labelled answers: 1 good, 0 bad, -1 an answer to another prompt. None for other data."""
    score_baselines: Tensor | None = by("S", None)
    """float32 [S], detached, in units of the link's score: what the score of a labelled answer is compared with."""
    step_rewards: Tensor | None = by("T", None)
    """float32 [T], the part of an answer's reward that is paid at each of its tokens; None: all of it at the last."""
    sampler_logp: Tensor | None = by("T", None)
    """float32 [T]."""
    teacher_logp: Tensor | None = by("T", None)
    """float32 [T], nats, of a demonstration's tokens under the model that the data name as teacher; None where rows have no such field."""
    old_logp: Tensor | None = by("T", None)
    """float32 [T]; None when the first forward pass of the update is itself pi_old."""
    entropy: Tensor | None = by("T", None)
    """float32 [T], of pi_old, nats; beside old_logp."""
    ref_logp: Mapping[str, Tensor] = by("T", dict)
    """float32 [T] by regularizer, log ref of the sampled tokens. Of an exact form it is there before an update only where a part `needs`
    it; inside the update it always is."""
    advantages: Tensor | None = by("T", None)
    """float32 [T], detached; the learner takes the reward-placed regularizers from them at every update."""
    values: Tensor | None = by("T", None)
    """float32 [T], the critic's V of the state before each token, when the batch was drawn."""
    returns: Tensor | None = by("T", None)
    """float32 [T], detached: what the critic is fitted to."""
    reward_penalties: Mapping[str, RewardPenalty] = by("T", dict)
    """By reward-placed regularizer, where the algorithm has a critic: what it takes, beta included, at pi_old."""
    loss_weights: Tensor | None = by("T", None)
    """float32 [T], the reduction: the loss is sum_t loss_weights_t * loss_t, on any split of the batch."""
    own_weights: Tensor | None = by("T", None)
    """float32 [T], >= 0, the algorithm's loss weighting: it multiplies `loss_weights` for the algorithm's own loss; None: 1."""
    examples: int = 0
    """Sequences of the update that this is a part of, set with `loss_weights`: `examples` times a sequence's share of the loss is its
    own loss."""
    penalty_weights: Mapping[str, Tensor] = by("T", dict)
    """float32 [T] by regularizer: its weighting, detached, >= 0."""
    betas: Mapping[str, float] = field(default_factory=dict)
    """By regularizer: the coefficient of this batch."""
    multipliers: Mapping[str, Tensor] = by("S", dict)
    """float32 [S], >= 0, by regularizer whose coefficient has one for each prompt: beta times this is the coefficient of a sequence."""
    algorithm_state: Mapping[str, Any] = field(default_factory=dict)
    """What the algorithm remembers of the batches before (see Algorithm.state_for)."""
    step: int = 0
    """The batch's number in the run, from 0: what a schedule or a seed of a shaping goes by."""
    contexts: Mapping[str, Tensor] = by("T", dict)
    """float32 [T] by shaping that asks for it: the divergence, at each state, of pi_old after the prompt from pi_old after another."""
    shaped: Mapping[str, float] = field(default_factory=dict)
    """What each shaping did to the batch, by metric name, for the log."""

    def only(self, needs: frozenset[str] | None, part: object, where: str = "") -> Columns:
        """The batch as this part sees it, which stands at the key `where`: using one of `EARLY` that is not in `needs` raises RecipeError.

        None is a part of a kind that can declare none.
        """
        hidden = {name: undeclared(name, needs, type(part), where) for name in EARLY - (needs or frozenset())}
        return Columns(**{f.name: getattr(self, f.name) for f in fields(self)} | hidden)

    @property
    def tokens(self) -> Tensor:
        """int64 [T], the trained tokens themselves."""
        return self.input_ids[self.seq_ids, self.columns]

    @property
    def first_columns(self) -> Tensor:
        """int64 [S], the column of the first trained token; single-turn, the length of the prompt."""
        return self.columns[self.positions == 0]

    def select(self, sequences: Tensor) -> Self:
        """The sub-batch of these sequences (int64 [s], increasing). Padding columns that none of them uses are cut."""
        of_axis = {"S": sequences, "T": self.tokens_of(sequences)}
        known = [(f.name, of_axis[f.metadata["axis"]]) for f in fields(self) if "axis" in f.metadata]
        changes = {name: each(lambda t, at=at: taken(t, at), getattr(self, name)) for name, at in known}
        width = int(self.totals[sequences].max())
        seq_ids = torch.arange(len(sequences)).repeat_interleave(self.lengths[sequences])
        return replace(self, input_ids=self.input_ids[sequences, :width], seq_ids=seq_ids, **changes)

    def tokens_of(self, sequences: Tensor) -> Tensor:
        """Indices in [T] of the trained tokens of these sequences (int64 [s], increasing). The cost is theirs, not the batch's."""
        lengths = self.lengths[sequences]
        starts = (self.lengths.cumsum(0) - self.lengths)[sequences]
        return torch.arange(int(lengths.sum())) + (starts - lengths.cumsum(0) + lengths).repeat_interleave(lengths)

    def to(self, device: torch.device) -> Self:
        """The same batch there; itself where it is there already."""
        if self.input_ids.device == device:
            return self
        return replace(self, **{f.name: each(lambda t: moved(t, device), getattr(self, f.name)) for f in fields(self)})


class Columns(TokenBatch):
    """What a part sees of a batch: of `EARLY` its `needs`, where another raises RecipeError. The annotations only narrow types.

    Example: a weighting gets `batch: Columns`, made by `only`.
        >>> class Mine:
        ...     needs = frozenset({"rewards"})
        >>> one = {name: torch.tensor([1]) for name in ("totals", "lengths", "positions", "columns", "group_ids", "rewards")}
        >>> batch = TokenBatch(input_ids=torch.tensor([[7, 1]]), seq_ids=torch.tensor([0]), **one).only(Mine.needs, Mine(), "weighting")
        >>> batch.rewards.tolist(), batch.advantages
        ([1], <advantages, which is not declared>)
    """

    rewards: Tensor
    old_logp: Tensor
    entropy: Tensor
    advantages: Tensor
    values: Tensor


EARLY = frozenset({"old_logp", "entropy", "ref_logp", "rewards", "reward_parts", "advantages", "values"})
"""What a part may declare in `needs` of a batch that no update has seen."""
REWARDED = frozenset({"rewards", "reward_parts", "advantages"})
"""Those of `EARLY` that demonstrations and rankings do not have."""


@dataclass(frozen=True, kw_only=True)
class Stat:
    """A mean that is added up over micro-batches and steps, then divided.

    Example:
        >>> (Stat(sum=3, count=2) + Stat(sum=1, count=2)).mean
        1.0
    """

    sum: float
    count: float
    by_prompt: Mapping[str, Stat] = field(default_factory=dict)
    """The same by prompt, where a coefficient has multipliers."""

    def __add__(self, other: Stat) -> Stat:
        shared = {p: s + self.by_prompt[p] for p, s in other.by_prompt.items() if p in self.by_prompt}
        return Stat(sum=self.sum + other.sum, count=self.count + other.count, by_prompt={**self.by_prompt, **other.by_prompt, **shared})

    @property
    def mean(self) -> float:
        return self.sum / self.count if self.count else float("nan")
