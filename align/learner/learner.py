"""The updates of the policy, and the state that a restart restores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from align.config.frozen import checked_instance
from align.config.returned import ANSWER, Returned, values_checked
from align.config.schema import Recipe
from align.contexts import RewardModelContext, TokenContext
from align.core.logprobs import Compared
from align.critics import RunningCritic, values_of
from align.disk import writing
from align.divergences._mirrored import Mirrored
from align.divergences.reverse_kl import ReverseKl
from align.errors import RunStopped
from align.learner import budgets, checkpoint, objective, references
from align.learner.agreement import Agreement, some_rows
from align.learner.engine_gap import stop_on_engine_gap
from align.learner.initial_policy import InitialPolicy
from align.learner.kernel_preflight import stop_unless_ready
from align.learner.logprobs import LogprobPass, refuse_unspelled, stats
from align.learner.metric_accumulator import MetricAccumulator
from align.learner.micro_batches import micro_batches, minibatches
from align.learner.optimizer import make_optimizer, schedule
from align.learner.policy import Policy
from align.learner.reference_states import ReferenceStates
from align.learner.reward_model import RewardModel
from align.learner.token_penalties import TokenPenalties, token_penalties
from align.loss_weightings import LossWeighting
from align.references import OwnModel, of_recipe, place
from align.regularizers import referenced
from align.types import Stat, TokenBatch
from align.weight_sync.flattening import Flattener, Weights


class Learner:
    """The policy, its optimizer and its references. `version` counts trained batches, `updates` counts optimizer steps."""

    def __init__(self, recipe: Recipe, model_dir: str):
        self.recipe = recipe
        self.version = 0
        self.updates = 0
        self.whole = True
        """False while an update is being applied: an exception then leaves a state that is not to be kept."""
        torch.manual_seed(recipe.seed)  # the first values of LoRA and of new heads
        self.policy = RewardModel(model_dir, recipe.model) if recipe.algorithm.trains_reward_model else Policy(model_dir, recipe.model)
        stop_unless_ready(recipe, self.policy.device)
        critic = recipe.algorithm.critic
        self.critic = None if critic is None else checked_instance(critic, critic.start(self.policy), RunningCritic)
        self.optimizer = make_optimizer(recipe.optimizer, self.policy, self.critic, None if critic is None else critic.lr)
        self.references = {} if isinstance(self.policy, RewardModel) else references.start_references(recipe, self.policy)
        self.budgets = budgets.device_budgets(recipe, self.policy)
        self.states = ReferenceStates(self.references, self.budgets.kept_bytes)
        self.initial: InitialPolicy | None = None
        self._logprobs: LogprobPass | None = None
        if isinstance(self.policy, Policy):
            self.initial = InitialPolicy(self.policy, self.references)
            self._logprobs = LogprobPass(recipe, self.policy, self.references, self.critic, self.states, self.budgets)
        self._packer = Flattener()
        self._agreement: Agreement | None = None

    @torch.no_grad()
    def compute_logprobs(self, batch: TokenBatch) -> TokenBatch:
        """The batch with the references' log-probs, and with pi_old and the critic's values if a part reads them."""
        for reference in references.distinct_references(self.references).values():
            reference.before_batch()
        self.states.start_batch()
        self._stop_unless_the_users_model(batch)
        batch = replace(batch, rows=tuple(range(len(batch.lengths))))
        return batch if self._logprobs is None else self._logprobs.compute(batch)

    @torch.no_grad()
    def precompute(self, batch: TokenBatch | None) -> int:
        """Precompute the log-probs of these answers for the references that store them. Returns how many sequences were computed.

        Args: batch: the answers; None, after the last batch, frees the models that computed them.
        """
        if batch is None:
            for reference in self.references.values():
                reference.release()
            return 0
        return 0 if self._logprobs is None else self._logprobs.precompute(batch)

    def trained(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Every parameter the optimizer updates: the policy's, then the critic's."""
        yield from self.policy.trained()
        if self.critic is not None:
            yield from self.critic.trained()

    def update(self, batch: TokenBatch, step: int) -> dict[str, Stat]:
        """All updates from this batch. Raises RunStopped for a loss or gradient that is not finite, and does not apply that update.

        After any exception, earlier updates from the batch stay. The batch then counts as trained, so that a resumed run does not apply
        them twice.
        """
        torch.manual_seed(self.recipe.seed * 1_000_003 + step)  # LoRA's dropout; a resumed run draws the same
        algorithm, tally = self.recipe.algorithm, MetricAccumulator()
        before = self.updates
        try:
            for epoch in range(algorithm.epochs):
                for mini in minibatches(batch, algorithm.minibatches, seed=self.recipe.seed + step * 1009 + epoch):
                    self._one_update(mini, step, tally, first=self.updates == before)
        except (Exception, SystemExit):
            self.version += self.updates > before
            raise
        self.version += 1
        for name, reference in self.references.items():
            tally.add(f"ref/{name}/version", reference.version, 1)
        return tally.stats()

    def _one_update(self, mini: TokenBatch, step: int, tally: MetricAccumulator, first: bool) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        losses = MetricAccumulator()
        for micro in self._micro_batches(self._weighed(mini)):
            with self.policy.adapter_dropout():
                objective.total(self.recipe, self._context(micro), losses, tally).backward()
        try:
            self._stop_unless_finite(losses, step)
        except RunStopped:
            self._refuse_values(mini)
            raise
        if first:
            self._stop_on_gap(mini, tally, step)
        if first and self.version == 0:
            parts = of_recipe(self.recipe)
            references.stop_unless_initial(parts, self.recipe.model.dtype, list(parts), tally, step)
        # Clip each model separately: the critic's gradient norm must not scale the policy's.
        models = [self.policy, *([self.critic] if self.critic is not None else [])]
        masters = [[self.optimizer.master(p) for _, p in model.trained()] for model in models]
        norms = [torch.nn.utils.clip_grad_norm_(parameters, self.recipe.optimizer.max_grad_norm) for parameters in masters]
        for norm in norms:
            if not torch.isfinite(norm):
                self._refuse_values(mini)
                raise RunStopped(
                    f"step {step}: the gradient norm is {norm.item()} although every loss is finite; a smaller "
                    "optimizer.lr or float32 (model.dtype) is the usual remedy"
                )
        fraction = schedule(self.recipe.optimizer, step, self.recipe.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = fraction * group["full_lr"]
        self.whole = False
        self.optimizer.step()
        self.updates += 1
        self.whole = True
        for reference in references.distinct_references(self.references).values():
            reference.after_step(self.updates)
        tally.merge(losses)
        for name, norm in zip(("grad/norm", "critic/grad/norm"), norms, strict=False):
            tally.add(name, norm, 1)
        tally.add("lr", fraction * self.recipe.optimizer.lr, 1)

    def _context(self, micro: TokenBatch) -> TokenContext | RewardModelContext:
        """Run the forward pass of a micro-batch and collect what its loss reads."""
        if isinstance(self.policy, RewardModel):
            return RewardModelContext(batch=micro, scores=self.policy.scores(micro))
        hidden = self.policy.hidden(micro)
        head, spelled = self.policy.head(), self.policy.spelled
        fresh = stats(self.recipe, self.budgets, spelled, hidden, head, micro, self._to_references(micro))
        again = self.recipe.algorithm.rescaled
        rescaled = None if again is None else stats(self.recipe, self.budgets, spelled, hidden, head, micro, rescaled=again).logp
        values = None if self.critic is None else values_of(self.critic, micro, hidden)
        micro = replace(micro, ref_logp={**micro.ref_logp, **fresh.ref_logp})
        exact = {name: self._of_both_branches(name, micro, hidden, found) for name, found in fresh.exact.items()}
        return TokenContext(batch=micro, logp=fresh.logp, entropy=fresh.entropy, rescaled_logp=rescaled, exact=exact, values=values)

    def _of_both_branches(self, name: str, micro: TokenBatch, hidden: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        """The divergence [T] of a regularizer, whose gradient also flows through its reference if that is a branch of the policy."""
        other = self.references[name].branch(micro)
        if other is None:
            return found
        assert isinstance(self.policy, Policy)  # a reward model has no references
        head = self.policy.head()
        own = Compared(Mirrored(self.recipe.regularizers[name].divergence), hidden.detach(), head)
        mirrored = stats(self.recipe, self.budgets, self.policy.spelled, self.policy.hidden(other), head, other, {name: own}).exact[name]
        return found + mirrored - mirrored.detach()

    def _to_references(self, micro: TokenBatch) -> dict[str, Compared]:
        exact = [name for name in referenced(self.recipe.regularizers) if self.recipe.regularizers[name].full_vocabulary]
        regularizers = self.recipe.regularizers
        return {
            name: Compared(regularizers[name].divergence, hidden, self.states.head(name), regularizers[name].outcomes)
            for name, hidden in self.states.of(exact, micro).items()
        }

    def _micro_batches(self, batch: TokenBatch) -> Iterator[TokenBatch]:
        return (micro for _, micro in self._placed(batch))

    def _placed(self, batch: TokenBatch) -> Iterator[tuple[torch.Tensor, TokenBatch]]:
        """Each micro-batch on the policy's device, with the indices of its tokens in the batch."""
        for chosen, micro in micro_batches(batch, self.budgets.micro_tokens, whole_groups=self.recipe.algorithm.whole_groups):
            yield chosen, micro.to(self.policy.device)

    def _weighed(self, batch: TokenBatch) -> TokenBatch:
        weights = self.recipe.algorithm.reduction.weights(batch.lengths, self.recipe.trained_tokens)
        Returned(self.recipe.algorithm.reduction, "weights", "algorithm.reduction").positive(weights, len(batch.lengths), ANSWER)
        batch = replace(batch, loss_weights=weights[batch.seq_ids], examples=len(batch.lengths))
        weighting = self.recipe.algorithm.loss_weighting
        return batch if weighting is None or not weighting.reads_losses else self._weighed_by_losses(batch, weighting)

    @torch.no_grad()
    def _weighed_by_losses(self, batch: TokenBatch, weighting: LossWeighting) -> TokenBatch:
        losses = torch.zeros(len(batch.lengths))
        for chosen, micro in self._placed(batch):
            found = objective.example_losses(self.recipe, self._context(micro))
            losses[batch.seq_ids[chosen].unique()] = found.float().cpu()
        if not losses.isfinite().all():
            return batch  # the update then stops the run, and says which loss it is
        weights = weighting.of_losses(losses)
        if weights is None:
            return batch
        Returned(weighting, "of_losses", "algorithm.loss_weighting").not_negative(weights, len(losses), ANSWER)
        own = weights[batch.seq_ids] * (1.0 if batch.own_weights is None else batch.own_weights)
        return replace(batch, own_weights=own)

    @torch.no_grad()
    def measure(self, batch: TokenBatch) -> dict[str, Stat]:
        """The statistics and losses of a prepared batch, without an update."""
        losses, tally = MetricAccumulator(), MetricAccumulator()
        for micro in self._micro_batches(self._weighed(batch)):
            objective.total(self.recipe, self._context(micro), losses, tally)
        tally.merge(losses)
        return tally.stats()

    @torch.no_grad()
    def token_penalties(self, batch: TokenBatch) -> TokenPenalties:
        """What each regularizer takes from the tokens of a prepared batch, or of some of its sequences, without an update."""
        parts = micro_batches(batch, self.budgets.micro_tokens)
        return token_penalties(self.recipe, batch, ((at, self._context(micro.to(self.policy.device))) for at, micro in parts))

    def _stop_unless_finite(self, losses: MetricAccumulator, step: int) -> None:
        for name, stat in losses.stats().items():
            if not torch.isfinite(torch.tensor(stat.sum)):
                raise RunStopped(
                    f"step {step}: {name} is {stat.sum}; the update was not applied and the state before it is kept. Look at "
                    "this term in metrics.jsonl; a smaller optimizer.lr is the usual remedy"
                )

    @torch.no_grad()
    def _refuse_values(self, mini: TokenBatch) -> None:
        """Raises RecipeError at a part that makes values which are not finite of finite log-probs, and does not come with align."""
        with values_checked():
            for micro in self._micro_batches(self._weighed(mini)):
                ctx = self._context(micro)
                if (ctx.scores if isinstance(ctx, RewardModelContext) else ctx.logp).isfinite().all():
                    objective.total(self.recipe, ctx, MetricAccumulator(), MetricAccumulator())

    def _stop_on_gap(self, mini: TokenBatch, tally: MetricAccumulator, step: int) -> None:
        gap = tally.stats().get("engine/gap")
        if gap is not None:
            agreement = None if self._agreement is None else self._agreement.found
            stop_on_engine_gap(self.recipe, self.policy.model_dir, gap.mean, step, agreement, mini.versions)

    @torch.no_grad()
    def exact_kl(self, batch: TokenBatch) -> Stat:
        """KL(policy||initial policy) of whole answers, in nats: the exact KL at each visited state, summed over the answer.

        It does not depend on the regularizers.
        """
        assert self.initial is not None  # a reward model generates no answers
        self._stop_unless_the_users_model(batch)
        total, policy = 0.0, self.initial.policy
        refuse_unspelled(policy.spelled, batch)
        with self.initial.at_hand() as (initial, parameters):
            for _, micro in micro_batches(batch, self.budgets.micro_tokens):
                micro = micro.to(policy.device)
                compared = {"kl": Compared(ReverseKl(), initial.hidden(micro, parameters), initial.head(parameters))}
                found = stats(self.recipe, self.budgets, policy.spelled, policy.hidden(micro), policy.head(), micro, compared)
                total += found.exact["kl"].sum().item()
        return Stat(sum=total, count=len(batch.lengths))

    def reference_info(self) -> dict[str, dict[str, Any]]:
        """By name: the reference, how often it has changed, and the hash of the reference's parameters."""
        return references.reference_info(self.references, of_recipe(self.recipe))

    def weights(self) -> Weights:
        """The policy's weights for an engine, under checkpoint names."""
        assert isinstance(self.policy, Policy)  # no engine samples from a reward model
        return self._packer.flatten(self.policy.alike(), self.policy.tensors())

    def export(self, folder: str) -> None:
        """The policy as a Hugging Face folder. Raises WriteFailed for a full disk, UserError if the model in the folder has other log-probs
        than the learner."""
        with writing(f"the model {folder}"):
            self.policy.export(folder)
        if self._agreement is not None:
            self._agreement.stop_unless_exported(folder)

    def _stop_unless_the_users_model(self, batch: TokenBatch) -> None:
        """Once, on the first batch: raises UserError if a model's log-probs are not those of its own forward pass."""
        if self._agreement is not None:
            return
        if isinstance(self.policy, Policy):
            refuse_unspelled(self.policy.spelled, batch)  # whose rows the check would read
        rows = some_rows(batch)
        self._agreement = Agreement(self.recipe, self.budgets, self.policy, rows, "model")
        self._agreement.stop_unless_the_models_own()
        for name, reference in references.distinct_references(self.references).items():
            if isinstance(reference, OwnModel):
                Agreement(self.recipe, self.budgets, reference.model, rows, place(name)).stop_unless_the_models_own()

    def state_dict(self) -> dict[str, Any]:
        """The learner's half of `RunState`: tensors."""
        return checkpoint.state_dict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        checkpoint.load_state_dict(self, state)

    def save(self, folder: str) -> None:
        checkpoint.save(self, folder)

    def load(self, folder: str) -> None:
        checkpoint.load(self, folder)
