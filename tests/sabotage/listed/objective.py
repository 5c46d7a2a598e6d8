"""Bugs in divergences, advantages, surrogates, reductions, credits and the composed regularizer."""

from listed.mutant import DIVERGENCES, GRPO, ONE_FILE, ORACLES, STATES, WEIGHTINGS, Mutant

MUTANTS = [
    # Divergences.
    Mutant("reverse KL pushes away", "align/divergences/reverse_kl.py",
           "def grad_weight(self, log_u: Tensor) -> Tensor:\n        return log_u\n",
           "def grad_weight(self, log_u: Tensor) -> Tensor:\n        return -log_u\n", ORACLES),
    Mutant("forward KL pushes away", "align/divergences/forward_kl.py", "return -torch.expm1(-", "return torch.expm1(-",
           ORACLES),
    Mutant("generalised JSD with its share the wrong way round", "align/divergences/generalised_jsd.py",
           "return (1 - self.b) * self._logs(log_u)[1]", "return self.b * self._logs(log_u)[1]", DIVERGENCES),
    Mutant("Tsallis without its factor q", "align/divergences/tsallis.py", "return self.q * closed_forms.power_khat(log_u, self.q - 1)",
           "return closed_forms.power_khat(log_u, self.q - 1)", DIVERGENCES),
    Mutant("Renyi with the inverse slope", "align/divergences/renyi.py", "1 / (1 + excess)", "1 + excess", STATES),
    Mutant("skew KL with policy and reference swapped in the mixture", "align/divergences/skew_kl.py",
           "closed_forms.log_mixture(log_u, 1 - self.lam), closed_forms", "closed_forms.log_mixture(log_u, self.lam), closed_forms",
           DIVERGENCES),
    Mutant("derivative in log u taken for that in u", "kernels/align_kernels/by_f.py",
           "slope = value_and_slope(self.f, x)[1] * torch.exp(-x)", "slope = value_and_slope(self.f, x)[1]", DIVERGENCES),
    Mutant("a series used beyond its range", "align/core/closed_forms.py", "NEAR = 1 / 8", "NEAR = 3.0", DIVERGENCES),
    # Advantages, surrogate, reduction.
    Mutant("biased standard deviation of a group", "align/advantages/group_standardised.py", "groups) / (n - 1).clamp_min(1)",
           "groups) / n", GRPO),
    Mutant("biased standard deviation of a batch", "align/advantages/batch_standardised.py", "max(len(rewards) - 1, 1)", "len(rewards)",
           GRPO),
    Mutant("baseline added", "align/advantages/group_centred.py", "batch.rewards - group_mean(", "batch.rewards + group_mean(", GRPO),
    Mutant("clip bounds swapped", "align/surrogates/clipped.py", "ratio.clamp(1 - clip_low, 1 + clip_high)",
           "ratio.clamp(1 - clip_high, 1 + clip_low)", GRPO),
    Mutant("the larger of both surrogates", "align/surrogates/clipped.py", "-torch.minimum(plain, bounded)",
           "-torch.maximum(plain, bounded)", GRPO),
    Mutant("reward minimised", "align/surrogates/clipped.py", "return -torch.minimum", "return torch.minimum", ONE_FILE),
    Mutant("ratio detached", "align/surrogates/clipped.py", "ratio_of(log_ratio)", "ratio_of(log_ratio.detach()) + 0 * log_ratio",
           ONE_FILE),
    Mutant("sequence mean without the number of sequences", "align/reductions/sequence_mean.py",
           "return 1.0 / (len(lengths) * lengths.float())", "return 1.0 / lengths.float()", GRPO),
    Mutant("constant reduction by the actual tokens", "align/reductions/constant.py", "/ (len(lengths) * max_tokens)", "/ lengths.sum()",
           GRPO),
    Mutant("token mean over sequences", "align/reductions/token.py", "(1.0 / lengths.sum())", "(1.0 / len(lengths))", GRPO),
    Mutant("a token answers for itself twice", "align/core/segments.py",
           "torch.nn.functional.pad(padded(x, seq_ids, positions)[:, 1:], (0, 1))", "padded(x, seq_ids, positions)", ORACLES),
    # Credit and the composed regularizer.
    Mutant("an answer's clamp on each of its tokens", "align/regularizers/composed.py",
           "log_u, weights = credit.sequence_sum(log_u, at), weights_of_sequences(weights, at)\n"
           "        clamped = log_u.abs() > self.largest_log_ratio\n"
           "        log_u = log_u.clamp(-self.largest_log_ratio, self.largest_log_ratio)\n",
           "clamped = log_u.abs() > self.largest_log_ratio\n"
           "            log_u = credit.sequence_sum(log_u.clamp(-self.largest_log_ratio, self.largest_log_ratio), at)\n"
           "            weights = weights_of_sequences(weights, at)\n"
           "        else:\n"
           "            clamped = log_u.abs() > self.largest_log_ratio\n"
           "            log_u = log_u.clamp(-self.largest_log_ratio, self.largest_log_ratio)\n",
           "unit/regularizers/test_sequence_clamp.py"),
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
           "log_u, weights = logp - batch.ref_logp[name]", "log_u, weights = batch.ref_logp[name] - logp", ORACLES),
    Mutant("the estimate differentiated by accident", "align/regularizers/composed.py",
           "self._estimates(ctx.logp.detach(), ctx.batch, name, at)", "self._estimates(ctx.logp, ctx.batch, name, at)", ORACLES),
    Mutant("weights applied twice", "align/regularizers/composed.py", ", weights * self._estimate(own", ", weights**2 * self._estimate(own",
           f"{STATES} {WEIGHTINGS}"),
    Mutant("weights dropped from the exact form", "align/regularizers/composed.py",
           "divergence = ctx.batch.penalty_weights[name] * ctx.exact[name]", "divergence = ctx.exact[name]", f"{STATES} {WEIGHTINGS}"),
    Mutant("the surrogate's ratio counted twice in the reward", "align/regularizers/composed.py", "reward=credited.grad_weight * owned",
           "reward=credited.grad_weight", ORACLES),
    Mutant("a state weighed by the token after it", "align/regularizers/composed.py", "log_weight = log_weight - log_ratio",
           "log_weight = log_weight - 0 * log_ratio", ORACLES),
    Mutant("k3 with the gradient of k2", "align/estimators/k3.py", "return -torch.expm1(-closed_forms.within(log_u, below=1.0))",
           "return log_u",
           "unit/regularizer_oracles/test_published_forms.py"),
    Mutant("the k tokens the policy likes best", "align/estimators/top_k.py", "kept = ref_logp.topk", "kept = logp.topk",
           "unit/regularizers/test_top_k.py"),
]
