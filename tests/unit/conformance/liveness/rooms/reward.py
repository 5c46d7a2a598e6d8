from __future__ import annotations

from typing import Any

import torch

from align.types import Episode, Group, Prompt
from liveness import Change

REQUIRED = {"learned": {"path": "{scorer}"}, "sum": {"rewards": {"exact": "countdown_exact", "long": "countdown_wordy"}}}
CHANGES = {
    ("learned", "path"): Change("{other_scorer}"),
    ("learned", "gold"): Change("countdown_wordy"),
    ("learned", "max_batch"): Change(3),
    ("sum", "rewards"): Change({"exact": "countdown_exact"}),
    ("sum", "weights"): Change({"long": 0.5}),
    ("learned", "dtype"): Change("bfloat16"),
}


def probe(part: Any, **_) -> Any:
    prompt = Prompt(id="0", text="", token_ids=(1,), fields={"skill": "countdown", "numbers": [1, 2, 3, 4], "target": 10, "answer": "3"})
    answers, sizes = ("1+2+3+4", "10", "3", "12=10"), []
    reward = part.start()
    if reward.batched:
        reward._model.register_forward_pre_hook(lambda model, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True)
    group = Group(prompt=prompt, episodes=tuple(Episode.single_turn(torch.ones(1).int().numpy(), a) for a in answers))
    return [reward.score_groups([group]), sizes]
