"""What is known of a batch before its first update: what its references say, pi_old, the critic's values, other contexts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from align.core.logprobs import Compared, Head, TokenStats, token_stats
from align.critics import Critic
from align.learner.micro_batches import micro_batches
from align.learner.policy import Policy
from align.recipe import Recipe
from align.references import Reference
from align.types import RefScore, TokenBatch


def active(recipe: Recipe, batch: TokenBatch) -> list[str]:
    """Regularizers with a coefficient above 0; the others cost nothing and change nothing."""
    return [name for name in recipe.regularizers if batch.betas[name] > 0]


def stats(recipe: Recipe, hidden: Tensor, head: Head, micro: TokenBatch, compared: dict[str, Compared] | None = None) -> TokenStats:
    """The head's statistics of a micro-batch, at the recipe's temperature and within its memory."""
    return token_stats(hidden, head, micro.tokens, temperature=recipe.sampling.temperature, compared=compared,
                       elements=recipe.batch.head_elements, backend=recipe.head.backend)


@dataclass
class Scorings:
    """Scores one batch, micro-batch by micro-batch."""

    recipe: Recipe
    policy: Policy
    references: dict[str, Reference]
    """By regularizer."""
    critic: Critic | None

    def scored(self, batch: TokenBatch) -> TokenBatch:
        """The batch with `references`, and where something reads them `old_logp`, `entropy`, `contexts` and `values`."""
        names = [name for name in active(self.recipe, batch) if name in self.references]
        contexts = {name: other for name, s in self.recipe.shapings.items() if (other := s.other_context(batch)) is not None}
        wants_old = self._wants_old() or bool(contexts)
        if not wants_old and not names:
            return batch
        order, old, values, scores = [], [], [], {name: [] for name in names}
        for chosen, micro in micro_batches(batch, self.recipe.batch.micro_tokens):
            order.append(chosen)
            if wants_old:
                placed = micro.to(self.policy.device)
                hidden = self.policy.hidden(placed)
                old.append(stats(self.recipe, hidden, self.policy.head(), placed,
                                 self._other_contexts(contexts, batch.seq_ids[chosen].unique())))
                if self.critic is not None:
                    values.append(self.critic.values(self.policy, placed, hidden))
            for name, score in self._reference_scores(names, micro).items():
                scores[name].append(score)
        whole = torch.cat(order).argsort()
        if old:
            batch = replace(batch, old_logp=_whole([s.logp for s in old], whole), entropy=_whole([s.entropy for s in old], whole),
                            contexts={name: _whole([s.exact[name] for s in old], whole) for name in contexts},
                            values=_whole(values, whole) if values else None)
        return replace(batch, references={name: _joined(parts, whole) for name, parts in scores.items()})

    def _wants_old(self) -> bool:
        recipe = self.recipe
        readers = [*recipe.shapings.values(), *(r.weighting for r in recipe.regularizers.values()),
                   *(r.coefficient for r in recipe.regularizers.values())]
        samples_again = recipe.algorithm.samples and not recipe.algorithm.on_policy
        return samples_again or self.critic is not None or any(getattr(r, "needs_policy", False) for r in readers)

    def _reference_scores(self, names: list[str], micro: TokenBatch) -> dict[str, RefScore]:
        """By regularizer; each reference runs once."""
        done: dict[int, RefScore] = {}
        for name in names:
            reference = self.references[name]
            if id(reference) not in done:
                done[id(reference)] = self._reference_score(reference, micro)
        scores = {name: done[id(self.references[name])] for name in names}
        return {name: s if self.recipe.regularizers[name].full_vocabulary else replace(s, hidden=None) for name, s in scores.items()}

    def _reference_score(self, reference: Reference, micro: TokenBatch) -> RefScore:
        known = reference.known(micro)
        if known is not None:
            return RefScore(logp=known)
        placed = micro.to(self.policy.device)
        hidden = reference.hidden(self.policy, placed)
        return RefScore(logp=stats(self.recipe, hidden, reference.head(self.policy), placed).logp, hidden=hidden)

    def prepare(self, batch: TokenBatch) -> int:
        """Tell the references that precompute of these answers. Returns how many sequences had to be scored for it."""
        computed = 0
        for reference in {id(r): r for r in self.references.values() if r.precomputes}.values():
            def logp(reference: Reference = reference) -> Tensor:
                parts = [(chosen, self._reference_score(reference, micro).logp)
                         for chosen, micro in micro_batches(batch, self.recipe.batch.micro_tokens)]
                return _whole([score for _, score in parts], torch.cat([chosen for chosen, _ in parts]).argsort())

            computed += len(batch.lengths) * reference.prepare(batch, self.recipe.sampling.temperature, logp)
        return computed

    def _other_contexts(self, contexts: dict[str, TokenBatch], sequences: Tensor) -> dict[str, Compared]:
        """The policy after other prompts, by shaping, to be compared with itself after its own."""
        head, shapings = self.policy.head(), self.recipe.shapings
        return {name: Compared(shapings[name].context_divergence, self.policy.hidden(other.select(sequences).to(self.policy.device)), head)
                for name, other in contexts.items()}


def _joined(parts: list[RefScore], whole: Tensor) -> RefScore:
    hidden = None if parts[0].hidden is None else _whole([p.hidden for p in parts], whole)
    return RefScore(logp=_whole([p.logp for p in parts], whole), hidden=hidden)


def _whole(parts: list[Tensor], order: Tensor) -> Tensor:
    """The parts of micro-batches in the batch's order, where the batch is."""
    return torch.cat(parts).cpu()[order]
