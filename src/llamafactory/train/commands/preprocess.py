# SPDX-License-Identifier: Apache-2.0
"""``llamafactory-cli preprocess``: the data of a run, made before the run, without its weights or accelerators."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...data.loader import get_dataset
from ...data.processor import (
    ClassificationProcessor,
    EmbeddingProcessor,
    FeedbackProcessor,
    PairwiseProcessor,
    PretrainProcessor,
    Processor,
    PromptProcessor,
    RankingProcessor,
    RolloutProcessor,
    SupervisedProcessor,
)
from ...data.template.thinking import resolve_thinking
from ...data.template_loader import get_template, take_media
from ...extras.errors import ConfigError
from ...hparams import get_train_args
from ...hparams.next_command import next_command
from ...model.processor import load_processor
from ...model.tokenizer import load_tokenizer
from ..batching.packing import settle_packing

if TYPE_CHECKING:
    from ...data.template.base import Template
    from ...hparams import TrainArgs


def run_preprocess(args: Mapping[str, Any] | Sequence[str] | None = None) -> None:
    """Prepare the data of a training configuration; ``train`` with the same configuration then finds it.

    A job that was stopped, by whatever, goes on where it was when it is started again.

    Args:
        args: As for training.

    Raises:
        ConfigError: The configuration or the data is broken.
    """
    train_args = get_train_args(args)
    train_args = replace(train_args, data=replace(resolve_thinking(train_args.data), streaming=False))
    processor = stage_processor(train_args.finetuning.stage)
    train_args = settle_packing(processor, train_args)
    tokenizer, template = tokenizer_and_template(train_args)
    dataset = get_dataset(processor, template, tokenizer, train_args)
    splits = {"train": dataset.train, **{f"evaluation {name}".rstrip(): rows for name, rows in dataset.eval.items()}}
    counts = ", ".join(f"{name} {len(rows):,} rows" for name, rows in splits.items() if rows is not None)
    print(f"prepared: {counts}, in {dataset.folder}")
    if train_args.training.predict_with_generate and dataset.eval:
        get_dataset(PromptProcessor(), template, tokenizer, train_args)
    if args is None:
        print(f"\nnext: {next_command('train', sys.argv[2:])}", flush=True)


def stage_processor(stage: str) -> Processor:
    """The processor of a stage, without importing how the stage trains."""
    processors: dict[str, Processor] = {
        "pt": PretrainProcessor(),
        "sft": SupervisedProcessor(),
        "gkd": SupervisedProcessor(),
        "rm": PairwiseProcessor(),
        "dpo": PairwiseProcessor(),
        "kto": FeedbackProcessor(),
        "ppo": RolloutProcessor(),
        "grpo": RolloutProcessor(),
        "classification": ClassificationProcessor(),
        "embedding": EmbeddingProcessor(),
        "reranker": RankingProcessor(),
    }
    if stage not in processors:
        raise ConfigError(f"stage: the data of {', '.join(processors)} can be prepared, not of {stage}")
    return processors[stage]


def tokenizer_and_template(args: TrainArgs) -> tuple[Any, Template]:
    """Load what rows are encoded with, media among them where the model takes any."""
    tokenizer = load_tokenizer(args.model)
    template = get_template(tokenizer, args.data)
    take_media(template, load_processor(args.model, tokenizer), args.media)
    return tokenizer, template
