# SPDX-License-Identifier: Apache-2.0
"""One line for each request: who may read the log learns what was asked for, and not what was said."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from urllib.parse import quote

from ..extras.logging import get_logger

logger = get_logger(__name__)

_LONGEST = 200  # characters of a path


@dataclass
class Spent:
    """What one request has cost so far.

    Attributes:
        prompt: Tokens read.
        completion: Tokens made.
        id: Names the request in the log and in the header ``X-Request-Id``.
    """

    prompt: int = 0
    completion: int = 0
    id: str = field(default_factory=lambda: f"req_{secrets.token_hex(12)}")


def log_request(method: str, path: str, status: int, seconds: float, spent: Spent) -> None:
    """Write the line. A query is left out, and the path cannot begin a line of its own."""
    logger.info(
        "%s %s %d %d ms, %d prompt + %d completion tokens, %s",
        *(method, quote(path)[:_LONGEST], status, round(1000 * seconds), spent.prompt, spent.completion, spent.id),
    )
