# SPDX-License-Identifier: Apache-2.0
"""How a text is cut before byte-level BPE: expressions of a ``tokenizer.json`` and llama.cpp's names of them.

A GGUF file holds only the name. A name or an expression that is not known here is never guessed: another cut gives
other tokens than those the model was trained on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..extras.errors import ConfigError

if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*")
_SLASH_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

# llama.cpp's name -> the steps of a tokenizer.json that split alike.
PRE_TOKENIZERS: dict[str, tuple[str, ...]] = {
    "gpt-2": ("bytes with words",),
    "smollm": ("single digits", "bytes with words"),
    "llama-bpe": (rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_TAIL}", "bytes"),
    "qwen2": (rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_TAIL}", "bytes"),
    "qwen35": (
        rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
        "bytes",
    ),
    "tekken": (rf"{'|'.join(_CASED)}|\p{{N}}|{_SLASH_TAIL}", "bytes"),
    "gpt-4o": (rf"{'|'.join(words + _CONTRACTIONS + '?' for words in _CASED)}|\p{{N}}{{1,3}}|{_SLASH_TAIL}", "bytes"),
}
# llama.cpp's llama-bpe takes a word that is a token whole, without merging; this is its name for the same without that.
_MERGING_TWINS = {"llama-bpe": "dbrx"}


def name_of(steps: tuple[str, ...], whole_words: bool) -> str:
    """Return llama.cpp's name of a splitting.

    Args:
        steps: From :func:`steps_of`.
        whole_words: A word that is a token is taken without merging (``ignore_merges``).

    Raises:
        ConfigError: It is not known.
    """
    name = next((name for name, known in PRE_TOKENIZERS.items() if known == steps), None)
    if name is None:
        raise ConfigError(
            f"export_gguf: no name in llama.cpp is known for this tokenizer's splitting {' / '.join(steps)!r}; known: "
            f"{', '.join(PRE_TOKENIZERS)}"
        )
    return name if whole_words else _MERGING_TWINS.get(name, name)


def steps_of(pre_tokenizer: dict[str, Any] | None) -> tuple[str, ...]:
    """Return the steps of a ``tokenizer.json``, each as its regular expression or a word for it."""
    if pre_tokenizer is None:
        return ()
    kind = pre_tokenizer["type"]
    if kind == "Sequence":
        return tuple(step for part in pre_tokenizer["pretokenizers"] for step in steps_of(part))
    if kind == "ByteLevel":
        return ("bytes with words" if pre_tokenizer.get("use_regex", True) else "bytes",)
    if kind == "Digits":
        return ("single digits" if pre_tokenizer["individual_digits"] else "digits",)
    if kind == "Split" and "Regex" in pre_tokenizer["pattern"]:
        return (pre_tokenizer["pattern"]["Regex"],)
    return (kind,)


def pre_tokenizer(name: str) -> PreTokenizer | None:
    """Return the splitting of a GGUF file's ``tokenizer.ggml.pre``; ``None`` when the name is not known here."""
    from tokenizers import Regex, pre_tokenizers

    twins = {twin: known for known, twin in _MERGING_TWINS.items()}
    steps = PRE_TOKENIZERS.get(twins.get(name, name))
    if steps is None:
        return None
    made: list[PreTokenizer] = []
    for step in steps:
        if step.startswith("bytes"):
            made.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=step == "bytes with words"))
        elif step == "single digits":
            made.append(pre_tokenizers.Digits(individual_digits=True))
        else:
            made.append(pre_tokenizers.Split(Regex(step), "isolated"))
    return pre_tokenizers.Sequence(made)
