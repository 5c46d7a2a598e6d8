"""The initial policy as a Hugging Face folder, from any of the sources that a recipe can name."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

import align_kernels
from align import manifest
from align.cache import cache_folder
from align.config import nodes
from align.config.model_config import model_config_errors
from align.config.recipes import load
from align.config.schema import Recipe
from align.disk import writing
from align.errors import RecipeError, UserError
from align.run.merged_adapter import base_of, merged_adapter
from align.run.model_source import fetched_folder, stored_folder
from align.vocabulary import generation
from align.vocabulary.exported import refuse_damaged
from align.vocabulary.files import is_adapter, load_config

NOT_HASHED = {
    "cli.py",
    "complaints.py",
    "options.py",
    "outside_code.py",
    "find.py",
    "guard.py",
    "disk.py",
    "manifest.py",
    "model_source.py",
    "lock.py",
    "history.py",
    "installed.py",
    "exported.py",
    "judged_rows.py",
    "changes.py",
    "versions.py",
    "checkpoints.py",
    "tensor_files.py",
    "phases.py",
    "opening.py",
    "due.py",
    "ending.py",
    "signals.py",
    "docstrings.py",
    "tracebacks.py",
    "reward_failures.py",
    "diagnostics",
    "step_metrics.py",
    "watchdog.py",
    "folder.py",
    "oracle",
    "inspect",
    "tools",
    "integrations",
    "telemetry",
    "writers",
    "workers",
    "audit",
    "testing",
    "sweep",
    "bench",
}
"""Files and folders that do not affect a trained model."""


def content_hash(recipe: Recipe) -> str:
    """Hash of everything that can change the model: resolved recipe, plugins, sources of align and its kernels, training libraries."""
    digest = hashlib.sha256(json.dumps(nodes.resolved(recipe), sort_keys=True).encode())
    for plugin in nodes.plugins_of(recipe):
        digest.update(repr(sorted(plugin.files.items())).encode("utf-8", "replace"))
    for package in (Path(__file__).parents[1], Path(align_kernels.__file__).parent):
        for source in sorted(package.rglob("*.py")):
            if not NOT_HASHED & set(source.relative_to(package).parts):
                digest.update(source.read_bytes())
    digest.update(f"{torch.__version__} {transformers.__version__}".encode())
    return digest.hexdigest()[:16]


def model_folder(recipe: Recipe, run_dir: Path, train: Callable[[Recipe, Path], Any], note: Callable[[str], None]) -> str:
    """A folder that `from_pretrained` loads. `train` runs a warm start that is not cached, in a separate folder.

    Raises: RecipeError naming the key if the model is not available.
    """
    model = recipe.model
    if model.path is not None:
        folder = fetched_folder(model.path, model.revision, "model.path")
        refuse_damaged(folder, "model.path")
        if is_adapter(str(folder)):
            folder = merged_adapter(folder, run_dir / "initial", note)
        return str(folder.resolve())
    if model.config is not None:
        return str(_from_config(recipe, model.config, run_dir / "initial", note))
    assert model.recipe is not None  # exactly one of the three is given
    return str(_warm_start(model.recipe, train, note))


def config_of(recipe: Recipe) -> transformers.PretrainedConfig | None:
    """The initial policy's configuration, from its folder or its recipe; None if it is not on this machine yet."""
    model = recipe.model
    if model.recipe is not None:
        return config_of(_recipe(model.recipe))
    if model.config is not None:
        return _configured(model.config, recipe.task.tokenizer())
    assert model.path is not None  # exactly one of the three is given
    folder = stored_folder(model.path, model.revision)
    if folder is not None and is_adapter(str(folder)):
        folder = stored_folder(*base_of(folder))
    return None if folder is None else load_config(str(folder))


def _from_config(recipe: Recipe, config: Mapping[str, Any], folder: Path, note: Callable[[str], None]) -> Path:
    if folder.exists() and manifest.is_whole(folder, "the initial model", note):
        return folder
    tokenizer = recipe.task.tokenizer()
    options = _configured(config, tokenizer)
    torch.manual_seed(recipe.seed)
    with model_config_errors():
        model = transformers.AutoModelForCausalLM.from_config(options)
    model.generation_config = generation.writable(model.generation_config)[0]
    shutil.rmtree(folder, ignore_errors=True)
    with writing(f"the initial model {folder}"):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        manifest.write(folder, manifest.entries(folder))
    return folder


def _configured(config: Mapping[str, Any], tokenizer: Any) -> transformers.PretrainedConfig:
    if tokenizer is None:
        raise RecipeError("model.config", "a model trained from nothing needs a tokenizer, and this task brings none: use model.path")
    keys = dict(config)
    kind = keys.pop("model_type", None)
    if not isinstance(kind, str):
        raise RecipeError("model.config", "names no model_type: give a name of transformers, such as model_type: qwen2")
    with model_config_errors():
        return transformers.AutoConfig.for_model(
            kind,
            **{
                "vocab_size": len(tokenizer),
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
                **keys,
            },
        )


def _recipe(path: str) -> Recipe:
    try:
        return load(path)
    except RecipeError as error:
        raise RecipeError("model.recipe", str(error)) from error


def _warm_start(path: str, train: Callable[[Recipe, Path], Any], note: Callable[[str], None]) -> Path:
    recipe = _recipe(path)
    folder = cache_folder() / f"{Path(path).stem}-{content_hash(recipe)}"
    if folder.exists() and manifest.is_whole(folder, "the warm start", note):
        return folder / "model"
    note(f"warm start: running {path} once; kept in {folder}")
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}")
    _remove_abandoned(folder)
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        train(recipe, unfinished)
        with writing(f"the warm start {unfinished}"):
            manifest.write(unfinished, manifest.entries(unfinished))
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    _move_into_cache(unfinished, folder)
    return folder / "model"


def _move_into_cache(unfinished: Path, folder: Path) -> None:
    """Give a warm start its name in the cache, in place of a damaged one."""
    damaged = unfinished.with_name(f"{unfinished.name}.damaged")
    try:
        if folder.exists() and not manifest.is_whole(folder, "the warm start", lambda text: None):
            folder.rename(damaged)
        unfinished.rename(folder)
        manifest.sync(folder.parent)
    except OSError as error:
        # Another process finished the same warm start first; its result is the same.
        if not (folder / manifest.FILE).is_file():
            raise UserError(f"{folder}: the warm start cannot be kept there: {error}; set ALIGN_CACHE to a writable folder") from error
        shutil.rmtree(unfinished)
    finally:
        shutil.rmtree(damaged, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed processes left of this warm start: folders named by the number of a process that is no more."""
    for left in folder.parent.glob(f"{folder.name}.*"):
        number = left.name.rpartition(".")[2]
        if number.isdecimal() and not Path("/proc", number).exists():
            shutil.rmtree(left, ignore_errors=True)
