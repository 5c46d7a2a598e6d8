"""Rows of preferences, and a tokenizer with a chat template."""

import string

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from align.tasks.countdown import Countdown

TOKENIZER = Countdown().tokenizer()


def said(who: str, what: str) -> dict:
    return {"role": who, "content": what}


ASK, GOOD, BAD = said("user", "ask"), said("assistant", "good"), said("assistant", "bad")
PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chat_tokenizer(template: str | None = CHATML, eos: str = "<|im_end|>") -> PreTrainedTokenizerFast:
    """One character a token, but for <|im_start|>, <|im_end|> and <eos>."""
    vocabulary = {token: i for i, token in enumerate(("<pad>", "<eos>", "<|im_start|>", "<|im_end|>", *string.printable))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    found = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token=eos)
    found.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    found.chat_template = template
    return found


SAME = [
    {"prompt": [ASK], "chosen": "good", "rejected": "bad"},
    {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]},
    {"prompt": [ASK], "chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
    {"chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
    {"prompt": "ask", "chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
    {"prompt": "ask", "chosen": [GOOD], "rejected": [BAD]},
    {"prompt": [{**ASK, "name": None}], "chosen": [{**GOOD, "name": None}], "rejected": [BAD]},
]
