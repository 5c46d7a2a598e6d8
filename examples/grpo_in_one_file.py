"""All of GRPO in one file, with a KL term whose gradient is that of the KL. torch and transformers, nothing else.

A tiny Qwen2 learns from demonstrations to reach a target from four numbers (`3,5,7,9=14:` -> `9+7+3-5`), then GRPO (Shao et
al. 2402.03300) improves it by reward alone, held near where it started by beta * KL(pi||ref). On one CPU core:

    python examples/grpo_in_one_file.py --steps 80 --seed 0

Read it from top to bottom: the world, the model, sampling, the loss, the loop. On the same batch `grpo_loss` and its gradient
equal those of the framework bit for bit (tests/golden/test_one_file_grpo.py), so what is true here is true there.

Shapes: S sequences in the batch, L columns of the padded input, T response tokens of all sequences end to end, V vocabulary.
"""

import argparse
import copy
import random
import re
import time
import zlib
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

# ---------------------------------------------------------------------------------------------------------------- the world

VOCABULARY = ("<pad>", "<bos>", "<eos>", *"0123456789+-*=:,s")
ID = {token: i for i, token in enumerate(VOCABULARY)}
PAD, BOS, EOS = 0, 1, 2
MAX_TOKENS = 12
"""Of a response, the end token included: a right answer has 8."""


def encode(text: str) -> list[int]:
    return [ID[character] for character in text]


def decode(ids: list[int]) -> str:
    """The text before the end token."""
    return "".join(VOCABULARY[i] for i in ids if i != EOS)


@dataclass(frozen=True)
class Problem:
    numbers: tuple[int, ...]
    target: int
    demonstration: str
    """One right answer; there are several."""

    @property
    def prompt(self) -> list[int]:
        return [BOS, *encode(f"{','.join(map(str, self.numbers))}={self.target}:")]

    def solved_by(self, answer: str) -> bool:
        """The verifier: each number once, joined by + and -, with the target as value. The text is matched, never executed."""
        if not re.fullmatch(r"[1-9]([-+][1-9]){3}", answer):
            return False
        terms = [int(term) for term in re.findall(r"[-+]?[1-9]", answer)]
        return sum(terms) == self.target and sorted(map(abs, terms)) == sorted(self.numbers)


def draw_problem(rng: random.Random, held_out: bool) -> Problem:
    """A random expression, its numbers shuffled. One multiset of numbers in seven is held out of all training."""
    while True:
        numbers = [rng.randint(1, 9) for _ in range(4)]
        terms = [numbers[0], *(rng.choice((1, -1)) * n for n in numbers[1:])]
        if sum(terms) >= 0 and (zlib.crc32(bytes(sorted(numbers))) % 7 == 0) == held_out:
            demonstration = str(terms[0]) + "".join(f"{term:+d}" for term in terms[1:])
            rng.shuffle(numbers)
            return Problem(tuple(numbers), sum(terms), demonstration)


# ---------------------------------------------------------------------------------------------------------------- the model


def make_model() -> Qwen2ForCausalLM:
    """83,904 random parameters, float32. It has no dropout, so policy and reference differ by their weights alone."""
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(VOCABULARY),
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            intermediate_size=128,
            max_position_embeddings=64,
            tie_word_embeddings=True,
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=EOS,
        )
    ).eval()


def make_optimizer(model: Qwen2ForCausalLM, betas: tuple[float, float], weight_decay: float = 0.0) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=0.0, betas=betas, weight_decay=weight_decay, fused=True)


def learning_rate(peak: float, step: int, steps: int, warmup: int, floor: float) -> float:
    """A linear warm-up whose first step is not 0, then a line down to `floor * peak` at the last step."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - 1 - warmup)
    return peak * (floor + (1 - floor) * (1 - done))


def apply(loss: Tensor, model: Qwen2ForCausalLM, optimizer: torch.optim.AdamW, rate: float) -> None:
    """One AdamW step, the gradient's norm clipped at 1."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


# ----------------------------------------------------------------------------------------------------------------- sampling


@torch.no_grad()
def sample(model: Qwen2ForCausalLM, prompts: list[list[int]], copies: int, generator: torch.Generator) -> list[list[int]]:
    """`copies` answers to each prompt, prompt by prompt: token ids, closed by the end token unless cut at MAX_TOKENS.

    Temperature 1 and the whole vocabulary: the distribution sampled is the one the loss differentiates. A truncated sampler
    (top-p, top-k) would be another policy, and its ratio to this one would be missing below.
    """
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = (ids != PAD).long()
    cache = DynamicCache(config=model.config)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    out = model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1)
    # A prompt is read once for its whole group, and rows that have ended leave the cache.
    cache.batch_repeat_interleave(copies)
    logits, mask = out.logits[:, -1].repeat_interleave(copies, 0), mask.repeat_interleave(copies, 0)
    answers: list[list[int]] = [[] for _ in range(len(logits))]
    live = torch.arange(len(logits))
    for n in range(1, MAX_TOKENS + 1):
        drawn = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        for row, token in zip(live.tolist(), drawn[:, 0].tolist(), strict=True):
            answers[row].append(token)
        going = (drawn[:, 0] != EOS).nonzero()[:, 0]
        if n == MAX_TOKENS or not len(going):
            break
        cache.batch_select_indices(going)
        live, mask = live[going], torch.nn.functional.pad(mask[going], (0, 1), value=1)
        positions = mask.sum(1, keepdim=True) - 1
        logits = model(input_ids=drawn[going], attention_mask=mask, position_ids=positions, past_key_values=cache).logits[:, -1]
    return answers


# ----------------------------------------------------------------------------------------------------------------- the loss


@dataclass(frozen=True)
class Batch:
    """Inputs are right-padded; everything about responses is packed end to end, so no mask is needed anywhere.

    Example: two answers of 3 and 1 tokens give T = 4, `seq_ids = [0, 0, 0, 1]`.
    """

    input_ids: Tensor
    """int64 [S, L], prompt then response."""
    columns: Tensor
    """int64 [T], the column of `input_ids` where each response token stands."""
    seq_ids: Tensor
    """int64 [T], its row."""
    lengths: Tensor
    """int64 [S], response tokens."""


def collate(prompts: list[list[int]], responses: list[list[int]]) -> Batch:
    rows = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    width = max(len(row) for row in rows)
    lengths = torch.tensor([len(response) for response in responses])
    return Batch(
        input_ids=torch.tensor([row + [PAD] * (width - len(row)) for row in rows]),
        columns=torch.cat([torch.arange(len(p), len(p) + len(r)) for p, r in zip(prompts, responses, strict=True)]),
        seq_ids=torch.repeat_interleave(torch.arange(len(rows)), lengths),
        lengths=lengths,
    )


def all_logps(model: Qwen2ForCausalLM, batch: Batch) -> Tensor:
    """log pi(. | what stands before) at each response token: [T, V], nats."""
    # The state at column c predicts column c + 1. Attention is causal, so no state here has seen the padding on the right.
    hidden = model.model(input_ids=batch.input_ids[:, :-1], use_cache=False).last_hidden_state[batch.seq_ids, batch.columns - 1]
    return torch.log_softmax(linear(hidden, model.lm_head.weight), dim=-1)


def token_logps(model: Qwen2ForCausalLM, batch: Batch) -> Tensor:
    """log pi of the response tokens themselves: [T], nats."""
    tokens = batch.input_ids[batch.seq_ids, batch.columns]
    return all_logps(model, batch).gather(-1, tokens[:, None]).squeeze(-1)


def group_advantages(rewards: Tensor, group_ids: Tensor, eps: float = 1e-4) -> Tensor:
    """(r - mean)/(std + eps) over the answers to one prompt: [S] -> [S]. All right or all wrong: 0, nothing to learn."""

    def total(x: Tensor) -> Tensor:
        return torch.zeros(int(group_ids.max()) + 1, dtype=x.dtype).index_add(0, group_ids, x)

    n = total(torch.ones_like(rewards))
    # In float64 the mean of equal float32 rewards is that reward, and their advantage exactly 0.
    centred = rewards - (total(rewards.double()) / n)[group_ids].to(rewards.dtype)
    std = (total(centred**2) / (n - 1).clamp_min(1)).sqrt()
    return centred / (std[group_ids] + eps)


def grpo_loss(
    model: Qwen2ForCausalLM, batch: Batch, advantages: Tensor, ref_logp: Tensor | None, beta: float, clip: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Clipped surrogate + beta * KL(pi||ref), as a mean over all response tokens of the batch (DAPO 2503.14476).

    Args: advantages [S]; ref_logp [T], log ref of the response tokens, None for no KL term.
    Returns: the loss, and the batch's estimate of the KL in nats a token (0 without the term), detached.
    """
    logp = token_logps(model, batch)
    # Each batch serves one update, so the policy that drew it is the policy of this forward pass: rho is 1 and only its gradient
    # counts. With several updates a batch, old_logp would be kept from the first one, and the clip would start to bite.
    old_logp = logp.detach()
    log_rho = logp - old_logp
    weights = (1.0 / batch.lengths.sum()).expand(len(batch.lengths)).float()[batch.seq_ids]
    total, kl = torch.zeros(()), torch.zeros(())
    if ref_logp is not None:
        # KL(pi||ref) from sampled tokens: its value and its gradient are different things, and each is written down.
        #   value     khat = ref/pi - 1 + log pi/ref >= 0, Schulman's k3; E_pi[khat] = KL(pi||ref)
        #   gradient  rho * c * grad log pi with c = log pi/ref; E[rho c grad log pi] = grad KL(pi||ref)
        # Putting khat in the loss and letting autograd differentiate it, as GRPO was published, gives another gradient:
        # (1 - ref/pi) grad log pi, whose mean is grad KL(ref||pi), the forward KL. Autograd sees how khat changes with pi and
        # misses that the tokens are drawn from pi; differentiating rho * khat counts both, and rho * c is what that comes to.
        # (`value + coefficient * (x - x.detach())` is a number with a gradient of our choice.)
        log_u = old_logp - ref_logp
        rho = log_rho.detach().exp()
        khat = torch.expm1(-log_u) + log_u
        penalty = rho * khat + rho * log_u * (logp - logp.detach())
        kl = (weights * rho * khat).sum()
        total = total + beta * (weights * penalty).sum()
    advantage = advantages[batch.seq_ids]
    rho = log_rho.exp()
    surrogate = -torch.minimum(rho * advantage, rho.clamp(1 - clip, 1 + clip) * advantage)
    return total + (weights * surrogate).sum(), kl


# ----------------------------------------------------------------------------------------------------------------- the loop


def warm_start(model: Qwen2ForCausalLM, steps: int, seed: int) -> None:
    """Imitation of random right answers, 128 a step: RL can only raise what is sampled at times."""
    rng, optimizer = random.Random(f"{seed} demonstrations"), make_optimizer(model, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(steps):
        problems = [draw_problem(rng, held_out=False) for _ in range(128)]
        batch = collate([p.prompt for p in problems], [[*encode(p.demonstration), EOS] for p in problems])
        loss = -token_logps(model, batch).mean()
        apply(loss, model, optimizer, learning_rate(6e-3, step, steps, warmup=min(40, steps), floor=0.0))


@torch.no_grad()
def evaluate(model: Qwen2ForCausalLM, reference: Qwen2ForCausalLM, problems: int, samples: int, seed: int) -> dict[str, float]:
    """On held-out problems: share of answers right, of problems with a right one, distinct right ones, and KL to the reference."""
    rng = random.Random("held out")
    chosen = [draw_problem(rng, held_out=True) for _ in range(problems)]
    prompts = [problem.prompt for problem in chosen]
    answers = sample(model, prompts, samples, torch.Generator().manual_seed(seed))
    right = [{a for a in map(decode, answers[i * samples : (i + 1) * samples]) if p.solved_by(a)} for i, p in enumerate(chosen)]
    verdicts = [p.solved_by(decode(answers[i * samples + j])) for i, p in enumerate(chosen) for j in range(samples)]
    batch = collate([p for p in prompts for _ in range(samples)], answers)
    logp, ref_logp = all_logps(model, batch), all_logps(reference, batch)
    return {
        "pass@1": sum(verdicts) / len(verdicts),
        f"pass@{samples}": sum(map(bool, right)) / problems,
        "distinct": sum(map(len, right)) / problems,
        "KL/answer": ((logp.exp() * (logp - ref_logp)).sum() / len(answers)).item(),
        "length": batch.lengths.float().mean().item(),
    }


def train(model: Qwen2ForCausalLM, reference: Qwen2ForCausalLM, args: argparse.Namespace) -> None:
    rng, generator = random.Random(f"{args.seed} prompts"), torch.Generator().manual_seed(args.seed)
    optimizer = make_optimizer(model, betas=(0.9, 0.99))
    for step in range(args.steps):
        began = time.perf_counter()
        problems = [draw_problem(rng, held_out=False) for _ in range(args.prompts)]
        answers = sample(model, [p.prompt for p in problems], args.samples, generator)
        repeated = [p for p in problems for _ in range(args.samples)]
        rewards = torch.tensor([float(p.solved_by(decode(a))) for p, a in zip(repeated, answers, strict=True)])
        batch = collate([p.prompt for p in repeated], answers)
        with torch.no_grad():
            ref_logp = token_logps(reference, batch) if args.beta > 0 else None
        advantages = group_advantages(rewards, torch.arange(args.prompts).repeat_interleave(args.samples))
        loss, kl = grpo_loss(model, batch, advantages, ref_logp, args.beta)
        apply(loss, model, optimizer, learning_rate(1e-3, step, args.steps, warmup=min(5, args.steps), floor=0.1))
        if step % 10 == 0 or step == args.steps - 1:
            print(f"step {step:4d}  reward {rewards.mean():.3f}  KL/token {kl:.4f}  {time.perf_counter() - began:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description="GRPO on countdown problems, from nothing, in one file.")
    parser.add_argument("--steps", type=int, default=80, help="GRPO updates")
    parser.add_argument("--warmup-steps", type=int, default=450, help="SFT updates before them")
    parser.add_argument("--prompts", type=int, default=128, help="problems in a GRPO batch")
    parser.add_argument("--samples", type=int, default=8, help="answers to each")
    parser.add_argument("--beta", type=float, default=0.05, help="strength of KL(pi||ref); 0 switches it off")
    parser.add_argument("--problems", type=int, default=192, help="held-out problems in the evaluation")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)  # at this size one thread is the fastest
    torch.manual_seed(args.seed)
    model = make_model()
    warm_start(model, args.warmup_steps, args.seed)
    reference = copy.deepcopy(model).requires_grad_(False)
    before = evaluate(model, reference, args.problems, args.samples, args.seed)
    train(model, reference, args)
    after = evaluate(model, reference, args.problems, args.samples, args.seed)
    print(f"\n{'':12}" + "".join(f"{name:>11}" for name in before))
    for name, metrics in (("warm start", before), ("after GRPO", after)):
        print(f"{name:12}" + "".join(f"{value:11.3f}" for value in metrics.values()))


if __name__ == "__main__":
    main()
