# SPDX-License-Identifier: Apache-2.0
"""Activation checkpointing: on when asked for, or when a micro-batch would not fit; off otherwise (it costs ~1.3x)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

if TYPE_CHECKING:
    from ..extras.device import Device
    from ..hparams import Dtypes, TrainArgs

from ..extras.device import host_memory
from ..extras.errors import ConfigError
from ..extras.logging import get_logger
from ..hparams.derive import checkpointing_asked
from ..hparams.sharding import sharding_of
from .attention import implementation
from .config import attention_width, largest
from .offloading import DiskStore
from .wrapping import beneath_adapters

logger = get_logger(__name__)

_USABLE = 0.8  # of the free memory: kernels need work space and the allocator leaves gaps
_LOSS_ROWS = 256  # logits are made in chunks of this many rows, in float32, twice (values and gradient)


def activation_bytes(config: Any, tokens: int, element_bytes: int) -> int | None:
    """Bytes a decoder keeps for the backward pass of ``tokens`` tokens, without checkpointing.

    Per token and layer, with hidden size d, query width q, key/value width k (heads x head size) and MLP width f,
    in elements of the compute type:

    - two norms: normalised and output, 2d each, and the input in float32, 4 bytes x d each,
    - attention: q, k, v, the output, and what some models need to normalise q and k: 3q + 3k,
    - MLP: gate, its activation, up, their product: 4f.

    plus one chunk of logits. What autograd keeps is within 20% of it (tested). A mixture of experts counts the
    experts a token visits.

    Args:
        config: A transformers text config.
        tokens: Tokens of a micro-batch.
        element_bytes: Size of one element of the compute type, 2 or 4.

    Returns:
        ``None`` for a model whose configuration does not have these sizes (BLT has them in four parts).
    """
    d, layers, vocabulary = (largest(config, name) for name in ("hidden_size", "num_hidden_layers", "vocab_size"))
    if not (d and layers and vocabulary):
        return None
    q, k = attention_width(config)
    experts = getattr(config, "num_experts_per_tok", None) or 1
    f = experts * (largest(config, "moe_intermediate_size") or largest(config, "intermediate_size") or 4 * d)
    per_layer = element_bytes * (4 * d + 3 * q + 3 * k + 4 * f) + 2 * 4 * d
    logits = 2 * 4 * min(tokens, _LOSS_ROWS) * vocabulary
    return tokens * layers * per_layer + logits


def choose_checkpointing(
    model: nn.Module, args: TrainArgs, device: Device, dtypes: Dtypes, batch_tokens: int | None = None
) -> bool:
    """Turn checkpointing on if ``activation_checkpointing`` (or its older name) asks for it, or if it is not given and
    the activations would not fit.

    ``disable_gradient_checkpointing`` wins over all. The non-reentrant variant is used: the reentrant one loses
    gradients when no input of a block requires one and breaks hooks; it must be asked for (``use_reentrant_gc: true``
    written by the user; its default is not a request).

    Returns:
        Whether it is on.
    """
    wanted, place = wanted_checkpointing(args), offload_place(args)
    key = "activation_offload" if place != "none" else "activation_keep" if args.model.activation_keep != "none" else ""
    if key and not beneath_adapters(model).supports_gradient_checkpointing:
        raise ConfigError(f"{key}: {beneath_adapters(model).config.model_type} models have no checkpointing")
    if wanted is False or not beneath_adapters(model).supports_gradient_checkpointing:
        return False
    if wanted is None:
        tokens = batch_tokens or args.training.per_device_train_batch_size * args.data.cutoff_len
        size = getattr(torch, dtypes.compute).itemsize
        if not _is_needed(activation_bytes(_text_config(model), tokens, size), tokens, model, device):
            return False
    _turn_on(model, args, device, place)
    return True


def wanted_checkpointing(args: TrainArgs) -> bool | None:
    """Return whether the user wants it, also by what needs it; None = it is left to the run."""
    needed = offload_place(args) != "none" or args.model.activation_keep != "none"
    sharding = sharding_of(args)
    return True if needed or (sharding is not None and sharding.checkpointing) else checkpointing_asked(args)


def offload_place(args: TrainArgs) -> str:
    """Return where checkpointed activations wait: none (on the device), cpu or disk."""
    return "cpu" if args.model.use_unsloth_gc else args.model.activation_offload


def _turn_on(model: Any, args: TrainArgs, device: Device, place: str) -> None:
    training = args.training
    given = training.activation_checkpointing_kwargs or training.gradient_checkpointing_kwargs or {}
    if isinstance(given, str):
        raise ConfigError(f"activation_checkpointing_kwargs: expected a mapping, got {given!r}")
    options = dict(given)
    options.setdefault("use_reentrant", bool(args.keys.get("use_reentrant_gc")))
    layers, offload = options.pop("every_n_layers", 1), options.pop("offload", False)
    if args.model.activation_keep == "attention":
        _check_keeping(model, options)
        options |= keeping(args)
    on_cpu = device.type == "cpu"
    if place == "cpu" and on_cpu:
        logger.info_rank0("activations are in host memory anyway: they are computed again, and not moved")
    model.activation_checkpointing_enable(
        every_n_layers=layers,
        offload=offload or (place == "cpu" and not on_cpu),
        activation_checkpointing_kwargs=options,
    )
    if place == "disk":
        keep = partial(DiskStore(Path(str(training.output_dir))).checkpoint, **options)
        beneath_adapters(model)._set_gradient_checkpointing(gradient_checkpointing_func=keep, every_n_layers=layers)


def keeping(args: TrainArgs) -> dict[str, Any]:
    """Return the keywords of ``torch.utils.checkpoint.checkpoint`` for what is kept beside the inputs of a layer.

    With ``activation_keep: attention`` the results of attention kernels (output and log-sum-exp, ``q + heads`` numbers
    a token) are taken from the forward pass; everything else is computed again. (Korthikanti et al. 2022,
    arXiv:2205.05198, section 5, do the opposite, for kernels that kept the probabilities.)
    """
    if args.model.activation_keep == "none":
        return {}
    return {"context_fn": partial(create_selective_checkpoint_contexts, _keep_attention)}


def _keep_attention(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """PyTorch's kernels, those of its variable-length attention and of the package flash-attn have it in their name."""
    name = str(operation)
    is_kernel = "attention" in name or "attn" in name
    return CheckpointPolicy.MUST_SAVE if is_kernel else CheckpointPolicy.PREFER_RECOMPUTE


def _check_keeping(model: nn.Module, options: dict[str, Any]) -> None:
    if options["use_reentrant"]:
        raise ConfigError("activation_keep: not with use_reentrant: true in activation_checkpointing_kwargs")
    if implementation(model) == "eager":
        raise ConfigError("activation_keep: attention is eager here, which has no result to keep; leave the key out")
    if getattr(_text_config(model), "attention_dropout", None):
        # A kernel that is not called again leaves the random numbers where they are, and later dropout differs.
        raise ConfigError("activation_keep: not with dropout inside of attention (attention_dropout in config.json)")


def _is_needed(activations: int | None, tokens: int, model: nn.Module, device: Device) -> bool:
    """Whether a micro-batch would not fit, or nobody can tell."""
    if activations is None:
        logger.info_rank0("Gradient checkpointing on: what a batch needs cannot be told from this model's config.json")
        return True
    # Gradients and Adam moments are in float32.
    needed = activations + sum(12 * weight.numel() for weight in model.parameters() if weight.requires_grad)
    free = _USABLE * _free_bytes(device)
    if needed > free:
        logger.info_rank0(
            "Gradient checkpointing on: %d tokens a batch need about %.1f GiB, %.1f GiB are free",
            tokens,
            needed / 2**30,
            free / 2**30,
        )
    return needed > free


def _text_config(model: nn.Module) -> Any:
    return beneath_adapters(model).config.get_text_config(decoder=True)


def _free_bytes(device: Device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device.index)[0])
    import psutil

    # In a container the machine may have more than this process is allowed.
    allowed = host_memory() - psutil.Process().memory_info().rss
    return min(int(psutil.virtual_memory().available), allowed)
