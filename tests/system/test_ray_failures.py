"""What ends a run on a private cluster, and how it is told: a learner that hangs, and a cluster whose head dies."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from helpers import command
from helpers.bandit_run import node
from helpers.models import tiny_model
from helpers.paths import PLUGINS
from safetensors.torch import load_file
from torch import equal

from align.config import recipes
from align.config.schema import Recipe
from align.run import watchdog
from align.run.ending import report_ending
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
    with pytest.raises(SystemExit) as end, report_ending(run, "align train mine --resume", told.append):
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


SLOW = "import time\ndef slow(response):\n    time.sleep(0.1)\n    return float(len(response))\n"


def test_a_head_that_dies_is_told_in_one_message_and_what_was_learned_is_kept(model: Path, tmp_path: Path):
    """Ray itself would end the process after a minute, with exit code 1 and a message of its own."""
    (tmp_path / "mine.py").write_text(SLOW)
    given = node(model, steps=500, reward=f"{tmp_path}/mine.py:slow", workers={"cpus": 0.1}, checkpoint={"every": 0})
    (tmp_path / "recipe.yaml").write_text(json.dumps(given))
    process = command.start(["train", "recipe.yaml", "--no-check", "--out", "run"], tmp_path, tmp_path / "output")
    while lines(tmp_path / "run") < 2:
        assert process.is_alive()
        time.sleep(0.02)
    os.kill(child(process.pid, "gcs_server"), signal.SIGKILL)
    began = time.monotonic()
    process.join(60)
    assert process.exitcode == 2 and time.monotonic() - began < 50
    said = (tmp_path / "output" / "stderr").read_text()
    reason = "the cluster does not answer any more: its head or one of its nodes has ended"
    assert said.count(reason) == 1 and "Traceback" not in said and "no checkpoint could be kept" not in said
    kept = sorted((tmp_path / "run" / "checkpoints").glob("step_*"))
    assert len(kept) == 1 and f"{kept[0].name} and the metrics. To go on: align train recipe.yaml" in " ".join(said.split())


def child(pid: int, name: str) -> int:
    """The child process whose program is called so."""
    children = [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return next(number for number in children if Path(f"/proc/{number}/cmdline").read_text().split("\0")[0].endswith(name))
