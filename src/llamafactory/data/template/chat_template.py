# SPDX-License-Identifier: Apache-2.0
"""Chat templates as data: a frozen value of literals, one file per family in ``data/templates``, or a YAML file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Literal, get_args

from ...extras.errors import ConfigError
from ...extras.files import read_text
from ...plugins import resolve
from .base import Piece

ToolsPlace = Literal[
    "system", "before_system", "first_user", "before_last_user", "turn_before_system", "turn_after_system"
]
EmptyThought = Literal["last", "open", "never"]
Values = dict[str, "str | list[Piece]"]


@dataclass(frozen=True)
class ChatTemplate:
    """The literals of one chat format.

    Slots in the literals: ``{{content}}`` is what the turn says, ``{{bos}}`` and ``{{eos}}`` are the tokenizer's tokens
    (``{{auto_bos}}`` only where the tokenizer itself begins every text with it), ``{{id}}`` (in ``tool``) is the id of
    the call that a tool turn belongs to, ``{{name}}`` the name of its function, ``{{json}}`` the content as a JSON
    string. Only ``assistant`` is trained; all else is context.

    Attributes:
        name: What users write as ``template:``.
        user: A user turn.
        user_no_thinking: What ends the text of every user turn while thinking is off.
        generation: What stands before an assistant turn; it is also the generation prompt.
        assistant: An assistant turn, with the token that ends it.
        text_start: Opens ``{{content}}`` of an assistant turn, but not of one that has tool calls only.
        end: What ends the last assistant turn of a conversation, when it differs from what ends the earlier ones.
        calls_end: What ends a turn of tool calls, when it differs; no ``gap`` follows.
        gap: What follows an assistant turn when the conversation goes on (or ends); never trained.
        prefix: Start of every conversation.
        prefix_with_tools: The same when tools are given, when it differs.
        suffix: End of a conversation that does not end in a generation prompt.
        system: A system turn.
        default_system: System text of a conversation without one; ``None``: no system turn then.
        default_beside_tools: Whether that text also stands before a tool list.
        gather_system: What joins the system texts when all move to the front; ``None``: each stays in its place.
        merge_system: The system text's form when it has no turn of its own but opens the first user turn.
        first_system: The leading system turn, when it differs from ``system``.
        first_system_with_tools: The same when tools are given.
        tools_alone: The leading turn for a tool list without a system text, when it differs.
        skip_empty_system: An empty leading system text counts as none.
        no_system: What stands in place of a leading system turn when there is neither text nor tools for one.
        tool: The result of a tool.
        tool_open: Before the first of several results in a row.
        tool_join: Between results in a row.
        tool_close: After the last of them.
        generation_after_tool: ``generation`` after a tool's result, when it differs; no thought is asked for there.
        tool_format: Name of the tool dialect, a row of ``plugins.TOOL_FORMATS``.
        tools_in: Where the tool list goes: after or before the system text in the system turn, at the start of the
            first user turn's content, before the last user turn, or into a turn of its own beside the system turn.
        tools_turn: That turn.
        tools_join: Between the system text and the tool list.
        thought: What opens and closes a thought; ``None``: the family does not think.
        no_thought: What stands where a thought was dropped, or is missing.
        empty_thought: Where a missing thought is written as an empty one: in the last turn, in every turn after the
            last user turn, or nowhere.
        keep_thoughts: Earlier turns keep their thoughts in this format.
        thought_prompt: What the generation prompt adds to let the model think.
        asked_prompt: The same where thinking was switched on by name and the family officially does not think unless
            asked; ``None``: no difference.
        asked_after_tool: What follows ``generation_after_tool`` then.
        asked_system: What opens the leading system turn then; there is such a turn in any case.
        no_thought_prompt: What it adds instead while thinking is off; ``None``: ``no_thought``, or an empty thought.
        strip: What loses white space at both ends: the text of a role; ``user_turn``, the user text after the system
            text was merged into it; ``thought``, a thought (else it loses line breaks only); ``answer``, what is left
            of an earlier turn whose thought was dropped (at its start, line breaks only).
        stop: Texts that end a response, besides the tokenizer's EOS.
        eos: The EOS token that this format needs; the tokenizer's is replaced when it has this token.
        special_tokens: Tokens that the tokenizer must know for this format to work as meant.
        bos_eos: BOS and EOS of the family's tokenizers, for writing a conversation out without one.
        media: How images, videos and sound stand in the text, a row of ``plugins.MEDIA``.
    """

    name: str
    user: str
    user_no_thinking: str = ""
    generation: str = ""
    assistant: str = "{{content}}{{eos}}"
    text_start: str = ""
    end: str = ""
    calls_end: str | None = None
    gap: str = ""
    prefix: str = ""
    prefix_with_tools: str | None = None
    suffix: str = ""
    system: str = "{{content}}"
    default_system: str | None = None
    default_beside_tools: bool = True
    gather_system: str | None = None
    merge_system: str | None = None
    first_system: str | None = None
    first_system_with_tools: str | None = None
    tools_alone: str | None = None
    skip_empty_system: bool = False
    no_system: str = ""
    tool: str = "{{content}}"
    tool_open: str = ""
    tool_join: str = ""
    tool_close: str = ""
    generation_after_tool: str | None = None
    tool_format: str = "default"
    tools_in: ToolsPlace = "system"
    tools_turn: str = "{{content}}"
    tools_join: str = "\n\n"
    thought: tuple[str, str] | None = None
    no_thought: str = ""
    empty_thought: EmptyThought = "last"
    keep_thoughts: bool = False
    thought_prompt: str = ""
    asked_prompt: str | None = None
    asked_after_tool: str = ""
    asked_system: str = ""
    no_thought_prompt: str | None = None
    strip: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    eos: str | None = None
    special_tokens: tuple[str, ...] = ()
    bos_eos: tuple[str, str] = ("<s>", "</s>")
    media: str = ""

    def with_tokens(self, bos: str, eos: str, auto_bos: str) -> ChatTemplate:
        """Put the tokenizer's BOS and EOS into every literal (the default system text is data, not a literal)."""
        values = {"{{bos}}": bos, "{{eos}}": eos, "{{auto_bos}}": auto_bos}
        bound: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str) and field.name != "default_system":
                for slot, token in values.items():
                    value = value.replace(slot, token)
                bound[field.name] = value
        return replace(self, **bound)


@lru_cache(maxsize=4096)
def slots(literal: str) -> tuple[str, ...]:
    """Split at ``{{name}}``: text, name, text, name, …, text."""
    return tuple(re.split(r"\{\{(\w+)\}\}", literal))


def fill(literal: str, message: int, trained: bool, values: Values) -> Iterator[Piece]:
    """Put values into a literal's slots; a value is data (text) or pieces made before."""
    parts = slots(literal)
    for number, part in enumerate(parts):
        if number % 2 == 0:
            if part:
                yield Piece(part, message, trained, True)
        elif isinstance(value := values[part], str):
            if value:
                yield Piece(value, message, trained, False)
        else:
            yield from value


def read_literals(path: str) -> ChatTemplate:
    """Read a template from a YAML file.

    Args:
        path: Holds fields of :class:`ChatTemplate`, and optionally ``extends``, a named template to start from.

    Raises:
        ConfigError: The file cannot be read, or holds what no template has.
    """
    import yaml

    try:
        values = yaml.safe_load(read_text(path, "template"))
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"template {path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"template {path}: expected keys and values, got {type(values).__name__}")
    extended = values.pop("extends", None)
    base = (
        ChatTemplate(path, "{{content}}")
        if extended is None
        else resolve("templates", str(extended), f"template {path}: extends")
    )
    return replace(base, **{"name": path, **{key: _check_literal(path, key, value) for key, value in values.items()}})


def _check_literal(path: str, key: str, value: Any) -> str | bool | tuple[str, ...]:
    """A value of a YAML template, if a :class:`ChatTemplate` can have it."""
    known = {field.name: str(field.type) for field in fields(ChatTemplate)}
    if key not in known:
        near = difflib.get_close_matches(str(key), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        raise ConfigError(f"template {path}: unknown key {key!r}; {hint}")
    choices = {"tools_in": get_args(ToolsPlace), "empty_thought": get_args(EmptyThought)}.get(key)
    if choices is not None and value not in choices:
        raise ConfigError(f"template {path}: {key}: {value!r} is not one of {', '.join(choices)}")
    if known[key] == "bool":
        if not isinstance(value, bool):
            raise ConfigError(f"template {path}: {key} must be true or false, got {value!r}")
        return value
    if "tuple" not in known[key]:
        if not isinstance(value, str):
            raise ConfigError(f"template {path}: {key} must be text, got {value!r}")
        return value
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"template {path}: {key} must be a list of texts, got {value!r}")
    if key == "thought" and len(value) != 2:
        raise ConfigError(f"template {path}: thought must be two texts: what opens a thought, and what closes it")
    return tuple(value)
