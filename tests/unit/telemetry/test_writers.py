"""Writers beside metrics.jsonl: TensorBoard read back from its files, W&B through what its module is told, and those that break."""

import importlib.util
import io
import json
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import yaml
from helpers.fakes import wandb
from helpers.models import tiny_model
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from align import telemetry
from align.config import recipes
from align.config.nodes import build_part
from align.errors import RecipeError
from align.inspect.explain import show
from align.telemetry import Telemetry
from align.telemetry.writers import read
from align.train import train
from align.writers import RunningWriter, Writer

NODE = {"steps": 4, "model": {"path": "somewhere"}, "optimizer": {"betas": [0.9, 0.99]}}


class Listener(Writer, RunningWriter):
    """Takes down what it is told, and breaks where it is told to."""

    def __init__(self, breaks: str = ""):
        self.breaks, self.told = breaks, []

    def _tell(self, what: str, *told) -> None:
        if what == self.breaks:
            raise OSError("no space left")
        self.told.append((what, *told))

    def open(self, folder, run, recipe, done):
        self._tell("open", folder, run, recipe, done)
        return self

    def write(self, step, metrics):
        self._tell("write", step, dict(metrics))

    def samples(self, step, rows):
        self._tell("samples", step, list(rows))

    def close(self, finished):
        self._tell("close", finished)


@pytest.fixture
def screen(monkeypatch) -> io.StringIO:
    shown = io.StringIO()
    monkeypatch.setattr(telemetry, "_console", Console(file=shown, width=120, highlight=False, soft_wrap=True))
    return shown


@pytest.fixture
def fake_wandb(monkeypatch) -> list:
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr(wandb, "RUNS", [])
    return wandb.RUNS


def live(folder: Path, writers: dict, first: int, until: int, *, steps: int = 4, shift: float = 0.0, evaluated=(2,)) -> None:
    """Training from one step to another as `train` tells it, evaluated after some; finished where it comes to the last."""
    run = Telemetry(folder, steps=steps, first_step=first)
    run.open(writers, NODE)
    if not first:
        run.evaluation(0, {"countdown/pass@1": 0.0})
    for step in range(first, until):
        run.step(step, {"reward/mean": step + shift, "loss": -0.5})
        if step + 1 in evaluated:
            run.evaluation(step + 1, {"countdown/pass@1": 0.25 * (step + 1)})
    run.close(finished=until == steps)


# What every writer is told


def test_steps_are_counted_as_in_the_picture_after_their_update(tmp_path, screen):
    writer = Listener()
    live(tmp_path, {"ear": writer}, 0, 3, steps=3)
    assert writer.told == [
        ("open", tmp_path / "writers" / "ear", str(tmp_path), NODE, 0),
        ("write", 0, {"eval/countdown/pass@1": 0.0}),
        ("write", 1, {"reward/mean": 0.0, "loss": -0.5}),
        ("write", 2, {"reward/mean": 1.0, "loss": -0.5}),
        ("write", 2, {"eval/countdown/pass@1": 0.5}),
        ("write", 3, {"reward/mean": 2.0, "loss": -0.5}),
        ("close", True),
    ]
    assert (tmp_path / "writers" / "ear").is_dir()


ROWS = [{"step": 0, "prompt": "1+1=", "response": "a | `b`\n2", "reward": 0.5, "finished": True, "length": 3}]


def test_writers_get_the_samples(tmp_path, screen):
    writer = Listener()
    run = Telemetry(tmp_path, steps=2)
    run.open({"ear": writer}, NODE)
    run.samples(0, ROWS, ["step 0 wrote it"])
    run.samples(1, [], [])
    assert writer.told[1:] == [("samples", 1, ROWS)] and "step 0 wrote it" in screen.getvalue()
    run.close()


def test_tensorboard_has_the_samples_as_a_table_without_markup_of_the_model(tmp_path, screen):
    run = Telemetry(tmp_path, steps=2)
    run.open({"board": build_part("writer", "tensorboard", "writers.board")}, NODE)
    run.samples(0, ROWS, [])
    run.close()
    found = EventAccumulator(str(tmp_path / "writers" / "board")).Reload()
    (event,) = found.Tensors("samples/text_summary")
    lines = event.tensor_proto.string_val[0].decode().split("\n")
    assert event.step == 1 and lines[2] == "| `1+1=` | `a \\| 'b' 2` | `0.5` | `True` |"


def test_wandb_has_the_samples_as_a_table(tmp_path, screen, fake_wandb):
    run = Telemetry(tmp_path, steps=2)
    run.open({"web": build_part("writer", {"name": "wandb", "mode": "offline"}, "writers.web")}, NODE)
    run.samples(0, ROWS, [])
    run.close()
    table = fake_wandb[0].rows[1]["samples"]
    assert table.data == [[0, "1+1=", "a | `b`\n2", 0.5, True, 3]]


def test_a_writer_that_breaks_is_told_of_once_and_the_run_goes_on(tmp_path, screen):
    broken, well = Listener("write"), Listener()
    live(tmp_path, {"disk": broken, "ear": well}, 0, 4)
    assert [t[0] for t in broken.told] == ["open"] and [t[0] for t in well.told] == ["open", *["write"] * 6, "close"]
    assert len(read(tmp_path / "metrics.jsonl")) == 6
    shown = screen.getvalue()
    assert shown.count("writers.disk: failed at step 0: OSError: no space left; it is left out from here on. The run goes on") == 1
    assert shown.count("writers.") == 1


def test_one_that_cannot_be_closed_loses_no_other(tmp_path, screen):
    broken, well = Listener("close"), Listener()
    live(tmp_path, {"disk": broken, "ear": well}, 0, 4)
    assert "writers.disk: could not be closed: OSError: no space left" in screen.getvalue() and well.told[-1] == ("close", True)


def test_one_that_cannot_begin_stops_the_run_and_the_others_are_closed(tmp_path, screen):
    first, run = Listener(), Telemetry(tmp_path, steps=2)
    with pytest.raises(RecipeError, match=r"writers\.disk: cannot begin: OSError: no space left; .*writers\.disk=null"):
        run.open({"ear": first, "disk": Listener("open")}, NODE)
    run.close()
    assert first.told[-1] == ("close", False)


# TensorBoard


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = EventAccumulator(str(folder))
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def text(folder: Path) -> list[tuple[int, str]]:
    found = EventAccumulator(str(folder))
    found.Reload()
    return [(e.step, e.tensor_proto.string_val[0].decode()) for e in found.Tensors("recipe/text_summary")]


@pytest.fixture(autouse=True)
def file_names(monkeypatch):
    """TensorBoard reads files in the order of their names: the second, the process, a number. 10 comes before 9 within a second."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


def board() -> dict:
    return {"board": build_part("writer", "tensorboard", "writers.board")}


def test_tensorboard_has_every_metric_under_its_name(tmp_path, screen):
    live(tmp_path, board(), 0, 4)
    assert scalars(tmp_path / "writers" / "board") == {
        "reward/mean": [(1, 0.0), (2, 1.0), (3, 2.0), (4, 3.0)],
        "loss": [(s, -0.5) for s in (1, 2, 3, 4)],
        "eval/countdown/pass@1": [(0, 0.0), (2, 0.5)],
    }
    ((step, said),) = text(tmp_path / "writers" / "board")
    assert step == 0 and said.startswith("```yaml\n") and yaml.safe_load(said.strip("`").removeprefix("yaml")) == NODE


def test_a_number_is_on_disk_as_soon_as_it_is_written(tmp_path):
    writer = board()["board"].open(tmp_path, "run", NODE, 0)
    writer.write(1, {"loss": 0.5})
    assert scalars(tmp_path) == {"loss": [(1, 0.5)]}
    writer.close(finished=False)


def test_a_resumed_run_doubles_no_step_of_tensorboard(tmp_path, screen):
    live(tmp_path, board(), 0, 4)  # killed before it was told to stop, and resumed from a checkpoint of step 2
    live(tmp_path, board(), 2, 4, shift=10.0)
    found = scalars(tmp_path / "writers" / "board")
    assert found["reward/mean"] == [(1, 0.0), (2, 1.0), (3, 12.0), (4, 13.0)]
    assert found["eval/countdown/pass@1"] == [(0, 0.0), (2, 0.5)]
    assert [step for step, _ in text(tmp_path / "writers" / "board")] == [0, 2]


def test_a_run_from_the_start_hides_an_older_one(tmp_path, screen):
    live(tmp_path, board(), 0, 4)
    live(tmp_path, board(), 0, 2, shift=10.0, evaluated=())
    assert scalars(tmp_path / "writers" / "board") == {
        "reward/mean": [(1, 10.0), (2, 11.0)],
        "loss": [(1, -0.5), (2, -0.5)],
        "eval/countdown/pass@1": [(0, 0.0)],
    }


# Weights & Biases


def bias(**keys) -> dict:
    return {"wb": build_part("writer", {"name": "wandb", **keys}, "writers.wb")}


def test_wandb_has_the_recipe_as_config_and_a_row_a_step(tmp_path, screen, fake_wandb):
    live(tmp_path, bias(project="p", entity="e", group="g"), 0, 4)
    (run,) = fake_wandb
    assert run.options == {
        "project": "p",
        "entity": "e",
        "group": "g",
        "mode": "online",
        "id": None,
        "resume": "allow",
        "name": str(tmp_path),
        "config": NODE,
        "dir": str(tmp_path / "writers" / "wb"),
        "reinit": "create_new",
        "settings": {"console": "off"},
    }
    assert run.rows == {
        0: {"eval/countdown/pass@1": 0.0},
        1: {"reward/mean": 0.0, "loss": -0.5},
        2: {"reward/mean": 1.0, "loss": -0.5, "eval/countdown/pass@1": 0.5},
        3: {"reward/mean": 2.0, "loss": -0.5},
        4: {"reward/mean": 3.0, "loss": -0.5},
    }
    assert run.exit_code == 0


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_resumed_run_goes_on_in_the_same_wandb_run(tmp_path, screen, fake_wandb, mode):
    live(tmp_path, bias(mode=mode), 0, 3)  # stopped after step 3, whose checkpoint is of step 1
    live(tmp_path, bias(mode=mode), 1, 4, shift=10.0)
    first, second = fake_wandb
    assert (first.exit_code, second.exit_code) == (1, 0) and second.id == first.id
    assert list(first.rows) == [0, 1, 2, 3] and list(second.rows) == [4] and second.rows[4]["reward/mean"] == 13.0


def test_a_run_that_was_stopped_at_a_checkpoint_leaves_no_gap(tmp_path, screen, fake_wandb):
    """Training and evaluation of one step share a row: it is whole when the run stops between two steps."""
    live(tmp_path, bias(mode="offline"), 0, 2)
    live(tmp_path, bias(mode="offline"), 2, 4, evaluated=(3,))
    first, second = fake_wandb
    assert (
        list(first.rows) == [0, 1, 2]
        and list(second.rows) == [3, 4]
        and second.rows[3].keys() == {"reward/mean", "loss", "eval/countdown/pass@1"}
    )


def test_a_run_from_the_start_is_another_wandb_run(tmp_path, screen, fake_wandb):
    live(tmp_path, bias(), 0, 2)
    live(tmp_path, bias(), 0, 4)
    assert fake_wandb[0].id != fake_wandb[1].id and list(fake_wandb[1].rows) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("keys", "says"), [({"mode": "off"}, "mode must be one of online, offline, disabled"), ({"project": ""}, "project must be a name")]
)
def test_a_key_that_makes_no_sense_is_refused(keys, says):
    with pytest.raises(RecipeError, match=says):
        bias(**keys)


# In a recipe


def built(tmp_path: Path, **change):
    return recipes.build(
        {
            "steps": 2,
            "task": {"name": "countdown", "size": 8},
            "algorithm": "grpo",
            "reward": "countdown_wordy",
            "optimizer": {"lr": 1e-2},
            "model": {"path": str(tiny_model(tmp_path / "tiny"))},
            "batch": {"prompts": 4, "samples": 2},
            "sampling": {"max_tokens": 6},
            "workers": {"backend": "local"},
            "evaluation": {"every": 1, "problems": 2, "samples": 2},
        }
        | change
    )


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_package_that_is_missing_stops_the_run_before_its_folder_is_made(tmp_path, monkeypatch, name):
    present = built(tmp_path, writers={"w": name})
    for spec in (None, ModuleSpec(name, None)):  # nowhere; a folder of that name in the working directory
        monkeypatch.setattr(importlib.util, "find_spec", lambda package, spec=spec: spec)
        with pytest.raises(RecipeError, match=rf"writers\.w: needs the package {name}, which is not installed: `pip install {name}`"):
            train(present, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_writes_to_tensorboard_what_metrics_jsonl_has(tmp_path, screen):
    train(built(tmp_path, writers={"board": "tensorboard"}), tmp_path / "run")
    expected: dict[str, list] = {}
    for row in read(tmp_path / "run" / "metrics.jsonl"):
        step = row.pop("step")
        for name, value in row.items():
            expected.setdefault(name, []).append((step + (not name.startswith("eval/")), pytest.approx(value, rel=1e-6)))
    assert len(expected) > 10 and scalars(tmp_path / "run" / "writers" / "board") == expected


def test_explain_names_the_writers(tmp_path):
    out = io.StringIO()
    show(built(tmp_path, writers={"wb": {"name": "wandb", "mode": "offline"}}), Console(file=out, width=200))
    assert "writer wb" in out.getvalue() and "wandb(project=align, entity=None, group=None, mode=offline)" in out.getvalue()


def test_a_writer_of_ones_own(tmp_path, screen):
    (tmp_path / "mine.py").write_text(
        "from align.writers import RunningWriter\nclass Count(RunningWriter):\n    def __init__(self, file):\n        self.file = file\n"
        "    def write(self, step, metrics):\n        self.file.write_text(str(step))\n"
        "class Mine:\n    '''Counts.'''\n    def open(self, folder, run, recipe, done):\n        return Count(folder / 'count')\n"
    )
    train(built(tmp_path, writers={"mine": f"{tmp_path}/mine.py:Mine"}), tmp_path / "run")
    assert (tmp_path / "run" / "writers" / "mine" / "count").read_text() == "2"


def test_a_worker_that_builds_a_recipe_with_writers_imports_none_of_their_packages():
    program = (
        "import sys; from align.config.nodes import build_part\n"
        "for name in ('tensorboard', 'wandb'): build_part('writer', name, name)\n"
        "assert not {'wandb', 'tensorboard', 'torch.utils.tensorboard'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_a_run_keeps_of_wandb_names_its_run(tmp_path, screen, fake_wandb):
    live(tmp_path, bias(), 0, 4)
    assert json.loads((tmp_path / "writers" / "wb" / "run.json").read_text()) == {"id": fake_wandb[0].id, "sent": 4}
