"""Which cells of the product are refused, with what words, and that the enumeration behind the others is complete."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product

import pytest
from helpers.enumeration import Problem
from torch import Tensor
from unit.regularizer_oracles.cells import BIASED, CELLS, DIVERGENCES, ESTIMATORS, MEANINGLESS, TREES, asked, assert_close, composed, told

from align.config.parts import Setting
from align.config.refusals import Refusal
from align.divergences import Divergence
from align.divergences.forward_kl import ForwardKl
from align.divergences.reverse_kl import ReverseKl
from align.estimators import Estimator
from align.estimators.k2 import K2
from align.estimators.k3 import K3


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
    """Over the whole product: without meaning, published with a bias, or with the gradient they claim."""
    found = Counter()
    for cell in CELLS:
        refusal = asked(composed(cell), on_policy=cell[4] == "on")
        kind = "unbiased" if refusal is None else "biased" if refusal.biased else "meaningless"
        assert kind == ("meaningless" if cell in MEANINGLESS else "biased" if cell in BIASED else "unbiased"), cell
        assert refusal is None or len(refusal.text) > 40
        found[kind] += 1
    assert found.total() == len(CELLS) and min(found[kind] for kind in ("meaningless", "biased", "unbiased")) > 0
    with capsys.disabled():
        print(
            f"\nregularizer product: {found['unbiased']} cells exact, {found['biased']} with their published bias, "
            f"{found['meaningless']} refused, of {len(CELLS)}"
        )


def test_demonstrations_allow_only_the_exact_local_loss():
    allowed = {cell[:4] for cell in CELLS if asked(composed(cell), on_policy=cell[4] == "on", samples=False) is None}
    assert allowed == set(product(DIVERGENCES, ("exact", "top_2"), ("loss",), ("local",)))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_recipe_is_told(estimator):
    """A refusal names a reason, or offers allow_biased where a published form exists, and rejects allow_biased where it is idle."""
    for cell in (c for c in CELLS if c[1] == estimator):
        on_policy = cell[4] == "on"
        plain, allowed = (told(composed(cell, allow_biased=allow), on_policy=on_policy) for allow in (False, True))
        if cell in MEANINGLESS:
            assert plain == allowed and "allow_biased" not in plain, cell
        elif cell in BIASED:
            assert "allow_biased: true" in plain and allowed is None, cell
        else:
            assert plain is None and "changes nothing" in allowed, cell


def test_renyi_needs_the_whole_vocabulary():
    refusal = told(composed(("renyi_2", "sampled", "loss", "local", "on")), on_policy=True)
    assert "estimator: exact" in refusal and "sampled token" in refusal


def test_misspelt_axes_are_refused():
    with pytest.raises(ValueError, match="placement must be one of loss, reward"):
        composed(("reverse_kl", "sampled", "lossy", "local", "on"))
    with pytest.raises(ValueError, match="credit must be one of local, summed, sequence"):
        composed(("reverse_kl", "sampled", "loss", "global", "on"))


class Mine(Estimator):
    """A user's estimator that says its bias itself, and one place where it has no meaning."""

    def grad_weight(self, divergence: Divergence, log_u: Tensor) -> Tensor:
        return 2 * divergence.grad_weight(log_u)

    def published_bias(self, *, placement: str, credit: str, on_policy: bool) -> str | None:
        return "mine in the loss is twice the gradient, as its paper says"

    def refuse(self, setting: Setting) -> str | None:
        return "mine has no meaning in the reward" if setting.regularizer.placement == "reward" else None


class MyReverseKl(Divergence):
    def f(self, log_u: Tensor) -> Tensor:
        return log_u.exp() * log_u


@pytest.mark.parametrize("divergence", [ReverseKl(), MyReverseKl()])
def test_a_users_part_is_judged_by_what_it_says_as_a_shipped_one_is(divergence: Divergence):
    def judged(estimator: Estimator, placement: str = "loss") -> Refusal | None:
        form = composed(("reverse_kl", "sampled", placement, "local", "on"))
        return asked(replace(form, divergence=divergence, estimator=estimator), on_policy=True)

    assert judged(Mine()) == Refusal("mine in the loss is twice the gradient, as its paper says", biased=True)
    assert judged(Mine(), "reward") == Refusal("mine has no meaning in the reward")
    assert judged(K2()) is None, "KL(pi||ref) is known by its values"
    assert not ForwardKl().is_reverse_kl
    assert judged(K3()).biased
