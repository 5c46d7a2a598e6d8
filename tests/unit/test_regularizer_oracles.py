"""The whole product divergence x estimator x placement x credit x {on, off policy} against exact gradients, in float64.

A cell is refused, or its expected gradient is that of the objective it claims: on trees of three tokens (with and without an
end token) and single tokens, every placement and credit, on- and off-policy. In the reward it enters through the unclipped
surrogate `-rho (A - penalty)`, which weighs each token by its own ratio.

Off-policy means answers drawn from pi_old != pi_theta, weighed by pi_old; or from an engine mu that is neither.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor
from unit.definitions import every
from unit.enumeration import (
    NAME,
    Problem,
    gradient,
    local_objective,
    sequence_objective,
    state_divergence,
    summed_objective,
)

from align.coefficients.constant import Constant
from align.divergences import Divergence
from align.estimators.abs import Abs
from align.estimators.exact import Exact
from align.estimators.k1 import K1
from align.estimators.k2 import K2
from align.estimators.k3 import K3
from align.estimators.sampled import Sampled
from align.estimators.straight_through import StraightThrough
from align.estimators.top_k import TopK
from align.registry import _complete
from align.regularizers import Penalty
from align.regularizers._incompatible import incompatible
from align.regularizers.composed import Composed
from align.types import TokenContext
from align.weightings.uniform import Uniform


class SquaredHellinger:
    """What a user writes: f alone, on no base class."""

    def f(self, log_u):
        return (torch.exp(log_u / 2) - 1) ** 2


def reverse_kl(u):
    return u * u.log()


def forward_kl(u):
    return -u.log()


def k2_functional(u):
    """Not convex below 1/e, so no divergence: what the mean of k2 is."""
    return 0.5 * u * u.log() ** 2


def abs_functional(u):
    """What the mean of |log u| is; not convex either."""
    return u * u.log().abs()


def twice_total_variation(u):
    return (u - 1).abs()


EVERY_SETTING = every()
DIVERGENCES = {name: (known.divergence, known) for name, known in every(settings=2).items()} | {
    "users_own": (_complete(SquaredHellinger, Divergence)(), lambda u: (u.sqrt() - 1) ** 2)}
"""Every file of the room, and f of the ratio as its paper writes it."""
NO_EXPECTATION = {"renyi_0.5", "renyi_2"}
"""Functions of a divergence at each state."""
ESTIMATORS = {
    "sampled": Sampled(), "exact": Exact(), "top_2": TopK(k=2), "k1": K1(), "k2": K2(), "k3": K3(), "abs": Abs(),
    "k1+": StraightThrough(of="k1"), "k3+": StraightThrough(of="k3"), "abs+": StraightThrough(of="abs"),
}
ESTIMATES = {"k1": lambda d: -d, "k2": lambda d: 0.5 * d**2, "k3": lambda d: torch.exp(d) - 1 - d, "abs": torch.abs}
"""Of delta = log ref/pi."""
OF_KL = ("k1", "k2", "k3", "abs", "k1+", "k3+", "abs+")
OF_ANY = ("sampled", "exact", "top_2")
PLUS = ("k1+", "k3+", "abs+")
"""Published without an importance ratio and for KL(pi||ref) alone; with one and for every divergence; straight-through."""
PLACEMENTS = ("loss", "reward")
CREDITS = ("local", "summed", "sequence")
POLICIES = ("on", "off")
CELLS = list(product(DIVERGENCES, ESTIMATORS, PLACEMENTS, CREDITS, POLICIES))

MEANINGLESS = {
    *product(set(DIVERGENCES) - {"reverse_kl"}, OF_KL, PLACEMENTS, CREDITS, POLICIES),
    *product(DIVERGENCES, ("exact", "top_2"), ("reward",), CREDITS, POLICIES),
    *product(DIVERGENCES, ("exact", "top_2"), ("loss",), ("sequence",), POLICIES),
    *product(("reverse_kl",), OF_KL, ("loss",), ("summed",), POLICIES),
    *product(("reverse_kl",), PLUS, ("reward",), CREDITS, POLICIES),
    *product(NO_EXPECTATION, ("sampled",), PLACEMENTS, CREDITS, POLICIES),
}
"""Refused, whatever the recipe says."""
BIASED = {
    *product(("reverse_kl",), ("k1", "k3", "abs"), ("loss",), ("local", "sequence"), POLICIES),
    *product(("reverse_kl",), ("k2", *PLUS), ("loss",), ("local", "sequence"), ("off",)),
    *product(("reverse_kl",), ("k2", "k3", "abs"), ("reward",), CREDITS, POLICIES),
    *product(("reverse_kl",), ("k1",), ("reward",), ("summed", "sequence"), ("off",)),
}
"""Published forms: run only with `allow_biased`, and then have exactly the known bias."""
UNBIASED = [c for c in CELLS if c not in MEANINGLESS | BIASED]

TREES = (Problem(4, 3), Problem(4, 3, end=1))
SINGLE = (Problem(6),)
TOLERANCE = 1e-10


def composed(cell, allow_biased: bool = False, **keys) -> Composed:
    divergence, estimator, placement, credit, _ = cell
    return Composed(divergence=DIVERGENCES[divergence][0], estimator=ESTIMATORS[estimator], coefficient=Constant(1.0),
                    weighting=Uniform(), reference=None, placement=placement, credit=credit, allow_biased=allow_biased, **keys)


def setting(problem: Problem, policy: str) -> tuple[Tensor, Tensor | None, Tensor]:
    """pi_theta, pi_old (None on-policy), ref: three different random policies."""
    logits, ref = problem.random(1), problem.random(2)
    return logits, None if policy == "on" else logits + 0.5 * problem.random(3), ref


def context(cell, problem: Problem, sampler: Tensor | None = None) -> tuple[TokenContext, Tensor]:
    logits, old, ref = setting(problem, cell[4])
    leaf, estimator = logits.clone().requires_grad_(), ESTIMATORS[cell[1]]
    divergence = DIVERGENCES[cell[0]][0] if estimator.full_vocabulary else None
    return problem.context(leaf, old, ref, divergence, sampler=sampler, outcomes=estimator.outcomes), leaf


def expected_gradient(ctx: TokenContext, leaf: Tensor, penalty: Penalty) -> Tensor:
    """Of the total loss over the enumeration: the penalty's own loss, or the unclipped surrogate of an advantage of 0 minus the penalty."""
    loss = penalty.loss if penalty.reward is None else torch.exp(ctx.log_rho) * penalty.reward
    (result,) = torch.autograd.grad((ctx.batch.loss_weights * loss).sum(), leaf)
    return result


def objective(cell, problem: Problem, logits: Tensor, behaviour: Tensor | None, ref: Tensor, f=None) -> Tensor:
    """The exact divergence this cell claims, as a function of the policy's logits; `behaviour` None is the policy."""
    f, k = DIVERGENCES[cell[0]][1] if f is None else f, 2 if cell[1] == "top_2" else None
    if cell[3] == "local":
        return local_objective(f, problem, logits, logits if behaviour is None else behaviour, ref, k)
    return summed_objective(f, problem, logits, ref, k) if cell[3] == "summed" else sequence_objective(f, problem, logits, ref)


def assert_close(actual: Tensor, expected: Tensor):
    assert (actual - expected).abs().max() < TOLERANCE, (actual, expected)


def test_the_enumeration_is_complete():
    """Probabilities of answers sum to 1, a prefix is reached by what extends it, and tokens of an answer follow each other."""
    for problem in (Problem(6), *TREES):
        logits = problem.random(0)
        assert abs(problem.answer_logp(logits).exp().sum() - 1) < 1e-14
        of_answers = dict(zip(problem.answers, problem.answer_logp(logits).exp().tolist(), strict=True))
        for prefix, reached in zip(problem.prefixes, problem.reach(logits).tolist(), strict=True):
            assert abs(reached - sum(p for a, p in of_answers.items() if a[: len(prefix)] == prefix)) < 1e-14
        ctx = problem.context(logits, None, problem.random(1))
        assert_close(ctx.logp, problem.token_logp(logits))
        assert ctx.batch.tokens.tolist() == [token for a in problem.answers for token in a]
        assert ctx.batch.positions.tolist() == [t for a in problem.answers for t in range(len(a))]
    assert [len(p.answers) for p in (Problem(6), *TREES)] == [6, 64, 40]


def test_refused_cells_are_these_and_no_others(capsys):
    """3000 cells: 2472 without meaning, 40 published with a bias, 488 with the gradient they claim."""
    found = Counter()
    for cell in CELLS:
        divergence, estimator, placement, credit, policy = cell
        refusal = incompatible(DIVERGENCES[divergence][0], ESTIMATORS[estimator], placement, credit, on_policy=policy == "on", samples=True)
        kind = "unbiased" if refusal is None else "biased" if refusal.biased else "meaningless"
        assert kind == ("meaningless" if cell in MEANINGLESS else "biased" if cell in BIASED else "unbiased"), cell
        assert refusal is None or len(refusal.text) > 40
        found[kind] += 1
    assert found == {"meaningless": 2472, "biased": 40, "unbiased": 488}
    with capsys.disabled():
        print(f"\nregularizer product: {found['unbiased']} cells exact, {found['biased']} with their published bias, "
              f"{found['meaningless']} refused, of {len(CELLS)}")


def test_demonstrations_allow_only_the_exact_local_loss():
    allowed = {cell[:4] for cell in CELLS if incompatible(DIVERGENCES[cell[0]][0], ESTIMATORS[cell[1]], *cell[2:4],
                                                          on_policy=cell[4] == "on", samples=False) is None}
    assert allowed == set(product(DIVERGENCES, ("exact", "top_2"), ("loss",), ("local",)))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_recipe_is_told(estimator):
    """`refusal` names a reason, or offers allow_biased where a published form exists, and rejects allow_biased where it is idle."""
    for cell in (c for c in CELLS if c[1] == estimator):
        on_policy = cell[4] == "on"
        plain = composed(cell).refusal(on_policy=on_policy, samples=True)
        allowed = composed(cell, allow_biased=True).refusal(on_policy=on_policy, samples=True)
        if cell in MEANINGLESS:
            assert plain == allowed and "allow_biased" not in plain, cell
        elif cell in BIASED:
            assert "allow_biased: true" in plain and allowed is None, cell
        else:
            assert plain is None and "changes nothing" in allowed, cell


@pytest.mark.parametrize("cell", UNBIASED, ids="-".join)
def test_gradient_is_that_of_the_objective(cell):
    for problem in TREES + SINGLE:
        logits, old, ref = setting(problem, cell[4])
        ctx, leaf = context(cell, problem)
        penalty = composed(cell).penalty(ctx, NAME)
        assert (penalty.loss is None) == (cell[2] == "reward") and (penalty.reward is None) == (cell[2] == "loss")
        exact = gradient(lambda x, p=problem, old=old, ref=ref: objective(cell, p, x, old, ref), logits)
        assert exact.abs().max() > 1e-2
        assert_close(expected_gradient(ctx, leaf, penalty), exact)


@pytest.mark.parametrize("cell", [c for c in UNBIASED if c[1] in OF_ANY], ids="-".join)
def test_value_is_the_objective(cell):
    """In every placement, on- and off-policy, on trees too: the estimate carries its own importance ratio."""
    for problem in TREES + SINGLE:
        logits, old, ref = setting(problem, cell[4])
        ctx, _ = context(cell, problem)
        value = composed(cell).penalty(ctx, NAME).value
        assert not value.requires_grad
        exact = objective(cell, problem, logits, old, ref)
        assert exact > 1e-2
        assert_close((ctx.batch.loss_weights * value).sum(), exact)


@pytest.mark.parametrize("cell", [c for c in UNBIASED if c[1] in OF_ANY and c[2] == "loss"], ids="-".join)
def test_the_loss_reads_as_its_value(cell):
    for problem in TREES:
        ctx, _ = context(cell, problem)
        penalty = composed(cell).penalty(ctx, NAME)
        assert torch.equal(penalty.loss.detach(), penalty.value)


@pytest.mark.parametrize("cell", [c for c in UNBIASED if c[1] in ("exact", "top_2")], ids="-".join)
def test_exact_does_not_depend_on_the_token_drawn(cell):
    """Its value at a state is one number, off-policy too: only the ratio of the tokens before it may weigh it."""
    for problem in TREES:
        ctx, _ = context(cell, problem)
        value, prefix = composed(cell).penalty(ctx, NAME).value, torch.tensor(problem.steps())[:, 2]
        for state in range(len(problem.prefixes)):
            assert (value[prefix == state] - value[prefix == state][0]).abs().max() < 1e-14 * (1 + value.max())


@pytest.mark.parametrize("cell", [
    c for c in UNBIASED if c[1] == "sampled" or (c[1] in OF_ANY and c[3] == "summed")], ids="-".join)
def test_an_engine_that_differs_from_the_learner_is_corrected(cell):
    """Drawn from mu, which is neither pi_theta nor pi_old; `ratio_to: sampler`. Without it the gradient is another."""
    problem = TREES[1]
    logits, _, ref = setting(problem, cell[4])
    mu = logits + 0.5 * problem.random(4)
    exact = gradient(lambda x: objective(cell, problem, x, mu, ref), logits)
    gaps = []
    for ratio_to in ("sampler", "old"):
        ctx, leaf = context(cell, problem, mu)
        penalty = composed(cell, ratio_to=ratio_to).penalty(ctx, NAME)
        gaps.append((expected_gradient(ctx, leaf, penalty) - exact).abs().max())
        if ratio_to == "sampler":
            assert_close((ctx.batch.loss_weights * penalty.value).sum(), objective(cell, problem, logits, mu, ref))
    assert gaps[0] < TOLERANCE and gaps[1] > 1e-4


@pytest.mark.parametrize("cell", [c for c in CELLS if c not in MEANINGLESS and c[1] in OF_KL], ids="-".join)
def test_value_of_published_estimators(cell):
    """k1 and k3: KL(pi||ref) on-policy; k2 and abs: their own functionals. Off-policy none of them has a ratio: the mean is over pi_old."""
    functionals = {"k1": reverse_kl, "k2": k2_functional, "k3": reverse_kl, "abs": abs_functional}
    whose = cell[1].removesuffix("+")
    for problem in TREES + SINGLE:
        logits, old, ref = setting(problem, cell[4])
        ctx, _ = context(cell, problem)
        mean = (ctx.batch.loss_weights * composed(cell, allow_biased=True).penalty(ctx, NAME).value).sum()
        if cell[4] == "on":
            assert_close(mean, objective(cell, problem, logits, old, ref, functionals[whose]))
        else:
            assert_close(mean, mean_over_old(problem, cell[3], ESTIMATES[whose], logits, old, ref))


def mean_over_old(problem: Problem, credit: str, estimate, logits: Tensor, old: Tensor, ref: Tensor) -> Tensor:
    """E over pi_old of an estimate k(delta), delta = log ref/pi, of each token or (sequence) of the answer; differentiable in pi."""
    if credit == "sequence":
        return (problem.answer_logp(old).exp().detach() * estimate(problem.answer_logp(ref) - problem.answer_logp(logits))).sum()
    states = (torch.softmax(old, -1).detach() * estimate(torch.log_softmax(ref, -1) - torch.log_softmax(logits, -1))).sum(-1)
    return (problem.reach(old).detach() * states).sum()


@pytest.mark.parametrize("cell", sorted(c for c in BIASED if c[2] == "loss"), ids="-".join)
def test_bias_of_published_losses(cell):
    """methods A: on-policy k1 in the loss has gradient 0, k3 that of KL(ref||pi) and abs that of 2 TV; off-policy each is the plain loss
    over pi_old, the straight-through ones that of k2.

    There k1 climbs KL(pi_old||pi): `E_old[grad log pi] = -grad KL(pi_old||pi)`.
    """
    _, estimator, _, credit, policy = cell
    for problem in TREES + SINGLE:
        logits, old, ref = setting(problem, policy)
        ctx, leaf = context(cell, problem)
        found = expected_gradient(ctx, leaf, composed(cell, allow_biased=True).penalty(ctx, NAME))
        if policy == "on" and estimator == "k1":
            assert_close(found, torch.zeros_like(found))
        elif policy == "on":
            f = {"k3": forward_kl, "abs": twice_total_variation}[estimator]
            other = gradient(lambda x, p=problem, ref=ref, f=f: objective(cell, p, x, None, ref, f), logits)
            assert other.abs().max() > 1e-2
            assert_close(found, other)
        else:
            estimate = ESTIMATES["k2" if estimator in PLUS else estimator]
            published = gradient(lambda x, p=problem, old=old, ref=ref, e=estimate: mean_over_old(p, credit, e, x, old, ref), logits)
            assert published.abs().max() > 1e-2
            assert_close(found, published)
        if policy == "off" and estimator == "k1":
            away = gradient(lambda x, p=problem, old=old: objective(cell, p, x, old, old, forward_kl), logits)
            assert_close(found, -away)


@pytest.mark.parametrize("cell", sorted(c for c in BIASED if c[1:3] != ("k1", "reward") and c[2] == "reward"), ids="-".join)
def test_bias_of_published_rewards(cell):
    """For its own token k3 in the reward has grad_rev - grad_fwd, k2 grad E_pi[k2] - grad_rev and abs grad E_pi|k1| - grad 2 TV.

    Summed, the tokens that follow answer with their value: for k3 the bias stays with the own token; for the others the whole is
    the gradient of the summed functional minus the own tokens' other term. Beyond the own token off-policy, single tokens only.
    """
    _, estimator, _, credit, policy = cell
    claimed, wrong = {"k2": (k2_functional, reverse_kl), "k3": (reverse_kl, forward_kl), "abs": (abs_functional, twice_total_variation)}[
        estimator]
    own = (*cell[:3], "local" if credit == "summed" else credit, policy)
    for problem in SINGLE if credit != "local" and policy == "off" else TREES + SINGLE:
        logits, old, ref = setting(problem, policy)
        ctx, leaf = context(cell, problem)
        found = expected_gradient(ctx, leaf, composed(cell, allow_biased=True).penalty(ctx, NAME))

        def bias(f, g, x, problem=problem, old=old, ref=ref, logits=logits):
            behaviour = logits if old is None else old
            return objective(cell, problem, x, old, ref, f) - objective(own, problem, x, behaviour, ref, g)

        published = gradient(lambda x, bias=bias: bias(claimed, wrong, x), logits)
        assert published.abs().max() > 1e-2
        assert_close(found, published)


def test_k3_in_the_reward_vanishes_to_first_order_near_the_reference():
    """Halving the distance to the reference quarters the pull; a KL's would halve (methods A)."""
    problem, cell = Problem(6), ("reverse_kl", "k3", "reward", "local", "on")
    ref, direction = problem.random(2), problem.random(1)
    sizes = []
    for step in (0.02, 0.01):
        leaf = (ref + step * direction).requires_grad_()
        ctx = problem.context(leaf, None, ref)
        sizes.append(expected_gradient(ctx, leaf, composed(cell, allow_biased=True).penalty(ctx, NAME)).norm())
    assert 3.9 < sizes[0] / sizes[1] < 4.1


@pytest.mark.parametrize("credit", ["summed", "sequence"])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "abs"])
def test_published_rewards_off_policy(estimator, credit):
    """On trees: what the surrogate makes of a return, `sum_y pi_old(y) sum_t rho_t sg(sum of the estimates credited to t)`."""
    cell = ("reverse_kl", estimator, "reward", credit, "off")
    for problem in TREES:
        logits, old, ref = setting(problem, "off")
        ctx, leaf = context(cell, problem)
        found = expected_gradient(ctx, leaf, composed(cell, allow_biased=True).penalty(ctx, NAME))
        x = logits.clone().requires_grad_()
        steps, answers = problem.steps(), problem.answer_logp(old).exp()
        logp, before = problem.token_logp(x), problem.token_logp(old)
        delta = (problem.token_logp(ref) - logp).detach()
        total = torch.zeros(())
        for i, (answer, position, _, _) in enumerate(steps):
            mine = [j for j, step in enumerate(steps) if step[0] == answer]
            if credit == "summed":
                taken = sum(ESTIMATES[estimator](delta[j]) for j in mine if steps[j][1] >= position)
            else:
                taken = ESTIMATES[estimator](delta[mine].sum())
            total = total + answers[answer] * torch.exp(logp[i] - before[i]) * taken
        assert_close(found, torch.autograd.grad(total, x)[0])


@pytest.mark.parametrize("credit", ["summed", "sequence"])
def test_k1_beyond_the_own_token_is_first_order_in_the_reward_off_policy(credit):
    """Its answers are weighed by a token's ratio alone: the gap is real and shrinks with pi_old - pi_theta. `sampled` has none."""
    problem = TREES[0]
    logits, ref, direction = problem.random(1), problem.random(2), problem.random(3)
    exact = gradient(lambda x: objective(("reverse_kl", "k1", "reward", credit, "off"), problem, x, None, ref), logits)
    for estimator, is_exact in (("k1", False), ("sampled", True)):
        cell, gaps = ("reverse_kl", estimator, "reward", credit, "off"), []
        for step in (1e-2, 1e-4):
            leaf = logits.clone().requires_grad_()
            ctx = problem.context(leaf, logits + step * direction, ref)
            gaps.append((expected_gradient(ctx, leaf, composed(cell, not is_exact).penalty(ctx, NAME)) - exact).norm())
        if is_exact:
            assert max(gaps) < TOLERANCE
        else:
            assert gaps[0] > 1e-4 and 80 < gaps[0] / gaps[1] < 120


@pytest.mark.parametrize("cell", [c for c in UNBIASED if c[1:3] == ("sampled", "loss") and c[4] == "off"], ids="-".join)
def test_both_placements_are_one_gradient_sample_by_sample(cell):
    """The surrogate's ratio is divided out, so where nothing is clipped each answer pulls alike from either place, capped or not."""
    problem = TREES[1]
    for keys in ({}, {"ratio_cap": 1.1}, {"ratio_cap": 1.1, "beyond_cap": "mask"}, {"clamp": 0.4}):
        pulls = []
        for placement in PLACEMENTS:
            ctx, _ = context((*cell[:2], placement, *cell[3:]), problem)
            penalty = composed((*cell[:2], placement, *cell[3:]), **keys).penalty(ctx, NAME)
            loss = penalty.loss if penalty.reward is None else torch.exp(ctx.log_rho) * penalty.reward
            pulls.append(torch.autograd.grad(loss.sum(), ctx.logp)[0])
        torch.testing.assert_close(*pulls, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("credit", CREDITS)
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("estimator", OF_ANY)
def test_at_the_reference_nothing_pulls(estimator, placement, credit):
    """pi = ref: value 0 and expected gradient 0 for every divergence."""
    for divergence in DIVERGENCES:
        cell = (divergence, estimator, placement, credit, "on")
        if cell in MEANINGLESS:
            continue
        for problem in TREES:
            leaf = problem.random(1).requires_grad_()
            whole = ESTIMATORS[estimator].full_vocabulary
            ctx = problem.context(leaf, None, leaf.detach(), DIVERGENCES[divergence][0] if whole else None,
                                  outcomes=ESTIMATORS[estimator].outcomes)
            penalty = composed(cell).penalty(ctx, NAME)
            assert penalty.value.abs().max() < 1e-13
            assert expected_gradient(ctx, leaf, penalty).abs().max() < 1e-13


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("estimator", ["sampled", "exact"])
def test_token_weights_weigh_states(estimator, policy):
    """A weight that depends on the state alone weighs that state's divergence: sum_t E w_t D_t, locally and summed."""
    problem = TREES[1]
    logits, old, ref = setting(problem, policy)
    of_prefix = torch.linspace(0.2, 3.0, len(problem.prefixes), dtype=torch.float64)
    prefix = torch.tensor(problem.steps())[:, 2]
    for divergence, (_, f) in DIVERGENCES.items():
        for credit in ("local", "summed"):
            cell = (divergence, estimator, "loss", credit, policy)
            if cell in MEANINGLESS:
                continue
            ctx, leaf = context(cell, problem)
            ctx.batch.penalty_weights[NAME].copy_(of_prefix[prefix])
            penalty = composed(cell).penalty(ctx, NAME)

            def weighed(x, f=f, credit=credit):
                reach = problem.reach(x) if credit == "summed" else problem.reach(logits if old is None else old).detach()
                return (reach * of_prefix * state_divergence(f, x, ref)).sum()

            assert_close(expected_gradient(ctx, leaf, penalty), gradient(weighed, logits))
            assert_close((ctx.batch.loss_weights * penalty.value).sum(), weighed(logits))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_sequence_credit_takes_the_mean_weight_of_an_answer(placement):
    problem = TREES[1]
    cell = ("jensen_shannon", "sampled", placement, "sequence", "on")
    ctx, _ = context(cell, problem)
    plain = composed(cell).penalty(ctx, NAME)
    uneven = torch.linspace(0.0, 2.0, len(ctx.batch.seq_ids), dtype=torch.float64)
    ctx.batch.penalty_weights[NAME].copy_(uneven)
    found = composed(cell).penalty(ctx, NAME)
    means = torch.stack([uneven[ctx.batch.seq_ids == s].mean() for s in range(len(problem.answers))])[ctx.batch.seq_ids]
    assert_close(found.value, means * plain.value)
    assert_close(found.reward if placement == "reward" else found.loss.detach(),
                 means * (plain.reward if placement == "reward" else plain.loss.detach()))


@pytest.mark.parametrize("q", [0.5, 2.0])
@pytest.mark.parametrize("policy", POLICIES)
def test_renyi_rescales_tsallis_state_by_state(q, policy):
    """Its gradient at a state is that of D^q over 1 + (q - 1) D^q of that state: another direction, not another beta."""
    problem = Problem(4, 2)
    logits, old, ref = setting(problem, policy)
    pulls = {}
    for name in (f"renyi_{q:g}", f"tsallis_{q:g}"):
        divergence = EVERY_SETTING[name].divergence
        leaf = logits.clone().requires_grad_()
        ctx = problem.context(leaf, old, ref, divergence)
        part = replace(composed(("reverse_kl", "exact", "loss", "local", policy)), divergence=divergence)
        pulls[name] = expected_gradient(ctx, leaf, part.penalty(ctx, NAME))
    renyi, tsallis = pulls.values()
    pi, base = torch.softmax(logits, -1), torch.softmax(ref, -1)
    overlap = (pi**q * base ** (1 - q)).sum(-1, keepdim=True)
    assert_close(renyi, tsallis / overlap)
    assert torch.cosine_similarity(renyi.flatten(), tsallis.flatten(), 0) < 0.999


def test_renyi_needs_the_whole_vocabulary():
    refusal = composed(("renyi_2", "sampled", "loss", "local", "on")).refusal(on_policy=True, samples=True)
    assert "estimator: exact" in refusal and "sampled token" in refusal


def test_misspelt_axes_are_refused():
    with pytest.raises(ValueError, match="placement must be one of loss, reward"):
        composed(("reverse_kl", "sampled", "lossy", "local", "on"))
    with pytest.raises(ValueError, match="credit must be one of local, summed, sequence"):
        composed(("reverse_kl", "sampled", "loss", "global", "on"))
