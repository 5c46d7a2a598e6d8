"""The check of a divergence's kernels at their first use: all that are right pass, one that was compiled to something else is named."""

import dataclasses
import re

import pytest
import torch
from kernels.interpreted.passes import small_tiles
from kernels.operations import weighted
from kernels.room import DIVERGENCES, REPRESENTATIVES, logits

from align_kernels import DivergenceError, Elementwise, fused, token_stats, triton_rows
from align_kernels.backends import rows
from align_kernels.codegen import Fused, cache, nodes
from align_kernels.codegen.fused import TritonForms
from align_kernels.triton_rows import selfcheck

CPU = torch.device("cpu")
PHIS = {
    "of both log-probs": weighted("pow"),
    "with a parameter": Elementwise(lambda a, b, w: torch.exp(b) * torch.where((a - b).abs() < w, (a - b) ** 2, w), (0.5,)),
    "infinite where one side has nothing": Elementwise(lambda a, b: torch.exp(2 * (a - b)) * (1 + torch.exp(a))),
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    small_tiles(monkeypatch)
    monkeypatch.setattr(selfcheck, "POINTS", 2)


def tampered(name: str, was: str, is_now: str) -> Fused:
    """A divergence whose Triton source is not what its graph says; `was` is a regular expression."""
    fn = dataclasses.replace(fused(DIVERGENCES[name]))
    source, count = re.subn(was, is_now, fn.source())
    assert count
    module = cache.load(source)
    fn._loaded[torch.float32] = TritonForms(*(getattr(module, name) for name in TritonForms._fields))
    return fn


@pytest.mark.parametrize("name", [*REPRESENTATIVES, *PHIS])
def test_one_of_each_kind_passes(name):
    selfcheck.check(CPU, fused((DIVERGENCES | PHIS)[name]), torch.float32)


@pytest.mark.parametrize("name", ["reverse_kl", "jensen_shannon"])
def test_in_float64_too(name):
    selfcheck.check(CPU, fused(DIVERGENCES[name]), torch.float64)


@pytest.mark.parametrize(
    ("name", "was", "is_now", "told"),
    [
        ("jensen_shannon", r"return (\w+), (\w+)", r"return \1 * 1.001, \2", "value where log u = "),
        ("jensen_shannon", r"return (\w+), (\w+)", r"return \1, \2 * 1.001", "slope where log u = "),
        ("reverse_kl", r"(def pull(.|\n)*)return (\w+)", r"\1return \3 * 1.001", "slope where log u = "),
        # What keeps a NaN out where nothing is possible, and infinity out where one side allows nothing.
        ("reverse_kl", r"lib\.at_least\((\w+), \(-8\.5[^)]*\)\)", r"\1", "is nan"),
        ("pearson", r"lib\.at_most\((\w+), 8\.5[^)]*\)", r"\1", "is nan"),
    ],
)
def test_what_the_compiler_got_wrong_is_found(name, was, is_now, told):
    with pytest.raises(DivergenceError, match=f"on cpu the kernel's .*{told}") as caught:
        selfcheck.check(CPU, tampered(name, was, is_now), torch.float32)
    assert fused(DIVERGENCES[name]).name in str(caught.value)


def test_the_one_pass_is_checked_too():
    fn, other = dataclasses.replace(fused(DIVERGENCES["hellinger"])), fused(DIVERGENCES["pearson"]).triton()
    fn._loaded[torch.float32] = fused(DIVERGENCES["hellinger"]).triton()._replace(term=other.term)
    with pytest.raises(DivergenceError, match="Hellinger: on cpu the kernel's value of two rows"):
        selfcheck.check(CPU, fn, torch.float32)


def off(exact, roundings):
    """What hardware gives for `exact`: off by so many roundings (2^-24) of it, up or down."""
    up = torch.rand(exact.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    return exact * (1 + torch.where(up, 1.0, -1.0) * roundings.clamp_max(100) * 2.0**-24)


def hardware_exp(x):
    return off(x.exp(), 4 + x.abs())


def hardware_log(x):
    return x.log() + 2.0**-22


HARDWARE = {
    "exp": hardware_exp,
    "log": hardware_log,
    "expm1": lambda x: torch.where(x.abs() < 0.5, torch.expm1(x), hardware_exp(x) - 1),
    "log1p": lambda x: torch.where(x.abs() < 0.25, torch.log1p(x), hardware_log(1 + x)),
}


@pytest.mark.parametrize("name", DIVERGENCES | PHIS)
def test_the_hardwares_own_errors_are_no_mismatch(name, monkeypatch):
    """ex2.approx and lg2.approx, as PTX's manual bounds them, in place of the exact functions."""

    def found(_, fn, z, u):
        with monkeypatch.context() as patched:
            for op, function in HARDWARE.items():
                patched.setitem(nodes.OPERATIONS, op, nodes.OPERATIONS[op]._replace(torch=function))
            terms, pulls = (t.double() for t in fn.terms(z, u, z - u, hardware_exp(z), hardware_exp(u), *fn.params))
        return terms.sum(-1), pulls.sum(-1), pulls

    monkeypatch.setattr(selfcheck, "_found", found)
    monkeypatch.setattr(selfcheck, "POINTS", 40)
    selfcheck.check.__wrapped__(CPU, fused((DIVERGENCES | PHIS)[name]), torch.float32)


def test_it_runs_at_the_first_use_and_never_again(monkeypatch):
    launched = []
    row_sum = triton_rows.row_sum
    monkeypatch.setattr(triton_rows, "row_sum", lambda z, *args, **keys: launched.append(z.dtype) or row_sum(z, *args, **keys))
    fn = dataclasses.replace(fused(DIVERGENCES["total_variation"]))
    for dtype in (torch.float32, torch.float32, torch.float64, torch.float64):
        rows("triton", torch.zeros(1)).form(fn, dtype)
    assert launched == [torch.float32, torch.float64]


def test_a_call_stops_before_anything_is_computed():
    z, u, labels = logits(2, 70, 0.5)
    with pytest.raises(DivergenceError, match="JensenShannon"):
        token_stats(z, labels, u, tampered("jensen_shannon", r"return (\w+), (\w+)", r"return \1 * 1.001, \2"), backend="triton")
    assert token_stats(z, labels, u, fused(DIVERGENCES["jensen_shannon"]), backend="triton").div.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_probs_pass(dtype):
    selfcheck.check_log_prob(CPU, dtype)


@pytest.mark.parametrize(
    ("function", "field", "told"),
    [
        ("row_stats", "z_y", "log-prob"),
        ("row_stats", "e_p", "entropy"),
        ("row_stats", "u_y", "reference's log-prob"),
        ("row_grad", None, "gradient"),
    ],
)
def test_a_log_prob_that_the_compiler_got_wrong_is_found(function, field, told, monkeypatch):
    right = getattr(triton_rows, function)

    def wrong(*args, **keys):
        found = right(*args, **keys)
        if field is None:
            return found * 1.001
        value = getattr(found, field)
        return found if value is None else found._replace(**{field: value - 0.01})

    monkeypatch.setattr(triton_rows, function, wrong)
    with pytest.raises(ValueError, match=f"on cpu the kernel's {told} is not what float64 gives"):
        selfcheck.check_log_prob.__wrapped__(CPU, torch.float32)


def test_log_probs_are_checked_when_a_backend_is_asked_whether_it_is_right(monkeypatch):
    launched = []
    row_grad = triton_rows.row_grad
    monkeypatch.setattr(triton_rows, "row_grad", lambda *args, **keys: launched.append(keys) or row_grad(*args, **keys))
    selfcheck.check_log_prob.cache_clear()
    rows("triton", torch.zeros(1)).stop_unless_right(torch.float32)
    assert len(launched) == 1
