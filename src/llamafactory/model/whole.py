# SPDX-License-Identifier: Apache-2.0
"""Nothing is loaded by halves: every tensor has its place, every place its tensor, and all of them are numbers."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..extras.errors import ConfigError, ModelFault, first_line, first_names
from .families.family import may_be_absent, may_be_left_out

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor, nn

    from .heads import Head

_PLACES = re.compile(r"_(indices|size)(\.|$)")  # where in a weight a sparse adapter acts: the only integers
_SHOWN = 3  # names in a message: enough to see whose they are


def check_base(model: Any, info: Mapping[str, Any], place: str, head: Head | None, is_quantized: bool = False) -> None:
    """Refuse a base model that was loaded in part, or whose weights are not numbers.

    Args:
        model: As ``from_pretrained`` gave it.
        info: Its ``output_loading_info``, read with ``ignore_mismatched_sizes=True``.
        place: Folder or hub name, for the message.
        head: With one, a language model may lack the score, which is made new or read from elsewhere.
        is_quantized: The checkpoint holds quantized weights, whose scales have names of their own.

    Raises:
        ConfigError: Tensors are missing, left over or of another shape, or one holds NaN or infinity.
    """
    missing = [name for name in info["missing_keys"] if not may_be_absent(name, model.config, head)]
    beyond = [] if is_quantized else [name for name in info["unexpected_keys"] if not may_be_left_out(name, head)]
    shapes = [f"{name} {list(there)} for {list(here)}" for name, there, here in info["mismatched_keys"]]
    trouble = _trouble(missing, beyond, shapes)
    if trouble:
        raise ConfigError(
            f"model_name_or_path: '{place}' does not hold the whole model that its config.json describes: {trouble}"
        )
    _require_numbers(model.named_parameters(), f"model_name_or_path: '{place}'")


@contextmanager
def quiet_report() -> Iterator[None]:
    """Keep back transformers' table of what did not fit: :func:`check_base` says it in one line."""
    own = logging.getLogger("transformers.modeling_utils")

    def unless_report(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in str(record.msg)

    own.addFilter(unless_report)
    try:
        yield
    finally:
        own.removeFilter(unless_report)


def read_adapter_weights(folder: str, key: str = "adapter_name_or_path") -> dict[str, Tensor]:
    """Read an adapter's tensors onto the CPU.

    Raises:
        ConfigError: The file cannot be read, or holds something else than finite floating numbers.
    """
    from peft import load_peft_weights
    from safetensors import SafetensorError

    if not any((Path(folder) / name).exists() for name in ("adapter_model.safetensors", "adapter_model.bin")):
        raise ConfigError(f"{key}: '{folder}' has no adapter_model.safetensors")
    try:
        state: dict[str, Tensor] = load_peft_weights(folder, device="cpu")
    except (SafetensorError, OSError, ValueError, RuntimeError, EOFError) as error:
        raise ConfigError(f"{key}: the weights in '{folder}' cannot be read: {first_line(error)}") from None
    for name, value in state.items():
        if not value.is_floating_point() and not _PLACES.search(name):
            kind = str(value.dtype).removeprefix("torch.")
            raise ConfigError(f"{key}: '{folder}': {name} is of type {kind}; an adapter holds floating numbers")
    _require_numbers(state.items(), f"{key}: '{folder}'")
    return state


def check_adapter(
    model: PeftModel, name: str, state: Mapping[str, Tensor], folder: str, key: str = "adapter_name_or_path"
) -> None:
    """Refuse an adapter whose tensors are not exactly those that the model has room for.

    The tensors are put in once more, for that is how PEFT says what it made of their names.

    Args:
        model: With the adapter in place.
        name: What the adapter is called in it.
        state: Its tensors, as they were read.
        folder: For the message.
        key: The key that named the folder.

    Raises:
        ConfigError: Tensors are missing or left over.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    with _ranks_as_they_are(model.peft_config[name]):
        result = set_peft_model_state_dict(model, dict(state), adapter_name=name)
        saved = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    missing = [there for there in result.missing_keys if _without(there, name) in saved]
    # PEFT writes a whole embedding twice when it was resized; the second copy has no place of its own.
    beyond = [there for there in result.unexpected_keys if there.replace(".modules_to_save.", ".") not in {*saved}]
    trouble = _trouble(missing, beyond, [])
    if trouble:
        raise ConfigError(f"{key}: '{folder}' does not fit this model: {trouble}")


@contextmanager
def _ranks_as_they_are(config: Any) -> Iterator[None]:
    """Keep PEFT from cutting the ranks of AdaLoRA, which it cut when it loaded the adapter, a second time."""
    if config.peft_type != "ADALORA":
        yield
        return
    kept, config.rank_pattern = config.rank_pattern, None
    try:
        yield
    finally:
        config.rank_pattern = kept


def require_finite(found: Tensor, what: str) -> None:
    """Refuse what a model computed when it is no number.

    Raises:
        ModelFault: It holds NaN or infinity.
    """
    if not found.isfinite().all():
        raise not_finite(what)


def not_finite(what: str) -> ModelFault:
    """The error of a model whose ``what`` are NaN or infinite."""
    return ModelFault(
        f"infer_dtype: the model's {what} are NaN or infinite; its weights are broken, or too large for the type it "
        "computes in: try infer_dtype: float32"
    )


def _without(key: str, name: str) -> str:
    """The name in a file of a tensor that is called ``key`` in a model with the adapter ``name``."""
    return re.sub(rf"\.{re.escape(name)}(?=\.|$)", "", key).replace(".modules_to_save.", ".")


def _trouble(missing: Iterable[str], beyond: Iterable[str], shapes: Iterable[str]) -> str:
    groups = {"missing": missing, "without a place in it": beyond, "of another shape": shapes}
    found = {what: sorted(names) for what, names in groups.items()}
    return "; ".join(
        f"{len(names)} tensors {what} ({first_names(names, _SHOWN)})" for what, names in found.items() if names
    )


def _require_numbers(tensors: Iterable[tuple[str, Tensor | nn.Parameter]], place: str) -> None:
    """A sum reads memory once and is infinite or NaN with any of its parts: a hundredth of the time to load."""
    for name, value in tensors:
        value = getattr(value, "shard", value)  # of a weight that is read in parts
        plain = type(value).__name__ in ("Tensor", "Parameter")  # what a library quantizes is of a class of its own
        if not plain or not value.is_floating_point() or value.is_meta or value.element_size() < 2:
            continue
        if not value.detach().sum().isfinite() and not value.detach().isfinite().all():
            raise ConfigError(f"{place}: {name} holds NaN or infinity")
