"""`head.backend`: where the kernels run is a key, told before a run where it cannot be had, and changes no result."""

import pytest
import torch
from models import tiny_model

from align.divergences.reverse_kl import ReverseKl
from align.errors import RecipeError, UserError
from align.learner.head import stop_unless_ready
from align.learner.learner import Learner
from align.recipe import BACKENDS, build
from align_kernels import backends

NODE = {"steps": 1, "task": "countdown", "algorithm": "grpo", "reward": "exact",
        "regularizers": {"kl": {"coefficient": 0.1, "estimator": "exact"}}}


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

        def generator(self, log_u):
            return log_u.sum()

    object.__setattr__(built.regularizers["kl"], "divergence", Sums())
    with pytest.raises(UserError, match=r"regularizers.kl.divergence: "):
        stop_unless_ready(built, torch.device("cpu"))
