# SPDX-License-Identifier: Apache-2.0
"""The reward model: one of its own, an adapter beside the policy's, or a web service."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ....data.collators import PaddedCollator
from ....data.messages import Sample
from ....data.processor.rows import ids_of, media_in
from ....data.template_loader import get_template
from ....extras.errors import ConfigError
from ....model import load_model, load_tokenizer
from ....model.adapters import add_adapter, read_adapter
from ....model.heads import REWARD
from ....model.media_inputs import on_device
from ....model.paths import resolve_adapter_path
from ....model.value_head import read_value_head
from ....plugins import resolve
from ..service import post
from .completion import Completion, RewardFunction

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ....data.template.base import Template
    from ....hparams import TrainArgs

ADAPTER = "reward"
_API_SECONDS = 120.0
_SCORE = "base_model.model.score.weight"


def load_reward_model(
    args: TrainArgs, tokenizer: PreTrainedTokenizerBase, template: Template, policy: nn.Module | None
) -> RewardFunction:
    """Load what ``reward_model`` names, in the way of ``reward_model_type``.

    Args:
        args: The resolved configuration.
        tokenizer: Of the policy.
        template: Of the policy.
        policy: A PEFT model; only for type ``lora``, which puts a frozen adapter named ``reward`` on it.

    Raises:
        ConfigError: There is no such model, or it is no reward model.
    """
    name, kind = str(args.rlhf.reward_model), args.rlhf.reward_model_type
    if kind == "api":
        return ServiceReward(name, template)
    batch = args.training.per_device_eval_batch_size
    if kind == "lora":
        if not hasattr(policy, "peft_config"):
            raise ConfigError("reward_model_type: lora needs a policy with an adapter (finetuning_type: lora)")
        folder = resolve_adapter_path(name, args.model, "reward_model")
        return AdapterReward(policy, _add_adapter(policy, folder, args), tokenizer, template, batch)
    return _load_full(args, tokenizer, template, batch)


def reward_args(args: TrainArgs) -> TrainArgs:
    """Return what a reward model of its own is loaded by."""
    adapters = args.rlhf.reward_model_adapters
    tuner = "lora" if adapters else "full"
    return dataclasses.replace(
        args,
        model=dataclasses.replace(args.model, model_name_or_path=args.rlhf.reward_model, adapter_name_or_path=adapters),
        quantization=dataclasses.replace(args.quantization, quantization_bit=args.rlhf.reward_model_quantization_bit),
        finetuning=dataclasses.replace(args.finetuning, finetuning_type=tuner),
        tuner=resolve("tuners", tuner).Arguments(),
        training=dataclasses.replace(
            args.training, fsdp=None, fsdp_config=None, deepspeed=None
        ),  # each process scores its own
    )


def _load_full(args: TrainArgs, tokenizer: PreTrainedTokenizerBase, template: Template, batch: int) -> RewardFunction:
    """A model of its own; with another vocabulary than the policy's it reads text in its own template."""
    own = reward_args(args)
    with _under_its_key():
        its_tokenizer = load_tokenizer(own.model)
    if its_tokenizer.get_vocab() != tokenizer.get_vocab():
        template = get_template(its_tokenizer, dataclasses.replace(args.data, template=None))
        tokenizer = its_tokenizer
    with _under_its_key():
        model = load_model(tokenizer, own, trainable=False, head=REWARD, beside_training=True)
    return ModelReward(model, tokenizer, template, batch)


@contextmanager
def _under_its_key() -> Iterator[None]:
    """Let an error name the key that the user wrote, and not the one of the model in training."""
    try:
        yield
    except ConfigError as error:
        text = str(error).removeprefix("model_name_or_path: ").removeprefix("adapter_name_or_path: ")
        raise ConfigError(f"reward_model: {text}") from error


class LocalReward:
    """Scores of whole conversations at their last token, by a model in this process."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: Template, batch: int, to_the_end: bool) -> None:
        self._pad, self._template, self._batch, self._to_the_end = tokenizer.pad_token_id, template, batch, to_the_end
        self._collate = PaddedCollator(tokenizer, media=template.batch_media() if template.media else None)

    def __call__(self, completions: Sequence[Completion]) -> Tensor:
        """Return scores [N] float64."""
        encoded = self._template.encode_batch([_conversation(completion) for completion in completions])
        sequences, media = [ids_of(segments) for segments in encoded], [media_in(segments) for segments in encoded]
        scores = torch.empty(len(sequences), dtype=torch.float64)
        order = sorted(range(len(sequences)), key=lambda number: len(sequences[number]))
        for start in range(0, len(order), self._batch):
            part = order[start : start + self._batch]
            rows = [
                {"input_ids": ids, "labels": ids, "seq_lens": [len(ids)], "media": [media[number]]}
                for number in part
                for ids in [sequences[number]]
            ]
            ends = torch.tensor([self._end(sequences[number]) for number in part])
            inputs = {name: value for name, value in self._collate(rows).items() if name != "labels"}
            scores[part] = self._scores(inputs, ends).double().cpu()
        return scores

    def _end(self, row: list[int]) -> int:
        """Place of the score: LLaMA-Factory's heads read the last token, sequence classification the last but pads."""
        if self._to_the_end:
            return len(row) - 1
        return max((place for place, token in enumerate(row) if token != self._pad), default=0)

    def _scores(self, inputs: dict[str, Any], ends: Tensor) -> Tensor:
        """Return [B] from the inputs of the model [B, L] and the places of the scores [B]."""
        raise NotImplementedError


class ModelReward(LocalReward):
    """A frozen sequence-classification model with one label."""

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, template: Template, batch: int) -> None:
        self._model: Any = model
        super().__init__(tokenizer, template, batch, to_the_end=self._model.score.bias is not None)

    @torch.no_grad()
    def _scores(self, inputs: dict[str, Any], ends: Tensor) -> Tensor:
        hidden, score = _hidden(self._model, inputs, ends), self._model.score
        bias = None if score.bias is None else score.bias.float()
        return nn.functional.linear(hidden.float(), score.weight.float(), bias).squeeze(-1)


class AdapterReward(LocalReward):
    """A reward adapter beside the policy's own on the same base weights: frozen, and not saved with the policy."""

    def __init__(
        self, policy: Any, head: _Head, tokenizer: PreTrainedTokenizerBase, template: Template, batch: int
    ) -> None:
        self._policy, self._own = policy, policy.active_adapter
        device = next(policy.parameters()).device
        self._weight, self._bias = head.weight.to(device), None if head.bias is None else head.bias.to(device)
        super().__init__(tokenizer, template, batch, to_the_end=head.bias is not None)
        policy.save_pretrained = functools.partial(policy.save_pretrained, selected_adapters=[self._own])

    @torch.no_grad()
    def _scores(self, inputs: dict[str, Any], ends: Tensor) -> Tensor:
        with self._switched():
            hidden = _hidden(self._policy.get_base_model(), inputs, ends)
        return nn.functional.linear(hidden.float(), self._weight, self._bias).squeeze(-1)

    @contextmanager
    def _switched(self) -> Iterator[None]:
        """Inside the block the policy is the reward model; what it trains is as before afterwards."""
        policy, training = self._policy, self._policy.training
        trained = {name: parameter.requires_grad for name, parameter in policy.named_parameters()}
        policy.eval()
        policy.set_adapter(ADAPTER, inference_mode=True)
        try:
            yield
        finally:
            policy.set_adapter(self._own)
            for name, parameter in policy.named_parameters():
                parameter.requires_grad_(trained[name])
            policy.train(training)


@dataclasses.dataclass(frozen=True)
class _Head:
    weight: Tensor
    bias: Tensor | None


def _add_adapter(policy: Any, folder: str, args: TrainArgs) -> _Head:
    """Put an adapter of stage rm (ours, or LLaMA-Factory's with its value head) on the policy; return the head."""
    config, state, _ = read_adapter(folder, policy, "reward_model")
    value_head, score = read_value_head(folder, args.model), state.pop(_SCORE, None)
    size = policy.get_input_embeddings().weight.shape[1]
    if value_head is None and score is None:
        raise ConfigError(f"reward_model: '{folder}' is no reward adapter: it has no score (train it with stage rm)")
    weight = value_head.weight if value_head is not None else score
    if weight.shape != (1, size):
        raise ConfigError(f"reward_model: '{folder}' has a score of shape {list(weight.shape)} for [1, {size}]")
    # The score is kept apart: the policy is a language model and has no place for it.
    config.task_type, config.modules_to_save = "CAUSAL_LM", None
    new_tokens = getattr(policy.peft_config[policy.active_adapter], "trainable_token_indices", None)
    lacks_rows = bool(new_tokens) and not getattr(config, "trainable_token_indices", None)
    if lacks_rows:
        config.trainable_token_indices = new_tokens  # PEFT wants them in every adapter: they stay untrained here
    trained = {name: parameter.requires_grad for name, parameter in policy.named_parameters()}
    add_adapter(policy, ADAPTER, config, state, folder, "reward_model", rows_of_base=lacks_rows)
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(trained.get(name, False))
    if value_head is not None:
        return _Head(value_head.weight, value_head.bias)
    return _Head(weight.float(), None)


def _hidden(model: Any, inputs: dict[str, Any], ends: Tensor) -> Tensor:
    """Return the last hidden states [B, d] at ``ends`` [B]."""
    decoder = getattr(model, model.base_model_prefix)
    states = decoder(**on_device(inputs, model), use_cache=False, return_dict=True).last_hidden_state
    return states[torch.arange(len(ends), device=states.device), ends.to(states.device)]


class ServiceReward:
    """A web service: ``POST {"model", "messages": [texts]}`` gives ``{"scores": [numbers]}``."""

    def __init__(self, url: str, template: Template, seconds: float = _API_SECONDS) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"reward_model: type api needs a URL (http://…), got '{url}'")
        self._url, self._template, self._seconds = url, template, seconds

    def __call__(self, completions: Sequence[Completion]) -> Tensor:
        """Return scores [N] float64."""
        texts = []
        for completion in completions:
            sample = _conversation(completion)
            texts.append(self._template.render(sample.messages, sample.tools))
        reply = post(self._url, {"model": "model", "messages": texts}, self._seconds, "reward_model")
        scores = reply.get("scores") if isinstance(reply, dict) else None
        if not isinstance(scores, list) or len(scores) != len(texts):
            raise self._error(f"expected {len(texts)} scores, got {json.dumps(reply)[:200]}")
        for number, score in enumerate(scores):
            if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
                raise self._error(f"score {number} is not a number: {score!r}")
        return torch.tensor(scores, dtype=torch.float64)

    def _error(self, reason: str) -> ConfigError:
        return ConfigError(f"reward_model: {self._url}: {reason}")


def _conversation(completion: Completion) -> Sample:
    return Sample(messages=(*completion.prompt, *completion.said), tools=completion.tools)
