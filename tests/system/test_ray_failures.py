"""What ends a run on a private cluster, and how it is told: a learner that hangs, and a cluster whose head dies."""

import threading
import time
from pathlib import Path

import pytest
from helpers.bandit_run import node
from helpers.models import tiny_model
from helpers.paths import PLUGINS
from safetensors.torch import load_file
from torch import equal

from align.config import recipes
from align.config.schema import Recipe
from align.run import watchdog
from align.run.ending import ending
from align.train import train


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def recipe(model: Path, order: Path, **changes) -> Recipe:
    hanging = {"divergence": {"name": f"{PLUGINS / 'hanging.py'}:Hanging", "order": str(order)}, "coefficient": 0.1}
    return recipes.build(node(model, regularizers={"kl": hanging}, steps=6, checkpoint={"every": 1}, **changes))


def lines(run: Path) -> int:
    file = run / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.is_file() else 0


def test_a_learner_that_hangs_in_an_update_is_ended_and_the_run_resumed(model: Path, tmp_path: Path, monkeypatch):
    for name, value in (("SLOW_SECONDS", 0.5), ("HANGS_SECONDS", 2.0), ("HANGS", 3.0), ("INTERVAL", 0.1)):
        monkeypatch.setattr(watchdog, name, value)
    order, run, told = tmp_path / "order", tmp_path / "run", []

    def hang():
        while lines(run) < 2:
            time.sleep(0.01)
        order.touch()

    threading.Thread(target=hang, daemon=True).start()
    wanted = recipe(model, order, workers={"cpus": 0.1})
    with pytest.raises(SystemExit) as end, ending(run, "align train mine --resume", told.append):
        train(wanted, run)
    assert end.value.code == 2 and not order.exists(), "it hung where it was to hang"
    reason, kept = told
    assert reason.startswith("`update` hangs: it has taken ") and "the learner's process was ended" in reason
    stacks = (run / "stacks" / "update_1.txt").read_text()
    assert "== learner-" in stacks and "hanging.py" in stacks
    assert kept == f"Kept: {sorted((run / 'checkpoints').glob('step_*'))[-1]} and the metrics. To go on: align train mine --resume"
    summary = train(recipe(model, order), run, resume=True)
    train(recipe(model, order), tmp_path / "undisturbed")
    weights = [load_file(folder / "model" / "model.safetensors") for folder in (run, tmp_path / "undisturbed")]
    assert summary["resumed_from"] >= 2 and all(equal(t, weights[1][name]) for name, t in weights[0].items())
