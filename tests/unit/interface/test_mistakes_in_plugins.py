"""What people write wrong in a part of their own: one message with the place and the remedy, and nothing accepted in silence."""

import shutil
from pathlib import Path

import pytest
from helpers.mistakes import align, prepare, refused, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = prepare(tmp_path_factory.mktemp("work"))
    (folder / "ca.py").write_text("from cb import y\nx = 1\n")
    (folder / "cb.py").write_text("from ca import x\ny = 1\n")
    return folder


@pytest.fixture(autouse=True)
def there(folder: Path, monkeypatch):
    monkeypatch.chdir(folder)
    yield
    shutil.rmtree(folder / "runs", ignore_errors=True)


def holding(kind: str, spec: str) -> dict:
    """The keys of a recipe that name a part of this kind."""
    inner = {"coefficient": 0.1, kind: spec}
    return {
        "coefficient": {"regularizers": {"kl": inner}},
        "weighting": {"regularizers": {"kl": inner}},
        "divergence": {"regularizers": {"kl": inner}},
        "reference": {"regularizers": {"kl": inner}},
        "regularizer": {"regularizers": {"kl": spec}},
        "surrogate": {"algorithm": {"name": "grpo", "surrogate": spec}},
        "critic": {"algorithm": {"name": "ppo", "critic": spec}},
        "writer": {"writers": {"mine": spec}},
    }.get(kind, {kind: spec})


def named(kind: str, source: str | bytes, name: str = "Mine") -> str:
    """A recipe with a part of this kind, from this source."""
    Path("mine.py").write_bytes(source if isinstance(source, bytes) else source.encode())
    return write(Path.cwd(), "own", **holding(kind, f"./mine.py:{name}"))


SCORE = "    def score(self, prompt, response): return 1.0\n"
GOOD = f"class Mine:\n{SCORE}"
MODULES = {
    "syntax": ("class Mine\n", "mine.py:1: SyntaxError: expected ':'"),
    "indentation": ("class Mine:\ndef score(self): pass\n", "mine.py:2: IndentationError"),
    "missing module": (f"import nothere\n{GOOD}", "mine.py:1: ModuleNotFoundError: No module named 'nothere'"),
    "missing name": (f"from math import nothere\n{GOOD}", "mine.py:1: ImportError: cannot import name 'nothere'"),
    "missing star": (f"from nothere import *\n{GOOD}", "ModuleNotFoundError: No module named 'nothere'"),
    "raises": ("raise ValueError('x')\n", "the plugin "),
    "exits": ("import sys; sys.exit(3)\n", "SystemExit: 3"),
    "divides": ("x = 1 / 0\n", "ZeroDivisionError"),
    "undefined": ("x = undefined\n", "NameError: name 'undefined' is not defined"),
    "empty": ("", "mine.py has no class Mine; it has: none"),
    "binary": (bytes(range(256)), "mine.py cannot be read: 'utf-8' codec"),
    "latin-1": (b"# \xe9\n" + GOOD.encode(), "mine.py cannot be read"),
    "relative": (f"from .helper import x\n{GOOD}", "ModuleNotFoundError"),
    "beyond": (f"from ..helper import x\n{GOOD}", "ImportError"),
    "circle": (f"import ca\n{GOOD}", "cannot import name 'x' from 'ca'"),
    "itself": (f"import mine_of_nobody\n{GOOD}", "No module named 'mine_of_nobody'"),
}


@pytest.mark.parametrize("case", MODULES)
def test_a_module(case: str):
    source, says = MODULES[case]
    found = align("explain", named("reward", source))
    refused(found, says)
    assert found.stderr.startswith("reward: ") and "/align/" not in found.stderr


@pytest.mark.parametrize("name", ["Other", "mine", "", "x"])
def test_a_name_that_the_file_has_not(name: str):
    refused(align("explain", named("reward", f"class A:\n{SCORE}class B:\n{SCORE}x = 3\n", name)), "mine.py has no class")


CLASSES = {
    "no method": ("class Mine:\n    pass\n", "mine.py:1: Mine is no reward yet: it lacks score(self, prompt, response)"),
    "misspelled": ("class Mine:\n    def scor(self, prompt, response): return 1.0\n", "it lacks score(self, prompt, response)"),
    "one argument": ("class Mine:\n    def score(self, response): return 1.0\n", "mine.py:2: score(self, response) of Mine must be score("),
    "three": ("class Mine:\n    def score(self, a, b, c): return 1.0\n", "of Mine must be score(self, prompt, response)"),
    "no self": ("class Mine:\n    def score(prompt, response): return 1.0\n", "of Mine must be score(self, prompt, response)"),
    "abstract": (
        "from abc import ABC, abstractmethod\nclass Mine(ABC):\n    @abstractmethod\n    def score(self, prompt, response): ...\n",
        "mine.py:2: Mine is no reward yet",
    ),
    "wrong base": (
        "from align.coefficients import Coefficient\nclass Mine(Coefficient):\n    def beta(self, step, state): return 1.0\n",
        "Mine is no reward yet: it lacks score",
    ),
    "instance": (f"class A:\n{SCORE}Mine = A()\n", "has no class Mine; it has: A"),
    "number": ("Mine = 3\n", "has no class Mine"),
    "unannotated": (f"class Mine:\n    bonus = 0.5\n{SCORE}", "Mine.bonus has no annotation, so it is no key; annotate it: `bonus: float"),
    "required": (f"class Mine:\n    bonus: float\n{SCORE}", "reward.bonus: must be given: Mine has no default for it"),
    "set": (f"class Mine:\n    bonus: set = None\n{SCORE}", "Mine has a key of a type that YAML cannot hold"),
    "undefined type": (f"class Mine:\n    bonus: Flot = 1.0\n{SCORE}", "NameError: name 'Flot' is not defined"),
    "mutable default": (f"class Mine:\n    bonus: list = []\n{SCORE}", "mutable default <class 'list'> for field bonus is not allowed"),
    "dataclass": (
        f"from dataclasses import dataclass\n@dataclass\nclass Mine:\n    b: float = 1.0\n{SCORE}",
        "write @dataclass(frozen=True)",
    ),
    "own init": (
        f"class Mine:\n    def __init__(self, bonus): self.bonus = bonus\n{SCORE}",
        "mine.py:2: Mine has an __init__, which a part",
    ),
    "own init, derived": (
        f"from align.rewards import Reward\nclass Mine(Reward):\n    def __init__(self): self.b = 1\n{SCORE}",
        "mine.py:3: Mine has an __init__, which a part cannot have: annotate its keys",
    ),
    "key called name": (f"class Mine:\n    name: str = 'x'\n{SCORE}", "mine.py:1: Mine has a key `name`"),
    "key called refuse": (f"class Mine:\n    refuse: str = 'x'\n{SCORE}", "is no method: it takes a Setting"),
    "metaclass": (f"class Meta(type): ...\nclass Mine(metaclass=Meta):\n{SCORE}", "mine.py:2: Mine cannot derive from Reward: met"),
    "post_init KeyError": (f"class Mine:\n    def __post_init__(self): raise KeyError('x')\n{SCORE}", "reward: "),
    "post_init exits": (f"class Mine:\n    def __post_init__(self): raise SystemExit(3)\n{SCORE}", "mine.py:2: SystemExit: 3"),
    "post_init ValueError": (f"class Mine:\n    def __post_init__(self): raise ValueError('b must be 2')\n{SCORE}", "reward: b must be 2"),
    "refuse raises": (f"class Mine:\n    def refuse(self, setting): raise RuntimeError('x')\n{SCORE}", "mine.py:2: RuntimeError: x"),
    "refuse returns": (f"class Mine:\n    def refuse(self, setting): return False\n{SCORE}", "returned False: it takes a Setting"),
    "function of nothing": ("def Mine(): return 1.0\n", "mine.py:1: Mine() takes no answer"),
    "function of lists": ("def Mine(completions, **kwargs): return [1.0]\n", "a reward function takes `prompt` and `response`"),
    "function, no annotation": ("def Mine(prompt, response, b=1.0): return b\n", "Mine takes b=1.0 without an annotation"),
    "function, async": ("async def Mine(prompt, response): return 1.0\n", "Mine is a coroutine or a generator"),
}


@pytest.mark.parametrize("case", CLASSES)
def test_a_class(case: str):
    source, says = CLASSES[case]
    refused(align("explain", named("reward", source)), says)


OTHERS = {
    "function": ("coefficient", "def Mine(step, state): return 0.1\n", "mine.py:1: Mine is a function; a coefficient is a class with beta"),
    "list of needs": (
        "weighting",
        "class Mine:\n    needs = ['rewards']\n    def weights(self, batch, name): ...\n",
        "needs of Mine is ['rewards']: write a set of names, frozenset({'rewards'})",
    ),
    "unknown need": (
        "weighting",
        "class Mine:\n    needs = frozenset({'logprob'})\n    def weights(self, batch, name): ...\n",
        "needs logprob, which no column of a batch is called",
    ),
    "no coefficient": ("regularizer", "class Mine:\n    def penalty(self, ctx, name): ...\n", "coefficient of Mine must be a Coefficient"),
    "no reduction": (
        "algorithm",
        "class Mine:\n    def loss(self, ctx, advantages): ...\n",
        "algorithm: HERE/mine.py:1: reduction must be a Reduction, not None: annotate the key as",
    ),
    "number as advantage": (
        "algorithm",
        "from align.algorithms.grpo import Grpo\nfrom typing import Any\nclass Mine(Grpo):\n    advantage: Any = 3\n",
        "advantage must be an Advantage, not 3",
    ),
    "scalar f": ("divergence", "class Mine:\n    def f(self, log_u): return log_u.mean()\n", "regularizers.kl.divergence: "),
    "math.exp": (
        "divergence",
        "import math\nclass Mine:\n    def f(self, log_u): return math.exp(log_u)\n",
        "write it with torch functions",
    ),
    "sign of f": ("divergence", "class Mine:\n    def f(self, log_u): return -log_u.expm1() ** 2\n", "f must be convex"),
    "formula": (
        "surrogate",
        "class Mine:\n    def loss(self, log_rho, advantages, at): return -log_rho.exp() * advantages, log_rho.detach() > 9\n"
        "    def effective_log_ratio(self, log_rho, at): return log_rho\n    def formula(self): raise RuntimeError('x')\n",
        "algorithm.surrogate: HERE/mine.py:4: RuntimeError: x",
    ),
    "misplaced method": (
        "engine",
        "class Mine:\n    def generate(self, p, s, x): ...\n    def start(self, m, s, p): ...\n",
        "`generate` belongs",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_kind(case: str):
    kind, source, says = OTHERS[case]
    refused(align("explain", named(kind, source)), says.replace("HERE", str(Path.cwd())))


BETAS = ["None", "'0.1'", "[0.1]", "float('nan')", "-1", "10**400", "1 / 0", "state['n']", "self.x", "exit(1)", "step.x"]


@pytest.mark.parametrize("beta", BETAS)
def test_a_coefficient_that_was_not_checked(beta: str):
    """`explain --no-check` calls it as a run does."""
    source = f"from sys import exit\nclass Mine:\n    def beta(self, step, state): return {beta}\n"
    found = align("explain", named("coefficient", source), "--no-check")
    refused(found, "regularizers.kl.coefficient: ")
    assert "mine.py:" in found.stderr


RETURNS = {
    "None": "returned a NoneType; a reward is a number",
    "float('nan')": "returned nan, which is not a finite float32",
    "float('inf')": "returned inf",
    "'1.0'": "returned a str",
    "[1.0]": "returned a list",
    "{}": "returned parts without `total`, only: none",
    "{'total': None}": "returned, as 'total', a NoneType",
    "10**400": "OverflowError",
    "__import__('torch').tensor(1.0)": "returned a Tensor",
    "__import__('numpy').ones(2)": "returned a ndarray",
    "1 / 0": "ZeroDivisionError: division by zero",
    "__import__('sys').exit(3)": "SystemExit: 3",
    "self.score(prompt, response)": "RecursionError",
    "prompt.fields['gold']": "KeyError: 'gold'",
    "prompt['answer']": "TypeError: 'Prompt' object is not subscriptable",
    "(yield)": "returned a generator",
}


@pytest.mark.parametrize("value", RETURNS)
def test_what_a_reward_returns(value: str):
    found = align("train", named("reward", f"class Mine:\n    def score(self, prompt, response): return {value}\n"))
    refused(found, RETURNS[value])
    assert "mine.py:" in found.stderr and "step 0: the reward failed for every answer" in found.stderr


STARTS = {
    "reward": ("class Mine:\n    def start(self): WHAT\n" + SCORE, "reward", "align.rewards.Reward"),
    "engine": ("class Mine:\n    def start(self, model_dir, sampling, max_prompt_tokens): WHAT\n", "engine", "align.engines.RunningEngine"),
    "reference": ("class Mine:\n    def start(self, policy): WHAT\n", "regularizers.kl.reference", "align.references.RunningReference"),
    "critic": (
        "from align.critics import Critic\nclass Mine(Critic):\n    def start(self, policy): WHAT\n",
        "algorithm.critic",
        "align.critics.RunningCritic",
    ),
    "writer": ("class Mine:\n    def open(self, folder, run, recipe, done): WHAT\n", "writers.mine", "align.writers.RunningWriter"),
}


@pytest.mark.parametrize("kind", STARTS)
def test_what_does_not_start(kind: str):
    source, key, contract = STARTS[kind]
    refused(align("train", named(kind, source.replace("WHAT", "pass"))), f"must return an object that derives from {contract}")
    found = align("train", named(kind, source.replace("WHAT", "raise OSError('no server')")))
    refused(found, "OSError: no server")
    assert found.stderr.startswith(f"{key}: ")


READS = [
    "round(X)",
    "divmod(X, 2)",
    "f'{X}'",
    "f'{X:.2f}'",
    "str(X)",
    "'%s' % X",
    "max(X)",
    "X[0]",
    "X == 1",
    "X << 1",
    "1 >> X",
    "next(X)",
]


@pytest.mark.parametrize("read", READS)
def test_a_column_that_was_not_declared(read: str):
    source = f"class Mine:\n    def weights(self, batch, name):\n        return {read.replace('X', 'batch.rewards')}\n"
    found = align("explain", named("weighting", source))
    refused(found, "mine.py:3: Mine reads batch.rewards and does not declare it: declare needs = frozenset({'rewards'})")


def test_a_writer_that_fails_and_a_plugin_that_prints_do_not_stop_the_run():
    source = (
        "print('x')\nfrom align.writers import RunningWriter\n"
        "class R(RunningWriter):\n    def write(self, step, metrics): raise SystemExit(1)\n"
        "class Mine:\n    def open(self, folder, run, recipe, done): return R()\n"
    )
    found = align("train", named("writer", source))
    assert found.exit_code == 0 and len(Path("runs/own/metrics.jsonl").read_text().splitlines()) == 2
