# SPDX-License-Identifier: Apache-2.0
"""Rollouts: the model completes prompts, calls tools, reads their results and goes on, until it calls no more.

Ids are kept as they were drawn: a tool's result is rendered by the template behind them, nothing is tokenized twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ....data.formats.media import with_markers
from ....data.messages import Message, ToolCall

if TYPE_CHECKING:
    from ....data.template.base import Template
    from ....hparams import TrainArgs


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: Above 0.
        top_p: Draw from the likeliest tokens that hold this share of probability.
        top_k: Draw from this many likeliest tokens; 0 = all.
        limit: Most tokens behind a prompt, results of tools included.
    """

    temperature: float
    top_p: float
    top_k: int
    limit: int


def sampling_of(args: TrainArgs) -> Sampling:
    """Return how a run draws: a key that is not written leaves the policy as it is, unlike in chat."""
    keys, given = args.keys, args.generating
    return Sampling(
        temperature=given.temperature if "temperature" in keys else 1.0,
        top_p=given.top_p if "top_p" in keys else 1.0,
        top_k=given.top_k if "top_k" in keys else 0,
        limit=given.max_new_tokens,
    )


@dataclass(frozen=True)
class Request:
    """One completion to be drawn.

    Attributes:
        ids: Everything before it.
        seed: Of this completion alone, so that it does not depend on what else is in the batch.
        drawn: Tokens that stand behind the prompt already; draws go on from there.
        limit: Most tokens to draw.
        media: Of ``ids``, as the column ``media`` of rows holds them.
    """

    ids: list[int]
    seed: int
    drawn: int
    limit: int
    media: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Drawn:
    """What an engine wrote behind a request.

    Attributes:
        ids: New tokens; a completion that ended by itself ends with a stop token.
        log_probs: Of each of them when it was drawn, at the temperature; empty = the engine does not tell.
    """

    ids: list[int]
    log_probs: list[float] = field(default_factory=list)


class Engine(Protocol):
    """What generates completions, a row of ``plugins.ROLLOUTS``."""

    def __init__(self, model: Any, template: Template, sampling: Sampling, args: TrainArgs) -> None: ...

    def sync(self) -> None:
        """Take over the present weights of the policy."""

    def generate(self, requests: Sequence[Request], greedy: bool) -> list[Drawn]:
        """Complete each request."""


@dataclass
class Rollout:
    """A prompt and what became of it.

    Attributes:
        messages: The conversation of the prompt.
        prompt: Its ids.
        seed: Of its draws.
        tools: OpenAI tool objects that stand in the prompt.
        ids: What stands behind the prompt: what the model wrote and, between that, results of tools.
        written: For each of ``ids`` whether the model wrote it.
        log_probs: Of what the model wrote, when it was drawn; shorter where the engine does not tell.
        turns: The messages made.
        text: What the model wrote last, without special tokens.
        finished: It ended by itself.
        columns: The row's further columns; ``reference`` is the text of the row's last turn of the assistant.
        media: Of the prompt, as the column ``media`` of rows holds them.
        environment: What answers the model's turns, if anything does.
    """

    messages: list[Message]
    prompt: list[int]
    seed: int
    tools: Sequence[dict[str, Any]] = ()
    ids: list[int] = field(default_factory=list)
    written: list[bool] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    turns: list[Message] = field(default_factory=list)
    text: str = ""
    finished: bool = False
    columns: dict[str, Any] = field(default_factory=dict)
    media: Sequence[Mapping[str, Any]] = ()
    environment: Any = None

    def append_completion(self, drawn: Drawn, template: Template) -> tuple[ToolCall, ...]:
        """Append what the model wrote; returns the calls in it, none when it was cut off."""
        ids = drawn.ids
        self.ids += ids
        self.log_probs += drawn.log_probs
        self.written += [True] * len(ids)
        tokenizer = template.tokenizer
        self.finished = bool(ids) and ids[-1] in template.stop_token_ids
        self.text = str(tokenizer.decode(ids, skip_special_tokens=True))
        self.turns.append(template.parse(str(tokenizer.decode(ids[:-1] if self.finished else ids))))
        return self.turns[-1].tool_calls if self.finished else ()

    def append_results(self, results: Sequence[Message], template: Template, limit: int) -> bool:
        """Append results of tools or what an environment says; returns whether there is room for the model to go on."""
        conversation = with_markers([*self.messages, *self.turns, *results])
        place = len(self.messages) + len(self.turns) - 1
        glue = template.encode_after(conversation, place, self.tools)
        if len(self.ids) + len(glue) >= limit:
            self.finished = False
            return False
        self.turns += results
        self.ids += glue
        self.written += [False] * len(glue)
        return True


def roll_out(
    engine: Engine,
    rollouts: Sequence[Rollout],
    template: Template,
    limit: int,
    greedy: bool = False,
    reply: Callable[[Rollout, tuple[ToolCall, ...], bool], Sequence[Message]] | None = None,
    rounds: int = 0,
) -> None:
    """Complete every prompt, in place.

    Args:
        engine: Draws.
        rollouts: Prompts without completions yet.
        template: Stop tokens, parsing, rendering.
        limit: Most tokens behind a prompt.
        greedy: The likeliest tokens instead of draws.
        reply: Returns the turns that follow one of the model's (given its calls, and whether it will not be asked
            again); none = the conversation is over.
        rounds: How often the model may be asked again.
    """
    active = list(rollouts)
    for number in range(rounds + 1 if reply else 1):
        requests = [Request(r.prompt + r.ids, r.seed, len(r.ids), limit - len(r.ids), r.media) for r in active]
        drawn = engine.generate(requests, greedy)
        calls = [r.append_completion(one, template) for r, one in zip(active, drawn, strict=True)]
        if reply is None:
            return
        replies = [reply(r, some, number == rounds) for r, some in zip(active, calls, strict=True)]
        active = [
            r for r, turns in zip(active, replies, strict=True) if turns and r.append_results(turns, template, limit)
        ]
        if not active:
            return


def seed_of(*parts: int | str) -> int:
    """Return a seed that depends on all parts and on nothing else."""
    return int.from_bytes(hashlib.blake2b("-".join(map(str, parts)).encode(), digest_size=7).digest(), "little")
