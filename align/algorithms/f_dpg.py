import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from align.algorithms import State, at_first_tokens
from align.algorithms._of_answers import OfAnswers
from align.config.docstrings import format_part
from align.config.needed_columns import GROUPS
from align.config.nodes import part
from align.config.parts import Setting
from align.contexts import TokenContext
from align.core import credit
from align.core.segments import segment_sum
from align.references import OF_ALGORITHM
from align.types import Columns, TokenBatch

NORMALISERS = ("group", "prompt")


@dataclass(frozen=True)
class FDpg(OfAnswers):
    """f-DPG (Go et al. 2302.08215): minimises D_f(pi||p) of whole answers to the target p = ref exp(R/beta)/Z of each prompt.

    The gradient is `E_q[(pi/q)(f'(t) - f'(1) - b) grad log pi]` at t = pi/p, q what drew the answers by the engine's log-probs; the value
    logged is the unbiased `(pi/q) khat(t)`. forward_kl is GDC (Khalifa et al. 2012.11635), whose form for prompts is CDPG (Korbak et al.
    2112.00791); reverse_kl is KL-regularised RL divided by beta. At p the gradient is 0 for every q, if log Z is right.

    Z_x is the mean of `ref exp(R/beta)/q`: of the group, or of all answers to the prompt so far. With few answers log Z is biased
    downwards, and of the group it depends on the answer itself. b is the mean of the last f'(t) - f'(1) at q, before this batch.
    """

    needs = frozenset({"rewards", "advantages", "ref_logp", GROUPS})

    divergence: Any = part("divergence", "jensen_shannon")
    reference: Any = part("reference", "frozen")
    beta: float = 0.1
    """Temperature of the target, in units of reward a nat."""
    log_z: str = "group"
    """`group` or `prompt`: what the normaliser of a prompt is estimated from; see above. `prompt` keeps two numbers a prompt."""
    baseline_window: int = 1024
    """Answers whose mean is the baseline; 0: no baseline."""
    clamp: float = 40.0
    """Nats: log t of an answer counts up to this. Forward divergences grow as exp(-log t)."""
    ratio_cap: float | None = None
    """Largest importance weight pi/q of an answer, above 1; biased where it cuts."""
    epochs: int = 1
    minibatches: int = 1

    def __post_init__(self):
        self.check()
        if not 0 < self.beta < math.inf or not 0 < self.clamp < math.inf:
            raise ValueError("beta and clamp must be positive and finite")
        if self.log_z not in NORMALISERS:
            raise ValueError(f"log_z must be one of {', '.join(NORMALISERS)}, not {self.log_z!r}")
        if self.baseline_window < 0:
            raise ValueError(f"baseline_window must be at least 0, not {self.baseline_window}")
        if self.ratio_cap is not None and not 1 < self.ratio_cap < math.inf:
            raise ValueError(f"ratio_cap must be above 1 and finite, not {self.ratio_cap}")

    def refuse(self, setting: Setting) -> str | None:
        if not self.divergence.is_f_divergence:
            return (
                f"divergence {format_part(self.divergence)} is a function of an expectation, so an answer has no f'(t) of its own: use an "
                "f-divergence"
            )
        return super().refuse(setting)

    def formula(self) -> str:
        return f"−D_f(π‖p) of whole answers, f of {format_part(self.divergence)}"

    def symbols(self) -> dict[str, str]:
        over = "the group" if self.log_z == "group" else "all answers to the prompt so far"
        return {
            "p": f"ref exp(R/{self.beta:g})/Z, R the reward as shaped, Z the mean over {over} of ref exp(R/{self.beta:g})/q",
            "q": "what drew the answers, by the engine's log-probs",
        }

    def initial_state(self) -> State:
        return {"baseline": 0.0, "recent": [], "log_sums": {}}

    def state_for(self, state: State, batch: TokenBatch) -> State:
        known = state["log_sums"]
        return {"baseline": state["baseline"], "log_sums": {p: known[p] for p in dict.fromkeys(batch.prompt_ids) if p in known}}

    def update_state(self, state: State, batch: Columns) -> State:
        log_p, sums = self._target(batch, batch.advantages)
        log_t = (_of_answers(batch.sampler_logp, batch) - log_p).clamp(-self.clamp, self.clamp)
        recent = [*state["recent"], *self.divergence.grad_weight(log_t).tolist()]
        recent = recent[max(len(recent) - self.baseline_window, 0) :]
        log_sums = {**state["log_sums"], **sums} if self.log_z == "prompt" else {}
        return {"baseline": math.fsum(recent) / max(len(recent), 1), "recent": recent, "log_sums": log_sums}

    def loss(self, ctx: TokenContext, advantages: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        batch = ctx.batch
        log_p, _ = self._target(batch, advantages)
        logp = _of_answers(ctx.logp, batch)
        log_t = logp.detach() - log_p
        clamped = log_t.abs() > self.clamp
        log_t = log_t.clamp(-self.clamp, self.clamp)
        log_rho = logp.detach() - _of_answers(batch.sampler_logp, batch)
        weight, beyond = credit.bounded(log_rho, self.ratio_cap or math.inf, masks=False)
        own = self.divergence.grad_weight(log_t) - batch.algorithm_state.get("baseline", 0.0)
        loss = weight * (self.divergence.khat(log_t) + own * (logp - logp.detach()))
        capped = {} if self.ratio_cap is None else {"target/capped": beyond.float()}
        return at_first_tokens(loss, batch), {"target/log_ratio": log_t, "target/clamped": clamped.float()} | capped

    def _target(self, batch: TokenBatch, rewards: Float[Tensor, "T"]) -> tuple[Float[Tensor, "S"], dict[str, list[float]]]:
        """log p of each answer, nats; and by prompt the logarithm of the sum behind its Z, and how many answers it is of."""
        ref = _of_answers(batch.ref_logp[OF_ALGORITHM], batch)
        unnormalised = ref + rewards[batch.positions == 0] / self.beta
        terms = (unnormalised - _of_answers(batch.sampler_logp, batch)).double()
        _, ids = batch.group_ids.unique_consecutive(return_inverse=True)
        groups = int(ids.max()) + 1
        top = terms.new_full((groups,), -torch.inf).scatter_reduce(0, ids, terms, "amax")
        log_sum = top + segment_sum((terms - top[ids]).exp(), ids, groups).log()
        count = segment_sum(torch.ones_like(terms), ids, groups)
        sums = {}
        if self.log_z == "prompt":
            known = batch.algorithm_state.get("log_sums", {})
            # ids increase from 0: the first answer of each group.
            firsts = (ids.diff(prepend=ids.new_full((1,), -1)) > 0).nonzero()[:, 0].tolist()
            before = torch.tensor([known.get(batch.prompt_ids[i], [-math.inf, 0.0]) for i in firsts], dtype=terms.dtype).to(terms.device)
            log_sum, count = torch.logaddexp(log_sum, before[:, 0]), count + before[:, 1]
            sums = dict(zip((batch.prompt_ids[i] for i in firsts), torch.stack([log_sum, count], 1).tolist(), strict=True))
        log_z = (log_sum - count.log())[ids]
        return (unnormalised.double() - log_z).to(unnormalised.dtype), sums


def _of_answers(logp: Tensor | None, batch: TokenBatch) -> Float[Tensor, "S"]:
    """Of whole answers: the sum over their tokens."""
    assert logp is not None  # rollouts have the engine's log-probs
    return segment_sum(logp, batch.seq_ids, len(batch.lengths))
