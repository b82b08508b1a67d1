# SPDX-License-Identifier: Apache-2.0
"""What to type after an export."""

from __future__ import annotations

import shlex
from pathlib import Path

from ..hparams.stages import WITHOUT_TEXT


def next_commands(final: Path, stage: str = "sft") -> str:
    """Return the commands; a model that does not write is served, a classifier is for pipelines."""
    commands = [["llamafactory-cli", "chat", "--model_name_or_path", str(final)]]
    if stage in WITHOUT_TEXT:
        commands = [["llamafactory-cli", "api", "--stage", stage, "--model_name_or_path", str(final)]]
    if stage == "classification":
        commands = [["python", "-c", f"import transformers as t; print(t.pipeline(model={str(final)!r})('Hello'))"]]
    if (final / "Modelfile").exists():
        commands.append(["ollama", "create", final.name, "-f", str(final / "Modelfile")])
    return "Next:\n  " + "\n  ".join(map(shlex.join, commands))
