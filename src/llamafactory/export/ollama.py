# SPDX-License-Identifier: Apache-2.0
"""Write an Ollama Modelfile for a folder of exported weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..data.template.chat_template import slots
from ..data.template.literal_template import LiteralTemplate
from ..data.template.renderer import thought_prompt
from ..model.config import attention_width
from .gguf.limits import llama_cpp_limits

if TYPE_CHECKING:
    from ..data.template.base import Template


_CACHE_BYTES = 2 * 2**30
_LEAST_CONTEXT = 4096


def context_length(config: Any) -> int:
    """The model's own length in tokens, or that which llama.cpp can compute rightly.

    It is less where the key/value cache in half precision would take over 2 GiB.

    Args:
        config: A transformers config.
    """
    text = config.get_text_config(decoder=True)
    longest = max(int(getattr(text, "max_position_embeddings", None) or 0), 0) or _LEAST_CONTEXT
    longest = llama_cpp_limits(text).context or longest
    _, width = attention_width(text)
    if not width:  # nothing is kept of each token
        return longest
    token_bytes = 2 * 2 * text.num_hidden_layers * width
    return min(longest, max(_LEAST_CONTEXT, _CACHE_BYTES // token_bytes // 1024 * 1024))


def modelfile(template: Template, num_ctx: int = 4096, weights: str = ".", end_ids: Sequence[int] = ()) -> str:
    """The Modelfile of a model whose weights lie beside it.

    Tools are left out: Ollama reads and writes calls in its own way. For a template that is Jinja there is no TEMPLATE;
    Ollama then takes what it knows of the model's family.

    Args:
        template: The template that the model was trained with.
        num_ctx: Context length in tokens.
        weights: A GGUF file, or the folder of the weights.
        end_ids: Tokens that end an answer beside those of the template.
    """
    lines = [f"FROM {weights}", ""]
    stops = template.tokenizer.convert_ids_to_tokens(list(dict.fromkeys([*template.stop_token_ids, *end_ids])))
    if isinstance(template, LiteralTemplate):
        lines += [f'TEMPLATE """{_go_template(template)}"""', ""]
        if template.chat.default_system:
            lines += [f'SYSTEM """{template.chat.default_system}"""', ""]
        stops += [word for word in template.chat.stop if word not in stops]
    lines += [f"PARAMETER stop {_quoted(stop)}" for stop in stops]
    lines.append(f"PARAMETER num_ctx {num_ctx}")
    return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    """A value in quotes; one that spans lines or holds a quote needs three of them, for there are no escapes."""
    return f'"""{value}"""' if "\n" in value or '"' in value else f'"{value}"'


def _go_template(template: LiteralTemplate) -> str:
    """The chat format in Go's template language; without BOS, which Ollama writes itself."""
    chat, bos = template.chat, template.tokenizer.bos_token or ""

    def fill(literal: str, value: str) -> str:
        return "".join(part if number % 2 == 0 else value for number, part in enumerate(slots(literal)))

    prompt = chat.generation
    if chat.thought is not None:
        prompt += thought_prompt(chat, template.options)
    prefix = chat.prefix.removeprefix(bos)
    content = "{{ .Content }}"
    if chat.merge_system is not None:
        opening = "{{ $system := .System }}"
        merged = fill(chat.merge_system, "{{ $system }}")
        user = fill(
            chat.user if chat.prefix else chat.user.removeprefix(bos),
            "{{ if $system }}" + merged + "{{ end }}" + content,
        )
        user += '{{ $system = "" }}'
        if bos and not chat.prefix and chat.user.startswith(bos):  # every turn opens with it; the first one by Ollama
            opening += '{{ $bos := "" }}'
            user = "{{ $bos }}" + user + f'{{{{ $bos = "{bos}" }}}}'
    else:
        first = chat.first_system or chat.system
        opening = "{{ if .System }}" + fill(first, "{{ .System }}")
        missing = fill(first, "") if chat.default_system == "" else chat.no_system
        opening += ("{{ else }}" + missing if missing else "") + "{{ end }}"
        if template.options.asked and chat.asked_system:
            opening = fill(first, chat.asked_system + "{{ .System }}")
        user = fill(chat.user, content)
    assistant = fill(chat.assistant, chat.no_thought + chat.text_start + content)
    turns = {
        "user": user,
        "assistant": chat.generation + assistant + chat.gap,
        "tool": chat.tool_open + fill(chat.tool, content) + chat.tool_close,
    }
    branches = "{{ else ".join(f'if eq .Role "{role}" }}}}{text}' for role, text in turns.items())
    last = '{{ if and (eq (len (slice $.Messages $i)) 1) (ne .Role "assistant") }}' + prompt + "{{ end }}"
    loop = "{{ range $i, $_ := .Messages }}{{ " + branches + "{{ end }}" + last + "{{ end }}"
    return prefix + opening + loop
