# SPDX-License-Identifier: Apache-2.0
"""What the run of an adapter noted about the weights below it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError
from ...extras.files import read_json
from ...extras.manifest import NAME as MANIFEST
from ..adapter_config import LOFTQ, read_adapter_values

if TYPE_CHECKING:
    from ...hparams.model_args import QuantizationArguments

_OF_CHECKPOINT = "run_config.json"
# Types of adapters whose fixed parts are made of the weights below them, and are in no file -> over other weights the
# same adapter is another one.
MADE_OF_WEIGHTS = {
    "ADAMSS": "the subspaces of the weights",
    "FROD": "the joint basis of the weights",
    "OSF": "the singular vectors of the weights",
    "PSOFT": "the singular vectors of the weights",
}


def trained_over(folder: str | Path) -> str | None:
    """In how many bits the weights below an adapter were held in its training, such as ``4 bits (bnb)``.

    Args:
        folder: Of the adapter: what a run left, or one of its checkpoints.

    Returns:
        ``None`` where they were whole, or nothing is noted.
    """
    return _said(_noted(folder) or {})


def require_same_base(folder: str | Path, settings: QuantizationArguments, key: str = "adapter_name_or_path") -> None:
    """Refuse an adapter over other weights than those that it was made of, where that makes another of it.

    Args:
        folder: Of the adapter.
        settings: How the base is quantized now.
        key: The key that named the folder.

    Raises:
        ConfigError: It belongs to weights that were quantized otherwise, or not at all.
    """
    values, noted = read_adapter_values(folder, key), _noted(folder)
    why = MADE_OF_WEIGHTS.get(str(values.get("peft_type")))
    if values.get("init_lora_weights") == LOFTQ:
        why, noted = "what the weights lost", noted or {"quantization_bit": None}
    now = vars(settings)
    places = ("quantization_device_map", "stream_layers")  # where the weights are, not what
    keys = [name for name in now if name not in places] if now["quantization_bit"] else ["quantization_bit"]
    if why is None or noted is None or all(noted.get(name, now[name]) == now[name] for name in keys):
        return
    raise ConfigError(
        f"{key}: '{folder}' stands on {why}, {_said(noted) or 'which were whole'} in its training, and "
        f"{_said(now) or 'which are whole'} now; give the same quantization_* keys (export_dequantized: true in export)"
    )


def trained_for(folder: str | Path) -> dict[str, Any] | None:
    """Return the ``export_quantization_*`` keys under which an export is what a run with ``qat`` trained.

    Args:
        folder: What the run left, or one of its checkpoints.
    """
    noted = _noted(folder, "qat") or {}
    if noted.get("qat") not in ("int4", "int8"):
        return None
    return keys_of_qat(noted["qat"], noted.get("qat_group_size"))


def keys_of_qat(qat: str, group: int | None) -> dict[str, Any]:
    """The same for the values of ``qat`` and ``qat_group_size``."""
    return {
        "export_quantization_bit": int(qat.removeprefix("int")),
        "export_quantization_method": "rtn",
        "export_quantization_group_size": group,
        "export_quantization_symmetric": True,
        "export_quantization_search": False,
    }


def _noted(folder: str | Path, section: str = "quantization") -> dict[str, Any] | None:
    with suppress(ConfigError, AttributeError):  # an adapter from elsewhere has no such notes, and needs none
        if (Path(folder) / _OF_CHECKPOINT).is_file():
            return {"quantization_bit": None} | read_json(Path(folder) / _OF_CHECKPOINT, dict)
        if (Path(folder) / MANIFEST).is_file():
            settings = read_json(Path(folder) / MANIFEST, dict).get("config", {}).get(section, {})
            return {"quantization_bit": None} | settings
    return None


def _said(settings: dict[str, Any]) -> str | None:
    bits, method = settings.get("quantization_bit"), settings.get("quantization_method")
    return f"{bits} bits ({method})" if bits else None
