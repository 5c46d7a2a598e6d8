"""Bugs that an RLHF trainer is prone to, each put into the sources as one change of text, and the tests that must notice."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """`old` stands in `file` exactly once, and becomes `new`."""

    name: str
    file: str
    old: str
    new: str
    tests: str
    """Files or tests, relative to tests/, joined by spaces."""


TABLE = "golden/test_methods_table.py"
DIVERGENCES = "property/test_divergences.py"
ORACLES = "unit/test_regularizer_oracles.py"
LEARNER = "unit/test_learner.py"
REFERENCES = "unit/test_references.py"
SCORER = "unit/test_scorer.py"
COEFFICIENTS = "unit/test_coefficients.py"
SHAPINGS = "unit/test_shapings.py"
WEIGHTINGS = "unit/test_weightings.py"
PACKING = "unit/test_packing.py"
ENGINE = "unit/test_transformers_engine.py"
ONE_FILE = "golden/test_one_file_grpo.py"

MUTANTS = [
    # Divergences.
    Mutant("reverse KL pushes away", "align/divergences/reverse_kl.py",
           "def coefficient(self, log_u: Tensor) -> Tensor:\n        return log_u\n",
           "def coefficient(self, log_u: Tensor) -> Tensor:\n        return -log_u\n", ORACLES),
    Mutant("forward KL pushes away", "align/divergences/forward_kl.py", "return -torch.expm1(-log_u)", "return torch.expm1(-log_u)",
           ORACLES),
    Mutant("generalised JSD with its share the wrong way round", "align/divergences/generalised_jsd.py",
           "return (1 - self.b) * self._logs(log_u)[1]", "return self.b * self._logs(log_u)[1]", DIVERGENCES),
    Mutant("Tsallis without its factor q", "align/divergences/tsallis.py", "return self.q * _accurate.power_value(log_u, self.q - 1)",
           "return _accurate.power_value(log_u, self.q - 1)", DIVERGENCES),
    Mutant("Renyi with the inverse slope", "align/divergences/renyi.py", "1 / (1 + excess)", "1 + excess", ORACLES),
    Mutant("skew KL with policy and reference swapped in the mixture", "align/divergences/skew_kl.py",
           "_accurate.log_mixture(log_u, 1 - self.lam), _accurate", "_accurate.log_mixture(log_u, self.lam), _accurate", DIVERGENCES),
    Mutant("derivative in log u taken for that in u", "align/divergences/__init__.py", "(slope * torch.exp(-x)).detach()",
           "slope.detach()", DIVERGENCES),
    Mutant("a series used beyond its range", "align/divergences/_accurate.py", "NEAR = 1 / 8", "NEAR = 3.0", DIVERGENCES),
    # Advantages, surrogate, reduction.
    Mutant("biased standard deviation of a group", "align/core/advantages.py", "(n - 1).clamp_min(1)", "n", TABLE),
    Mutant("biased standard deviation of a batch", "align/core/advantages.py", "max(len(rewards) - 1, 1)", "len(rewards)", TABLE),
    Mutant("baseline added", "align/core/advantages.py", "return rewards - group_mean(rewards, group_ids)",
           "return rewards + group_mean(rewards, group_ids)", TABLE),
    Mutant("clip bounds swapped", "align/core/surrogates.py", "rho.clamp(1 - clip_low, 1 + clip_high)",
           "rho.clamp(1 - clip_high, 1 + clip_low)", TABLE),
    Mutant("the larger of both surrogates", "align/core/surrogates.py", "-torch.minimum(plain, bounded)", "-torch.maximum(plain, bounded)",
           TABLE),
    Mutant("reward minimised", "align/core/surrogates.py", "return -torch.minimum", "return torch.minimum", ONE_FILE),
    Mutant("ratio detached", "align/core/surrogates.py", "rho = log_rho.exp()", "rho = log_rho.detach().exp() + 0 * log_rho", ONE_FILE),
    Mutant("sequence mean without the number of sequences", "align/core/reductions.py", "return 1.0 / (len(lengths) * lengths.float())",
           "return 1.0 / lengths.float()", TABLE),
    Mutant("constant reduction by the actual tokens", "align/core/reductions.py", "/ (len(lengths) * max_tokens)", "/ lengths.sum()",
           TABLE),
    Mutant("token mean over sequences", "align/core/reductions.py", "(1.0 / lengths.sum())", "(1.0 / len(lengths))", TABLE),
    Mutant("a token answers for itself twice", "align/core/segments.py",
           "torch.nn.functional.pad(padded(x, seq_ids, positions)[:, 1:], (0, 1))", "padded(x, seq_ids, positions)", ORACLES),
    # Credit and the composed regularizer.
    Mutant("no credit for what follows", "align/core/credit.py", "return Credited(value, rho * own + suffix_sum(value, *at))",
           "return Credited(value, rho * own)", ORACLES),
    Mutant("own token without rho", "align/core/credit.py", "return Credited(rho * value, rho * own)", "return Credited(rho * value, own)",
           ORACLES),
    Mutant("a whole answer counted at each token", "align/core/credit.py", "torch.where(at.positions == 0, rho * value, 0.0)",
           "rho * value",
           ORACLES),
    Mutant("prefixes weighed by one token", "align/core/credit.py", 'return prefix_sum(log_ratio, *at) if credit == "summed"',
           'return log_ratio if credit == "summed"', ORACLES),
    Mutant("policy and reference swapped", "align/regularizers/composed.py",
           "log_u = ctx.logp.detach() - ctx.batch.references[name].logp", "log_u = ctx.batch.references[name].logp - ctx.logp.detach()",
           ORACLES),
    Mutant("the estimate differentiated by accident", "align/regularizers/composed.py",
           "log_u = ctx.logp.detach() - ctx.batch.references[name].logp", "log_u = ctx.logp - ctx.batch.references[name].logp", ORACLES),
    Mutant("weights applied twice", "align/regularizers/composed.py", "own = weights * coefficient(", "own = weights**2 * coefficient(",
           f"{ORACLES} {WEIGHTINGS}"),
    Mutant("weights dropped from the exact form", "align/regularizers/composed.py", "divergence = weights * ctx.exact[name]",
           "divergence = ctx.exact[name]", f"{ORACLES} {WEIGHTINGS}"),
    Mutant("the surrogate's ratio counted twice in the reward", "align/regularizers/composed.py", "reward=credited.coefficient * owned",
           "reward=credited.coefficient", ORACLES),
    Mutant("a state weighed by the token after it", "align/regularizers/composed.py", "log_weight = log_weight - log_ratio",
           "log_weight = log_weight - 0 * log_ratio", ORACLES),
    Mutant("k3 with the gradient of k2", "align/estimators/k3.py", "return -torch.expm1(-log_u)", "return log_u", ORACLES),
    Mutant("the k tokens the policy likes best", "align/estimators/top_k.py", "kept = ref_logp.topk", "kept = logp.topk",
           "unit/test_top_k.py"),
    # The head, the policy and its references.
    Mutant("temperature forgotten", "align/core/logprobs.py", "return z if temperature == 1.0 else z / temperature", "return z",
           "unit/test_head.py"),
    Mutant("one chunk of the reference for all", "align/core/logprobs.py", "c._replace(hidden=c.hidden[i : i + rows])",
           "c._replace(hidden=c.hidden[:rows][: len(labels[i : i + rows])])", "unit/test_head.py"),
    Mutant("temperature forgotten for the reference", "align/learner/learner.py",
           "micro.tokens, temperature=self.recipe.sampling.temperature,\n                            elements",
           "micro.tokens,\n                            elements", LEARNER),
    Mutant("the state that follows a token", "align/learner/backbone.py", "+ batch.positions - 1", "+ batch.positions", LEARNER),
    Mutant("adapter not switched off", "align/learner/policy.py", "return self.module.disable_adapter()", "return nullcontext()", LEARNER),
    Mutant("moving average the wrong way round", "align/references/ema.py", "torch.lerp(self._shadow[name], p.detach().float(), self.rate)",
           "torch.lerp(p.detach().float(), self._shadow[name], self.rate)", LEARNER),
    Mutant("moving average at every step", "align/references/ema.py", "if step % self.every == 0:", "if step:", LEARNER),
    Mutant("the reference follows the policy", "align/references/frozen.py", "p.detach().clone()", "p.detach()", LEARNER),
    Mutant("a soup of whole models", "align/references/soup.py", "alpha=weight", "alpha=1", REFERENCES),
    # The learner.
    Mutant("pi_old in the order of the micro-batches", "align/learner/learner.py", "torch.cat([s.logp for s in old])[whole]",
           "torch.cat([s.logp for s in old])", LEARNER),
    Mutant("reference log-probs in the order of the micro-batches", "align/learner/learner.py",
           "torch.cat([p.logp for p in parts])[whole]", "torch.cat([p.logp for p in parts])", LEARNER),
    Mutant("beta forgotten", "align/learner/learner.py", "total = total + beta * (weights * multiplier * penalty.loss).sum()",
           "total = total + (weights * multiplier * penalty.loss).sum()", f"{LEARNER} {ONE_FILE}"),
    Mutant("another reduction for the penalty", "align/learner/learner.py",
           "total = total + beta * (weights * multiplier * penalty.loss).sum()",
           "total = total + beta * (multiplier * penalty.loss).mean()", LEARNER),
    Mutant("divergence rewarded", "align/learner/learner.py", "advantages = advantages - beta * multiplier * penalty.reward",
           "advantages = advantages + beta * multiplier * penalty.reward", f"{LEARNER} {ONE_FILE}"),
    Mutant("divergence a token told to the coefficient", "align/learner/learner.py",
           'tally.add(f"divergence/{name}", penalty.value.sum(), len(micro.lengths))',
           'tally.add(f"divergence/{name}", penalty.value.sum(), len(micro.seq_ids))', LEARNER),
    Mutant("an update with an infinite loss", "align/learner/learner.py", "        self._stop_unless_finite(losses, step)\n", "", LEARNER),
    Mutant("an engine with other weights goes unseen", "align/learner/learner.py", "            self._stop_on_engine_gap(tally, step)\n",
           "            pass\n", LEARNER),
    Mutant("dropout from the process's own random state", "align/learner/learner.py",
           "torch.manual_seed(self.recipe.seed * 1_000_003 + step)", "torch.seed()", LEARNER),
    Mutant("gradients of the last step added", "align/learner/learner.py", "        self.optimizer.zero_grad(set_to_none=True)\n", "",
           LEARNER),
    Mutant("divergence from the engine the wrong way round", "align/learner/tally.py", "(torch.expm1(gap) - gap)",
           "(torch.expm1(-gap) + gap)",
           LEARNER),
    Mutant("warm-up from nothing", "align/learner/optimizer.py", "options.lr * (step + 1) / options.warmup_steps",
           "options.lr * step / options.warmup_steps", LEARNER),
    Mutant("resume forgets Adam's moments", "align/learner/checkpoint.py",
           '            learner.optimizer.state[p] = state["optimizer"][name]\n', "", LEARNER),
    Mutant("dropped samples learned from", "align/pack.py", "np.flatnonzero(~np.isnan(rewards.values))", "np.arange(len(rewards.values))",
           LEARNER),
    Mutant("groups torn apart", "align/learner/micro_batches.py", "torch.isin(batch.group_ids, part)",
           "torch.isin(torch.arange(len(batch.group_ids)), part)", LEARNER),
    # Coefficients, weightings, shapings.
    Mutant("adaptive error not clipped", "align/coefficients/adaptive.py", "min(max(divergence / self.target - 1, -0.2), 0.2)",
           "divergence / self.target - 1", COEFFICIENTS),
    Mutant("dual descent", "align/coefficients/lagrangian.py", "self._log_beta + self.rate *", "self._log_beta - self.rate *",
           COEFFICIENTS),
    Mutant("warm-up one step late", "align/coefficients/warmup.py", "min((step + 1) / self.steps, 1.0)", "min(step / self.steps, 1.0)",
           COEFFICIENTS),
    Mutant("penalty tolerance from one side", "align/coefficients/ppo_penalty.py", "if divergence < self.target / self.tolerance:",
           "if divergence < self.target:", COEFFICIENTS),
    Mutant("difficulty of the wrong answers", "align/weightings/difficulty.py", "torch.where(batch.advantages > 0,",
           "torch.where(batch.advantages < 0,", WEIGHTINGS),
    Mutant("entropy gate the wrong way round", "align/weightings/entropy_gate.py", "batch.entropy >= cut", "batch.entropy < cut",
           WEIGHTINGS),
    Mutant("a coefficient without its prompts", "align/shape.py", "return replace(batch, penalty_weights=weights, multipliers=multipliers)",
           "return replace(batch, penalty_weights=weights)", "unit/test_multipliers.py"),
    Mutant("long answers rewarded", "align/shapings/overlong.py", "rewards - self.factor *", "rewards + self.factor *", SHAPINGS),
    Mutant("a bonus without bound", "align/shapings/_bonus.py", "torch.minimum(gain * signal, advantages.abs() / bound)",
           "gain * signal + 0 * advantages.abs() / bound", SHAPINGS),
    Mutant("good answers masked", "align/shapings/off_policy_mask.py", "(advantages >= 0)", "(advantages < 0)", SHAPINGS),
    Mutant("engine and learner swapped in the importance weight", "align/shapings/importance.py", "batch.old_logp - batch.sampler_logp",
           "batch.sampler_logp - batch.old_logp", SHAPINGS),
    Mutant("short wrong answers punished", "align/shapings/length_complexity.py", "(lengths - total / count.clamp_min(1)).clamp_min(0)",
           "(total / count.clamp_min(1) - lengths).clamp_min(0)", SHAPINGS),
    # Engines, weights, experience, checkpoints.
    Mutant("manifest not checked", "align/engines/transformers.py", "        self._layout.check(weights)\n", "", ENGINE),
    Mutant("seed ignored", "align/engines/_seeds.py", 'f"{seed}/{seen[prompt.id]}/{prompt.id}"', 'f"{seen[prompt.id]}/{prompt.id}"',
           ENGINE),
    Mutant("log-probs before temperature", "align/engines/_sampler.py", "logps[rows, t] = logp.gather(1, drawn[:, None]).squeeze(1)",
           "logps[rows, t] = logits.float().log_softmax(-1).gather(1, drawn[:, None]).squeeze(1)", ENGINE),
    Mutant("another version than was loaded", "align/engines/transformers.py", "        self.version = version\n", "", ENGINE),
    Mutant("tensors of another shape taken", "align/weight_sync/layout.py", "if given.get(n, shape) != shape", "if False", PACKING),
    Mutant("tensors start anywhere", "align/weight_sync/packing.py", "offset += -(-t.nbytes // ALIGNMENT) * ALIGNMENT",
           "offset += t.nbytes",
           PACKING),
    Mutant("weights never published", "align/workers/local.py", "        self.recipe.engine.load(version, weights)\n", "",
           "unit/test_local_workers.py"),
    Mutant("stale prefix cache", "align/weight_sync/vllm_host.py", "if not llm.reset_prefix_cache():", "if not llm:",
           "system/test_vllm_engine.py::test_long_prompts_that_share_their_beginning_in_the_cache"),
    Mutant("every epoch in the same order", "align/experience.py", "np.random.default_rng([seed, epoch])", "np.random.default_rng(seed)",
           "unit/test_experience.py"),
    Mutant("every run in the same order", "align/experience.py", "np.random.default_rng([seed, epoch])", "np.random.default_rng(epoch)",
           "unit/test_experience.py"),
    Mutant("resume forgets the coefficient", "align/checkpoints.py",
           "        recipe.regularizers[name].coefficient.load_state_dict(state)\n", "        pass\n", "unit/test_multipliers.py"),
    Mutant("the coefficient told a sum", "align/train.py", "regularizer.coefficient.update(measured.mean, rollouts)",
           "regularizer.coefficient.update(measured.sum, rollouts)", "unit/test_multipliers.py"),
    Mutant("a failed reward counts as 0", "align/workers/reward_runner.py", "instead = np.nan if", "instead = 0.0 if",
           "unit/test_reward_runner.py"),
    Mutant("a batch of rewards limited to the time of one", "align/workers/reward_runner.py", "limits.seconds * len(prompts)",
           "limits.seconds", "unit/test_reward_runner.py"),
    # Scorers, critics, learned rewards.
    Mutant("a score before the last token", "align/learner/backbone.py", "batch.prompt_lengths + batch.lengths - 1",
           "batch.prompt_lengths + batch.lengths - 2", SCORER),
    Mutant("a value after its token", "align/learner/scorer.py", "self._head(batch.input_ids[:, :-1], *before_each_token(batch))",
           "self._head(batch.input_ids, batch.seq_ids, before_each_token(batch)[1] + 1)", SCORER),
    Mutant("a scorer that pads with its end token", "align/learner/scorer.py", "(None, tokenizer.eos_token_id)", "(None,)", SCORER),
    Mutant("a scorer exported with the head it began with", "align/learner/backbone.py", "REPLACED in name", "KEPT in name", SCORER),
    Mutant("a value loss that always moves the backbone", "align/critics/shared.py", "hidden.detach() if self.detach else hidden",
           "hidden", "unit/test_critics.py"),
    Mutant("a learned reward without the end token", "align/rewards/learned.py", "[end] if rollout.finished else []", "[]",
           "unit/test_learned_reward.py"),
    Mutant("scores handed out in the order of their lengths", "align/rewards/learned.py", "            for i, score in zip(chosen,",
           "            for i, score in zip(range(first, first + len(chosen)),", "unit/test_learned_reward.py"),
    Mutant("an answer that spells special tokens", "align/rewards/learned.py", ", split_special_tokens=True", "",
           "unit/test_learned_reward.py"),
    Mutant("the gold reward trained on", "align/rewards/learned.py", '{"total": score,', '{"total": gold,', "unit/test_learned_reward.py"),
    # Keys that land dead.
    Mutant("weight decay ignored", "align/learner/optimizer.py", "weight_decay=options.weight_decay", "weight_decay=0.0",
           "unit/test_liveness.py::test_every_key_is_alive[recipe.optimizer.weight_decay]"),
    Mutant("the engine's batch size ignored", "align/engines/transformers.py", "size = max(1, self.max_batch // samples)",
           "size = max(1, len(prompts))", "unit/test_liveness.py::test_every_key_is_alive[engine.transformers.max_batch]"),
]
