# SPDX-License-Identifier: Apache-2.0
"""A tokenizer as GGUF keeps it: tokens with their kinds, and merges or scores."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError
from ...model.pre_tokenizers import name_of, steps_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


@dataclass(frozen=True)
class Vocabulary:
    """What is written under ``tokenizer.ggml``.

    Attributes:
        model: ``gpt2`` (byte-level BPE) or ``llama`` (SentencePiece).
        pre: llama.cpp's name of the splitting before BPE.
        tokens: Text by id; every row of the embedding has one.
        types: Kind by id.
        scores: Merge priority by id (``llama`` only).
        merges: In order (``gpt2`` only).
        space_prefix: A space is put in front of the text (``llama`` only).
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float] | None = None
    merges: list[str] | None = None
    space_prefix: bool | None = None


def vocabulary(tokenizer: PreTrainedTokenizerBase, size: int) -> Vocabulary:
    """Return the vocabulary of a tokenizer.

    Args:
        tokenizer: A fast tokenizer.
        size: Rows of the embedding; ids without a token are filled with unused ones.

    Raises:
        ConfigError: llama.cpp has no tokenizer of this kind, or none that is known here.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ConfigError("export_gguf: the tokenizer has no tokenizer.json; GGUF cannot carry it")
    parts = json.loads(backend.to_str())
    model = parts["model"]
    if model["type"] != "BPE":
        raise ConfigError(f"export_gguf: the tokenizer's model is {model['type']}; only BPE can be written")
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in model["merges"]]
    steps = steps_of(parts["pre_tokenizer"])
    if "bytes" in steps or "bytes with words" in steps:
        tokens, types = _tokens(parts, size, spaces_as_bytes=True)
        return Vocabulary("gpt2", name_of(steps, bool(model.get("ignore_merges"))), tokens, types, merges=merges)
    if not model.get("byte_fallback"):
        raise ConfigError("export_gguf: the tokenizer is neither byte-level BPE nor SentencePiece with byte fallback")
    tokens, types = _tokens(parts, size, spaces_as_bytes=False)
    return Vocabulary("llama", "default", tokens, types, _scores(tokens, merges), space_prefix=_space_prefix(parts))


def _tokens(parts: dict[str, Any], size: int, spaces_as_bytes: bool) -> tuple[list[str], list[int]]:
    """Return text and kind of each id."""
    tokens = [f"[PAD{number}]" for number in range(size)]
    types = [UNUSED] * size
    for token, number in parts["model"]["vocab"].items():
        tokens[number] = token
        types[number] = NORMAL if spaces_as_bytes else _sentencepiece_type(token, parts["model"].get("unk_token"))
    for added in parts["added_tokens"]:
        number, text = added["id"], added["content"]
        if number >= size:
            raise ConfigError(f"export_gguf: token {text!r} has id {number}, the embedding has {size} rows")
        tokens[number] = text if spaces_as_bytes or added["special"] else text.replace("▁", " ")
        if types[number] not in (UNKNOWN, BYTE):
            types[number] = CONTROL if added["special"] else USER_DEFINED
    return tokens, types


def _sentencepiece_type(token: str, unknown: str | None) -> int:
    if token == unknown:
        return UNKNOWN
    return BYTE if len(token) == 6 and token.startswith("<0x") and token.endswith(">") else NORMAL


def _scores(tokens: list[str], merges: list[str]) -> list[float]:
    """Return a score by id: llama.cpp joins the pair with the highest score, so an earlier merge scores higher."""
    rank: dict[str, int] = {}
    for number, merge in enumerate(merges):
        rank.setdefault(merge.replace(" ", ""), number)
    return [-float(rank.get(token, 0)) for token in tokens]


def _space_prefix(parts: dict[str, Any]) -> bool:
    """Whether the tokenizer puts a space in front of a text."""
    text = json.dumps([parts["normalizer"], parts["pre_tokenizer"]])
    return '"Prepend"' in text or '"prepend_scheme": "always"' in text or '"prepend_scheme": "first"' in text
