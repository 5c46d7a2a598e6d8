"""The one-file GRPO is the framework's, bit for bit: the same loss, the same gradient, the same weights after each update."""

import copy
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from transformers import Qwen2ForCausalLM

from align.config.nodes import build_part
from align.config.recipes import build
from align.experience.packing import pack
from align.experience.prepare import prepare_batch
from align.learner.learner import Learner
from align.run.state import RunState
from align.types import Episode, Group, Prompt, Rewards

EXAMPLE = ROOT / "examples" / "grpo_in_one_file.py"
STEPS, PROMPTS, SAMPLES, LR = 3, 5, 4, 1e-3


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("grpo_in_one_file", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(example: ModuleType, tmp_path_factory) -> Path:
    """The example's model, saved for both sides, its weights spread so that the log-probs are far from uniform."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    model = example.make_model()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(10 if p.dim() > 1 else 1)
    model.save_pretrained(folder)
    build_part("task", "countdown", "task").tokenizer().save_pretrained(folder)
    return folder


def rollouts() -> tuple[list[list[int]], list[list[int]], np.ndarray]:
    """Of each sample: prompt, answer and reward. All lengths differ, rewards are not round, one group's are all alike."""
    rng = np.random.default_rng(0)
    prompts = [prompt for i in range(PROMPTS) for prompt in [rng.integers(1, 20, 6 + i).tolist()] * SAMPLES]
    answers = [rng.integers(1, 20, rng.integers(1, 13)).tolist() for _ in prompts]
    rewards = rng.random(len(prompts)).astype(np.float32)
    rewards[SAMPLES : 2 * SAMPLES] = 0.1
    return prompts, answers, rewards


@contextmanager
def differentiated(module: torch.nn.Module) -> Iterator[list[tuple[torch.Tensor, dict[str, torch.Tensor]]]]:
    """Each loss that is differentiated inside, and the gradient it leaves on the parameters of `module`."""
    seen, backward = [], torch.Tensor.backward

    def recording(loss: torch.Tensor) -> None:
        backward(loss)
        seen.append((loss.detach().clone(), {name: p.grad.clone() for name, p in module.named_parameters()}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "backward", recording)
        yield seen


def framework_updates(folder: Path, regularizers: dict):
    """The learner's own path, score, shape, update, three times on one batch: losses, gradients, weights and metrics."""
    recipe = build(
        {
            "steps": STEPS,
            "task": "countdown",
            "reward": "countdown_exact",
            "algorithm": "grpo",
            "regularizers": regularizers,
            "model": {"path": str(folder)},
            "workers": {"backend": "local"},
            "optimizer": {"lr": LR, "betas": [0.9, 0.99], "warmup_steps": 1, "schedule": "linear", "final_fraction": 0.1},
        }
    )
    learner = Learner(recipe, str(folder))
    prompts, answers, rewards = rollouts()
    groups = [
        Group(
            prompt=Prompt(id=str(i), text="", token_ids=tuple(prompts[i])),
            episodes=tuple(Episode.single_turn(np.array(a, dtype=np.int32), "") for a in answers[i : i + SAMPLES]),
        )
        for i in range(0, len(prompts), SAMPLES)
    ]
    for step in range(STEPS):
        betas = RunState(recipe).betas(step)
        batch = prepare_batch(recipe, learner.compute_logprobs(replace(pack(groups, Rewards(values=rewards)), betas=betas)))
        with differentiated(learner.policy.module) as seen:
            stats = learner.update(batch, step)
        ((loss, gradient),) = seen
        yield loss, gradient, dict(learner.policy.module.named_parameters()), stats


def example_updates(example: ModuleType, folder: Path, beta: float):
    model = Qwen2ForCausalLM.from_pretrained(folder)
    reference, optimizer = copy.deepcopy(model), example.make_optimizer(model, betas=(0.9, 0.99))
    prompts, answers, rewards = rollouts()
    batch = example.collate(prompts, answers)
    advantages = example.group_advantages(torch.from_numpy(rewards), torch.arange(PROMPTS).repeat_interleave(SAMPLES))
    for step in range(STEPS):
        with torch.no_grad():
            ref_logp = example.token_logps(reference, batch) if beta else None
        loss, kl = example.grpo_loss(model, batch, advantages, ref_logp, beta)
        with differentiated(model) as seen:
            example.apply(loss, model, optimizer, example.learning_rate(LR, step, STEPS, warmup=1, floor=0.1))
        ((_, gradient),) = seen
        yield loss.detach(), gradient, dict(model.named_parameters()), kl


@pytest.mark.parametrize("beta", [0.0, 0.1], ids=["plain", "with KL"])
def test_loss_gradient_and_weights_are_the_frameworks(beta: float, example: ModuleType, folder: Path):
    ours = framework_updates(folder, {"kl": {"divergence": "reverse_kl", "estimator": "sampled", "coefficient": beta}} if beta else {})
    norms = set()
    for framework, one_file in zip(ours, example_updates(example, folder, beta), strict=True):
        loss, gradient, weights, stats = framework
        assert torch.equal(one_file[0], loss)
        assert one_file[1].keys() == gradient.keys()
        assert all(torch.equal(one_file[1][name], g) and g.any() for name, g in gradient.items())
        assert all(torch.equal(one_file[2][name], w) for name, w in weights.items())
        norms.add(gradient["model.norm.weight"].norm().item())
        if beta:
            assert beta * one_file[3].item() == pytest.approx(stats["loss/reg/kl"].sum, rel=1e-6)
    assert len(norms) == STEPS, "the updates moved nothing"
    assert not beta or stats["loss/reg/kl"].sum > 1e-4, "without a drift the term is 0 and proves nothing"


def test_the_kl_term_has_the_gradient_of_the_kl_and_k3_in_the_loss_has_not(example: ModuleType):
    """Against the exact expectation, by enumeration of all one-token answers."""
    torch.manual_seed(0)
    model, reference = example.make_model().double(), example.make_model().double()
    with torch.no_grad():
        for p in (*model.parameters(), *reference.parameters()):
            p.mul_(5 if p.dim() > 1 else 1)
    size = len(example.VOCABULARY)
    batch = example.collate([[1, 5, 7]] * size, [[token] for token in range(size)])
    logp, ref_logp = example.all_logps(model, batch)[0], example.all_logps(reference, batch)[0].detach()

    def gradient(scalar: torch.Tensor) -> torch.Tensor:
        parts = torch.autograd.grad(scalar, list(model.parameters()), retain_graph=True)
        return torch.cat([part.flatten() for part in parts])

    reverse = gradient((logp.exp() * (logp - ref_logp)).sum())
    forward = gradient((ref_logp.exp() * (ref_logp - logp)).sum())
    no_advantage, expected = torch.zeros(1), torch.zeros_like(reverse)
    for token, probability in enumerate(logp.exp().tolist()):
        one = example.collate([[1, 5, 7]], [[token]])
        loss, _ = example.grpo_loss(model, one, no_advantage, ref_logp[token : token + 1], beta=1.0)
        expected += probability * gradient(loss)
    k3 = torch.expm1(ref_logp - logp) - (ref_logp - logp)
    published = gradient((logp.exp().detach() * k3).sum())
    scale = reverse.abs().max()
    # float64 throughout, but for the model's normalisation layers, which compute in float32 always.
    assert (expected - reverse).abs().max() < 1e-6 * scale
    assert (published - forward).abs().max() < 1e-6 * scale
    assert (reverse - forward).abs().max() > 0.1 * scale


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("9+7+3-5", True),
        ("7-5+3+9", True),
        ("9+7+3-6", False),
        ("9+7+3+5", False),
        ("9+5", False),
        ("14", False),
        ("9+7+3-5=14", False),
        ("-5+9+7+3", False),
        ("9+7+3-5-", False),
        ("9+9+1-5", False),
        ("", False),
    ],
)
def test_verifier(example: ModuleType, answer: str, right: bool):
    assert example.Problem((3, 5, 7, 9), 14, "9+7+3-5").solved_by(answer) is right


def test_it_runs_and_prints_the_table():
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--steps=2", "--warmup-steps=5", "--prompts=4", "--samples=4", "--problems=6", "--seed=3"],
        capture_output=True,
        text=True,
        check=True,
    )
    *steps, _, header, before, after = done.stdout.splitlines()
    assert [re.match(r"step +(\d+)  reward \d\.\d{3}  KL/token \d+\.\d{4}  \d+\.\d\d s$", line)[1] for line in steps] == ["0", "1"]
    assert header.split() == ["pass@1", "pass@4", "distinct", "KL/answer", "length"]
    for name, line in (("warm start", before), ("after GRPO", after)):
        assert line.startswith(name)
        pass_1, pass_k, distinct, kl, length = map(float, line.removeprefix(name).split())
        assert 0 <= pass_1 <= pass_k <= 1 and pass_k <= distinct + 1e-9 <= 4 and kl >= 0 and 1 <= length <= 12
    assert float(before.split()[-2]) == 0.0
