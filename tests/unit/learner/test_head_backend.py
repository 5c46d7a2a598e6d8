"""`head.backend`: where the kernels run is a key, told before a run where it cannot be had, and changes no result."""

import pytest
import torch
from helpers.models import tiny_model

from align.config.recipes import build
from align.config.schema import BACKENDS
from align.divergences.reverse_kl import ReverseKl
from align.errors import RecipeError, UserError
from align.learner.kernel_preflight import stop_unless_ready
from align.learner.learner import Learner
from align_kernels import backends

NODE = {
    "steps": 1,
    "task": "countdown",
    "algorithm": "grpo",
    "reward": "countdown_exact",
    "regularizers": {"kl": {"coefficient": 0.1, "estimator": "exact"}},
}


def recipe(**keys):
    return build(NODE | {"model": {"path": "unused"}} | keys)


def test_the_words_are_those_of_the_kernels():
    assert BACKENDS == backends.BACKENDS
    with pytest.raises(RecipeError, match=r"head.*backend must be one of auto, triton, compile, torch, not 'cuda'"):
        recipe(head={"backend": "cuda"})


def test_a_backend_that_cannot_run_here_stops_the_run_before_it_begins(tmp_path):
    told = r"head.backend: Triton kernels run on CUDA, and this is cpu: use auto, torch or compile"
    with pytest.raises(UserError, match=told):
        Learner(recipe(head={"backend": "triton"}), tiny_model(tmp_path))


@pytest.mark.parametrize("backend", ["auto", "torch", "compile"])
def test_a_backend_that_can(backend):
    stop_unless_ready(recipe(head={"backend": backend}), torch.device("cpu"))


def test_a_divergence_that_cannot_become_a_kernel_is_told_by_its_key():
    built = recipe(head={"backend": "compile"})

    class Sums(ReverseKl):
        """Looks at other tokens."""

        def bregman(self, log_u):
            return log_u.sum()

    object.__setattr__(built.regularizers["kl"], "divergence", Sums())
    with pytest.raises(UserError, match=r"regularizers.kl.divergence: "):
        stop_unless_ready(built, torch.device("cpu"))


class CompilationError(Exception):
    """As Triton's: its text begins with the place and the source, and what went wrong is its cause."""


def _compilation_error():
    try:
        raise TypeError("failed to specialize argument of type: dict\nin a second line")
    except TypeError as error:
        raise CompilationError("at 10:4:\n    row = tl.program_id(0)\n    ^") from error


def _raise(error):
    raise error


FAILURES = {
    "RuntimeError: no kernel image is available": lambda: _raise(RuntimeError("no kernel image is available\nCUDA kernel errors")),
    "TypeError: failed to specialize argument of type: dict": _compilation_error,
    "AssertionError: no message": lambda: _raise(AssertionError()),
    "on cuda the kernel's entropy is wrong": lambda: _raise(ValueError("on cuda the kernel's entropy is wrong")),
}


def failing(monkeypatch, **checks):
    made = backends.rows("torch", torch.empty(0))._replace(name="triton", **checks)
    monkeypatch.setattr("align.learner.kernel_preflight.rows", lambda backend, tensor: made)


@pytest.mark.parametrize("told", FAILURES)
def test_kernels_that_fail_stop_the_run_with_or_without_a_divergence(told, monkeypatch):
    failing(monkeypatch, check_log_prob=lambda dtype: FAILURES[told]())
    for regularizers in ({}, NODE["regularizers"]):
        with pytest.raises(UserError) as caught:
            stop_unless_ready(recipe(regularizers=regularizers), torch.device("cpu"))
        assert str(caught.value) == f"head.backend: {told}\nhead.backend: compile or torch does without the triton kernels"


@pytest.mark.parametrize("told", FAILURES)
def test_a_divergence_whose_kernels_fail_is_told_by_its_key(told, monkeypatch):
    failing(monkeypatch, check=lambda fn, dtype: FAILURES[told]())
    with pytest.raises(UserError) as caught:
        stop_unless_ready(recipe(), torch.device("cpu"))
    assert str(caught.value) == f"regularizers.kl.divergence: {told}\nhead.backend: compile or torch does without the triton kernels"


@pytest.mark.parametrize("check", ["check", "check_log_prob"])
def test_an_interrupt_is_no_failure(check, monkeypatch):
    failing(monkeypatch, **{check: lambda *_: _raise(KeyboardInterrupt())})
    with pytest.raises(KeyboardInterrupt):
        stop_unless_ready(recipe(), torch.device("cpu"))
