# SPDX-License-Identifier: Apache-2.0
"""Room for new tokens: embedding rows are added, initialised, and known by number so that only they are trained."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..extras.errors import ConfigError, first_line
from ..extras.logging import get_logger
from .adapter_config import read_adapter_values
from .paths import resolve_adapter_path, resolve_model_path
from .tokenizer import adapter_names, hub_options, open_tokenizer, token_descriptions, tokens_to_add

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..hparams.model_args import ModelArguments

logger = get_logger(__name__)

_ROW_MULTIPLE = 64  # matrix kernels are slow on ragged widths
_WHOLE_EMBEDDING = ("embed_tokens.weight", "lm_head.weight", "wte.weight")
_NOISE = 0.1  # of the spread of the existing rows, per dimension


def fit_to_tokenizer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, args: ModelArguments) -> list[int]:
    """Grow the embedding to the tokenizer and to the adapters, and initialise the rows of new tokens.

    Returns:
        Ids of the tokens the user had added that the base tokenizer did not have, ascending.

    Raises:
        ConfigError: The tokenizer is larger than the embedding although nobody added tokens or asked to resize.
    """
    new_ids = new_token_ids(tokenizer, args)
    rows = model.get_input_embeddings().weight.shape[0]
    needed = rows
    size = max(tokenizer.get_vocab().values()) + 1
    if size > rows and (new_ids or args.resize_vocab or adapter_names(args)):
        needed = math.ceil(size / _ROW_MULTIPLE) * _ROW_MULTIPLE
    elif size > rows:
        _allow_only_placeholders(tokenizer, rows)
    for name in adapter_names(args):
        whole, least = _rows_of_adapter(name, args)
        needed = whole or max(needed, least)
    if needed > rows:
        model.resize_token_embeddings(needed, mean_resizing=False)
        logger.info_rank0("Embedding resized from %d to %d rows", rows, needed)
    fresh = sorted({*new_ids, *range(rows, model.get_input_embeddings().weight.shape[0])})
    if fresh:
        _initialise(model, tokenizer, args, fresh)
    return new_ids


def _allow_only_placeholders(tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Let pass what text cannot hold: Gemma 3's text models have no row for the token that stands for an image.

    Raises:
        ConfigError: Some other token has no row.
    """
    without = {token: number for token, number in tokenizer.get_vocab().items() if number >= rows}
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    named = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token}
    written = sorted(token for token, number in without.items() if number not in special or token in named)
    if written:
        raise ConfigError(
            f"resize_vocab: the tokenizer has ids up to {max(without.values())}, the embedding {rows} rows; "
            f"set resize_vocab: true to grow it ({written[0]} would have none)"
        )
    logger.info_rank0("%s: special tokens without a row of the embedding; no text may hold them", ", ".join(without))


def new_token_ids(tokenizer: PreTrainedTokenizerBase, args: ModelArguments) -> list[int]:
    """Ids of the tokens to add that the base model's own tokenizer does not have, ascending."""
    ordinary, special = tokens_to_add(args)
    if not ordinary and not special:
        return []
    base = open_tokenizer(resolve_model_path(str(args.model_name_or_path), args), **hub_options(args))
    known = base.get_vocab()
    return sorted(tokenizer.convert_tokens_to_ids(token) for token in {*ordinary, *special} if token not in known)


def upcast_norms(model: nn.Module) -> None:
    """Keep norm weights in float32; their output is rounded back to the type that came in."""
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if own and "norm" in name.rsplit(".", 1)[-1].lower() and all(weight.ndim == 1 for weight in own):
            module.float()
            module.register_forward_hook(_round_output)


def _round_output(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    return output.to(inputs[0].dtype)


def _rows_of_adapter(name: str, args: ModelArguments) -> tuple[int, int]:
    """Rows of the whole embedding that an adapter carries (0: none), and the least number its single rows need."""
    folder = Path(resolve_adapter_path(name, args))
    indices = read_adapter_values(folder).get("trainable_token_indices")
    lists = list(indices.values()) if isinstance(indices, dict) else [indices or []]
    if not all(isinstance(ids, list) and all(type(index) is int and index >= 0 for index in ids) for ids in lists):
        raise ConfigError(f"adapter_name_or_path: '{folder}': trainable_token_indices are no lists of token ids")
    least = 1 + max((index for ids in lists for index in ids), default=-1)
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        return 0, least
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="pt") as file:
            whole = [key for key in file.keys() if key.endswith(_WHOLE_EMBEDDING)]  # noqa: SIM118 (no mapping)
            return max((file.get_slice(key).get_shape()[0] for key in whole), default=0), least
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"adapter_name_or_path: the weights in '{folder}' cannot be read: {first_line(error)}"
        ) from None


@torch.no_grad()
def _initialise(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, args: ModelArguments, fresh: list[int]
) -> None:
    """Mean of the existing rows plus noise, or the mean of the rows of the token's description."""
    weights = [model.get_input_embeddings().weight]
    head = model.get_output_embeddings()
    if head is not None and head.weight is not weights[0]:
        weights.append(head.weight)
    descriptions = _described_ids(tokenizer, args) if args.init_special_tokens != "noise_init" else {}
    noisy = args.init_special_tokens != "desc_init"
    generator = torch.Generator().manual_seed(0)  # every rank and every later load draws the same rows
    for weight in weights:
        known = torch.ones(weight.shape[0], dtype=torch.bool)
        known[fresh] = False
        rows = weight[known.to(weight.device)].float()
        mean, spread = rows.mean(0), rows.std(0)
        for row in fresh:
            described = descriptions.get(row)
            start = weight[described].float().mean(0) if described else mean
            if noisy or not described:
                noise = torch.randn(mean.shape, generator=generator).to(mean.device)
                start = start + _NOISE * spread * noise
            weight[row] = start.to(weight.dtype)


def _described_ids(tokenizer: PreTrainedTokenizerBase, args: ModelArguments) -> dict[int, list[int]]:
    """Token id → ids of the words that describe it."""
    described = token_descriptions(args)
    if not described:
        raise ConfigError(f"init_special_tokens: {args.init_special_tokens} needs new_special_tokens_config")
    new = {tokenizer.convert_tokens_to_ids(token) for token in described}
    result = {}
    for token, text in described.items():
        words = [word for word in tokenizer(text, add_special_tokens=False)["input_ids"] if word not in new]
        if not words:
            raise ConfigError(f"new_special_tokens_config: the description of {token!r} holds no known token")
        result[tokenizer.convert_tokens_to_ids(token)] = words
    return result
