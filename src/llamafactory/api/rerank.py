# SPDX-License-Identifier: Apache-2.0
"""``/v1/rerank``: a reward model judges how well each document answers the query."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..data.messages import Message
from .response_answer import identity

if TYPE_CHECKING:
    from ..data.template.base import Template
    from .protocol import RerankRequest


def conversations(request: RerankRequest, template: Template) -> list[str]:
    """Each document as the answer to the query, in the words that reward models are trained on."""
    query = Message.of("user", request.query)
    return [template.render([query, Message.of("assistant", text)]) for text in _texts(request)]


def pairs(request: RerankRequest) -> list[Any]:
    """The query with each document, for a model of stage reranker."""
    return [(request.query, text) for text in _texts(request)]


def ranking(request: RerankRequest, model: str, scores: Sequence[float], tokens: int) -> dict[str, Any]:
    """The answer, in the form that the clients of Jina and Cohere read; the best document comes first."""
    order = sorted(range(len(scores)), key=lambda place: -scores[place])[: request.top_n]
    texts = _texts(request)
    results: list[dict[str, Any]] = [
        {"index": place, "relevance_score": _share(scores[place])}
        | ({"document": {"text": texts[place]}} if request.return_documents else {})
        for place in order
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"id": identity("rerank-"), "model": model, "results": results, "usage": usage}


def _texts(request: RerankRequest) -> list[str]:
    return [document if isinstance(document, str) else document.text for document in request.documents]


def _share(score: float) -> float:
    """A reward has no bounds, clients expect 0 to 1: the chance to be preferred to an answer of reward 0."""
    return 1 / (1 + math.exp(-score)) if score >= 0 else math.exp(score) / (1 + math.exp(score))
