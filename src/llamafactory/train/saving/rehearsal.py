# SPDX-License-Identifier: Apache-2.0
"""Saving is rehearsed before the first step: everything but the weights, into a folder that is thrown away."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError, first_line, writing
from ...model.generation_config import make_savable

if TYPE_CHECKING:
    from ..trainer import Trainer


def rehearse_saving(trainer: Trainer) -> None:
    """Mend what keeps the model from being saved, and see that the rest of it can be.

    Raises:
        ConfigError: Something cannot be saved; better now than with trained weights in hand.
    """
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    generation = getattr(model, "generation_config", None)
    if generation is not None:
        make_savable(generation)
    if not trainer.args.should_save:
        return
    home = _home(trainer)
    with tempfile.TemporaryDirectory(prefix=".rehearsal-", dir=home) as folder:
        try:
            with writing(home):
                _save_shell(trainer, model, Path(folder))
        except ConfigError:
            raise
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            place = trainer.run_args.model.model_name_or_path
            raise ConfigError(
                f"model_name_or_path: '{place}': the trained model could not be saved: {first_line(error)}"
            ) from error


def _home(trainer: Trainer) -> Path:
    """The run's own folder: what cannot be written there shows now."""
    folder = Path(str(trainer.args.output_dir))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _save_shell(trainer: Trainer, model: Any, folder: Path) -> None:
    if hasattr(model, "peft_config"):
        for config in model.peft_config.values():
            config.save_pretrained(folder)
    else:
        model.config.save_pretrained(folder)
        if getattr(model, "generation_config", None) is not None:
            model.generation_config.save_pretrained(folder)
    trainer.save_texts(folder)
