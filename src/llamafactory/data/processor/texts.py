# SPDX-License-Identifier: Apache-2.0
"""Texts as models without a language-model head read them: the tokens of the plain tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ...extras.errors import ConfigError
from ..prepare.overlong import Rule, too_long
from .rows import ids_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...hparams.data_args import DataArguments
    from ..messages import Origin, Sample
    from ..template.base import Template


class Text(NamedTuple):
    """Tokens of a text that fit, and how many it had; no tokens: it is left out (``overlong: drop``)."""

    ids: list[int]
    length: int


def plain_texts(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, args: DataArguments, origins: Sequence[Origin | None]
) -> list[Text]:
    """Tokenize texts as a pipeline of transformers does, cut to ``cutoff_len`` with their special tokens kept.

    Raises:
        ConfigError: A text is empty, or too long and the rule is ``error``.
    """
    for text, origin in zip(texts, origins, strict=True):
        if not text.strip():
            raise ConfigError(f"{origin}: a text is empty")
    whole = tokenizer(list(texts), verbose=False)["input_ids"] if texts else []
    found = []
    for text, ids, origin in zip(texts, whole, origins, strict=True):
        kept = ids
        if len(ids) > args.cutoff_len and args.overlong in ("truncate", "keep_start"):
            kept = tokenizer(text, truncation=True, max_length=args.cutoff_len)["input_ids"]
        found.append(Text(cut(kept, args.cutoff_len, args.overlong, origin), len(ids)))
    return found


def cut(ids: list[int], cutoff: int, rule: Rule, origin: Origin | None) -> list[int]:
    """Return what a rule leaves of too many tokens."""
    if len(ids) <= cutoff:
        return ids
    if rule == "error":
        raise too_long(origin, len(ids), cutoff)
    return [] if rule == "drop" else ids[-cutoff:] if rule == "keep_end" else ids[:cutoff]


def texts_of(
    samples: Sequence[Sample], template: Template, tokenizer: PreTrainedTokenizerBase, args: DataArguments
) -> list[Text]:
    """Tokenize what samples say: one turn is a plain text, several are the conversation as the template writes it."""
    alone = [sample for sample in samples if is_text(sample)]
    plain = iter(plain_texts([one.messages[0].text for one in alone], tokenizer, args, [one.origin for one in alone]))
    talks = iter(template.encode_batch([sample for sample in samples if not is_text(sample)]))
    found = []
    for sample in samples:
        if is_text(sample):
            found.append(next(plain))
            continue
        ids = ids_of(next(talks))
        found.append(Text(cut(ids, args.cutoff_len, args.overlong, sample.origin), len(ids)))
    return found


def is_text(sample: Sample) -> bool:
    """Whether a sample is a single text."""
    return (
        len(sample.messages) == 1 and not sample.tools and all(one.type == "text" for one in sample.messages[0].parts)
    )
