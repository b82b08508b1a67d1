# SPDX-License-Identifier: Apache-2.0
"""PEFT adapters as objects: made, loaded, merged, prepared for training, saved."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.ln_tuning.layer import LNTuningLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from ..extras.errors import ConfigError, first_line
from ..extras.logging import get_logger
from .adapter_config import (
    LOFTQ,
    changes_base,
    is_live,
    read_adapter_config,
    read_adapter_values,
    require_merging,
    starts_as_base,
)
from .former_names import PREFIX, find_former_names, name_of_today
from .heads import require_head, score_layer
from .loftq import restore_base
from .lora_linear import use_exact_add
from .lora_start import remember_start
from .lora_targets import report_share
from .merging import merge
from .paths import resolve_adapter_path
from .patterns import resolve_patterns
from .quantizers.layers import is_quantized, quantized_layers
from .quantizers.record import require_same_base, trained_over
from .tokenizer import adapter_names
from .virtual_tokens import begin_with_prefix
from .whole import check_adapter, read_adapter_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..hparams import Dtypes, InferArgs, TrainArgs

logger = get_logger(__name__)

# KeyError: PEFT looked for a tensor of modules_to_save; TypeError, AttributeError: for another value in the config.
_MISFITS = (ValueError, RuntimeError, KeyError, TypeError, AttributeError)


def put_adapters(
    model: PreTrainedModel,
    args: TrainArgs | InferArgs,
    dtypes: Dtypes,
    trainable: bool,
    fresh: Callable[[PreTrainedModel], PeftConfig],
) -> nn.Module:
    """Put adapters on the model: how every tuner of PEFT does it.

    Given adapters are merged into the base weights in the order named. For training, the last one is kept and trained
    on, unless ``create_new_adapter`` asks for a fresh one on top of all. For inference all are merged and the model
    that comes back is a plain one; only the last may be of a type that works beside the base alone.

    Args:
        model: The base model, frozen dtype.
        args: The run's; ``args.tuner`` is the tuner's.
        dtypes: The trained weights get ``dtypes.trainable``.
        trainable: For training, or merged for inference.
        fresh: Gives the configuration of a fresh adapter on the base that adapters were merged into.

    Raises:
        ConfigError: An adapter does not fit, or is not of the type that is trained.
    """
    folders = [resolve_adapter_path(name, args.model) for name in adapter_names(args.model)]
    for folder in folders:
        require_same_base(folder, args.quantization)
        restore_base(model, folder, args)
    last = folders.pop() if folders and (not trainable or not args.tuner.create_new_adapter) else None
    base: Any = model
    for folder in folders:
        base = merge_adapter(base, folder)
    if not trainable:
        return base if last is None else use_adapter(base, last)
    if last is not None:
        _require_type(last, args.finetuning.finetuning_type)
        tuned = load_adapter(base, last, trainable=True, live=True)
    else:
        tuned = new_adapter(base, fresh(base))
        if hasattr(args.tuner, "lora_target"):
            report_share(tuned, args.tuner.lora_target)
    prepare_for_training(tuned, dtypes)
    return tuned


def use_adapter(model: PreTrainedModel, folder: str) -> PreTrainedModel | PeftModel:
    """Return the model with an adapter merged into its weights, or beside them where no weight can hold it."""
    if not is_live(folder):
        return merge_adapter(model, folder)
    logger.info_rank0("The adapter %s stays beside the weights, which cannot hold it", folder)
    return load_adapter(model, folder, trainable=False, live=True)


def _require_type(folder: str, wanted: str) -> None:
    values = read_adapter_values(folder)
    if values.get("init_lora_weights") == LOFTQ:
        raise ConfigError(
            f"adapter_name_or_path: '{folder}' began by loftq, and no other run goes on with it: resume its own, or "
            "export it with export_dequantized: true and train on that"
        )
    kind = str(values.get("peft_type")).lower()
    if kind != wanted:
        raise ConfigError(
            f"adapter_name_or_path: '{folder}' is an adapter of type {kind}, which finetuning_type: {wanted} cannot go "
            f"on with; set finetuning_type: {kind}, or create_new_adapter: true (merges it first)"
        )


def new_adapter(model: PreTrainedModel, config: PeftConfig) -> PeftModel:
    """Wrap the model with a fresh adapter. Where PiSSA or OLoRA begins is kept for
    :func:`~llamafactory.model.lora_start.save_converted`.

    Raises:
        ConfigError: An expression of the configuration matches nothing, or PEFT refuses the model.
    """
    init = str(getattr(config, "init_lora_weights", ""))
    is_pissa = init.startswith("pissa")
    resolve_patterns(config, model, "peft_config", {}, fresh=True)
    _require_whole(model, getattr(config, "modules_to_save", None) or ())
    try:
        with _same_svd(model) if is_pissa else nullcontext(), _no_hints():
            tuned = _with_prefix(get_peft_model(model, config))
    except (*_MISFITS, AssertionError) as error:
        raise ConfigError(f"finetuning_type: PEFT cannot put this adapter on the model: {first_line(error)}") from error
    tuned.starts_as_base = starts_as_base(config)
    if not tuned.starts_as_base:
        kind = config.peft_type.lower() if init in ("", "True") else f"{config.peft_type.lower()} ({init})"
        logger.info_rank0(
            "A fresh adapter of %s is not its base to the bit: a first loss may differ from the base's", kind
        )
    if is_pissa or init == "olora":
        remember_start(tuned)
    return tuned


def _require_whole(model: nn.Module, names: Iterable[str]) -> None:
    """A module that is trained as a whole must not hold weights in few bits."""
    for quantized, _ in quantized_layers(model):
        for name in names:
            if f".{name}." in f".{quantized}.":
                raise ConfigError(
                    f"additional_target: {name} holds weights in few bits, which cannot be trained; name it in "
                    "lora_target, or leave quantization_bit out"
                )


def read_adapter(
    folder: str, model: nn.Module, key: str = "adapter_name_or_path", live: bool = False
) -> tuple[PeftConfig, dict[str, Tensor], dict[str, Any] | None]:
    """Read an adapter for this model, in the names that the model has today.

    Args:
        folder: Of the adapter.
        model: The plain base model, or one with other adapters on it.
        key: The key that named the folder.
        live: It stays beside the base, so it need not be one that merges.

    Returns:
        Its configuration, its tensors, and PEFT's ``key_mapping`` from the names in its file.

    Raises:
        ConfigError: It cannot be read or used.
    """
    if not live:
        require_merging(folder, key)
    state = read_adapter_weights(folder, key)
    former = find_former_names(model, state)
    config = read_adapter_config(folder, model, key, former)
    if changes_base(config) and is_quantized(model):
        raise ConfigError(
            f"{key}: '{folder}' began as a part of whole weights ({config.init_lora_weights}), not of weights in few "
            "bits; export it over the whole ones, or train with pissa_convert: true"
        )
    if not former:
        return config, state, None
    logger.info_rank0("%s was made with former names of this model's parts; they are read as today's", folder)
    today = {name: name_of_today(name, former) for name in state}
    bare = {then.removeprefix(PREFIX): now.removeprefix(PREFIX) for then, now in today.items()}
    return config, {today[name]: value for name, value in state.items()}, {".+": lambda name: bare[name[0]]}


def load_adapter(model: PreTrainedModel, folder: str, trainable: bool, live: bool = False) -> PeftModel:
    """Load one adapter from its folder. One of a language model fits a reward model too.

    Args:
        model: The base.
        folder: Of the adapter.
        trainable: Its weights are trained on.
        live: It stays beside the base, so it need not be one that merges.

    Raises:
        ConfigError: It was made for another model.
    """
    config, state, renamed = read_adapter(folder, model, live=live)
    require_head(model, config.task_type, folder)
    try:
        with _same_svd(model), _no_hints():
            if score_layer(model) is not None and config.task_type == "CAUSAL_LM":
                tuned, state = _onto_reward_model(model, state, config, trainable)
            else:
                tuned = _with_prefix(
                    PeftModel.from_pretrained(model, folder, config=config, is_trainable=trainable, key_mapping=renamed)
                )
        check_adapter(tuned, "default", state, folder)
    except _MISFITS as error:
        raise _misfit("adapter_name_or_path", folder, error) from error
    return tuned


def load_named_adapters(model: PreTrainedModel, folders: dict[str, str]) -> PeftModel:
    """Load adapters side by side; the first is in use.

    Args:
        model: The base model.
        folders: Name to folder.

    Raises:
        ConfigError: One was made for another model, or changes the base.
    """
    key, named = "lora_modules", None
    for name, folder in folders.items():
        config, state, renamed = read_adapter(folder, named or model, key)
        if changes_base(config):
            raise ConfigError(
                f"{key}: '{folder}' takes a part out of the base ({config.init_lora_weights}), which the others share; "
                "name it in adapter_name_or_path, or train with pissa_convert: true"
            )
        if named is not None:
            add_adapter(named, name, config, state, folder, key)
            continue
        try:
            with _no_hints():
                named = PeftModel.from_pretrained(model, folder, adapter_name=name, config=config, key_mapping=renamed)
            check_adapter(named, name, state, folder, key)
        except _MISFITS as error:
            raise _misfit(key, folder, error) from error
    assert named is not None, "at least one adapter"
    return named.eval()


def add_adapter(
    model: PeftModel,
    name: str,
    config: PeftConfig,
    state: dict[str, Tensor],
    folder: str,
    key: str,
    rows_of_base: bool = False,
) -> None:
    """Put one more adapter, frozen, beside those that are there.

    Args:
        model: Gets it.
        name: What it is called.
        config: From :func:`read_adapter`.
        state: Its tensors.
        folder: For the message.
        key: The key that named the folder.
        rows_of_base: It was trained without rows of new tokens and has those of the base.

    Raises:
        ConfigError: It was made for another model.
    """
    config.inference_mode = True
    try:
        with _no_hints():
            model.add_adapter(name, config)
        if rows_of_base:
            fresh = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
            state = {there: value for there, value in fresh.items() if there.endswith("_tokens_delta")} | state
        check_adapter(model, name, state, folder, key)
    except _MISFITS as error:
        raise _misfit(key, folder, error) from error


def _with_prefix(model: PeftModel) -> PeftModel:
    """Let the vectors of prompt tuning stand where they belong."""
    return begin_with_prefix(model) if model.active_peft_config.is_prompt_learning else model


def _misfit(key: str, folder: str, error: Exception) -> ConfigError:
    if isinstance(error, ConfigError):
        return error
    reason = f"it has no {error.args[0]}" if isinstance(error, KeyError) else " ".join(str(error).split())
    return ConfigError(f"{key}: '{folder}' does not fit this model: {reason[:300]}")


def _onto_reward_model(
    model: PreTrainedModel, state: dict[str, Tensor], config: PeftConfig, trainable: bool
) -> tuple[PeftModel, dict[str, Tensor]]:
    """Put a language model's adapter on sequence classification; the score is trained and saved with it."""
    score = {f"base_model.model.score.{name}": value.clone() for name, value in model.score.named_parameters()}
    config.task_type, config.inference_mode = "SEQ_CLS", not trainable
    tuned = get_peft_model(model, config)
    return tuned, state | score  # check_adapter puts them in


def merge_adapter(model: PreTrainedModel, folder: str) -> PreTrainedModel:
    """Add one adapter into the weights (one rounding); the model that comes back is plain.

    Beside quantized weights it stays as it was trained: rounded into few bits, most of it would be lost.

    Raises:
        ConfigError: It does not fit, or no weight can hold it.
    """
    tuned = load_adapter(model, folder, trainable=False)
    if is_quantized(model):
        logger.info_rank0("The adapter %s acts beside the quantized weights; nothing is merged into them", folder)
        use_exact_add(tuned)
        return tuned.get_base_model()
    if bits := trained_over(folder):
        logger.info_rank0("The adapter %s was trained over %s; quantization_bit serves it over the same", folder, bits)
    merged = merge(tuned, model.dtype)
    logger.info_rank0("Merged the adapter %s", folder)
    return merged


def prepare_for_training(model: PeftModel, dtypes: Dtypes) -> None:
    """Trained weights in their own dtype, the exact LoRA sum, and saving without copies of the embedding."""
    use_exact_add(model)
    trained, frozen = getattr(torch, dtypes.trainable), getattr(torch, dtypes.frozen)
    for name, parameter in model.named_parameters():
        if ".ranknum." in name:  # AdaLoRA's count of ranks: PEFT lets it be trained on a base in 16 bits
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            parameter.data = parameter.data.to(trained)
    if trained != frozen:
        for module in model.modules():
            if isinstance(module, ModulesToSaveWrapper):
                for own in module.modules_to_save.values():
                    _compute_in(own, frozen)
            elif isinstance(module, LNTuningLayer):
                _compute_in(module, frozen)
    # PEFT would add the whole embedding once it was resized (and ask the hub about it); new rows are saved anyway.
    model.save_pretrained = functools.partial(model.save_pretrained, save_embedding_layers=False)


@contextmanager
def _same_svd(model: nn.Module) -> Iterator[None]:
    """PiSSA's fast SVD draws random numbers; drawing the same ones finds the same residual again when loading."""
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


@contextmanager
def _no_hints() -> Iterator[None]:
    """Keep back what PEFT and transformers tell each other's developers; nobody who trains can act on it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        warnings.filterwarnings("ignore", message="Found missing adapter keys")  # check_adapter refuses them
        yield


def _compute_in(module: nn.Module, dtype: torch.dtype) -> None:
    """Compute with float32 weights as if they were ``dtype``, and hand ``dtype`` on to the frozen layers.

    A method, unlike a closure, goes over to the copy of a module, and calls what the module's class is by then.
    """
    module.computes_in = dtype
    module.forward = MethodType(_forward_in, module)


def _forward_in(module: Any, *args: Any, **kwargs: Any) -> Any:
    with torch.autocast(next(module.parameters()).device.type, dtype=module.computes_in):
        return _cast(type(module).forward(module, *args, **kwargs), module.computes_in)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    return tuple(_cast(item, dtype) for item in value) if isinstance(value, tuple) else value
