# SPDX-License-Identifier: Apache-2.0
"""An adapter that begins as a part of its base's weights (PiSSA, LoftQ), and beside it the base without that part.

Whoever trains on the two needs to know of neither method: it is a LoRA on a model.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...extras.files import publish_folder
from ...extras.locks import staging_folder
from ..config import read_config
from ..loader import load_model
from ..quantizers.layers import dequantize, is_quantized
from ..tokenizer import load_tokenizer
from .weight_files import free_folder

if TYPE_CHECKING:
    from ...hparams import TrainArgs


def write_residual(args: TrainArgs, output_dir: str, name: str, shard_size: str = "5GB") -> Path:
    """Begin an adapter as the run of ``args`` would, and write base and adapter apart.

    Args:
        args: Of a LoRA with ``pissa_init`` or ``lora_init: loftq``.
        output_dir: The new folder of the base; weights that were rounded are written as the numbers they stand for.
        name: Folder of the adapter in it.
        shard_size: Most bytes a file of weights.

    Returns:
        The adapter's folder.

    Raises:
        ConfigError: The model or a key cannot be used, or the new folder is taken.
    """
    final = free_folder(output_dir, "output_dir")
    tokenizer = load_tokenizer(args.model)
    stored = read_config(args.model).get_text_config().dtype or torch.float32
    exact = replace(args, training=replace(args.training, bf16=False, fp16=False))  # rounded once, at the end
    tuned: Any = load_model(tokenizer, exact)
    config = tuned.peft_config["default"]
    config.init_lora_weights, config.base_model_name_or_path = True, str(final)
    with staging_folder(final, "output_dir") as staging:
        tuned.save_pretrained(staging / name)
        (staging / name / "README.md").unlink(missing_ok=True)  # PEFT's card is about another folder
        base = tuned.unload()
        if is_quantized(base):
            dequantize(base, torch.float32)
        base.to(stored)
        base.config.use_cache = True
        base.save_pretrained(staging, max_shard_size=shard_size)
        tokenizer.save_pretrained(staging)
        publish_folder(staging, final)
    return final / name
