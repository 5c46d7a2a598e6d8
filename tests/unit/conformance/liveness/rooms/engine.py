from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch

import align.engines._sampler
import align.weight_sync
from align.config import registry
from align.engines import Sampling
from align.engines.scripted import RunningScripted
from align.types import Prompt
from liveness import Change

REQUIRED = {"scripted": {"answers": ["1+2", "3"]}}
CHANGES = {
    ("*", "device"): Change("meta"),
    ("*", "max_batch"): Change(3),
    ("scripted", "answers"): Change(["1+2", "4"]),
    ("vllm", "dtype"): Change("bfloat16"),
    ("vllm", "gpu_memory_utilization"): Change(0.5),
    ("vllm", "enforce_eager"): Change(True),
}


def probe(part: Any, places: dict[str, str], node: dict) -> Any:
    if registry.resolve("engine", "vllm", "") is type(part):
        return started_vllm(part, places)
    widths = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("sample", "score"):
            real = getattr(align.engines._sampler, name)
            patch.setattr(
                align.engines._sampler,
                name,
                lambda model, prompts, *args, _real=real: (widths.append(len(prompts)), _real(model, prompts, *args))[1],
            )
        engine = part.start(places["model"], Sampling(max_tokens=4), 8)
        model = engine._scorer._model if isinstance(engine, RunningScripted) else engine._model
        device = str(model.device)
        prompts = [Prompt(id=str(i), text="", token_ids=(3, 4 + i)) for i in range(4)]
        groups = [] if device == "meta" else engine.generate(prompts, 2, range(4))
    return [device, widths, [e.trained_ids for g in groups for e in g.episodes]]


def started_vllm(part: Any, places: dict[str, str]) -> Any:
    """The arguments vLLM is started with, on a machine with a GPU."""
    taken: dict[str, Any] = {}
    vllm, host = types.ModuleType("vllm"), types.ModuleType("align.weight_sync.vllm_host")
    vllm.LLM = lambda model, **options: taken.update(options)
    vllm.platforms = types.SimpleNamespace(current_platform=types.SimpleNamespace(is_cpu=lambda: False))
    host.BACKEND, host.connect = "fake", lambda llm: None
    with pytest.MonkeyPatch.context() as patch:
        for name, value in part.environment.items():
            patch.setenv(name, value)
        patch.setitem(sys.modules, "vllm", vllm)
        patch.setitem(sys.modules, host.__name__, host)
        patch.setattr(align.weight_sync, "vllm_host", host, raising=False)
        patch.setattr(torch.cuda, "mem_get_info", lambda: (80 << 30, 80 << 30))
        part.start(places["model"], Sampling(max_tokens=4), 8)
    return taken
