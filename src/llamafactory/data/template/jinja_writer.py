# SPDX-License-Identifier: Apache-2.0
"""Write a template's literals out as a Jinja program: the twin of `renderer`.

Only what the common engines know is used (the sandbox of transformers, minja of llama.cpp): macros, namespaces, string
methods that official templates use too. Every tag trims the source around it, so only expressions make text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..media.jinja import has_media, media_text
from ..media.jinja import quote as _quote
from .base import Options
from .chat_template import ChatTemplate, slots
from .renderer import closed_thought

if TYPE_CHECKING:
    from ..media.families import MediaFamily
    from ..tool_formats.json_format import JsonToolFormat

_TEXT = """
{%- macro text(message) -%}
{%- if message.content is string -%}{{- message.content -}}
{%- elif message.content -%}
{%- for part in message.content -%}
{%- if part is string -%}{{- part -}}{%- elif part.type == 'text' -%}{{- part.text -}}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
"""
_TURNS = """
{%- set ns = namespace(first_user=-1, last_user=messages | length - 1, calls=0, answers=0) -%}
{%- set ns.names = [] -%}{%- set ns.given = false -%}{%- set ns.opening = '' -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}
{%- if ns.first_user < 0 -%}{%- set ns.first_user = loop.index0 -%}{%- endif -%}
{%- set ns.last_user = loop.index0 -%}
{%- endif -%}
{%- endfor -%}
"""

_SCALAR = "value | tojson if value is mapping or value is iterable else value | string"
_QUOTED = (
    "value | replace('\\\\', '\\\\\\\\') | replace('\\'', '\\\\\\'')"
    " | replace('\\n', '\\\\n') | replace('\\r', '\\\\r')"
)
_VALUES = {  # the twin of tool_formats.values.write_value
    "text": "value if value is string else value | tojson",
    "gemma": "gemma(value)",
    "python": f"value if value is string else ({_SCALAR})",
    "quoted": f"'\\'' + ({_QUOTED}) + '\\'' if value is string else ({_SCALAR})",
}
_GEMMA = """
{%- macro gemma(value) -%}
{%- if value is string -%}{{- '<|"|>' + value + '<|"|>' -}}
{%- elif value is mapping -%}
{{- '{' -}}
{%- for key, item in value | dictsort -%}{{- ('' if loop.first else ',') + key + ':' + gemma(item) -}}{%- endfor -%}
{{- '}' -}}
{%- elif value is iterable -%}
{{- '[' -}}
{%- for item in value -%}{{- ('' if loop.first else ',') + gemma(item) -}}{%- endfor -%}
{{- ']' -}}
{%- else -%}{{- value | tojson -}}
{%- endif -%}
{%- endmacro -%}
"""
_AFTER_TOOL = "loop.index0 > 0 and messages[loop.index0 - 1].role == 'tool'"
_ENDS_IN_TOOL = "messages | length > 0 and messages[-1].role == 'tool'"


def write_jinja(
    chat: ChatTemplate, tool_format: JsonToolFormat, options: Options, media: MediaFamily | None = None
) -> str:
    """Write the program.

    Args:
        chat: Literals, with ``{{bos}}`` and ``{{eos}}`` replaced.
        tool_format: The tool dialect.
        options: What the variables ``enable_thinking`` and ``preserve_thinking`` are when the caller sets none.
        media: How media stand in the text; ``None``: parts that are not text are left out.
    """
    thinking = {True: "true", False: "false", None: "none"}[options.enable_thinking]
    stripped = sorted(set(chat.strip) - {"user_turn", "answer", "thought"})
    preserve = str(options.preserve_thinking).lower()
    lines = [
        _TEXT.strip() if media is None else media_text(media, stripped),
        _TURNS.strip(),
        _set("thinking", f"enable_thinking if enable_thinking is defined else {thinking}") if chat.thought else "",
        _asked(chat, options),
        _set("preserve", f"preserve_thinking if preserve_thinking is defined else {preserve}") if chat.thought else "",
        _GEMMA.strip() if tool_format.values == "gemma" else "",
        _tool_list(tool_format),
        _prefix(chat),
        _opening(chat) if media is None or not media.no_system else _opening_without_media(chat),
        "{%- for message in messages -%}",
        _set("content", "text(message)"),
        _when(f"message.role in {stripped}", _set("content", "content | trim")) if stripped else "",
        "{%- if message.role == 'system' -%}",
        _late_system(chat),
        "{%- elif message.role == 'user' -%}",
        _user(chat),
        "{%- elif message.role == 'assistant' -%}",
        _assistant(chat, tool_format),
        "{%- elif message.role == 'tool' -%}",
        _tool(chat),
        "{%- else -%}",
        "{{- raise_exception('unknown role ' + message.role) -}}",
        "{%- endif -%}",
        "{%- endfor -%}",
        "{%- if add_generation_prompt -%}",
        _header(chat, _ENDS_IN_TOOL),
        _thought_prompt(chat),
        "{%- else -%}",
        _emit(_quote(chat.suffix)),
        "{%- endif -%}",
    ]
    return "\n".join(line for line in lines if line)


def _emit(expression: str) -> str:
    return "" if expression == "''" else f"{{{{- {expression} -}}}}"


def _asked(chat: ChatTemplate, options: Options) -> str:
    """Whether thinking was switched on by name, for the families that ask."""
    if chat.asked_prompt is None and not chat.asked_system and not chat.asked_after_tool:
        return ""
    return _set("asked", "thinking is true" + ("" if options.asked else " and enable_thinking is defined"))


def _set(name: str, expression: str) -> str:
    return f"{{%- set {name} = {expression} -%}}"


def _when(condition: str, body: str, otherwise: str = "") -> str:
    if not body and not otherwise:
        return ""
    return f"{{%- if {condition} -%}}{body}" + (f"{{%- else -%}}{otherwise}" if otherwise else "") + "{%- endif -%}"


def _fill(literal: str, **values: str) -> str:
    """An expression that joins a literal's text with the expressions for its slots."""
    parts = slots(literal)
    terms = [_quote(part) if number % 2 == 0 else values[part] for number, part in enumerate(parts)]
    return " + ".join(term for term in terms if term != "''") or "''"


def _number(given: str, counter: str) -> str:
    return f"({given} if {given} else ('00000000' ~ {counter})[-9:])"


def _tool_list(tool_format: JsonToolFormat) -> str:
    if tool_format.listing is not None:
        macros, body = (part.strip() for part in tool_format.listing)
        return "\n".join([macros, "{%- macro tool_list() -%}", body, "{%- endmacro -%}"])
    indent = "" if tool_format.indent is None else f"indent={tool_format.indent}"
    wrapped = f"{{'type': 'function', 'function': function}} | tojson({indent})"
    one = _fill(tool_format.tool, tool=f"({wrapped})", function=f"(function | tojson({indent}))", name="function.name")
    return "\n".join(
        [
            "{%- macro tool_list() -%}",
            _emit(_quote(tool_format.head)),
            "{%- for tool in tools -%}",
            _set("function", "tool.function if tool.function is defined else tool"),
            _when("not loop.first", _emit(_quote(tool_format.join))),
            _emit(one),
            "{%- endfor -%}",
            _emit(_quote(tool_format.tail)),
            "{%- endmacro -%}",
        ]
    )


def _prefix(chat: ChatTemplate) -> str:
    plain = _emit(_quote(chat.prefix))
    return plain if chat.prefix_with_tools is None else _when("tools", _emit(_quote(chat.prefix_with_tools)), plain)


def _opening(chat: ChatTemplate) -> str:
    """The leading system text: written, or kept in ``merged`` for the first user turn."""
    default = _quote(chat.default_system or "")
    given = "ns.given" if chat.default_system is None else "true"
    if chat.default_system is not None and not chat.default_beside_tools:
        default, given = f"('' if tools else {default})", "(ns.given or not tools)"
    in_system = chat.tools_in in ("system", "before_system")
    tools_turn = _emit(_fill(chat.tools_turn, content="tool_list()"))
    one = "(text(message) | trim)" if "system" in chat.strip else "text(message)"
    every = chat.gather_system is not None
    leads = "message.role == 'system'" + ("" if every else " and loop.first")
    leads += f" and {one}" if chat.skip_empty_system else ""
    joined = f"(ns.opening + {_quote(chat.gather_system or '')} if ns.given else '') + {one}" if every else one
    lines = [
        _when("tools", tools_turn) if chat.tools_in == "turn_before_system" else "",
        "{%- for message in messages -%}",
        _when(
            leads,
            _set("ns.opening", joined) + _set("ns.given", "true"),
        ),
        "{%- endfor -%}",
        _set("opening", f"ns.opening if ns.given else {default}"),
    ]
    if chat.tools_in == "before_system":
        joined = f"tool_list() + ({_quote(chat.tools_join)} + opening if opening else '')"
        lines.append(_when("tools", _set("opening", joined)))
    elif in_system:
        joined = f"(opening + {_quote(chat.tools_join)} if {given} else '') + tool_list()"
        lines.append(_when("tools", _set("opening", joined)))
    condition = f"{given} or tools" if in_system else given
    if chat.asked_system:
        lines.append(_when("asked", _set("opening", f"{_quote(chat.asked_system)} + opening")))
        condition += " or asked"
    if chat.merge_system is not None:
        lines.append(_set("merged", "''"))
        lines.append(_when(condition, _set("merged", _fill(chat.merge_system, content="opening"))))
    else:
        plain = _emit(_fill(chat.first_system or chat.system, content="opening"))
        if chat.first_system_with_tools is not None:
            plain = _when("tools", _emit(_fill(chat.first_system_with_tools, content="opening")), plain)
        if chat.tools_alone is not None:
            plain = _when(f"not ({given})", _emit(_fill(chat.tools_alone, content="opening")), plain)
        lines.append(_when(condition, plain, _emit(_quote(chat.no_system))))
    if chat.tools_in == "turn_after_system":
        lines.append(_when("tools", tools_turn))
    return "\n".join(line for line in lines if line)


def _opening_without_media(chat: ChatTemplate) -> str:
    refused = _when(
        "messages and messages[0].role == 'system'",
        "{{- raise_exception('a conversation with media cannot have a system text') -}}",
    )
    return has_media() + "\n" + _when("ns.media", refused, _opening(chat))


def _late_system(chat: ChatTemplate) -> str:
    if chat.gather_system is not None:
        return ""
    if chat.merge_system is not None:
        body = "{{- raise_exception('a system message can only come first') -}}"
    else:
        body = _emit(_fill(chat.system, content="content"))
    return _when("loop.index0 > 0", body)


def _user(chat: ChatTemplate) -> str:
    first = _set("content", "merged + content") if chat.merge_system is not None else ""
    if chat.tools_in == "first_user":
        first += _when("tools", _set("content", "tool_list() + content"))
    lines = [_when("loop.index0 == ns.first_user", first)]
    if chat.tools_in == "before_last_user":
        lines.append(_when("tools and loop.index0 == ns.last_user", _emit("tool_list()")))
    if "user_turn" in chat.strip:
        lines.append(_set("content", "content | trim"))
    if chat.user_no_thinking:
        lines.append(_when("not thinking", _set("content", f"content + {_quote(chat.user_no_thinking)}")))
    lines.append(_emit(_fill(chat.user, content="content")))
    return "\n".join(line for line in lines if line)


def _header(chat: ChatTemplate, after_tool: str) -> str:
    if chat.generation_after_tool is None:
        return _emit(_quote(chat.generation))
    return _when(f"not ({after_tool})", _emit(_quote(chat.generation)), _emit(_quote(chat.generation_after_tool)))


def _assistant(chat: ChatTemplate, tool_format: JsonToolFormat) -> str:
    before, _, after = slots(chat.assistant)
    lines = [
        _header(chat, _AFTER_TOOL),
        _thought(chat),
        _emit(_quote(before)),
        "{{- thought -}}" if chat.thought else "",
        _when("content or not message.tool_calls", _emit(_quote(chat.text_start))),
        "{{- content -}}",
        _set("ns.names", "[]"),
        _when("message.tool_calls", _calls(tool_format)),
        _assistant_end(chat, after),
    ]
    return "\n".join(line for line in lines if line)


def _assistant_end(chat: ChatTemplate, after: str) -> str:
    text = _emit(_quote(after))
    if chat.end:
        text = _when("loop.last and not add_generation_prompt", _emit(_quote(chat.end)), text)
    text += _emit(_quote(chat.gap))
    return text if chat.calls_end is None else _when("message.tool_calls", _emit(_quote(chat.calls_end)), text)


def _thought(chat: ChatTemplate) -> str:
    if chat.thought is None:
        return ""
    opening, closing = (_quote(word.strip()) for word in chat.thought)
    before = f"content.split({closing})[0].rstrip('\\n').split({opening})[-1].lstrip('\\n')"
    here = "true" if chat.keep_thoughts else "(preserve or loop.index0 > ns.last_user)"
    empty = {"last": "loop.last", "open": "true", "never": "false"}[chat.empty_thought]
    if chat.generation_after_tool is not None:
        empty += f" and not ({_AFTER_TOOL})"
    dropped = _quote(chat.no_thought)
    if chat.generation_after_tool is not None and chat.no_thought:
        dropped = f"'' if {_AFTER_TOOL} else {dropped}"
    shown = f"{here} and (reasoning or {empty})"
    reasoning = "(reasoning | trim)" if "thought" in chat.strip else "reasoning.strip('\\n')"
    written = f"{_quote(chat.thought[0])} + {reasoning} + {_quote(chat.thought[1])}"
    return "\n".join(
        [
            _set("reasoning", "''"),
            _set("thought", dropped),
            "{%- if message.reasoning_content is string -%}",
            _set("reasoning", "message.reasoning_content"),
            f"{{%- elif {closing} in content -%}}",
            _set("reasoning", before),
            _set("content", f"content.split({closing})[-1]" + (".lstrip('\\n')" if "answer" in chat.strip else "")),
            "{%- endif -%}",
            _set("content", "content | trim") if "assistant" in chat.strip else "",
            _when("thinking is false", _set("reasoning", "''")),
            _when(shown, _set("thought", written) + _set("content", "content.lstrip('\\n')")),
        ]
    )


def _calls(tool_format: JsonToolFormat) -> str:
    before, after = tool_format.several
    one = _fill(tool_format.call, name="call.name", arguments="arguments", id=_number("item.id", "ns.calls"))
    lines = [
        _when("content", _emit(_quote(tool_format.content_join))),
        _emit(_quote(tool_format.calls_open)),
        _when("message.tool_calls | length > 1", _emit(_quote(before)) if before else ""),
        "{%- for item in message.tool_calls -%}",
        _set("call", "item.function if item.function is defined else item"),
        _when("not loop.first", _emit(_quote(tool_format.call_join))),
        _arguments(tool_format),
        _emit(one),
        _set("ns.calls", "ns.calls + 1"),
        _set("ns.names", "ns.names + [call.name]"),
        "{%- endfor -%}",
        _when("message.tool_calls | length > 1", _emit(_quote(after)) if after else ""),
        _emit(_quote(tool_format.calls_close)),
    ]
    return "\n".join(line for line in lines if line)


def _arguments(tool_format: JsonToolFormat) -> str:
    if tool_format.argument is None:
        return _set("arguments", "call.arguments if call.arguments is string else call.arguments | tojson")
    value = _VALUES[tool_format.values]
    items = "call.arguments | dictsort" if tool_format.values == "gemma" else "call.arguments.items()"
    one = _fill(tool_format.argument, key="key", value=f"({value})")
    return "\n".join(
        [
            _when("call.arguments is string", "{{- raise_exception('arguments of calls must be an object') -}}"),
            _set("ns.arguments", "''"),
            f"{{%- for key, value in {items} -%}}",
            _when("not loop.first", _set("ns.arguments", f"ns.arguments + {_quote(tool_format.argument_join)}")),
            _set("ns.arguments", f"ns.arguments + {one}"),
            "{%- endfor -%}",
            _set("arguments", "ns.arguments"),
        ]
    )


def _tool(chat: ChatTemplate) -> str:
    opens = "loop.first or messages[loop.index0 - 1].role != 'tool'"
    closes = "loop.last or messages[loop.index0 + 1].role != 'tool'"
    lines = [
        _when(opens, _emit(_quote(chat.tool_open)), _emit(_quote(chat.tool_join))),
        _emit(
            _fill(
                chat.tool,
                content="content",
                json="(content | tojson)",
                name="(ns.names[0] if ns.names else '')",
                id=_number("message.tool_call_id", "ns.answers"),
            )
        ),
        _set("ns.answers", "ns.answers + 1"),
        _set("ns.names", "ns.names[1:]"),
        _when(closes, _emit(_quote(chat.tool_close))),
    ]
    return "\n".join(line for line in lines if line)


def _thought_prompt(chat: ChatTemplate) -> str:
    if chat.thought is None:
        return ""
    closed, opened = _emit(_quote(closed_thought(chat))), _emit(_quote(chat.thought_prompt))
    if chat.asked_prompt is not None:
        opened = _when("asked", _emit(_quote(chat.asked_prompt)), opened)
    body = _when("not thinking", closed, opened) if closed or not opened else _when("thinking", opened)
    if chat.generation_after_tool is None:
        return body
    return _when(
        f"not ({_ENDS_IN_TOOL})",
        body,
        _when("asked", _emit(_quote(chat.asked_after_tool))) if chat.asked_after_tool else "",
    )
