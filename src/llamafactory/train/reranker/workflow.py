# SPDX-License-Identifier: Apache-2.0
"""Reranking: a score for each document of a query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...data.collators import RankingCollator
from ...data.processor import RankingProcessor
from ...data.streaming.rows import StreamRows
from ...extras.errors import ConfigError
from ...model.heads import REWARD, Head
from ..stage import Stage
from ..workflow import run
from .trainer import RerankerTrainer

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from ...data.loader import DatasetModule
    from ...hparams import TrainArgs


def find_head(args: TrainArgs, dataset: DatasetModule | None) -> Head:
    """Return a score, once the rows were seen to suit the loss.

    Raises:
        ConfigError: Grades are out of range.
    """
    import pyarrow.compute as pc

    most = float("inf") if args.finetuning.reranker_loss == "listwise" else 1.0
    sets: list[Any] = [] if dataset is None else [dataset.train, *dataset.eval.values()]
    for rows in sets:
        if rows is None or isinstance(rows, StreamRows):
            continue
        for chunk in rows.with_format("arrow").data.column("grades").chunks:
            low, high = (float(value) for value in pc.min_max(pc.list_flatten(chunk)).as_py().values())
            if low < 0 or high > most:
                raise ConfigError(
                    f"reranker_loss: {args.finetuning.reranker_loss} takes scores from 0 to {most:g}, and a row has "
                    f"{low if low < 0 else high:.4g}"
                )
    return REWARD


stage = Stage(
    "reranker",
    RankingProcessor(),
    head=find_head,
    trainer=RerankerTrainer,
    collator=RankingCollator,
    chat=False,
    plots=("loss", "eval_loss", "eval_ndcg_at_10", "eval_mrr_at_10"),
)


def run_reranker(args: TrainArgs, callbacks: list[TrainerCallback] | None = None) -> None:
    """Run the training of a reranker; see :func:`llamafactory.train.workflow.run`."""
    run(stage.checked(args), callbacks)
