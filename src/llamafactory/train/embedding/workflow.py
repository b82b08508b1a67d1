# SPDX-License-Identifier: Apache-2.0
"""Embedding: texts that belong together get vectors that point the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...data.collators import EmbeddingCollator
from ...data.processor import EmbeddingProcessor
from ...data.streaming.rows import StreamRows
from ...extras.errors import ConfigError
from ...model.heads import VECTORS, Head
from ..stage import Stage
from ..workflow import run
from .trainer import EmbeddingTrainer

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from ...data.loader import DatasetModule
    from ...hparams import TrainArgs


def find_head(args: TrainArgs, dataset: DatasetModule | None) -> Head:
    """Return that there is none, once the rows were seen to suit the loss.

    Raises:
        ConfigError: Documents have scores between relevant and not, which InfoNCE does not know.
    """
    sets: list[Any] = [] if dataset is None else [dataset.train, *dataset.eval.values()]
    for rows in sets if args.finetuning.embedding_loss == "infonce" else []:
        if rows is None or isinstance(rows, StreamRows):
            continue
        import pyarrow.compute as pc

        for chunk in rows.with_format("arrow").data.column("grades").chunks:
            odd = [value for value in pc.unique(pc.list_flatten(chunk)).to_pylist() if value not in (0.0, 1.0)]
            if odd:
                raise ConfigError(
                    f"embedding_loss: infonce knows documents that are relevant (1) or not (0), and a row has the "
                    f"score {odd[0]:.4g}; cosent learns the order of scores"
                )
    return VECTORS


stage = Stage(
    "embedding",
    EmbeddingProcessor(),
    head=find_head,
    trainer=EmbeddingTrainer,
    collator=EmbeddingCollator,
    chat=False,
    plots=("loss", "eval_loss", "accuracy", "eval_ndcg_at_10", "eval_mrr_at_10", "eval_spearman"),
)


def run_embedding(args: TrainArgs, callbacks: list[TrainerCallback] | None = None) -> None:
    """Run the training of an embedding model; see :func:`llamafactory.train.workflow.run`."""
    run(stage.checked(args), callbacks)
