"""A part of one's own that states no formula, returns what its contract does not allow or lacks a method: its key, line and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from align.config.recipes import build
from align.inspect.explain import objective
from align.testing import check

UNSTATED = {
    "likelihood": """
class Part:
    '''-(1 - pi)^g log pi.'''
    g: float = 2.0
    def losses(self, ctx):
        return -((1 - ctx.logp.exp()) ** self.g) * ctx.logp
""",
    "surrogate": """
class Part:
    '''-rho A.'''
    def loss(self, log_rho, advantages, at):
        return -log_rho.exp() * advantages, log_rho.detach() > 9
    def effective_log_ratio(self, log_rho, at):
        return log_rho
""",
    "preference": """
class Part:
    '''exp(-beta (s_w - s_l)).'''
    def losses(self, pairs):
        return (-pairs.beta * pairs.margin).clamp(max=20).exp()
""",
    "advantage": """
class Part:
    '''r.'''
    def advantages(self, batch):
        return batch.rewards[batch.seq_ids]
""",
    "reduction": """
class Part:
    '''1/n.'''
    def weights(self, lengths, max_tokens):
        return 1 / lengths.float() / len(lengths)
""",
}
"""Parts that work and have no formula: the docstring of a loss is that of what is minimised."""
HOLDERS = {"likelihood": "sft", "surrogate": "grpo", "preference": "dpo", "advantage": "grpo", "reduction": "grpo"}
ROWS = {"advantage": "A", "reduction": "w_t"}
"""Where `explain` writes their formula, if not in J."""


def node(algorithm: dict[str, Any], **changes: Any) -> dict[str, Any]:
    found = {"steps": 10, "task": "countdown", "algorithm": algorithm, "model": {"path": "nowhere"}, "batch": {"prompts": 4, "samples": 2}}
    if algorithm["name"] in ("sft", "dpo"):
        found |= {"batch": {"prompts": 4}, "task": {"name": "countdown", "demonstrations": True}}
    else:
        found["reward"] = "countdown_exact"
    if algorithm["name"] == "dpo":
        found |= {"task": {"name": "preferences", "path": "pairs.jsonl"}, "regularizers": {"kl": {"placement": "link", "coefficient": 0.1}}}
    return found | changes


def written(folder: Path, text: str) -> str:
    (folder / "mine.py").write_text(text)
    return f"{folder}/mine.py"


@pytest.mark.parametrize("kind", UNSTATED)
def test_no_docstring_stands_in_the_objective(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    mine = written(tmp_path, UNSTATED[kind])
    (tmp_path / "pairs.jsonl").touch()
    rows: dict[str, str] = {}
    for row in objective(build(node({"name": HOLDERS[kind], kind: f"{mine}:Part"}))):
        rows.setdefault(row.label, row.text)
    assert "[its formula is not stated: see mine.py:2]" in rows[ROWS.get(kind, "")]


@pytest.mark.parametrize("kind", UNSTATED)
def test_the_kit_asks_for_a_formula(kind: str, tmp_path: Path):
    mine = written(tmp_path, UNSTATED[kind])
    (failed,) = (f for f in check(kind, f"{mine}:Part") if not f.passed)
    assert (failed.name, failed.found) == ("explained", f"its formula is not stated: see {mine}:2")
    assert failed.mend.startswith("define formula(self) -> str")
