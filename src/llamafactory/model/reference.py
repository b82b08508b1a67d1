# SPDX-License-Identifier: Apache-2.0
"""The reference of preference training: the model as it was before, or another one."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..extras.errors import ConfigError
from ..hparams.sharding import sharding_of
from ..plugins import resolve
from .attention import implementation
from .loader import load_model
from .modes import eval_mode
from .tokenizer import adapter_names, load_tokenizer

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from ..hparams import TrainArgs
    from ..hparams.model_args import ModelArguments


def make_reference(policy: nn.Module, tokenizer: PreTrainedTokenizerBase, args: TrainArgs) -> nn.Module | None:
    """Return the frozen reference of a policy that has not been trained yet.

    ``ref_model`` or ``ref_model_adapters`` name it; else it is the policy itself: for a fresh adapter the model without
    it (None, see :func:`without_adapter`), for all else a copy that shares the frozen weights with the policy.

    Raises:
        ConfigError: The named model cannot be loaded, or not with the attention of the policy.
    """
    if names_reference(args):
        return load_beside(policy, tokenizer, args, reference_args(args), "ref_model")
    if lies_below(policy, args):
        return None
    if sharding_of(args) is not None:  # slices of weights cannot be shared: the same model is read once more
        return load_model(tokenizer, args).requires_grad_(False).eval()
    return frozen_copy(policy)


def names_reference(args: TrainArgs) -> bool:
    """Whether the reference is a model of its own."""
    return bool(args.rlhf.ref_model or args.rlhf.ref_model_adapters)


def lies_below(policy: Any, args: TrainArgs) -> bool:
    """Whether the policy without its adapter is what it was before training."""
    continued = bool(adapter_names(args.model)) and not getattr(args.tuner, "create_new_adapter", False)
    return hasattr(policy, "peft_config") and not continued and policy.starts_as_base


def frozen_copy(model: Any) -> nn.Module:
    """Return a copy in evaluation mode whose trained weights are its own; frozen ones are shared."""
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()] if not tensor.requires_grad}
    twin: nn.Module = copy.deepcopy(model, shared)
    return twin.requires_grad_(False).eval()


@contextmanager
def without_adapter(policy: Any) -> Iterator[Any]:
    """Inside the block the policy is the model below its adapter, in evaluation mode."""
    with eval_mode(policy), policy.disable_adapter():
        yield policy


def _require_same_tokens(its: ModelArguments, ours: ModelArguments, key: str) -> None:
    """A model beside the policy reads the ids of the policy's tokenizer: each must mean the same to it."""
    if its.model_name_or_path == ours.model_name_or_path:
        return
    known, wanted = load_tokenizer(its).get_vocab(), load_tokenizer(ours).get_vocab()
    others = sorted(token for token, number in wanted.items() if known.get(token) != number)
    if others:
        raise ConfigError(
            f"{key}: '{its.model_name_or_path}' has another vocabulary than the trained model: "
            f"{len(others)} of {len(wanted)} tokens differ, such as {others[0]!r}"
        )


def reference_args(args: TrainArgs) -> TrainArgs:
    """Return what the reference that ``args`` name is loaded by."""
    rlhf = args.rlhf
    return beside_args(args, rlhf.ref_model, rlhf.ref_model_adapters, rlhf.ref_model_quantization_bit)


def beside_args(args: TrainArgs, path: str | None, adapters: str | None, bits: int | None) -> TrainArgs:
    """Return what a frozen model is loaded by that stands beside the trained one; without ``path`` the same base."""
    kind = "lora" if adapters else "full"
    return dataclasses.replace(
        args,
        model=dataclasses.replace(
            args.model,
            model_name_or_path=path or args.model.model_name_or_path,
            adapter_name_or_path=adapters,
        ),
        quantization=dataclasses.replace(args.quantization, quantization_bit=bits),
        finetuning=dataclasses.replace(args.finetuning, finetuning_type=kind),
        tuner=resolve("tuners", kind).Arguments(),
    )


def load_beside(
    policy: nn.Module, tokenizer: PreTrainedTokenizerBase, args: TrainArgs, own: TrainArgs, key: str
) -> Any:
    """Load a frozen model that scores the batches of the policy.

    Args:
        policy: The trained model.
        tokenizer: Of the policy.
        args: Of the run.
        own: From :func:`beside_args`.
        key: What names the model.

    Raises:
        ConfigError: It cannot be loaded, has other tokens, or not the attention of the policy.
    """
    _require_same_tokens(own.model, args.model, key)
    model: Any = load_model(tokenizer, own, trainable=False, beside_training=True)
    wanted = implementation(policy)
    if implementation(model) != wanted:
        raise ConfigError(
            f"{key}: '{own.model.model_name_or_path}' cannot use the attention of the trained model ({wanted}); "
            "set padding_free: false and flash_attn: sdpa"
        )
    return model
