"""Tokenizers of several kinds, and tiny models with them: byte-level, one character a token with chosen ids, sentencepiece-like."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 48,
    "max_position_embeddings": 512,
}
CHARACTERS = ("<unk>", "</s>", "\u2581", *map(chr, range(33, 127)))


def byte_tokenizer(
    specials: Sequence[str] = SPECIALS,
    eos: str = "<|endoftext|>",
    bos: str | None = None,
    pad: str | None = None,
    template: str | None = None,
    add_prefix_space: bool = False,
) -> PreTrainedTokenizerFast:
    """256 bytes without merges, the special tokens behind them. It adds `bos` to every text, if there is one."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(specials))
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, bos_token=bos, pad_token=pad or eos)
    made.chat_template = template
    return made


def with_holes(ids: Mapping[str, int]) -> PreTrainedTokenizerFast:
    """One character a token, with these ids; `<eos>` and `<pad>` must be among them."""
    tokenizer = Tokenizer(models.WordLevel(dict(ids), unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


def metaspace(scheme: str, merges: Sequence[tuple[str, str]] = ()) -> PreTrainedTokenizerFast:
    """As Llama-2 and Mistral: BPE of characters, with a word-start space before a text by `scheme`."""
    return _sentencepiece(_bpe(merges), pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False), None)


def prepending(merges: Sequence[tuple[str, str]] = ()) -> PreTrainedTokenizerFast:
    """The older form of the same, in which the normalizer writes the space."""
    return _sentencepiece(_bpe(merges), None, normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]))


def by_word() -> PreTrainedTokenizerFast:
    """As T5: Unigram over words, each with a word-start space."""
    scores = [(c, 0.0 if c in CHARACTERS[:2] else -5.0) for c in CHARACTERS]
    scores += [("\u2581four", -2.0), ("=4", -3.0), ("\u2581a", -4.0)]
    steps = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    return _sentencepiece(Tokenizer(models.Unigram(scores, 0)), pre_tokenizers.Sequence(steps), None)


def _bpe(merges: Sequence[tuple[str, str]]) -> Tokenizer:
    vocabulary = {c: i for i, c in enumerate((*CHARACTERS, *(a + b for a, b in merges)))}
    return Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges), unk_token="<unk>", fuse_unk=True))


def _sentencepiece(tokenizer: Tokenizer, pre_tokenizer, normalizer) -> PreTrainedTokenizerFast:
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>", pad_token="</s>")


def saved(folder: Path, tokenizer, rows: int | None = None, generation: dict | None = None, scorer: bool = False, **keys) -> Path:
    """A random Qwen2 of `rows` ids (as many as the tokenizer has, by default) with this tokenizer, saved in `folder`.

    `generation`: keys written over its generation_config.json.
    """
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    shape = SHAPE | {"vocab_size": rows or len(tokenizer), "tie_word_embeddings": True, "initializer_range": 0.15} | ids | keys
    config = AutoConfig.for_model("qwen2", **shape, **({"num_labels": 1} if scorer else {}))
    made_by = AutoModelForSequenceClassification if scorer else AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made_by.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if generation is not None:
        file = folder / "generation_config.json"
        file.write_text(json.dumps((json.loads(file.read_text()) if file.is_file() else {}) | generation))
    return folder
