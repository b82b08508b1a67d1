# SPDX-License-Identifier: Apache-2.0
"""Regular expressions in a stranger's adapter are matched here, under a time limit, and nowhere else.

``re`` cannot be interrupted from another thread, and some expressions take longer than the age of the universe. So
they are matched in a process of their own, and PEFT gets the names that they stand for. Plain names stay as they are.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..extras.errors import ConfigError
from .wrapping import beneath_adapters

if TYPE_CHECKING:
    from torch import nn

SECONDS = 10.0  # for all expressions of one adapter; honest ones take milliseconds

_PLAIN = re.compile(r"[\w.-]*")
_NEVER = re.compile(r"(?!)")
_MODULES = ("target_modules", "exclude_modules", "feedforward_modules")
_CHILD = """
import json, re, sys
patterns, names = json.load(sys.stdin)
try:
    found = [[name for name in names if re.compile(pattern).fullmatch(name)] for pattern in patterns]
except (re.error, RecursionError, OverflowError) as error:
    found = str(error) or type(error).__name__
json.dump(found, sys.stdout)
"""


def resolve_patterns(config: Any, model: nn.Module, place: str, former: Mapping[str, str], fresh: bool = False) -> None:
    """Put names of this model in the place of the expressions in an adapter's configuration.

    Args:
        config: Of PEFT; changed in place.
        model: What the adapter is to be put on.
        place: For the message.
        former: The names that the configuration speaks of → those of today; empty if it speaks of those of today.
        fresh: The user has written it for this model: what matches nothing is a mistake.

    Raises:
        ConfigError: An expression is none, matches nothing, or takes too long.
    """
    if fresh:
        _require_known(config, model, place)
    for key in ("modules_to_save", "layers_pattern"):
        _require_plain(key, getattr(config, key, None), place)
    if former:
        _spell_out(config, former)
    wanted = _expressions(config, _NEVER if former else _PLAIN)
    if not wanted:
        return
    names = _names(model, getattr(config, "target_parameters", None) or ())
    then = {today: name for name, today in former.items()}
    called = {then.get(name, name): name for name in names}
    matches = match_all(list(wanted.values()), list(called), place)
    found = {key: [called[name] for name in matching] for key, matching in zip(wanted, matches, strict=True)}
    for (key, expression), matching in found.items():
        needed = key in ("target_modules", "feedforward_modules") or (fresh and key not in _MODULES)
        if needed and not matching:
            raise ConfigError(f"{place}: {key}: {expression!r} matches no module of this model")
    _set_modules(config, {key: matching for (key, _), matching in found.items() if key in _MODULES}, names)
    for key in _tables(config):
        _set_table(config, key, found)


def match_all(expressions: Sequence[str], names: Sequence[str], place: str) -> list[list[str]]:
    """For each expression the names that match it from end to end.

    Raises:
        ConfigError: One is no regular expression, or they took longer than :data:`SECONDS`.
    """
    command = [sys.executable, "-I", "-S", "-c", _CHILD]
    try:
        done = subprocess.run(
            command, input=json.dumps([expressions, names]), capture_output=True, text=True, timeout=SECONDS, check=True
        )
    except subprocess.TimeoutExpired:
        shown = ", ".join(repr(expression[:80]) for expression in expressions[:3])
        raise ConfigError(f"{place}: matching its expressions took more than {SECONDS:g} s: {shown}") from None
    except subprocess.CalledProcessError as error:
        raise ConfigError(f"{place}: its expressions cannot be matched (exit code {error.returncode})") from None
    found: list[list[str]] | str = json.loads(done.stdout)
    if isinstance(found, str):
        raise ConfigError(f"{place}: an expression in it is none: {found}")
    return found


def _expressions(config: Any, plain: re.Pattern[str]) -> dict[tuple[str, str], str]:
    """(key, expression as it stands) → what has to match a whole name, as PEFT means it; ``plain`` ones stay."""
    wanted = {}
    for key in _MODULES:
        value = getattr(config, key, None)
        if isinstance(value, str) and value and value.lower() != "all-linear":
            wanted[key, value] = value
    for key in _tables(config):
        for expression in getattr(config, key):
            if not plain.fullmatch(expression):
                wanted[key, expression] = rf"(?:.*\.)?(?:{expression})"
    return wanted


def _require_known(config: Any, model: nn.Module, place: str) -> None:
    """Plain names are ends of names of modules."""
    names = _names(model, getattr(config, "target_parameters", None) or ())
    excluded = getattr(config, "exclude_modules", None)
    for key in ["exclude_modules"] * isinstance(excluded, list | set) + _tables(config):
        for end in getattr(config, key):
            if _PLAIN.fullmatch(end) and not _ending_in(names, [end]):
                raise ConfigError(f"{place}: {key}: {end!r} matches no module of this model")


def _spell_out(config: Any, former: Mapping[str, str]) -> None:
    """Plain names are ends of names: write them as what can be matched with former names, or as names of today."""
    for key in _MODULES:
        value = getattr(config, key, None)
        if value and not isinstance(value, str):
            setattr(config, key, rf"(?:.*\.)?(?:{'|'.join(re.escape(name) for name in sorted(value))})")
    whole = getattr(config, "modules_to_save", None) or ()
    if whole:
        config.modules_to_save = [today for name in whole for today in _ends_of_today(name, former)]
    rows = getattr(config, "trainable_token_indices", None)
    if isinstance(rows, dict):
        config.trainable_token_indices = {
            today: ids for name, ids in rows.items() for today in _ends_of_today(name, former)
        }


def _ends_of_today(end: str, former: Mapping[str, str]) -> list[str]:
    """What PEFT has to be given so that it takes the modules whose former names end in ``end``."""
    meant = [today for then, today in former.items() if then.endswith(end)]
    return [end] if all(today.endswith(end) for today in meant) else meant


def _tables(config: Any) -> list[str]:
    """Keys such as ``rank_pattern``: expression → value."""
    return [key for key, value in vars(config).items() if key.endswith("_pattern") and isinstance(value, dict)]


def _set_modules(config: Any, found: dict[str, list[str]], names: Sequence[str]) -> None:
    for key, matching in found.items():
        setattr(config, key, matching)
    if "target_modules" in found:
        targets = set(found["target_modules"])
        # PEFT takes what ends in one of the names as well.
        excluded = [name for name in _ending_in(names, targets) if name not in targets]
        config.exclude_modules = [*(config.exclude_modules or ()), *excluded]
    elif "exclude_modules" in found and isinstance(config.target_modules, list | set):
        config.exclude_modules = _ending_in(found["exclude_modules"], config.target_modules)  # a tower has thousands


def _ending_in(names: Iterable[str], ends: Iterable[str]) -> list[str]:
    suffixes = tuple(f".{end}" for end in ends)
    return [name for name in names if f".{name}".endswith(suffixes)]


def _set_table(config: Any, key: str, found: dict[tuple[str, str], list[str]]) -> None:
    """The first expression that matches a name counts, as with PEFT."""
    resolved: dict[str, Any] = {}
    for expression, value in getattr(config, key).items():
        for name in found.get((key, expression), [expression]):
            escaped = name if (key, expression) not in found else re.escape(name)
            resolved.setdefault(escaped, value)
    setattr(config, key, resolved)


def _require_plain(key: str, value: str | Iterable[str] | None, place: str) -> None:
    for name in [value] if isinstance(value, str) else value or []:
        if not isinstance(name, str) or not _PLAIN.fullmatch(name):
            raise ConfigError(f"{place}: {key}: {name!r} is not the name of a module")


def _names(model: nn.Module, parameters: Iterable[str]) -> list[str]:
    """Modules and parameters that an adapter can name, without those of adapters that are there already."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    core = beneath_adapters(model)
    inside = tuple(f"{name}." for name, module in core.named_modules() if isinstance(module, BaseTunerLayer))
    modules = [name for name, _ in core.named_modules() if name]
    tensors = [name for name, value in core.named_parameters() if value.ndim == 3]
    tensors += _ending_in((name for name, _ in core.named_parameters()), parameters)
    single = [
        f"{name.rpartition('.')[0]}.{one}" for name in tensors for one in _SINGLE.get(name.rpartition(".")[2], ())
    ]
    return [name for name in dict.fromkeys([*modules, *tensors, *single]) if not (inside and name.startswith(inside))]


# Fused experts by the names that adapters of single ones use.
_SINGLE = {"gate_up_proj": ("gate_proj", "up_proj", "w1", "w3"), "down_proj": ("down_proj", "w2")}
