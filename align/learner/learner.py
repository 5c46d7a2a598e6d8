"""One update of the policy, and everything that must survive a restart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from align.core import reductions
from align.core.logprobs import Compared, Head, TokenStats, token_stats
from align.core.segments import segment_sum
from align.divergences.reverse_kl import ReverseKl
from align.errors import RunStopped
from align.learner import checkpoint, references
from align.learner.micro_batches import micro_batches, minibatches
from align.learner.optimizer import learning_rate, make_optimizer
from align.learner.policy import Policy
from align.learner.tally import Tally
from align.recipe import Recipe
from align.types import RefScore, Stat, TokenBatch, TokenContext
from align.weight_sync.packing import Weights, pack


class Learner:
    """Holds the policy, the optimizer and the references. `version` counts the batches learned from, `updates` the optimizer steps."""

    def __init__(self, recipe: Recipe, model_dir: str):
        self.recipe = recipe
        self.version = 0
        self.updates = 0
        torch.manual_seed(recipe.seed)  # LoRA's first values
        self.policy = Policy(model_dir, recipe.model)
        self.optimizer = make_optimizer([p for _, p in self.policy.trained()], recipe.optimizer)
        self.references = references.started(recipe, self.policy)
        self._reference_heads: dict[str, Head] = {}

    def _active(self, batch: TokenBatch) -> list[str]:
        """Regularizers with a coefficient above 0; the others cost nothing and change nothing."""
        return [name for name in self.recipe.regularizers if batch.betas[name] > 0]

    @torch.no_grad()
    def score(self, batch: TokenBatch) -> TokenBatch:
        """The batch with what the references say of it, and pi_old where the batch will serve several updates."""
        old, order = [], []
        scores = {name: [] for name in self._active(batch) if name in self.references}
        contexts = {name: other for name, s in self.recipe.shapings.items() if (other := s.other_context(batch)) is not None}
        readers = [*self.recipe.shapings.values(), *(r.weighting for r in self.recipe.regularizers.values())]
        wants_old = not self.recipe.algorithm.on_policy or bool(contexts) or any(getattr(r, "needs_policy", False) for r in readers)
        for reference in references.distinct(self.references).values():
            reference.before_batch(self.policy)
        if not wants_old and not scores:
            return batch
        for chosen, micro in micro_batches(batch, self.recipe.batch.micro_tokens):
            order.append(chosen)
            if wants_old:
                old.append(self._stats(micro, self.policy.hidden(micro), self._other_contexts(contexts, batch.seq_ids[chosen].unique())))
            done: dict[int, RefScore] = {}
            for name, parts in scores.items():
                reference = self.references[name]
                if id(reference) not in done:
                    done[id(reference)] = self._reference_score(micro, name)
                wants_hidden = self.recipe.regularizers[name].full_vocabulary
                parts.append(done[id(reference)] if wants_hidden else replace(done[id(reference)], hidden=None))
        whole = torch.cat(order).argsort()
        scored = {}
        for name, parts in scores.items():
            hidden = None if parts[0].hidden is None else torch.cat([p.hidden for p in parts])[whole]
            scored[name] = RefScore(logp=torch.cat([p.logp for p in parts])[whole], hidden=hidden)
        if old:
            batch = replace(batch, old_logp=torch.cat([s.logp for s in old])[whole], entropy=torch.cat([s.entropy for s in old])[whole],
                            contexts={name: torch.cat([s.exact[name] for s in old])[whole] for name in contexts})
        return replace(batch, references=scored)

    def _reference_score(self, micro: TokenBatch, name: str) -> RefScore:
        hidden = self.references[name].hidden(self.policy, micro)
        stats = token_stats(hidden, self.references[name].head(self.policy), micro.tokens, temperature=self.recipe.sampling.temperature,
                            elements=self.recipe.batch.head_elements)
        return RefScore(logp=stats.logp, hidden=hidden)

    def _other_contexts(self, contexts: dict[str, TokenBatch], sequences: Tensor) -> dict[str, Compared]:
        """The policy after other prompts, by shaping, to be compared with itself after its own."""
        head, shapings = self.policy.head(), self.recipe.shapings
        return {name: Compared(shapings[name].context_divergence, self.policy.hidden(other.select(sequences)), head)
                for name, other in contexts.items()}

    def _to_references(self, micro: TokenBatch) -> dict[str, Compared]:
        return {name: Compared(regularizer.divergence, micro.references[name].hidden, self._reference_heads[name], regularizer.outcomes)
                for name, regularizer in self.recipe.regularizers.items()
                if name in micro.references and micro.references[name].hidden is not None}

    def _stats(self, micro: TokenBatch, hidden: Tensor, compared: dict[str, Compared] | None = None) -> TokenStats:
        return token_stats(hidden, self.policy.head(), micro.tokens, temperature=self.recipe.sampling.temperature, compared=compared,
                           elements=self.recipe.batch.head_elements)

    def update(self, batch: TokenBatch, step: int) -> dict[str, Stat]:
        """All updates this batch serves. Raises RunStopped, with nothing applied, for a loss or gradient that is not finite."""
        torch.manual_seed(self.recipe.seed * 1_000_003 + step)  # LoRA's dropout; a resumed run draws the same
        algorithm, tally = self.recipe.algorithm, Tally()
        # As they are now, when the batch was scored: the references may move with the updates it serves.
        self._reference_heads = {name: self.references[name].head(self.policy) for name in batch.references}
        for epoch in range(algorithm.epochs):
            for number, mini in enumerate(minibatches(batch, algorithm.minibatches, seed=self.recipe.seed + step * 1009 + epoch)):
                self._one_update(mini, step, tally, first=epoch == number == 0)
        self.version += 1
        for name in batch.references:
            tally.add(f"ref/{name}/version", self.references[name].version, 1)
        return tally.stats()

    def _one_update(self, mini: TokenBatch, step: int, tally: Tally, first: bool) -> None:
        reduce = getattr(reductions, self.recipe.algorithm.reduction)
        weights = reduce(mini.lengths, self.recipe.sampling.max_tokens)[mini.seq_ids]
        mini = replace(mini, loss_weights=weights)
        self.optimizer.zero_grad(set_to_none=True)
        losses = Tally()
        for _, micro in micro_batches(mini, self.recipe.batch.micro_tokens):
            self._backward(micro, losses, tally)
        self._stop_unless_finite(losses, step)
        if first:
            self._stop_on_engine_gap(tally, step)
        if first and self.version == 0:
            references.stop_unless_initial(self.references, self.recipe.model.dtype, mini, tally, step)
        parameters = [p for _, p in self.policy.trained()]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.recipe.optimizer.max_grad_norm)
        if not torch.isfinite(norm):
            raise RunStopped(f"step {step}: the gradient norm is {norm.item()} although every loss is finite; a smaller optimizer.lr or "
                             "float32 (model.dtype) is the usual remedy")
        rate = learning_rate(self.recipe.optimizer, step, self.recipe.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.updates += 1
        for reference in references.distinct(self.references).values():
            reference.after_step(self.policy, self.updates)
        tally.merge(losses)
        tally.add("grad/norm", norm, 1)
        tally.add("lr", rate, 1)

    def _backward(self, micro: TokenBatch, losses: Tally, tally: Tally) -> None:
        stats = self._stats(micro, self.policy.hidden(micro), self._to_references(micro))
        ctx = TokenContext(batch=micro, logp=stats.logp, entropy=stats.entropy, exact=stats.exact)
        advantages, weights = micro.advantages, micro.loss_weights
        total = torch.zeros(())
        for name in self._active(micro):
            penalty, beta = self.recipe.regularizers[name].penalty(ctx, name), micro.betas[name]
            multiplier = micro.multipliers[name][micro.seq_ids] if name in micro.multipliers else 1.0
            if penalty.reward is not None:
                advantages = advantages - beta * multiplier * penalty.reward
            else:
                total = total + beta * (weights * multiplier * penalty.loss).sum()
            losses.add_sum(f"loss/reg/{name}", beta * (weights * multiplier * penalty.value).sum())
            tally.add(f"divergence/{name}", penalty.value.sum(), len(micro.lengths))
            for share, hit in penalty.shares.items():
                tally.add(f"{share}/{name}", hit.sum(), len(hit))
            if name in micro.multipliers:
                tally.add_by_prompt(f"divergence/{name}", segment_sum(penalty.value, micro.seq_ids, len(micro.lengths)), micro.prompt_ids)
            tally.add_references(self.recipe.regularizers[name], name, ctx, penalty)
        policy_loss, extra = self.recipe.algorithm.loss(ctx, advantages)
        total = total + (weights * policy_loss).sum()
        total.backward()
        losses.add_sum("loss/policy", (weights * policy_loss.detach()).sum())
        tally.add("entropy", stats.entropy.sum(), len(stats.entropy))
        tally.add_engine_gap(ctx)
        for key, value in extra.items():
            tally.add(key, value.sum(), len(value))

    def _stop_unless_finite(self, losses: Tally, step: int) -> None:
        for name, stat in losses.stats().items():
            if not torch.isfinite(torch.tensor(stat.sum)):
                raise RunStopped(f"step {step}: {name} is {stat.sum}; the update was not applied and the state before it is kept. Look at "
                                 "this term in metrics.jsonl; a smaller optimizer.lr is the usual remedy")

    def _stop_on_engine_gap(self, tally: Tally, step: int) -> None:
        gap = tally.stats().get("engine/gap")
        if gap is not None and not gap.mean <= self.recipe.max_engine_gap:
            raise RunStopped(f"step {step}: the engine's log-probs differ from the learner's by {gap.mean:.2e} nats a token on average, "
                             f"above max_engine_gap {self.recipe.max_engine_gap:g}: the engine does not hold the learner's weights, or "
                             "computes in another precision (then raise max_engine_gap knowingly)")

    @torch.no_grad()
    def exact_kl(self, batch: TokenBatch) -> Stat:
        """KL(policy||initial policy) of whole answers, in nats: at each state the policy visited the exact KL, summed over the answer.

        The initial policy is loaded for this one measurement, whatever the regularizers look at.
        """
        initial, total = self.policy.initial(), 0.0
        for _, micro in micro_batches(batch, self.recipe.batch.micro_tokens):
            compared = {"kl": Compared(ReverseKl(), initial.hidden(micro), initial.head())}
            stats = token_stats(self.policy.hidden(micro), self.policy.head(), micro.tokens, compared=compared,
                                temperature=self.recipe.sampling.temperature, elements=self.recipe.batch.head_elements)
            total += stats.exact["kl"].sum().item()
        return Stat(sum=total, count=len(batch.lengths))

    def described_references(self) -> dict[str, dict[str, Any]]:
        """By regularizer: its reference, how often that has changed, and the hash of its parameters."""
        return references.described(self.references, self.policy)

    def weights(self) -> Weights:
        """Everything an engine needs, under checkpoint names."""
        return pack(self.policy.tensors())

    def export(self, folder: str) -> None:
        """The policy as a Hugging Face folder."""
        self.policy.export(folder)

    def save(self, folder: str) -> None:
        checkpoint.save(self, folder)

    def load(self, folder: str) -> None:
        checkpoint.load(self, folder)
