"""One update of the policy, and everything that must survive a restart."""

from __future__ import annotations

import json
from dataclasses import replace

import torch
from torch import Tensor

from align.config import resolved
from align.core import reductions
from align.core.logprobs import Compared, TokenStats, token_stats
from align.core.segments import segment_sum
from align.divergences.reverse_kl import ReverseKl
from align.errors import RunStopped
from align.learner import checkpoint
from align.learner.micro_batches import micro_batches, minibatches
from align.learner.optimizer import learning_rate, make_optimizer
from align.learner.policy import Policy
from align.learner.tally import Tally
from align.recipe import Lora, Recipe
from align.types import RefScore, Stat, TokenBatch, TokenContext
from align.weight_sync.packing import Weights, pack


class Learner:
    """Holds the policy, the optimizer and the references. `version` counts the batches learned from."""

    def __init__(self, recipe: Recipe, model_dir: str):
        self.recipe = recipe
        self.model_dir = model_dir
        self.version = 0
        self.policy = Policy(model_dir, recipe.model)
        self.optimizer = make_optimizer([p for _, p in self.policy.trained()], recipe.optimizer)
        self.references = self._start_references()

    def _start_references(self) -> dict:
        """One reference for each regularizer; equal configurations share one, so that a stack costs one copy."""
        shared: dict[str, object] = {}
        by_regularizer = {}
        for name, regularizer in self.recipe.regularizers.items():
            if regularizer.reference is not None:
                key = json.dumps(resolved(regularizer.reference), sort_keys=True, default=str)
                if key not in shared:
                    regularizer.reference.start(self.policy)
                by_regularizer[name] = shared.setdefault(key, regularizer.reference)
        return by_regularizer

    def _active(self, batch: TokenBatch) -> list[str]:
        """Regularizers with a coefficient above 0; the others cost nothing and change nothing."""
        return [name for name in self.recipe.regularizers if batch.betas[name] > 0]

    @torch.no_grad()
    def score(self, batch: TokenBatch) -> TokenBatch:
        """The batch with what the references say of it, and pi_old where the batch will serve several updates."""
        old, order = [], []
        scores = {name: [] for name in self._active(batch) if name in self.references}
        wants_old = not self.recipe.algorithm.on_policy or any(
            getattr(r.weighting, "needs_policy", False) for r in self.recipe.regularizers.values())
        if not wants_old and not scores:
            return batch
        for chosen, micro in micro_batches(batch, self.recipe.batch.micro_tokens):
            order.append(chosen)
            if wants_old:
                old.append(self._stats(micro, self.policy.hidden(micro)))
            done: dict[int, RefScore] = {}
            for name, parts in scores.items():
                reference = self.references[name]
                if id(reference) not in done:
                    done[id(reference)] = self._reference_score(micro, reference)
                parts.append(done[id(reference)])
        whole = torch.cat(order).argsort()
        references = {}
        for name, parts in scores.items():
            wants_hidden = self.recipe.regularizers[name].full_vocabulary
            references[name] = RefScore(logp=torch.cat([p.logp for p in parts])[whole],
                                        hidden=torch.cat([p.hidden for p in parts])[whole] if wants_hidden else None)
        if old:
            batch = replace(batch, old_logp=torch.cat([s.logp for s in old])[whole], entropy=torch.cat([s.entropy for s in old])[whole])
        return replace(batch, references=references)

    def _reference_score(self, micro: TokenBatch, reference) -> RefScore:
        parameters = reference.parameters()
        hidden = self.policy.hidden(micro, parameters)
        stats = token_stats(hidden, self.policy.head(parameters), micro.tokens, temperature=self.recipe.sampling.temperature,
                            elements=self.recipe.batch.head_elements)
        return RefScore(logp=stats.logp, hidden=hidden)

    def _stats(self, micro: TokenBatch, hidden: Tensor) -> TokenStats:
        compared = {
            name: Compared(regularizer.divergence, micro.references[name].hidden, self.policy.head(self.references[name].parameters()),
                           regularizer.outcomes)
            for name, regularizer in self.recipe.regularizers.items()
            if name in micro.references and micro.references[name].hidden is not None
        }
        return token_stats(hidden, self.policy.head(), micro.tokens, temperature=self.recipe.sampling.temperature, compared=compared,
                           elements=self.recipe.batch.head_elements)

    def update(self, batch: TokenBatch, step: int) -> dict[str, Stat]:
        """All updates this batch serves. Raises RunStopped, with nothing applied, for a loss or gradient that is not finite."""
        torch.manual_seed(self.recipe.seed * 1_000_003 + step)  # LoRA's dropout; a resumed run draws the same
        algorithm, tally = self.recipe.algorithm, Tally()
        for epoch in range(algorithm.epochs):
            for number, mini in enumerate(minibatches(batch, algorithm.minibatches, seed=self.recipe.seed + step * 1009 + epoch)):
                self._one_update(mini, step, tally, first=epoch == number == 0)
        self.version += 1
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
        parameters = [p for _, p in self.policy.trained()]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.recipe.optimizer.max_grad_norm)
        if not torch.isfinite(norm):
            raise RunStopped(f"step {step}: the gradient norm is {norm.item()} although every loss is finite; a smaller optimizer.lr or "
                             "float32 (model.dtype) is the usual remedy")
        rate = learning_rate(self.recipe.optimizer, step, self.recipe.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        for reference in {id(r): r for r in self.references.values()}.values():
            reference.after_step(self.policy, step + 1)
        tally.merge(losses)
        tally.add("grad/norm", norm, 1)
        tally.add("lr", rate, 1)

    def _backward(self, micro: TokenBatch, losses: Tally, tally: Tally) -> None:
        stats = self._stats(micro, self.policy.hidden(micro))
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
        initial, total = Policy(self.model_dir, replace(self.recipe.model, lora=Lora())), 0.0
        for _, micro in micro_batches(batch, self.recipe.batch.micro_tokens):
            compared = {"kl": Compared(ReverseKl(), initial.hidden(micro), initial.head())}
            stats = token_stats(self.policy.hidden(micro), self.policy.head(), micro.tokens, compared=compared,
                                temperature=self.recipe.sampling.temperature, elements=self.recipe.batch.head_elements)
            total += stats.exact["kl"].sum().item()
        return Stat(sum=total, count=len(batch.lengths))

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
