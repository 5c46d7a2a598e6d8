"""Two regularizers that are no f-divergence of the sampled token. `align` reads this file as it is: nothing is registered."""

from typing import Any

import torch

from align.config.nodes import part
from align.divergences.total_variation import TotalVariation
from align.regularizers import Penalty


class Wasserstein:
    """Earth mover's distance between pi and ref at each state: sum_k |F_pi(k) - F_ref(k)|, F the mass of the first k tokens in order.

    Tokens that are neighbours cost one step to exchange, which no f-divergence can express. Every token that `order` leaves out stands one
    step behind its last. In steps, not nats, per visited state; the states are taken as given, so the gradient is exact whichever policy
    drew them.
    """

    coefficient: Any = part("coefficient")
    reference: Any = part("reference", "frozen")
    order: tuple[int, ...]
    """Token ids from one end of the line to the other."""

    full_vocabulary = True
    # |F - G| is the total variation of the two coins (F, 1 - F) and (G, 1 - G); the learner adds up over all of them.
    divergence = TotalVariation()

    def __post_init__(self):
        if not self.order or len(set(self.order)) < len(self.order) or min(self.order) < 0:
            raise ValueError(f"order must be a list of different token ids, not {list(self.order)}")

    def outcomes(self, logp, ref_logp):
        """Both distributions, log-probs [T, V], as one coin for each place between neighbours: [T, 2 K]."""
        return self._coins(logp), self._coins(ref_logp)

    def _coins(self, logp):
        order = torch.tensor(self.order, device=logp.device)
        others = logp.index_fill(-1, order, -torch.inf).logsumexp(-1, keepdim=True)
        line = torch.cat([logp[:, order], others], -1)
        before, after = line.logcumsumexp(-1)[:, :-1], line.flip(-1).logcumsumexp(-1).flip(-1)[:, 1:]
        return torch.cat([before, after], -1)

    def penalty(self, ctx, name):
        distance = ctx.exact[name]
        return Penalty(value=distance.detach(), loss=distance)


class Repetition:
    """The expected number of tokens of an answer that repeat one of the `window` tokens before them in it.

    A rule for each token, without a reference. A repetition answers for itself: the gradient is that of sum_t pi(a repetition at t),
    the states taken as given. Samples are weighed by pi/pi_old, so a batch may serve several updates.
    """

    coefficient: Any = part("coefficient")
    window: int = 4

    def __post_init__(self):
        if self.window < 1:
            raise ValueError(f"window must be at least 1, not {self.window}")

    def refuse(self, setting):
        """What a recipe is refused with, before anything is loaded; None where all is well."""
        return None if setting.samples else "demonstrations are not the policy's own answers: what they repeat says nothing of it"

    def penalty(self, ctx, name):
        batch, repeats = ctx.batch, torch.zeros(len(ctx.logp), dtype=torch.bool)
        tokens = batch.tokens
        for back in range(1, min(self.window, int(batch.lengths.max()) - 1) + 1):
            repeats[back:] |= (tokens[back:] == tokens[:-back]) & (batch.positions[back:] >= back)
        # d rho/d theta = rho * score: the value is the estimate, and so is its gradient.
        loss = torch.where(repeats, ctx.log_rho.exp(), 0.0)
        return Penalty(value=loss.detach(), loss=loss, shares={"repeated": repeats})
