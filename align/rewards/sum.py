from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import fsum
from typing import Any

from align.config.nodes import part
from align.config.parts import Setting
from align.rewards import Answer, Reward, start_reward
from align.rewards._summed import Summed, SummedTogether, combined
from align.types import Prompt


@dataclass(frozen=True)
class Sum(Reward):
    """A weighted sum of several rewards, each logged and kept by its name: `{rewards: {exact: countdown_exact}, weights: {exact: 2}}`.

    The named rewards are `batch.reward_parts`, which `advantage: gdpo` and `worst_case_rewards` read; parts of a part are logged as
    NAME/PART. Steps of process rewards are weighed as their reward is. An answer of which one reward fails has failed, and all of them
    together have `reward_limits.seconds`. The final answer of a response is what the first reward that looks for one finds.
    """

    rewards: Any = part("reward", many=True)
    """Rewards by names of your choice."""
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    """By name; 1 where none is given. With a weight of 0 a reward is measured alone."""

    def __post_init__(self):
        if not self.rewards:
            raise ValueError("rewards must name at least one: rewards: {exact: countdown_exact}")
        if unknown := self.weights.keys() - self.rewards.keys():
            raise ValueError(f"weights names {', '.join(sorted(unknown))}, and the rewards are {', '.join(self.rewards)}")
        if not any(self._weights().values()):
            raise ValueError(
                "weights are all 0, so every answer has the reward 0: give another weight to what is to be earned, or leave weights out"
            )
        if bad := next((name for name in self.rewards if "/" in name), None):
            raise ValueError(f"rewards has one called {bad!r}, and a slash separates a reward from its own parts: choose another name")
        if taken := {"total", "mean", "std", "failed"} & self.rewards.keys():
            raise ValueError(f"rewards has one called {', '.join(sorted(taken))}, a metric of every run: choose another name")

    @property
    def part_names(self) -> tuple[str, ...]:
        return tuple(self.rewards)

    @property
    def required_fields(self) -> Collection[str]:
        """Of all its rewards."""
        return tuple(dict.fromkeys(field for reward in self.rewards.values() for field in reward.required_fields))

    @property
    def own_seconds(self) -> float:
        """Of all its rewards, which judge one after the other."""
        return fsum(reward.own_seconds for reward in self.rewards.values())

    def refuse(self, setting: Setting) -> str | None:
        limit = setting.recipe.reward_limits.seconds
        if self.own_seconds < limit:
            return None
        limited = " + ".join(f"{name} {reward.own_seconds:g}" for name, reward in self.rewards.items() if reward.own_seconds)
        return (
            f"the time limits of its rewards ({limited}) must together be below reward_limits.seconds {limit:g}, or a slow answer fails "
            f"instead of counting 0: lower `seconds` of a reward, or set reward_limits.seconds above {self.own_seconds:g}"
        )

    def refuse_row(self, fields: Mapping[str, Any]) -> str | None:
        return next((reason for reward in self.rewards.values() if (reason := reward.refuse_row(fields)) is not None), None)

    @property
    def finds_answers(self) -> bool:
        return any(reward.finds_answers for reward in self.rewards.values())

    def final_answer(self, response: str) -> str | None:
        finder = next((reward for reward in self.rewards.values() if reward.finds_answers), None)
        return super().final_answer(response) if finder is None else finder.final_answer(response)

    def start(self) -> Reward:
        running = {name: start_reward(reward) for name, reward in self.rewards.items()}
        together = any(reward.batched for reward in running.values())
        return (SummedTogether if together else Summed)(running, self._weights())

    def score(self, prompt: Prompt, response: str) -> Answer:
        """Starts its rewards for this call; what `start` returns keeps them."""
        return combined({name: start_reward(r).score(prompt, response) for name, r in self.rewards.items()}, self._weights())

    def _weights(self) -> Mapping[str, float]:
        return {name: self.weights.get(name, 1.0) for name in self.rewards}
