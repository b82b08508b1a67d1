# SPDX-License-Identifier: Apache-2.0
"""From what the user wrote to typed, checked arguments. Nothing here imports torch or transformers."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .. import plugins
from ..extras.environment import is_env_enabled
from ..extras.errors import ConfigError
from ..extras.logging import get_logger
from ..extras.secrets import remember
from .aliases import apply_aliases
from .args import SHARED_SECTIONS, TRAINING_SECTIONS, InferArgs, TrainArgs
from .backend_args import RayArguments
from .data_args import DataArguments
from .derive import derive_inference, derive_training
from .dialects.reading import in_our_keys
from .reader import Flat, read_source
from .rules import (
    context_parallel,
    data,
    deepspeed,
    finetuning,
    heads,
    inference,
    model,
    optimizer,
    places,
    ray,
    rlhf,
    sharding,
    training,
    unread,
)
from .schema import declared_keys, keys_of, known_keys, nearest, tuner_arguments
from .unbuilt import refuse_environment, refuse_unbuilt

logger = get_logger(__name__)

Source = Mapping[str, Any] | Sequence[str] | None

_CHECKS = (model.check, data.check, places.check)
_TRAINING_CHECKS = (
    model.check_training,
    finetuning.check_training,
    rlhf.check_training,
    heads.check_training,
    optimizer.check_training,
    training.check,
    sharding.check_training,
    context_parallel.check_training,
    deepspeed.check_training,
    ray.check_training,
    data.check_training,
    unread.check_training,
)


def get_train_args(source: Source = None) -> TrainArgs:
    """Read what a training run is asked to do.

    Args:
        source: Flat keys as a dict, command-line words, or None for this process's ``sys.argv[2:]``.

    Raises:
        ConfigError: A key is unknown, has the wrong type or breaks a rule; one line.
        UsageError: A part is asked for that is not built.
    """
    refuse_environment(training=True)
    flat = _read(source)
    sections = _sections(derive_training(flat), flat, {**SHARED_SECTIONS, **TRAINING_SECTIONS})
    args = TrainArgs(**sections, keys=_as_read(flat, sections))
    refuse_unbuilt(args, training=True)
    _check_stage(args)
    for check in (*_CHECKS, *_TRAINING_CHECKS):
        check(args)
    _check_tuner(args)
    return args


def get_data_args(source: Source = None) -> DataArguments:
    """Read the keys of the data alone, for what needs no model.

    Raises:
        ConfigError: A key is unknown or has the wrong type.
    """
    section: DataArguments = _read_section(DataArguments, source)
    return section


def get_ray_args(source: Source = None) -> RayArguments:
    """Read the keys of Ray alone.

    Raises:
        ConfigError: A key is unknown or has the wrong type.
    """
    section: RayArguments = _read_section(RayArguments, source)
    return section


def _read_section(section: type, source: Source) -> Any:
    flat = _read(source)
    return _build(section, flat.values, flat)


def read_args(source: Source = None) -> dict[str, Any]:
    """Read a configuration as it was written: flat keys, neither renamed nor typed nor checked.

    Args:
        source: A dict, command-line words (a YAML or JSON file, ``key=value``), or None for ``sys.argv[2:]``.

    Raises:
        ConfigError: The file or a word cannot be read.
    """
    return read_source(sys.argv[2:] if source is None else source).values


def get_infer_args(source: Source = None) -> InferArgs:
    """Read what chat, a server or export is asked to do; keys of training are accepted and not used.

    One file serves training and inference: when it names no adapter and its ``output_dir`` holds a trained one, that
    adapter is used; when ``output_dir`` holds a whole model, that model is.

    Raises:
        ConfigError: A key is unknown, has the wrong type or breaks a rule; one line.
        UsageError: A part is asked for that is not built.
    """
    refuse_environment(training=False)
    flat = _read(source)
    sections = _sections(derive_inference(flat), flat, SHARED_SECTIONS)
    args = InferArgs(**sections, keys=_as_read(flat, sections))
    refuse_unbuilt(args, training=False)
    _check_stage(args)
    for check in _CHECKS:
        check(args)
    inference.check(args)
    _check_tuner(args)
    return args


get_eval_args = get_infer_args  # benchmarks read what every command of inference reads


def _read(source: Source) -> Flat:
    flat = apply_aliases(in_our_keys(read_source(sys.argv[2:] if source is None else source)))
    _refuse_unknown(flat)
    _drop_empty(flat)
    remember(flat.values)
    return flat


def _refuse_unknown(flat: Flat) -> None:
    """Raise for the first key nobody declares; ``ALLOW_EXTRA_ARGS=1`` ignores them."""
    known = known_keys()
    unknown = [key for key in flat.values if key not in known]
    if not unknown:
        return
    if any(map(is_env_enabled, ("ALLOW_EXTRA_ARGS", "ALLOW_EXTRA_KEYS"))):  # the second is its name in the v1 engine
        for key in unknown:
            del flat.values[key]
        return
    key = unknown[0]
    near = nearest(key)
    hint = f"did you mean {near}?" if near else "`llamafactory-cli train -h` lists all keys"
    raise ConfigError(f"{flat.place(key)}unknown key {key}; {hint}")


def _drop_empty(flat: Flat) -> None:
    """Take keys that were left empty away, so that their defaults count; where the default is null, they are null."""
    declared = declared_keys()
    for key in [name for name in flat.values if name in declared]:
        nothing = flat.values[key] is None and key in flat.empty and declared[key].default is not None
        if nothing or (flat.values[key] == "" and not declared[key].takes_text):
            del flat.values[key]
            logger.warning_once(f"{flat.place(key)}{key}: left empty, so its default is used")


def _sections(values: dict[str, Any], flat: Flat, sections: dict[str, type]) -> dict[str, Any]:
    """Build each section from the keys it declares; ``flat`` says where a key was written."""
    built = {name: _build(section, values, flat) for name, section in sections.items()}
    if values.get("max_length") is not None and values.get("max_new_tokens") is None:
        built["generating"] = replace(built["generating"], max_new_tokens=0)  # else its default would win
    kind = built["finetuning"].finetuning_type
    if kind not in plugins.names("tuners"):
        near = difflib.get_close_matches(str(kind).lower(), plugins.names("tuners"), n=1, cutoff=0.5)
        choices = ", ".join(dict.fromkeys([*near, "full", "freeze", "lora", "oft"]))
        raise ConfigError(
            f"{flat.place('finetuning_type')}finetuning_type: expected one of {choices} or another method of PEFT "
            f"(docs/methods.md), got {kind!r}"
        )
    built["tuner"] = _build(tuner_arguments(kind), values, flat)
    return built


def _build(section: type, values: dict[str, Any], flat: Flat) -> Any:
    given = {}
    for name, key in keys_of(section).items():
        if name in values:
            try:
                given[name] = key.read(values[name])
            except ConfigError as error:
                raise ConfigError(f"{flat.place(name)}{error}") from None
    return section(**given)


def _as_read(flat: Flat, sections: dict[str, Any]) -> dict[str, Any]:
    """Return the keys the user wrote, with the types their sections gave them."""
    built = [vars(section) for section in sections.values() if section is not None]
    typed = {key: value for section in built for key, value in section.items()}
    return {key: typed.get(key, value) for key, value in flat.values.items()}


def _check_tuner(args: InferArgs) -> None:
    check = getattr(plugins.resolve("tuners", args.finetuning.finetuning_type), "check", None)
    if check is not None:
        check(args)


def _check_stage(args: InferArgs) -> None:
    """Refuse a stage that no table knows."""
    stages, stage = plugins.names("stages"), args.finetuning.stage
    if stage not in stages:
        raise ConfigError(f"stage: expected one of {', '.join(stages)}, got {stage!r}")
