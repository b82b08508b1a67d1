# SPDX-License-Identifier: Apache-2.0
"""Prompt tuning, p-tuning and prefix tuning: what is trained stands before the prompt, and no weight changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError
from ...hparams.derive import checkpointing_asked
from ...hparams.field import arg, require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn
    from transformers import PreTrainedModel, TrainerCallback

    from ...hparams import Dtypes, InferArgs, TrainArgs

_WORDS = "prompt_tuning_init"
_LENGTH = 20  # as in PEFT's documentation, where it has no default


@dataclass(frozen=True)
class Arguments:
    """Keys of ``finetuning_type: prompt_tuning``, ``p_tuning`` and ``prefix_tuning``."""

    create_new_adapter: bool = arg(False, "Merge the loaded adapters and start a fresh one.")
    peft_config: dict | None = arg(None, "Fields of PEFT's configuration of the method, by their names.")


def check(args: TrainArgs | InferArgs) -> None:
    """What these methods cannot be combined with."""
    from ...hparams import TrainArgs
    from ..peft_fields import check_given, make_config

    kind, given = args.finetuning.finetuning_type, args.tuner.peft_config or {}
    check_given(kind, given)
    length = given.get("num_virtual_tokens", _LENGTH)
    require(length >= 1 and length == int(length), f"peft_config: num_virtual_tokens: {length}, expected 1 or more")
    start = given.get(_WORDS, "RANDOM")
    require(start in ("RANDOM", "TEXT"), f"peft_config: {_WORDS}: {start}, expected RANDOM or TEXT")
    text = str(given.get(f"{_WORDS}_text") or "").strip()
    require(bool(text) == (start == "TEXT"), f"peft_config: {_WORDS}: TEXT and {_WORDS}_text belong together")
    make_config(kind, _values(args))
    if isinstance(args, TrainArgs):
        _check_training(args, kind)


def _check_training(args: TrainArgs, kind: str) -> None:
    data, stage = args.data, args.finetuning.stage
    require(
        stage in ("pt", "sft"),
        f"finetuning_type: {kind} is for stage pt or sft, not {stage}: there is no reference without its prompt",
    )
    require(
        not (data.packing or data.neat_packing),
        f"packing: not with finetuning_type {kind}, whose prompt stands before one sequence a row; set packing: false",
    )
    require(
        not args.model.adapter_name_or_path or args.tuner.create_new_adapter,
        f"adapter_name_or_path: no run goes on with a finished {kind}, resume its own; create_new_adapter: "
        "true merges adapters of other methods first",
    )
    require(not args.model.resize_vocab, f"resize_vocab: {kind} trains no rows of the embedding")
    if kind == "prefix_tuning":
        require(
            not checkpointing_asked(args),
            "activation_checkpointing: not with finetuning_type prefix_tuning: keys and values of the prefix would be "
            "lost in the second pass",
        )


def create(
    model: PreTrainedModel,
    args: TrainArgs | InferArgs,
    dtypes: Dtypes,
    *,
    trainable: bool = True,
    new_rows: Sequence[int] = (),
) -> nn.Module:
    """Put trained vectors before every sequence; for inference they stay there, since no weight can hold them.

    Raises:
        ConfigError: The model gives positions or types to its tokens that would be lost.
    """
    from ..adapters import put_adapters
    from ..attention import ordinary_implementation
    from ..peft_fields import make_config

    kind = args.finetuning.finetuning_type
    if trainable:
        _require_plain_text(model, kind)
        model.set_attn_implementation(ordinary_implementation(type(model), model.config.get_text_config()))
        if kind == "prefix_tuning":
            model.supports_gradient_checkpointing = False

    tuned = put_adapters(model, args, dtypes, trainable, lambda base: make_config(kind, _values(args)))
    begun = not args.model.adapter_name_or_path or args.tuner.create_new_adapter
    text = (args.tuner.peft_config or {}).get("prompt_tuning_init_text")
    if trainable and begun and text:
        _begin_as_words(tuned, text, args)
    return tuned


def _begin_as_words(model: Any, text: str, args: TrainArgs | InferArgs) -> None:
    """Let the vectors begin as the embeddings of a text, cut or repeated to their number."""
    import torch

    from ..tokenizer import load_tokenizer

    rows = model.prompt_encoder["default"].embedding.weight
    ids = load_tokenizer(args.model)(text)["input_ids"]
    ids = (ids * -(-len(rows) // len(ids)))[: len(rows)]
    with torch.no_grad():
        words = model.get_base_model().get_input_embeddings()(torch.tensor(ids, device=model.device))
        rows.copy_(words.to(rows.dtype))


def callbacks(model: Any, args: TrainArgs) -> list[TrainerCallback]:
    """What keeps the encoder of a prompt from checkpoint to checkpoint."""
    from ..prompt_state import PromptState

    return [PromptState(model)]


def _values(args: TrainArgs | InferArgs) -> dict[str, Any]:
    """What PEFT is told; words are put in by us, whose tokenizer reads every kind of model there is."""
    given = {name: value for name, value in (args.tuner.peft_config or {}).items() if not name.startswith(_WORDS)}
    length = int(given.get("num_virtual_tokens", _LENGTH))
    return given | {"num_virtual_tokens": length, "task_type": "CAUSAL_LM"}


def _require_plain_text(model: Any, kind: str) -> None:
    """Vectors of their own have no place in pictures, three-dimensional positions or embeddings of each layer."""
    from ..config import takes_media
    from ..families.family import reads_prefix_both_ways

    text = model.config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    why = None
    if takes_media(model.config) or reads_prefix_both_ways(model.config):
        why = "takes pictures or sound, whose marks and positions would be lost"
    elif "mrope_section" in str(rope):
        why = "gives its tokens positions of several dimensions, which would be lost"
    elif getattr(text, "hidden_size_per_layer_input", 0):
        why = "looks each token up in every layer, where such vectors have no row"
    if why:
        raise ConfigError(f"finetuning_type: {kind} cannot be used: this model {why}; use lora")
