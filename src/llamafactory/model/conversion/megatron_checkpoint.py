# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of Megatron-core as folders that transformers reads, and back, by NVIDIA's Megatron Bridge.

Written against megatron-bridge 0.3.1 (``AutoBridge.import_ckpt``, ``AutoBridge.export_ckpt``), which needs GPUs and
Megatron-core with its extensions. Its checkpoints are of no sizes: whatever number of devices reads them.
"""

from __future__ import annotations

from pathlib import Path

from ...extras.errors import ConfigError
from ...extras.packages import require
from .weight_files import free_folder, require_model

_DTYPES = {(True, False): "bfloat16", (False, True): "float16", (False, False): "auto"}


def convert_megatron(
    checkpoint_path: str, output_path: str, bf16: bool = False, fp16: bool = False, config_path: str = ""
) -> str:
    """Convert in the direction that the input asks for: a folder of transformers becomes Megatron's, any other one's.

    Args:
        checkpoint_path: A folder with ``config.json``, or a checkpoint of Megatron.
        output_path: The new folder.
        bf16: Read weights in bfloat16.
        fp16: Read them in float16.
        config_path: Folder of the model that a checkpoint of Megatron is of: its ``config.json`` and tokenizer.

    Returns:
        What was done.

    Raises:
        ConfigError: The package is missing, or a folder cannot be used.
    """
    if bf16 and fp16:
        raise ConfigError("bf16, fp16: choose one")
    bridge = require("megatron.bridge", "checkpoint_path: converting with Megatron", "megatron-bridge").AutoBridge
    free_folder(output_path, "output_path")
    options = {"torch_dtype": _DTYPES[bf16, fp16]}
    if (Path(checkpoint_path) / "config.json").is_file():
        bridge.import_ckpt(checkpoint_path, output_path, **options)
        return f"Megatron's checkpoint is in {output_path}"
    if not config_path:
        raise ConfigError("config_path: name the folder of the model's config.json and tokenizer")
    bridge.from_hf_pretrained(str(require_model(config_path, "config_path")), **options).export_ckpt(
        checkpoint_path, output_path, strict=True
    )
    return f"the model is in {output_path}"
