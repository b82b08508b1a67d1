# SPDX-License-Identifier: Apache-2.0
"""``llamafactory-cli mine``: documents that an embedding model takes for answers and that are none."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...data.loader import sets_for
from ...data.processor.documents import EmbeddingProcessor, query_of
from ...data.sources.reading import open_set, to_samples
from ...data.template.thinking import resolve_thinking
from ...data.template_loader import get_template
from ...extras.errors import ConfigError, writing
from ...extras.files import write_atomic
from ...hparams import InferArgs, get_infer_args, split_list
from ...model import load_model, load_tokenizer
from ...model.heads import VECTORS
from ...model.vectors import encode_texts, vector_settings

if TYPE_CHECKING:
    from ...data.messages import Sample

_QUERIES = 256  # that are compared with all documents at once


@dataclass(frozen=True)
class Limits:
    """Which documents are taken.

    Attributes:
        count: How many for a query.
        skip: How many of the nearest are left out.
        share: Most cosine, as a share of that of the farthest positive.
    """

    count: int
    skip: int
    share: float


def run_mine(args: InferArgs | Mapping[str, Any] | Sequence[str] | None = None) -> None:
    """Add hard negatives to the rows of ``dataset`` and write them to ``mine_file``.

    Args:
        args: As for training of stage ``embedding``; the model is what that configuration has trained.

    Raises:
        ConfigError: The configuration, the model or a row cannot be used.
    """
    asked = args
    args = args if isinstance(args, InferArgs) else get_infer_args(args)
    stage = args.keys.get("stage", "embedding")
    if stage != "embedding":
        raise ConfigError(f"stage: mine needs an embedding model, not one of stage {stage}")
    args = replace(args, finetuning=replace(args.finetuning, stage="embedding"), data=resolve_thinking(args.data))
    path = Path(args.infer.mine_file).expanduser()
    if path.exists():
        raise ConfigError(f"mine_file: {path} is there already; choose another name")
    samples = _samples(args)
    tokenizer = load_tokenizer(args.model)
    model, settings = load_model(tokenizer, args, trainable=False, head=VECTORS), vector_settings(args)
    queries = [query_of(sample) for sample in samples]
    documents = list(dict.fromkeys(text for sample in samples for text in sample.documents))

    def encode(texts: Sequence[str], prompt: str) -> Tensor:
        return encode_texts(model, tokenizer, [prompt + text for text in texts], settings.pooling, args.data.cutoff_len)

    limits = Limits(args.infer.mine_negatives, args.infer.mine_skip, args.infer.mine_share)
    number = {text: place for place, text in enumerate(documents)}
    relevant = _relevant(queries, samples, number)
    found = hard_negatives(encode(queries, settings.query), encode(documents, settings.document), relevant, limits)
    rows = []
    for sample, query, mined in zip(samples, queries, found, strict=True):
        graded = list(zip(sample.documents, sample.grades, strict=True))
        own = [text for text, grade in graded if grade <= 0]
        negatives = dict.fromkeys([*own, *(documents[place] for place in mined)])
        positives = [text for text, grade in graded if grade > 0]
        rows.append({"query": query, "positive": positives, "negative": list(negatives)})
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    short = sum(len(mined) < limits.count for mined in found)
    print(f"{sum(map(len, found)):,} negatives for {len(rows):,} queries among {len(documents):,} documents: {path}")
    if short:
        print(f"{short:,} queries have fewer than {limits.count}: nothing else is far enough from what is right")
    if asked is None and sys.argv[1:2] == ["mine"]:
        print(f"\nnext: llamafactory-cli train {' '.join(sys.argv[2:3])} dataset={path}", flush=True)


def _samples(args: InferArgs) -> list[Sample]:
    names = split_list(args.data.dataset)
    if not names:
        raise ConfigError("dataset: missing; mine adds negatives to its rows")
    tokenizer = load_tokenizer(args.model)
    found: list[Sample] = []
    for attr in sets_for(get_template(tokenizer, args.data), names, args.data):
        opened, rows = open_set(attr, args.data.max_samples, 0)
        EmbeddingProcessor().check_layout(opened)
        found += to_samples(rows, opened)
    return found


def _relevant(queries: Sequence[str], samples: Sequence[Sample], number: Mapping[str, int]) -> list[list[int]]:
    """Documents that some row calls relevant to the same query."""
    by_query: dict[str, set[int]] = {}
    for query, sample in zip(queries, samples, strict=True):
        good = [number[text] for text, grade in zip(sample.documents, sample.grades, strict=True) if grade > 0]
        by_query.setdefault(query, set()).update(good)
    return [sorted(by_query[query]) for query in queries]


def hard_negatives(
    queries: Tensor, documents: Tensor, relevant: Sequence[Sequence[int]], limits: Limits
) -> list[list[int]]:
    """Return for each query the nearest documents that are not relevant to it, nearest first.

    Documents nearer than a share of the farthest positive's cosine are left out (positive-aware mining, Moreira et al.
    2024, sec. 3.2: TopK-PercPos), for they are often right too.

    Args:
        queries: [Q, d] of unit length.
        documents: [D, d] of unit length.
        relevant: Documents of each query that are right.
        limits: Which ones are taken.
    """
    return [chosen for part in _parts(queries, documents, relevant, limits) for chosen in part]


def _parts(
    queries: Tensor, documents: Tensor, relevant: Sequence[Sequence[int]], limits: Limits
) -> Iterator[list[list[int]]]:
    for start in range(0, len(queries), _QUERIES):
        cosines = queries[start : start + _QUERIES] @ documents.T
        for row, right in zip(cosines, relevant[start : start + _QUERIES], strict=True):
            farthest = row[list(right)].min() if right else torch.tensor(1.0)
            most = farthest * limits.share if farthest > 0 else farthest
            row[list(right)] = -torch.inf
            row[row > most] = -torch.inf
        depth = min(limits.skip + limits.count, cosines.shape[1])
        best = cosines.topk(depth, dim=1)
        yield [
            [int(place) for value, place in zip(values, places, strict=True) if value > -torch.inf][limits.skip :]
            for values, places in zip(best.values, best.indices, strict=True)
        ]
