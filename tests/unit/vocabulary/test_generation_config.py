"""A generation config that transformers loads and refuses to save: found before training, and mended in what is saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.own_tokenizers import byte_tokenizer, saved
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from unit.runs.test_initial import CONFIG, build

from align.config.schema import Model
from align.errors import UserError
from align.learner.policy import Policy
from align.run.initial_policy import model_folder
from align.train import train
from align.vocabulary.generation import exported, writable
from align.vocabulary.model_folder import checked


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("model"), byte_tokenizer())


def given(folder: Path, values: dict) -> Path:
    (folder / "generation_config.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    ("values", "left_out"),
    [
        ({"do_sample": False, "temperature": 0.9, "top_p": 0.6}, ("temperature", "top_p")),
        ({"top_k": 7, "max_new_tokens": 5}, ("top_k",)),
        ({"do_sample": True, "temperature": 0.9, "length_penalty": 2.0, "num_beams": 1}, ("length_penalty",)),
        ({"length_penalty": 2.0, "num_beams": 3, "min_p": 0.1}, ("min_p",)),
        ({"pad_token_id": -1, "eos_token_id": 256}, ("pad_token_id",)),
        ({"output_scores": True, "temperature": "hot"}, ("output_scores", "temperature")),
        ({"use_cache": False, "cache_implementation": "static"}, ("cache_implementation",)),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.95}, ()),
    ],
)
def test_every_value_that_can_be_saved_is_saved(folder: Path, tmp_path: Path, values: dict, left_out: tuple[str, ...]):
    config = GenerationConfig.from_pretrained(given(folder, values))
    mended, missing = writable(config)
    assert missing == left_out
    mended.save_pretrained(tmp_path)  # what transformers refuses of `config` where something is missing
    again = json.loads((tmp_path / "generation_config.json").read_text())
    assert {k: v for k, v in again.items() if k != "transformers_version"} == {k: v for k, v in values.items() if k not in left_out}
    notes = checked(str(folder), AutoTokenizer.from_pretrained(folder))
    assert [all(name in note for name in left_out) for note in notes] == [True] * bool(left_out)


def test_the_policy_exports_what_it_could_not_save(folder: Path, tmp_path: Path):
    given(folder, {"do_sample": False, "temperature": 0.9, "max_new_tokens": 5})
    with pytest.raises(ValueError, match="temperature"):
        AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "transformers")
    Policy(str(folder), Model(path=str(folder))).export(tmp_path / "ours")
    found = GenerationConfig.from_pretrained(tmp_path / "ours")
    assert (found.temperature, found.max_new_tokens, found.eos_token_id) == (None, 5, 256)


def test_values_in_an_old_config_file_are_of_the_kind(tmp_path: Path):
    old = saved(tmp_path / "old", byte_tokenizer())
    (old / "generation_config.json").unlink()
    config = json.loads((old / "config.json").read_text())
    (old / "config.json").write_text(json.dumps(config | {"temperature": 0.7, "length_penalty": 3.0}))
    (note,) = checked(str(old), AutoTokenizer.from_pretrained(old))
    assert "config.json" in note and "length_penalty: 3.0" in note and "temperature: 0.7" in note
    Policy(str(old), Model(path=str(old))).export(tmp_path / "saved")
    assert GenerationConfig.from_pretrained(tmp_path / "saved").temperature is None


@pytest.mark.parametrize("values", [{"early_stopping": "soon"}, {"num_return_sequences": 4}, {"max_new_tokens": 0}])
def test_one_that_no_model_is_loaded_with_is_refused(folder: Path, values: dict):
    with pytest.raises(UserError, match=r"generation_config.json: transformers refuses it: .* Correct this value, or delete it") as error:
        checked(str(given(folder, values)), AutoTokenizer.from_pretrained(folder))
    assert "\n" not in str(error.value)


def test_a_run_ends_with_a_saved_model(folder: Path, tmp_path: Path, capsys):
    given(folder, {"do_sample": False, "temperature": 0.9, "top_p": 0.6})
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    recipe = build({"path": str(folder)}, steps=1, batch={"prompts": 1}, task={"name": "jsonl", "path": str(tmp_path / "rows.jsonl")})
    train(recipe, tmp_path / "run")
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    assert capsys.readouterr().out.count("temperature: 0.9, top_p: 0.6") == 1


def test_a_model_from_nothing_is_saved_too(tmp_path: Path):
    recipe = build({"config": CONFIG | {"temperature": 0.5, "num_hidden_layers": 1}})
    found = GenerationConfig.from_pretrained(model_folder(recipe, tmp_path, train, print))
    assert found.temperature is None and found.eos_token_id == 2


def test_every_end_of_an_answer_is_saved_once():
    assert exported(GenerationConfig(eos_token_id=5), [5]).eos_token_id == 5
    assert exported(GenerationConfig(eos_token_id=[5, 7]), [7]).eos_token_id == [5, 7]
    assert exported(GenerationConfig(eos_token_id=5), [9, 5]).eos_token_id == [9, 5]
    assert exported(GenerationConfig(), [9]).eos_token_id == 9
