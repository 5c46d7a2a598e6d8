"""What a resumed run of PPO goes on from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.interrupted import stopped_at
from torch import Tensor
from unit.ppo.learner import critic, make, node, parameters

from align.config import recipes
from align.errors import UserError
from align.learner.learner import Learner
from align.train import train


def start(folder: Path, out: Path, resume: bool = False, **changes) -> list[dict]:
    train(
        recipes.build(
            node(
                folder,
                **{
                    "task": {"name": "countdown", "size": 32},
                    "reward": "countdown_wordy",
                    "engine": "transformers",
                    "batch": {"prompts": 4, "samples": 3},
                    "checkpoint": {"every": 2},
                }
                | changes,
            )
        ),
        out,
        resume=resume,
    )
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def state(folder: Path, out: Path, **changes) -> dict[str, Tensor]:
    """Trained parameters, the critic's too, and Adam's moments after the last step."""
    made = Learner(recipes.build(node(folder, **changes)), str(folder))
    made.load(str(out / "checkpoints" / "step_000004" / "learner"))
    moments = {f"{n}/{key}": made.optimizer.state[p][key] for n, p in made.trained() for key in ("exp_avg", "exp_avg_sq")}
    return parameters(made) | moments


@pytest.mark.parametrize("kind", ["shared", "separate", "lora"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(kind: str, folder: Path, tmp_path: Path, monkeypatch):
    options = critic(kind, epochs=2, minibatches=2)
    whole = start(folder, tmp_path / "whole", **options)
    with stopped_at(3, monkeypatch):
        start(folder, tmp_path / "parts", **options)
    assert [p.name for p in (tmp_path / "parts" / "checkpoints").glob("*")] == ["step_000002"]
    parts = start(folder, tmp_path / "parts", resume=True, **options)
    timing = ("time", "memory", "tokens/s", "sync")
    for a, b in zip(whole, parts, strict=True):
        assert {k: v for k, v in a.items() if not k.startswith(timing)} == {k: v for k, v in b.items() if not k.startswith(timing)}
    one, other = state(folder, tmp_path / "whole", **options), state(folder, tmp_path / "parts", **options)
    assert any(n.startswith("critic.") for n in one)
    assert all(torch.equal(p, other[n]) for n, p in one.items())
    told = whole[-1].keys()
    assert {"critic/explained_variance", "critic/loss", "critic/clipped", "ratio/clipped", "ratio/mean", "divergence/kl", "beta/kl"} <= told
    assert len(whole) == 4 and all(line["critic/loss"] > 0 for line in whole)
    assert not [f for f in (tmp_path / "whole" / "model").rglob("*.safetensors") if b"critic." in f.read_bytes()]


def test_a_checkpoint_with_another_critic_is_refused(folder: Path, tmp_path: Path):
    make(folder, **critic("shared")).save(str(tmp_path / "checkpoint"))
    with pytest.raises(UserError, match="does not fit this recipe's model"):
        make(folder, **critic("separate")).load(str(tmp_path / "checkpoint"))
