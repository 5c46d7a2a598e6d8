"""The command line. Each command imports its heavy libraries itself, so that `--help` is fast."""
# ruff: noqa: PLC0415

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from align.complaints import Commands, complain
from align.errors import UserError
from align.terminal import SafeConsole

STOPPED_BY_HAND = 130  # the exit code that shells use for Ctrl-C
BEGAN = time.monotonic()


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Align language models, with the regularizer as an object.",
)

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a recipe that comes with align.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Keys to change, by their path in the recipe.")]
Check = Annotated[bool, typer.Option("--check/--no-check", help="Check the parts of your own first.")]
Plugins = Annotated[bool, typer.Option("--plugins/--no-plugins", help="Load what the recipe names outside of align; it can run any code.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _example(*lines: str) -> str:
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


@app.command(
    epilog=_example(
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

    built = _checked(load(file, overrides or []), check)
    where = ["--address", address] if address else []
    again = shlex.join(["align", "train", recipe, *(overrides or []), "--out", str(run_dir), *where, "--resume"])
    with report_ending(run_dir, again, complain):
        run(built, run_dir, address, resume, began=BEGAN)


@app.command("eval", epilog=_example("align eval runs/countdown_grpo", "align eval runs/countdown_grpo --samples 16 --against runs/other"))
def evaluate(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a run: its recipe names task, engine and sampling.")],
    model: Annotated[Path | None, typer.Option(help="A model folder.  [default: the run's final model]", show_default=False)] = None,
    problems: Annotated[int | None, typer.Option(min=1, help="Held-out problems.  [default: the recipe's]", show_default=False)] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Answers to each.  [default: the recipe's]", show_default=False)] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the answers.  [default: the recipe's]", show_default=False)] = None,
    against: Annotated[Path | None, typer.Option(help="A run or model folder to compare with.", show_default=False)] = None,
    plugins: Plugins = True,
    as_json: AsJson = False,
) -> None:
    """Measure a model on held-out problems, or compare two."""
    from align.inspect.measured import show

    with _watched(plugins, run_dir):
        show(run_dir, model, against, problems, samples, temperature, as_json, _wide())


@app.command(epilog=_example("align explain countdown_grpo regularizers.kl.divergence=forward_kl"))
def explain(recipe: RecipeName, overrides: Overrides = None, check: Check = True, plugins: Plugins = True) -> None:
    """Print what a recipe optimises, as maths.

    It also prints the coefficient, the sizes and what a run would load. It loads no model.
    """
    from align.config.find import find_recipe

    file = find_recipe(recipe)

    from align.config.recipes import load
    from align.inspect.explain import show

    out = _wide()
    out.print(Text(f"{file}\n", style="dim"))
    with _watched(plugins, file):
        show(_checked(load(file, overrides or []), check), out)


@app.command("list", epilog=_example("align list", "align list coefficient", "align list recipe", "align list recipes --json"))
def list_parts(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="KIND", help="A kind of part; `recipe`, for a recipe's own keys; or `recipes`, which come with align."),
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
        _wide().print(table)


@app.command(
    epilog=_example(
        "align show runs/demo", "align show runs/demo --step 80 --worst --count 2 --tokens kl", "align show runs/demo --changed"
    )
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
    samples.show(run_dir, step, orders, count, tokens, _wide())


@app.command(
    epilog=_example(
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
    if what is not None and Path(what).is_dir():
        if overrides:
            raise UserError(f"{overrides[0]} changes nothing: a run has its recipe")
        from align.audit.show import show_run

        with _watched(plugins, Path(what)):
            show_run(Path(what), as_json, _wide())
        return

    from align.audit import published, show
    from align.audit.targets import certificates

    with _watched(plugins, Path(what or "")):
        found = published.forms() if what is None else certificates(what, overrides or [])
    if as_json:
        print(json.dumps(show.data(found), indent=2))
    else:
        (published.show if table else show.show)(found, _wide())
    if not table and not all(c.passes for c in found):
        raise typer.Exit(1)


@app.command(
    epilog=_example(
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
        show(f"{found_kind} {what}", found, _wide())
    if not all(f.passed for f in found):
        raise typer.Exit(1)


@app.command(
    epilog=_example(
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
        _wide().print(table)
    SafeConsole(soft_wrap=True).print(Text(f"written to {out}"))


@app.command(
    epilog=_example(
        "align sweep countdown_grpo --over regularizers.kl.coefficient=0.03,0.1,0.3 --seeds 3 --out runs/strength",
        "align sweep countdown_grpo steps=80 --over 'regularizers.kl.divergence=reverse_kl,{name: tsallis, q: 0.5}' "
        "--over regularizers.kl.placement=loss,reward --out runs/grid",
        "align sweep --report runs/strength",
    )
)
def sweep(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", show_default=False, help="A YAML file, or the name of a recipe that comes with align.")
    ] = None,
    overrides: Overrides = None,
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
    """Run a recipe with many values and seeds, and compare.

    Every combination is checked before the first run. The same command again keeps finished runs and continues with the rest.
    Exits with 1 if a run failed.
    """
    from align import sweep as sweeps

    if report is not None:
        if recipe is not None or over or out is not None:
            raise UserError("--report DIR prints what is there: leave out the recipe, --over and --out")
        sweeps.present(sweeps.report(report, metric or []), report, _wide())
        return
    if recipe is None or out is None:
        raise UserError("give a RECIPE and the --out of the sweep, or --report DIR alone")

    from align.config.find import find_recipe
    from align.sweep.plan import Axis, Plan

    axes = tuple(Axis.parse(text) for text in over or [])
    plan = Plan(recipe, find_recipe(recipe).resolve(), tuple(overrides or []), axes, seeds, out)
    try:
        found = sweeps.run(plan, jobs, address, metric or [], _wide())
    except KeyboardInterrupt:
        complain("Stopped by hand. The same command goes on from what was kept.")
        raise typer.Exit(STOPPED_BY_HAND) from None
    sweeps.present(found, out, _wide())
    if any(run["error"] for cell in found["cells"] for run in cell["runs"]):
        raise typer.Exit(1)


def _checked(recipe: Any, check: bool) -> Any:
    """The recipe, after the quick checks of its parts that do not come with align."""
    if check:
        from align.testing.door import check_own_parts

        check_own_parts(recipe)
    return recipe


def _watched(plugins: bool, recipe: Path) -> Any:
    """Refuses plugins, or says whose code a run's recipe, which may be a stranger's, loads."""
    from align.config.outside_code import announce_loading

    strange = recipe.is_dir() or recipe.name == "recipe.yaml"
    return announce_loading(plugins, (lambda line: complain(line, "yellow")) if strange else lambda line: None)


def _wide() -> SafeConsole:
    """A console wide enough for prose if there is no terminal."""
    return SafeConsole() if sys.stdout.isatty() else SafeConsole(width=140)


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
