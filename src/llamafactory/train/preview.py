# SPDX-License-Identifier: Apache-2.0
"""``llamafactory-cli preview``: rows as the model will see them, made by the code that training uses."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from ..data.loader import get_dataset
from ..data.preview import CONTEXT, TRAINED, row_as_json, show_lengths, show_row
from ..data.processor import (
    FeedbackProcessor,
    PairwiseProcessor,
    PretrainProcessor,
    Processor,
    SupervisedProcessor,
)
from ..data.template import get_template
from ..extras.errors import ConfigError
from ..hparams import get_train_args
from ..model.tokenizer import load_tokenizer


def run_preview(args: Mapping[str, Any] | Sequence[str] | None = None) -> None:
    """Show features of a training configuration; only the tokenizer is loaded, no weights.

    ``preview_format: text`` prints coloured rows and lengths; ``json`` prints
    one object a row (``input_ids``, ``labels``, ``seq_lens``, ``source``, ``text``) and nothing else to stdout.

    Args:
        args: As for training, with ``preview_samples`` and ``preview_format``.

    Raises:
        ConfigError: The configuration or the data is broken.
    """
    words = sys.argv[2:] if args is None else args
    train_args = get_train_args(words)
    tokenizer = load_tokenizer(train_args.model)
    template = get_template(tokenizer, train_args.data)
    dataset = get_dataset(_processor(train_args.finetuning.stage), template, tokenizer, train_args)
    rows = dataset.train if dataset.train is not None else next(iter(dataset.eval.values()))
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
        kept = " ".join(word for word in words if not word.lstrip("-").startswith("preview_"))
        console.print(f"\nnext: llamafactory-cli train {kept}", highlight=False, soft_wrap=True)


def _processor(stage: str) -> Processor:
    processors: dict[str, Processor] = {
        "pt": PretrainProcessor(),
        "sft": SupervisedProcessor(),
        "rm": PairwiseProcessor(),
        "dpo": PairwiseProcessor(),
        "kto": FeedbackProcessor(),
    }
    if stage not in processors:
        raise ConfigError(f"stage: preview shows {', '.join(processors)}, not {stage}")
    return processors[stage]
