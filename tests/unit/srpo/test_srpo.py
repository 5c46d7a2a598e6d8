"""SRPO: the identities of its objective, the population gradient at the exact solution, and the six episodes of a pair."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.built import single_turn
from helpers.models import tiny_model, tiny_tokenizer
from helpers.own_tokenizers import CHATML, byte_tokenizer
from torch import Tensor

from align.algorithms.srpo import Srpo
from align.config import recipes
from align.config.nodes import build_part
from align.contexts import Link, TokenContext
from align.errors import RecipeError, UserError
from align.experience.examples import Examples
from align.experience.packing import pack
from align.inspect.explain import explain
from align.train import train
from align.types import TokenBatch

N, BETA = 5, 0.4


def preference(seed: int) -> Tensor:
    """P(column > row), [N, N]: random, antisymmetric around 1/2."""
    raw = torch.rand(N, N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 0.5 + (raw - raw.T) / 2


def solution(p: Tensor) -> tuple[Tensor, Tensor]:
    """log pi*/ref [N] and log pi+*/ref [draft, answer] for a uniform reference: the inner maximum, then the outer minimum."""
    ref = torch.full((N,), 1 / N, dtype=torch.float64)
    worth = (ref * (p / BETA).exp()).sum(1).log()  # log Z+ of each draft; the draft's value is beta times it
    reviser = p / BETA - worth[:, None]
    return -worth - (ref * (-worth).exp()).sum().log(), reviser


@pytest.mark.parametrize("seed", range(3))
def test_the_identities_of_the_objective(seed: int):
    p = preference(seed)
    draft, reviser = solution(p)
    own = reviser.diagonal()
    assert torch.allclose(p, 0.5 + BETA * (reviser - own[:, None]), atol=1e-14)
    margins = draft[None, :] - draft[:, None] + reviser - reviser.T
    assert torch.allclose(p, 0.5 + BETA / 2 * margins, atol=1e-14)


def every_pair(draft: Tensor, reviser: Tensor) -> tuple[TokenContext, Tensor]:
    """All ordered pairs (w, l) of two outcomes as groups of six, with their scores; and the pairs, [P, 2]."""
    pairs = torch.tensor([(w, l) for w in range(N) for l in range(N) if w != l])  # noqa: E741
    w, l = pairs.unbind(1)  # noqa: E741
    scores = torch.stack([draft[w], draft[l], reviser[l, w], reviser[l, l], reviser[w, w], reviser[w, l]], 1).flatten()
    count = len(scores)
    batch = TokenBatch(
        input_ids=torch.zeros(count, 2, dtype=torch.int64),
        **single_turn(torch.ones(count, dtype=torch.int64), torch.ones(count, dtype=torch.int64)),
        group_ids=torch.arange(len(pairs)).repeat_interleave(6),
    )
    link = Link(scores=scores, log_ratio=scores.detach(), beta=torch.full((count,), BETA, dtype=torch.float64))
    zeros = torch.zeros(count, dtype=torch.float64)
    return TokenContext(batch=batch, logp=zeros, entropy=zeros, link=link), pairs


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_population_gradient_is_zero_at_the_exact_solution(seed: int, alpha: float):
    p = preference(seed)
    logits = [x.clone().requires_grad_() for x in solution(p)]
    for moved in (0.0, 0.3):
        at = [x + moved * torch.sin(torch.arange(x.numel(), dtype=torch.float64)).view_as(x) for x in logits]
        ref = torch.tensor(N, dtype=torch.float64).log()
        ratios = [torch.log_softmax(x, -1) + ref for x in at]  # log pi/ref of normalised policies
        ctx, pairs = every_pair(*ratios)
        loss, _ = Srpo(alpha=alpha).loss(ctx, None)
        won = p[pairs[:, 1], pairs[:, 0]]
        gradients = torch.autograd.grad((won.repeat_interleave(6) * loss).sum(), logits, allow_unused=True)
        largest = max(g.abs().max().item() for g in gradients if g is not None)
        assert largest < 1e-14 if not moved else largest > 1e-3


def test_the_loss_of_one_pair_is_the_papers():
    s = torch.tensor([0.3, -0.2, 0.5, 0.1, -0.4, 0.7], dtype=torch.float64)
    w, l, w_l, l_l, w_w, l_w = s.tolist()  # noqa: E741
    ctx, _ = every_pair(torch.zeros(N, dtype=torch.float64), torch.zeros(N, N, dtype=torch.float64))
    link = Link(scores=s, log_ratio=s, beta=torch.full((6,), BETA, dtype=torch.float64))
    one = replace(ctx, batch=ctx.batch.select(torch.arange(6)), link=link)
    found, _ = Srpo(alpha=0.3).loss(one, None)
    of_draft = (0.5 - BETA / 2 * (w - l + w_l - l_w)) ** 2
    of_revision = (0.5 - BETA * (w_l - l_l)) ** 2 + (0.5 - BETA * (w_w - l_w)) ** 2
    assert found.tolist() == pytest.approx([0.7 * of_draft + 0.3 * of_revision] * 6)


def written(folder: Path, rows: list[dict]) -> str:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


ROWS = [{"prompt": f"{i}=", "chosen": f"{i}+1", "rejected": f"{i}"} for i in range(1, 6)]


def test_a_pair_is_shown_six_times(tmp_path: Path):
    tokenizer = tiny_tokenizer()
    task = build_part("task", {"name": "preferences", "path": written(tmp_path, ROWS[:1])}, "task")
    (group,) = Examples(task, tokenizer, 1, 0, algorithm=Srpo(revision=":9:")).data(0, Srpo(revision=":9:"))
    texts = ["".join(tokenizer.convert_ids_to_tokens(e.response_ids.tolist())) for e in group.episodes]
    w, l = "1+1<eos>", "1<eos>"  # noqa: E741
    assert texts == [w, l, f"1:9:{w}", f"1:9:{l}", f"1+1:9:{w}", f"1+1:9:{l}"]
    batch = pack([group], None)
    assert batch.lengths.tolist() == [4, 2, 4, 2, 4, 2] and batch.first_columns.tolist() == [2, 2, 6, 6, 8, 8]


def test_a_conversation_has_the_draft_as_a_turn(tmp_path: Path):
    row = {"prompt": [{"role": "user", "content": "1="}], "chosen": "2+1", "rejected": "3"}
    task = build_part("task", {"name": "preferences", "path": written(tmp_path, [row])}, "task")
    tokenizer = byte_tokenizer(template=CHATML)
    (group,) = Examples(task, tokenizer, 1, 0, algorithm=Srpo(revision="again")).data(0, Srpo(revision="again"))
    text = tokenizer.decode(group.episodes[2].response_ids.tolist())
    before, after = text.index("3"), text.index("2+1")
    assert before < text.index("again") < after and text[:before] == ""


def test_rankings_of_three_are_refused(tmp_path: Path):
    rows = [{"prompt": "1=", "all": ["1", "2", "3"]}]
    task = build_part("task", {"name": "preferences", "path": written(tmp_path, rows), "answers": "all"}, "task")
    with pytest.raises(UserError, match="has 3 answers in order of preference, and revisions are learned from pairs"):
        Examples(task, tiny_tokenizer(), 1, 0, algorithm=Srpo(revision="x")).data(0, Srpo(revision="x"))


def node(folder: Path, path: str, **link) -> dict:
    return {
        "steps": 2,
        "task": {"name": "preferences", "path": path, "eval_path": path.replace("pairs", "held_out")},
        "algorithm": {"name": "srpo", "revision": "=9:", "per_token": True},
        "batch": {"prompts": 4, "micro_tokens": 40},
        "model": {"path": str(folder)},
        "sampling": {"max_tokens": 6},
        "optimizer": {"lr": 1e-2},
        "workers": {"backend": "local"},
        "evaluation": {"every": 0},
        "regularizers": {"kl": {"placement": "link", "coefficient": 1.0} | link},
    }


@pytest.mark.parametrize("reference", ["frozen", "precomputed"])
def test_two_steps(tmp_path: Path, reference: str, monkeypatch):
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path / "cache"))
    folder, path = tiny_model(tmp_path / "model", tied=False), written(tmp_path, ROWS[:4])
    Path(path.replace("pairs", "held_out")).write_text(json.dumps(ROWS[4]))
    summary = train(recipes.build(node(folder, path, reference=reference)), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    first = next(line for line in lines if "loss/policy" in line)
    assert summary["before"]["rankings/loss/policy"] == pytest.approx(0.5 * 0.25 + 0.5 * 0.5, abs=1e-5)
    assert first["loss/policy"] == pytest.approx(0.375, abs=1e-5) and summary["steps"] == 2


@pytest.mark.parametrize(
    ("link", "says"),
    [({"divergence": "forward_kl"}, "its losses are derived for the KL"), ({"coefficient": "beta_dpo"}, "shows each answer several times")],
)
def test_what_it_refuses(link: dict, says: str):
    with pytest.raises(RecipeError, match=says):
        recipes.build(node(Path("nowhere"), "pairs", **link))


def test_explain_shows_both_losses():
    text = " ".join(explain(recipes.build(node(Path("nowhere"), "pairs"))).split())
    assert "J = E_r [ −0.5 (1/2 − β/2 (s(w) − s(l) + s(w|l) − s(l|w)))²" in text
