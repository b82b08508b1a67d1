# SPDX-License-Identifier: Apache-2.0
"""Which adapters vLLM serves as they are. It checks some of this late, and some by a traceback (seen with 0.32)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..extras.errors import ConfigError
from .adapter_config import read_adapter_values

_ENTIRE = {
    "use_dora": "DoRA",
    "lora_bias": "trained biases (lora_bias)",
    "modules_to_save": "modules trained whole (additional_target)",
    "trainable_token_indices": "trained rows of tokens",
    "alora_invocation_tokens": "invocation tokens",
}
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")


def why_not_in_vllm(values: dict[str, Any], most_rank: int) -> str | None:
    """Return what vLLM does not take of an adapter with this configuration, or None.

    Args:
        values: Of ``adapter_config.json``.
        most_rank: ``vllm_max_lora_rank``.
    """
    if values.get("peft_type") != "LORA":
        return f"adapters of type {values.get('peft_type')}"
    start = values.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        return f"adapters that begin as {str(start).partition('_')[0]} and are not written as a plain LoRA"
    parts = [what for field, what in _ENTIRE.items() if values.get(field)]
    if parts:
        return parts[0]
    experts = 2 if values.get("target_parameters") else 1  # gate and up of an expert are one matrix
    rank = experts * max([values.get("r", 8), *(values.get("rank_pattern") or {}).values()])
    return f"ranks above vllm_max_lora_rank: {most_rank} (this one needs {rank})" if rank > most_rank else None


def require_for_vllm(folder: str | Path, key: str, most_rank: int) -> None:
    """Refuse an adapter that vLLM would refuse late, or serve wrongly.

    Raises:
        ConfigError: It is one; says the cure.
    """
    why = why_not_in_vllm(read_adapter_values(folder, key), most_rank)
    if why:
        merged = "infer_backend: huggingface serves it, and `llamafactory-cli export` merges it where that can be"
        raise ConfigError(f"{key}: '{folder}': vllm does not take {why}; {merged}")
