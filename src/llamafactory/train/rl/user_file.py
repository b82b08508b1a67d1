# SPDX-License-Identifier: Apache-2.0
"""Python files that the user names in the configuration: rewards and tools. Their mistakes become one line each."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from ...extras.errors import ConfigError

_loaded: dict[Path, ModuleType] = {}


def load_file(path: str, key: str) -> ModuleType:
    """Run a Python file once and return its module; a second request gives the same module.

    Args:
        path: Relative to the working folder, or absolute; ``~`` is the home folder.
        key: The configuration key, for errors.

    Raises:
        ConfigError: It is not there, is not Python, or fails while it is run.
    """
    file = Path(path).expanduser().resolve()
    if file in _loaded:
        return _loaded[file]
    if not file.is_file():
        raise ConfigError(f"{key}: no file {path} (looked for {file})")
    name = f"llamafactory_user_{file.stem}_{len(_loaded)}"
    loader = SourceFileLoader(name, str(file))  # whatever the name that a link leads to ends in
    spec = importlib.util.spec_from_file_location(name, file, loader=loader)
    assert spec is not None, file
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and type hints look their module up there
    try:
        loader.exec_module(module)
    except Exception as error:  # whatever a user's file can raise
        del sys.modules[name]
        raise ConfigError(f"{key}: {path} cannot be used: {describe(error, file)}") from error
    _loaded[file] = module
    return module


def own_functions(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """Return the public functions that a module itself defines, in their order in the file."""
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }


def load_function(spec: str, key: str) -> Callable[..., Any]:
    """Return the function that ``FILE.py:NAME`` names.

    Raises:
        ConfigError: See :func:`load_file`; or the file has no such function.
    """
    path, colon, name = spec.rpartition(":")
    if not colon or path == "" or name.endswith(".py"):
        path, name = spec, ""
    module = load_file(path, key)
    found = getattr(module, name, None)
    if not name or not callable(found):
        own = [n for n, value in vars(module).items() if inspect.isclass(value) and value.__module__ == module.__name__]
        there = ", ".join([*own_functions(module), *own]) or "none"
        wrong = f"{path} has no function {name!r}" if name else f"{path}: write {path}:FUNCTION"
        raise ConfigError(f"{key}: {wrong}; its functions: {there}")
    return found


def describe(error: Exception, file: str | Path | None) -> str:
    """One line about an error in the user's code: the last line of ``file`` it went through, type and message."""
    message = " ".join(str(error).split())
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {type(error).__name__}: {error.msg}"
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if file is not None and Path(frame.filename) == Path(file)
    ]
    place = f"line {lines[-1]}: " if lines else ""
    return f"{place}{type(error).__name__}{': ' if message else ''}{message}"
