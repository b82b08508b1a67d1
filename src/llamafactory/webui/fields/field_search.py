# SPDX-License-Identifier: Apache-2.0
"""The search box: a field by its key, an older name of it, what the page calls it, or what it means."""

from __future__ import annotations

import difflib
import re
from functools import cache

from ...hparams.aliases import RENAMED
from ..texts.texts import text
from .fields import SAID_BY, Field, declared, every_field

_NEAR = 0.8  # of a mistyped word


def search(words: str, language: str = "en", most: int = 20) -> list[Field]:
    """The fields that fit the words best, the best first.

    Args:
        words: What was typed; each word must fit, by its beginning at least, or be a letter away from one that does.
        language: Of the labels that are looked at beside the English ones.
        most: Answers at most.
    """
    asked = _words(words)
    if not asked:
        return []
    found = []
    for place, (field, names, meaning) in enumerate(_index(language)):
        scores = [_score(word, names, meaning) for word in asked]
        if all(scores):
            whole = "_".join(asked) in (field.key, field.name)
            found.append((-sum(scores) - 10 * whole, len(names), place, field))
    if not found:
        near = [word for word in asked for word in difflib.get_close_matches(word, _vocabulary(language), 1, _NEAR)]
        return search(" ".join(near), language, most) if near and near != asked else []
    return [field for *_, field in sorted(found, key=lambda row: row[:3])[:most]]


def _score(word: str, names: frozenset[str], meaning: frozenset[str]) -> int:
    """How well a word fits: a name whole, its beginning, a word of the meaning, its beginning."""
    if word in names:
        return 8
    if any(name.startswith(word) for name in names):
        return 5
    if word in meaning:
        return 3
    if any(part.startswith(word) for part in meaning):
        return 2
    # Chinese and Japanese set no spaces between words.
    return int(not word.isascii() and any(word in part for part in (*names, *meaning)))


@cache
def _index(language: str) -> list[tuple[Field, frozenset[str], frozenset[str]]]:
    older: dict[str, list[str]] = {}
    for old, new in RENAMED.items():
        older.setdefault(new, []).append(old)
    found = []
    for field in every_field():
        labels = [text(one, field.id) for one in dict.fromkeys((language, "en"))]
        infos = [text(one, field.id, "info") for one in dict.fromkeys((language, "en"))]
        keys = [key for key, name in SAID_BY.items() if name == field.id]
        names = " ".join([field.name, field.key or "", *keys, *older.get(field.key or "", []), *labels])
        helps = [declared()[key].help for key in keys]
        meaning = " ".join([field.help, field.group, *helps, *infos, *field.choices[:20]])
        found.append((field, frozenset(_words(names)), frozenset(_words(meaning))))
    return found


@cache
def _vocabulary(language: str) -> list[str]:
    return sorted({word for _, names, meaning in _index(language) for word in (*names, *meaning) if len(word) > 3})


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())
