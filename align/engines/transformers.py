"""Sampling with the transformers model itself, on any device. It is the fastest engine for small models on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from align.engines import Drawing, HeldOutEngine, RunningHeldOutEngine, Sampling
from align.engines._responses import check_room, group
from align.errors import UserError
from align.types import Group, Prompt
from align.weight_sync.flattening import Weights, unflatten
from align.weight_sync.layout import Layout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Transformers(HeldOutEngine):
    """A batched sampler for causal language models of transformers. It reads each prompt once and drops finished rows."""

    max_batch: int = 512
    """Sequences sampled at once; the samples of a prompt stay together. A larger batch does not fit a CPU's caches."""
    device: str = "auto"
    """A torch device; `auto` is cuda if there is one, else cpu."""

    def __post_init__(self):
        if self.max_batch < 1:
            raise ValueError(f"max_batch must be at least 1, not {self.max_batch}")
        if self.device != "auto":
            try:
                torch.device(self.device)
            except RuntimeError as error:
                raise ValueError(f"device must be auto or a torch device such as cpu or cuda:0, not {self.device!r}") from error

    def units(self, lengths: Sequence[int], samples: int) -> list[list[int]]:
        """Equal batches of at most `max_batch` rows. They do not depend on the number of processes, so neither does rounding."""
        if not lengths:
            return []
        size = max(1, self.max_batch // samples)
        # Similar lengths together: less padding, and a batch without padding needs no mask.
        order = np.argsort(lengths, kind="stable")
        return [part.tolist() for part in np.array_split(order, -(-len(order) // size))]

    def start(self, model_dir: str, sampling: Sampling, max_prompt_tokens: int) -> RunningTransformers:
        """Raises UserError if the device is missing, or prompt and response exceed the model's positions."""
        return RunningTransformers(self, model_dir, sampling, max_prompt_tokens)


class RunningTransformers(RunningHeldOutEngine):
    """The model and its tokenizer. `generate` uses the `units` of its part as batches."""

    def __init__(self, part: Transformers, model_dir: str, sampling: Sampling, max_prompt_tokens: int):
        # transformers takes seconds to import, and checking a recipe does not need it.
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415
        from transformers.utils.logging import disable_progress_bar  # noqa: PLC0415

        from align.engines._rows import ATTENTION, RowCache, RowLayer  # noqa: PLC0415
        from align.vocabulary.words import Words  # noqa: PLC0415

        device = part.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise UserError(f"engine.device: {device} was asked for, but torch sees no GPU; use auto or cpu")
        disable_progress_bar()
        self._part, self.sampling = part, sampling
        self.tokenizer = AutoTokenizer.from_pretrained(model_dir)
        self._hold(AutoModelForCausalLM.from_pretrained(model_dir, dtype="auto"), torch.device(device))
        check_room(self._model.config, sampling, max_prompt_tokens)
        if self._model.config._attn_implementation == "sdpa":
            self._model.set_attn_implementation(ATTENTION)
        if not any(isinstance(layer, RowLayer) for layer in RowCache(self._model.config).layers):
            raise UserError(f"engine: a {self._model.config.model_type} model keeps no keys and values to continue from; use engine: vllm")
        self._layout = Layout.of(self._model)
        self.words = Words(model_dir, self.tokenizer)
        self._is_end = torch.zeros(self.words.spelled.width, dtype=torch.bool)
        self._is_end[self.words.ends] = True
        self._is_end = self._is_end.to(device)

    def _hold(self, model: PreTrainedModel, device: torch.device) -> None:
        model.to(device)  # pyright: ignore[reportArgumentType]  # transformers' decorator hides that the method is bound
        self._model = model.eval()
        self._tensors = model.state_dict()

    def generate(self, prompts: Sequence[Prompt], samples: int, seeds: Sequence[int]) -> list[Group]:
        """A prompt's answers depend on the weights and the prompt's seed; the other prompts of its unit affect rounding only."""
        return self.generate_held_out(prompts, samples, seeds, Drawing(temperature=self.sampling.temperature))

    def generate_held_out(self, prompts: Sequence[Prompt], samples: int, seeds: Sequence[int], drawing: Drawing) -> list[Group]:
        groups: dict[int, Group] = {}
        for places in self._part.units([len(p.token_ids) for p in prompts], samples):
            groups |= zip(places, self._groups([prompts[i] for i in places], samples, [seeds[i] for i in places], drawing), strict=True)
        return [groups[i] for i in range(len(prompts))]

    def _groups(self, prompts: list[Prompt], samples: int, seeds: list[int], drawing: Drawing) -> list[Group]:
        from align.engines._sampler import sample  # noqa: PLC0415

        uniforms = torch.cat(
            [torch.rand(self.sampling.max_tokens, samples, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in seeds],
            1,
        )
        asked, words = [p.token_ids for p in prompts], self.words
        draws = sample(self._model, asked, samples, drawing, self._is_end, uniforms, words.spelled.logits)
        lengths, finished = draws.lengths.tolist(), draws.finished.tolist()
        tokens, logp = draws.tokens.numpy(), draws.logp.numpy()
        rollouts = [(tokens[r, :n], logp[r, :n], finished[r]) for r, n in enumerate(lengths)]
        texts = words.text.many([ids[:n] for ids, n in zip(tokens.tolist(), lengths, strict=True)])
        return [
            group(p, rollouts[i * samples : (i + 1) * samples], texts[i * samples : (i + 1) * samples], self.version)
            for i, p in enumerate(prompts)
        ]

    def logp(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """log mu of given answers, by ids with the end token, after temperature: float32 [n] each, in nats, from one forward pass."""
        from align.engines._sampler import score  # noqa: PLC0415

        return score(self._model, prompts, answers, self.sampling.temperature, self.words.spelled.logits)

    def load(self, version: int, weights: Weights) -> None:
        """Copies in place, cast to the engine's dtype. Raises ValueError naming the tensors that do not fit."""
        self._layout.check(weights)
        if self._layout.fused:
            kind, old = type(self._model), self._model
            state = {name: t.clone() for name, t in unflatten(weights)}
            self._hold(kind.from_pretrained(None, config=old.config, dtype=old.dtype, state_dict=state), old.device)
        else:
            with torch.no_grad():
                for name, tensor in unflatten(weights):
                    self._tensors[name].copy_(tensor)
        self.version = version

    def close(self) -> None:
        del self._model, self._tensors
