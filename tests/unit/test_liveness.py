"""Every key of every part and section is alive: with another value of it, something that can be seen is different.

What is seen is a loss, a gradient, a statistic, a weight, a reward, examples, a schedule, or a declared side effect (the size of a
batch of the engine, the options of an actor). A number is made half as large again, a truth value turned round; where that is not
enough, `TABLE` has the other value and what both sides need beside it. A key that nobody sees fails here, so none can land dead.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from enumeration import NAME, Problem
from models import tiny_model, tiny_scorer

import align.engines._sampler
import align.weight_sync
from align import config, recipe, registry, train
from align.core.logprobs import Head
from align.divergences.reverse_kl import ReverseKl
from align.engines import Sampling
from align.errors import UserError
from align.experience import Examples
from align.initial import model_folder
from align.learner.policy import Policy
from align.recipe import Model, Recipe, RewardLimits
from align.rewards import Reward
from align.tasks.countdown import Countdown
from align.types import Group, Prompt, Rollout, TokenContext
from align.workers.resources import needs
from align.workers.reward_runner import run_rewards

UNRELIABLE = f"{Path(__file__).parents[1] / 'plugins' / 'unreliable.py'}:Unreliable"


@dataclasses.dataclass(frozen=True)
class Change:
    """A key's other value, and the node that both sides share; with `stops`, one side of the two is refused."""

    to: Any
    given: dict[str, Any] = dataclasses.field(default_factory=dict)
    stops: bool = False


# What a part must be given. `{other}`, `{model}` and `{data}` stand for folders and files made below.
REQUIRED: dict[tuple[str, str], dict[str, Any]] = {
    ("coefficient", "adaptive"): {"target": 0.1, "horizon": 100.0},
    ("coefficient", "constant"): {"value": 0.1},
    ("coefficient", "cosine"): {"start": 0.1, "end": 0.3, "steps": 10},
    ("coefficient", "grpo_d"): {"minimum": 0.02, "maximum": 0.1, "steps": 10},
    ("coefficient", "lagrangian"): {"target": 0.1},
    ("coefficient", "linear"): {"start": 0.1, "end": 0.3, "steps": 10},
    ("coefficient", "piecewise"): {"points": [[0, 0.1], [10, 0.2]]},
    ("coefficient", "ppo_penalty"): {"target": 0.1},
    ("coefficient", "warmup"): {"steps": 4, "to": 0.1},
    ("engine", "scripted"): {"answers": ["1+2", "3"]},
    ("reference", "checkpoint"): {"path": "{other}"},
    ("reference", "soup"): {"paths": ["{other}"]},
    ("reference", "teacher"): {"path": "{other}"},
    ("regularizer", "composed"): {"coefficient": 0.1},
    ("reward", "learned"): {"path": "{scorer}"},
    ("shaping", "off_policy_mask"): {"threshold": 0.02},
    ("shaping", "overlong"): {"limit": 3, "buffer": 2},
    ("shaping", "uncertainty_bonus"): {"steps": 3, "share": 0.4},
    ("task", "jsonl"): {"path": "{data}"},
    ("task", "preferences"): {"path": "{pairs}"},
    ("weighting", "advantage_sign"): {"positive": 0.25, "negative": 2.0},
    ("weighting", "entropy_gate"): {"keep": "high", "quantile": 0.5},
    ("weighting", "log_ratio_sign"): {"above": 2.0, "below": 0.5},
    ("weighting", "normalized"): {"of": "reward_guided"},
    ("weighting", "token_mask"): {"first": 1},
}
EVALUATED = {"evaluation": {"every": 0, "problems": 2, "samples": 2}}
LORA = {"model": {"path": "{model}", "lora": {"rank": 2}}}
CONFIG = {"model_type": "qwen2", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
          "intermediate_size": 16}
TABLE: dict[tuple[str, str, str], Change] = {
    ("algorithm", "*", "reduction"): Change("sequence"),
    ("algorithm", "grpo", "clip_low"): Change(0.01, {"epochs": 2}),
    ("algorithm", "grpo", "clip_high"): Change(0.01, {"epochs": 2}),
    ("algorithm", "grpo", "advantage"): Change("group_centred"),
    ("algorithm", "grpo", "surrogate"): Change("reinforce", {"epochs": 2}),
    ("algorithm", "ppo", "critic"): Change("separate"),
    ("algorithm", "ppo", "gamma"): Change(0.5),
    ("algorithm", "ppo", "lam"): Change(0.5),
    ("algorithm", "ppo", "clip_low"): Change(0.01),
    ("algorithm", "ppo", "clip_high"): Change(0.01),
    ("algorithm", "ppo", "value_clip"): Change(1e-4),
    ("algorithm", "ppo", "risk"): Change(0.5),
    ("algorithm", "dpo", "preference"): Change("hinge"),
    ("algorithm", "dpo", "label_smoothing"): Change(0.2, {"preference": "cdpo", "label_smoothing": 0.1}),
    ("coefficient", "beta_dpo", "momentum"): Change(0.5),
    ("coefficient", "beta_dpo", "per"): Change("batch"),
    ("coefficient", "grpo_d", "monotone"): Change(True),
    ("coefficient", "lagrangian", "minimum"): Change(0.02),
    ("coefficient", "lagrangian", "maximum"): Change(0.5),
    ("coefficient", "piecewise", "points"): Change([[0, 0.1], [10, 0.3]]),
    ("coefficient", "ppo_penalty", "minimum"): Change(0.02),
    ("coefficient", "ppo_penalty", "maximum"): Change(8.0),
    ("coefficient", "warmup", "to"): Change({"name": "linear", "start": 0.1, "end": 0.2, "steps": 9}),
    ("critic", "*", "lr"): Change(1e-3),
    ("critic", "separate", "path"): Change("{scorer}"),
    ("engine", "*", "device"): Change("meta"),
    ("engine", "*", "max_batch"): Change(3),
    ("engine", "scripted", "answers"): Change(["1+2", "4"]),
    ("engine", "vllm", "dtype"): Change("bfloat16"),
    ("engine", "vllm", "gpu_memory_utilization"): Change(0.5),
    ("engine", "vllm", "enforce_eager"): Change(True),
    ("estimator", "straight_through", "of"): Change("k1"),
    ("estimator", "top_k", "k"): Change(2),
    ("reference", "*", "path"): Change("{third}"),
    ("reference", "soup", "paths"): Change(["{third}"]),
    ("reference", "soup", "weights"): Change([0.25]),
    ("reference", "ema", "every"): Change(2),
    ("reference", "hard_reset", "every"): Change(2, {"every": 1}),
    ("regularizer", "composed", "allow_biased"): Change(True, {"estimator": "k3"}, stops=True),
    ("regularizer", "composed", "divergence"): Change("jensen_shannon"),
    ("regularizer", "composed", "estimator"): Change("exact"),
    ("regularizer", "composed", "coefficient"): Change(0.2),
    ("regularizer", "composed", "weighting"): Change({"name": "token_mask", "first": 1}),
    ("regularizer", "composed", "reference"): Change("ema"),
    ("regularizer", "composed", "placement"): Change("reward"),
    ("regularizer", "composed", "credit"): Change("summed"),
    ("regularizer", "composed", "ratio_to"): Change("sampler"),
    ("regularizer", "composed", "ratio_cap"): Change(1.001),
    ("regularizer", "composed", "beyond_cap"): Change("mask", {"ratio_cap": 1.001}),
    ("regularizer", "composed", "clamp"): Change(1e-3),
    ("reward", "learned", "path"): Change("{other_scorer}"),
    ("reward", "learned", "gold"): Change("wordy"),
    ("reward", "learned", "max_batch"): Change(3),
    ("reward", "learned", "dtype"): Change("bfloat16"),
    ("shaping", "importance", "level"): Change("sequence"),
    ("shaping", "importance", "beyond_cap"): Change("mask", {"cap": 1.05}),
    ("shaping", "importance", "cap"): Change(1.02, {"cap": 1.05}),
    ("shaping", "length_complexity", "base"): Change(1.5),
    ("shaping", "munchausen", "alpha"): Change(0.5),
    ("shaping", "munchausen", "credit"): Change("summed"),
    ("shaping", "munchausen", "floor"): Change(-0.01),
    ("shaping", "uncertainty_bonus", "mask_id"): Change(1),
    ("task", "countdown", "size"): Change(9, {"size": 8}),
    ("task", "countdown", "sort_share"): Change(0.5, {"size": 8, "demonstrations": True}),
    ("task", "countdown", "echo_chance"): Change(0.9, {"size": 8, "demonstrations": True}),
    ("task", "countdown", "*"): Change(..., {"size": 8}),
    ("task", "*", "split"): Change("test", {"path": "{splits}", "split": "train"}),
    ("task", "*", "subset"): Change("two", {"path": "{subsets}", "subset": "one"}),
    ("task", "*", "eval_split"): Change("test", {"path": "{splits}"}),
    ("task", "preferences", "path"): Change("{held_out_pairs}"),
    ("task", "preferences", "eval_path"): Change("{held_out_pairs}"),
    ("task", "preferences", "prompt"): Change("question"),
    ("task", "preferences", "chosen"): Change("best"),
    ("task", "preferences", "rejected"): Change("worst"),
    ("task", "preferences", "answers"): Change("all"),
    ("task", "preferences", "id"): Change("key"),
    ("task", "preferences", "too_long"): Change("drop", {"path": "{long}"}, stops=True),
    ("task", "preferences", "held_out"): Change("countdown"),
    ("task", "jsonl", "path"): Change("{held_out}"),
    ("task", "jsonl", "eval_path"): Change("{held_out}"),
    ("task", "jsonl", "prompt"): Change("question"),
    ("task", "jsonl", "answer"): Change("reply"),
    ("task", "jsonl", "id"): Change("key"),
    ("weighting", "entropy_gate", "keep"): Change("low"),
    ("weighting", "entropy_gate", "threshold"): Change(0.9, {"quantile": None, "threshold": 1.0}),
    ("weighting", "kl_covariance", "ratio"): Change(0.2),
    ("weighting", "normalized", "of"): Change({"name": "token_mask", "first": 1}),
    ("weighting", "reward_guided", "keep"): Change("group"),
    ("weighting", "token_mask", "token_ids"): Change([2]),
    ("weighting", "token_mask", "keep"): Change("others"),
    # Of the recipe: the section is the part.
    ("recipe", "", "max_engine_gap"): Change(1e-12, stops=True),
    ("recipe", "", "task"): Change({"name": "countdown", "size": 8, "seed": 1}),
    ("recipe", "", "algorithm"): Change({"name": "grpo", "advantage": "group_centred"}),
    ("recipe", "", "reward"): Change("loose"),
    ("recipe", "", "engine"): Change({"name": "scripted", "answers": ["1+2"]}),
    ("recipe", "", "regularizers"): Change({"kl": {"coefficient": 0.5}}),
    ("recipe", "", "shapings"): Change({"long": {"name": "overlong", "limit": 6, "buffer": 5}}),
    ("recipe", "model", "path"): Change("{other}"),
    ("recipe", "model", "config"): Change(CONFIG, {"model": {"path": None, "config": CONFIG | {"hidden_size": 8}}}),
    ("recipe", "model", "recipe"): Change("{data}2", {"model": {"path": None, "recipe": "{data}1"}}),
    ("recipe", "model", "dtype"): Change("bfloat16", {"max_engine_gap": 9.0}),
    ("recipe", "model.lora", "rank"): Change(2),
    ("recipe", "model.lora", "alpha"): Change(64.0, LORA),
    ("recipe", "model.lora", "dropout"): Change(0.5, LORA | {"max_engine_gap": 9.0}),
    ("recipe", "model.lora", "targets"): Change("q_proj,v_proj", LORA),
    ("recipe", "batch", "prompts"): Change(2),
    ("recipe", "batch", "micro_tokens"): Change(32),
    ("recipe", "batch", "head_elements"): Change(64),
    ("recipe", "head", "backend"): Change("triton", stops=True),
    ("recipe", "model", "device"): Change("cuda", stops=True),
    ("recipe", "optimizer", "betas"): Change([0.5, 0.99]),
    ("recipe", "optimizer", "weight_decay"): Change(0.5),
    ("recipe", "optimizer", "warmup_steps"): Change(2),
    ("recipe", "optimizer", "schedule"): Change("linear"),
    ("recipe", "optimizer", "final_fraction"): Change(0.5, {"optimizer": {"schedule": "linear", "lr": 1e-2}}),
    ("recipe", "optimizer", "max_grad_norm"): Change(1e-3),
    ("recipe", "workers", "backend"): Change("ray"),
    ("recipe", "workers", "threads"): Change(2),
    ("recipe", "workers", "*"): Change(..., {"workers": {"backend": "ray"}}),
    ("recipe", "reward_limits", "seconds"): Change(0.05, {"reward_limits": {"seconds": 0.02}}),
    ("recipe", "reward_limits", "on_failure"): Change("score"),
    ("recipe", "reward_limits", "failure_score"): Change(-1.0, {"reward_limits": {"seconds": 0.02, "on_failure": "score"}}),
    ("recipe", "evaluation", "every"): Change(1, EVALUATED),
    ("recipe", "evaluation", "*"): Change(..., EVALUATED),
    ("recipe", "checkpoint", "every"): Change(1),
    ("recipe", "checkpoint", "keep"): Change(1, {"checkpoint": {"every": 1}}),
}


LINKED: dict[str, Change] = {
    "divergence": Change("jensen_shannon"), "estimator": Change("exact"), "coefficient": Change(0.2), "weighting": Change("sampo"),
    "reference": Change({"name": "ema", "rate": 0.5}), "clamp": Change(1e-3)}
"""What a regularizer reads of its keys where it is placed as the link of a preference loss."""


def derived(value: Any) -> Any:
    """Another value of a number or a truth value."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    assert isinstance(value, float), f"{value!r} needs an entry in TABLE"
    return value * 1.5 if value else 0.5


def parts() -> list[tuple[str, str]]:
    return [(kind, name) for kind in registry.ROOMS for name in registry.shipped(kind)]


def sections(cls: type = Recipe, place: str = "") -> list[tuple[str, str, Any]]:
    """Every leaf of a recipe: its section, its name, its default."""
    found = []
    for f in dataclasses.fields(cls):
        if "section" in f.metadata:
            found += sections(f.metadata["section"], f"{place}.{f.name}".lstrip("."))
        else:
            found.append((place, f.name, f.default))
    return found


def leaves() -> list[tuple[str, str, str, Any]]:
    """(kind, part, field, default) of everything that can be configured."""
    found = []
    for kind, name in parts():
        cls = registry.resolve(kind, name, "")
        if dataclasses.is_dataclass(cls):
            found += [(kind, name, f.name, f.default) for f in dataclasses.fields(cls) if f.init]
    return found + [("recipe", *leaf) for leaf in sections()]


LEAVES = leaves()


def changed(kind: str, part: str, field: str, default: Any) -> tuple[dict, dict, bool]:
    """Both nodes, and whether one of them is to be refused."""
    entry = next((TABLE[key] for key in ((kind, part, field), (kind, "*", field), (kind, part, "*")) if key in TABLE), Change(...))
    required = START if kind == "recipe" else REQUIRED.get((kind, part), {})
    base = merged(required, entry.given)
    where = [*part.split("."), field] if kind == "recipe" and part else [field]
    now = base
    for key in where:
        now = now.get(key, default) if isinstance(now, dict) else default
    to = derived(now) if entry.to is ... else entry.to
    change = to
    for key in reversed(where):
        change = {key: change}
    other = merged(base, change) if kind == "recipe" else base | change
    return base, other, entry.stops


def merged(node: dict, change: dict) -> dict:
    """Sections key by key; anything else is replaced."""
    return node | {k: merged(node[k], v) if isinstance(v, dict) and isinstance(node.get(k), dict) and k in SECTIONS else v
                   for k, v in change.items()}


SECTIONS = {part for place, _, _ in sections() for part in place.split(".") if part}
START = {
    "steps": 2, "task": {"name": "countdown", "size": 8}, "algorithm": "grpo", "reward": "wordy", "model": {"path": "{model}"},
    "batch": {"prompts": 4, "samples": 2}, "sampling": {"max_tokens": 6}, "optimizer": {"lr": 1e-2}, "workers": {"backend": "local"},
    "evaluation": {"every": -1}, "reward_limits": {"seconds": 0.02},
}


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("liveness")
    rows = [{"prompt": "1+2=", "question": "2+1=", "answer": "3", "reply": "4", "id": "a", "key": "b"}]
    (folder / "data").write_text("\n".join(map(json.dumps, rows)))
    (folder / "held_out").write_text(json.dumps(rows[0] | {"prompt": "7="}))
    pairs = [{"prompt": f"{i}=", "question": f"{i}:", "chosen": "1+2", "rejected": f"3-{i}=", "best": f"{i}", "worst": "9", "id": f"{i}",
              "key": f"k{i}", "all": ["2", "3", f"{i}+"]} for i in range(4, 9)]
    for n, place in enumerate(("splits/train", "splits/test", "subsets/one/rows", "subsets/two/rows")):
        file = folder / f"{place}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps({"prompt": f"{n}{i}=", "answer": "1", "chosen": "1", "rejected": "2"}) + "\n" for i in range(3)))
    configurations = "".join(f"- config_name: {n}\n  data_files: {n}/*.jsonl\n" for n in ("one", "two"))
    (folder / "subsets" / "README.md").write_text(f"---\nconfigs:\n{configurations}---\n")
    for name, of in {"pairs": pairs, "held_out_pairs": [row | {"prompt": f"7{row['prompt']}"} for row in pairs],
                     "long": [*pairs, pairs[0] | {"id": "long", "chosen": "1" * 30}]}.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in of))
    for n in (1, 2):  # a warm start, that is not run here
        (folder / f"data{n}").write_text(json.dumps({"steps": n, "task": "countdown", "algorithm": "sft", "model": {"path": "nowhere"}}))
    models = {name: str(tiny_model(folder / name, seed=seed)) for seed, name in enumerate(("model", "other", "third"))}
    models |= {name: str(tiny_scorer(folder / name, seed=seed)) for seed, name in enumerate(("scorer", "other_scorer"))}
    written = ("data", "held_out", "pairs", "held_out_pairs", "long", "splits", "subsets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "datasets")
        patch.setenv("ALIGN_CACHE", str(folder / "cache"))
        yield models | {name: str(folder / name) for name in written} | {"folder": str(folder)}


def filled(node: Any, places: dict[str, str]) -> Any:
    """The node with its folders."""
    if isinstance(node, dict):
        return {k: filled(v, places) for k, v in node.items()}
    if isinstance(node, list):
        return [filled(v, places) for v in node]
    if isinstance(node, str):
        for name, path in places.items():
            node = node.replace(f"{{{name}}}", path)
    return node


def text(seen: Any) -> str:
    """Of anything that was seen, exactly; NaN is equal to itself."""
    def plain(x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            return x.detach().tolist()
        return x.tolist() if hasattr(x, "tolist") else dataclasses.asdict(x) if dataclasses.is_dataclass(x) else str(x)

    return json.dumps(seen, default=plain, sort_keys=True)


@cache
def context() -> TokenContext:
    """Every answer of up to three tokens, in ten groups, with everything that a part may look at."""
    problem = Problem(vocabulary=4, depth=3, end=0)
    logits, old, ref, sampler = (problem.random(seed, 0.7 if seed else 1.0) for seed in range(4))
    ctx = problem.context(logits.requires_grad_(), old, ref, ReverseKl(), sampler=old + 0.2 * sampler)
    batch, count = ctx.batch, len(problem.answers)
    rewards = torch.tensor([(0.0, 0.6, 1.0, 1.6, 0.3)[(i // 3 + 2) % 5] for i in range(count)])
    groups = torch.arange(count) % 10
    rewards[groups == 0] = 0.0
    advantages = torch.tensor([(-1.0, 0.5, 0.0, 2.0, -0.3)[t % 5] for t in range(len(batch.seq_ids))])
    same = torch.arange(len(batch.seq_ids)) % 7 == 0
    references = {NAME: dataclasses.replace(batch.references[NAME], logp=torch.where(same, batch.old_logp, batch.references[NAME].logp))}
    batch = dataclasses.replace(
        batch, group_ids=groups, rewards=rewards, advantages=advantages, references=references,
        entropy=ctx.entropy.float(), contexts={NAME: 0.3 * ctx.entropy.float()}, input_ids=batch.input_ids.clamp_min(0))
    return dataclasses.replace(ctx, batch=batch)


def divergence(part: Any, **_) -> Any:
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)
    return [part.value(x), part.coefficient(x), part.generator(x), part.f(x), *part.transform(part.f(x).abs())]


def estimator(part: Any, **_) -> Any:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    table = torch.log_softmax(torch.arange(12.0).reshape(2, 6).sin(), -1)
    return [part.value(ReverseKl(), x), part.coefficient(ReverseKl(), x), part.reward(ReverseKl(), x), part.outcomes(table, table.flip(0))]


def coefficient(part: Any, **_) -> Any:
    batch = dataclasses.replace(context().batch.select(torch.arange(4)), prompt_ids=("a", "a", "b", "b"),
                                group_ids=torch.tensor([0, 0, 1, 1]))
    near = [0.02 * (s % 11) for s in range(22)]
    seen = []
    for step, measured in enumerate([*near, *[1.0] * 150, *[0.0] * 150]):
        seen.append([part.beta(step), part.multipliers(batch, NAME)])
        part.update(measured, 8)
        part.update_prompts({"a": measured, "b": 0.002 * measured})
    return seen


def weighting(part: Any, **_) -> Any:
    return part.weights(context().batch, NAME)


def shaping(part: Any, **_) -> Any:
    batch, seen = context().batch, []
    for step in range(5):
        batch = dataclasses.replace(batch, step=step)
        other = part.other_context(batch)
        seen.append(None if other is None else [other.input_ids, other.prompt_lengths])
    return [*seen, part.rewards(batch, batch.rewards), part.advantages(batch, batch.advantages, NAME), part.metrics(batch, NAME)]


def algorithm(part: Any, places: dict[str, str], node: dict) -> Any:
    if part.samples:
        return updated({"algorithm": node, "optimizer": {"lr": 3e-2}}, places)
    if part.ranks:
        return updated(RANKED | {"algorithm": node, "regularizers": {NAME: LINK} if part.links else {}}, places, fresh=True)
    demonstrations = {"algorithm": node, "reward": None, "batch": {"prompts": 4},
                      "task": {"name": "countdown", "size": 8, "demonstrations": True}}
    return updated({k: v for k, v in START.items() if k != "reward_limits"} | demonstrations, places, fresh=True)


def regularizer(part: Any, places: dict[str, str], node: dict) -> Any:
    return updated({"regularizers": {NAME: node}, "algorithm": {"name": "grpo", "epochs": 2}, "optimizer": {"lr": 3e-2}}, places)


RANKED = {
    "steps": 3, "task": {"name": "preferences", "path": "{pairs}"}, "model": {"path": "{model}"}, "batch": {"prompts": 4},
    "sampling": {"max_tokens": 6}, "optimizer": {"lr": 3e-2}, "workers": {"backend": "local"}, "evaluation": {"every": -1}}
LINK = {"placement": "link", "coefficient": 0.1}


def updated(change: dict, places: dict[str, str], fresh: bool = False) -> Any:
    return run(change if fresh else merged(START, change), places)


def reference(part: Any, places: dict[str, str], node: dict) -> Any:
    policy = Policy(places["model"], Model(path=places["model"]))
    part.start(policy)
    seen = [part.content_hash(policy)]
    for step in (1, 2, 3):
        part.before_batch(policy)
        for _, p in policy.trained():
            p.data.mul_(1 + 0.1 * step)
        part.after_step(policy, step)
        seen.append(part.content_hash(policy))
    return seen


def critic(part: Any, places: dict[str, str], node: dict) -> Any:
    return updated({"algorithm": {"name": "ppo", "critic": node}, "optimizer": {"lr": 3e-2}}, places)


def reward(part: Any, **_) -> Any:
    prompt = Prompt(id="0", text="", token_ids=(1,), fields={"skill": "countdown", "numbers": [1, 2, 3, 4], "target": 10, "answer": "3"})
    answers, sizes = ("1+2+3+4", "10", "3", "12=10"), []
    part.start()
    if part.batched:
        part._model.register_forward_pre_hook(lambda model, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True)
    group = Group(prompt=prompt, rollouts=tuple(Rollout(token_ids=torch.ones(1).int().numpy(), text=a) for a in answers))
    return [part.score_groups([group]), sizes]


def task(part: Any, **_) -> Any:
    ranked = part.examples()[0].ranked
    dealt = [Examples(part, part.tokenizer() or Countdown().tokenizer(), 1, 0, 8).dropped] if ranked else []
    return [part.examples(), part.rankings(), part.suites(2), dealt]


def engine(part: Any, places: dict[str, str], node: dict) -> Any:
    if registry.resolve("engine", "vllm", "") is type(part):
        return started_vllm(part, places)
    widths = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("sample", "score"):
            real = getattr(align.engines._sampler, name)
            patch.setattr(align.engines._sampler, name, lambda model, prompts, *args, _real=real: (
                widths.append(len(prompts)), _real(model, prompts, *args))[1])
        part.start(places["model"], Sampling(max_tokens=4), 8)
        device = str(part._model.device)
        prompts = [Prompt(id=str(i), text="", token_ids=(3, 4 + i)) for i in range(4)]
        groups = [] if device == "meta" else part.generate(prompts, 2, 0)
    return [device, widths, [r.token_ids for g in groups for r in g.rollouts]]


def started_vllm(part: Any, places: dict[str, str]) -> Any:
    """The arguments vLLM is started with, on a machine with a GPU."""
    taken: dict[str, Any] = {}
    vllm, host = types.ModuleType("vllm"), types.ModuleType("align.weight_sync.vllm_host")
    vllm.LLM = lambda model, **options: taken.update(options)
    vllm.platforms = types.SimpleNamespace(current_platform=types.SimpleNamespace(is_cpu=lambda: False))
    host.BACKEND, host.connect = "fake", lambda llm: None
    with pytest.MonkeyPatch.context() as patch:
        for name, value in part.environment.items():
            patch.setenv(name, value)
        patch.setitem(sys.modules, "vllm", vllm)
        patch.setitem(sys.modules, host.__name__, host)
        patch.setattr(align.weight_sync, "vllm_host", host, raising=False)
        part.start(places["model"], Sampling(max_tokens=4), 8)
    return taken


RUNS: dict[str, str] = {}


def run(node: dict, places: dict[str, str]) -> str:
    """A whole run in this process: its numbers, its checkpoints, its weights, and the sizes of what it computed at a time."""
    node = filled(node, places)
    if text(node) not in RUNS:
        RUNS[text(node)] = text(_run(recipe.build(node), Path(tempfile.mkdtemp(dir=places["folder"]))))
    return RUNS[text(node)]


def _run(built: Recipe, folder: Path) -> Any:
    sizes, threads = [], []
    hidden, logits, save = Policy.hidden, Head.logits, train.checkpoints.save
    kept: list[list[str]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Policy, "hidden", lambda self, batch, *args: (
            sizes.append([*batch.input_ids.shape, self.causal_lm.is_gradient_checkpointing]), hidden(self, batch, *args))[1])
        patch.setattr(Head, "logits", lambda self, x, *args: (sizes.append(len(x)), logits(self, x, *args))[1])
        patch.setattr(torch, "set_num_threads", threads.append)
        patch.setattr(train.checkpoints, "save", lambda run_dir, *args: (
            save(run_dir, *args), kept.append(sorted(p.name for p in (run_dir / "checkpoints").iterdir())))[0])
        patch.setattr("align.telemetry.plots.draw", lambda metrics, plot: plot)
        summary = train.train(built, folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    numbers = [{k: v for k, v in line.items() if not k.startswith(("time/", "tokens/s", "sync/"))} for line in lines]
    weights = hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()
    return [numbers, summary["before"], summary["after"], kept, sizes, threads, weights]


class FakeActor:
    """Takes down what Ray is asked for."""

    def __init__(self, seen: list):
        self.seen = seen

    def options(self, **options) -> FakeActor:
        self.seen.append(options)
        return self

    def remote(self, *args) -> FakeActor:
        self.seen.append("one")
        return self


def workers(built: Recipe) -> Any:
    """What the processes of a run are asked for."""
    from align.workers import cluster, local, open_workers

    seen: list = [[dataclasses.asdict(n) for n in needs(built)]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local.LocalWorkers, "__init__", lambda self, *args: None)
        patch.setattr(cluster, "connect", lambda address: False)
        patch.setattr(cluster, "_check", lambda wanted: None)
        patch.setattr(cluster.RayWorkers, "_start", lambda self: None)
        for name in ("LearnerActor", "RolloutActor", "RewardActor"):
            patch.setattr(cluster, name, FakeActor(seen))
        made = open_workers(built, "model", 4)
    pools = [[p.role, len(p.actors), p.start_timeout] for p in made.pools] if isinstance(made, cluster.RayWorkers) else []
    return [type(made).__name__, seen, pools]


def limits(limits: RewardLimits) -> Any:
    """Of an answer that takes 0.03 seconds and one whose reward raises."""
    import time

    class Slow(Reward):
        def score(self, prompt: Prompt, response: str) -> float:
            time.sleep(0.03)
            return 1.0 / len(response)

    rollouts = tuple(Rollout(token_ids=torch.ones(1).int().numpy(), text=t) for t in ("1", ""))
    scored = run_rewards(Slow(), limits, [Group(prompt=Prompt(id="0", text="", token_ids=(1,)), rollouts=rollouts)])
    return [scored.values, scored.failed]


def warm_start(built: Recipe, folder: Path) -> Any:
    """The recipe that is run first."""
    run_first: list[Any] = []

    def first(warm: Recipe, unfinished: Path) -> None:
        run_first.append(config.resolved(warm))
        (unfinished / "model").mkdir(parents=True)
        (unfinished / "model" / "config.json").write_text("{}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGN_CACHE", str(folder / f"cache{built.model.recipe[-1]}{len(list(folder.iterdir()))}"))
        model_folder(built, folder, first, lambda note: None)
    return run_first


def seen_of_recipe(place: str, field: str, node: dict, places: dict[str, str]) -> str:
    built = recipe.build(filled(node, places))
    if place == "workers":
        return text(workers(built)) if built.workers.backend == "ray" or field == "backend" else run(node, places)
    if place == "reward_limits":
        return text(limits(built.reward_limits))
    if (place, field) == ("model", "recipe"):
        return text(warm_start(built, Path(places["folder"])))
    return run(node, places)


PROBES: dict[str, Callable] = {f.__name__: f for f in (
    divergence, estimator, coefficient, critic, weighting, shaping, algorithm, regularizer, reference, reward, task, engine)}


def seen(kind: str, part: str, field: str, node: dict, places: dict[str, str]) -> str:
    if kind == "recipe":
        return seen_of_recipe(part, field, node, places)
    node = filled({"name": part, **node}, places)
    return text(PROBES[kind](config.build_part(kind, node, kind), places=places, node=node))


def test_there_is_a_probe_for_every_room():
    assert PROBES.keys() == registry.ROOMS.keys()


def test_the_tables_name_what_there_is():
    known = {leaf[:3] for leaf in LEAVES}
    stale = [key for key in TABLE if key not in known and "*" not in key]
    assert not stale and REQUIRED.keys() <= set(parts())


@pytest.mark.parametrize(("kind", "part"), [*dict.fromkeys(leaf[:2] for leaf in LEAVES if leaf[0] != "recipe")])
def test_nothing_is_seen_to_change_by_itself(kind: str, part: str, places: dict[str, str]):
    node = changed(kind, part, "*", 0)[0]
    first = seen(kind, part, "", node, places)
    RUNS.clear()
    assert seen(kind, part, "", node, places) == first


@pytest.mark.parametrize(("kind", "part", "field", "default"), LEAVES, ids=[".".join(filter(None, leaf[:3])) for leaf in LEAVES])
def test_every_key_is_alive(kind: str, part: str, field: str, default: Any, places: dict[str, str]):
    base, other, stops = changed(kind, part, field, default)
    assert text(base) != text(other)
    if stops:
        outcomes = []
        for node in (base, other):
            try:
                outcomes.append(bool(seen(kind, part, field, node, places)))
            except UserError:
                outcomes.append(False)
        assert sorted(outcomes) == [False, True]
    else:
        assert seen(kind, part, field, base, places) != seen(kind, part, field, other, places)


@pytest.mark.parametrize("field", LINKED)
def test_every_key_of_a_link_is_alive(field: str, places: dict[str, str]):
    nodes = [{"algorithm": "dpo", "regularizers": {NAME: link}} for link in (LINK, LINK | {field: LINKED[field].to})]
    one, other = (updated(RANKED | node, places, fresh=True) for node in nodes)
    assert one != other


def test_the_table_of_links_names_every_key_that_a_link_reads():
    """The others are refused beside it (test_links.py), or say what it is."""
    composed = {f.name for f in dataclasses.fields(registry.resolve("regularizer", "composed", ""))}
    assert composed - LINKED.keys() == {"placement", "credit", "ratio_to", "ratio_cap", "beyond_cap", "allow_biased"}
