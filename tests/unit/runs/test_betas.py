"""The coefficient of a step is that step's own: of its number, and of the divergences measured before it."""

import json
from pathlib import Path

import pytest
from helpers.models import tiny_model
from unit.learner.small import node

from align.config import recipes
from align.train import train

ADAPTIVE = {"name": "adaptive", "target": 1e-4, "initial": 0.5, "horizon": 100.0}
LINEAR = {"name": "linear", "start": 0.4, "end": 0.1, "steps": 3}


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("betas")
    tiny_model(folder / "model")
    regularizers = {
        "scheduled": {"coefficient": LINEAR, "estimator": "exact"},
        "followed": {"coefficient": ADAPTIVE, "estimator": "exact", "divergence": "forward_kl"},
    }
    train(recipes.build(node(folder / "model", regularizers=regularizers)), folder / "run")
    return [json.loads(line) for line in Path(folder / "run" / "metrics.jsonl").read_text().splitlines()]


def test_a_schedule_is_read_at_the_step_itself(rows):
    assert [row["beta/scheduled"] for row in rows] == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_a_controller_has_seen_every_step_before(rows):
    expected = [0.5]
    for row in rows[:-1]:
        error = min(max(row["divergence/followed"] / 1e-4 - 1, -0.2), 0.2)
        expected.append(expected[-1] * (1 + error * 12 / 100))
    found = [row["beta/followed"] for row in rows]
    assert found == pytest.approx(expected) and len(set(found)) == 4


@pytest.mark.parametrize("name", ["scheduled", "followed"])
def test_the_beta_of_the_loss_is_the_one_that_is_logged(rows, name):
    """The token mean of the penalty: its sum over an answer, over the mean length."""
    for row in rows:
        value = row[f"divergence/{name}"] / row["response/length"]
        assert row[f"loss/reg/{name}"] == pytest.approx(row[f"beta/{name}"] * value, rel=1e-4, abs=1e-12)
