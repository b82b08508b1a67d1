# SPDX-License-Identifier: Apache-2.0
"""Rewards of completions: the user's Python functions, built-in ones and a reward model, weighted and summed.

    rewards = load_rewards(args, tokenizer, template, policy)   # policy: the model in training (for type lora)
    scores = rewards(completions)                               # scores.total [N], scores.parts {name: [N]}

A function gets lists with one entry a completion, by name, of which it takes those in its signature:
``completions`` (texts), ``completion_messages`` (message dicts of all that was said), ``completion_ids`` (tokens),
``finished`` (ended by itself), ``prompts`` (message dicts), ``references`` (text of the row's own last turn), and every
column of the data set. It returns a list of numbers; ``None`` = no opinion.
"""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ....extras.errors import ConfigError
from ....hparams import split_list
from ....plugins import resolve
from ..user_file import describe, load_function
from .completion import Completion, RewardFunction
from .reward_model import load_reward_model

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from ....data.template.base import Template
    from ....hparams import TrainArgs

REWARD_MODEL = "reward_model"


class Scores(NamedTuple):
    """Attributes: ``total`` [N] float64, nan where no reward has an opinion; ``parts`` name -> [N], nan likewise."""

    total: Tensor
    parts: dict[str, Tensor]


class RewardSet:
    """Several rewards and their weights.

    Attributes:
        names: As they are logged.
        weights: One each.
    """

    def __init__(self, functions: dict[str, RewardFunction], weights: Sequence[float]) -> None:
        self.names, self.weights, self._functions = tuple(functions), tuple(weights), functions

    def __call__(self, completions: Sequence[Completion]) -> Scores:
        """Score completions; a reward without opinion (None) counts as nothing.

        Raises:
            ConfigError: A function fails, or what it returns is not one number for each completion.
        """
        parts = {name: function(completions) for name, function in self._functions.items()}
        stacked = torch.stack(list(parts.values()), -1)
        weights = torch.tensor(self.weights, dtype=torch.float64)
        total = (stacked * weights).nansum(-1).masked_fill(stacked.isnan().all(-1), math.nan)
        return Scores(total, parts)


def load_rewards(
    args: TrainArgs, tokenizer: PreTrainedTokenizerBase, template: Template, policy: nn.Module | None = None
) -> RewardSet:
    """Load all that ``reward_funcs`` and ``reward_model`` name; the reward model comes last.

    Args:
        args: The resolved configuration.
        tokenizer: Of the policy.
        template: Of the policy.
        policy: The model in training, with its adapter; needed for ``reward_model_type: lora``, which adds a frozen
            adapter beside the one in training.

    Raises:
        ConfigError: A function or model cannot be had, or the weights do not fit.
    """
    specs = split_list(args.rlhf.reward_funcs)
    if args.rlhf.rollout_environment and not specs and not args.rlhf.reward_model:
        specs = ["environment"]
    plain = [spec.rpartition(":")[2] for spec in specs]
    functions: dict[str, RewardFunction] = {}
    for spec, name in zip(specs, plain, strict=True):
        own = name if plain.count(name) == 1 and name != REWARD_MODEL else spec
        if own in functions:
            raise ConfigError(f"reward_funcs: {spec} is there twice; give one reward_weights instead")
        functions[own] = load_reward_function(spec)
    weights = read_weights(args.rlhf.reward_weights, [*functions, *([REWARD_MODEL] if args.rlhf.reward_model else [])])
    if args.rlhf.reward_model:
        functions[REWARD_MODEL] = load_reward_model(args, tokenizer, template, policy)
    return RewardSet(functions, weights)


def load_reward_function(spec: str) -> RewardFunction:
    """Return the reward that ``spec`` names: ``FILE.py:FUNCTION``, or a row of plugins' table ``reward_funcs``."""
    function = load_function(spec, "reward_funcs") if ".py" in spec else resolve("reward_funcs", spec)
    return _UserReward(spec, function)


def read_weights(written: str | None, names: Sequence[str]) -> list[float]:
    """Read ``reward_weights``; unset = 1 each."""
    given = split_list(written)
    if not given:
        return [1.0] * len(names)
    if len(given) != len(names):
        raise ConfigError(f"reward_weights: {len(given)} given for {len(names)} rewards ({', '.join(names)})")
    try:
        weights = [float(weight) for weight in given]
    except ValueError:
        raise ConfigError(f"reward_weights: expected numbers, got {written}") from None
    if not all(map(math.isfinite, weights)):
        raise ConfigError(f"reward_weights: expected finite numbers, got {written}")
    return weights


class _UserReward:
    """A function of the signature users write, called with what it takes, and what it returns checked."""

    def __init__(self, spec: str, function: Callable[..., Any]) -> None:
        self.spec, self.function = spec, function
        parameters = inspect.signature(function).parameters.values()
        self._takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        self._names = {p.name for p in named}
        self._needed = [p.name for p in named if p.default is p.empty]

    def __call__(self, completions: Sequence[Completion]) -> Tensor:
        given = arguments(completions)
        missing = [name for name in self._needed if name not in given]
        if missing:
            raise ConfigError(
                f"reward function {self.spec}: asks for {', '.join(missing)}, which no column is called; "
                f"there are {', '.join(given)}"
            )
        if not self._takes_all:
            given = {name: value for name, value in given.items() if name in self._names}
        try:
            values = self.function(**given)
        except ConfigError:
            raise
        except Exception as error:  # whatever a user's function can raise
            file = inspect.getsourcefile(inspect.unwrap(self.function)) if inspect.isroutine(self.function) else None
            where = f"{file}, " if file else ""
            raise ConfigError(f"reward function {self.spec} failed: {where}{describe(error, file)}") from error
        return self._check(values, len(completions))

    def _check(self, values: Any, count: int) -> Tensor:
        if hasattr(values, "tolist"):  # tensors and arrays
            values = values.tolist()
        if not isinstance(values, list | tuple):
            raise ConfigError(
                f"reward function {self.spec}: expected a list of {count} numbers, got {type(values).__name__}"
            )
        if len(values) != count:
            raise ConfigError(
                f"reward function {self.spec}: expected {count} numbers, one a completion, got {len(values)}"
            )
        for number, value in enumerate(values):
            if value is not None and not (isinstance(value, numbers.Real) and math.isfinite(value)):
                raise ConfigError(
                    f"reward function {self.spec}: completion {number}: expected a finite number or None, got {value!r}"
                )
        return torch.tensor([math.nan if value is None else float(value) for value in values], dtype=torch.float64)


def arguments(completions: Sequence[Completion]) -> dict[str, list[Any]]:
    """Return what reward functions may ask for, by name; a column cannot take the place of one of our own names."""
    columns = dict.fromkeys(name for completion in completions for name in completion.columns if name != "reference")
    return {name: [completion.columns.get(name) for completion in completions] for name in columns} | {
        "completions": [completion.text for completion in completions],
        "completion_messages": [[message.to_openai() for message in completion.said] for completion in completions],
        "completion_ids": [completion.ids for completion in completions],
        "finished": [completion.finished for completion in completions],
        "prompts": [[message.to_openai() for message in completion.prompt] for completion in completions],
        "references": [completion.columns.get("reference") for completion in completions],
    }
