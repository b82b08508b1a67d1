# SPDX-License-Identifier: Apache-2.0
"""How long a sequence vLLM may hold before it computes other positions than the model was trained with.

Seen with vLLM 0.32 against transformers: ``dynamic`` scaling is right up to the original length, wrong beyond it, then
nan; ``longrope`` takes the long factors for every prompt as soon as the engine's own length is above the original one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..extras.errors import ConfigError
from ..extras.logging import get_logger
from ..hparams.inference_args import engine_settings
from .config import read_config
from .rope import rope_kinds

if TYPE_CHECKING:
    from ..hparams import InferArgs, TrainArgs

logger = get_logger(__name__)

_WRONG_BEYOND = {
    "dynamic": "vLLM computes its dynamic rope scaling wrong beyond that",
    "longrope": "above that vLLM takes the long factors of longrope for short prompts too",
}


def vllm_limit(config: Any) -> tuple[int, str] | None:
    """The most positions at which vLLM computes what a model was trained with, and why; ``None`` = all it has."""
    kinds = rope_kinds(config)
    return min(((kinds[kind], why) for kind, why in _WRONG_BEYOND.items() if kind in kinds), default=None)


def vllm_length(args: InferArgs | TrainArgs) -> int:
    """The ``max_model_len`` of an engine: ``vllm_maxlen``, or less where vLLM would not compute the model's positions.

    Raises:
        ConfigError: A greater length, or another scaling than the model's, is asked for in so many words.
    """
    config = read_config(args.model)
    _refuse_other_scaling(args, rope_kinds(config))
    key, wanted = "vllm_maxlen", args.vllm.vllm_maxlen
    own = engine_settings("vllm_config", args.vllm.vllm_config).get("max_model_len")
    if isinstance(own, int):
        key, wanted = "vllm_config", own
    limit = vllm_limit(config)
    if limit is None or wanted <= limit[0]:
        return wanted
    reason = f"this model was trained on {limit[0]} positions, and {limit[1]}"
    if key in args.keys:
        raise ConfigError(f"{key}: {wanted} is too long: {reason}; take at most {limit[0]}, or huggingface")
    logger.warning_rank0("vllm_maxlen: %d instead of the default %d: %s", limit[0], wanted, reason)
    return limit[0]


def _refuse_other_scaling(args: InferArgs | TrainArgs, kinds: dict[str, int]) -> None:
    wanted = args.model.rope_scaling
    if wanted is not None and wanted not in kinds and args.data.cutoff_len > max(kinds.values(), default=0):
        raise ConfigError(
            f"rope_scaling: {wanted}: vLLM reads it from the model's config.json, which has {', '.join(kinds)}; take "
            "a model that was saved with it, or huggingface"
        )
