# SPDX-License-Identifier: Apache-2.0
"""The encoder that makes a prompt: an adapter holds only what it made, a resumed run needs the encoder itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from ..extras.errors import in_one_line
from ..extras.logging import is_rank0

_FILE = "prompt_encoder.safetensors"


class PromptState(TrainerCallback):
    """Writes the encoder into each checkpoint, and reads it back."""

    def __init__(self, model: Any) -> None:
        self._encoder = model.prompt_encoder

    def save_progress(self, folder: Path) -> None:
        """Write it beside the adapter."""
        if is_rank0():
            self._write(folder)

    def _write(self, folder: Path) -> None:
        save_file({name: value.contiguous() for name, value in self._encoder.state_dict().items()}, folder / _FILE)

    def load_progress(self, folder: Path) -> None:
        """Go on with the encoder of a checkpoint."""
        with in_one_line(f"resume_from_checkpoint: {folder / _FILE} cannot be read"):
            self._encoder.load_state_dict(load_file(folder / _FILE))
