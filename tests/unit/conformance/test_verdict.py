"""One function judges a form: `audit` certifies as biased what a recipe refuses without `allow_biased`, and nothing else."""

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from helpers.built import algorithm, part

from align.audit import audit
from align.audit.default_recipe import default_recipe
from align.config import recipes, registry
from align.config.nodes import build_part
from align.config.refusals import regularizer_refusal
from align.divergences import Divergence
from align.errors import RecipeError
from align.estimators.sampled import Sampled
from align.oracle.divergence_check import try_divergence
from align.regularizers import Penalty, Regularizer
from align.testing import check_divergence

OF_SURROGATES = {"sapo": {"temperature_negative": 1.0}}
CLIP = {"clipped", "dual_clip", "sequence_clipped", "answer_clipped"}
"""Those that leave a token beyond the bound without a gradient."""


def made(**axes: Any) -> Any:
    """A composed regularizer with built parts in place of the default ones."""
    found = build_part("regularizer", {"coefficient": 1.0} | {k: v for k, v in axes.items() if isinstance(v, (str, dict))}, "kl")
    return replace(found, **{k: v for k, v in axes.items() if not isinstance(v, (str, dict))})


def under(regularizer: Any, **keys: Any) -> Any:
    """The recipe that `default_recipe` makes, with another algorithm."""
    recipe = default_recipe(regularizer)
    return replace(recipe, algorithm=algorithm("grpo", **keys))


# Placements: what a surrogate multiplies with.


@pytest.mark.parametrize("credit", ["local", "summed", "sequence"])
@pytest.mark.parametrize("surrogate", registry.shipped("surrogate"))
def test_a_penalty_in_the_reward_is_audited_under_the_recipes_own_surrogate(surrogate, credit):
    form = made(placement="reward", credit=credit, divergence="jensen_shannon")
    keys = {"surrogate": {"name": surrogate} | OF_SURROGATES.get(surrogate, {}), "epochs": 2}
    found = audit(form, "kl", under(form, **keys))
    assert found.verdict == ("bounded" if surrogate in CLIP else "exact") and found.passes
    assert f"the clip of surrogate {surrogate} cuts" in found.reason or surrogate not in CLIP
    assert audit(form, "kl", under(form, **keys | {"epochs": 1})).verdict == "exact"


class Charged(Regularizer):
    """KL(pi||ref) in the reward, right under the token's own ratio alone."""

    placement = "reward"
    divergence = part("divergence", "reverse_kl")
    coefficient = part("coefficient", "constant", value=1.0)

    def penalty(self, ctx, name):
        log_u = (ctx.logp - ctx.batch.ref_logp[name]).detach()
        return Penalty(value=ctx.log_rho.detach().exp() * (torch.expm1(-log_u) + log_u), reward=log_u)


@pytest.mark.parametrize(
    ("surrogate", "verdict"), [("reinforce", "exact"), ("clipped", "bounded"), ("sequence_clipped", "biased"), ("answer_clipped", "biased")]
)
def test_a_users_penalty_in_the_reward_is_judged_under_the_surrogate(surrogate, verdict):
    form = Charged()
    found = audit(form, "kl", recipe := under(form, surrogate=surrogate, epochs=2))
    assert found.verdict == verdict
    assert (regularizer_refusal(form, recipe) is not None) == (verdict == "biased")
    assert regularizer_refusal(form, under(form, surrogate=surrogate)) is None, "on-policy every ratio is 1"


# Values.


@dataclass(frozen=True)
class Scaled(Sampled):
    """`sampled` with its value scaled."""

    by: float = 2.0

    def value(self, divergence, log_u):
        return self.by * divergence.khat(log_u)


@pytest.mark.parametrize("by", [2.0, 0.5, 1.001, 0.0])
@pytest.mark.parametrize("placement", ["loss", "reward"])
def test_a_wrong_value_is_biased_and_refused(placement, by):
    form = made(placement=placement, estimator=Scaled(by))
    found = audit(form)
    assert found.verdict == "biased" and not found.passes
    assert f"its gradient is exact, but its value is not that of the divergence (bias {by - 1:+.1%})" in found.reason
    refusal = regularizer_refusal(form, default_recipe(form))
    assert refusal.biased and refusal.text == found.reason
    assert regularizer_refusal(replace(form, allow_biased=True), default_recipe(form)) is None
    assert audit(made(placement=placement, estimator=Scaled(1.0))).verdict == "exact"


def test_a_published_value_is_told_and_refused_where_a_coefficient_follows_it():
    form = made(estimator="k2")
    recipe = under(form)
    found = audit(form, "kl", recipe)
    assert found.verdict == "exact" and found.reason.endswith("its value is E_pi[(log u)^2]/2 as published, not KL(pi||ref)")
    followed = made(estimator="k2", coefficient={"name": "adaptive", "target": 3.0})
    assert regularizer_refusal(followed, recipe).biased
    assert audit(followed, "kl", recipe).verdict == "biased"


# Divergences, far from the reference and at every scale.


@dataclass(frozen=True)
class Broken(Divergence):
    """KL(pi||ref), with one method that stops at six nats."""

    method: str = "f"
    scale: float = 1.0

    def f(self, log_u):
        return self.scale * self._far(log_u, "f").exp() * self._far(log_u, "f")

    def grad_weight(self, log_u):
        return self.scale * self._far(log_u, "grad_weight")

    def bregman(self, log_u):
        x = self._far(log_u, "bregman")
        return self.scale * (x.exp() * x - torch.expm1(x))

    def khat(self, log_u):
        x = self._far(log_u, "khat")
        return self.scale * (x + torch.expm1(-x))

    def _far(self, log_u, method):
        return log_u.clamp(-6, 6) if method == self.method else log_u


@dataclass(frozen=True)
class ByF(Divergence):
    """A divergence by its f alone."""

    formula: Any = None
    scale: float = 1.0

    def f(self, log_u):
        return self.scale * self.formula(log_u)


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e9])
@pytest.mark.parametrize("method", ["f", "grad_weight", "bregman", "khat"])
def test_what_is_dead_beyond_six_nats_passes_nothing(method, scale):
    broken = Broken(method, scale)
    form = made(divergence=broken)
    found = audit(form)
    assert found.verdict == "biased" and ("convex" if method == "f" else f"`{method}`") in found.reason
    object.__setattr__(broken, "recipe_name", "broken")
    with pytest.raises(RecipeError, match="log u"):
        try_divergence(broken, "kl")
    assert regularizer_refusal(form, default_recipe(form)).biased
    assert [f.name for f in check_divergence(broken) if not f.passed]
    assert audit(made(divergence=Broken("nothing", scale))).verdict == "exact"


@dataclass(frozen=True)
class Short(Sampled):
    """`sampled` with one method that stops at six nats."""

    method: str = "value"

    def value(self, divergence, log_u):
        return divergence.khat(log_u.clamp(-6, 6) if self.method == "value" else log_u)

    def grad_weight(self, divergence, log_u):
        return divergence.grad_weight(log_u.clamp(-6, 6) if self.method == "gradient" else log_u)

    def reward(self, divergence, log_u):
        return self.grad_weight(divergence, log_u)


@pytest.mark.parametrize("divergence", ["reverse_kl", "jensen_shannon", "neyman", "tsallis"])
@pytest.mark.parametrize("placement", ["loss", "reward"])
@pytest.mark.parametrize("method", ["value", "gradient"])
def test_an_estimator_that_is_dead_beyond_six_nats_is_biased(method, placement, divergence):
    form = made(estimator=Short(method=method), placement=placement, divergence=divergence)
    found = audit(form)
    assert found.verdict == "biased" and f"its {method} is not that of the divergence far from the reference" in found.reason
    assert regularizer_refusal(form, default_recipe(form)).text == found.reason
    assert audit(made(estimator=Short(method="none"), placement=placement, divergence=divergence)).verdict == "exact"


HOCKEY = {
    "max(u - 2, 0)": lambda x: (x.exp() - 2).clamp_min(0),
    "max(u - 40, 0)": lambda x: (x.exp() - 40).clamp_min(0),
    "its own tangent": lambda x: 3 * torch.expm1(x),
    "zero": lambda x: 0 * x,
    "|u - 1|": lambda x: torch.expm1(x).abs(),
    "relu": lambda x: torch.relu(torch.expm1(x)),
    "hellinger": lambda x: torch.expm1(x / 2) ** 2,
}


PAIRS = [
    (formula, ("sampled", "exact")[(i + j) % 2], scale) for i, formula in enumerate(HOCKEY) for j, scale in enumerate((1.0, 1e-9, 1e9))
]
"""Of the product of formulas, estimators and scales every pair."""


@pytest.mark.parametrize(("formula", "estimator", "scale"), PAIRS)
def test_nothing_against_nothing_is_exact_at_every_scale(formula, estimator, scale):
    found = audit(made(divergence=ByF(HOCKEY[formula], scale), estimator=estimator))
    assert found.verdict == "exact", found.reason
    assert all(m.error < 1e-9 and not math.isnan(m.value_bias) for m in found.measurements)


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e9])
@pytest.mark.parametrize(
    ("formula", "says"),
    [
        (lambda x: -x * x.exp(), "convex"),
        (lambda x: x * x.exp() + 7, "f(1) is"),
        (lambda x: 0.5 * x.exp() * x * x, "f' falls"),
        (lambda x: torch.where(x > 8, torch.nan, x * x.exp()), "finite"),
    ],
)
def test_a_faulty_f_is_biased_at_every_scale(formula, says, scale):
    faulty = ByF(formula, scale)
    object.__setattr__(faulty, "recipe_name", "faulty")
    found = audit(made(divergence=faulty))
    assert found.verdict == "biased" and says in found.reason
    with pytest.raises(RecipeError, match="align check faulty"):
        try_divergence(faulty, "kl")


@pytest.mark.parametrize("name", registry.shipped("divergence"))
def test_every_shipped_divergence_passes(name):
    built = build_part("divergence", name, name)
    form = made(divergence=built, estimator="exact")
    assert audit(form).verdict == "exact" and regularizer_refusal(form, default_recipe(form)) is None


# The agreement.


@pytest.mark.parametrize("estimator", registry.shipped("estimator"))
@pytest.mark.parametrize("placement", ["loss", "reward"])
def test_audit_calls_biased_what_a_recipe_refuses(estimator, placement):
    for credit, surrogate, epochs in (("local", "clipped", 2), ("summed", "sequence_clipped", 2), ("summed", "clipped", 1)):
        form = made(estimator=estimator, placement=placement, credit=credit)
        recipe = under(form, surrogate=surrogate, epochs=epochs)
        refusal, found = regularizer_refusal(form, recipe), audit(form, "kl", recipe)
        case = (estimator, placement, credit, surrogate, epochs, found.reason, refusal)
        assert found.verdict in (("exact", "bounded") if refusal is None else ("biased",) if refusal.biased else ("biased", "refused")), (
            case
        )
        told = regularizer_refusal(replace(form, allow_biased=True), recipe)
        if refusal is None:
            assert "changes nothing" in told.text, case
        elif refusal.biased:
            assert told is None, case


def test_a_recipe_says_what_audit_says(tmp_path):
    (tmp_path / "mine.py").write_text(
        "class Doubled:\n    '''Twice.'''\n    weighted = True\n"
        "    def value(self, divergence, log_u):\n        return 2 * divergence.khat(log_u)\n"
    )
    node = {
        "steps": 2,
        "task": "countdown",
        "reward": "countdown_exact",
        "algorithm": "grpo",
        "model": {"path": "nowhere"},
        "batch": {"prompts": 4},
        "regularizers": {"kl": {"estimator": f"{tmp_path}/mine.py:Doubled", "coefficient": 0.1}},
    }
    with pytest.raises(
        RecipeError, match=r"its value is not that of the divergence \(bias \+100.0%\), or set allow_biased: true"
    ) as refused:
        recipes.build(node)
    assert refused.value.where == "regularizers.kl"
    node["regularizers"]["kl"]["allow_biased"] = True
    assert recipes.build(node).regularizers["kl"].allow_biased
