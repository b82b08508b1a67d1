# SPDX-License-Identifier: Apache-2.0
"""The one real tokenizer that a package brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def smollm2_tokenizer(smollm2: Path) -> Any:
    """The real SmolLM2 tokenizer, as its GGUF file holds it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2)
