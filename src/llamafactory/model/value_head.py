# SPDX-License-Identifier: Apache-2.0
"""Heads of reward models: ours are sequence classification; LLaMA-Factory's ``value_head.safetensors`` is read.

LLaMA-Factory keeps a reward model as a language model (or its adapter) with a linear layer from hidden state to score
in a file beside it. Put on as the ``score`` of sequence classification it gives the same scores.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ..extras.errors import ConfigError, first_line
from ..extras.logging import get_logger
from .adapter_config import read_adapter_values
from .paths import resolve_adapter_path
from .tokenizer import adapter_names

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..hparams.model_args import ModelArguments

logger = get_logger(__name__)

FILE = "value_head.safetensors"
_NAMES = {"v_head.summary.bias", "v_head.summary.weight"}


class ValueHead(NamedTuple):
    """``score = weight h + bias``; weight [1, d], bias [1], float32."""

    weight: Tensor
    bias: Tensor


def read_value_head(place: str, args: ModelArguments) -> ValueHead | None:
    """Read the head beside a model or an adapter, in a folder or on the hub; None when there is none.

    Raises:
        ConfigError: The file is not such a head.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(place) / FILE
    if not Path(place).is_dir():
        path = Path(_cached(place, args) or path)
    if not path.is_file():
        return None
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path} cannot be read: {first_line(error)}") from None
    if tensors.keys() != _NAMES:
        raise ConfigError(
            f"{path}: not a value head: expected {' and '.join(sorted(_NAMES))}, got {', '.join(sorted(tensors)[:4])}"
        )
    bias, weight = (tensors[name] for name in sorted(_NAMES))
    if not (weight.is_floating_point() and bias.is_floating_point()):
        raise ConfigError(
            f"{path}: its tensors are of type {weight.dtype}, {bias.dtype}; a head holds floating numbers"
        )
    if weight.dim() != 2 or len(weight) != 1 or bias.shape != (1,):
        raise ConfigError(f"{path}: expected a head of one score, got weights {list(weight.shape)}")
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise ConfigError(f"{path}: it holds NaN or infinity")
    return ValueHead(weight.float(), bias.float())


def resolve_head(model: PreTrainedModel, path: str, args: ModelArguments, trainable: bool) -> None:
    """See that a reward model has the head it was trained with, and not a random one.

    Args:
        model: Sequence classification with one label, as loaded; its score gets the value head if there is one.
        path: Where it was loaded from: a folder or a hub name.
        args: Names the adapters, which may bring a head of their own.
        trainable: For training a new head is fine. The value head's bias, which moves all scores alike, is dropped
            then, for sequence classification has none to save it in.

    Raises:
        ConfigError: There is no head to score with, or it is one of another model.
    """
    adapters = [resolve_adapter_path(name, args) for name in adapter_names(args)]
    found = [read_value_head(place, args) for place in (path, *adapters)]
    heads = [head for head in found if head is not None]
    if heads:
        _put_on(model, heads[-1], with_bias=not trainable)
        logger.info_rank0("Reward head read from %s", FILE)
    elif not trainable and not _is_classifier(model) and not any(map(_adds_score, adapters)):
        raise ConfigError(
            f"model_name_or_path: '{path}' is no reward model: neither sequence classification, nor {FILE} beside it"
        )


def drop_bias(model: Any) -> None:
    """Take the bias of a value head off, before saving: sequence classification has no place for it."""
    bias = getattr(getattr(model, "score", None), "bias", None)
    if bias is not None:
        logger.warning_once(f"{FILE}: its bias of {bias.item():.4g} is left out; all scores move alike")
        model.score.bias = None


def _cached(name: str, args: ModelArguments) -> str | None:
    """The file of a hub repository, on this disk; None when the repository has none."""
    from transformers.utils import cached_file

    return cached_file(
        name,
        FILE,
        revision=args.model_revision,
        cache_dir=args.cache_dir,
        token=args.hf_hub_token,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,  # the model itself was there: offline, it is in the cache
    )


def _put_on(model: Any, head: ValueHead, with_bias: bool) -> None:
    score = model.score
    if score.weight.shape != head.weight.shape:
        raise ConfigError(
            f"{FILE}: its hidden size is {head.weight.shape[1]}, that of the model {score.weight.shape[1]}"
        )
    with torch.no_grad():
        score.weight.copy_(head.weight)
    if with_bias:
        score.bias = nn.Parameter(head.bias.to(score.weight))


def _is_classifier(model: PreTrainedModel) -> bool:
    return any(name.endswith("ForSequenceClassification") for name in model.config.architectures or ())


def _adds_score(adapter: str) -> bool:
    """Whether an adapter is one of sequence classification, which brings the score along."""
    return read_adapter_values(adapter).get("task_type") == "SEQ_CLS"
