# SPDX-License-Identifier: Apache-2.0
"""Tools of a rollout: plain Python functions with type hints and docstrings, called as the model asks.

    toolbox = load_tools("./tools.py")
    toolbox.descriptions                    # OpenAI tool objects, for the prompt
    toolbox.call(tool_call)                 # Message(role="tool"): what the function returned, as text

A tool's mistake and the model's alike become the text of the result, for the model to read; neither ends the run.
"""

from __future__ import annotations

import inspect
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from transformers.utils import get_json_schema
from transformers.utils.chat_template_utils import DocstringParsingException, TypeHintParsingException

from ....data.messages import Message, ToolCall
from ....extras.errors import ConfigError
from ..user_file import describe, load_file, own_functions

TIME_LIMIT = 10.0


def load_tools(path: str, time_limit: float = TIME_LIMIT) -> ToolBox:
    """Make tools of a file's public functions.

    Args:
        path: A Python file; names that start with ``_`` and imported ones are no tools.
        time_limit: Seconds that a call may take.

    Raises:
        ConfigError: The file cannot be used, or a function lacks type hints or descriptions of its arguments.
    """
    functions = own_functions(load_file(path, "rollout_tools"))
    if not functions:
        raise ConfigError(f"rollout_tools: {path} has no functions")
    return ToolBox(functions, path, time_limit)


class ToolBox:
    """Functions that a model may call.

    Attributes:
        descriptions: OpenAI tool objects, made of type hints and Google-style docstrings.
    """

    def __init__(self, functions: Mapping[str, Callable[..., Any]], path: str, time_limit: float = TIME_LIMIT) -> None:
        self._functions, self._path, self._time_limit = dict(functions), path, time_limit
        self.descriptions = [_described(name, function, path) for name, function in self._functions.items()]

    def call(self, call: ToolCall) -> Message:
        """Run one call and return the tool's turn: its result (text as it is, all else as JSON), or ``Error: …``."""
        return Message.of("tool", self._result(call), name=call.name, tool_call_id=call.id)

    def _result(self, call: ToolCall) -> str:
        function = self._functions.get(call.name)
        if function is None:
            return f"Error: there is no tool {call.name!r}; there are {', '.join(self._functions)}"
        arguments = call.arguments
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except (json.JSONDecodeError, RecursionError) as error:
                return f"Error: the arguments are not JSON: {error}"
        if not isinstance(arguments, dict):
            return "Error: the arguments are not a JSON object"
        try:
            inspect.signature(function).bind(**arguments)
        except TypeError as error:
            return f"Error: {call.name}: {error}"
        return self._run(function, call.name, arguments)

    def _run(self, function: Callable[..., Any], name: str, arguments: dict[str, Any]) -> str:
        """Run in a thread of its own, which is left behind when it takes too long: Python cannot end a thread."""
        outcome: list[str] = []

        def work() -> None:
            try:
                outcome.append(_written(function(**arguments)))
            except Exception as error:  # whatever a user's function can raise is a result for the model
                outcome.append(f"Error: {describe(error, None)}")

        thread = threading.Thread(target=work, name=f"tool {name}", daemon=True)
        thread.start()
        thread.join(self._time_limit)
        return outcome[0] if outcome else f"Error: {name} took longer than {self._time_limit:g} s"


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _described(name: str, function: Callable[..., Any], path: str) -> dict[str, Any]:
    try:
        schema = get_json_schema(function)
    except (DocstringParsingException, TypeHintParsingException) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"rollout_tools: {path}, function {name}: {reason}") from None
    schema["function"].pop("return", None)  # not part of an OpenAI tool object
    return schema
