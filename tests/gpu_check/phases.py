"""Where the seconds of a learner's call go, by hooks of torch and one name of the kernels: no name of the learner's inside."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from transformers import Qwen2Model

from align.core import logprobs
from gpu_check.measure import wait


@contextmanager
def phases(spent: Counter, name: str, device: str) -> Iterator[None]:
    """Add to `spent` the seconds of what runs inside, as `name`, and of its decoder calls, heads, backward passes and optimizer steps.

    Each phase waits for the device at both ends, so the whole takes a little longer than it would alone.
    """

    def clocked(phase: str, call: Callable) -> Callable:
        def timed(*args, **kwargs):
            with clock(spent, f"{name}: {phase}", device):
                return call(*args, **kwargs)

        return timed

    decoder, step = Between(spent, f"{name}: decoder", device), Between(spent, f"{name}: optimizer", device)
    with ExitStack() as undo:
        undo.enter_context(clock(spent, name, device))
        undo.enter_context(patch.object(logprobs, "linear_stats", clocked("head", logprobs.linear_stats)))
        undo.enter_context(patch.object(torch.autograd, "backward", clocked("backward", torch.autograd.backward)))
        for handle in (
            register_module_forward_pre_hook(lambda module, _: decoder.begin() if isinstance(module, Qwen2Model) else None),
            register_module_forward_hook(lambda module, *_: decoder.end() if isinstance(module, Qwen2Model) else None),
            register_optimizer_step_pre_hook(lambda *_: step.begin()),
            register_optimizer_step_post_hook(lambda *_: step.end()),
        ):
            undo.callback(handle.remove)
        yield


@contextmanager
def clock(spent: Counter, phase: str, device: str) -> Iterator[None]:
    between = Between(spent, phase, device)
    between.begin()
    yield
    between.end()


class Between:
    """The seconds from `begin` to `end`, added up under the name of a phase."""

    def __init__(self, spent: Counter, phase: str, device: str):
        self._spent, self._phase, self._device = spent, phase, device

    def begin(self) -> None:
        wait(self._device)
        self._began = time.perf_counter()

    def end(self) -> None:
        wait(self._device)
        self._spent[self._phase] += time.perf_counter() - self._began
