# SPDX-License-Identifier: Apache-2.0
"""Entry points of the room: train a model, export a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import TrainerCallback

Source = Mapping[str, Any] | Sequence[str] | None


def run_exp(args: Source = None, callbacks: list[TrainerCallback] | None = None) -> None:
    """Train as the configuration says.

    Args:
        args: Flat keys as a dict, command-line words, or None for this process's ``sys.argv[2:]``.
        callbacks: Further callbacks of transformers' Trainer.

    Raises:
        ConfigError: Anything the user can mend; one line.
    """
    from ..hparams import get_train_args, read_args

    train_args = get_train_args(args)
    if train_args.ray.use_ray:
        from .ray.launch import train_on_ray

        return train_on_ray(train_args, _training_function, {"args": read_args(args), "callbacks": callbacks})
    _training_function({"args": args, "callbacks": callbacks})


def _training_function(config: dict[str, Any]) -> None:
    """Train in this process, one of Ray's workers or not.

    Args:
        config: ``args`` and ``callbacks``, as for :func:`run_exp`.
    """
    from ..extras.errors import ConfigError
    from ..extras.logging import end_bars
    from ..hparams import get_train_args

    args = get_train_args(config.get("args"))  # before torch is imported: a mistyped key is an error at once
    if not (args.training.do_train or args.training.do_eval or args.training.do_predict):
        raise ConfigError("do_train: false, and neither do_eval nor do_predict: there is nothing to do")

    import torch.distributed as dist

    from .saving.checkpoints import own_output_dir
    from .workflow import run

    try:
        with own_output_dir(str(args.training.output_dir)):
            run(args, config.get("callbacks"))
    finally:
        end_bars()
        if dist.is_initialized():
            dist.destroy_process_group()


def export_model(args: Source = None) -> None:
    """Merge, prove and write a model for others to load; see :func:`llamafactory.export.export.run_export`."""
    from ..export.export import run_export

    run_export(args)
