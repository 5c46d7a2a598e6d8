"""An engine: generates answers with the current weights of the policy.

Check it with `align check ./skeleton.py:Skeleton`. In a recipe:

    engine: "./skeleton.py:Skeleton"
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from align.engines import Engine, RunningEngine, Sampling
from align.types import Episode, Group, Prompt
from align.vocabulary.words import Words
from align.weight_sync.flattening import Weights, unflatten
from align.weight_sync.layout import Layout


class Skeleton(Engine):
    """One forward pass over a prompt and all its answers for each token, in float32 on the CPU: slow and short."""

    def start(self, model_dir: str, sampling: Sampling, max_prompt_tokens: int) -> RunningEngine:
        """Load the model; called once in each process."""
        return RunningSkeleton(model_dir, sampling)


class RunningSkeleton(RunningEngine):
    """A loaded model."""

    def __init__(self, model_dir: str, sampling: Sampling):
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415  (takes seconds)

        self._model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
        self._words = Words(model_dir, AutoTokenizer.from_pretrained(model_dir))
        self._layout, self._sampling = Layout.of(self._model), sampling

    def generate(self, prompts: Sequence[Prompt], samples: int, seeds: Sequence[int]) -> list[Group]:
        """`samples` answers to each prompt, in the order of the prompts; all randomness of a prompt comes from its seed."""
        generators = (torch.Generator().manual_seed(seed) for seed in seeds)
        return [Group(prompt=p, episodes=self._answers(p, samples, g)) for p, g in zip(prompts, generators, strict=True)]

    @torch.inference_mode()
    def _answers(self, prompt: Prompt, samples: int, generator: torch.Generator) -> tuple[Episode, ...]:
        rows, logps, ended = torch.tensor([prompt.token_ids] * samples), [], torch.zeros(samples, dtype=torch.bool)
        while len(logps) < self._sampling.max_tokens and not ended.all():
            logits = self._model(rows).logits[:, -1]
            # The learner normalises over the ids that have a token: an engine must draw from those alone.
            logp = torch.log_softmax(self._words.spelled.logits(logits) / self._sampling.temperature, -1)
            drawn = torch.multinomial(logp.exp(), 1, generator=generator)
            rows, ended = torch.cat([rows, drawn], 1), ended | torch.isin(drawn[:, 0], torch.tensor(list(self._words.ends)))
            logps.append(logp.gather(1, drawn))
        answers = rows[:, len(prompt.token_ids) :].tolist()
        return tuple(self._episode(ids, logp) for ids, logp in zip(answers, torch.cat(logps, 1), strict=True))

    def _episode(self, ids: list[int], logp: torch.Tensor) -> Episode:
        """Args: ids: the drawn tokens, also those after the end; logp: float32 [n], nats, after temperature."""
        end = next((i for i, token in enumerate(ids) if token in self._words.ends), None)
        ids = ids if end is None else ids[: end + 1]  # the end token is part of the answer
        return Episode.single_turn(
            token_ids=torch.tensor(ids, dtype=torch.int32).numpy(),
            text=self._words.text.one(ids),
            logp=logp[: len(ids)].numpy(),
            version=self.version,
            finished=end is not None,
        )

    def load(self, version: int, weights: Weights) -> None:
        """Replace every weight. Raises ValueError for those of another model, before the first is copied."""
        self._layout.check(weights)
        held = self._model.state_dict()
        with torch.no_grad():
            for name, tensor in unflatten(weights):  # read-only views: copy from them
                held[name].copy_(tensor)
        self.version = version
