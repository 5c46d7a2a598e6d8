"""The schema of a recipe: every key, its default and its meaning. `align explain RECIPE` prints the result."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from align.config.nodes import part, section
from align.engines import Sampling

BACKENDS = ("auto", "triton", "compile", "torch")
"""Backends of the head, from align_kernels."""
MOST_THREADS = 1024
GAPS = {"float32": 1e-3, "bfloat16": 5e-2}
"""The default of `max_engine_gap` by dtype, in nats."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters through peft; the reference is the model with the adapter off."""

    rank: int = 0
    """0 trains every parameter."""
    alpha: float = 32.0
    dropout: float = 0.0
    """A value above 0 makes the divergence at step 0 noisy, so it is refused with regularizers."""
    targets: str = "all-linear"
    """Module names joined by commas, or `all-linear`."""

    def __post_init__(self):
        if self.rank < 0:
            raise ValueError(f"rank must be >= 0, not {self.rank}")
        if not 0 < self.alpha < math.inf or not 0 <= self.dropout < 1:
            raise ValueError(f"alpha must be positive and dropout from 0 to below 1, not {self.alpha:g} and {self.dropout:g}")


@dataclass(frozen=True, kw_only=True)
class Model:
    """Where the initial policy comes from: exactly one of `path`, `recipe`, `config`."""

    path: str | None = None
    """A Hugging Face model folder, or the id of a model that is in the hub's local cache; nothing is downloaded."""
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
    lora: Lora = section(Lora)

    def __post_init__(self):
        given = [k for k in ("path", "recipe", "config") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(
                f"needs exactly one of path, recipe, config; given: {', '.join(given) or 'none'}. For example path=FOLDER, or a small "
                "model at random: config='{model_type: qwen2, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, "
                "num_attention_heads: 2, num_key_value_heads: 1}'"
            )
        if self.dtype not in GAPS:
            raise ValueError(f"dtype must be float32 or bfloat16, not {self.dtype!r}")
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device must be auto, cpu or cuda, not {self.device!r}")
        if self.tf32 and (self.dtype != "float32" or self.device == "cpu"):
            raise ValueError("tf32 changes nothing with " + ("device: cpu" if self.device == "cpu" else f"dtype: {self.dtype}"))


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The data of one step, and how it is split to fit in memory."""

    prompts: int = 128
    """Prompts (or demonstrations) per step."""
    samples: int = 8
    """Rollouts per prompt."""
    micro_tokens: int | None = None
    """Padded input tokens in one forward pass; gradients are accumulated, and do not depend on it. null: 65,536 on a CPU; on a GPU as
    many as fit, up to that number (`align explain` estimates the memory per token)."""
    head_elements: int | None = None
    """Logits in memory at once. null: 2^24 on a CPU; on a GPU all of a micro-batch if they fit, so that none is recomputed."""

    def __post_init__(self):
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None and value < 1:
                raise ValueError(f"{f.name} must be at least 1, not {value}")


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

    lr: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    warmup_steps: int = 0
    schedule: str = "constant"
    """Schedule after the warm-up: constant, linear or cosine."""
    final_fraction: float = 0.0
    """Fraction of lr at the last step, for linear and cosine."""
    max_grad_norm: float = 1.0

    def __post_init__(self):
        if self.schedule not in ("constant", "linear", "cosine"):
            raise ValueError(f"schedule must be constant, linear or cosine, not {self.schedule!r}")
        if self.schedule == "constant" and self.final_fraction:
            raise ValueError("final_fraction changes nothing with schedule: constant")
        if not 0 < self.lr < math.inf or self.max_grad_norm <= 0:
            raise ValueError("lr and max_grad_norm must be positive, and lr finite")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be from 0 to below 1, not {list(self.betas)}")
        if self.weight_decay < 0 or self.warmup_steps < 0 or not 0 <= self.final_fraction <= 1:
            raise ValueError("weight_decay and warmup_steps must be 0 or more, and final_fraction between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The processes of a run."""

    backend: str = "ray"
    """`ray`: rollout actors, a learner actor and reward actors. `local`: the same classes in one process."""
    rollout: int = 1
    """Rollout actors, one engine each."""
    reward: int = 1
    """Reward actors."""
    cpus: float = 0.5
    """Ray CPUs reserved by each actor."""
    learner_gpus: float | None = None
    """Ray GPUs reserved by the learner. null: 1 if the cluster has GPUs or model.device is cuda, but 0 with model.device: cpu. With 0
    the learner sees no GPU and uses the CPU."""
    rollout_gpus: float | None = None
    """Ray GPUs reserved by each rollout actor; null and 0 as for the learner, but with engine.device. Below 1, actors share a GPU."""
    reward_gpus: float = 0.0
    """Ray GPUs reserved by each reward actor, for a learned reward."""
    threads: int = 1
    """Torch threads in each process."""
    start_timeout: float = 300.0
    """Seconds that the actors may take to start; then the run stops and reports needed and free resources."""

    def __post_init__(self):
        if self.backend not in ("ray", "local"):
            raise ValueError(f"backend must be ray or local, not {self.backend!r}")
        if self.rollout < 1 or self.reward < 1 or self.threads < 1:
            raise ValueError("rollout, reward and threads must be at least 1")
        if self.threads > MOST_THREADS:
            raise ValueError(f"threads must be at most {MOST_THREADS}, not {self.threads}: it is the threads of each process")
        if self.cpus < 0 or self.start_timeout <= 0:
            raise ValueError(f"cpus must be 0 or more and start_timeout positive, not {self.cpus:g} and {self.start_timeout:g}")
        for name in ("learner_gpus", "rollout_gpus", "reward_gpus"):
            gpus = getattr(self, name) or 0.0
            if gpus < 0 or (gpus > 1 and gpus % 1):
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

    seconds: float = 5.0
    """Time limit for one answer."""
    on_failure: str = "drop"
    """`drop` leaves the sample out of the batch; `score` gives it `failure_score`."""
    failure_score: float = 0.0

    def __post_init__(self):
        if self.on_failure not in ("drop", "score"):
            raise ValueError(f"on_failure must be drop or score, not {self.on_failure!r}")
        if self.on_failure == "drop" and self.failure_score:
            raise ValueError("failure_score changes nothing with on_failure: drop")
        if not 0 < self.seconds < math.inf or not math.isfinite(self.failure_score):
            raise ValueError("seconds must be positive and finite, and failure_score finite")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Held-out problems, answered before and after training and every few steps."""

    every: int = 0
    """Steps between evaluations; 0: before and after only. -1: never."""
    problems: int = 192
    samples: int = 8

    def __post_init__(self):
        if self.every < -1 or self.problems < 1 or self.samples < 1:
            raise ValueError("problems and samples must be at least 1, and every -1, 0 or more")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Checkpoints, from which `--resume` continues."""

    every: int = 0
    """Steps between checkpoints; 0: only at the end, and when a run is stopped."""
    keep: int = 2

    def __post_init__(self):
        if self.keep < 1 or self.every < 0:
            raise ValueError("keep must be at least 1, and every 0 or more")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A complete run."""

    steps: int = field(metadata={"learns": False})
    """Number of batches."""
    seed: int = 0
    max_engine_gap: float | None = None
    """In nats: the run stops at a step with a larger mean |log mu - log pi_old|. float32 engines stay below 1e-5, bfloat16 near 1e-2; null
    is 0.001 for float32 and 0.05 for bfloat16 (model.dtype)."""
    task: Any = part("task")
    algorithm: Any = part("algorithm")
    reward: Any = part("reward", optional=True)
    engine: Any = part("engine", "transformers")
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
    evaluation: Evaluation = section(Evaluation, learns=False)
    checkpoint: Checkpoint = section(Checkpoint, learns=False)

    def __post_init__(self):
        if self.steps < 0:
            raise ValueError(f"steps must be >= 0, not {self.steps}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be from 0 to 2^32 - 1, not {self.seed}")
        if self.max_engine_gap is not None and self.max_engine_gap <= 0:
            raise ValueError(f"max_engine_gap must be positive, not {self.max_engine_gap:g}: no two computations agree in every digit")

    @property
    def largest_engine_gap(self) -> float:
        """`max_engine_gap`, or its default for this dtype, in nats."""
        return GAPS[self.model.dtype] if self.max_engine_gap is None else self.max_engine_gap

    @property
    def answers(self) -> bool:
        """Whether an engine is needed, to sample or to evaluate answers. A reward model generates no answers."""
        return not self.algorithm.trains_reward_model
