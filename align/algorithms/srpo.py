from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from align.algorithms import Algorithm, at_first_tokens
from align.config.nodes import build_part, part
from align.config.parts import Setting
from align.config.ranges import Fraction
from align.contexts import TokenContext

SHOWN = 6
"""Episodes of a pair, in the order of experience/drafts.py."""


@dataclass(frozen=True)
class Srpo(Algorithm[TokenContext, None]):
    """Self-improving robust preference optimisation (Choi et al. 2406.01660): a policy and its own reviser, from the same pairs.

    `min_pi max_{pi+} E[ P(y2 > y1) - beta KL(pi+||ref) + beta KL(pi||ref) ]`, y1 drawn by pi, y2 by pi+ that reads y1; one model serves
    as both, as reviser after prompt, draft and `revision`. With s = log pi/ref of an answer, s(a|b) after draft b:

        L  = (1/2 - beta/2 [s(w) - s(l) + s(w|l) - s(l|w)])^2
        L+ = (1/2 - beta [s(w|l) - s(l|l)])^2 + (1/2 - beta [s(w|w) - s(l|w)])^2

    The loss is `(1 - alpha) L + alpha L+`, whose population gradient is 0 at the exact solution. The constants follow from the
    objective; which of the two carries alpha in the paper is unverified. Six log-probs of the policy and the reference for each pair.
    """

    samples = False
    ranks = True
    links = True
    reduction = build_part("reduction", "sequence_sum", "reduction")

    alpha: Fraction = 0.5
    """The share of the reviser's loss."""
    revision: str = "\nA better answer: "
    """Text between a draft and its revision; in a conversation the user's turn after the draft."""
    per_token: bool = False
    """Divide each score by the answer's length, as TRL's ipo does."""
    loss_weighting: Any = part("loss_weighting", optional=True)
    epochs: int = 1
    minibatches: int = 1

    def __post_init__(self):
        self.check()
        if not self.revision.strip():
            raise ValueError("revision must not be blank: it tells the policy that a draft is to be revised")

    def refuse(self, setting: Setting) -> str | None:
        links = [r for r in setting.recipe.regularizers.values() if r.placement == "link"]
        if any(not r.divergence.is_reverse_kl for r in links):
            return "its losses are derived for the KL: use divergence: reverse_kl in the link"
        if any(r.coefficient.compares for r in links):
            return "shows each answer several times, so a coefficient that compares the answers of a ranking has no meaning: use a constant"
        return None

    def formula(self) -> str:
        draft = "(1/2 − β/2 (s(w) − s(l) + s(w|l) − s(l|w)))²"
        revision = "[(1/2 − β (s(w|l) − s(l|l)))² + (1/2 − β (s(w|w) − s(l|w)))²]"
        return f"−{1 - self.alpha:g} {draft} − {self.alpha:g} {revision}"

    def symbols(self) -> dict[str, str]:
        over = " over its length" if self.per_token else ""
        return {"s": f"log π/ref of the whole answer{over}, the chosen (w) or the rejected (l); s(a|b): after the draft b"}

    def loss(self, ctx: TokenContext, advantages: None) -> tuple[Tensor, dict[str, Tensor]]:
        link, batch = ctx.link, ctx.batch
        assert link is not None  # `links`
        scores = link.scores / batch.lengths if self.per_token else link.scores
        w, l, w_l, l_l, w_w, l_w = scores.view(-1, SHOWN).unbind(1)  # noqa: E741
        beta = link.beta.view(-1, SHOWN)[:, 0]
        margin, better, kept = beta / 2 * (w - l + w_l - l_w), beta * (w_l - l_l), beta * (w_w - l_w)
        of_draft, of_revision = (0.5 - margin) ** 2, (0.5 - better) ** 2 + (0.5 - kept) ** 2
        losses = (1 - self.alpha) * of_draft + self.alpha * of_revision
        return at_first_tokens(losses.repeat_interleave(SHOWN), batch), {
            name: x.detach().repeat_interleave(SHOWN)
            for name, x in {
                "preference/margin": margin,
                "preference/accuracy": 0.5 * (1 + torch.sign(w - l)),
                "revision/accuracy": 0.25 * (2 + torch.sign(better) + torch.sign(kept)),
            }.items()
        }
