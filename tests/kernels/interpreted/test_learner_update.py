"""How often a learner's update reads its logits: once for the alpha family, twice for any other divergence."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.models import tiny_model
from helpers.paths import PLUGINS
from helpers.rollouts import groups
from kernels.interpreted.passes import small_tiles

from align.config import recipes
from align.experience.packing import pack
from align.experience.prepare import prepare_batch
from align.learner.learner import Learner
from align.types import Rewards
from align_kernels import backends, triton_rows
from align_kernels.triton_rows import selfcheck

PLUGIN = PLUGINS / "systematic.py"
VOCABULARY, CHUNK = 26, 16
"""Tokens, and rows whose logits of both sides are within the budget."""


@pytest.fixture
def launched(monkeypatch):
    """By row function, how many rows each launch had, and whether a reference was beside."""
    calls = []
    for name in ("row_stats", "row_sum", "one_pass"):
        function = getattr(triton_rows, name)
        monkeypatch.setattr(
            triton_rows,
            name,
            lambda z, u, *args, name=name, function=function, **keys: (
                calls.append((name, u is not None, len(z))) or function(z, u, *args, **keys)
            ),
        )
    small_tiles(monkeypatch)
    # What the check at a first use holds is test_selfcheck's.
    monkeypatch.setattr(selfcheck, "POINTS", 1)
    backends._rows.cache_clear()
    yield calls
    backends._rows.cache_clear()


def updated(folder: Path, divergence: str, launched: list) -> int:
    """One update after the checks of the kernels. Returns the number of tokens learned from."""
    built = recipes.build(
        {
            "steps": 1,
            "task": f"{PLUGIN}:OnePrompt",
            "reward": f"{PLUGIN}:ByToken",
            "engine": f"{PLUGIN}:Systematic",
            "algorithm": "grpo",
            "model": {"path": str(tiny_model(folder))},
            "sampling": {"max_tokens": 6},
            "optimizer": {"lr": 1e-2},
            "batch": {"prompts": 2, "samples": 3, "micro_tokens": 10_000, "head_elements": 2 * CHUNK * VOCABULARY},
            "workers": {"backend": "local"},
            "evaluation": {"every": -1},
            "head": {"backend": "triton"},
            "regularizers": {"d": {"divergence": divergence, "estimator": "exact", "coefficient": 0.1, "credit": "local"}},
        }
    )
    learner = Learner(built, str(folder))
    rewards = Rewards(values=np.random.default_rng(0).random(6).astype(np.float32))
    betas = {name: r.coefficient.beta(0, r.coefficient.initial_state()) for name, r in built.regularizers.items()}
    batch = prepare_batch(built, learner.compute_logprobs(replace(pack(groups()[:2], rewards), betas=betas)))
    launched.clear()
    assert learner.update(batch, 0)["divergence/d"].mean == pytest.approx(0, abs=1e-6)
    return len(batch.tokens)


@pytest.mark.parametrize(("divergence", "readings"), [("reverse_kl", ["one_pass"]), ("jensen_shannon", ["row_stats", "row_sum"])])
def test_each_chunk_is_read_as_often_as_the_divergence_needs(divergence, readings, launched, tmp_path):
    tokens = updated(tmp_path, divergence, launched)
    chunks = -(-tokens // CHUNK)
    assert chunks > 1 and Counter(name for name, _, _ in launched) == dict.fromkeys(readings, chunks)
    assert all(beside for _, beside, _ in launched)
    for reading in readings:
        assert sum(rows for name, _, rows in launched if name == reading) == tokens
