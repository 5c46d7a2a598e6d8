"""Where `model.path` finds a model: a folder, the Hub and its cache, an adapter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import httpx
import huggingface_hub.errors as hub
import pytest
import torch
from helpers.models import tiny_model
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from align.config import recipes
from align.errors import RecipeError, UserError
from align.run import model_source
from align.run.initial_policy import config_of, model_folder
from align.run.model_source import fetched_folder
from align.train import train
from align.vocabulary.files import load_config


def build(**model) -> recipes.Recipe:
    return recipes.build({"steps": 0, "task": "countdown", "algorithm": "sft", "model": model, "evaluation": {"every": -1}})


def folder_of(recipe: recipes.Recipe, run: Path, note=print) -> Path:
    return Path(model_folder(recipe, run, train, note))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("whole"), tied=False)


@pytest.fixture(autouse=True)
def hub_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cached(cache: Path, name: str, files: Path, commit: str = "0123", ref: str = "main") -> Path:
    """The folder of a model in a cache laid out as huggingface_hub does."""
    snapshot = cache / f"models--{name.replace('/', '--')}" / "snapshots" / commit
    shutil.copytree(files, snapshot)
    (snapshot.parents[1] / "refs").mkdir(exist_ok=True)
    (snapshot.parents[1] / "refs" / ref).write_text(commit)
    return snapshot


def test_an_id_in_the_cache_is_a_model_and_is_not_asked_for(hub_cache, model, tmp_path, monkeypatch):
    there, other = cached(hub_cache, "some/model", model), cached(hub_cache, "some/model", model, "4567", "v2")
    monkeypatch.setattr(model_source, "snapshot_download", only_local(model_source.snapshot_download))
    recipe = build(path="some/model")
    assert folder_of(recipe, tmp_path) == there.resolve()
    assert config_of(recipe).hidden_size == 32
    assert folder_of(build(path="some/model", revision="v2"), tmp_path) == other.resolve()
    assert config_of(build(path="some/other")) is None


def only_local(download):
    def refusing(*args, local_files_only=False, **options):
        assert local_files_only
        return download(*args, local_files_only=True, **options)

    return refusing


def test_an_id_that_is_not_there_is_fetched_as_data_alone(model, tmp_path, monkeypatch):
    asked = []

    def download(path, *, revision, local_files_only=False, allow_patterns=()):
        if local_files_only:
            raise hub.LocalEntryNotFoundError("not there")
        asked.append((path, revision))
        assert "*.safetensors" in allow_patterns and not {"*.bin", "*.py"} & set(allow_patterns)
        return str(model)

    monkeypatch.setattr(model_source, "snapshot_download", download)
    assert folder_of(build(path="some/model", revision="v1"), tmp_path) == model.resolve()
    assert asked == [("some/model", "v1")]


def of_hub(kind: type[hub.HfHubHTTPError]) -> Exception:
    return kind("refused", response=httpx.Response(404, request=httpx.Request("GET", "https://hub")))


@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        (of_hub(hub.GatedRepoError), r"some/model is gated: accept its licence .*HF_TOKEN"),
        (of_hub(hub.RepositoryNotFoundError), r"no such model, or this account may not read it"),
        (of_hub(hub.RevisionNotFoundError), r"some/model has no revision 'v1'"),
        (
            hub.LocalEntryNotFoundError("no network"),
            r"cannot be fetched \(no network\); .*--local-dir FOLDER\) and give the folder: model\.path=FOLDER",
        ),
    ],
)
def test_a_model_that_cannot_be_fetched_is_one_line(refusal, says, tmp_path, monkeypatch):
    def download(path, *, local_files_only=False, **options):
        if local_files_only:
            raise hub.LocalEntryNotFoundError("not there")
        raise refusal

    monkeypatch.setattr(model_source, "snapshot_download", download)
    with pytest.raises(RecipeError, match=says) as refused:
        folder_of(build(path="some/model", revision="v1"), tmp_path)
    assert refused.value.where == "model.path" and "\n" not in str(refused.value)


def test_without_a_network_the_folder_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RecipeError, match=r"there is no model folder some/other .*offline mode is enabled.*hf download some/other"):
        folder_of(build(path="some/other"), tmp_path)


def test_a_download_that_was_cut_short_is_no_model(hub_cache, model, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    there = cached(hub_cache, "some/model", model)
    (there / model_source.INDEX).write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}))
    with pytest.raises(RecipeError, match="its download was cut short"):
        folder_of(build(path="some/model"), tmp_path)


def test_folders_that_hold_no_model_or_no_revisions(model, tmp_path):
    with pytest.raises(RecipeError, match=r"model\.path: the folder .* holds no model: it has neither config\.json nor adapter_config"):
        folder_of(build(path="."), tmp_path)
    with pytest.raises(RecipeError, match=r"model\.revision: changes nothing: .* is a local folder"):
        folder_of(build(path=str(model), revision="main"), tmp_path)
    with pytest.raises(RecipeError, match="model: revision changes nothing without path"):
        build(config={"model_type": "qwen2"}, revision="main")


def test_a_relative_path_is_kept_for_other_working_directories(model, tmp_path, monkeypatch):
    shutil.copytree(model, tmp_path / "mine")
    recipe = build(path="mine")
    monkeypatch.chdir("/")
    assert folder_of(recipe, tmp_path) == tmp_path / "mine"


# Adapters


@pytest.fixture
def adapter(model, tmp_path) -> Path:
    lora = get_peft_model(AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, p in lora.named_parameters():
            if "lora_B" in name:
                p.normal_(generator=torch.Generator().manual_seed(0))
    lora.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_is_merged_into_its_base(model, adapter, tmp_path):
    notes = []
    recipe = build(path=str(adapter))
    merged = folder_of(recipe, tmp_path / "run", notes.append)
    assert merged == tmp_path / "run" / "initial" and str(model) in notes[0]
    base, found = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (model, merged))
    changed = {name for name in base if not torch.equal(base[name], found[name])}
    assert changed and all("q_proj" in name for name in changed) and base.keys() == found.keys()
    delta = delta_of(adapter, "layers.0")
    name = "model.layers.0.self_attn.q_proj.weight"
    torch.testing.assert_close(found[name] - base[name], delta, rtol=0, atol=1e-5)
    assert (merged / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    assert folder_of(recipe, tmp_path / "run", notes.append) == merged and len(notes) == 1
    assert config_of(recipe).hidden_size == 32


def delta_of(adapter: Path, layer: str) -> torch.Tensor:
    values = {n: v for n, v in load_file(adapter / "adapter_model.safetensors").items() if layer in n}
    (a,), (b,) = ([v for n, v in values.items() if part in n] for part in ("lora_A", "lora_B"))
    return b @ a * (LoraConfig().lora_alpha / 2)


def test_an_adapter_without_a_base_is_named(adapter, tmp_path):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": None}))
    with pytest.raises(RecipeError, match="does not name its base model"):
        folder_of(build(path=str(adapter)), tmp_path / "run")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "gone"}))
    with pytest.raises(RecipeError, match="there is no model folder gone"):
        folder_of(build(path=str(adapter)), tmp_path / "run")


# Code of a model


def test_code_that_comes_with_a_model_is_never_run(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}))
    (tmp_path / "own.py").write_text("raise SystemExit('it ran')\n")
    with pytest.raises(UserError, match=r"needs Python code of its own \(auto_map in its config\), which is never run"):
        load_config(str(tmp_path))


def test_the_message_of_a_missing_folder_tells_where_paths_start():
    with pytest.raises(RecipeError, match="a relative path starts at the folder of the recipe file that names it; on the command line"):
        fetched_folder("./nowhere", None, "model.path")
