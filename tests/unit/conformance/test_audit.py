"""`align audit`: its numbers against arithmetic written out here, its verdicts, its exit codes, and a run's rollouts."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import enumeration as oracle
from helpers.definitions import every
from helpers.paths import ROOT
from typer.testing import CliRunner

from align.audit import audit, published
from align.audit.targets import certificates
from align.cli import app
from align.config.nodes import build_part
from align.oracle.enumeration import ONE_TOKEN, TREE, UPDATE, objective, setting


def align(*arguments: str):
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


# The problems


def by_hand() -> dict[str, np.ndarray]:
    """The single-token problem from its description alone."""
    wave = [math.sqrt(2) * np.sin(k * np.arange(1, 7) ** 2) for k in (1, 2, 3)]
    logits = {"pi": wave[0] + wave[1], "ref": wave[0], "old": wave[0] + wave[1] - 0.25 * (wave[1] + wave[2])}
    return {name: np.exp(z) / np.exp(z).sum() for name, z in logits.items()}


def test_the_policies_are_what_they_are_said_to_be():
    at, policies = setting(ONE_TOKEN, UPDATE), by_hand()
    for logits, name in ((at.policy, "pi"), (at.old, "old"), (at.reference, "ref")):
        np.testing.assert_allclose(torch.softmax(logits[0], -1).numpy(), policies[name], rtol=1e-12)


def test_the_tree_has_every_answer_once():
    assert len(TREE.answers) == len(set(TREE.answers)) == 3**3 + 3**2 + 3 + 1
    assert all(3 not in a[:-1] and (len(a) == 3 or a[-1] == 3) for a in TREE.answers)
    assert abs(TREE.answer_logp(TREE.test_logits(1)).exp().sum() - 1) < 1e-14


@pytest.mark.parametrize("name", every(settings=1))
def test_the_objective_is_that_of_the_independent_enumeration(name):
    known, at, other = every(settings=1)[name], setting(TREE, UPDATE), oracle.Problem(4, 3, end=3)
    assert other.prefixes == TREE.prefixes and other.answers == TREE.answers
    expected = {
        "local": oracle.local_objective(known, other, at.policy, at.old, at.reference),
        "summed": oracle.summed_objective(known, other, at.policy, at.reference),
        "sequence": known.of_mean(oracle.sequence_objective(known, other, at.policy, at.reference)),
    }
    for credit, value in expected.items():
        assert objective(known.divergence, credit, at, at.policy).item() == pytest.approx(value.item(), rel=1e-12)


# The numbers


COEFFICIENTS = {
    "k1 in the loss": lambda x: 1 + 0 * x,
    "k2 in the loss": lambda x: x,
    "k3 in the loss": lambda x: 1 - np.exp(-x),
    "k1 in the reward": lambda x: x,
    "k2 in the reward": lambda x: x**2 / 2,
    "k3 in the reward": lambda x: np.exp(-x) - 1 + x,
    "abs in the loss": np.sign,
    "abs in the reward": abs,
    "straight_through in the loss": lambda x: x,
    "sampled in the loss": lambda x: x,
    "sampled in the reward": lambda x: x,
}
"""What multiplies the score of the token drawn, by form, at x = log pi/ref."""
VALUES = {
    "k1": lambda x: x,
    "k2": lambda x: x**2 / 2,
    "k3": lambda x: np.exp(-x) - 1 + x,
    "abs": abs,
    "straight_through": lambda x: np.exp(-x) - 1 + x,
    "sampled": lambda x: np.exp(-x) - 1 + x,
}


@pytest.fixture(scope="module")
def forms():
    return {c.name: c for c in published.forms()}


@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize("form", COEFFICIENTS)
def test_published_forms_by_arithmetic(forms, form, stale):
    policies = by_hand()
    pi, ref = policies["pi"], policies["ref"]
    mu, x = policies["old"] if stale else pi, np.log(pi / ref)
    rho, name = pi / mu, form.split()[0]
    weighs = "reward" in form or name == "sampled"
    # d/dz of the sampled token's loss is its coefficient times its score, e_j - pi.
    samples = ((rho if weighs else 1) * COEFFICIENTS[form](x))[:, None] * (np.eye(6) - pi)
    mean, kl = mu @ samples, pi @ x
    exact = pi * (x - kl)
    variance = mu @ ((samples - mean) ** 2).sum(1) / (exact @ exact)
    value = (rho if name == "sampled" else 1) * VALUES[name](x)
    m = next(m for m in forms[form].measurements if (m.problem, m.stale) == ("one token", stale))
    assert m.exact == pytest.approx(kl, rel=1e-10)
    assert m.value == pytest.approx(mu @ value, rel=1e-10)
    assert m.value_bias == pytest.approx(mu @ value / kl - 1, abs=1e-10)
    assert m.value_spread == pytest.approx(math.sqrt(mu @ (value - mu @ value) ** 2) / (mu @ value), rel=1e-10)
    assert m.error == pytest.approx(np.linalg.norm(mean - exact) / np.linalg.norm(exact), abs=1e-10)
    assert m.variance == pytest.approx(variance, rel=1e-10)
    size = np.linalg.norm(mean)
    if size < 1e-9:
        assert math.isnan(m.cosine)
    else:
        assert m.cosine == pytest.approx(mean @ exact / size / np.linalg.norm(exact), abs=1e-10)


DIGITS = {
    "k1 in the loss": ("biased", 1.0, 1.427),
    "k1 in the reward": ("exact", 0, 0),
    "k2 in the loss": ("biased", 0, 0.193),
    "k2 in the reward": ("biased", 1.445, 1.445),
    "k3 in the loss": ("biased", 1.011, 1.462),
    "k3 in the reward": ("biased", 1.961, 1.961),
    "abs in the loss": ("biased", 0.944, 1.128),
    "abs in the reward": ("biased", 1.336, 1.336),
    "exact in the loss": ("exact", 0, 0),
    "sampled in the loss": ("exact", 0, 0),
    "sampled in the reward": ("exact", 0, 0),
    "straight_through in the loss": ("biased", 0, 0.193),
    "top_k in the loss": ("exact", 0, 0),
}
"""Verdict, relative error of the gradient on-policy and after one stale update."""


def test_the_table_of_published_forms_is_this(forms):
    """Classes as in the literature (Tang and Munos 2506.09477; Liu et al. 2510.01555): k1 in the loss is noise, k3 in the loss the forward
    KL, k2 in the loss right on-policy only, k1 in the reward right, k3 in the reward points away."""
    for name, (verdict, on_policy, stale) in DIGITS.items():
        errors = [m.error for m in forms[name].measurements if m.problem == "one token"]
        assert forms[name].verdict == verdict
        assert errors == pytest.approx([on_policy, stale], abs=5e-4)
    assert "zero: it is noise" in forms["k1 in the loss"].reason
    assert "that of forward_kl" in forms["k3 in the loss"].reason
    assert "2 × that of total_variation" in forms["abs in the loss"].reason
    assert "exact on-policy only" in forms["k2 in the loss"].reason
    assert [m.cosine < 0 for m in forms["k3 in the reward"].measurements] == [True] * 4
    assert forms["k1 in the loss"].measurements[1].cosine < 0


def test_the_exact_estimator_has_no_variance_at_a_state(forms):
    one, _, tree, _ = forms["exact in the loss"].measurements
    assert (one.problem, tree.problem) == ("one token", "tree")
    assert one.variance < 1e-20 and one.value_spread < 1e-10
    assert 0.1 < tree.variance < forms["sampled in the loss"].measurements[2].variance


# The verdicts


@pytest.mark.parametrize(
    ("words", "verdict", "says", "passes"),
    [
        (["reverse_kl"], "exact", "on-policy and after a stale update", True),
        (["tsallis", "q=0.5", "placement=reward", "credit=summed"], "exact", "stale", True),
        (["renyi"], "exact", "", True),
        (["exact", "credit=summed"], "exact", "", True),
        (["sampled", "credit=sequence", "divergence=jensen_shannon"], "exact", "", True),
        (["sampled", "ratio_to=sampler"], "exact", "", True),
        (["top_k", "k=2"], "exact", "between distributions with merged outcomes", True),
        (["k1"], "biased", "zero: it is noise", False),
        (["k1", "allow_biased=true"], "biased", "zero: it is noise", True),
        (["k3"], "biased", "that of forward_kl", False),
        (["k2"], "biased", "exact on-policy only: after a stale update its samples are not weighed", False),
        (["k1", "placement=reward", "credit=summed"], "biased", "each token has its own ratio alone", False),
        (["k3", "divergence=pearson"], "biased", "that of forward_kl", False),
        (["k2", "credit=summed"], "biased", "right for a single token, but not for answers of several", False),
        (["sampled", "ratio_cap=1.2"], "bounded", "exact but for what ratio_cap or clamp cuts", True),
        (["sampled", "clamp=0.3"], "bounded", "exact but for what ratio_cap or clamp cuts", True),
        (["k3", "clamp=0.3"], "biased", "that of forward_kl", False),
        (["exact", "placement=reward"], "refused", "a constant without gradient", False),
        (["sampled", "allow_biased=true"], "refused", "allow_biased changes nothing", False),
        (["countdown_k3"], "biased", "that of forward_kl", True),
        (["countdown_grpo"], "exact", "as this recipe runs it", True),
        (["countdown_grpo", "regularizers.kl={estimator: k2, coefficient: 0.1}"], "exact", "as this recipe runs it", True),
        (["countdown_ppo"], "exact", "at pi_old: a critic learns it from the token rewards", True),
        (["countdown_ppo", "algorithm.epochs=1", "algorithm.minibatches=1"], "exact", "on-policy, as this recipe runs it", True),
        (["countdown_ppo", "regularizers.kl.estimator=k1"], "exact", "at pi_old: a critic learns it from the token rewards", True),
        (
            ["countdown_grpo", "regularizers.kl={estimator: k2, coefficient: 1}", "algorithm.epochs=2"],
            "biased",
            "exact on-policy only",
            False,
        ),
        (["countdown_grpo", "regularizers.kl={estimator: k1, coefficient: 0.1}"], "biased", "zero: it is noise", False),
        ([str(ROOT / "examples/custom_divergence/my_divergence.py:MyDivergence"), "estimator=exact"], "exact", "", True),
    ],
    ids=lambda x: " ".join(x).rpartition("/")[2] if isinstance(x, list) else "",
)
def test_verdicts(words, verdict, says, passes):
    (found,) = certificates(words[0], words[1:])
    assert (found.verdict, found.passes) == (verdict, passes)
    assert says in found.reason
    assert (found.refusal is None) or not passes


@pytest.mark.parametrize("recipe_file", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_recipe_passes(recipe_file):
    assert all(c.passes for c in certificates(str(recipe_file), []))


PLUGINS = '''
from typing import Any

import torch
from align.config.nodes import part
from align.divergences.reverse_kl import ReverseKl
from align.core.segments import segment_sum
from align.regularizers import Penalty

class Differentiated:
    """What one writes without thinking: the estimate itself as a loss."""
    coefficient: Any = part("coefficient")
    divergence = ReverseKl()
    def penalty(self, ctx, name):
        log_u = ctx.logp - ctx.batch.ref_logp[name]
        k3 = torch.expm1(-log_u) + log_u
        return Penalty(value=k3.detach(), loss=k3)

class Attached(Differentiated):
    """The same with the attached ratio: right for a single token and, state by state, for more."""
    def penalty(self, ctx, name):
        log_u = ctx.logp - ctx.batch.ref_logp[name]
        loss = torch.exp(ctx.log_rho) * (torch.expm1(-log_u) + log_u)
        return Penalty(value=loss.detach(), loss=loss)

class Unweighted:
    """An estimator that forgets who drew its samples."""
    def value(self, divergence, log_u):
        return divergence.khat(log_u)

class Lengthy:
    """No divergence at all."""
    coefficient: Any = part("coefficient")
    def penalty(self, ctx, name):
        return Penalty(value=torch.ones_like(ctx.entropy), loss=torch.exp(ctx.log_rho))

class Ranked:
    """A link of no divergence."""
    coefficient: Any = part("coefficient")
    placement = "link"
    def penalty(self, ctx, name):
        score = segment_sum(ctx.logp, ctx.batch.seq_ids, len(ctx.batch.lengths))
        return Penalty(value=torch.ones_like(ctx.entropy), link=score, log_ratio=score.detach())

class Wrong:
    """f and coefficient that disagree."""
    def f(self, log_u): return log_u * torch.exp(log_u)
    def grad_weight(self, log_u): return torch.sinh(log_u)

class Careless(Differentiated):
    """Diverges."""
    def penalty(self, ctx, name):
        loss = ctx.logp / 0
        return Penalty(value=loss.detach(), loss=loss)
'''


@pytest.fixture
def plugins(tmp_path):
    (tmp_path / "own.py").write_text(PLUGINS)
    return f"{tmp_path}/own.py"


@pytest.mark.parametrize(
    ("name", "verdict", "says"),
    [
        ("Differentiated", "biased", "its gradient is not that of the divergence it names"),
        ("Attached", "exact", "on-policy and after a stale update"),
        ("Unweighted", "biased", "exact on-policy only"),
        ("Lengthy", "no claim", "names no divergence"),
        ("Ranked", "no claim", "names no divergence"),
        ("Wrong", "biased", "`grad_weight` is -0.08512 at log u = -0.085, and f gives -0.08502"),
        ("Careless", "biased", "its gradient is"),
    ],
)
def test_verdicts_of_plugins(plugins, name, verdict, says):
    (found,) = certificates(f"{plugins}:{name}", [])
    assert found.verdict == verdict and says in found.reason
    assert found.passes == (verdict in ("exact", "no claim"))


def test_a_biased_form_is_audited_although_the_recipe_refuses_it(tmp_path):
    words = ["countdown_grpo", "regularizers.kl={estimator: k3, coefficient: 0.1}"]
    assert align("train", *words, "--out", tmp_path / "run").exit_code == 2
    result = align("audit", *words)
    assert result.exit_code == 1
    assert "A recipe refuses it: k3 in the loss descends the forward KL" in " ".join(result.stdout.split())


def test_the_audit_runs_the_regularizer_itself(monkeypatch):
    """Not a description of it: a penalty whose loss is doubled has twice the gradient."""
    regularizer = build_part("regularizer", {"coefficient": 1.0}, "")
    honest = type(regularizer).penalty

    def doubled(self, ctx, name):
        found = honest(self, ctx, name)
        return replace(found, loss=2 * found.loss)

    monkeypatch.setattr(type(regularizer), "penalty", doubled)
    found = audit(regularizer)
    assert found.verdict == "biased" and found.measurements[0].error == pytest.approx(1.0)


# The command


def test_exit_codes():
    assert align("audit", "countdown_grpo").exit_code == 0
    assert align("audit", "k3").exit_code == 1
    assert align("audit", "--table").exit_code == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["k33"], "k33 is no divergence, estimator or regularizer, no folder of a run and no recipe: did you mean 'k3'?"),
        (["countdown_grp"], "did you mean 'countdown_grpo'?"),
        (["tsallis", "qq=2"], "tsallis.qq: unknown key"),
        (["tsallis", "q"], "'q' is not of the form key=value"),
        (["./nowhere.py:Nothing"], "there is no plugin file ./nowhere.py"),
        ([], "give a recipe, a part or the folder of a run, or --table alone"),
        (["k3", "--table"], "give a recipe, a part or the folder of a run, or --table alone"),
        ([str(ROOT / "docs")], "is not the folder of a run"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_mistakes_end_with_2(words, says):
    result = align("audit", *words)
    assert result.exit_code == 2 and says in result.stderr and result.stdout == ""


def test_json_is_complete_and_has_no_nan():
    found = json.loads(align("audit", "k1", "--json").stdout, parse_constant=pytest.fail)
    assert [set(c) for c in found] == [{"name", "form", "measurements", "verdict", "reason", "refusal", "allowed", "passes"}]
    assert found[0]["passes"] is False and found[0]["measurements"][0]["cosine"] is None
    assert len(found[0]["measurements"]) == 4
    assert len(json.loads(align("audit", "--table", "--json").stdout)) >= len(DIGITS)


def test_a_recipe_without_regularizers():
    result = align("audit", "countdown_sft")
    assert result.exit_code == 0 and "No regularizer" in result.stdout


def test_the_page_shows_what_the_commands_print():
    page = (ROOT / "docs" / "audit.md").read_text()
    blocks = [b.split("\n", 1)[1].strip("\n").splitlines() for b in page.split("```")[1::2]]
    shown = {block[0].removeprefix("$ align "): block[1:] for block in blocks if block[0].startswith("$ align ")}
    assert {"audit --table", "audit countdown_k3"} <= shown.keys()
    for command, expected in shown.items():
        printed = CliRunner().invoke(app, command.split()).stdout.splitlines()
        assert [line.rstrip() for line in printed if line.strip()] == [line.rstrip() for line in expected if line.strip()], command
