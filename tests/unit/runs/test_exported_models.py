"""The model that a run exports is used as it was written, or refused by the name of the file that is not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.bandit_run import node, start
from helpers.models import tiny_model

from align.config import recipes
from align.errors import UserError
from align.run.evaluation import evaluate
from align.train import train
from align.vocabulary.exported import refuse_damaged

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    start(folder, steps=1)
    return folder / "run" / "model"


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def flipped(name: str) -> Callable[[Path], None]:
    """The last byte of a file becomes another one, so that it can still be loaded."""

    def damage(model: Path) -> None:
        data = bytearray((model / name).read_bytes())
        data[-2] ^= 1
        (model / name).write_bytes(data)

    return damage


DAMAGE = {
    "weights": (flipped(WEIGHTS), r"model\.safetensors: sha256 "),
    "config": (
        lambda m: (m / "config.json").write_text((m / "config.json").read_text() + "\n"),
        r"config\.json: size \d+, manifest says \d+",
    ),
    "no tokenizer": (lambda m: (m / "tokenizer.json").unlink(), r"tokenizer\.json: missing"),
    "manifest cut short": (lambda m: (m / "manifest.json").write_text('{"files"'), r"manifest\.json: cut short"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_said_with_the_name_of_the_file(kind: str, model: Path):
    damage, says = DAMAGE[kind]
    refuse_damaged(model, "model.path")
    damage(model)
    with pytest.raises(UserError, match=rf"^model\.path: the model in .*model is damaged: {says}.*put back the file") as error:
        refuse_damaged(model, "model.path")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({}, "model.path"),
        (
            {"regularizers": {"kl": {"coefficient": 0.1, "reference": {"name": "checkpoint", "path": "MODEL"}}}},
            "reference checkpoint: path",
        ),
        ({"regularizers": {"kl": {"coefficient": 0.1, "reference": {"name": "teacher", "path": "MODEL"}}}}, "reference teacher: path"),
        ({"algorithm": {"name": "ppo", "critic": {"name": "separate", "path": "MODEL"}}}, "critic separate: path"),
        ({"reward": {"name": "learned", "path": "MODEL"}}, "reward learned: path"),
    ],
    ids=["policy", "checkpoint", "teacher", "critic", "reward"],
)
def test_every_use_of_an_export_looks_first(changes: dict, where: str, whole: Path, model: Path, tmp_path: Path):
    flipped(WEIGHTS)(model)
    policy = whole if changes else model
    built = recipes.build(json.loads(json.dumps(node(policy, steps=1, **changes)).replace("MODEL", str(model))))
    with pytest.raises(UserError, match=rf"^{where}: the model in .* is damaged: model\.safetensors: sha256"):
        train(built, tmp_path / "run")


def test_eval_looks_first(whole: Path, tmp_path: Path):
    run = Path(shutil.copytree(whole.parent, tmp_path / "run"))
    flipped(WEIGHTS)(run / "model")
    with pytest.raises(UserError, match=r"is damaged: model\.safetensors: sha256"):
        evaluate(run)


def test_folders_of_others_stay_usable(whole: Path, model: Path, tmp_path: Path):
    """Without a manifest, with one of another program, and with links to files elsewhere, as in the hub's cache."""
    linked, other = tmp_path / "linked", tiny_model(tmp_path / "other")
    linked.mkdir()
    for file in model.iterdir():
        (linked / file.name).symlink_to(file)
    (other / "manifest.json").write_text('{"name": "web app"}')
    (model / "README.md").write_text("mine")
    for folder in (linked, other, model):
        refuse_damaged(folder, "model.path")
    train(recipes.build(node(linked, steps=1)), tmp_path / "run")
    (model / "manifest.json").unlink()
    flipped(WEIGHTS)(model)
    refuse_damaged(model, "model.path")
    refuse_damaged("no/such/folder", "model.path")
