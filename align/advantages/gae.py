from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from align.advantages import Advantage, token_rewards
from align.core import returns
from align.types import Columns


@dataclass(frozen=True)
class Gae(Advantage):
    """Generalised advantage estimation of a critic (Schulman et al. 1506.02438): sum_k (gamma lam)^k delta_{t+k}, one number a token.

    delta_t = r_t + gamma V_{t+1} - V_t. The reward arrives at the last token, that of a process reward where its steps end; what a
    reward-placed regularizer takes from the reward of a token the critic learns.
    """

    needs = frozenset({"rewards", "values"})
    takes_charges = True

    gamma: float = 1.0
    lam: float = 0.95
    """1 is the return minus the value, 0 trusts the critic for all but one token."""
    whiten: bool = True
    """To mean 0 and standard deviation 1 over the tokens of the batch; beta of a penalty in the reward is rescaled with them."""

    def __post_init__(self):
        if not (0 <= self.gamma <= 1 and 0 <= self.lam <= 1):
            raise ValueError("gamma and lam must lie in [0, 1]")

    def formula(self) -> str:
        return f"GAE of the critic, γ = {self.gamma:g}, λ = {self.lam:g}{', whitened' if self.whiten else ''}"

    def advantages(self, batch: Columns) -> Float[Tensor, "T"]:
        advantages = self._estimate(batch)[0] - sum(c.direct for c in batch.reward_penalties.values())
        return returns.whiten(advantages) if self.whiten else advantages

    def returns(self, batch: Columns) -> Float[Tensor, "T"]:
        return self._estimate(batch)[1]

    def _estimate(self, batch: Columns) -> tuple[Float[Tensor, "T"], Float[Tensor, "T"]]:
        return returns.gae(token_rewards(batch), batch.values, batch.seq_ids, batch.positions, self.gamma, self.lam)
