"""Damage to a checkpoint is said as such, and the newest whole checkpoint is used."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.bandit_run import kept, node, start
from safetensors.torch import load_file

from align.config import recipes
from align.errors import UserError
from align.run import checkpoints

STATE = "learner/tensors_00000.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run of two steps with a checkpoint of each."""
    folder = tmp_path_factory.mktemp("whole")
    start(folder, steps=2, checkpoint={"every": 1})
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole / "run", tmp_path / "run")
    shutil.copytree(whole / "start", tmp_path / "start")
    return tmp_path / "run"


def flipped(file: str, place: float) -> Callable[[Path], None]:
    """Flips one bit of a file, at a place from 0 to 1."""

    def damage(newest: Path) -> None:
        data = bytearray((newest / file).read_bytes())
        data[int(place * (len(data) - 1))] ^= 1
        (newest / file).write_bytes(data)

    return damage


def cut(file: str, size: int) -> Callable[[Path], object]:
    return lambda newest: (newest / file).write_bytes((newest / file).read_bytes()[:size])


def before(name: str) -> Callable[[Path], None]:
    """Puts in what the checkpoint of the step before has under this name."""

    def damage(newest: Path) -> None:
        old = newest.with_name("step_000001") / name
        (shutil.copytree if old.is_dir() else shutil.copy)(old, newest / name, **({"dirs_exist_ok": True} if old.is_dir() else {}))

    return damage


def rewritten(newest: Path) -> None:
    """A manifest that is whole in itself, and names no file."""
    checkpoints.manifest.write(newest, {}, step=2, recipe="")


def replaced(newest: Path) -> None:
    shutil.rmtree(newest)
    newest.write_text("")


def linked(newest: Path) -> None:
    shutil.rmtree(newest)
    newest.symlink_to("nowhere")


def emptied(newest: Path) -> None:
    (newest / "driver.json").unlink()
    (newest / "driver.json").mkdir()


def old_format(newest: Path) -> None:
    (newest / "manifest.json").unlink()
    (newest / "learner" / ".metadata").touch()


DAMAGE = {
    "a bit of the tensors": (flipped(STATE, 0.9), rf"{STATE}: sha256 \w{{12}}, manifest says \w{{12}}"),
    "a bit of their header": (flipped(STATE, 0.01), f"{STATE}: sha256"),
    "a bit of the plan": (flipped("learner/state.json", 0.5), "learner/state.json: sha256"),
    "a bit of the loop's half": (flipped("driver.json", 0.5), "driver.json: sha256"),
    "a bit of the manifest": (flipped("manifest.json", 0.5), "manifest.json: c"),
    "tensors cut short": (cut(STATE, 10), rf"{STATE}: size 10, manifest says \d+"),
    "the loop's half cut short": (cut("driver.json", 10), r"driver.json: size 10, manifest says \d+"),
    "the manifest cut short": (cut("manifest.json", 10), "manifest.json: cut short or overwritten"),
    "an empty file": (cut("learner/state.json", 0), r"learner/state.json: size 0, manifest says \d+"),
    "bytes too many": (lambda f: (f / STATE).write_bytes((f / STATE).read_bytes() + b"0"), rf"{STATE}: size \d+, manifest says \d+"),
    "no loop's half": (lambda f: (f / "driver.json").unlink(), "driver.json: missing"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "manifest.json: missing"),
    "no learner": (lambda f: shutil.rmtree(f / "learner"), "learner/state.json: missing"),
    "the learner of the step before": (before("learner"), "learner/"),
    "the loop's half of the step before": (before("driver.json"), "driver.json: s"),
    "all of the step before": (before("."), "manifest.json: it is of step 1"),
    "a manifest of nothing": (rewritten, r"manifest.json: it does not name driver\.json"),
    "a manifest that is no mapping": (lambda f: (f / "manifest.json").write_text("[]"), "manifest.json: cut short or overwritten"),
    "a file in its place": (replaced, "step_000002: not a folder"),
    "a link to nothing": (linked, "step_000002: a link to nothing"),
    "a folder for a file": (emptied, "driver.json: not a file"),
    "the format before": (old_format, r"learner/\.metadata: the format of an earlier align \(torch\.distributed\.checkpoint\)"),
}


def found(run: Path) -> checkpoints.ResumePoint:
    return checkpoints.newest(run, recipes.build(node(run.parent / "start", steps=4)))


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_told_and_the_one_before_is_used(kind: str, run: Path):
    damage, says = DAMAGE[kind]
    assert found(run).step == 2 and found(run).damaged == {}
    damage(run / "checkpoints" / "step_000002")
    assert found(run).step == 1
    said = checkpoints.set_aside(run, found(run))
    assert len(said) == 1 and "\n" not in said[0]
    assert said[0].startswith("checkpoint step_000002 is damaged: ") and said[0].endswith("and the run continues from step 1")
    assert re.search(rf"^checkpoint step_000002 is damaged: {says}", said[0]), said[0]
    assert kept(run.parent) == ["damaged_000002", "step_000001"]


@pytest.mark.parametrize("file", ["driver.json", "learner/state.json", STATE])
@pytest.mark.parametrize("place", [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
def test_no_bit_can_be_flipped(file: str, place: float, run: Path):
    flipped(file, place)(run / "checkpoints" / "step_000002")
    assert found(run).step == 1


def test_a_resume_continues_from_the_whole_one_and_saves_anew(run: Path, capsys):
    cut("driver.json", 10)(run / "checkpoints" / "step_000002")
    assert start(run.parent, resume=True, steps=3, checkpoint={"every": 1})["resumed_from"] == 1
    assert "checkpoint step_000002 is damaged: driver.json: size 10, manifest says" in capsys.readouterr().out
    assert kept(run.parent) == ["damaged_000002", "step_000002", "step_000003"]


def test_nothing_whole_is_one_line_with_each_reason(run: Path):
    for step in (1, 2):
        cut("driver.json", step)(run / "checkpoints" / f"step_{step:06d}")
    with pytest.raises(UserError, match=r"holds no whole checkpoint \(checkpoint step_000002 is damaged: driver\.json: size 2, ") as error:
        start(run.parent, resume=True)
    assert "checkpoint step_000001 is damaged: driver.json: size 1, " in str(error.value) and "\n" not in str(error.value)


def test_other_names_are_not_of_checkpoints(run: Path):
    for name in ("step_best", "step_2", "step_000009.bak", "step_"):
        shutil.copytree(run / "checkpoints" / "step_000002", run / "checkpoints" / name)
    assert checkpoints.steps(run) == [1, 2] and found(run).step == 2


def test_a_linked_checkpoint_is_used_and_removing_it_leaves_its_target(run: Path):
    for step in (1, 2):
        linked = run / "checkpoints" / f"step_{step:06d}"
        linked.rename(run.parent / linked.name)
        linked.symlink_to(run.parent / linked.name)
    assert start(run.parent, resume=True, steps=4, checkpoint={"every": 1})["resumed_from"] == 2
    assert kept(run.parent) == ["step_000003", "step_000004"]
    assert (run.parent / "step_000001" / "driver.json").is_file()


def test_what_killed_saves_left_is_told_and_removed(run: Path, capsys):
    (run / "checkpoints" / "unfinished_000003" / "learner").mkdir(parents=True)
    start(run.parent, resume=True, steps=3)
    told = "checkpoint step_000003 was not finished when its run ended; it is removed, and the run continues from step 2\n"
    assert told in capsys.readouterr().out
    assert kept(run.parent) == ["step_000002", "step_000003"]


def test_the_manifest_names_what_a_reader_needs(run: Path):
    content = json.loads((run / "checkpoints" / "step_000002" / "manifest.json").read_text())
    assert content["files"].keys() == {"driver.json", "learner/state.json", STATE}
    assert content["step"] == 2 and content["version"] and len(content["recipe"]) == 16
    assert content["files"]["driver.json"]["size"] == (run / "checkpoints" / "step_000002" / "driver.json").stat().st_size
    assert any(t.dtype == torch.float32 for t in load_file(run / "checkpoints" / "step_000002" / STATE).values())
