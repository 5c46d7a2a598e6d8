"""The schema of a recipe: every key, its default and its meaning. `align explain RECIPE` prints the result."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Interval

from align.config.nodes import part, section
from align.config.paths import absolute
from align.config.ranges import AtLeastOne, BelowOne, Count, Fraction, Infinite, NotNegative, Positive, Seed
from align.engines import Drawing, HeldOutSampling, Sampling

BACKENDS = ("auto", "triton", "compile", "torch")
"""Backends of the head, from align_kernels."""
ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
"""Names that transformers gives to ways of computing attention."""
GAPS = {"float32": 1e-3, "bfloat16": 5e-2}
"""The default of `max_engine_gap` by dtype, in nats."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters through peft; the reference is the model with the adapter off."""

    rank: Count = 0
    """0 trains every parameter."""
    alpha: Positive = 32.0
    dropout: BelowOne = 0.0
    """In an update's pass alone: what is measured or compared has none. A value above 0 is refused with regularizers and with algorithms
    that sample: their ratios compare the policy with itself, with a reference or with an engine, and would be noise."""
    targets: str = "all-linear"
    """Module names joined by commas, or `all-linear`."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """Where the initial policy comes from: exactly one of `path`, `recipe`, `config`."""

    path: str | None = None
    """A Hugging Face model folder, the id of a model on the Hub (`owner/name`), which is fetched once into its cache, or the folder of a
    peft adapter, which is merged into the base that its config names. A relative path starts at the folder of the recipe file; on the
    command line and in Python, at the working directory. Code that comes with a model is never run."""
    revision: str | None = None
    """Branch, tag or commit of a model on the Hub; null: its main branch, or what the cache has of it."""
    recipe: str | None = None
    """Another recipe whose final model is the initial policy; it is run first, unless a run with the same content is cached."""
    config: dict[str, Any] | None = None
    """A transformers configuration (`model_type` and its keys) initialised at random, with the task's tokenizer."""
    dtype: str = "float32"
    """float32 or bfloat16, for the forward pass and the engines. With bfloat16 the optimizer updates float32 masters, so that no update
    is rounded away: 18 bytes per trained parameter instead of 16."""
    tf32: bool = False
    """float32 matrix products with TensorFloat-32 on CUDA: about eight times faster, with 10 bits of mantissa. It also applies to engines
    and learned rewards."""
    device: str = "auto"
    """Device of the learner: `auto` is cuda if its process sees a GPU, else cpu."""
    activation_checkpointing: bool = False
    attn_implementation: str | None = None
    """Attention of the learner: eager, sdpa, flash_attention_2, flash_attention_3 or flex_attention. null: sdpa where the architecture
    supports it, else eager."""
    lora: Lora = section(Lora)

    def __post_init__(self):
        given = [k for k in ("path", "recipe", "config") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(
                f"needs exactly one of path, recipe, config; given: {', '.join(given) or 'none'}. For example path=FOLDER, or a small "
                "model at random: config='{model_type: qwen2, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, "
                "num_attention_heads: 2, num_key_value_heads: 1}'"
            )
        if self.path is not None:  # a run's recipe.yaml is read from other working directories
            object.__setattr__(self, "path", absolute(self.path, Path.cwd()))
        if self.revision is not None and self.path is None:
            raise ValueError("revision changes nothing without path, the model of the Hub whose revision it is: delete the key")
        if self.dtype not in GAPS:
            raise ValueError(f"dtype must be float32 or bfloat16, not {self.dtype!r}")
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device must be auto, cpu or cuda, not {self.device!r}")
        if self.attn_implementation not in (None, *ATTENTIONS):
            raise ValueError(f"attn_implementation must be one of {', '.join(ATTENTIONS)}, not {self.attn_implementation!r}")
        if self.tf32 and (self.dtype != "float32" or self.device == "cpu"):
            raise ValueError("tf32 changes nothing with " + ("device: cpu" if self.device == "cpu" else f"dtype: {self.dtype}"))


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The data of one step, and how it is split to fit in memory."""

    prompts: Annotated[int, Interval(ge=1, le=2**20)] = 128
    """Prompts (or demonstrations) per step."""
    samples: AtLeastOne = 8
    """Rollouts per prompt."""
    refill: Count | None = None
    """DAPO's dynamic sampling: groups whose answers all have the same reward are left out, and up to this many further rounds of
    `prompts` prompts are drawn until `prompts` groups are left; 0 leaves out and draws no more. The reward counts as judged, before
    shapings and penalties. What is left out carries no penalty either. After the last round the batch may be smaller. null: every group
    is in the batch."""
    micro_tokens: AtLeastOne | None = None
    """Padded input tokens in one forward pass; gradients are accumulated, and do not depend on it. null: 65,536 on a CPU; on a GPU as
    many as fit, up to that number (`align explain` estimates the memory per token)."""
    head_elements: Annotated[int, Interval(ge=1, lt=2**40)] | None = None
    """Logits in memory at once. null: 2^24 on a CPU; on a GPU all of a micro-batch if they fit, so that none is recomputed."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """How log-probs, entropies and exact divergences are computed from hidden states."""

    backend: str = "auto"
    """`auto`: Triton kernels generated from the divergence on CUDA, torch elsewhere. Or one of `triton`, `compile` (torch.compile of the
    same passes) and `torch`. A backend that cannot run on the learner's device stops the run before it starts."""

    def __post_init__(self):
        if self.backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, not {self.backend!r}")


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW with warm-up and then a learning-rate schedule."""

    lr: Positive = 1e-6
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.99)
    weight_decay: NotNegative = 0.0
    """Of matrices; norms and biases do not decay."""
    warmup_steps: Count = 0
    schedule: str = "constant"
    """Schedule after the warm-up: constant, linear or cosine."""
    final_fraction: Fraction = 0.0
    """Fraction of lr at the last step, for linear and cosine. 0: 1/n of the n decaying steps, because a step at rate 0 would be wasted."""
    max_grad_norm: Annotated[float, Gt(0), Infinite()] = 1.0
    """Gradients with a larger norm are scaled down to it; .inf never does so."""

    def __post_init__(self):
        if self.schedule not in ("constant", "linear", "cosine"):
            raise ValueError(f"schedule must be constant, linear or cosine, not {self.schedule!r}")
        if self.schedule == "constant" and self.final_fraction:
            raise ValueError("final_fraction changes nothing with schedule: constant")


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The processes of a run."""

    backend: str = "ray"
    """`ray`: rollout actors, a learner actor and reward actors. `local`: the same classes in one process."""
    rollout: AtLeastOne = 1
    """Rollout actors, one engine each."""
    reward: AtLeastOne = 1
    """Reward actors."""
    cpus: NotNegative = 0.5
    """Ray CPUs reserved by each actor."""
    learner_gpus: NotNegative | None = None
    """Ray GPUs reserved by the learner. null: 1 if the cluster has GPUs or model.device is cuda, but 0 with model.device: cpu. With 0
    the learner sees no GPU and uses the CPU."""
    rollout_gpus: NotNegative | None = None
    """Ray GPUs reserved by each rollout actor; null and 0 as for the learner, but with engine.device. Below 1, actors share a GPU."""
    reward_gpus: NotNegative = 0.0
    """Ray GPUs reserved by each reward actor, for a learned reward."""
    threads: Annotated[int, Interval(ge=1, le=1024)] = 1
    """Torch threads in each process."""
    start_timeout: Positive = 300.0
    """Seconds that the actors may take to start; then the run stops and reports needed and free resources."""

    def __post_init__(self):
        if self.backend not in ("ray", "local"):
            raise ValueError(f"backend must be ray or local, not {self.backend!r}")
        for name in ("learner_gpus", "rollout_gpus", "reward_gpus"):
            gpus = getattr(self, name) or 0.0
            if gpus > 1 and gpus % 1:
                raise ValueError(f"{name} must be a fraction of one GPU or a whole number, not {gpus:g}")
        counts = ("rollout", "reward", "learner_gpus", "rollout_gpus", "reward_gpus")
        idle = [f for f in fields(self) if f.name in counts and getattr(self, f.name) != f.default]
        if self.backend == "local" and idle:
            raise ValueError(
                f"backend: local is one process, where {', '.join(f.name for f in idle)} changes nothing: set "
                + " ".join(f"workers.{f.name}={'null' if f.default is None else f'{f.default:g}'}" for f in idle)
            )


@dataclass(frozen=True, kw_only=True)
class RewardLimits:
    """Limits of a reward, and what happens to an answer whose reward fails."""

    seconds: Positive = 5.0
    """Time limit for one answer."""
    on_failure: str = "drop"
    """`drop` leaves the sample out of the batch; `score` gives it `failure_score`."""
    failure_score: float = 0.0

    def __post_init__(self):
        if self.on_failure not in ("drop", "score"):
            raise ValueError(f"on_failure must be drop or score, not {self.on_failure!r}")
        if self.on_failure == "drop" and self.failure_score:
            raise ValueError("failure_score changes nothing with on_failure: drop")


@dataclass(frozen=True, kw_only=True)
class EpisodeLimits:
    """Limits of an episode with an environment."""

    max_turns: Annotated[int, Ge(2)] = 4
    """Assistant turns. The last one is judged as it is: what the environment says to it is not read."""
    max_tokens: AtLeastOne | None = None
    """Tokens of all turns, those of the environment included. An assistant turn begins where `sampling.max_tokens` more fit. null:
    `max_turns` times `sampling.max_tokens`, of which the environment has what the assistant's turns leave."""
    seconds: Positive = 5.0
    """Time limit for each call of the environment. One that takes longer, or raises, ends the episode, whose reward counts as failed:
    `reward_limits.on_failure` says what becomes of it."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Held-out problems, answered before and after training and every few steps."""

    every: Annotated[int, Ge(-1)] = 0
    """Steps between evaluations; 0: before and after only. -1: never."""
    problems: AtLeastOne = 192
    samples: AtLeastOne = 8
    correct: float | None = 1.0
    """The least reward of a correct answer, for `pass@k` and `majority@k` of a task that has no `pass@k` of its own, and for the pass
    rates of a curriculum. null: no such metrics, as for a learned reward."""
    sampling: HeldOutSampling = section(HeldOutSampling)
    """With another than that of training `kl/initial` is not measured, which is a mean over answers of the policy itself."""

    def between(self, done: int, steps: int) -> bool:
        """Whether one comes after `done` of `steps` steps, besides those before and after training."""
        return self.every > 0 and 0 < done < steps and done % self.every == 0


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Checkpoints, from which `--resume` continues."""

    every: Count = 0
    """Steps between checkpoints; 0: by `minutes` alone. There is always one at the end, and when a run is stopped."""
    minutes: Positive | None = 10.0
    """Most minutes of training between checkpoints, as a crash loses what came after the last; null: by `every` alone."""
    keep: AtLeastOne = 2


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The answers that a run keeps in `samples.parquet`, with rewards and penalties; `align show RUN` prints them."""

    every: Count = 10
    """Steps between two records, after that of the first step. 0: no answers are kept."""
    prompts: AtLeastOne = 4
    """Prompts of a record, with all their answers."""
    printed: Count = 2
    """Answers of a record that are printed while the run goes on, from those with the highest and the lowest reward."""

    def __post_init__(self):
        if not self.every and (self.prompts, self.printed) != (4, 2):
            raise ValueError("prompts and printed change nothing with every: 0")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A complete run."""

    steps: Count = field(metadata={"learns": False})
    """Number of batches."""
    seed: Seed = 0
    max_engine_gap: Positive | None = None
    """In nats: the run stops at a step with a larger mean |log mu - log pi_old|. float32 engines stay below 1e-5, bfloat16 near 1e-2; null
    is 0.001 for float32 and 0.05 for bfloat16 (model.dtype)."""
    task: Any = part("task")
    algorithm: Any = part("algorithm")
    reward: Any = part("reward", optional=True)
    curriculum: Any = part("curriculum", optional=True)
    """Which prompts a step draws, by the pass rates of their answers so far. null: consecutive permutations of the data."""
    engine: Any = part("engine", "transformers")
    environment: Any = part("environment", optional=True)
    """What answers the policy between its turns. null: an answer is one turn."""
    regularizers: Any = part("regularizer", many=True)
    shapings: Any = part("shaping", many=True)
    writers: Any = part("writer", many=True, learns=False)
    """Writers that get the metrics in addition to metrics.jsonl, which is always written."""
    model: Model = section(Model)
    batch: Batch = section(Batch)
    head: Head = section(Head)
    sampling: Sampling = section(Sampling)
    optimizer: Optimizer = section(Optimizer)
    workers: Workers = section(Workers, learns=False)
    reward_limits: RewardLimits = section(RewardLimits)
    episode: EpisodeLimits = section(EpisodeLimits)
    evaluation: Evaluation = section(Evaluation, learns=False)
    samples: Samples = section(Samples, learns=False)
    checkpoint: Checkpoint = section(Checkpoint, learns=False)

    @property
    def largest_engine_gap(self) -> float:
        """`max_engine_gap`, or its default for this dtype, in nats."""
        return GAPS[self.model.dtype] if self.max_engine_gap is None else self.max_engine_gap

    @property
    def response_tokens(self) -> int:
        """The most tokens behind a prompt."""
        turn, episode = self.sampling.max_tokens, self.episode
        if self.environment is None:
            return turn
        return episode.max_turns * turn if episode.max_tokens is None else episode.max_tokens

    @property
    def trained_tokens(self) -> int:
        """The most trained tokens of an answer: those of its assistant turns."""
        turns = 1 if self.environment is None else self.episode.max_turns
        return min(self.response_tokens, turns * self.sampling.max_tokens)

    @property
    def drawing(self) -> Drawing | None:
        """How held-out answers are drawn; None: as those that are learned from."""
        own = self.evaluation.sampling
        if own == HeldOutSampling():
            return None
        return Drawing(temperature=self.sampling.temperature if own.temperature is None else own.temperature, top_p=own.top_p)

    @property
    def answers(self) -> bool:
        """Whether an engine is needed, to sample or to evaluate answers. A reward model generates no answers."""
        return not self.algorithm.trains_reward_model
