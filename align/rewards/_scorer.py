"""A scorer at work, with its model: what `learned` starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from align.config.schema import Model
from align.errors import UserError
from align.experience import chat_template
from align.learner import model_loading
from align.rewards import Answer, Reward, total
from align.tasks import Example
from align.types import Episode, Group, Prompt
from align.vocabulary.answer_text import AnswerText
from align.vocabulary.continuation import Continuation
from align.vocabulary.ends import closing
from align.vocabulary.exported import refuse_damaged
from align.vocabulary.files import load_tokenizer
from align.vocabulary.model_folder import refuse_ids_without_rows


class _Read(NamedTuple):
    """A prompt as the scorer reads it: its text and tokens, and the tokens that close a finished answer."""

    text: str
    ids: list[int]
    closing: list[int]


class LoadedScorer(Reward):
    """Raises UserError where the folder holds no scorer, no tokenizer, or neither says what pads a batch."""

    def __init__(self, path: str, dtype: str, max_batch: int, gold: Reward | None):
        where = "reward learned: path"
        refuse_damaged(path, where)
        self._model = model_loading.load_reward_model(path, Model(path=path, dtype=dtype), where, fresh=False).eval()
        self._tokenizer = load_tokenizer(path, where)
        config = self._model.config.get_text_config()
        refuse_ids_without_rows(path, self._tokenizer, self._model.config)
        self._pad, self._positions = config.pad_token_id, getattr(config, "max_position_embeddings", None)
        if self._pad is None or self._tokenizer.eos_token_id is None:
            raise UserError(
                f"{where}: {path} needs a pad_token_id in its config.json, by which it finds the end of a text in a "
                "batch, and a tokenizer with an end token"
            )
        model_loading.on_device(self._model, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        tags = AnswerText(self._tokenizer).tags
        self._continuation = Continuation(self._tokenizer, split_special_tokens=True, tags=tags)
        self._closing = closing(self._tokenizer) or [self._tokenizer.eos_token_id]
        self._max_batch, self._gold = max_batch, gold

    def score(self, prompt: Prompt, response: str) -> Answer:
        (found,) = self.score_groups([Group(prompt=prompt, episodes=(Episode(segments=(), text=response),))])
        if isinstance(found, Exception):
            raise found
        return found

    def score_groups(self, groups: Sequence[Group]) -> list[Answer | Exception]:
        answers = self._answers(groups)
        read = {i: ids for i, ids in enumerate(answers) if not isinstance(ids, Exception)}
        order = sorted(read, key=lambda i: len(read[i]))  # of like length together, for less padding
        scores: dict[int, float] = {}
        for first in range(0, len(order), self._max_batch):
            chosen = order[first : first + self._max_batch]
            scores |= zip(chosen, self._scores([read[i] for i in chosen]), strict=True)
        found: list[Answer | Exception] = [ids if isinstance(ids, Exception) else scores[i] for i, ids in enumerate(answers)]
        if self._gold is None:
            return found
        return [_beside(score, gold) for score, gold in zip(found, self._gold.score_groups(groups), strict=True)]

    def _answers(self, groups: Sequence[Group]) -> list[list[int] | Exception]:
        """The tokens of each answer after its prompt's, or why it has none."""
        prompts = [self._prompt(g.prompt) for g in groups]
        return [self._tokens(prompt, e) for prompt, g in zip(prompts, groups, strict=True) for e in g.episodes]

    def _prompt(self, prompt: Prompt) -> _Read:
        """As the policy's are read: a conversation by this tokenizer's own template if it has one; a text with the tokenizer's leading
        token, unless a chat template has written it, and no closing one."""
        tokenizer = self._tokenizer
        if prompt.messages and tokenizer.chat_template:
            known = chat_template.variables(tokenizer, prompt.template.get("tools"))
            options = {name: value for name, value in prompt.template.items() if name in known}
            text = chat_template.conversation_start(Example(id=prompt.id, text="", messages=prompt.messages, template=options), tokenizer)
            return _Read(text, tokenizer(text, add_special_tokens=False)["input_ids"], self._closing)
        written = tokenizer.bos_token is not None and prompt.text.startswith(tokenizer.bos_token)
        ids, end = tokenizer(prompt.text, add_special_tokens=not written)["input_ids"], tokenizer.eos_token_id
        return _Read(prompt.text, ids[:-1] if ids[-1:] == [end] else ids, [end])

    def _tokens(self, prompt: _Read, episode: Episode) -> list[int] | Exception:
        # No tokenizer takes half a surrogate pair.
        text = episode.text.encode("utf-8", "replace").decode()
        try:
            (response,) = self._continuation.many([(prompt.text, text)])
        except Exception as error:  # tokenizers raises no narrower one for a character it lacks
            return error
        ids = [*prompt.ids, *response, *(prompt.closing if episode.finished else [])] or prompt.closing
        return ids if self._positions is None else ids[-self._positions :]

    @torch.inference_mode()
    def _scores(self, answers: list[list[int]]) -> list[float]:
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(a) for a in answers], batch_first=True, padding_value=self._pad)
        mask = torch.arange(ids.shape[1]) < torch.tensor([len(a) for a in answers])[:, None]
        device = self._model.device
        logits = self._model(input_ids=ids.to(device), attention_mask=mask.long().to(device)).logits
        return logits.squeeze(-1).float().tolist()


def _beside(score: Any, gold: Any) -> Answer | Exception:
    if isinstance(score, Exception) or isinstance(gold, Exception):
        return score if isinstance(score, Exception) else gold
    return {"total": score, "learned": score, "gold": total(gold)}
