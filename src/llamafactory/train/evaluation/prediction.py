# SPDX-License-Identifier: Apache-2.0
"""Responses to the prompts of evaluation sets: generated, scored against the references and written down."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from transformers import GenerationConfig

from ...data.collators import PromptCollator
from ...data.loader import get_dataset
from ...data.processor import PromptProcessor
from ...extras.files import write_atomic
from ...extras.text_metrics import NAMES, text_scores
from ...model import eval_mode, generation_attention
from ...model.media_inputs import prompt_inputs

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from ...data.media.tensors import BatchMedia
    from ...data.template.base import Template
    from ...hparams import TrainArgs


class Response(NamedTuple):
    """What the model wrote to the prompt of a row, and what the row itself has there."""

    row: int
    prompt: str
    text: str
    label: str


def prompt_sets(template: Template, tokenizer: Any, args: TrainArgs) -> dict[str, Any]:
    """Return the evaluation sets as prompts (``input_ids``, ``reference``), by name."""
    return get_dataset(PromptProcessor(), template, tokenizer, args).eval


def prompt_batches(rows: Any, args: TrainingArguments) -> list[list[int]]:
    """Return the numbers of this rank's prompts, a batch each.

    All ranks have as many batches, for a sharded model generates on all at once; one without prompts is empty.
    """
    size, most = args.per_device_eval_batch_size, -(-len(rows) // args.world_size)
    mine = list(range(args.process_index, len(rows), args.world_size))
    return [mine[start : start + size] for start in range(0, most, size)]


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: Any,
    rows: Any,
    batches: Iterable[Sequence[int]],
    config: GenerationConfig,
    *,
    skip_special_tokens: bool,
    seed: int,
    autocast: Callable[[], AbstractContextManager[Any]],
    media: BatchMedia | None = None,
) -> Iterator[Response]:
    """Yield the responses to left-padded batches of prompts.

    Args:
        model: A language model without wrappers of distributed training.
        tokenizer: Of the model.
        rows: Prompt features.
        batches: Numbers of rows.
        config: From :func:`generation_config`.
        skip_special_tokens: Leave them out of prompts and responses.
        seed: Of the draws, which must not depend on how far training is, nor change the dropout that follows.
        autocast: Gives the context of the arithmetic of one batch.
        media: Makes the tensors of the images, videos and sound of rows; ``None`` = there are none.
    """
    collate = PromptCollator(tokenizer, media)
    with eval_mode(model), generation_attention(model), torch.random.fork_rng():
        torch.manual_seed(seed)
        for indices in batches:
            batch = [rows[index] for index in indices or [0]]
            inputs = prompt_inputs(model, collate(batch))
            with autocast():
                output = model.generate(**inputs, generation_config=config)
            decode = tokenizer.batch_decode
            texts = decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=skip_special_tokens)
            if not indices:  # nobody asked: the other ranks generate
                continue
            prompts = decode([row["input_ids"] for row in batch], skip_special_tokens=skip_special_tokens)
            for index, row, prompt, text in zip(indices, batch, prompts, texts, strict=True):
                yield Response(index, prompt, text, row["reference"])


def generation_config(args: TrainArgs, tokenizer: Any, template: Template) -> GenerationConfig:
    """Return how responses to evaluation sets are generated."""
    generating = args.generating
    beams = args.data.eval_num_beams or args.training.generation_num_beams or generating.num_beams
    length = {"max_new_tokens": generating.max_new_tokens} if generating.max_new_tokens > 0 else {}
    if not length:
        length = {"max_length": args.training.generation_max_length or generating.max_length}
    sampling = {"temperature": generating.temperature, "top_p": generating.top_p, "top_k": generating.top_k}
    return GenerationConfig(
        do_sample=generating.do_sample,
        num_beams=beams,
        repetition_penalty=generating.repetition_penalty,
        eos_token_id=template.stop_token_ids or tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
        **({"length_penalty": generating.length_penalty} if beams > 1 else {}),
        **(sampling if generating.do_sample else {}),
        **length,
    )


def score(
    responses: Iterable[Response], args: TrainingArguments, prefix: str, path: Path | None = None, legacy: bool = False
) -> dict[str, float]:
    """Return mean BLEU-4 and ROUGE over the responses of all ranks.

    Args:
        responses: Of this rank.
        args: Process, processes, device.
        prefix: Of the metrics' names.
        path: Where the responses go, row by row as they come; None = they are only scored.
        legacy: Count as LLaMA-Factory does.
    """
    scores: list[dict[str, float]] = []
    part = None if path is None else path if args.world_size == 1 else _part(path, args.process_index)
    with nullcontext() if part is None else part.open("w", encoding="utf-8") as file:
        for response in responses:
            scores.append(text_scores(response.text, response.label, legacy))
            if file is not None:
                row: dict[str, Any] = {"prompt": response.prompt, "predict": response.text, "label": response.label}
                row = row if args.world_size == 1 else {"index": response.row, **row}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()
    if args.world_size > 1:
        dist.barrier()
        if path is not None and args.process_index == 0:
            _join(path, args.world_size)
    return {f"{prefix}_{name}": value for name, value in _mean_over_ranks(scores, args.device).items()}


def _mean_over_ranks(scores: list[dict[str, float]], device: torch.device) -> dict[str, float]:
    """Return the mean of each score over the rows of all ranks."""
    sums = torch.tensor([sum(row[name] for row in scores) for name in NAMES] + [len(scores)], dtype=torch.float64)
    sums = sums.to(device)
    if dist.is_initialized():
        dist.all_reduce(sums)
    *totals, count = sums.tolist()
    return {name: round(total / max(count, 1), 4) for name, total in zip(NAMES, totals, strict=True)}


def _part(path: Path, rank: int) -> Path:
    return path.with_name(f".{path.name}.{rank}")


def _join(path: Path, ranks: int) -> None:
    parts = [_part(path, rank) for rank in range(ranks)]
    rows = [json.loads(line) for part in parts for line in part.read_text("utf-8").splitlines()]
    rows.sort(key=lambda row: row.pop("index"))
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    for part in parts:
        part.unlink()
