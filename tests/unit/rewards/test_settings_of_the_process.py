"""What a reward sets for the whole process is set back: the learner may be in the same process."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from align.config.schema import RewardLimits
from align.rewards import Reward
from align.types import Episode, Group, Prompt
from align.workers.reward_runner import run_rewards


class Careless(Reward):
    """Sets what others read, and may fail after it."""

    def score(self, prompt, response):
        os.chdir("/")
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.manual_seed(7)
        return 1.0 if response == "right" else 1 / 0


@pytest.mark.parametrize("text", ["right", "wrong"])
def test_a_reward_changes_no_setting_of_the_process(text: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(3)
    drawn = torch.get_rng_state()
    try:
        group = Group(prompt=Prompt(id="1", text="", token_ids=(1,)), episodes=(Episode.single_turn(np.zeros(1, np.int32), text),))
        found = run_rewards(Careless(), RewardLimits(seconds=5.0), [group])
        assert found.failed == (text == "wrong")
        assert Path.cwd() == tmp_path and torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()
        assert torch.equal(torch.get_rng_state(), drawn)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
