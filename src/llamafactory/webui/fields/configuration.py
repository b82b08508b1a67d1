# SPDX-License-Identifier: Apache-2.0
"""From the fields of the page to a configuration and back; the command and the file that run without the page."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ...extras.environment import is_env_enabled
from ...extras.errors import ConfigError, short
from ...extras.secrets import mask_values
from ...hparams import split_list
from ...hparams.args import SHARED_SECTIONS, TRAINING_SECTIONS
from ...hparams.coercion import as_written
from ...hparams.schema import keys_of, plugin_sections
from ...hparams.training_args import CHOSEN
from ...model.catalogue.catalogue import load, of_path
from ..workspace import SAVES
from .applicability import reason_off
from .fields import Field, declared, fields_on
from .presets import example_files, list_presets, load_example, load_preset, save_preset
from .validation import check

__all__ = [
    "build", "check", "command_of", "example_files", "list_presets", "load_example", "load_preset", "of_model",
    "save_folder", "save_preset", "to_command", "to_values", "to_yaml",
]  # fmt: skip

_WHOLE = ("full", "freeze")  # what these train is a whole model, not an adapter beside one
_BOOSTERS: dict[str, dict[str, Any]] = {
    "auto": {},
    "flashattn2": {"flash_attn": "fa2"},
    "liger_kernel": {"enable_liger_kernel": True},
}
_COMPUTE_TYPES: dict[str, dict[str, Any]] = {
    "auto": {},
    "bf16": {"bf16": True},
    "fp16": {"fp16": True},
    "fp32": {"bf16": False},
    "pure_bf16": {"pure_bf16": True},
}
_PISSA = {"pissa_init": True, "pissa_convert": True}
# What each kind of evaluation does.
_KINDS: dict[str, dict[str, Any]] = {
    "predict": {"do_predict": True, "predict_with_generate": True},
    "loss": {"do_eval": True},
    "benchmark": {},
}
_TITLES = {
    "quantization": "model", "media": "model", "tuner": "method", "finetuning": "method", "rlhf": "method",
    "vllm": "engine", "sglang": "engine", "kt": "engine", "evaluation": "evaluation", "data": "data", "model": "model",
    "export": "export", "generating": "generation",
}  # fmt: skip


def command_of(tab: str, values: Mapping[str, Any]) -> str:
    """The command that a tab runs: ``train``, ``eval``, ``chat`` or ``export``."""
    if tab == "eval":
        return "eval" if values.get("eval.kind") == "benchmark" else "train"
    return {"infer": "chat"}.get(tab, tab)


def build(tab: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flat keys of a tab's command.

    What is left at a key's default is left out, and so is what has no effect with the stage and tuner chosen.

    Args:
        tab: ``train``, ``eval``, ``infer`` (chat) or ``export``.
        values: Field id to value, of the top bar and of the tab; a field that is not there has its default.

    Raises:
        ConfigError: The further arguments are no JSON object.
    """
    config: dict[str, Any] = {**_model(values), "finetuning_type": _value("top.finetuning_type", values)}
    kind = str(_value("eval.kind", values)) if tab == "eval" else ""
    config |= _KINDS.get(kind, {"do_train": True} if tab == "train" else {})
    for field in [*fields_on("top").values(), *fields_on(tab).values()]:
        value = values.get(field.id, field.default)
        if field.key is not None and _says_something(field, value) and not reason_off(field, values):
            config[field.key] = _typed(field.key, value)
    config |= _BOOSTERS.get(str(_value("top.booster", values)), {})
    if tab == "train":
        config |= _of_training(config, values)
    if kind == "benchmark":
        config["save_dir"] = config.pop("output_dir", None)
        config["batch_size"] = config.pop("per_device_eval_batch_size", _value("eval.batch_size", values))
    for key in ("output_dir", "save_dir"):
        if config.get(key) is not None:
            config[key] = _place(str(config[key]), values)
    config = {key: value for key, value in config.items() if value is not None}
    return config | _further(f"{tab}.extra_args", values)


def save_folder(values: Mapping[str, Any]) -> Path:
    """Where the runs of the model and the tuner chosen are: ``saves/<model>/<type>``."""
    name = str(_value("top.model_name", values) or "")
    if name not in load():
        name = str(values.get("top.model_path") or name).rstrip("/\\").removesuffix(".gguf")
    name = re.sub(r"[^\w.+ -]", "_", re.split(r"[/\\]", name)[-1]).strip(". ") or "model"
    return Path(SAVES) / name / str(_value("top.finetuning_type", values))


def to_values(config: Mapping[str, Any], tab: str) -> dict[str, Any]:
    """The values of the fields that show a configuration; what has no field stands in the further arguments."""
    left = dict(config)
    values: dict[str, Any] = {f"{tab}.{name}": value for name, value in _composed(tab, left).items()}
    path = left.pop("model_name_or_path", None)
    if path is not None:
        known = of_path(str(path))
        values |= {"top.model_name": known.name if known else "", "top.model_path": str(path)}
    adapters = split_list(left.pop("adapter_name_or_path", None))
    values["top.checkpoint_path"] = adapters
    values["top.booster"] = next((name for name, keys in _BOOSTERS.items() if keys and _take(left, keys)), "auto")
    for field in [*fields_on("top").values(), *fields_on(tab).values()]:
        if field.key in left:
            values[field.id] = _shown(field, left.pop(field.key))
        elif field.key and field.id not in values:
            values[field.id] = _of_default(field)
    values[f"{tab}.extra_args"] = json.dumps(left, ensure_ascii=False) if left else "{}"
    return values


def to_yaml(config: Mapping[str, Any]) -> str:
    """The configuration as a YAML file, keys in groups as in the examples; secrets are masked."""
    groups: dict[str, dict[str, Any]] = {}
    for key, value in mask_values(config).items():
        groups.setdefault(_title(key), {})[key] = value
    blocks = [f"### {title}\n{_dump(keys)}" for title, keys in groups.items()]
    return "\n".join(blocks)


def to_command(command: str, config: str | Path | Mapping[str, Any]) -> str:
    """The command line for a file, or for keys; quoted, so that pasting it into a shell runs nothing else."""
    if not isinstance(config, Mapping):
        return " ".join(map(_quoted, ["llamafactory-cli", command, str(config)]))
    words = [f"{key}={_word(value)}" for key, value in mask_values(config).items()]
    return " ".join(map(_quoted, ["llamafactory-cli", command, *words]))


def _value(name: str, values: Mapping[str, Any]) -> Any:
    field = fields_on(name.partition(".")[0])[name]
    return values.get(name, field.default)


def of_model(name: str, hub: str = "huggingface") -> dict[str, Any]:
    """The values of the fields that a model of the catalogue fills when it is chosen; nothing for another name."""
    model = load().get(name)
    return {} if model is None else {"top.model_path": model.path(hub), "top.template": model.template}


def _model(values: Mapping[str, Any]) -> dict[str, Any]:
    """Model and adapters: the path comes before the name."""
    name, hub = str(_value("top.model_name", values) or ""), str(_value("top.hub_name", values))
    path = _value("top.model_path", values) or of_model(name, hub).get("top.model_path") or name
    folder = save_folder(values)
    given = map(str, _value("top.checkpoint_path", values) or [])
    places = [str(folder / one) if "/" not in one else one for one in given]
    if places and _value("top.finetuning_type", values) in _WHOLE:
        return {"model_name_or_path": places[0]}
    return {"model_name_or_path": path or None, "adapter_name_or_path": ",".join(places) or None}


def _says_something(field: Field, value: Any) -> bool:
    """Whether a value is another than what holds without it."""
    if field.key in ("model_name_or_path", "finetuning_type") or value is None or value in ("", []):
        return False
    if field.unset is not None and (value == field.unset or str(value) == str(field.unset)):
        return False
    if field.key == "hub" and value == "huggingface":
        return any(map(is_env_enabled, ("USE_MODELSCOPE_HUB", "USE_OPENMIND_HUB")))
    assert field.key is not None
    default = declared()[field.key].default
    return field.key in CHOSEN or _typed(field.key, value) != _typed(field.key, default)


def _typed(key: str, value: Any) -> Any:
    """A value with the type of its key; what cannot be read stays as it was written, for the message about it."""
    spec = declared()[key]
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,6}\s*\*\s*\d{1,6}\s*", value) and not spec.takes_text:
        value = math.prod(map(int, value.split("*")))  # 768*768
    try:
        found = spec.read(value)
    except ConfigError:
        return value
    return int(found) if isinstance(found, float) and found.is_integer() and abs(found) < 2**53 else found


def _of_training(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    keys = dict(_COMPUTE_TYPES.get(str(_value("train.compute_type", values)), {}))
    if _value("train.use_pissa", values) and config["finetuning_type"] == "lora":
        keys |= _PISSA
    if config.get("val_size") and "eval_strategy" not in config:
        keys |= {"eval_strategy": "steps", "eval_steps": config.get("save_steps")}
    return keys


def _place(name: str, values: Mapping[str, Any]) -> str:
    """A name alone is one of the folders of the model's runs."""
    return name if "/" in name or "\\" in name else str(save_folder(values) / name)


def _further(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    given = values.get(name)
    if not given or not str(given).strip():
        return {}
    try:
        found = json.loads(given) if isinstance(given, str) else given
    except (ValueError, RecursionError):  # a number of more digits than Python reads is one too
        found = None
    if not isinstance(found, Mapping):
        raise ConfigError(f"extra_args: expected a JSON object of keys, got {short(given)}")
    return dict(found)


def _composed(tab: str, left: dict[str, Any]) -> dict[str, Any]:
    """Take the keys that one field says together out of a configuration; gives these fields."""
    for key in ("do_train", "do_eval", "do_predict", "predict_with_generate"):
        if left.get(key) is False or (tab == "train" and key == "do_train"):
            left.pop(key, None)
    if tab == "eval":
        kind = (
            "benchmark"
            if "task" in left or "batch_size" in left
            else next((name for name, keys in _KINDS.items() if _take(left, keys)), "predict")
        )
        if kind == "benchmark" and "save_dir" in left:
            left["output_dir"] = left.pop("save_dir")
        if "batch_size" in left:
            left["per_device_eval_batch_size"] = left.pop("batch_size")
        return {"kind": kind}
    if tab != "train":
        return {}
    if (
        left.get("val_size")
        and left.get("eval_strategy") == "steps"
        and left.get("eval_steps") == left.get("save_steps")
    ):
        left.pop("eval_strategy"), left.pop("eval_steps", None)
    compute = next((name for name, keys in _COMPUTE_TYPES.items() if keys and _take(left, keys)), "auto")
    return {"compute_type": compute, "use_pissa": _take(left, _PISSA)}


def _take(left: dict[str, Any], keys: Mapping[str, Any]) -> bool:
    if not keys or any(key not in left or left[key] != value for key, value in keys.items()):
        return False
    for key in keys:
        del left[key]
    return True


def _shown(field: Field, value: Any) -> Any:
    """A value of a key as its field shows it."""
    if field.widget == "multi":
        given = split_list(value) if isinstance(value, str) else list(value or [])
        return [] if given == ["none"] else given
    if field.widget == "choice":
        return as_written(value) if value is not None else "null" if "null" in field.choices else ""
    if field.widget == "json" or isinstance(value, Mapping | list):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return value


def _of_default(field: Field) -> Any:
    """What a field shows of a configuration that does not have its key: the key's default, not the page's."""
    assert field.key is not None
    if field.unset is not None or field.key in CHOSEN:
        return field.unset
    return _shown(field, declared()[field.key].default) if field.widget != "multi" else []


def _title(key: str) -> str:
    sections = {**SHARED_SECTIONS, **TRAINING_SECTIONS}
    for name, section in sections.items():
        if key in keys_of(section):
            return _TITLES.get(name, "training")
    tuners = plugin_sections().values()
    return "method" if any(key in keys_of(section) for section in tuners) else "other"


def _dump(keys: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(dict(keys), allow_unicode=True, sort_keys=False, width=2**20)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a character, which no file of text can hold
        text = yaml.safe_dump(dict(keys), allow_unicode=False, sort_keys=False, width=2**20)
    return text


def _word(value: Any) -> str:
    """A value as a word of a command line."""
    if value is None:
        return "null"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping | list) else as_written(value)


def _quoted(word: str) -> str:
    """A word for a shell. Control characters are spelled: a terminal acts on them as it reads what is pasted."""
    if word.isprintable():
        return shlex.quote(word)
    spelled = "".join(_spelled(sign) for sign in word)
    return f"$'{spelled}'"


def _spelled(sign: str) -> str:
    if sign in "\\'":
        return f"\\{sign}"
    if sign.isprintable():
        return sign
    return (
        f"\\x{ord(sign):02x}"
        if ord(sign) < 128
        else f"\\u{ord(sign):04x}"
        if ord(sign) < 2**16
        else f"\\U{ord(sign):08x}"
    )
