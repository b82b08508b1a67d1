# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a configuration, key by key, before it is run; and what the page does not let anybody do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import yaml

from ...data.sources.dataset_info import find_datasets
from ...extras.environment import is_env_enabled
from ...extras.errors import ConfigError, writing
from ...extras.secrets import is_secret
from ...hparams import get_infer_args, get_train_args, split_list
from ..workspace import inside, workspace
from .fields import declared

REMOTE_CODE = "LLAMABOARD_TRUST_REMOTE_CODE"  # set where the page is started, never by the page
_TRAINING = ("train", "preview", "preprocess", "check-data", "plan")
_LONGEST = 2**16  # characters of one value

# Keys that hold a path which a command writes to or reads settings and data from: all of them in the workspace. What a
# model is loaded from is not among them: models lie wherever the machine keeps them, and are only read.
PATHS = (
    "output_dir", "export_dir", "tokenized_path", "save_dir", "save_name", "matrix_save_name", "mine_file",
    "profiler_output_dir", "swanlab_logdir", "offload_folder", "cache_dir", "dataset_dir", "media_dir", "task_dir",
    "messages", "new_special_tokens_config", "resume_from_checkpoint", "rollout_tools", "generation_config",
    "hyper_parallel_args",
    "fsdp_config", "deepspeed", "accelerator_config", "extra_config", "kt_weight_path", "kt_non_expert_weight_path",
    "kt_expert_checkpoint_path", "megatron_pretrained_checkpoint", "lr_scheduler_kwargs", "ray_storage_path",
)  # fmt: skip
# Keys that hold a path or something else: it is one if it looks like one.
PERHAPS = ("template", "export_quantization_dataset", "reward_funcs", "rollout_environment", "parallelism_config")
MODELS = (
    "model_name_or_path", "adapter_name_or_path", "adapter_folder", "lora_modules", "ref_model", "ref_model_adapters",
    "reward_model", "reward_model_adapters", "teacher_model_name_or_path", "teacher_model", "teacher_model_adapters",
)  # fmt: skip
_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "hf")  # fsspec knows many more: files of this machine among them
# An engine's own command line takes the beginning of an option for the whole of it.
_TRUST = re.compile(r"trust.?remote", re.IGNORECASE)
_TRUST_IN_TEXT = re.compile(r"--trust.?remote|trust.?remote.?code", re.IGNORECASE)
_LEADING_KEY = re.compile(r"(?:\S+:\d+: )?([a-z][a-z0-9_]*):? ")


def check(command: str, config: Mapping[str, Any]) -> list[tuple[str | None, str]]:
    """What is wrong with a configuration: key (``None`` = no single one) and message; nothing = it can be run.

    Args:
        command: That would run it.
        config: Flat keys.
    """
    try:
        wrong = dict(_types(config))
        found: list[tuple[str | None, str]] = [
            *wrong.items(), *(one for one in _forbidden(config) if one[0] not in wrong)
        ]  # fmt: skip
    except RecursionError:
        return [(None, "the configuration is nested too deep")]
    if found:
        return found
    try:
        with writing(workspace()):  # what a path leads to may be out of the machine's reach
            return _as_the_command(command, config)
    except ConfigError as error:
        return [(_key_of(str(error)), str(error))]


def _as_the_command(command: str, config: Mapping[str, Any]) -> list[tuple[str | None, str]]:
    args = get_train_args(config) if command in _TRAINING else get_infer_args(config)
    _check_sets(args.data.dataset, args.data.eval_dataset, args.data.dataset_dir)
    return []


def allows_remote_code() -> bool:
    """Whether the page was started so that code beside a model may be run."""
    return is_env_enabled(REMOTE_CODE)


def _key_of(message: str) -> str | None:
    named = _LEADING_KEY.match(message)
    return named[1] if named and named[1] in declared() else None


def _types(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every value that its key does not take, not only the first."""
    for key, value in config.items():
        try:
            _check_text(key, value)
            if key in declared():
                declared()[key].read(value)
        except ConfigError as error:
            yield key, str(error)


def _check_text(key: str, value: Any) -> None:
    for text in _texts(value):
        if len(text) > _LONGEST:
            raise ConfigError(f"{key}: at most {_LONGEST} characters, got {len(text)}")
        if "\0" in text:
            raise ConfigError(f"{key}: holds a NUL character")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"{key}: holds half of a character (a lone surrogate)") from None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield str(name)
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _forbidden(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What could be run from a terminal, and not from the page."""
    for key, value in config.items():
        if is_secret(key) and value:
            yield key, f"{key}: a secret is given in the environment of the server, not on a page"
            continue
        try:
            opened = _opened(value)
            _refuse_remote_code(key, key, opened)
            for path in [*_paths(key, value), *(_paths(key, opened) if opened is not value else ())]:
                inside(path, key)
        except ConfigError as error:
            yield key, str(error)


def _opened(value: Any) -> Any:
    """A value with the JSON and YAML that stands in it as text: who reads it later reads that too."""
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        for read in (json.loads, yaml.safe_load):
            with suppress(ValueError, yaml.YAMLError):
                found = read(value)
                if isinstance(found, Mapping | list):
                    return _opened(found)
    if isinstance(value, Mapping):
        return {str(name): _opened(item) for name, item in value.items()}
    return [_opened(item) for item in value] if isinstance(value, list | tuple) else value


def _refuse_remote_code(key: str, name: str, value: Any) -> None:
    """Code beside a model may be asked for by its key, and inside the settings of an engine."""
    if isinstance(value, Mapping):
        for inner, item in value.items():
            _refuse_remote_code(key, str(inner), item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_remote_code(key, name, item)
    elif _TRUST.search(name) or _TRUST_IN_TEXT.search(str(value)):
        wanted = str(value).strip().lower() not in ("false", "0", "no", "off", "none", "")
        if wanted and not allows_remote_code():
            raise ConfigError(f"{key}: code beside a model is run only if the page was started with {REMOTE_CODE}=1")


def _paths(key: str, value: Any) -> Iterator[str]:
    """The places of the workspace that a value names."""
    if key in ("dataset_dir",) and isinstance(value, str) and (value == "ONLINE" or value.startswith("REMOTE:")):
        return
    if key in MODELS or key in ("dataset", "eval_dataset"):
        return
    if isinstance(value, str):
        if key in PATHS and not value.lstrip().startswith("{"):
            yield value
        elif key == "reward_funcs":
            yield from (part.rpartition(":")[0] for part in split_list(value) if ":" in part)
        elif key in PERHAPS and (_is_path(value) or value.endswith((".jinja", ".yaml", ".json", ".jsonl"))):
            yield value
    elif isinstance(value, Mapping | list):
        yield from (text for text in _texts(value) if _is_path(text))


def _is_path(text: str) -> bool:
    return text.startswith(("/", "~", "./", "../")) or ".." in re.split(r"[/\\]", text) or "://" in text


def _check_sets(dataset: str | None, eval_dataset: str | None, dataset_dir: Any) -> None:
    """Whatever a set's name or entry leads to lies in the workspace, or in a store."""
    for key, some in (("dataset", dataset), ("eval_dataset", eval_dataset)):
        for name in split_list(some):
            if "://" not in name and _is_path(name):
                inside(name, key)
        try:
            sets = find_datasets(split_list(some), dataset_dir)
        except ConfigError as error:
            raise ConfigError(re.sub("^dataset:", f"{key}:", str(error))) from None
        for attr in sets:
            if attr.place == "file":
                inside(attr.location, key)
            elif attr.place == "cloud" and attr.location.partition("://")[0].split("::")[0] not in _STORES:
                raise ConfigError(f"{key}: {attr.location} is no address of a store; choices: {', '.join(_STORES)}")
