# SPDX-License-Identifier: Apache-2.0
"""Generate answers for the evaluation sets, score them against the references and write them down."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from transformers import GenerationConfig

from ...data.collators import PromptCollator
from ...data.loader import get_dataset
from ...data.processor import PromptProcessor
from ...extras.errors import ConfigError
from ...extras.files import write_atomic
from ...extras.text_metrics import NAMES, text_scores
from ...model import generation_attention

if TYPE_CHECKING:
    from ...hparams import TrainArgs
    from ..trainer import Trainer

FILE_NAME = "generated_predictions.jsonl"


def predict(trainer: Trainer, args: TrainArgs) -> None:
    """Write ``generated_predictions.jsonl`` {prompt, predict, label}, row by row, and ``predict_results.json``."""
    sets = trainer.prompts
    if not sets:
        raise ConfigError("do_predict: there is no evaluation data; give eval_dataset or val_size")
    output_dir = Path(trainer.args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    metrics: dict[str, float] = {}
    for name, rows in sets.items():
        path = output_dir / (FILE_NAME if not name or len(sets) == 1 else f"generated_predictions_{name}.jsonl")
        metrics |= generate_and_score(trainer, rows, f"predict_{name}" if name else "predict", path)
    trainer.callback_handler.on_predict(trainer.args, trainer.state, trainer.control, metrics)
    trainer.report("predict", metrics)


def prompt_sets(trainer: Trainer) -> dict[str, Any]:
    """Return the evaluation sets as prompts (``input_ids``, ``reference``), by name."""
    return get_dataset(PromptProcessor(), trainer.template, trainer.processing_class, trainer.run_args).eval


def generate_and_score(trainer: Trainer, rows: Any, prefix: str, path: Path | None = None) -> dict[str, float]:
    """Generate an answer for each row, over all ranks, and return mean BLEU-4 and ROUGE.

    Args:
        trainer: Gives model, tokenizer, template and device.
        rows: Prompt features.
        prefix: Of the metrics' names.
        path: Where the answers go; None = they are only scored.
    """
    rank, ranks = trainer.args.process_index, trainer.args.world_size
    part = None if path is None else path if ranks == 1 else path.with_name(f".{path.name}.{rank}")
    scores: list[dict[str, float]] = []
    file = None if part is None else part.open("w", encoding="utf-8")
    try:
        for index, prompt, answer, label in _answers(trainer, rows, rank, ranks):
            scores.append(text_scores(answer, label))
            if file is not None:
                row = {"prompt": prompt, "predict": answer, "label": label}
                file.write(json.dumps(row if ranks == 1 else {"index": index, **row}, ensure_ascii=False) + "\n")
                file.flush()
    finally:
        if file is not None:
            file.close()
    if ranks > 1:
        dist.barrier()
        if path is not None and rank == 0:
            _join(path, ranks)
    return {f"{prefix}_{name}": value for name, value in _mean_over_ranks(scores, trainer.args.device).items()}


def _mean_over_ranks(scores: list[dict[str, float]], device: torch.device) -> dict[str, float]:
    """Return the mean of each score over the rows of all ranks."""
    sums = torch.tensor([sum(row[name] for row in scores) for name in NAMES] + [len(scores)], dtype=torch.float64)
    sums = sums.to(device)
    if dist.is_initialized():
        dist.all_reduce(sums)
    *totals, count = sums.tolist()
    return {name: round(total / max(count, 1), 4) for name, total in zip(NAMES, totals, strict=True)}


def _join(path: Path, ranks: int) -> None:
    parts = [path.with_name(f".{path.name}.{rank}") for rank in range(ranks)]
    rows = [json.loads(line) for part in parts for line in part.read_text("utf-8").splitlines()]
    rows.sort(key=lambda row: row.pop("index"))
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    for part in parts:
        part.unlink()


@torch.no_grad()
def _answers(trainer: Trainer, rows: Any, rank: int, ranks: int) -> Iterator[tuple[int, str, str, str]]:
    """Yield (row, prompt, answer, reference) of this rank's rows, generated in left-padded batches."""
    model, tokenizer = trainer.accelerator.unwrap_model(trainer.model), trainer.processing_class
    collate, config = PromptCollator(tokenizer), _generation_config(trainer)
    size, mine = trainer.args.per_device_eval_batch_size, list(range(rank, len(rows), ranks))
    batches = [mine[start : start + size] for start in range(0, len(mine), size)]
    trainer.callback_handler.eval_dataloader = batches
    skip = trainer.run_args.generating.skip_special_tokens
    was_training = model.training
    model.eval()
    # Sampling must not depend on how far training is, nor change the dropout that follows.
    with generation_attention(model), torch.random.fork_rng():
        torch.manual_seed(trainer.args.seed)
        for indices in batches:
            batch = [rows[index] for index in indices]
            inputs = {name: tensor.to(trainer.args.device) for name, tensor in collate(batch).items()}
            with trainer.accelerator.autocast():
                output = model.generate(**inputs, generation_config=config)
            answers = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=skip)
            prompts = tokenizer.batch_decode([row["input_ids"] for row in batch], skip_special_tokens=skip)
            for index, row, prompt, answer in zip(indices, batch, prompts, answers, strict=True):
                yield index, prompt, answer, row["reference"]
            trainer.callback_handler.on_prediction_step(trainer.args, trainer.state, trainer.control)
    if was_training:
        model.train()


def _generation_config(trainer: Trainer) -> GenerationConfig:
    args, tokenizer = trainer.run_args, trainer.processing_class
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
        eos_token_id=trainer.template.stop_token_ids or tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
        **({"length_penalty": generating.length_penalty} if beams > 1 else {}),
        **(sampling if generating.do_sample else {}),
        **length,
    )
