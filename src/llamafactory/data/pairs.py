# SPDX-License-Identifier: Apache-2.0
"""A query and a document as one sequence: what the tokenizer makes of a pair, with a border between the two."""

from __future__ import annotations

from typing import Any

_BORDER = "<border>"  # a name inside of the rule, no token


def separate_pairs(tokenizer: Any) -> None:
    """Let a tokenizer that writes pairs without a border put a line break between them; it is saved with the rule.

    Otherwise ("one", " two three") and ("one two", " three") are the same tokens. Single texts are as before. The
    tokenizers of encoders have their own border.
    """
    if not tokenizer.is_fast or _has_border(tokenizer):
        return
    from tokenizers.processors import TemplateProcessing

    first, last = _around(tokenizer)
    border = tokenizer("\n", add_special_tokens=False)["input_ids"]
    known: dict[str, Any] = {}
    for ids in ([one] for one in (*first, *last)):
        (name,) = tokenizer.convert_ids_to_tokens(ids)
        known[name] = {"id": name, "ids": ids, "tokens": [name]}
    known[_BORDER] = {"id": _BORDER, "ids": border, "tokens": tokenizer.convert_ids_to_tokens(border)}
    before, after = (tokenizer.convert_ids_to_tokens(ids) for ids in (first, last))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=[f"{name}:0" for name in before] + ["$A:0"] + [f"{name}:0" for name in after],
        pair=[f"{name}:0" for name in (*before, "$A", _BORDER, "$B", *after)],
        special_tokens=list(known.values()),
    )


def _has_border(tokenizer: Any) -> bool:
    """Whether something stands between the texts of a pair that a tokenizer writes around no single text's middle."""
    one, other = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("one", "two"))
    first, last = _around(tokenizer)
    pair = tokenizer("one", "two")["input_ids"]
    return pair not in ([*first, *one, *other, *last], [*first, *one, *first, *other, *last])


def _around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens before and behind a single text."""
    inside, whole = tokenizer("one", add_special_tokens=False)["input_ids"], tokenizer("one")["input_ids"]
    start = next(place for place in range(len(whole)) if whole[place : place + len(inside)] == inside)
    return whole[:start], whole[start + len(inside) :]
