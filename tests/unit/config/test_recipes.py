"""Every shipped recipe loads, says only what differs from its base, and round-trips through `recipe.yaml`."""

from pathlib import Path

import pytest
from helpers.paths import ROOT
from omegaconf import OmegaConf

from align.config import nodes, recipes, yaml_files
from align.errors import RecipeError

RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_it_loads_and_round_trips(path: Path):
    loaded = recipes.load(path)
    node = nodes.resolved(loaded)
    assert nodes.resolved(recipes.build(node)) == node
    assert nodes.resolved(recipes.build(OmegaConf.to_container(OmegaConf.create(OmegaConf.to_yaml(OmegaConf.create(node)))))) == node


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_it_repeats_nothing_of_its_base(path: Path):
    own = OmegaConf.to_container(OmegaConf.load(path))
    if "base" not in own:
        return
    base = yaml_files.load(path.parent / own.pop("base"))
    assert not list(repeats(own, base, ""))


def repeats(own: dict, base: dict, where: str):
    for key, value in own.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            yield from repeats(value, base[key], f"{where}{key}.")
        elif key in base and base[key] == value:
            yield f"{where}{key}"


def minimal(**changes) -> dict:
    return {
        "steps": 2,
        "task": "countdown",
        "reward": "countdown_exact",
        "algorithm": "grpo",
        "model": {"path": "nowhere"},
        "batch": {"prompts": 4},
    } | changes


@pytest.mark.parametrize(
    ("changes", "where", "says"),
    [
        ({"reward": None}, "reward", "learns from rewards"),
        ({"algorithm": "sft"}, "reward", "changes nothing: sft learns from demonstrations"),
        ({"algorithm": {"name": "grpo", "minibatches": 3}}, "batch.prompts", "4 prompts do not divide into 3 minibatches"),
        ({"workers": {"backend": "local", "rollout": 2}}, "workers", "one process, where rollout changes nothing: set workers.rollout=1"),
        ({"workers": {"backend": "local", "learner_gpus": 1.0, "reward": 3}}, "workers", "set workers.reward=1 workers.learner_gpus=null"),
        ({"workers": {"gpus": 1.0}}, "workers.gpus", "is two keys: workers.learner_gpus, of the learner, and workers.rollout_gpus"),
        ({"workers": {"rollout_gpus": -1}}, "workers.rollout_gpus", "must be at least 0, not -1"),
        ({"workers": {"learner_gpus": 1.5}}, "workers", "learner_gpus must be a fraction of one GPU or a whole number, not 1.5"),
        (
            {"workers": {"learner_gpus": 0}, "model": {"path": "a", "device": "cuda"}},
            "workers.learner_gpus",
            "0 hides the GPUs, and model.device: cuda wants one",
        ),
        (
            {"workers": {"rollout_gpus": 0}, "engine": {"name": "transformers", "device": "cuda:0"}},
            "workers.rollout_gpus",
            "0 hides the GPUs, and engine.device: cuda:0 wants one",
        ),
        (
            {"workers": {"learner_gpus": 1}, "model": {"path": "a", "device": "cpu"}},
            "workers.learner_gpus",
            "1 reserves GPUs, and model.device: cpu uses none",
        ),
        *(
            (
                {"algorithm": {"name": "grpo", "advantage": advantage}, "batch": {"prompts": 4, "samples": 1}},
                "batch.samples",
                "set it to 2 or more",
            )
            for advantage in ("group_centred", "leave_one_out", "group_standardised", "batch_standardised")
        ),
        (
            {
                "regularizers": {
                    "kl": {"coefficient": 0.1},
                    "other": {"coefficient": 0.1, "credit": "summed"},
                    "again": {"coefficient": 0.3},
                }
            },
            "regularizers.again",
            "is the same as regularizers.kl in everything but its coefficient: keep one",
        ),
        ({"workers": {"backend": "slurm"}}, "workers", "backend must be ray or local"),
        ({"model": {"path": "a", "recipe": "b.yaml"}}, "model", "exactly one of path, recipe, config; given: path, recipe"),
        ({"model": {"path": "a", "lora": {"alpha": 8.0}}}, "model.lora.alpha", "changes nothing"),
        ({"optimizer": {"final_fraction": 0.1}}, "optimizer", "final_fraction changes nothing"),
        ({"sampling": {"temperature": 0.0}}, "sampling", "temperature must be positive"),
        ({"batch": {"prompts": 0}}, "batch.prompts", "must be at least 1"),
        ({"reward_limits": {"failure_score": -1.0}}, "reward_limits", "failure_score changes nothing with on_failure: drop"),
        ({"regularizers": {"kl": {"coefficient": 0.1, "estimator": "k1"}}}, "regularizers.kl", "expected gradient zero"),
        ({"regularizers": {"kl": {"coefficient": 0.1, "allow_biased": True}}}, "regularizers.kl", "allow_biased changes nothing"),
        ({"algorithm": {"name": "grpo", "reduction": "tokens"}}, "algorithm.reduction", "called 'tokens'; did you mean 'token'?"),
        ({"algorithm": {"name": "grpo", "epochs": 0}}, "algorithm", "epochs must be at least 1"),
        ({"algorithm": {"name": "grpo", "clip_high": 0.28}}, "algorithm.clip_high", "write algorithm.surrogate: {clip_high: ...}"),
        ({"algorithm": {"name": "ppo", "clip_low": 0.1}}, "algorithm.clip_low", "write algorithm.surrogate: {clip_low: ...}"),
        ({"algorithm": {"name": "grpo", "ceiling": 2.0}}, "algorithm.ceiling", "algorithm.surrogate: {name: dual_clip, ceiling: ...}"),
        (
            {"algorithm": {"name": "grpo", "temperature_negative": 2.0}},
            "algorithm.temperature_negative",
            "{name: sapo, temperature_negative: ...}",
        ),
        *(
            ({"algorithm": {"name": "ppo", key: 1.0}}, f"algorithm.{key}", f"write algorithm.advantage: {{{key}: ...}}")
            for key in ("gamma", "lam", "whiten")
        ),
        ({"algorithm": {"name": "dpo", "label_smoothing": 0.1}}, "algorithm.label_smoothing", "{name: cdpo, label_smoothing: ...}"),
        ({"algorithm": {"name": "grpo", "reduction": "answer"}}, "algorithm.reduction", "answer is called sequence_sum"),
        ({"algorithm": {"name": "sft", "reduction": {"name": "sequence"}}}, "algorithm.reduction", "sequence is called sequence_mean"),
        (
            {"algorithm": {"name": "sft", "likelihood_weight": 0.0}, "reward": None},
            "algorithm",
            "likelihood_weight: 0 leaves nothing to learn",
        ),
        (
            {"algorithm": {"name": "sft", "likelihood_weight": 0.0}, "reward": None, "regularizers": {"kl": {"coefficient": 0.0}}},
            "algorithm",
            "a coefficient that is not always 0",
        ),
        (
            {"regularizers": {"kl": {"coefficient": 0.1}}, "model": {"path": "a", "lora": {"rank": 2, "dropout": 0.1}}},
            "model.lora.dropout",
            "set it to 0 with regularizers",
        ),
        ({"model": {"path": "a", "lora": {"rank": 2, "dropout": 0.1}}}, "model.lora.dropout", "ratio would be noise"),
        ({"model": {"path": "a", "attn_implementation": "spda"}}, "model", "attn_implementation must be one of eager, sdpa, "),
        ({"checkpoint": {"every": 2, "keep": 0}}, "checkpoint.keep", "must be at least 1"),
        ({"evaluation": {"every": -1, "problems": 10}}, "evaluation.problems", "changes nothing: every: -1 never evaluates"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused_at_its_key(changes: dict, where: str, says: str):
    with pytest.raises(RecipeError) as refused:
        recipes.build(minimal(**changes))
    assert refused.value.where == where
    assert says in str(refused.value)


def test_one_answer_a_prompt_is_enough_for_a_critic_and_alike_is_not_the_same():
    recipes.build(minimal(algorithm="ppo", batch={"prompts": 4, "samples": 1}))
    recipes.build(minimal(regularizers={"kl": {"coefficient": 0.1}, "tsallis": {"coefficient": 0.1, "divergence": "tsallis"}}))


def test_the_published_forms_run_when_allowed():
    for estimator in ("k1", "k3"):
        recipes.build(minimal(regularizers={"kl": {"coefficient": 0.1, "estimator": estimator, "allow_biased": True}}))
    several = {"name": "grpo", "epochs": 2}
    recipes.build(minimal(regularizers={"kl": {"coefficient": 0.1, "estimator": "k2"}}))
    with pytest.raises(RecipeError, match="on-policy only"):
        recipes.build(minimal(algorithm=several, regularizers={"kl": {"coefficient": 0.1, "estimator": "k2"}}))
