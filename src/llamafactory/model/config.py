# SPDX-License-Identifier: Apache-2.0
"""The configuration of a model, and which classes of transformers load what it describes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..extras.errors import in_one_line
from .paths import resolve_model_path
from .tokenizer import hub_options

if TYPE_CHECKING:
    from ..hparams.model_args import ModelArguments


_WRITES_NO_TEXT = ("pi0",)  # moves a robot


def read_config(args: ModelArguments) -> Any:
    """The configuration of the model at ``model_name_or_path``.

    Raises:
        ConfigError: There is none, or none that transformers knows.
    """
    from transformers import AutoConfig

    path = resolve_model_path(str(args.model_name_or_path), args)
    with in_one_line(f"model_name_or_path: '{path}': its config.json cannot be used"):
        return AutoConfig.from_pretrained(path, **hub_options(args))


def largest(config: Any, name: str) -> int | None:
    """A size in which layers may differ, by configurations or a list; the largest, ``None`` = it has no such size."""
    layers = config.per_layer_config if getattr(config, "is_heterogeneous", False) else [config]
    found = [size for layer in layers if (size := getattr(layer, name, None))]
    return max((max(size) if isinstance(size, list) else size for size in found), default=None)


def attention_width(config: Any) -> tuple[int, int]:
    """Elements of the queries and of the keys of a token in one layer; none in a model without attention."""
    heads = largest(config, "num_attention_heads") or 0
    size = largest(config, "head_dim") or (largest(config, "hidden_size") or 0) // max(heads, 1)
    return heads * size, (largest(config, "num_key_value_heads") or heads) * size


def has_talker(config: Any) -> bool:
    """Whether the model also speaks: it has a thinker, which writes, and a talker, which is not loaded here."""
    return hasattr(config, "thinker_config")


def language_class(config: Any) -> Any:
    """The ``Auto...`` class that loads the whole of a model that writes text.

    ``AutoModelForCausalLM`` leaves the towers of some models that take media out (Llama 4, Qwen3.5), so that what is
    loaded, adapted and saved would be another model.
    """
    from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM

    return AutoModelForCausalLM if not takes_media(config) else AutoModelForMultimodalLM


def takes_media(config: Any) -> bool:
    """Whether it is a decoder that takes images, videos or sound beside text. Imports no model."""
    from transformers import AutoModelForMultimodalLM

    known = type(config) in AutoModelForMultimodalLM._model_mapping
    return known and not config.is_encoder_decoder and config.model_type not in _WRITES_NO_TEXT
