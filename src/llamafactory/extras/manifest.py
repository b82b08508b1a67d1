# SPDX-License-Identifier: Apache-2.0
"""What a run was made of, written beside its weights: enough to repeat it or to see why another differs."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .device import Device
from .environment import rank_number
from .files import write_json
from .packages import version_of
from .secrets import mask_values, mask_words

NAME = "run_manifest.json"
PACKAGES = (
    "llamafactory", "torch", "transformers", "tokenizers", "peft", "accelerate", "datasets", "safetensors", "numpy",
    "pyarrow", "deepspeed", "bitsandbytes", "torchao", "hqq", "optimum-quanto",
    "flash-attn", "liger-kernel", "trl", "gguf", "vllm", "sglang", "ray",
)  # fmt: skip


def write_manifest(
    output_dir: str | os.PathLike[str],
    config: Mapping[str, Any],
    fingerprint: str | Mapping[str, Any] | None,
    *,
    device: Device | None = None,
    seeds: Mapping[str, int | None] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``<output_dir>/run_manifest.json``.

    Args:
        output_dir: The run's folder.
        config: The resolved configuration.
        fingerprint: Hash of the training data, or one for each set.
        device: What the run computes on.
        seeds: Each source of chance and its seed.
        extra: Further facts, such as the attention chosen or the number formats.

    Returns:
        The file written.
    """
    path = Path(output_dir) / NAME
    write_json(
        path,
        {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": mask_words(sys.argv),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "packages": {name: version for name in PACKAGES if (version := version_of(name))},
            "device": asdict(device) if device else None,
            "world_size": rank_number("WORLD_SIZE", 1),
            "seeds": dict(seeds or {}),
            "data_fingerprint": fingerprint
            if isinstance(fingerprint, str) or fingerprint is None
            else dict(fingerprint),
            "config": mask_values(config),
            **(extra or {}),
        },
    )
    return path
