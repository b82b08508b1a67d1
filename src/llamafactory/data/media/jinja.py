# SPDX-License-Identifier: Apache-2.0
"""The text of a message with media in it, as Jinja: the twin of `placement.mark_media`."""

from __future__ import annotations

from collections.abc import Sequence

from .families import KINDS, MediaFamily

# Names of parts in the requests of OpenAI clients.
_ALSO = {"image": "image_url", "video": "video_url", "audio": "input_audio"}
_LEADING = {
    "never": "",
    "always": "{%- set parts = (parts | rejectattr('type', 'equalto', 'text') | list)"
    " + (parts | selectattr('type', 'equalto', 'text') | list) -%}\n",
    "pair": "{%- if parts | length == 2 and parts[0].type == 'text' and parts[1].type != 'text' -%}\n"
    "{%- set parts = [parts[1], parts[0]] -%}\n{%- endif -%}\n",
}


def media_text(family: MediaFamily, stripped: Sequence[str]) -> str:
    """The macro ``text(message)`` of a template whose messages may hold media.

    Args:
        family: What stands for a medium.
        stripped: Roles whose text loses white space at both ends.
    """
    kinds = [kind for kind in KINDS if getattr(family, kind) is not None]
    counters = ", ".join(f"{kind}=0" for kind in kinds)
    trim = f"{{%- if mixed and message.role in {list(stripped)} -%}}{{{{- part.text | trim -}}}}{{%- else -%}}"
    text = "{{- part.text -}}"
    shown = f"{trim}{text}{{%- endif -%}}" if family.strip_parts and stripped else text
    join = f"{{%- if mixed and not loop.first -%}}{{{{- {quote(family.join)} -}}}}{{%- endif -%}}\n"
    return (
        f"{{%- set number = namespace({counters}) -%}}\n"
        "{%- macro text(message) -%}\n"
        "{%- if message.content is string -%}{{- message.content -}}\n"
        "{%- elif message.content -%}\n"
        "{%- set parts = message.content -%}\n"
        "{%- set mixed = parts | rejectattr('type', 'equalto', 'text') | list | length > 0 -%}\n"
        f"{_LEADING[family.leading]}"
        "{%- for part in parts -%}\n"
        f"{join if family.join else ''}"
        f"{{%- if part.type == 'text' -%}}{shown}\n"
        f"{''.join(_placeholder(family, kind) for kind in kinds)}"
        "{%- else -%}{{- raise_exception('this template has no place for ' + part.type) -}}\n"
        "{%- endif -%}\n{%- endfor -%}\n{%- endif -%}\n{%- endmacro -%}"
    )


def has_media() -> str:
    """Sets ``ns.media``: whether any message holds a medium."""
    return (
        "{%- set ns.media = false -%}\n{%- for message in messages -%}\n"
        "{%- if message.content and message.content is not string"
        " and message.content | rejectattr('type', 'equalto', 'text') | list -%}\n"
        "{%- set ns.media = true -%}\n{%- endif -%}\n{%- endfor -%}"
    )


def _placeholder(family: MediaFamily, kind: str) -> str:
    before, _, after = getattr(family, kind).partition("{{number}}")
    written = quote(before + after)
    if before + after != getattr(family, kind):
        written = f"{quote(before)} + (number.{kind} | string) + {quote(after)}"
    return (
        f"{{%- elif part.type in ['{kind}', '{_ALSO[kind]}'] -%}}"
        f"{{%- set number.{kind} = number.{kind} + 1 -%}}{{{{- {written} -}}}}\n"
    )


def quote(text: str) -> str:
    """A text as a literal of Jinja."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"
