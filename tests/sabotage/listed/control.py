"""Bugs in coefficients, weightings and shapings, and keys that land dead."""

from listed.mutant import COEFFICIENTS, LENGTHS, MISMATCH, WEIGHTINGS, Mutant

MUTANTS = [
    # Coefficients, weightings, shapings.
    Mutant("adaptive error not clipped", "align/coefficients/adaptive.py", "min(max(divergence / self.target - 1, -0.2), 0.2)",
           "divergence / self.target - 1", COEFFICIENTS),
    Mutant("dual descent", "align/coefficients/lagrangian.py", 'state["log_beta"] + self.rate *', 'state["log_beta"] - self.rate *',
           COEFFICIENTS),
    Mutant("warm-up one step late", "align/coefficients/warmup.py", "min((step + 1) / self.steps, 1.0)", "min(step / self.steps, 1.0)",
           COEFFICIENTS),
    Mutant("penalty tolerance from one side", "align/coefficients/ppo_penalty.py", "if divergence < self.target / self.tolerance:",
           "if divergence < self.target:", COEFFICIENTS),
    Mutant("difficulty of the wrong answers", "align/weightings/difficulty.py", "torch.where(batch.advantages > 0,",
           "torch.where(batch.advantages < 0,", WEIGHTINGS),
    Mutant("entropy gate the wrong way round", "align/weightings/entropy_gate.py", "batch.entropy >= cut", "batch.entropy < cut",
           WEIGHTINGS),
    Mutant("a coefficient without its prompts", "align/experience/prepare.py",
           "**weights}, multipliers={**batch.multipliers, **multipliers})",
           "**weights})", "unit/regularizers/test_multipliers.py"),
    Mutant("long answers rewarded", "align/shapings/overlong.py", "rewards - self.factor *", "rewards + self.factor *", LENGTHS),
    Mutant("a bonus without bound", "align/shapings/_bonus.py", "torch.minimum(gain * signal, advantages.abs() / bound)",
           "gain * signal + 0 * advantages.abs() / bound", "unit/shapings/test_bonuses.py"),
    Mutant("good answers masked", "align/shapings/off_policy_mask.py", "(advantages >= 0)", "(advantages < 0)", MISMATCH),
    Mutant("engine and learner swapped in the importance weight", "align/shapings/importance.py", "batch.old_logp - batch.sampler_logp",
           "batch.sampler_logp - batch.old_logp", MISMATCH),
    Mutant("short wrong answers punished", "align/shapings/length_complexity.py", "(lengths - total / count.clamp_min(1)).clamp_min(0)",
           "(total / count.clamp_min(1) - lengths).clamp_min(0)", LENGTHS),
    # Keys that land dead.
    Mutant("weight decay ignored", "align/learner/optimizer.py", "options.weight_decay, options.lr)", "0.0, options.lr)",
           "unit/conformance/test_liveness.py::test_every_key_is_alive[recipe.optimizer.weight_decay]"),
    Mutant("the engine's batch size ignored", "align/engines/transformers.py", "size = max(1, self.max_batch // samples)",
           "size = max(1, len(lengths))", "unit/conformance/test_liveness.py::test_every_key_is_alive[engine.transformers.max_batch]"),
]
