# SPDX-License-Identifier: Apache-2.0
"""Text cut at spaces that no token can reach across; the ids of each chunk between two cuts are looked up.

A chunk is one or more whole pre-tokens, mostly one word, and most words of a data set occur many times. A tokenizer
that is asked once for each of them gives the same ids as one that reads every text in full, where a cut between a
character and a space before a word cannot change any token:

*Tokenizers that split a text by a pattern* (GPT-2, Llama 3, Qwen …). In every pattern of :data:`_PATTERNS`, no
alternative matches a space after another character that is not white space, and nothing looks back. So the match that
ends before such a space ends there whatever follows; the next one starts at the space whatever came before. The
one look ahead, ``\\s+(?!\\S)``, is taken only within white space, and there is none beside the cut. Patterns applied
one after the other, and single digits, only split further. NFC composes no character with a space.

*Tokenizers that write spaces as ▁ and merge pairs* (Llama 2, Gemma). If no token of the vocabulary holds a ▁ after
another character, no merge crosses the cut, and merges on one side do not depend on the other.

Looking words up takes time too. It is worth it while most of a text was met before: other text is only cut beside the
borders of its spans, where the tokens of both sides are wanted, and what lies between is tokenized as a whole.

``tests/data/test_shape_cache.py`` compares with the whole text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenizers.models import BPE

from .base import GLUE, TextSpan
from .text_spans import cut_at_answers

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

# With more characters than these known, the next batch begins anew.
_MOST_KNOWN = 2**20
# What stands before a response is cut only if it is longer: then one key holds it and the response's first word.
_SHORT = 64
# Words are looked up while no more than this share of the characters is in chunks not met before, which is judged over
# so many characters, and tried again after a pause of so many, twice as long each time. (Edited demo rows have 0.13 in
# their first thousand and 0.02 later, docstrings 0.55 and 0.45.)
_MOST_NEW = 0.25
_TRIAL = 2**18
_PAUSE = 2**21
_SPACE, _NUL = "▁", "\0"
_PATTERNS = {
    # Qwen 2, Llama 3 (also GLM-4, SmolLM3 …), Qwen 3.5, gpt-oss.
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)"
    r"|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


class CutRule(NamedTuple):
    """Where a tokenizer's texts may be cut.

    Attributes:
        cut: Matches the place; a space that it takes is written by the tokenizer before each text.
        forbidden: Characters in whose presence nothing may be cut.
    """

    cut: re.Pattern[str]
    forbidden: tuple[str, ...] = (_NUL,)

    def words(self, text: str) -> list[str]:
        """Cut at every space, safe or not; three times as fast as ``cut``."""
        return text.split(" ") if self.cut is _AT_SPACE else text.replace(" ", _NUL + " ").split(_NUL)

    def cut_last(self, text: str) -> list[str]:
        """Cut at the last place alone."""
        place = text.rfind(" ")
        while place > 0:
            found = self.cut.match(text, place)
            if found is not None:
                return [text[:place], text[found.end() :]]
            place = text.rfind(" ", 0, place)
        return [text]

    def is_word(self, chunk: str) -> bool:
        """Whether the cuts beside a piece of :meth:`words` are safe, if its neighbours are words too."""
        bare = chunk if self.cut is _AT_SPACE else chunk.removeprefix(" ")
        return bool(bare) and " " not in bare and bare == bare.strip()


# Python's white space holds that of the tokenizers' patterns, so what is none here is none there.
_BEFORE_SPACE = re.compile(r"(?<=\S)(?= \S)")
_AT_SPACE = re.compile(r"(?<=\S) (?=\S)")


def find_rule(backend: Tokenizer) -> CutRule | None:
    """The rule for a tokenizer, ``None`` if no proof covers it."""
    model, normalizer, pre_tokenizer = backend.model, _state(backend.normalizer), _state(backend.pre_tokenizer)
    if getattr(model, "dropout", None):
        return None
    if normalizer in (None, {"type": "NFC"}) and _splits(pre_tokenizer):
        return CutRule(_BEFORE_SPACE)
    spaced = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    prepended = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": _SPACE}, spaced]}
    whole = pre_tokenizer in (None, {"type": "Sequence", "pretokenizers": []})
    if not isinstance(model, BPE) or model.ignore_merges or not _merges_stay_within_words(backend):
        return None
    if normalizer == prepended and whole:
        return CutRule(_AT_SPACE, (_SPACE, _NUL))
    gemma = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    if normalizer == spaced and (whole or pre_tokenizer == gemma):
        return CutRule(_BEFORE_SPACE, (_SPACE, _NUL))
    metaspace = {"type": "Metaspace", "replacement": _SPACE, "split": False}
    if normalizer is None and pre_tokenizer in [{**metaspace, "prepend_scheme": name} for name in ("always", "never")]:
        return CutRule(_BEFORE_SPACE, (_SPACE, _NUL))
    return None


def _state(part: Any) -> dict[str, Any] | None:
    """A normalizer or pre-tokenizer as ``tokenizer.json`` holds it."""
    return None if part is None else json.loads(part.__getstate__())


def _splits(pre_tokenizer: dict[str, Any] | None) -> bool:
    """Whether a pre-tokenizer splits by patterns that are known to allow the cuts."""
    if pre_tokenizer is None:
        return False
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    covered = False
    for step in steps:
        kind = step["type"]
        if kind == "Split":
            if step["pattern"].get("Regex") not in _PATTERNS or step["behavior"] != "Isolated" or step["invert"]:
                return False
            covered = True
        elif kind == "ByteLevel" and not step["add_prefix_space"]:
            covered = covered or step["use_regex"]
        elif kind != "Digits":
            return False
    return covered


def _merges_stay_within_words(backend: Tokenizer) -> bool:
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    inner = re.compile(f"[^{_SPACE}]{_SPACE}")
    vocabulary = backend.get_vocab(with_added_tokens=False)
    return _SPACE in vocabulary and not any(inner.search(token) for token in vocabulary if token not in added)


class Unsafe(Exception):
    """A text holds something that forbids cutting it."""


class Side(NamedTuple):
    """What a span is at its borders.

    Attributes:
        trained: A token across a border is its own, if the other one is not trained.
        begins: No token reaches across the border before it (`TextSpan.begins`).
    """

    trained: bool
    begins: bool = False


class _Edge(NamedTuple):
    """A chunk that holds borders of text spans.

    Attributes:
        texts: Its part of each span.
        sides: What each of them is.
    """

    texts: tuple[str, ...]
    sides: tuple[Side, ...]


class WordCache:
    """Encodes text between added tokens, in batches.

    Attributes:
        added: The added tokens of the tokenizer, the longest first.
    """

    def __init__(self, backend: Tokenizer, added: Sequence[str], rule: CutRule) -> None:
        self.backend = backend
        self.added = tuple(sorted(added, key=len, reverse=True))
        self.rule = rule
        self.unsafe = re.compile("|".join(map(re.escape, [*self.added, *rule.forbidden])) or "(?!)")
        self.known = _Known({}, {}, {})
        self.worth = _Worth()

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> WordCache | None:
        """For a tokenizer whose texts can be cut; ``None`` for others."""
        if not tokenizer.is_fast:
            return None
        backend: Tokenizer = tokenizer.backend_tokenizer
        tokens = list(tokenizer.added_tokens_decoder.values())
        # A token that takes white space with it, or is looked for in normalized text, is not found by its own text.
        if any(token.lstrip or token.rstrip or token.single_word for token in tokens):
            return None
        if backend.normalizer is not None and any(token.normalized for token in tokens):
            return None
        rule = find_rule(backend)
        return None if rule is None else cls(backend, [token.content for token in tokens], rule)

    def stands_alone(self, token: str) -> bool:
        """Whether an added token is found as such whatever text is beside it: no other one can overlap it."""
        for other in self.added:
            if other != token and token in other:
                return False
            tails = (other[start:] for start in range(1, len(other)))
            if any(token.startswith(tail) for tail in tails):
                return False
        return True

    def open_batch(self) -> WordBatch:
        """Begin a batch; other threads may be in theirs."""
        if self.known.size > _MOST_KNOWN:
            self.known = _Known({}, {}, {})
        return WordBatch(self, self.known, self.worth.is_worth_it)


class _Worth:
    """Whether words of the next batch shall be looked up; a wrong guess costs time, never a token."""

    def __init__(self) -> None:
        self.is_worth_it = True
        self._left, self._pause = _TRIAL, _PAUSE
        self._read = self._new = 0

    def note(self, read: int, new: int) -> None:
        """Count a batch: its characters, and those in words that had to be learnt (0 where none was looked up)."""
        self._left -= read
        self._read, self._new = self._read + read, self._new + new
        if self._left > 0:
            return
        if not self.is_worth_it:
            self.is_worth_it, self._left = True, _TRIAL
        elif self._new > _MOST_NEW * self._read:
            self.is_worth_it, self._left = False, self._pause
            self._pause *= 2
        else:
            self._left, self._pause = _TRIAL, _PAUSE
        self._read = self._new = 0


@dataclass
class _Known:
    """Ids of chunks met so far, and of those among them that are words; ``size`` is in characters."""

    chunks: dict[str, list[int]]
    words: dict[str, list[int]]
    edges: dict[_Edge, list[list[int]]]
    size: int = 0


class WordBatch:
    """Looks chunks up; those that are unknown are noted, and learnt all together."""

    def __init__(self, encoder: WordCache, known: _Known, by_words: bool = True) -> None:
        self.encoder, self.known, self.rule, self.by_words = encoder, known, encoder.rule, by_words
        self.chunks = known.chunks if by_words else {}
        self.read = 0  # characters
        self.wanted: set[str] = set()
        self.wanted_edges: set[_Edge] = set()

    def look_up(self, texts: Sequence[str], sides: tuple[Side, ...]) -> list[list[int]] | None:
        """Give the ids of neighbouring texts between two added tokens; ``None`` if :meth:`learn` is needed first.

        Args:
            texts: Not empty; tokens may reach from one into the next.
            sides: What each of them is.

        Raises:
            Unsafe: They cannot be cut.
        """
        if self.encoder.unsafe.search(texts[0] if len(texts) == 1 else "".join(texts)):
            raise Unsafe
        self.read += sum(map(len, texts))
        return (self._look_up_words(texts, sides) if self.by_words else None) or self._look_up_chunks(texts, sides)

    def _look_up_words(self, texts: Sequence[str], sides: tuple[Side, ...]) -> list[list[int]] | None:
        """The quick way: every piece between spaces is a word that is known."""
        words = self.known.words
        pieces = self.rule.words(texts[-1])
        try:
            if len(texts) == 1:
                return [list(chain.from_iterable([words[piece] for piece in pieces]))]
            first = pieces[0]
            if not first or first[-1].isspace():
                return None
            *before, ids = self.known.edges[_Edge((*texts[:-1], first), sides)]
            return [*before, [*ids, *chain.from_iterable([words[piece] for piece in pieces[1:]])]]
        except KeyError:
            return None

    def _look_up_chunks(self, texts: Sequence[str], sides: tuple[Side, ...]) -> list[list[int]] | None:
        items = self._divide(texts, sides)
        chunks, edges = self.chunks, self.known.edges
        found: list[list[int]] = [[] for _ in texts]
        try:
            for first, item in items:
                if isinstance(item, _Edge):
                    for number, ids in enumerate(edges[item], start=first):
                        found[number] += ids
                else:
                    found[first] += chain.from_iterable([chunks[chunk] for chunk in item])
        except KeyError:
            for _, item in items:
                if isinstance(item, _Edge):
                    self.wanted_edges.update([item] if item not in edges else [])
                else:
                    self.wanted.update(chunk for chunk in item if chunk not in chunks)
            return None
        return found

    def learn(self) -> None:
        """Encode what was noted, in one call of the tokenizer (two where texts meet)."""
        backend, known = self.encoder.backend, self.known
        if chunks := list(self.wanted):
            encodings = backend.encode_batch_fast(chunks, add_special_tokens=False)
            for chunk, encoding in zip(chunks, encodings, strict=True):
                self.chunks[chunk] = ids = encoding.ids
                if self.by_words and self.rule.is_word(chunk):
                    known.words[chunk] = ids
        new = sum(map(len, self.wanted)) if self.by_words else 0
        known.size += new
        self.encoder.worth.note(self.read, new)
        self.read = 0
        if edges := list(self.wanted_edges):
            encodings = backend.encode_batch(["".join(edge.texts) for edge in edges], add_special_tokens=False)
            for edge, encoding in zip(edges, encodings, strict=True):
                spans = [TextSpan(text, float(side[0]), GLUE, side[1]) for text, side in zip(*edge, strict=True)]
                known.edges[edge] = cut_at_answers(backend, encoding, spans)
                known.size += sum(map(len, edge.texts))
        self.wanted, self.wanted_edges = set(), set()

    def _divide(self, texts: Sequence[str], sides: tuple[Side, ...]) -> list[tuple[int, list[str] | _Edge]]:
        """Cut texts; gives chunks with the number of their text, and edges with the number of their first text."""
        cut = self.rule.cut
        if len(texts) == 1:
            return [(0, cut.split(texts[0]) if self.by_words else list(texts))]
        items: list[tuple[int, list[str] | _Edge]] = []
        first, last = 0, [""]  # the last chunk so far, which may go on in the next text

        def close() -> None:
            edge = _Edge(tuple(last), sides[first : first + len(last)])
            items.append((first, last if len(last) == 1 else edge))

        for number, text in enumerate(texts):
            if number:
                border = cut.match(texts[number - 1][-1] + text[:2], 1)
                if border is None:
                    head, *chunks = self._cut(text, number + 1 < len(texts))
                    last = [*last, head]
                    if not chunks:
                        continue
                else:
                    chunks = self._cut(text[border.end() - 1 :], number + 1 < len(texts))
                close()
            else:
                chunks = self._cut(text, True)
            items.append((number, chunks[:-1]))
            first, last = number, chunks[-1:]
        close()
        return items

    def _cut(self, text: str, followed: bool) -> list[str]:
        if followed and len(text) <= _SHORT:
            return [text]
        if self.by_words:
            return self.rule.cut.split(text)
        head, *rest = self.rule.cut.split(text, 1)
        return [head, *(part for long in rest for part in (self.rule.cut_last(long) if followed else [long]))]
