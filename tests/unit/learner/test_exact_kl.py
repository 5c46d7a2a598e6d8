"""`kl/initial`, the KL of whole answers to the initial policy, against transformers alone."""

from pathlib import Path

import pytest
import torch
from helpers.rollouts import groups
from transformers import AutoModelForCausalLM
from unit.learner.small import make, moved

from align.experience.packing import pack


def by_transformers(model: torch.nn.Module, packed, temperature: float) -> torch.Tensor:
    """log-probs [T, V] at each token of an answer, every sequence alone."""
    parts = []
    for i, ids in enumerate(packed.input_ids):
        start, n = int(packed.first_columns[i]), int(packed.lengths[i])
        with torch.no_grad():
            logits = model(ids[None, : start + n]).logits[0, start - 1 : start + n - 1]
        parts.append(torch.log_softmax(logits.double() / temperature, -1))
    return torch.cat(parts)


@pytest.mark.parametrize("reference", ["frozen", "ema"])
@pytest.mark.parametrize("micro_tokens", [10_000, 20])
def test_it_is_the_sum_over_an_answer_of_the_exact_kl_at_its_states(model: Path, reference: str, micro_tokens: int):
    """The mean over answers, not over tokens, of sum_t KL(policy(.|s_t) || initial(.|s_t)), both models at their own hidden states."""
    batch = {"prompts": 4, "samples": 3, "micro_tokens": micro_tokens}
    learner = moved(make(model, batch=batch, regularizers={"kl": {"coefficient": 0.1, "reference": reference}}))
    packed, temperature = pack(groups(), None), learner.recipe.sampling.temperature
    initial, policy = (AutoModelForCausalLM.from_pretrained(model) for _ in range(2))
    with torch.no_grad():
        for name, p in policy.named_parameters():
            p.copy_(dict(learner.policy.module.named_parameters())[name])
    p, q = (by_transformers(m, packed, temperature) for m in (policy, initial))
    expected = (p.exp() * (p - q)).sum().item() / len(packed.lengths)
    found = learner.exact_kl(packed)
    assert found.count == len(packed.lengths) == 12
    assert found.mean == pytest.approx(expected, rel=1e-4) and expected > 1e-2
