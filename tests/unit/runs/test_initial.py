"""Where the initial policy comes from."""

from pathlib import Path

import pytest
import torch
from helpers.models import tiny_model
from helpers.plugins.several import write
from safetensors.torch import load_file

from align.config import recipes, schema
from align.config.schema import Model
from align.errors import RecipeError, UserError
from align.learner.model_loading import load_causal_lm
from align.run.initial_policy import content_hash, model_folder
from align.train import train

CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 16,
}


def build(model: dict, **changes) -> schema.Recipe:
    return recipes.build(
        {
            "steps": 0,
            "task": {"name": "countdown", "size": 8, "demonstrations": True},
            "algorithm": "sft",
            "model": model,
            "batch": {"prompts": 4},
            "workers": {"backend": "local"},
            "evaluation": {"every": -1},
        }
        | changes
    )


@pytest.mark.parametrize(
    ("model", "where", "says"),
    [
        ({"path": "nowhere"}, "model.path", "there is no model folder nowhere"),
        ({"config": {"hidden_size": 8}}, "model.config", "names no model_type: give a name of transformers"),
        ({"config": {"model_type": "qwen9"}}, "model.config", "transformers cannot build it"),
    ],
)
def test_a_model_that_cannot_be_had_is_named(model: dict, where: str, says: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as refused:
        model_folder(build(model), tmp_path, train, print)
    assert refused.value.where == where and says in str(refused.value)


def test_a_task_without_a_tokenizer_cannot_start_from_nothing(tmp_path: Path):
    (tmp_path / "data.jsonl").write_text('{"prompt": "1", "answer": "2"}\n')
    with pytest.raises(RecipeError, match="needs a tokenizer"):
        model_folder(build({"config": CONFIG}, task={"name": "jsonl", "path": str(tmp_path / "data.jsonl")}), tmp_path, train, print)


def test_a_folder_without_a_model_is_told_in_one_line(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="holds no causal language model") as error:
        load_causal_lm(str(tmp_path), Model(path=str(tmp_path)), "model.path")
    assert "\n" not in str(error.value)


def test_the_seed_decides_the_weights(tmp_path: Path):
    weights = [
        load_file(Path(model_folder(build({"config": CONFIG}, seed=seed), tmp_path / str(i), train, print)) / "model.safetensors")
        for i, seed in enumerate((0, 0, 1))
    ]
    name = "model.embed_tokens.weight"
    assert torch.equal(weights[0][name], weights[1][name]) and not torch.equal(weights[0][name], weights[2][name])


def test_a_warm_start_runs_once_and_is_found_by_its_content(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path / "cache"))
    warm = tmp_path / "warm.yaml"
    text = (
        f"steps: 1\ntask: {{name: countdown, size: 8, demonstrations: true}}\nalgorithm: sft\nmodel: {{config: {CONFIG}}}\n"
        "batch: {prompts: 4}\nworkers: {backend: local}\nevaluation: {every: -1}\n"
    )
    warm.write_text(text)
    notes = []
    first = model_folder(build({"recipe": str(warm)}), tmp_path, train, notes.append)
    assert len(notes) == 1 and (Path(first) / "model.safetensors").is_file()
    assert model_folder(build({"recipe": str(warm)}), tmp_path, train, notes.append) == first and len(notes) == 1
    warm.write_text(text + "seed: 7\n")
    assert model_folder(build({"recipe": str(warm)}), tmp_path, train, notes.append) != first and len(notes) == 2


def warm_recipe(folder: Path) -> dict:
    (folder / "warm.yaml").write_text("steps: 1\ntask: countdown\nalgorithm: sft\nmodel: {path: nowhere}\n")
    return {"recipe": str(folder / "warm.yaml")}


@pytest.mark.parametrize(
    ("file", "says"),
    [("model/model.safetensors", "model/model.safetensors: size 1, manifest says 4"), ("manifest.json", "manifest.json: cut short")],
)
def test_a_damaged_warm_start_is_told_and_trained_again(file: str, says: str, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path / "cache"))
    trained, notes = [], []

    def stand_in(recipe, folder):
        trained.append(folder)
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "model.safetensors").write_text("1234")

    folder = Path(model_folder(build(warm_recipe(tmp_path)), tmp_path, stand_in, notes.append)).parent
    (folder / file).write_text("1")
    for _ in range(2):
        again = model_folder(build(warm_recipe(tmp_path)), tmp_path, stand_in, notes.append)
        assert Path(again).parent == folder and (folder / "model" / "model.safetensors").read_text() == "1234"
    assert len(trained) == 2 and len(notes) == 3
    assert f"is damaged: {says}" in notes[1] and notes[1].endswith("; it is made again")
    assert [f.name for f in (tmp_path / "cache").iterdir()] == [folder.name]


def test_a_damaged_initial_model_is_made_again(tmp_path: Path):
    notes, recipe = [], build({"config": CONFIG})
    file = Path(model_folder(recipe, tmp_path, train, notes.append)) / "model.safetensors"
    before = file.read_bytes()
    assert model_folder(recipe, tmp_path, train, notes.append) == str(file.parent) and notes == []
    file.write_bytes(before[:100])
    model_folder(recipe, tmp_path, train, notes.append)
    assert file.read_bytes() == before and "is damaged: model.safetensors: size 100, manifest says" in notes[0]


def test_every_key_is_part_of_the_content():
    plain = build({"path": "a"})
    assert content_hash(plain) == content_hash(build({"path": "a"})) != content_hash(build({"path": "a"}, seed=1))


def test_a_bfloat16_policy_holds_bfloat16(tmp_path: Path):
    model = load_causal_lm(str(tiny_model(tmp_path)), Model(path="", dtype="bfloat16"), "model.path")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UserError("no"), ZeroDivisionError()], ids=["by hand", "refused", "defect"])
def test_a_warm_start_that_ends_early_leaves_no_folder(tmp_path: Path, monkeypatch, error: BaseException):
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "warm.yaml").write_text("steps: 1\ntask: countdown\nalgorithm: sft\nmodel: {path: nowhere}\n")

    def train(recipe, folder):
        (folder / "checkpoints").mkdir(parents=True)
        abandoned = folder.with_suffix(".4194305")  # above the largest number of a process
        abandoned.mkdir()  # raises if the second start had left it
        raise error

    for _ in range(2):
        with pytest.raises(type(error)):
            model_folder(build({"recipe": str(tmp_path / "warm.yaml")}), tmp_path, train, lambda text: None)
    assert [f.suffix for f in (tmp_path / "cache").iterdir()] == [".4194305"]


def test_a_warm_start_hangs_on_every_file_of_its_plugins(tmp_path: Path):
    write(tmp_path, mine="import helper\nfrom align.tasks.countdown import Countdown\nclass Mine(Countdown):\n    pass\n", helper="x = 1")
    hashes = set()
    for text in ("x = 1", "x = 2", "x = 1"):
        write(tmp_path, helper=text, unrelated=text)
        hashes.add(content_hash(build({"path": "a"}, task={"name": f"{tmp_path}/mine.py:Mine", "size": 8, "demonstrations": True})))
    assert len(hashes) == 2


def test_a_warm_start_hangs_on_the_kernels_too(tmp_path: Path, monkeypatch):
    source, plain = tmp_path / "__init__.py", build({"path": "a"})
    monkeypatch.setattr("align_kernels.__file__", str(source))
    hashes = set()
    for text in ("one", "other"):
        source.write_text(text)
        hashes.add(content_hash(plain))
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "measure.py").write_text("only looks on")
    hashes.add(content_hash(plain))
    assert len(hashes) == 2
