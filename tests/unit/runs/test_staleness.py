"""How old the weights are that drew a batch, and the bytes it costs on its way to the learner: what a run's metrics say of both."""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.models import tiny_model

from align.config import recipes
from align.experience.packing import pack
from align.train import train
from align.types import Episode, Group, Prompt, Rewards, TokenBatch
from align.workers.exchange import Exchange, bytes_of, changes

LATE = """
from align.engines.transformers import RunningTransformers, Transformers

class Late(Transformers):
    def start(self, *given):
        return RunningLate(self, *given)

class RunningLate(RunningTransformers):
    def load(self, version, weights):
        if version % 3 == 0:
            super().load(version, weights)
"""


def steps(folder: Path, engine: str) -> list[dict]:
    model = tiny_model(folder / "start")
    train(
        recipes.build(
            {
                "steps": 5,
                "task": "countdown",
                "reward": "countdown_wordy",
                "engine": engine,
                "algorithm": "grpo",
                "max_engine_gap": 10.0,
                "regularizers": {"kl": {"estimator": "exact", "coefficient": 0.1}},
                "model": {"path": str(model)},
                "batch": {"prompts": 4, "samples": 4},
                "sampling": {"max_tokens": 8},
                "workers": {"backend": "local"},
                "evaluation": {"every": -1},
            }
        ),
        folder / "run",
    )
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss/policy" in line]


def test_an_engine_that_loads_every_third_version_is_seen(tmp_path: Path):
    (tmp_path / "late.py").write_text(LATE)
    assert [line["rollout/staleness"] for line in steps(tmp_path, f"{tmp_path}/late.py:Late")] == [0, 1, 2, 0, 1]


def test_an_engine_that_loads_all_is_up_to_date(tmp_path: Path):
    lines = steps(tmp_path, "transformers")
    assert [line["rollout/staleness"] for line in lines] == [0] * 5
    assert all(line["bytes/to_learner"] > line["bytes/from_learner"] > 0 for line in lines)
    assert max(line["bytes/to_learner"] for line in lines) < 2 * min(line["bytes/to_learner"] for line in lines), "a step's own"


def test_a_batch_has_the_version_of_each_token():
    prompt = Prompt(id="0", text="", token_ids=(1, 2))
    drawn = [
        Episode.single_turn(np.ones(n, np.int32), "", logp=np.zeros(n, np.float32), version=version)
        for n, version in ((1, 4), (3, 5), (2, 3))
    ]
    groups = [Group(prompt=prompt, episodes=tuple(drawn))]
    batch = pack(groups, Rewards(values=np.array([1.0, np.nan, 0.0], np.float32)))
    assert batch.versions.tolist() == [4, 3, 3] and batch.versions.dtype == torch.int64
    shown = Episode.single_turn(np.ones(1, np.int32), "")
    assert pack([Group(prompt=prompt, episodes=(shown,))], None).versions is None


def batch() -> TokenBatch:
    prompt = Prompt(id="0", text="", token_ids=(1, 2))
    drawn = tuple(Episode.single_turn(np.ones(300, np.int32), "", np.zeros(300, np.float32)) for _ in range(3))
    return pack([Group(prompt=prompt, episodes=drawn)], None)


def test_both_sides_build_the_same_batch_and_send_each_field_once():
    """The learner's side adds one field, the driver's another; the driver's last batch was not scored at all."""
    exchange, sent = Exchange(), batch()
    there = TokenBatch(**exchange.to_compute(sent))
    scored_there = replace(there, old_logp=torch.ones(900), rows=(0, 1, 2))
    scored = exchange.computed(sent, changes(there, scored_there))
    prepared = replace(scored, advantages=torch.full((900,), 2.0))
    found, onto = exchange.update(prepared)
    assert onto and found.keys() == {"advantages"}
    built = replace(scored_there, **found)
    assert all(getattr(built, f.name) is getattr(prepared, f.name) for f in fields(TokenBatch))
    taken = exchange.take()
    assert taken["bytes/to_learner"] == bytes_of(changes(None, sent)) + 3600 + len("advantages")
    assert taken["bytes/from_learner"] == 3600 + len("old_logp") + 3 * 8 + len("rows")
    assert exchange.take() == {"bytes/to_learner": 0, "bytes/from_learner": 0}
    other = batch()
    assert exchange.update(other)[0].keys() >= {"input_ids", "lengths", "seq_ids"}


def test_after_a_call_that_failed_a_batch_is_sent_whole():
    exchange, sent = Exchange(), batch()
    exchange.computed(sent, {})
    exchange.to_compute(sent)
    assert exchange.update(sent) == (changes(None, sent), False)


@pytest.mark.parametrize("size", [0, 1000])
def test_bytes_are_those_of_the_storage(size: int):
    tensor = torch.zeros(size)
    assert bytes_of(tensor) == bytes_of(tensor[: size // 2]) == 4 * size
