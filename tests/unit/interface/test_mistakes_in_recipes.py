"""What people type wrong in a recipe, an override, a row of data or a command: one message with the place and the remedy."""

import shutil
from pathlib import Path

import pytest
from helpers.mistakes import align, prepare, refused, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return prepare(tmp_path_factory.mktemp("work"))


@pytest.fixture(autouse=True)
def there(folder: Path, monkeypatch):
    monkeypatch.chdir(folder)
    yield
    shutil.rmtree(folder / "runs", ignore_errors=True)


OVERRIDES = {
    # keys
    "stesp=3": "stesp: unknown key; did you mean 'steps'?",
    "batch.prompt=8": "batch.prompt: unknown key; did you mean 'prompts'?",
    "optimizer.learning_rate=1e-4": "optimizer.learning_rate: unknown key; Optimizer takes: lr,",
    "num_generations=8": "num_generations: unknown key; Recipe takes: ",
    "regularizers.kl.coeficient=0.1": "regularizers.kl.coeficient: unknown key; did you mean 'coefficient'?",
    "regularizers.kl.divergence.q=0.5": "regularizers.kl.divergence.q: unknown key; ReverseKl takes: no keys",
    "model.pth=x": "model.pth: unknown key; did you mean 'path'?",
    "model.lora.r=8": "model.lora.r: unknown key; Lora takes: rank",
    "workers.bakend=ray": "did you mean 'backend'?",
    "evaluation.evry=3": "did you mean 'every'?",
    "sampling.temprature=1": "did you mean 'temperature'?",
    "sampling.top_p=0.9": "sampling.top_p: unknown key; Sampling takes:",
    "checkpoint.evry=1": "did you mean 'every'?",
    "reward_limits.second=3": "did you mean 'seconds'?",
    "head.bckend=x": "did you mean 'backend'?",
    "algorithm.clip=0.2": "algorithm.clip: unknown key; Grpo takes: advantage, surrogate",
    "task.pth=x": "task.pth: unknown key; did you mean 'path'?",
    "engine.device_=cpu": "did you mean 'device'?",
    "writers.a.b=1": "writers.a: has no `name`",
    "shapings.x=1": "shapings.x: names no shaping",
    "a.b.c.d=1": "a: unknown key",
    # the form of an override
    "+foo=1": "the override '+foo=1' begins with '+': write key=value",
    "~regularizers": "the override '~regularizers' is not of the form key=value: steps=80, or key=null",
    "steps": "the override 'steps' is not of the form key=value",
    "=3": "the override '=3' begins with '='",
    "steps==3": "steps: '=3' is not of type int",
    "model.config={model_type:": "model.config={model_type:: cannot be read",
    # types
    "steps=x": "steps: 'x' is not of type int",
    "steps=1.5": "steps: 1.5 is not of type int",
    "steps=": "steps: None is not of type int",
    "seed=x": "seed: 'x' is not of type int",
    "batch=3": "batch: must be a mapping of keys, not 3",
    "batch.prompts=x": "batch.prompts: 'x' is not of type int",
    "optimizer=[1]": "optimizer: must be a mapping of keys",
    "optimizer.lr=x": "optimizer.lr: 'x' is not of type float",
    "optimizer.betas=0.9": "optimizer.betas: 0.9 is not of type tuple",
    "optimizer.betas=[0.9]": "optimizer.betas: [0.9] is not of type tuple",
    "sampling.max_tokens=x": "sampling.max_tokens: 'x' is not of type int",
    "regularizers=kl": "regularizers: must map a name of your choice to a regularizer",
    "regularizers.kl=3": "regularizers.kl: names no regularizer",
    "regularizers.kl.coefficient=true": "regularizers.kl.coefficient.value: True is not of type float",
    "model=null": "model: needs exactly one of path, recipe, config",
    "task=null": "task: must name its task",
    "algorithm=null": "algorithm: must name its algorithm",
    "reward=null": "reward: grpo learns from rewards: name one",
    # ranges
    "steps=-1": "steps: must be at least 0, not -1",
    "seed=-1": "seed: must be at least 0, not -1",
    "max_engine_gap=-1": "max_engine_gap: must be above 0, not -1",
    "max_engine_gap=0": "max_engine_gap: must be above 0",
    "batch.prompts=0": "batch.prompts: must be at least 1, not 0",
    "batch.samples=0": "batch.samples: must be at least 1",
    "batch.samples=1": "batch.samples: advantage group_standardised",
    "batch.micro_tokens=0": "batch.micro_tokens: must be at least 1",
    "optimizer.lr=0": "optimizer.lr: must be above 0, not 0",
    "optimizer.lr=inf": "optimizer.lr: must be finite, not inf",
    "optimizer.lr=nan": "optimizer.lr: nan is not a number",
    "optimizer.betas=[2,3]": "optimizer.betas: must be below 1, not 2",
    "optimizer.warmup_steps=-1": "optimizer.warmup_steps: must be at least 0, not -1",
    "optimizer.schedule=cos": "optimizer: schedule must be constant, linear or cosine",
    "optimizer.max_grad_norm=0": "optimizer.max_grad_norm: must be above 0",
    "sampling.temperature=0": "sampling: temperature must be positive",
    "sampling.max_tokens=0": "sampling.max_tokens: must be at least 1",
    "sampling.max_tokens=100000": "but the model has 512 positions",
    "evaluation.every=-2": "evaluation.every: must be at least -1, not -2",
    "evaluation.problems=0": "evaluation.problems: must be at least 1",
    "checkpoint.every=-1": "checkpoint.every: must be at least 0",
    "checkpoint.keep=0": "checkpoint.keep: must be at least 1",
    "reward_limits.seconds=0": "reward_limits.seconds: must be above 0",
    "reward_limits.seconds=inf": "reward_limits.seconds: must be finite",
    "reward_limits.on_failure=skip": "on_failure must be drop or score",
    "workers.backend=slurm": "workers: backend must be ray or local",
    "workers.rollout=0": "workers.rollout: must be at least 1",
    "workers.rollout=2": "backend: local is one process, where rollout changes nothing",
    "workers.threads=100000": "workers.threads: must be at most 1024, not 100000",
    "workers.cpus=-1": "workers.cpus: must be at least 0",
    "workers.start_timeout=-1": "workers.start_timeout: must be above 0",
    "model.dtype=fp16": "dtype must be float32 or bfloat16",
    "model.device=tpu": "device must be auto, cpu or cuda",
    "model.lora={rank: -1}": "model.lora.rank: must be at least 0",
    "model.lora={rank: 2, alpha: 0}": "model.lora.alpha: must be above 0",
    "model.lora={rank: 2, dropout: 2}": "model.lora.dropout: must be below 1",
    "head.backend=cuda": "head: backend must be one of auto, triton",
    "regularizers.kl.coefficient=-0.1": "value must be >= 0, not -0.1: a negative coefficient drives the policy away",
    "regularizers.kl={coefficient: 0.1, clamp: -1}": "regularizers.kl: clamp must be positive and finite",
    "regularizers.kl={coefficient: 0.1, divergence: {name: tsallis, q: -1}}": "regularizers.kl.divergence: q must be positive",
    "algorithm={name: grpo, epochs: 0}": "algorithm: epochs must be at least 1",
    "algorithm={name: grpo, surrogate: {name: clipped, clip_low: -1}}": "algorithm.surrogate: clip_low must lie in (0, 1]",
    # names
    "regularizers.kl.coefficient=x": "no coefficient is called 'x'; there are: adaptive",
    "regularizers.kl.estimator=k4": "no estimator is called 'k4'",
    "regularizers.kl={coefficient: 0.1, reference: frzen}": "no reference is called 'frzen'; did you mean 'frozen'?",
    "regularizers.kl={coefficient: 0.1, placement: rewrd}": "placement must be one of",
    "regularizers.kl={}": "regularizers.kl.coefficient: must name its coefficient",
    "algorithm=ppo_": "no algorithm is called 'ppo_'; did you mean 'ppo'?",
    "reward=nope": "reward: no reward is called 'nope'",
    "engine=nope": "engine: no engine is called 'nope'",
    "writers.board=nope": "writers.board: no writer is called 'nope'",
    # files
    "task.path=nothere.jsonl": "nothere.jsonl: there is no such file or folder of data",
    "task.path=model": "model: ",
    "model.path=nothere": "model.path: there is no model folder nothere",
    "model.path=rows.jsonl": "rows.jsonl (a relative path starts at the folder of the recipe file",
    "model.path=.": "holds no model: it has neither config.json nor adapter_config.json",
    "model.revision=v1": "model.revision: changes nothing: ",
    "reward=./nothere.py:Mine": "reward: there is no plugin file ",
    "reward=./model:Mine": "reward: the folder ",
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_an_override(override: str):
    refused(align("train", "small.yaml", override), OVERRIDES[override])


ROWS = {
    "empty": ("", "has no rows; write one JSON object a line"),
    "blank": ("\n\n", "has no rows"),
    "text": ("hello\n", "line 1: is not JSON"),
    "list": ("[1, 2]\n", "line 1: is not an object but [1, 2]"),
    "no prompt": ('{"question": "1"}\n', "line 1: has no field 'prompt'; name the one that holds the question with task.prompt"),
    "null": ('{"prompt": null}\n', "line 1: prompt must be a string, not null"),
    "number": ('{"prompt": 3}\n', "line 1: prompt must be a string, not 3"),
    "no text": ('{"prompt": ""}\n', "line 1: prompt is empty"),
    "answer": ('{"prompt": "1", "answer": 3}\n', "line 1: answer must be a string, not 3"),
    "no answer": ('{"prompt": "1"}\n', "judges by the field answer, which 1 of 1 rows lack"),
    "second row": ('{"prompt": "1", "answer": "1"}\n{"promt": "1"}\n', "line 2: has no field 'prompt'"),
    "cut short": ('{"prompt": "1", "answer": "1"}\n{"prompt": "1"', "line 2: is not JSON"),
    "latin-1": (b'{"prompt": "\xe9"}\n', "line 1: is not JSON: 'utf-8' codec can't decode byte 0xe9"),
    "binary": (bytes(range(256)), "line 1: is not JSON"),
    "long": (f'{{"prompt": "{"1" * 600}", "answer": "1"}}\n', "a prompt of 600 tokens and 4 more are 604, but the model has 512"),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_row(case: str):
    text, says = ROWS[case]
    Path("bad.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(align("train", "small.yaml", "task.path=bad.jsonl"), says)


YAML = {
    "empty": ("", "steps: must be given: Recipe has no default for it"),
    "list": ("- 1\n", "a recipe is a mapping of keys to values"),
    "open bracket": ("a: [1\n", "is not valid YAML in UTF-8"),
    "twice": ("steps: 1\nsteps: 2\n", "is not valid YAML"),
    "latin-1": (b"# \xe9\nsteps: 1\n", "is not valid YAML in UTF-8: 'utf-8' codec"),
    "binary": (bytes(range(256)), "is not valid YAML in UTF-8"),
    "interpolation": ("steps: ${seed}\n", "recipes hold values, not interpolations"),
    "missing base": ("base: nothere.yaml\n", "base: "),
    "own base": ("base: bad.yaml\n", "inherits from itself"),
    "number base": ("base: 3\n", "must name a recipe, not 3"),
    "two documents": ("steps: 1\n---\nsteps: 2\n", "expected a single document"),
    "number key": ("1: 2\n", "1: unknown key"),
    "python": ('steps: !!python/object/apply:os.system ["true"]\n', "could not determine a constructor"),
    "number name": ("steps: 1\ntask: countdown\nalgorithm: {name: 3}\n", "algorithm: has no `name`"),
}


@pytest.mark.parametrize("case", YAML)
def test_a_file(case: str):
    text, says = YAML[case]
    Path("bad.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(align("explain", "bad.yaml"), says)


COMMANDS = {
    "train .": "'.' is not the name of a recipe",
    "train model": "model is a folder: give the YAML file of a recipe",
    "train nothere": "there is no recipe nothere",
    "train countdown_grp": "did you mean 'countdown_grpo'?",
    "train rows.jsonl": "is not valid YAML",
    f"train {'x' * 400}": "is not the name of a recipe",
    "train small.yaml --resume": "there is no run runs/small to resume",
    "train small.yaml --address auto": "--address auto changes nothing with workers.backend: local",
    "train small.yaml --out model": "model is not empty: choose another folder",
    "train small.yaml --out rows.jsonl": "rows.jsonl is a file: choose a folder",
    "train small.yaml --oout x": "No such option",
    "train": "Missing argument",
    "trian small.yaml": "No such command 'trian'",
    "eval nothere": "there is no folder nothere; a model of the Hugging Face Hub",
    "eval rows.jsonl": "there is no folder rows.jsonl",
    "explain nothere": "there is no recipe nothere",
    "list nope": "there is no kind of part called nope",
    "audit nope": "nope is no divergence, estimator or regularizer",
    "audit": "give a recipe, a part or the folder of a run",
    "audit model": "model is not the folder of a run: it has no metrics.jsonl",
    "check nope": "is called nope",
    "pairs small.yaml --out model": "model exists: choose another file",
    "pairs small.yaml --out p.jsonl --model nothere": "nothere holds no model",
    "pairs small.yaml --out p.jsonl --reward nope": "--reward: no reward is called 'nope'",
    "sweep": "give a RECIPE and the --out of the sweep",
    "sweep small.yaml --over steps --out sw": "--over 'steps' is not of the form KEY=V1,V2,...",
    "sweep small.yaml --over steps=x,1 --out sw": "the cell steps=x cannot run, so none was started",
    "sweep small.yaml --over steps=1,2 --out rows.jsonl": "rows.jsonl is a file",
    "sweep small.yaml --over steps=1,2 --out rows.jsonl/x": "no file can be written there: Not a directory",
    "sweep small.yaml --over steps=1,2 --out /proc/sw": "no file can be written there",
    "sweep --report model": "model holds no sweep",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command(command: str):
    refused(align(*command.split()), COMMANDS[command])


def test_a_prompt_of_which_the_tokenizer_makes_nothing(folder: Path):
    """The tiny tokenizer drops what it has no token for."""
    Path("bad.jsonl").write_text('{"prompt": "\\u03a9\\u00df?", "answer": "1"}\n')
    refused(align("train", "small.yaml", "task.path=bad.jsonl"), "bad.jsonl, line 1: the tokenizer makes no tokens of the prompt")


def test_a_warm_start_of_no_recipe(folder: Path):
    file = write(folder, "warm", model={"recipe": "nothere"}, task="countdown", reward="countdown_exact")
    refused(align("train", file), "model.recipe: there is no recipe nothere")
