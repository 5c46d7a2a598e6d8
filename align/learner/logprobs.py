"""Log-probs computed before the first update of a batch: references, pi_old, other contexts; and the critic's values."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from align.coefficients import Coefficient
from align.config.returned import Returned
from align.config.schema import Recipe
from align.core.logprobs import Compared, Head, TokenStats, token_stats
from align.critics import RunningCritic, values_of
from align.errors import RunStopped
from align.learner.budgets import Budgets
from align.learner.micro_batches import micro_batches
from align.learner.policy import Policy
from align.learner.reference_states import ReferenceStates
from align.learner.references import distinct_references
from align.references import OF_ALGORITHM, RunningReference, place
from align.shapings import Shaping
from align.types import TokenBatch
from align.vocabulary.spelled import Spelled
from align.weightings import Weighting


def stats(
    recipe: Recipe,
    budgets: Budgets,
    spelled: Spelled,
    hidden: Tensor,
    head: Head,
    micro: TokenBatch,
    compared: dict[str, Compared] | None = None,
    rescaled: float = 1.0,
) -> TokenStats:
    """The head's statistics of a micro-batch, at the recipe's temperature and within the memory budgets.

    `spelled`: of the policy, whose tokens every head has the rows of; `rescaled`: a factor on the temperature.
    """
    return token_stats(
        hidden,
        head,
        spelled.places(micro.tokens),
        temperature=recipe.sampling.temperature * rescaled,
        compared=compared,
        elements=budgets.head_elements,
        backend=recipe.head.backend,
    )


def refuse_unspelled(spelled: Spelled, batch: TokenBatch) -> None:
    """Raises RunStopped for a trained id that no token of the policy has. `batch`: on the CPU."""
    unknown = spelled.unknown(batch.tokens).tolist()
    if unknown:
        raise RunStopped(
            f"the answers hold id {unknown[0]}, and no token of the policy's tokenizer has it, so it has no log-prob: an engine draws from "
            "the logits that align.vocabulary.words.Words(model_dir, tokenizer).spelled.logits returns"
        )


@dataclass
class LogprobPass:
    """Computes the log-probs of one batch, micro-batch by micro-batch."""

    recipe: Recipe
    policy: Policy
    references: dict[str, RunningReference]
    """By name, as `align.references.of_recipe`."""
    critic: RunningCritic | None
    states: ReferenceStates
    budgets: Budgets

    def compute(self, batch: TokenBatch) -> TokenBatch:
        """The batch with `ref_logp`, and with `old_logp`, `entropy`, `contexts` and `values` if a part reads them.

        For exact forms with a single update per batch, the update computes the reference's log-prob in the pass that the divergence
        needs anyway, unless a part reads it earlier.
        """
        refuse_unspelled(self.policy.spelled, batch)
        names = [name for name in self.references if not self._left_to_the_update(name)]
        contexts = {
            name: other
            for name, s in self.recipe.shapings.items()
            if (other := s.other_context(batch.only(s.needs, s, f"shapings.{name}"))) is not None
        }
        wants_old = self._wants_old() or bool(contexts)
        if not wants_old and not names:
            return batch
        order, old, values, logps = [], [], [], defaultdict(list)
        for chosen, micro in micro_batches(batch, self.budgets.micro_tokens):
            order.append(chosen)
            placed = micro.to(self.policy.device)
            if wants_old:
                hidden = self.policy.hidden(placed)
                old.append(self._stats(hidden, self.policy.head(), placed, self._other_contexts(contexts, batch.seq_ids[chosen].unique())))
                if self.critic is not None:
                    values.append(values_of(self.critic, placed, hidden))
            for name, logp in self._reference_logp(names, micro, placed).items():
                logps[name].append(logp)
        whole = torch.cat(order).argsort()
        if old:
            batch = replace(
                batch,
                old_logp=_whole([s.logp for s in old], whole),
                entropy=_whole([s.entropy for s in old], whole),
                contexts={name: _whole([s.exact[name] for s in old], whole) for name in contexts},
                values=_whole(values, whole) if values else None,
            )
        return replace(batch, ref_logp={name: _whole(parts, whole) for name, parts in logps.items()})

    def _readers(self) -> list[Weighting | Coefficient | Shaping]:
        regularizers = self.recipe.regularizers.values()
        weightings = [r.weighting for r in regularizers if r.weighting is not None]
        return [*self.recipe.shapings.values(), *weightings, *(r.coefficient for r in regularizers)]

    def _wants_old(self) -> bool:
        samples_again = self.recipe.algorithm.samples and not self.recipe.algorithm.on_policy
        asked = self.recipe.algorithm.reads.union(*(r.needs for r in self._readers()))
        return samples_again or self.critic is not None or bool(asked & {"old_logp", "entropy"})

    def _left_to_the_update(self, name: str) -> bool:
        return self.recipe.algorithm.on_policy and self._is_exact(name) and not self._read_early(name)

    def _is_exact(self, name: str) -> bool:
        return name != OF_ALGORITHM and self.recipe.regularizers[name].full_vocabulary

    def _read_early(self, name: str) -> bool:
        """Whether a part reads the reference's log-probs before the update."""
        regularizer = self.recipe.regularizers[name]
        if self.critic is not None and regularizer.placement == "reward":
            return True  # taken from the token rewards
        own = (r.needs for r in (regularizer.weighting, regularizer.coefficient, *self.recipe.shapings.values()) if r is not None)
        return "ref_logp" in self.recipe.algorithm.reads.union(*own)

    def _reference_logp(self, names: list[str], micro: TokenBatch, placed: TokenBatch) -> dict[str, Tensor]:
        """Reference log-probs by name, if a part reads them or the form is not exact. Keeps the hidden states of exact forms."""
        known = {name: logp for name in names if (logp := self.references[name].known(micro)) is not None}
        for name, logp in known.items():
            returned = Returned(self.references[name], "known", place(name))
            returned.numbers(logp, len(micro.seq_ids), "the log-prob of each trained token", detached=True)
        states = self.states.of([name for name in names if name not in known], placed)
        found: dict[int, Tensor] = {}
        for name, hidden in states.items():
            exact = self._is_exact(name)
            if exact:
                self.states.keep(name, micro, hidden)
            if id(hidden) not in found and (not exact or self._read_early(name)):
                found[id(hidden)] = self._stats(hidden, self.states.head(name), placed).logp
        return known | {name: found[id(hidden)] for name, hidden in states.items() if id(hidden) in found}

    def precompute(self, batch: TokenBatch) -> int:
        """Give every ranked answer to the references that precompute. Returns how many sequences needed a forward pass."""
        computed = 0
        for name, reference in distinct_references(self.references).items():

            def logp(name: str = name) -> Tensor:
                self.states.start_batch()
                parts = []
                for chosen, micro in micro_batches(batch, self.budgets.micro_tokens):
                    placed = micro.to(self.policy.device)
                    parts.append((chosen, self._stats(self.states.of([name], placed)[name], self.states.head(name), placed).logp))
                return _whole([score for _, score in parts], torch.cat([chosen for chosen, _ in parts]).argsort())

            computed += len(batch.lengths) * reference.precompute(batch, self.recipe.sampling.temperature, logp)
        return computed

    def _stats(self, hidden: Tensor, head: Head, placed: TokenBatch, compared: dict[str, Compared] | None = None) -> TokenStats:
        return stats(self.recipe, self.budgets, self.policy.spelled, hidden, head, placed, compared)

    def _other_contexts(self, contexts: dict[str, TokenBatch], sequences: Tensor) -> dict[str, Compared]:
        """The policy's statistics after other prompts, by shaping, for comparison with those after its own prompts."""
        head, shapings = self.policy.head(), self.recipe.shapings
        return {
            name: Compared(shapings[name].context_divergence, self.policy.hidden(other.select(sequences).to(self.policy.device)), head)
            for name, other in contexts.items()
        }


def _whole(parts: list[Tensor], order: Tensor) -> Tensor:
    """Joins the tensors of micro-batches in the batch's order, on the batch's device."""
    return torch.cat(parts).cpu()[order]
