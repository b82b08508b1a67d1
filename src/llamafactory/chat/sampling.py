# SPDX-License-Identifier: Apache-2.0
"""How one response is to be made: the configuration's generation keys with the overrides of one call."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..extras.errors import ConfigError
from ..hparams import InferArgs

MOST_BIAS = 100  # OpenAI's bounds: enough to forbid a token, or to leave no other
_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,9}")


@dataclass(frozen=True)
class Sampling:
    """Checked values for one call; the meaning of each is that of the configuration key of the same name."""

    do_sample: bool
    temperature: float
    top_p: float
    top_k: int
    num_beams: int
    repetition_penalty: float
    length_penalty: float
    skip_special_tokens: bool
    max_length: int  # prompt and response together; used only when max_new_tokens is 0
    max_new_tokens: int
    num_return_sequences: int = 1
    seed: int | None = None
    stop: tuple[str, ...] = ()
    enable_thinking: bool | None = None
    log_probs: int | None = None
    json_schema: dict[str, Any] | None = None
    adapter: str | None = None
    logit_bias: dict[int, float] | None = None  # added to the logits of these tokens

    @property
    def greedy(self) -> bool:
        """No random choice: sampling is off, or the temperature is 0."""
        return not self.do_sample or self.temperature == 0

    @property
    def copies(self) -> int:
        """How many of the responses are one and the same: all, where there is neither chance nor a choice of beams."""
        return self.num_return_sequences if self.greedy and self.num_beams == 1 else 1

    @property
    def sequences(self) -> int:
        """How many responses must be made."""
        return self.num_return_sequences // self.copies

    def new_tokens(self, prompt_length: int, context: int | None) -> int:
        """Return how many tokens may be made.

        Args:
            prompt_length: Tokens of the prompt.
            context: Most positions the model knows, ``None`` when it has no limit.

        Raises:
            ConfigError: The prompt leaves no room.
        """
        if context is not None and prompt_length >= context:
            raise ConfigError(f"the conversation has {prompt_length} tokens, the model takes fewer than {context}")
        wanted = self.max_new_tokens if self.max_new_tokens > 0 else self.max_length - prompt_length
        if wanted <= 0:
            raise ConfigError(f"max_length: {self.max_length} leaves no room after a prompt of {prompt_length} tokens")
        return wanted if context is None else min(wanted, context - prompt_length)


def get_sampling(args: InferArgs, overrides: dict[str, Any], vocabulary: int) -> Sampling:
    """Lay the overrides of one call (``None`` = not given) over ``args.generating``.

    Args:
        args: The configuration.
        overrides: Fields of :class:`Sampling`; ``logit_bias`` may have its token ids as text, as JSON has them.
        vocabulary: Tokens that the model knows.

    Raises:
        ConfigError: An unknown name or a value out of range.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    known = [field.name for field in dataclasses.fields(Sampling)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(f"{name}: unknown generation option; {f'did you mean {near[0]}?' if near else known}")
    if given.get("max_new_tokens", 1) < 1:
        raise ConfigError(f"max_new_tokens: {given['max_new_tokens']} is out of range; expected 1 or more")
    if "max_length" in given:
        given.setdefault("max_new_tokens", 0)
    if isinstance(given.get("stop"), str):
        given["stop"] = (given["stop"],)
    if "stop" in given:
        given["stop"] = tuple(word for word in given["stop"] if word)
    if "logit_bias" in given:
        given["logit_bias"] = _read_bias(given["logit_bias"], vocabulary)
    base = {name: value for name, value in dataclasses.asdict(args.generating).items() if name in known}
    sampling = Sampling(**{**base, **given})
    _check(sampling)
    return sampling


def _read_bias(bias: Any, vocabulary: int) -> dict[int, float]:
    if not isinstance(bias, Mapping):
        raise ConfigError("logit_bias: expected a mapping from token ids to numbers")
    read: dict[int, float] = {}
    for key, value in bias.items():
        token = str(key)
        if not _TOKEN_ID.fullmatch(token) or int(token) >= vocabulary:
            raise ConfigError(f"logit_bias: {token[:32]!r} is not the id of one of this model's {vocabulary} tokens")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not -MOST_BIAS <= value <= MOST_BIAS:
            raise ConfigError(f"logit_bias: {token}: {value!r} is out of range; expected -{MOST_BIAS} to {MOST_BIAS}")
        read[int(token)] = float(value)
    return read


def _check(sampling: Sampling) -> None:
    rules = [
        ("temperature", sampling.temperature >= 0, "0 or more"),
        ("top_p", 0 < sampling.top_p <= 1, "more than 0, at most 1"),
        ("top_k", sampling.top_k >= 0, "0 (off) or more"),
        ("num_beams", sampling.num_beams >= 1, "1 or more"),
        ("num_return_sequences", sampling.num_return_sequences >= 1, "1 or more"),
        ("repetition_penalty", sampling.repetition_penalty > 0, "more than 0"),
        ("log_probs", sampling.log_probs is None or sampling.log_probs >= 0, "0 or more"),
    ]
    for name, holds, choices in rules:
        if not holds:
            raise ConfigError(f"{name}: {getattr(sampling, name)} is out of range; expected {choices}")
    for name in ("log_probs", "json_schema"):
        if sampling.num_beams > 1 and getattr(sampling, name) is not None:
            raise ConfigError(f"{name}: cannot be combined with num_beams {sampling.num_beams}")
    if sampling.num_return_sequences > sampling.num_beams > 1:
        raise ConfigError(
            f"num_return_sequences: {sampling.num_return_sequences} is more than num_beams {sampling.num_beams}"
        )
