# SPDX-License-Identifier: Apache-2.0
"""At the end of training a PiSSA adapter becomes an ordinary LoRA of the untouched base model."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from ...extras.errors import ConfigError
from ...model.lora_start import save_converted


class PissaConvertCallback(TrainerCallback):
    """What is saved of the model after training is the converted adapter; checkpoints before it stay resumable.

    The key ``pissa_convert`` does the same without this callback.
    """

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Convert on every save from here on.

        Raises:
            ConfigError: The model has no adapter that began as PiSSA.
        """
        if not hasattr(model, "start"):
            raise ConfigError("PissaConvertCallback: the model has no PiSSA adapter; set pissa_init: true")
        save = model.save_pretrained

        def save_pretrained(folder: Any, **options: Any) -> None:
            save(folder, **options)
            save_converted(model, str(folder))

        model.save_pretrained = save_pretrained
