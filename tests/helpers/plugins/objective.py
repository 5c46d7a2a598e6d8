"""Parts of an objective that conform, and what one mistake makes of them (see defective.py)."""

from __future__ import annotations

from helpers.plugins.changes import add, swap

GOOD = {
    "advantage": '''
        class Part:
            """The reward less the mean of the batch's."""
            scale: float = 2.0
            def formula(self):
                return "c (r − mean)"
            def advantages(self, batch):
                return (self.scale * (batch.rewards - batch.rewards.mean()))[batch.seq_ids]
        ''',
    "surrogate": '''
        import torch
        class Part:
            """The ratio up to a bound."""
            bound: float = 1.5
            def formula(self):
                return "min(ρ, b) A"
            def loss(self, log_rho, advantages, at):
                rho = log_rho.exp()
                cut = (rho > self.bound).detach()
                return -torch.where(cut, self.bound, rho) * advantages, cut
            def effective_log_ratio(self, log_rho, at):
                return log_rho
        ''',
    "reduction": '''
        import torch
        class Part:
            """The square root of the length, a mean over answers."""
            power: float = 0.5
            def formula(self):
                return "1/(S √n)"
            def weights(self, lengths, max_tokens):
                return (1 / len(lengths)) * lengths.float() ** -self.power
        ''',
    "preference": '''
        import torch
        class Part:
            """The exponential loss of a pair."""
            largest: float = 20.0
            def formula(self):
                return "−exp(−β (s_w − s_l))"
            def losses(self, pairs):
                return torch.exp((-pairs.beta * pairs.margin).clamp_max(self.largest))
        ''',
    "likelihood": '''
        class Part:
            """1 - pi of each token."""
            scale: float = 2.0
            def formula(self):
                return "c (π − 1)"
            def losses(self, ctx):
                return self.scale * (1 - ctx.logp.exp())
        ''',
    "loss_weighting": '''
        class Part:
            """The distance of the loss from its mean, and a count of the steps."""
            power: float = 1.5
            def formula(self):
                return "(1 + |l − mean|)^p"
            def of_losses(self, losses):
                return (1 + (losses - losses.mean()).abs()) ** self.power
            def initial_state(self):
                return {"steps": 0}
            def update(self, state, losses):
                return {"steps": state["steps"] + 1}
        ''',
    "curriculum": '''
        import numpy as np
        class Part:
            """The distance from always solved."""
            power: float = 2.0
            def formula(self):
                return "(1.01 − s)^p"
            def weights(self, passed, tried):
                return (1.01 - np.where(tried > 0, passed, 0.5)) ** self.power
        ''',
}
DEFECTS = {
    ("advantage", "advantages"): swap("[batch.seq_ids]", ""),
    ("advantage", "returns"): add("def returns(self, batch): return batch.rewards"),
    ("advantage", "what it needs"): swap("[batch.seq_ids]", "[batch.seq_ids] - batch.values"),
    ("advantage", "direction"): swap("batch.rewards - batch.rewards.mean()", "batch.rewards.mean() - batch.rewards"),
    ("advantage", "least samples"): swap(
        "batch.rewards - batch.rewards.mean()", "batch.rewards * (batch.group_ids.diff(prepend=batch.group_ids[:1] - 1) == 0)"
    ),
    ("advantage", "repeats"): swap("(self.scale", "(__import__('torch').rand(()) * self.scale"),
    ("advantage", "leaves the batch alone"): swap("batch.rewards - batch.rewards.mean()", "batch.rewards.sub_(batch.rewards.mean())"),
    ("advantage", "explained"): add("def symbols(self): return {'r': 1.0}"),
    ("surrogate", "loss"): swap(", cut\n", ", cut.float()\n"),
    ("surrogate", "policy gradient"): swap("return -torch", "return torch"),
    ("surrogate", "effective ratio"): swap("return log_rho\n", "return 2 * log_rho\n"),
    ("surrogate", "any split"): swap("rho = log_rho.exp()", "rho = (log_rho - log_rho.detach().mean()).exp()"),
    ("surrogate", "explained"): add("def formula(self): return ''"),
    ("reduction", "weights"): swap("return (1", "return -(1"),
    ("reduction", "order"): swap("lengths.float()", "(1 + torch.arange(len(lengths)))"),
    ("reduction", "size of the batch"): swap("(1 / len(lengths)) * ", ""),
    ("reduction", "leaves the lengths alone"): swap("lengths.float() **", "lengths.clamp_(max=3).float() **"),
    ("reduction", "explained"): add("def formula(self): return None"),
    ("preference", "losses"): swap(".clamp_max(self.largest)", ""),
    ("preference", "direction"): swap("-pairs.beta", "pairs.beta"),
    ("preference", "pair by pair"): swap("pairs.margin)", "(pairs.margin - pairs.margin.mean()))"),
    ("preference", "beta"): swap("-pairs.beta", "-1.0"),
    ("preference", "explained"): add("def formula(self): return None"),
    ("likelihood", "losses"): swap("ctx.logp.exp()", "ctx.logp.detach().exp()"),
    ("likelihood", "direction"): swap("(1 - ctx.logp.exp())", "ctx.logp.exp()"),
    ("likelihood", "any split"): swap("(1 - ctx.logp.exp())", "(ctx.logp.mean().detach() - ctx.logp.exp())"),
    ("likelihood", "explained"): add("def symbols(self): return {'': 'nothing'}"),
    ("loss_weighting", "weights"): swap("return (1", "return -(1"),
    ("loss_weighting", "weighs"): swap("of_losses", "of_loss"),
    ("loss_weighting", "what it needs"): add("def of_batch(self, batch, state): return batch.entropy * 1"),
    ("loss_weighting", "order"): swap("losses.mean()", "losses[0]"),
    ("loss_weighting", "state"): swap('return {"steps": state["steps"] + 1}', 'state["steps"] += 1; return state'),
    ("loss_weighting", "explained"): add("def symbols(self): return {'': 'nothing'}"),
    ("curriculum", "weights"): swap("np.where(tried > 0, passed, 0.5)", "passed"),
    ("curriculum", "repeats"): swap("** self.power", "** self.power * np.random.default_rng().random()"),
    ("curriculum", "order"): swap("** self.power", "** self.power * np.arange(1.0, len(tried) + 1)"),
    ("curriculum", "explained"): add("def symbols(self): return {'': 'nothing'}"),
}
