"""Commands that read the folder of a run or a sweep say what is damaged in it, in one line."""

import json
import shutil
from pathlib import Path

import pytest
from helpers.bandit_run import node
from helpers.models import tiny_model

from align.audit.rollouts import estimates_of_fresh_answers
from align.errors import UserError
from align.run.evaluation import evaluate
from align.run.model_files import check_files
from align.sweep import report
from align.sweep.plan import Axis, Plan
from align.sweep.results import write
from align.vocabulary.files import load_tokenizer


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def emptied(name: str):
    return lambda model: (model / name).write_bytes(b"")


def cut(name: str):
    return lambda model: (model / name).write_bytes((model / name).read_bytes()[:-20])


DAMAGE = {
    "no weights": (lambda m: (m / "model.safetensors").unlink(), "holds no weights"),
    "cut weights": (cut("model.safetensors"), r"model\.safetensors is damaged"),
    "empty weights": (emptied("model.safetensors"), r"model\.safetensors is damaged"),
    "cut config": (cut("config.json"), r"config\.json is damaged"),
    "a list as config": (lambda m: (m / "config.json").write_text("[]"), r"config\.json is damaged \(it is no mapping\)"),
    "cut tokenizer": (cut("tokenizer.json"), r"tokenizer\.json is damaged"),
    "another tokenizer": (lambda m: (m / "tokenizer.json").write_text("{}"), r"holds no tokenizer that transformers loads"),
    "no shard": (
        lambda m: (m / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00002.safetensors"}}'),
        r"model-00002\.safetensors is missing, and model\.safetensors\.index\.json names it",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_model_is_told(kind: str, whole: Path, tmp_path: Path):
    model = tmp_path / "model"
    shutil.copytree(whole, model)
    check_files(model)
    assert load_tokenizer(str(model)) is not None
    damage, says = DAMAGE[kind]
    damage(model)
    with pytest.raises(UserError, match=says) as error:
        check_files(model)
        load_tokenizer(str(model))
    assert "\n" not in str(error.value)


def test_eval_and_audit_look_before_they_load(whole: Path, tmp_path: Path):
    shutil.copytree(whole, tmp_path / "model")
    cut("model.safetensors")(tmp_path / "model")
    (tmp_path / "recipe.yaml").write_text(json.dumps(node(whole)))
    for command in (evaluate, estimates_of_fresh_answers):
        with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
            command(tmp_path)


SUMMARY = {"before": {"a/pass@1": 0.1}, "after": {"a/pass@1": 0.2}, "train_seconds": 1.0}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """The folder of a sweep of one run that has finished."""
    plan = Plan({"tiny": tmp_path / "tiny.yaml"}, (), (Axis("steps", ("2",)),), 1, tmp_path / "out")
    (run,) = plan.runs
    run.folder.mkdir(parents=True)
    (run.folder / "summary.json").write_text(json.dumps(SUMMARY))
    run.metrics.write_text('{"step": 0, "reward/mean": 0.5}\n')
    write(plan, {}, [])
    return plan.out


RUN = "steps=2/seed_0"
SWEEP_DAMAGE = {
    "an empty summary": (f"{RUN}/summary.json", "", "was cut short or overwritten"),
    "a summary that is a list": (f"{RUN}/summary.json", "[]", "was cut short or overwritten"),
    "a summary without numbers": (f"{RUN}/summary.json", "{}", "was cut short or overwritten"),
    "a summary of texts": (f"{RUN}/summary.json", json.dumps(SUMMARY | {"after": {"a": "b"}}), "a is 'b', not a number"),
    "a summary of bytes": (f"{RUN}/summary.json", b"\xff\xfe", "was cut short or overwritten"),
    "no metrics": (f"{RUN}/metrics.jsonl", None, r"metrics\.jsonl cannot be read"),
    "metrics that are a list": (f"{RUN}/metrics.jsonl", "[1]\n", "not a line of metrics"),
    "metrics of texts": (f"{RUN}/metrics.jsonl", '{"step": 0, "reward/mean": "x"}\n', r"metrics\.jsonl cannot be read"),
    "metrics of bytes": (f"{RUN}/metrics.jsonl", b"\xff\xfe\n", r"metrics\.jsonl cannot be read"),
    "an empty plan": ("sweep.json", "", "is not the file of a sweep"),
    "a plan that is a list": ("sweep.json", "[]", "is not the file of a sweep"),
    "a plan of a list": ("sweep.json", '{"over": []}', "is not the file of a sweep"),
}


@pytest.mark.parametrize("kind", SWEEP_DAMAGE)
def test_a_damaged_sweep_is_told(kind: str, sweep: Path):
    assert report(sweep, [])["cells"][0]["metrics"]["a/pass@1"]["mean"] == 0.2
    file, content, says = SWEEP_DAMAGE[kind]
    if content is None:
        (sweep / file).unlink()
    else:
        (sweep / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=says) as error:
        report(sweep, [])
    assert "\n" not in str(error.value)
