"""The command line. Each command imports its heavy libraries itself, so that `--help` is fast."""
# ruff: noqa: PLC0415

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from align.complaints import Commands, complain
from align.errors import UserError
from align.options import (
    AsJson,
    Check,
    FirstRecipe,
    MoreRecipes,
    Overrides,
    Plugins,
    RecipeName,
    checked,
    complete,
    example,
    print_version,
    watched,
    wide,
)
from align.terminal import SafeConsole

BEGAN = time.monotonic()


app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    """Align language models, with the regularizer as an object."""


@app.command(
    epilog=example(
        "align train countdown_grpo regularizers.kl.coefficient=0.03 --out runs/weak", "align train countdown_grpo --out runs/weak --resume"
    )
)
def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.  [default: runs/NAME]", show_default=False)] = None,
    address: Annotated[str | None, typer.Option(help="A Ray cluster to attach to: HOST:PORT, ray://HOST:PORT or auto.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the newest checkpoint in the folder.")] = False,
    check: Check = True,
) -> None:
    """Run a recipe into a folder.

    The folder holds the metrics, the checkpoints, the final model and the plot.
    """
    from align.config.find import find_recipe
    from align.run.folder import check_folder
    from align.run.phases import show

    file = find_recipe(recipe)
    run_dir = out or Path("runs") / file.stem
    check_folder(run_dir, resume)  # before imports that take seconds
    show(f"{time.monotonic() - BEGAN:6.1f} s  imports")

    from align.config.recipes import load
    from align.run.ending import report_ending
    from align.train import train as run

    built = checked(load(file, overrides or []), check)
    where = ["--address", address] if address else []
    again = shlex.join(["align", "train", recipe, *(overrides or []), "--out", str(run_dir), *where, "--resume"])
    with report_ending(run_dir, again, complain):
        run(built, run_dir, address, resume, began=BEGAN)


@app.command(
    "eval",
    epilog=example("align eval runs/mine", "align eval runs/mine --against owner/model", "align eval owner/model --recipe mine.yaml"),
)
def evaluate(
    model: Annotated[
        str, typer.Argument(help="A run, one of its checkpoints (RUN/checkpoints/step_N), a model folder, an adapter or a Hub id.")
    ],
    recipe: Annotated[
        str | None,
        typer.Option(help="Names task, engine and sampling.  [default: the run's]", show_default=False, autocompletion=complete("recipes")),
    ] = None,
    problems: Annotated[int | None, typer.Option(min=1, help="Held-out problems.  [default: the recipe's]", show_default=False)] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Answers to each.  [default: the recipe's]", show_default=False)] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the answers.  [default: the recipe's]", show_default=False)] = None,
    against: Annotated[str | None, typer.Option(help="A second model, of any of these kinds.", show_default=False)] = None,
    plugins: Plugins = True,
    as_json: AsJson = False,
) -> None:
    """Measure a model on held-out problems, or compare two."""
    from align.inspect.measured import show

    with watched(plugins, Path(recipe or model)):
        show(model, recipe, against, problems, samples, temperature, as_json, wide())


@app.command(
    epilog=example(
        "align explain countdown_grpo regularizers.kl.divergence=forward_kl",
        "align explain countdown_grpo countdown_k3",
        "align explain --resolved countdown_grpo > mine.yaml",
    )
)
def explain(
    recipe: RecipeName,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE] KEY=VALUE",
            help="A second recipe, to compare with; keys to change, of both.",
            autocompletion=complete("recipes_or_overrides"),
        ),
    ] = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Print the whole recipe instead, every default written out, as YAML.")
    ] = False,
    check: Check = True,
    plugins: Plugins = True,
) -> None:
    """Print what a recipe optimises, as maths; or in what two recipes differ.

    Of one recipe it also prints the coefficient, the sizes and what a run would load; of two, the keys whose values differ and the lines
    of each objective that do. It loads no model.
    """
    from align.inspect import command

    command.explain(recipe, overrides or [], resolved, check, plugins)


@app.command("cp", epilog=example("align cp methods/copg", "align cp countdown_grpo mine.yaml"))
def copy_recipe(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="The name of a recipe that comes with align.", autocompletion=complete("recipes"))
    ],
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", show_default=False, help="A YAML file, or a folder.  [default: NAME.yaml]")
    ] = None,
) -> None:
    """Copy a recipe that comes with align, to edit it.

    Recipes that it builds on keep their names, so they need no copy. No file is overwritten.
    """
    from align.tools.recipe_copy import copy

    written = copy(recipe, file)
    print(f"written to {written}")
    print(f"  align explain {shlex.quote(str(written))}")
    print(f"  align train {shlex.quote(str(written))} --out {shlex.quote(f'runs/{written.stem}')}")


@app.command("new", epilog=example("align new reward my_reward", "align new divergence MyDivergence"))
def write_part(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="A kind of part: one of `align list`.", autocompletion=complete("kinds"))],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the file and the class: my_reward or MyReward.")],
) -> None:
    """Write a part of your own to start from.

    The file NAME.py of the working directory has a class that passes `align check` as it is, with keys, docstrings and the methods of its
    kind. No file is overwritten.
    """
    from align.tools.new_part import new_part

    written = new_part(kind, name)
    print(f"written to {written.file}\n  align check {written.part}\nin a recipe:\n  {written.usage}")


@app.command("list", epilog=example("align list", "align list coefficient", "align list recipe", "align list recipes --json"))
def list_parts(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="KIND",
            help="A kind of part; `recipe`, for a recipe's own keys; or `recipes`, which come with align.",
            autocompletion=complete("kinds"),
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the parts a recipe can name.

    The list has align's own parts and those of installed packages.
    """
    from align.inspect.catalogue import catalogue, tables

    parts = catalogue(kind)
    if as_json:
        print(json.dumps(parts, indent=2, default=str))
        return
    for table in tables(parts, with_keys=kind is not None):
        wide().print(table)


@app.command(
    epilog=example("align show runs/demo", "align show runs/demo --step 80 --worst --count 2 --tokens kl", "align show runs/demo --changed")
)
def show(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a run.")],
    step: Annotated[int | None, typer.Option(help="A recorded step.  [default: the last]", show_default=False)] = None,
    best: Annotated[bool, typer.Option("--best", help="Highest rewards only.")] = False,
    worst: Annotated[bool, typer.Option("--worst", help="Lowest rewards only.")] = False,
    changed: Annotated[
        bool, typer.Option("--changed", help="Held-out problems whose rewards training changed most, before and after.")
    ] = False,
    tokens: Annotated[str | None, typer.Option(metavar="REGULARIZER", help="Colour tokens by its penalty.", show_default=False)] = None,
    count: Annotated[int, typer.Option(min=1, help="Answers (or problems).")] = 4,
) -> None:
    """Print what the model wrote: answers that a run has kept, with rewards and penalties."""
    from align.inspect import samples

    orders = [word for word, given in (("best", best), ("worst", worst), ("changed", changed)) if given]
    samples.show(run_dir, step, orders, count, tokens, wide())


@app.command(
    epilog=example(
        "align audit countdown_k3",
        "align audit tsallis q=0.5 placement=reward",
        "align audit ./mine.py:Mine --json",
        "align audit --table",
        "align audit runs/demo",
    )
)
def audit(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE|NAME|FILE.py:CLASS|RUN",
            show_default=False,
            help="A recipe; a divergence, estimator or regularizer, or the class of one; or the folder of a run.",
        ),
    ] = None,
    overrides: Overrides = None,
    table: Annotated[bool, typer.Option("--table", help="The published forms side by side.")] = False,
    plugins: Plugins = True,
    as_json: AsJson = False,
) -> None:
    """Measure a regularizer against exact answers: bias, variance and cosine.

    The regularizer's own code runs on problems small enough to enumerate, on-policy and after one stale update. Exits with 1 if a
    gradient is biased and `allow_biased` is not set. For the folder of a run, it measures the estimators on the run's answers.
    """
    if table == (what is not None):
        raise UserError("give a recipe, a part or the folder of a run, or --table alone")
    from align.audit.command import report

    with watched(plugins, Path(what or "")):
        passed = report(what, overrides or [], table, as_json, wide())
    if not passed:
        raise typer.Exit(1)


@app.command(
    epilog=example(
        "align check ./mine.py:Mine power=0.3",
        "align check ./mine.py:Judge --kind reward --prompts questions.jsonl",
        "align check tsallis --json",
    )
)
def check(
    what: Annotated[str, typer.Argument(metavar="FILE.py:CLASS|NAME", help="A class of your own, or the name of a part.")],
    keys: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Its keys, as a recipe would give them.")] = None,
    kind: Annotated[str | None, typer.Option(help="What it is to be.  [default: what it defines]", show_default=False)] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Folder of the model that engines and references are checked on.  [default: tiny]", show_default=False),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="JSONL of prompts with what a reward judges by.  [default: countdown's]", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a part against the contract of its kind.

    The same checks run on every part of align. Exits with 1 if a check failed.
    """
    from align.testing.command import findings, show

    found_kind, found = findings(what, keys or [], kind, model, prompts)
    if as_json:
        print(json.dumps({"kind": found_kind, "part": what, "findings": [vars(f) for f in found]}, indent=2))
    else:
        show(f"{found_kind} {what}", found, wide())
    if not all(f.passed for f in found):
        raise typer.Exit(1)


@app.command(
    epilog=example(
        "align pairs countdown_grpo --samples 8 --prompts 2000 --out pairs.jsonl",
        "align pairs countdown_grpo --model runs/demo/model --rankings --out ranked.jsonl",
    )
)
def pairs(
    recipe: RecipeName,
    overrides: Overrides = None,
    *,
    out: Annotated[Path, typer.Option(help="The JSONL file to write.", show_default=False)],
    prompts: Annotated[
        int | None, typer.Option(min=1, help="Prompts, drawn by the seed.  [default: all that the recipe trains on]", show_default=False)
    ] = None,
    samples: Annotated[int | None, typer.Option(min=2, help="Answers to each.  [default: batch.samples]", show_default=False)] = None,
    model: Annotated[
        Path | None, typer.Option(help="Folder of the model that answers.  [default: the recipe's initial policy]", show_default=False)
    ] = None,
    reward: Annotated[str | None, typer.Option(help="The reward that compares.  [default: the recipe's]", show_default=False)] = None,
    per_prompt: Annotated[int, typer.Option(min=1, help="Pairs of one prompt, at most.")] = 1,
    rankings: Annotated[bool, typer.Option("--rankings", help="Whole rankings, best first, instead of pairs.")] = False,
    seed: Annotated[int | None, typer.Option(help="Of prompts, answers and pairs.  [default: the recipe's]", show_default=False)] = None,
    address: Annotated[str | None, typer.Option(help="A Ray cluster to attach to: HOST:PORT, ray://HOST:PORT or auto.")] = None,
) -> None:
    """Draw answers from a model and write which are better.

    The recipe's engine answers its training prompts, and its reward ranks the answers. Writes JSONL for the task `preferences`.
    """
    from align.config.find import find_recipe

    file = find_recipe(recipe)

    from align.config.recipes import load
    from align.tools.pairs import draw

    drawn = draw(
        load(file, overrides or []),
        out,
        prompts=prompts,
        samples=samples,
        model=model,
        reward=reward,
        per_prompt=per_prompt,
        rankings=rankings,
        seed=seed,
        address=address,
    )
    for table in drawn.tables():
        wide().print(table)
    SafeConsole(soft_wrap=True).print(Text(f"written to {out}"))


@app.command(
    epilog=example(
        "align sweep countdown_grpo --over regularizers.kl.coefficient=0.03,0.1,0.3 --seeds 3 --out runs/strength",
        "align sweep countdown_grpo methods/gspo --over 'regularizers.kl.divergence=reverse_kl,{name: tsallis, q: 0.5}' --out runs/x",
        "align sweep --report runs/strength",
    )
)
def sweep(
    recipe: FirstRecipe = None,
    words: MoreRecipes = None,
    over: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=V1,V2,...", help="A key and its values. Given again: every combination.", show_default=False),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Each cell runs with the seeds 0 to N-1.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Folder of the sweep: CELL/seed_N are its runs.", show_default=False)] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at once.")] = 1,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            show_default=False,
            help="Training metrics in the table, such as 'kl/ref/*'.  [default: reward, preference accuracy, KL, entropy]",
        ),
    ] = None,
    address: Annotated[str | None, typer.Option(help="A Ray cluster to attach to: HOST:PORT, ray://HOST:PORT or auto.")] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Only print the table of a sweep, as far as it has come.", show_default=False)
    ] = None,
) -> None:
    """Run recipes with many values and seeds, and compare.

    Every combination is checked before the first run. The same command again keeps finished runs and continues with the rest.
    Exits with 1 if a run failed.
    """
    from align.sweep.command import show

    given = [*([recipe] if recipe else []), *(words or [])]
    if not show(given, over or [], seeds, out, jobs, metric or [], address, report):
        raise typer.Exit(1)


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
