# SPDX-License-Identifier: Apache-2.0
"""The one door to chat templates: ``get_template`` binds one to a tokenizer, ``render`` writes text without one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..extras.errors import ConfigError
from ..extras.files import read_text
from ..plugins import names, resolve
from .messages import Message
from .template.base import Options
from .template.chat_template import ChatTemplate, read_literals
from .template.renderer import render_pieces

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from ..hparams.data_args import DataArguments
    from ..hparams.inference_args import ProcessorArguments
    from .template.base import Template

_logger = logging.getLogger(__name__)


class _Templates(Mapping[str, ChatTemplate]):
    """Templates by name; each is imported when it is looked up."""

    def __getitem__(self, name: str) -> ChatTemplate:
        if name not in names("templates"):
            raise KeyError(name)
        chat: ChatTemplate = resolve("templates", name)
        return chat

    def __iter__(self) -> Iterator[str]:
        return iter(names("templates"))

    def __len__(self) -> int:
        return len(names("templates"))


TEMPLATES = _Templates()


def get_template(tokenizer: PreTrainedTokenizerBase, args: DataArguments) -> Template:
    """Choose a template and bind it to a tokenizer.

    Args:
        tokenizer: Its EOS token is replaced when the template's family requires another one that it has.
        args: Reads ``template`` (a name, a ``.jinja`` or ``.yaml`` file, or ``None`` for the tokenizer's own Jinja),
            ``default_system``, ``tool_format``, ``enable_thinking``, ``preserve_thinking``, ``train_on_turn_break``,
            ``parse_special_tokens``.

    Raises:
        ConfigError: No such template, file or tool format, or a Jinja that cannot be compiled.
    """
    template = _bind(tokenizer, args)
    if args.enable_thinking != "default" and not template.has_switch:
        _logger.warning(
            "enable_thinking: template %s has no such switch; the key only says what becomes of thoughts in the data",
            template.name,
        )
    template.trains_turn_break, template.parses_special = args.train_on_turn_break, args.parse_special_tokens
    return template


def take_media(template: Template, processor: Any, limits: ProcessorArguments) -> None:
    """Let the rows that a template encodes have images, videos and sound.

    Args:
        template: From :func:`get_template`.
        processor: The model's; ``None`` = it takes text alone, and so does the template.
        limits: Keys such as ``image_max_pixels``.
    """
    if processor is None:
        return
    import datasets.config

    from .media.decode import MediaLimits
    from .media.encoder import MediaEncoder
    from .template.encoding import EncodingTemplate

    assert isinstance(template, EncodingTemplate)
    try:
        family = template.media_family(processor)
    except ConfigError as error:
        _logger.warning("only text is taken, no media: %s", error)
        return
    store = Path(datasets.config.HF_DATASETS_CACHE, "llamafactory", "media")
    template.take_media(MediaEncoder(processor, family, MediaLimits.of(limits), store))


def _bind(tokenizer: PreTrainedTokenizerBase, args: DataArguments) -> Template:
    from .template.jinja_template import JinjaTemplate
    from .template.literal_template import LiteralTemplate

    flags: dict[str, Any] = thinking_flags(args)
    name = args.template
    if name is None and tokenizer.chat_template:
        _refuse_for_jinja(args)
        return JinjaTemplate(tokenizer, "tokenizer", tokenizer.get_chat_template(), **flags)
    written = name is not None and _is_yaml(name)
    if name is not None and not written and (name.endswith((".jinja", ".jinja2", ".j2")) or os.sep in name):
        _refuse_for_jinja(args)
        return JinjaTemplate(tokenizer, name, read_text(name, "template"), **flags)
    if name is None:
        _logger.warning("template: the tokenizer has no chat template of its own; using 'default'")
    chat: ChatTemplate = read_literals(name) if name and written else resolve("templates", name or "default")
    tool_format = resolve("tool_formats", args.tool_format or chat.tool_format)
    return LiteralTemplate(tokenizer, chat, tool_format, default_system=args.default_system, **flags)


def thinking_flags(data: DataArguments) -> dict[str, bool | None]:
    """What a template is bound with: thinking that nobody spoke of is on, but not asked for."""
    assert data.enable_thinking != "auto", "resolve_thinking settles it first"
    given = data.enable_thinking
    enabled = True if given == "default" else given
    return {"enable_thinking": enabled, "preserve_thinking": data.preserve_thinking, "asked": given is True}


# The name that scripts written for LLaMA-Factory import.
get_template_and_fix_tokenizer = get_template


def render(
    template: str | Template,
    messages: Sequence[Message | dict[str, Any]],
    tools: Sequence[dict[str, Any]] | None = None,
    add_generation_prompt: bool = False,
    **flags: Any,
) -> str:
    """Write a conversation as the text that the model sees, special tokens written out.

    Args:
        template: A name or a ``.yaml`` file, written with the family's usual BOS and EOS; or what :func:`get_template`
            gave, written with its tokenizer's.
        messages: Messages, or OpenAI message dicts.
        tools: OpenAI tool objects.
        add_generation_prompt: End with the start of an assistant turn.
        **flags: ``enable_thinking``, ``preserve_thinking``.

    Raises:
        ConfigError: No such template, or one that has no place for something in the conversation.
    """
    read = [message if isinstance(message, Message) else Message.from_openai(message) for message in messages]
    if not isinstance(template, str):
        return template.render(read, tools or (), add_generation_prompt=add_generation_prompt, **flags)
    chat: ChatTemplate = read_literals(template) if _is_yaml(template) else resolve("templates", template)
    bos, eos = chat.bos_eos
    options = Options(add_generation_prompt=add_generation_prompt)
    if "enable_thinking" in flags:
        options = options.switched(flags["enable_thinking"])
    options = options._replace(**flags)
    bound = chat.with_tokens(bos, chat.eos or eos, "")
    pieces = render_pieces(bound, resolve("tool_formats", chat.tool_format), read, tools or (), options)
    return "".join(piece.text for piece in pieces)


def _is_yaml(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _refuse_for_jinja(args: DataArguments) -> None:
    for key in ("default_system", "tool_format"):
        value = getattr(args, key)
        if value is not None:
            raise ConfigError(f"{key}: {value!r} needs a named template; a Jinja template writes its own text")
