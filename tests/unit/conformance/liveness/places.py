"""Models and data in a folder, by the names that nodes give them in braces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helpers.endpoint import Served
from helpers.models import tiny_model, tiny_scorer


def read_by_all(question: str) -> dict[str, Any]:
    """A row that every task of rows can read."""
    asked = dict.fromkeys(("prompt", "question", "problem"), question)
    answers = {"answer": "\\boxed{7} #### 3", "solution": "\\boxed{3} #### 9", "reply": "\\boxed{4} #### 4"}
    return asked | answers | {"chosen": "1", "rejected": "2", "completion": "1", "label": True, "key": f"key {question}"}


def made(folder: Path) -> dict[str, str]:
    rows = [{"prompt": "1+2=", "question": "2+1=", "answer": "3", "reply": "4", "id": "a", "key": "b"}]
    (folder / "data").write_text("\n".join(map(json.dumps, rows)))
    (folder / "held_out").write_text(json.dumps(rows[0] | {"prompt": "7="}))
    pairs = [
        {
            "prompt": f"{i}=",
            "question": f"{i}:",
            "chosen": "1+2",
            "rejected": f"3-{i}=",
            "best": f"{i}",
            "worst": "9",
            "id": f"{i}",
            "key": f"k{i}",
            "all": ["2", "3", f"{i}+"],
        }
        for i in range(4, 9)
    ]
    for n, place in enumerate(("splits/train", "splits/test", "subsets/one/rows", "subsets/two/rows")):
        file = folder / f"{place}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(read_by_all(f"{n}{i}=")) + "\n" for i in range(3)))
    configurations = "".join(f"- config_name: {n}\n  data_files: {n}/*.jsonl\n" for n in ("one", "two"))
    (folder / "subsets" / "README.md").write_text(f"---\nconfigs:\n{configurations}---\n")
    many = [read_by_all("1" * i + "=") | {"n": i} for i in range(1, 6)]
    labelled = [
        row | {"completion": row["chosen"], "reply": row["best"], "label": i % 2 == 0, "good": i % 2 == 1} for i, row in enumerate(pairs)
    ]
    for name, of in {
        "words": [read_by_all("2+1=") | {"prompt": "1+2="}],
        "more_words": [read_by_all("9=")],
        "many": many,
        "bad": [*many, read_by_all(" ")],
        "labels": labelled,
        "long_labels": [*labelled, labelled[0] | {"id": "long", "completion": "1" * 30}],
        "labelled_chats": [row | {"prompt": [{"role": "user", "content": row["prompt"]}]} for row in labelled],
        "pairs": pairs,
        "held_out_pairs": [row | {"prompt": f"7{row['prompt']}"} for row in pairs],
        "long": [*pairs, pairs[0] | {"id": "long", "chosen": "1" * 30}],
        "chats": [row | {"prompt": [{"role": "user", "content": row["prompt"]}]} for row in pairs],
    }.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in of))
    (folder / "unlikelihood.py").write_text(
        'class OneMinus:\n    """1 - pi."""\n\n    def losses(self, ctx):\n        return 1 - ctx.logp.exp()\n'
    )
    for n in (1, 2):  # a warm start, that is not run here
        (folder / f"data{n}").write_text(json.dumps({"steps": n, "task": "countdown", "algorithm": "sft", "model": {"path": "nowhere"}}))
    models = {name: str(tiny_model(folder / name, seed=seed, num_hidden_layers=1)) for seed, name in enumerate(("model", "other", "third"))}
    models |= {
        name: str(tiny_scorer(folder / name, seed=seed, num_hidden_layers=1)) for seed, name in enumerate(("scorer", "other_scorer"))
    }
    written = (
        "labels",
        "long_labels",
        "labelled_chats",
        "data",
        "held_out",
        "pairs",
        "held_out_pairs",
        "long",
        "chats",
        "splits",
        "subsets",
        "words",
        "more_words",
        "many",
        "bad",
    )
    return models | {name: str(folder / name) for name in written} | {"folder": str(folder), "server": Served().url}
