"""A new word is one new file: an advantage, a surrogate, a reduction, a preference, a likelihood and a divergence in a copy of the tree.

Nothing else of the copy is touched. Each is listed, passes its kit, is explained by its own formula, and trains a tiny model.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import ROOT

HEADER = "from dataclasses import dataclass\n\nimport torch\n\n"
FILES = {
    "advantages/global_centred.py": '''from align.advantages import Advantage


@dataclass(frozen=True)
class GlobalCentred(Advantage):
    """r - mean of the batch."""

    scale: float = 1.0

    def formula(self):
        return f"{self.scale:g} (r − mean of the batch)"

    def advantages(self, batch):
        return (self.scale * (batch.rewards - batch.rewards.mean()))[batch.seq_ids]
''',
    "surrogates/masked.py": '''from align.surrogates import Surrogate, token_symbols


@dataclass(frozen=True)
class Masked(Surrogate):
    """-rho A where the probability has moved by a factor of less than e^far, else nothing."""

    far: float = 1.0

    def formula(self):
        return f"1(|log ρ| < {self.far:g}) ρ A"

    def symbols(self):
        return token_symbols()

    def loss(self, log_rho, advantages, at):
        cut = log_rho.detach().abs() >= self.far
        # Not exp, then masked: the gradient of what overflows is no number.
        return -torch.where(cut, 0.0, log_rho.clamp(-self.far, self.far).exp()) * advantages, cut

    def effective_log_ratio(self, log_rho, at):
        return log_rho
''',
    "reductions/root.py": '''from align.reductions import Reduction


@dataclass(frozen=True)
class Root(Reduction):
    """Each answer by the square root of its length."""

    def formula(self):
        return "1/(S √n)"

    def weights(self, lengths, max_tokens):
        return lengths.float().rsqrt() / len(lengths)
''',
    "preferences/exponential.py": '''from align.preferences import Preference


@dataclass(frozen=True)
class Exponential(Preference):
    """exp(-beta D), at most e^largest."""

    largest: float = 20.0

    def formula(self):
        return "−exp(−β (s_w − s_l))"

    def losses(self, pairs):
        return (-pairs.beta * pairs.margin).clamp_max(self.largest).exp()
''',
    "likelihoods/one_minus.py": '''from align.likelihoods import Likelihood


@dataclass(frozen=True)
class OneMinus(Likelihood):
    """1 - pi of each token."""

    def formula(self):
        return "π − 1"

    def losses(self, ctx):
        return 1 - ctx.logp.exp()
''',
    "divergences/half_squared.py": '''from align.divergences import Divergence


@dataclass(frozen=True)
class HalfSquared(Divergence):
    """Squared Hellinger distance from f alone: f(u) = (sqrt(u) - 1)^2."""

    def f(self, log_u):
        return (log_u / 2).expm1() ** 2
''',
}
GRPO = {"task": {"name": "countdown", "size": 8}, "reward": "countdown_wordy", "batch": {"prompts": 4, "samples": 2}}
SFT = {"task": {"name": "countdown", "size": 8, "demonstrations": True}, "batch": {"prompts": 4}}
LINK = {"kl": {"placement": "link", "coefficient": 0.1}}
RECIPES: dict[str, dict[str, Any]] = {
    "advantage": {
        **GRPO,
        "batch": {"prompts": 8, "samples": 1},
        "algorithm": {"name": "grpo", "advantage": {"name": "global_centred", "scale": 2.0}},
    },
    "surrogate": {**GRPO, "algorithm": {"name": "ppo", "surrogate": "masked", "epochs": 2}},
    "reduction": {**GRPO, "algorithm": {"name": "grpo", "reduction": "root"}},
    "preference": {
        "task": {"name": "preferences", "path": "PAIRS"},
        "batch": {"prompts": 2},
        "regularizers": LINK,
        "algorithm": {"name": "dpo", "preference": "exponential"},
    },
    "likelihood": {**SFT, "algorithm": {"name": "sft", "likelihood": "one_minus", "likelihood_weight": 0.5}},
    "divergence": {
        **SFT,
        "algorithm": {"name": "sft", "likelihood_weight": 0.0},
        "regularizers": {
            "near": {
                "divergence": "half_squared",
                "estimator": "exact",
                "coefficient": 0.1,
                "reference": {"name": "teacher", "path": "OTHER"},
            }
        },
    },
}
FORMULAS = {
    "advantage": "2 (r − mean of the batch)",
    "surrogate": "1(|log ρ| < 1) ρ A",
    "reduction": "1/(S √n)",
    "preference": "−exp(−β (s_w − s_l))",
    "likelihood": "0.5 (π − 1)",
    "divergence": "(sqrt(u) - 1)^2",
}
WORDS = {kind: Path(file).stem for kind, file in zip(RECIPES, FILES, strict=True)}
PROGRAM = """
import io, json, sys, types
from pathlib import Path
from rich.console import Console
import align
from align.config import recipes
from align.inspect import catalogue
from align.inspect.explain import show
from align.testing import check
from align.testing.tiny import tiny_model
from align.train import train

# Drawing takes a second a run.
sys.modules["align.telemetry.plots"] = types.SimpleNamespace(draw=lambda metrics, picture: picture)
folder, found = Path(sys.argv[1]), {}
model, other = tiny_model(folder / "model"), tiny_model(folder / "other", seed=1)
for kind, (word, node) in json.loads((folder / "nodes.json").read_text().replace("OTHER", str(other))).items():
    built = recipes.build(node | {"steps": 2, "model": {"path": str(model)}, "sampling": {"max_tokens": 24},
                                 "optimizer": {"lr": 1e-2}, "workers": {"backend": "local"}, "evaluation": {"every": -1}})
    console = Console(file=io.StringIO(), width=300)
    show(built, console)
    train(built, folder / kind)
    (listed,) = [part for part in catalogue.catalogue(kind) if part["name"] == word]
    metrics = [json.loads(line) for line in (folder / kind / "metrics.jsonl").read_text().splitlines()]
    found[kind] = {"listed": listed["location"], "explained": console.file.getvalue(), "steps": [m for m in metrics if "loss/policy" in m],
                   "failed": {f.name: f.found for f in check(kind, word) if not f.passed}}
(folder / "found.json").write_text(json.dumps({"align": align.__file__, "found": found}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("tree")
    tree = folder / "tree"
    for name in ("align", "kernels/align_kernels", "recipes"):
        shutil.copytree(ROOT / name, tree / name)  # with what Python has compiled, which is valid in the copy
    for file, text in FILES.items():
        (tree / "align" / file).write_text(HEADER.replace("import torch\n\n", "" if "torch." not in text else "import torch\n\n") + text)
    rows = [{"prompt": f"{i},1,1,1={i + 3}:", "chosen": f"{i}+1+1+1", "rejected": f"{i}"} for i in range(4, 9)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    nodes = json.dumps({kind: (WORDS[kind], node) for kind, node in RECIPES.items()}).replace("PAIRS", str(folder / "pairs.jsonl"))
    (folder / "nodes.json").write_text(nodes)
    environment = os.environ | {"PYTHONPATH": f"{tree}{os.pathsep}{tree / 'kernels'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(folder)], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads((folder / "found.json").read_text())
    assert Path(result["align"]).is_relative_to(tree)
    return result["found"]


@pytest.mark.parametrize("kind", RECIPES)
def test_one_new_file_is_listed_checked_explained_and_trained(kind: str, found: dict[str, Any]):
    of = found[kind]
    assert f"/{WORDS[kind]}.py:" in of["listed"] and f"{WORDS[kind]}.py:" in of["explained"]
    assert of["failed"] == {}
    assert FORMULAS[kind] in of["explained"] and "not stated" not in of["explained"]
    assert len(of["steps"]) == 2 and any(m["grad/norm"] > 0 for m in of["steps"])
