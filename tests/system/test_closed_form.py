"""The whole loop (engine, reward, pack, score, shape, update, sync) against the closed-form optimum of a bandit.

max_pi E_pi[r] - beta D_f(pi||ref) is solved by ref * exp(r/beta)/Z for reverse KL, and for every f the optimum has
r - beta f'(u) equal on its support (the KKT condition).
"""

from pathlib import Path

import pytest
import torch
from helpers.models import tiny_model
from helpers.paths import PLUGINS
from helpers.plugins.systematic import by_token
from transformers import AutoModelForCausalLM, AutoTokenizer

from align.config import recipes
from align.config.nodes import build_part
from align.train import train

PLUGIN = PLUGINS / "systematic.py"
SAMPLES = 512
BETA = 1.0
STEPS = 80

FORMS = {
    "reverse_kl exact": {"estimator": "exact"},
    "reverse_kl sampled": {"estimator": "sampled"},
    "forward_kl": {"divergence": "forward_kl", "estimator": "exact"},
    "forward_kl sampled": {"divergence": "forward_kl"},
    "jensen_shannon": {"divergence": "jensen_shannon", "placement": "reward"},
    "tsallis 0.5": {"divergence": {"name": "tsallis", "q": 0.5}},
}
SAME_FOR_ONE_TOKEN = {
    "in the reward": {"estimator": "k1", "placement": "reward", "credit": "summed"},
    "by sequence": {"estimator": "sampled", "placement": "reward", "credit": "sequence"},
}
"""Other ways to the gradient of "reverse_kl sampled", where an answer has one token."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("bandit"), tied=False, spread=0.15)


def log_policy(folder: Path) -> torch.Tensor:
    logits = AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([AutoTokenizer.from_pretrained(folder)("1")["input_ids"]])).logits
    return torch.log_softmax(logits[0, -1].detach().double(), -1)


def run(regularizer: dict, steps: int, model: Path, out: Path) -> torch.Tensor:
    """Train and return log pi [V]."""
    train(
        recipes.build(
            {
                "steps": steps,
                "task": f"{PLUGIN}:OnePrompt",
                "reward": f"{PLUGIN}:ByToken",
                "engine": f"{PLUGIN}:Systematic",
                # TRL's and our group mean contains the sample itself, which scales the policy gradient by 1 - 1/SAMPLES.
                "algorithm": {"name": "grpo", "advantage": "group_centred"},
                "regularizers": {"form": regularizer | {"coefficient": BETA}},
                "model": {"path": str(model)},
                "batch": {"prompts": 1, "samples": SAMPLES},
                "sampling": {"max_tokens": 1},
                "optimizer": {"lr": 0.03, "betas": [0.8, 0.95], "schedule": "cosine", "final_fraction": 1e-4, "max_grad_norm": 100.0},
                "workers": {"backend": "local"},
                "evaluation": {"every": -1},
                "samples": {"every": 0},
            }
        ),
        out,
    )
    return log_policy(out / "model")


@pytest.mark.parametrize("form", FORMS)
def test_the_loop_reaches_the_regularized_optimum(form: str, model: Path, tmp_path: Path):
    regularizer = FORMS[form]
    logp = run(regularizer, STEPS, model, tmp_path)
    ref = log_policy(model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    rewards = torch.tensor([by_token(tokenizer.decode([t])) for t in range(len(ref))]).double()
    divergence = build_part("divergence", regularizer.get("divergence", "reverse_kl"), "divergence")
    level = rewards - BETA * divergence.grad_weight(logp - ref)
    spread = level - (logp.exp() * level).sum()
    assert (logp - ref).abs().max() > 0.3, "the policy has to move for the optimum to mean anything"
    # pi * spread is the gradient of the objective in the logits: at the optimum it is below what the sampler resolves.
    assert (logp.exp() * spread).abs().max() < 1 / SAMPLES
    if "reverse_kl" in form:
        closed = torch.log_softmax(ref + rewards / BETA, -1)
        assert (logp - closed).abs().max() < 12 / SAMPLES


@pytest.mark.parametrize("form", SAME_FOR_ONE_TOKEN)
def test_the_other_ways_take_the_same_steps(form: str, model: Path, sampled: torch.Tensor, tmp_path: Path):
    logp = run(SAME_FOR_ONE_TOKEN[form], 8, model, tmp_path)
    assert (sampled - log_policy(model)).abs().max() > 0.1
    assert (logp - sampled).abs().max() < 1e-5


@pytest.fixture(scope="module")
def sampled(model: Path, tmp_path_factory) -> torch.Tensor:
    return run(FORMS["reverse_kl sampled"], 8, model, tmp_path_factory.mktemp("sampled"))
