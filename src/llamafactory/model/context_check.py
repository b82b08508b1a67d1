# SPDX-License-Identifier: Apache-2.0
"""Whether several processes can share a model's rows, before its weights are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..extras.errors import ConfigError
from .config import language_class, takes_media
from .context_parallel import KEY, require_heads
from .families.family import isolation
from .loader import base_config, will_isolate

if TYPE_CHECKING:
    from ..hparams import TrainArgs


def check_model(args: TrainArgs) -> None:
    """Refuse, by its configuration alone, a model whose rows cannot be shared.

    Raises:
        ConfigError: It is such a model.
    """
    size = args.training.context_parallel_size
    if size == 1:
        return
    config = base_config(args, trainable=True)
    text = config.get_text_config()
    kind = language_class(config)._model_mapping.get(type(config), None)
    why = None
    if takes_media(config):
        why = "it takes media"
    elif getattr(text, "output_router_logits", False):
        why = "the balance of its experts is judged over whole rows"
    elif kind is None:
        why = "its attention is remote code"
    elif not (can := isolation(kind, text)).works:
        why = can.reason
    elif not will_isolate(args.model):
        why = f"flash_attn: {args.model.flash_attn} has no exchange; leave it out"
    if why:
        raise ConfigError(f"{KEY}: {size}: this model's rows cannot be shared by processes: {why}")
    key_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    require_heads(text.num_attention_heads, key_heads, size)
