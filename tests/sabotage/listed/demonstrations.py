"""Bugs in losses of demonstrations and in distillation."""

from listed.mutant import Mutant

LOSSES = "golden/methods_table/test_likelihoods.py"
LEARNER = "unit/demonstrations/test_demonstrations_in_the_learner.py"
DISTILL = "unit/distillation/test_distill.py"

MUTANTS = [
    Mutant("the power of a probability with the wrong sign", "align/likelihoods/power.py", "-torch.expm1(self.alpha * held) / self.alpha",
           "torch.expm1(-self.alpha * held) / self.alpha", LOSSES),
    Mutant("no gradient where a power overflows", "align/likelihoods/power.py", " - slope * (ctx.logp - held)", " - 0 * slope", LOSSES),
    Mutant("DFT differentiates its weight", "align/likelihoods/dft.py", "torch.exp(ctx.logp.detach())", "torch.exp(ctx.logp)", LOSSES),
    Mutant("a margin for the demonstrated token too", "align/likelihoods/ldr_kl.py", "torch.exp(logp - far) - torch.expm1(logp)",
           "torch.exp(logp) - torch.expm1(logp)", LOSSES),
    Mutant("the head read again at the recipe's temperature", "align/learner/logprobs.py", "recipe.sampling.temperature * rescaled",
           "recipe.sampling.temperature", LEARNER),
    Mutant("SEL without its half", "align/likelihoods/sel.py", "0.5 * (ctx.logp - teacher)", "(ctx.logp - teacher)", LOSSES),
    Mutant("log-probs of a row's own answer beside another's", "align/experience/packing.py", "None if sampled else teacher_logp.of",
           "teacher_logp.of", LEARNER),
    Mutant("a reward that distillation does not ask", "align/algorithms/__init__.py", "return self.samples and not self.distils",
           "return self.samples", DISTILL),
]
