"""What an engine needs of a model's tokens: which may be drawn, which end an answer, and the text of an answer."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from align.vocabulary import generation
from align.vocabulary.answer_text import AnswerText
from align.vocabulary.ends import end_ids
from align.vocabulary.spelled import Spelled


class Words:
    """The tokens of the model in `model_dir`, whose tokenizer is `tokenizer`. Raises UserError if none ends an answer.

    Example: `Words(model_dir, AutoTokenizer.from_pretrained(model_dir))`
    """

    def __init__(self, model_dir: str, tokenizer: Any):
        rows = AutoConfig.from_pretrained(model_dir, local_files_only=True).get_text_config(decoder=True).vocab_size
        listed = generation.read(model_dir).eos_token_id
        self.spelled = Spelled.of(tokenizer, rows)
        """The ids that may be drawn: `spelled.logits` leaves out the others."""
        drawn = set(self.spelled.ids.tolist())
        self.ends = [i for i in end_ids(tokenizer, listed) if i in drawn]
        """The tokens that end an answer, that of a conversation's turn first."""
        self.text = AnswerText(tokenizer, listed)
        """Decodes answers for rewards."""
