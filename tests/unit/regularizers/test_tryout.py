"""A divergence of one's own is called once when the recipe is checked: what raises, or has the wrong sign, is refused at its key."""

import textwrap
from pathlib import Path

import pytest

from align.config import recipes, registry, schema
from align.errors import RecipeError
from align.inspect.explain import explain

HEAD = """
    import math
    import torch

    class Mine:
        '''Mine.'''

"""


def write(folder: Path, body: str) -> str:
    path = folder / "mine.py"
    path.write_text(textwrap.dedent(HEAD).lstrip("\n") + textwrap.indent(textwrap.dedent(body).lstrip("\n"), "    "))
    return f"{path}:Mine"


def build(divergence: str, **regularizer) -> schema.Recipe:
    return recipes.build(
        {
            "steps": 2,
            "task": "countdown",
            "reward": "countdown_exact",
            "algorithm": "grpo",
            "model": {"path": "nowhere"},
            "batch": {"prompts": 4},
            "regularizers": {"kl": {"divergence": divergence, "coefficient": 0.1} | regularizer},
        }
    )


@pytest.mark.parametrize(
    ("formula", "says"),
    [
        ("math.exp(log_u)", "ValueError: only one element tensors can be converted"),
        ("log_u.nothing()", "AttributeError: 'Tensor' object has no attribute 'nothing'"),
        ("torch.exp()", "TypeError: exp()"),
        ("torch.from_numpy(log_u.numpy() ** 2)", "RuntimeError: Can't call numpy() on Tensor that requires grad"),
    ],
)
def test_an_f_that_cannot_be_called_is_refused_at_the_line_of_its_author(tmp_path, formula, says):
    name = write(tmp_path, f"def f(self, log_u):\n    return self.inner(log_u)\ndef inner(self, log_u):\n    return {formula}")
    line = 1 + [text.strip() for text in (tmp_path / "mine.py").read_text().splitlines()].index(f"return {formula}")
    with pytest.raises(RecipeError) as refused:
        build(name)
    assert refused.value.where == "regularizers.kl.divergence"
    assert refused.value.problem.startswith(f"{name.removesuffix(':Mine')}:{line}: {says}")
    assert "torch functions" in str(refused.value) and f"`align check {name}`" in str(refused.value)


def test_an_f_that_returns_no_tensor_is_refused_at_its_class(tmp_path):
    name = write(tmp_path, "def f(self, log_u):\n    return 1.0")
    with pytest.raises(RecipeError, match=rf"^regularizers.kl.divergence: {name.removesuffix(':Mine')}:4: ") as refused:
        build(name)
    assert "torch functions" in str(refused.value)


@pytest.mark.parametrize(
    "formula",
    [
        "-log_u.exp() * log_u",  # KL(pi||ref) with the wrong sign
        "log_u",  # KL(ref||pi) with the wrong sign
        "log_u.exp() * log_u - 2 * log_u.expm1() ** 2",  # a difference that is concave at 1
        "(log_u.exp() - 1) * float('nan')",
    ],
)
def test_an_f_below_its_tangent_is_refused(tmp_path, formula):
    name = write(tmp_path, f"def f(self, log_u):\n    return {formula}")
    with pytest.raises(RecipeError, match="check its sign") as refused:
        build(name)
    assert refused.value.where == "regularizers.kl.divergence" and f"`align check {name}`" in str(refused.value)


@pytest.mark.parametrize(
    "formula",
    [
        "log_u.exp() * log_u",
        "log_u.exp() * log_u + 1000 * log_u.expm1()",  # the same divergence: a linear term is none
        "-log_u",
        "log_u.expm1().abs()",  # a kink at u = 1
        "log_u.expm1() ** 2 * 1e-12",
        "log_u.expm1() * 3",  # its own tangent
    ],
)
def test_a_convex_f_is_accepted(tmp_path, formula):
    build(write(tmp_path, f"def f(self, log_u):\n    return {formula}"))


@pytest.mark.parametrize(
    ("formula", "says"),
    [
        ("-log_u + 7", "f(1) is 7, and a divergence is 0 where policy and reference agree: subtract it from f"),
        ("log_u.clamp(-6, 6) * log_u.clamp(-6, 6).exp()", "f must be convex in u = pi/ref"),
        ("log_u.exp() * log_u**2", "f' falls from"),
        ("log_u.detach() ** 2", "leave out torch.inference_mode, torch.no_grad"),
    ],
)
def test_a_fault_of_f_is_refused_with_its_remedy(tmp_path, formula, says):
    name = write(tmp_path, f"def f(self, log_u):\n    return {formula}")
    with pytest.raises(RecipeError) as refused:
        build(name)
    assert says in str(refused.value) and f"`align check {name}`" in str(refused.value)


@pytest.mark.parametrize("context", ["inference_mode", "no_grad"])
def test_an_f_without_a_gradient_is_refused_and_not_with_an_error_of_torch(tmp_path, context):
    name = write(tmp_path, f"@torch.{context}()\ndef f(self, log_u):\n    return log_u.exp() * log_u")
    with pytest.raises(RecipeError, match="f has no gradient in log_u") as refused:
        build(name)
    assert "RuntimeError" not in str(refused.value) and len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("name", registry.shipped("divergence"))
def test_every_shipped_divergence_is_accepted(name):
    build(name, estimator="exact")


WHOLE = """
from align.divergences import StateFunctional


class Whole(StateFunctional):
    def of_state(self, logp, ref_logp):
        return {}
"""


@pytest.mark.parametrize(
    ("returned", "keys", "says"),
    [
        ("(logp - ref_logp).square().sum()", {"estimator": "exact"}, r"of_state returned .* must be \[2\]"),
        ("(logp - ref_logp).square().detach().sum(-1)", {"estimator": "exact"}, "with a gradient in logp"),
        ("(logp - ref_logp).square().sum(-1)", {"estimator": "sampled"}, "both whole distributions at a state: use estimator: exact"),
        ("(logp - ref_logp).square().sum(-1)", {"estimator": "top_k"}, "both whole distributions at a state: use estimator: exact"),
        ("(logp - ref_logp).square().sum(-1)", {"estimator": "exact", "placement": "reward"}, "constant without gradient"),
    ],
    ids=["one number", "no gradient", "sampled", "top_k", "reward"],
)
def test_a_function_of_whole_distributions_is_tried_and_refused(tmp_path, returned, keys, says):
    (tmp_path / "whole.py").write_text(WHOLE.format(returned))
    with pytest.raises(RecipeError, match=says):
        build(f"{tmp_path}/whole.py:Whole", **keys)


def test_a_function_of_whole_distributions_of_a_user_is_accepted(tmp_path):
    (tmp_path / "whole.py").write_text(WHOLE.format("(logp.exp() - ref_logp.exp()).square().sum(-1)"))
    assert "it has no kernel" in explain(build(f"{tmp_path}/whole.py:Whole", estimator="exact")).replace("\n", " ")
