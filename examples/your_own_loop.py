"""A training loop of your own with a regularizer of align: REINFORCE on a tiny transformers model, held near where it started.

    python examples/your_own_loop.py

The reward is the share of even tokens. The penalty is Tsallis with q = 0.5, credited to the tokens that lead to it, its strength
steered so that an answer costs about one nat. Only `regularizer` and `penalty` are align's.
"""

import copy

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import align

STEPS, ANSWERS, LENGTH, BEGIN, END = 40, 64, 8, 0, 1


def logprobs(model: torch.nn.Module, answers: torch.Tensor) -> torch.Tensor:
    """log pi of each token, nats: [B, T] -> [B, T]."""
    logits = model(torch.nn.functional.pad(answers[:, :-1], (1, 0), value=BEGIN)).logits
    return logits.log_softmax(-1).gather(-1, answers[..., None]).squeeze(-1)


@torch.no_grad()
def sample(model: torch.nn.Module) -> torch.Tensor:
    """Answers [B, T], one token after the other."""
    ids = torch.full((ANSWERS, 1), BEGIN)
    for _ in range(LENGTH):
        ids = torch.cat([ids, model(ids).logits[:, -1].softmax(-1).multinomial(1)], 1)
    return ids[:, 1:]


torch.manual_seed(0)
SIZES = {"vocab_size": 16, "hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 32}
config = AutoConfig.for_model("qwen2", num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, **SIZES)
policy = AutoModelForCausalLM.from_config(config)
reference = copy.deepcopy(policy).requires_grad_(False)
optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
rule = {"name": "adaptive", "initial": 0.05, "target": 1.0, "horizon": 200}
held = align.regularizer({"name": "tsallis", "q": 0.5}, credit="summed", coefficient=rule)
state = held.coefficient.initial_state()

print("step  reward  nats/answer   beta")
for step in range(STEPS):
    answers = sample(policy)
    mask = (answers == END).cumsum(1) - (answers == END).int() == 0  # up to the end token, and with it
    reward = ((answers % 2 == 0) * mask).sum(1) / mask.sum(1)
    logp = logprobs(policy, answers)
    penalty = align.penalty(logp, logprobs(reference, answers), mask, regularizer=held)
    beta = held.coefficient.beta(step, state)
    advantage = (reward - reward.mean())[:, None]
    loss = ((-advantage * logp * mask).sum() + beta * penalty.loss.sum()) / mask.sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    nats = penalty.value.sum().item() / ANSWERS
    state = held.coefficient.update(state, nats, ANSWERS)
    if step % 10 == 0 or step == STEPS - 1:
        print(f"{step:4d}  {reward.mean():6.3f}  {nats:11.3f}  {beta:.4f}")
