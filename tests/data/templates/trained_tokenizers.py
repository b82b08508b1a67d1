# SPDX-License-Identifier: Apache-2.0
"""Small tokenizers of the real kinds, trained here, with each family's special tokens."""

from __future__ import annotations

from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from llamafactory.plugins import TEMPLATES, resolve

TEXTS = [
    "The quick brown fox jumps over the lazy dog. What is the weather in Paris today? It is 21 degrees and sunny.",
    "You are a helpful assistant. Be brief, and answer in one line.\n\nHello! Hi there, how are you?\n1+1 = 2\n",
    '{"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius"}}\n{"type": "function"}',
    "你好，世界。今天天气怎么样？Grüße aus Köln! Ça va? 😀",
    "user\nassistant\nsystem\n  indented\n\n\nUSER: ASSISTANT: ### Instruction:\n### Response:\n[INST] [/INST] <<SYS>>",
] * 8

# Tokens that the official tokenizers have but do not call special: they are tokens in a user's text, too.
PLAIN_ADDED = {
    "qwen3": ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"],
    "deepseekr1": ["<think>", "</think>"],
}
BOS_EOS = {
    "qwen": (None, "<|im_end|>"),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>"),
    "gemma": ("<bos>", "<eos>"),
    "phi4": ("<|endoftext|>", "<|im_end|>"),
    "phi4_mini": ("<|endoftext|>", "<|endoftext|>"),
    "deepseek": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "smollm": ("<|im_start|>", "<|im_end|>"),
    "seed_oss": ("<seed:bos>", "<seed:eos>"),
}


# As Qwen 2 and 3 have it: line breaks in a row are one piece, whatever follows them.
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def _metaspace() -> Tokenizer:
    """As Llama 2 and Mistral v0.1: a space before the text, byte fallback."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special, show_progress=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")  # no token across words
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return Tokenizer.from_str(tokenizer.to_str())


@cache
def _trained(kind: str) -> str:
    return {"bytes": _byte_level, "metaspace": _metaspace}[kind]().to_str()


def build_tokenizer(name: str, kind: str = "bytes", keep: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """A fresh tokenizer with the special tokens of the template ``name``."""
    family = next((key for key in sorted(BOS_EOS, key=len, reverse=True) if name.startswith(key)), None)
    bos, eos = BOS_EOS.get(family, ("<s>", "</s>"))
    special = dict.fromkeys([token for token in (bos, eos) if token])
    if name in TEMPLATES:
        special.update(dict.fromkeys(resolve("templates", name).special_tokens))
    special.update(dict.fromkeys(keep))
    backend = Tokenizer.from_str(_trained(kind))
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    plain = next((tokens for key, tokens in PLAIN_ADDED.items() if name.startswith(key)), [])
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos)
