# SPDX-License-Identifier: Apache-2.0
"""Responses that are JSON and obey a schema: which tokens may come next, by the package llguidance."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..extras.errors import ConfigError
from ..extras.packages import require

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_KEY = "json_schema"
# White space between two parts of the JSON: a blank, or a new line with its indent. JSON allows any amount, and a weak
# model that decodes greedily would fill the whole response with it; without any, models write worse than they can.
_WHITE_SPACE = r"[ ]|\n[ ]{0,16}"
_SPACE_OPTIONS = {"whitespace_flexible", "whitespace_pattern"}


class JsonGrammars:
    """Makes constraints for one tokenizer; the vocabulary is read once.

    Args:
        tokenizer: A Rust tokenizer.
        ends: Tokens that end a response; allowed where the JSON is whole.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: list[int]) -> None:
        self._tokenizer = tokenizer
        self._ends = ends
        self._vocabulary = lru_cache(maxsize=1)(self._read_vocabulary)

    def check(self, schema: dict[str, Any]) -> str:
        """Return the grammar of a schema; white space as the schema's own ``x-guidance`` says, or bounded by us.

        Raises:
            ConfigError: The package is missing, or the schema is wrong or asks for what cannot be enforced.
        """
        library = require("llguidance", _KEY)
        # {} is valid for any JSON; a response that shall be JSON is an object.
        wanted = json.dumps(schema or {"type": "object"})
        own = schema.get("x-guidance")
        spaces = {} if isinstance(own, dict) and _SPACE_OPTIONS & own.keys() else {"whitespace_pattern": _WHITE_SPACE}
        grammar = library.LLMatcher.grammar_from_json_schema(wanted, defaults=spaces)
        problem = library.LLMatcher.validate_grammar(grammar, self._vocabulary())
        if problem:
            raise ConfigError(f"{_KEY}: {' '.join(problem.split())[:300]}")
        return str(grammar)

    def constrain(self, grammar: str) -> JsonConstraint:
        """Return a constraint at its beginning."""
        library = require("llguidance", _KEY)
        return JsonConstraint(library.LLMatcher(self._vocabulary(), grammar))

    def _read_vocabulary(self) -> Any:
        library = require("llguidance.hf", _KEY, "llguidance")
        if not self._tokenizer.is_fast:
            raise ConfigError(f"{_KEY}: needs a Rust tokenizer, this model has a Python one")
        return library.from_tokenizer(self._tokenizer, eos_token=self._ends)


class JsonConstraint:
    """What may come next in one response."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    @property
    def finished(self) -> bool:
        """The JSON is whole and nothing can follow."""
        return bool(self._matcher.is_stopped())

    def allowed(self, vocabulary: int) -> Tensor:
        """Return which tokens may come next, boolean ``[vocabulary]``."""
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
        allowed = np.zeros(vocabulary, dtype=bool)
        allowed[: len(bits)] = bits[:vocabulary]
        return torch.from_numpy(allowed)

    def take(self, token_id: int) -> None:
        """Go on with a token that was allowed."""
        self._matcher.consume_token(token_id)
