# SPDX-License-Identifier: Apache-2.0
"""Experiment trackers: which are asked for, whether they are installed, and the run's arguments as their config."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from ...extras.packages import require
from ...hparams import split_list, to_dict
from ...hparams.rules.training import TRACKERS

if TYPE_CHECKING:
    from transformers.trainer_callback import CallbackHandler

    from ...hparams import TrainArgs

_SWANLAB_MODES = {"cloud": "online"}  # what newer versions call it


def trackers(args: TrainArgs) -> list[str]:
    """Return the trackers to report to.

    Raises:
        ConfigError: The package of a tracker is missing.
    """
    given = args.training.report_to
    names = given if isinstance(given, list) else split_list(given)
    chosen = [name for name in names if name not in ("none", "all")]
    if "all" in names:
        chosen = [name for name, module in TRACKERS.items() if importlib.util.find_spec(module)]
    if args.swanlab.use_swanlab and "swanlab" not in chosen:
        chosen.append("swanlab")
    for name in chosen:
        require(TRACKERS[name], f"report_to: {name}")
    if "wandb" in chosen:
        os.environ.setdefault("WANDB_PROJECT", "llamafactory")
    return chosen


def get_swanlab_callback(args: TrainArgs) -> TrainerCallback:
    """Return SwanLab's own callback, set up by the keys ``swanlab_…``; the one in transformers does not fit newer ones.

    Raises:
        ConfigError: SwanLab is not installed.
    """
    require("swanlab", "use_swanlab")
    from swanlab.integration.transformers import SwanLabCallback

    keys = args.swanlab
    if keys.swanlab_api_key:
        os.environ["SWANLAB_API_KEY"] = keys.swanlab_api_key
    if keys.swanlab_lark_webhook_url:
        import swanlab
        from swanlab.plugin.notification import LarkCallback

        lark = LarkCallback(webhook_url=keys.swanlab_lark_webhook_url, secret=keys.swanlab_lark_secret)
        swanlab.register_callbacks([lark])
    callback: TrainerCallback = SwanLabCallback(
        project=keys.swanlab_project,
        workspace=keys.swanlab_workspace,
        experiment_name=keys.swanlab_run_name,
        mode=_SWANLAB_MODES.get(keys.swanlab_mode, keys.swanlab_mode),
        log_dir=keys.swanlab_logdir,
    )
    return callback


class ReporterCallback(TrainerCallback):
    """Sends all argument groups to the trackers' config when training starts.

    Args:
        args: The whole resolved configuration.
        handler: Of the trainer; without it TensorBoard, whose writer belongs to another callback, is left out.
    """

    def __init__(self, args: TrainArgs, handler: CallbackHandler | None = None) -> None:
        self.arguments = to_dict(args)
        self.handler = handler
        self.swanlab = "swanlab" in trackers(args)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        if "wandb" in args.report_to:
            import wandb

            wandb.config.update(self.arguments, allow_val_change=True)
        if "trackio" in args.report_to:
            import trackio

            trackio.config.update(self.arguments)
        if self.swanlab:
            import swanlab

            swanlab.config.update({"framework": "llamafactory", **self.arguments})
        if "mlflow" in args.report_to:
            import mlflow

            for section, values in self.arguments.items():
                mlflow.log_dict(values, f"{section}.json")
        if "tensorboard" in args.report_to:
            self._tensorboard()

    def _tensorboard(self) -> None:
        for writer in _tensorboard_writers(self.handler):
            for section, values in self.arguments.items():
                lines = [f"| {key} | {value} |" for key, value in values.items()]
                writer.add_text(section, "\n".join(["| key | value |", "|---|---|", *lines]))


def _tensorboard_writers(handler: CallbackHandler | None) -> list[Any]:
    found = [getattr(callback, "tb_writer", None) for callback in (handler.callbacks if handler is not None else ())]
    return [writer for writer in found if writer is not None]


def log_texts(names: Sequence[str], handler: CallbackHandler, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Send rows of texts to the trackers that take them.

    Args:
        names: Of the run's trackers.
        handler: Of the trainer.
        step: At which the texts were made.
        rows: The same keys in each.
    """
    columns, texts = list(rows[0]), [[str(value) for value in row.values()] for row in rows]
    for writer in _tensorboard_writers(handler):
        blocks = (
            "\n\n".join(f"**{name}**\n\n{text}" for name, text in zip(columns, row, strict=True)) for row in texts
        )
        writer.add_text("samples", "\n\n---\n\n".join(blocks), step)
    if "wandb" in names:
        import wandb

        wandb.log({"samples": wandb.Table(columns=columns, data=texts), "train/global_step": step})
    if "mlflow" in names:
        import mlflow

        mlflow.log_dict([dict(row) for row in rows], f"samples/step_{step}.json")
    if any(type(callback).__name__ == "SwanLabCallback" for callback in handler.callbacks):
        import swanlab

        swanlab.log({"samples": [swanlab.Text("\n".join(row)) for row in texts]}, step=step)
