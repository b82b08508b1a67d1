# SPDX-License-Identifier: Apache-2.0
"""``llamafactory-cli preview``: rows as the model will see them, made by the code that training uses."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from ...data.loader import get_dataset
from ...data.messages import Message
from ...data.preview import CONTEXT, TRAINED, row_as_json, show_lengths, show_row
from ...data.streaming.rows import StreamRows
from ...data.template.thinking import resolve_thinking
from ...data.template_loader import get_template, render, take_media, thinking_flags
from ...extras.errors import ConfigError
from ...extras.files import read_json
from ...hparams import get_train_args
from ...hparams.data_args import DataArguments
from ...hparams.next_command import next_command
from ...hparams.parser import get_data_args
from ...model.processor import load_processor
from ...model.tokenizer import load_tokenizer
from ..batching.packing import settle_packing
from .preprocess import stage_processor


def run_preview(args: Mapping[str, Any] | Sequence[str] | None = None) -> None:
    """Show features of a training configuration; only the tokenizer is loaded, no weights.

    ``preview_format: text`` prints coloured rows and lengths; ``json`` prints
    one object a row (``input_ids``, ``labels``, ``seq_lens``, ``source``, ``text``, ``stretches``) and nothing else to
    stdout.

    With ``messages`` (a file) and ``template`` (a name) it prints that conversation as text; nothing else is needed.

    Args:
        args: As for training, with ``preview_samples`` and ``preview_format``.

    Raises:
        ConfigError: The configuration or the data is broken.
    """
    words = sys.argv[2:] if args is None else args
    data_args = get_data_args(words)
    if data_args.messages is not None:
        print(_written_out(data_args))
        return
    train_args = get_train_args(words)
    train_args = replace(train_args, data=replace(resolve_thinking(train_args.data), streaming=False))
    processor = stage_processor(train_args.finetuning.stage)
    train_args = settle_packing(processor, train_args)
    tokenizer = load_tokenizer(train_args.model)
    media = load_processor(train_args.model, tokenizer)  # first: the chat template may come with it
    template = get_template(tokenizer, train_args.data)
    take_media(template, media, train_args.media)
    dataset = get_dataset(processor, template, tokenizer, train_args)
    rows = dataset.train if dataset.train is not None else next(iter(dataset.eval.values()))
    assert not isinstance(rows, StreamRows)
    shown = islice(rows, train_args.data.preview_samples)
    if train_args.data.preview_format == "json":
        for row in shown:
            print(row_as_json(row, tokenizer))
        return
    from rich.console import Console

    console = Console()
    console.print(f"[{TRAINED}]trained[/{TRAINED}]  [{CONTEXT}]context[/{CONTEXT}]  template: {template.name}")
    for number, row in enumerate(shown, start=1):
        show_row(row, number, tokenizer, console)
    console.rule(style="blue")
    show_lengths(dataset.report, console)
    if not isinstance(words, Mapping):
        console.print(f"\nnext: {next_command('train', words)}", highlight=False, soft_wrap=True, markup=False)


def _written_out(data: DataArguments) -> str:
    """The conversation in ``messages`` as the model sees it; ends in a prompt if the assistant has not replied yet."""
    if data.template is None:
        raise ConfigError("template: missing, messages are written with a named template")
    if data.enable_thinking == "auto":
        raise ConfigError("enable_thinking: auto looks at a data set; one conversation needs true, false or null")
    assert data.messages is not None
    found = read_json(data.messages, object, "messages")
    found = {"messages": found} if isinstance(found, list) else found
    given = found.get("messages") if isinstance(found, dict) else None
    if not isinstance(given, list) or not all(isinstance(message, dict) for message in given):
        raise ConfigError(f"messages: {data.messages} must hold a list of messages, or messages and tools")
    messages = [Message.from_openai(message) for message in given]
    prompt = bool(messages) and messages[-1].role != "assistant"
    return render(data.template, messages, found.get("tools"), add_generation_prompt=prompt, **thinking_flags(data))
