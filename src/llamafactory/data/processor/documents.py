# SPDX-License-Identifier: Apache-2.0
"""Features of queries with documents: a row holds all of a query's, each an isolated sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ...extras.errors import ConfigError
from ..pairs import separate_pairs
from .base import Outcome, Processor, Row
from .texts import Text, cut, is_text, plain_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...hparams.data_args import DataArguments
    from ..messages import Sample
    from ..sources.dataset_info import DatasetAttr
    from ..template.base import Template


class DocumentsProcessor(Processor[list[Text]]):
    """A row is several sequences and ``grades``: how relevant each document is to the row's query.

    ``labels`` are the tokens themselves: all of them are read, none is predicted.
    """

    columns: tuple[str, ...] = ("input_ids", "labels", "seq_lens", "grades", "sample")
    unused = ("margin", "kto_tag", "chosen", "rejected", "response", "reasoning", "weights", "label")

    def check_layout(self, attr: DatasetAttr) -> None:
        """Refuse a set without documents."""
        if attr.columns.positive is None:
            raise ConfigError(
                f"dataset {attr.name!r}: no column holds documents; name them: positive (and negative, score) in the "
                "columns of dataset_info.json, or the key columns"
            )

    def fit(self, sample: Sample, tokens: list[Text], args: DataArguments) -> Outcome:
        """One row, or none if one of its texts is too long and ``overlong`` is ``drop``."""
        length = max(text.length for text in tokens)
        if not all(text.ids for text in tokens):
            return Outcome([], length, sum(text.length for text in tokens), too_long=True)
        ids = [token for text in tokens for token in text.ids]
        row: dict[str, Any] = {"input_ids": ids, "labels": ids, "seq_lens": [len(text.ids) for text in tokens]}
        row |= {"grades": list(sample.grades), "media": [[] for _ in tokens]}
        row |= self.extra(tokens)
        return Outcome([Row(row, len(ids))], length, sum(text.length for text in tokens) - len(ids), too_long=False)

    def extra(self, tokens: Sequence[Text]) -> dict[str, Any]:
        """Further columns of a row."""
        return {}


class EmbeddingProcessor(DocumentsProcessor):
    """The query, with its prompt, stands before its documents with theirs."""

    name = "embedding"

    def tokenize(
        self, samples: Sequence[Sample], template: Template, tokenizer: PreTrainedTokenizerBase, args: DataArguments
    ) -> list[list[Text]]:
        """Raises ConfigError for an empty text, or a row without documents."""
        before = args.document_prompt or ""
        groups = [
            [f"{args.query_prompt or ''}{query_of(one)}", *(before + text for text in one.documents)] for one in samples
        ]
        texts = [text for group in groups for text in group]
        origins = [sample.origin for sample, group in zip(samples, groups, strict=True) for _ in group]
        found = iter(plain_texts(texts, tokenizer, args, origins))
        return [[next(found) for _ in group] for group in groups]


class Pair(NamedTuple):
    """A :class:`Text` of a query and a document; ``second``: where tokens of type 1 begin, its length if none is."""

    ids: list[int]
    length: int
    second: int


class RankingProcessor(DocumentsProcessor):
    """Each sequence is the query with one document, as the tokenizer writes a pair."""

    name = "ranking"
    columns = ("input_ids", "labels", "seq_lens", "grades", "seconds", "sample")

    def tokenize(
        self, samples: Sequence[Sample], template: Template, tokenizer: PreTrainedTokenizerBase, args: DataArguments
    ) -> list[list[Text]]:
        """Raises ConfigError for an empty text, or a row without documents."""
        separate_pairs(tokenizer)
        pairs = [(query_of(sample), text, sample) for sample in samples for text in sample.documents]
        found = iter(self._pairs(pairs, tokenizer, args))
        return [[next(found) for _ in sample.documents] for sample in samples]

    def _pairs(
        self, pairs: list[tuple[str, str, Sample]], tokenizer: PreTrainedTokenizerBase, args: DataArguments
    ) -> list[Any]:
        options: dict[str, Any] = {"return_token_type_ids": True, "verbose": False}
        whole = tokenizer([query for query, _, _ in pairs], [text for _, text, _ in pairs], **options)
        found = []
        for number, (query, text, sample) in enumerate(pairs):
            ids, types = whole["input_ids"][number], whole["token_type_ids"][number]
            length = len(ids)
            if length > args.cutoff_len and args.overlong in ("truncate", "keep_start"):
                short = tokenizer(query, text, truncation=True, max_length=args.cutoff_len, **options)
                ids, types = short["input_ids"], short["token_type_ids"]
            ids = cut(ids, args.cutoff_len, args.overlong, sample.origin)
            found.append(Pair(ids, length, types.index(1) if 1 in types else len(ids)))
        return found

    def extra(self, tokens: Sequence[Any]) -> dict[str, Any]:
        return {"seconds": [pair.second for pair in tokens]}


def query_of(sample: Sample) -> str:
    """Return the text of a query.

    Raises:
        ConfigError: It is empty or no text, or the row has no document.
    """
    if not is_text(sample):
        raise ConfigError(f"{sample.origin}: the query is no plain text")
    query = sample.messages[0].text
    if not query.strip() or not sample.documents:
        raise ConfigError(f"{sample.origin}: it has no {'document' if query.strip() else 'query'}")
    return query
