"""A task: prompts to train on, held-out problems, and metrics of the answers to these.

Check it with `align check ./skeleton.py:Skeleton`. In a recipe:

    task: "./skeleton.py:Skeleton"
"""

from collections.abc import Mapping, Sequence

from align.tasks import Example, Task
from align.types import Group


class Skeleton(Task):
    """Sums of two numbers. The same keys give the same examples in every process."""

    largest: int = 20

    def __post_init__(self):
        if self.largest < 1:
            raise ValueError(f"largest must be at least 1, not {self.largest}")

    def examples(self) -> Sequence[Example]:
        """The training examples. `fields` are read by the reward; `answer` is a demonstration, which sft alone needs."""
        return [self._sum(a, b) for a in range(self.largest) for b in range(self.largest)]

    def suites(self, problems: int) -> Mapping[str, Sequence[Example]]:
        """Held-out problems by the name of their suite, at most `problems` each; none of them is an example."""
        return {"sums": [self._sum(self.largest + i, 1) for i in range(problems)]}

    def _sum(self, a: int, b: int) -> Example:
        return Example(id=f"{a}+{b}", text=f"{a}+{b}=", answer=str(a + b), fields={"answer": str(a + b)})

    def judge(self, suite: str, groups: Sequence[Group]) -> dict[str, float]:
        """Metrics of the answers to a suite, by name; a group has the answers to one prompt."""
        right = [e.text.strip() == g.prompt.fields["answer"] for g in groups for e in g.episodes]
        return {"pass@1": sum(right) / len(right)}
