# SPDX-License-Identifier: Apache-2.0
"""Environments: what answers the model in a conversation of several turns, and rewards what it does.

An environment is a Python class (``./game.py:Guess``), one object a completion, or the URL of a service:

    class Guess:
        def reset(self, number, **row):         # columns of the row, prompt, reference, seed: what it asks for
            self.number = number                # may return a first observation, which ends the prompt
        def step(self, action):                 # the text of the model's turn
            return "too low", 0.0, False        # observation, reward, whether it is over
"""

from __future__ import annotations

import inspect
import json
import math
import numbers
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ....data.messages import Message, ToolCall
from ....extras.errors import ConfigError, short
from ..service import post
from ..user_file import describe, load_function

if TYPE_CHECKING:
    from .rollout import Rollout
    from .tools import ToolBox

KEY = "rollout_environment"
REWARD = "environment_reward"  # the column of a completion that holds the sum of its rewards
_SECONDS = 60.0


def load_environment(spec: str) -> Callable[[], Any]:
    """Return what makes an environment: a class of the user's, or the client of a service.

    Raises:
        ConfigError: The class cannot be had, or lacks ``reset`` or ``step``.
    """
    if spec.startswith(("http://", "https://")):
        return lambda: _Service(spec.rstrip("/"))
    kind = load_function(spec, KEY)
    for name in ("reset", "step"):
        if not callable(getattr(kind, name, None)):
            raise ConfigError(f"{KEY}: {spec} has no method {name!r}; an environment has reset(...) and step(action)")
    return kind


class Replies:
    """What is said to the model between its turns: results of tools, or what its environment observes.

    Args:
        toolbox: Runs calls; None = calls are left alone.
        environment: From :func:`load_environment`; None = the model's first turn without calls is its last.
        name: Of the environment, for errors.
    """

    def __init__(self, toolbox: ToolBox | None, environment: Callable[[], Any] | None = None, name: str = "") -> None:
        self._toolbox, self._environment, self._name = toolbox, environment, name

    def begin(self, rollout: Rollout) -> str:
        """Begin an episode; returns its first observation, empty if there is none."""
        if self._environment is None:
            return ""
        rollout.environment = self._guarded(self._environment)
        rollout.columns[REWARD] = 0.0
        given = {
            **{name: value for name, value in rollout.columns.items() if name != REWARD},
            "prompt": [message.to_openai() for message in rollout.messages],
            "seed": rollout.seed,
        }
        observation = self._guarded(rollout.environment.reset, **_asked_for(rollout.environment.reset, given))
        return "" if observation is None else self._text(observation)

    def __call__(self, rollout: Rollout, calls: tuple[ToolCall, ...], last: bool) -> Sequence[Message]:
        """Return the turns that follow the model's turn; none when the conversation is over.

        Args:
            rollout: Ends with that turn.
            calls: In it.
            last: The model will not be asked again.
        """
        if calls and self._toolbox is not None:
            return () if last else [self._toolbox.call(call) for call in calls]
        if rollout.environment is None or not rollout.finished:
            return ()
        result = self._guarded(rollout.environment.step, rollout.text)
        if not isinstance(result, tuple | list) or len(result) not in (3, 5):  # five: Gymnasium's form
            raise ConfigError(f"{KEY}: {self._name}: step: expected (observation, reward, done), got {short(result)}")
        observation, reward, *ends = result
        if isinstance(reward, bool) or not isinstance(reward, numbers.Real) or not math.isfinite(reward):
            raise ConfigError(f"{KEY}: {self._name}: step: expected a finite number as reward, got {short(reward)}")
        rollout.columns[REWARD] += float(reward)
        return () if last or any(map(bool, ends[:2])) else [Message.of("user", self._text(observation))]

    def _text(self, observation: Any) -> str:
        return observation if isinstance(observation, str) else json.dumps(observation, ensure_ascii=False, default=str)

    def _guarded(self, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        try:
            return function(*given, **named)
        except ConfigError:
            raise
        except Exception as error:  # whatever a user's class can raise
            file = inspect.getsourcefile(inspect.unwrap(function)) if inspect.isroutine(function) else None
            raise ConfigError(f"{KEY}: {self._name} failed: {describe(error, file)}") from error


def _asked_for(function: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return given
    return {name: value for name, value in given.items() if name in parameters}


class _Service:
    """An environment behind a URL: ``POST URL/reset`` and ``POST URL/step``, an episode by its ``episode_id``."""

    def __init__(self, url: str) -> None:
        self._url, self._episode = url, ""

    def reset(self, seed: int, **row: Any) -> Any:
        self._episode = f"{seed:016x}"
        return self._ask("reset", {"seed": seed, **row})[0]

    def step(self, action: str) -> tuple[Any, Any, Any]:
        return self._ask("step", {"action": {"text": action}})

    def _ask(self, what: str, body: dict[str, Any]) -> tuple[Any, Any, Any]:
        reply = post(f"{self._url}/{what}", {"episode_id": self._episode, **body}, _SECONDS, KEY)
        if not isinstance(reply, dict) or "observation" not in reply:
            raise ConfigError(f"{KEY}: {self._url}/{what}: expected an object with observation, got {short(reply)}")
        observation = reply["observation"]
        if isinstance(observation, dict) and isinstance(observation.get("text"), str):
            observation = observation["text"]
        return observation, reply.get("reward") or 0.0, bool(reply.get("done"))
