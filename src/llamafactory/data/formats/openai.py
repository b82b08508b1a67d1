# SPDX-License-Identifier: Apache-2.0
"""OpenAI rows: ``messages`` with role, content (text or parts), tool_calls, reasoning_content, loss weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..messages import Sample
from ..sources.dataset_info import DatasetAttr
from . import sharegpt


def convert(row: Mapping[str, Any], attr: DatasetAttr) -> Sample:
    """Turn one row into a sample.

    The walk over the turns is ShareGPT's: the two layouts differ in the names of roles and keys, which ``attr.tags``
    carries, and the OpenAI fields of a turn are read wherever they occur.

    Raises:
        ConfigError: As for ShareGPT rows; the message names the field, the turn, the value and the choices.
    """
    return sharegpt.convert(row, attr)
