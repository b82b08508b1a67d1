# SPDX-License-Identifier: Apache-2.0
"""Rollouts in the training process: continuous batching, or ``model.generate`` for models that cannot take part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
)

from ....chat.continuous_batching import ModelRunner, can_batch
from ....data.collators import PromptCollator
from ....extras.logging import get_logger
from ....model import eval_mode, generation_attention
from ....model.media_inputs import prompt_inputs
from ....model.sharding.shard import is_sharded
from ....model.wrapping import beneath_adapters
from .continuous import Continuous
from .drawing import Drawing, uniform
from .rollout import Drawn, Request, Sampling
from .twin import Twin, why_no_twin

if TYPE_CHECKING:
    from ....data.template.base import Template
    from ....hparams import TrainArgs


logger = get_logger(__name__)


class HuggingfaceRollout:
    """Generates with the policy in training, without dropout.

    By continuous batching on the plain model that the policy amounts to (:class:`.twin.Twin`); prompts with media, and
    all prompts where there is no such model, by ``model.generate``: left-padded batches of like length.
    """

    def __init__(self, model: Any, template: Template, sampling: Sampling, args: TrainArgs) -> None:
        self.model, self.template, self.sampling = model, template, sampling
        self.batch = args.rlhf.rollout_batch_size
        self.never = template.media.token_ids if template.media else []
        self.collate = PromptCollator(template.tokenizer, template.batch_media() if template.media else None)
        self.twin: Twin | None = None
        self.fresh = False
        why = "it cannot share a forward pass" if not can_batch(beneath_adapters(model)) else why_no_twin(model)
        if why:
            logger.info_rank0("Rollouts are written by model.generate, which is slower: of this model, %s", why)
        else:
            self.twin = Twin(model)
            runner, stops = ModelRunner(self.twin.model, ()), template.stop_token_ids
            self.continuous = Continuous(runner, sampling, stops, self.never, self.batch)

    def sync(self) -> None:
        """The weights are the policy's own; adapters are added to them when it is generated."""
        self.fresh = False

    def generate(self, requests: Sequence[Request], greedy: bool) -> list[Drawn]:
        """Generate all at once."""
        if self.twin is None or any(request.media for request in requests):
            return self._generate_in_batches(requests, greedy)
        if not self.fresh:
            self.twin.refresh()
            self.fresh = True
        return self.continuous.complete(requests, greedy)

    @torch.no_grad()
    def _generate_in_batches(self, requests: Sequence[Request], greedy: bool) -> list[Drawn]:
        """Generate in batches of prompts of like length, so that little is padded."""
        order = sorted(range(len(requests)), key=lambda number: -len(requests[number].ids))
        completions: list[list[int]] = [[] for _ in requests]
        batches = self._batches(len(order))
        with eval_mode(self.model), generation_attention(self.model):
            for start in range(0, batches * self.batch, self.batch):
                some = order[start : start + self.batch]
                asked = [requests[number] for number in some] or [Request([0], 0, 0, 1)]
                for number, ids in zip(some, self._generate(asked, greedy), strict=False):  # nobody asked for a filler
                    completions[number] = ids
        return [Drawn(ids) for ids in completions]

    def _batches(self, requests: int) -> int:
        """Return how many batches are generated: of a sharded model as many on every rank, if need be of nothing."""
        batches = -(-requests // self.batch)
        if is_sharded(self.model):
            most = torch.tensor(batches, device=self.model.device)
            dist.all_reduce(most, dist.ReduceOp.MAX)
            batches = int(most)
        return batches

    def _generate(self, requests: list[Request], greedy: bool) -> list[list[int]]:
        device = self.model.device
        inputs = self.collate([{"input_ids": request.ids, "media": [request.media]} for request in requests])
        start, stops = inputs["input_ids"].shape[1], self.template.stop_token_ids
        draw = LogitsProcessorList([] if greedy else [_Draw(self.sampling, requests, start, device)])
        config = GenerationConfig(
            do_sample=False,  # _Draw leaves one token to choose from
            max_new_tokens=max(request.limit for request in requests),
            eos_token_id=stops or None,
            pad_token_id=self.template.tokenizer.pad_token_id,
            use_cache=True,
            suppress_tokens=self.never or None,
        )
        output = self.model.generate(
            **prompt_inputs(self.model, inputs),
            generation_config=config,
            logits_processor=draw,
        )
        rows = output[:, start:].tolist()
        return [_until_stop(row[: request.limit], stops) for row, request in zip(rows, requests, strict=True)]


class _Draw(LogitsProcessor):
    """Draws each row's next token and leaves ``generate`` no other."""

    def __init__(self, sampling: Sampling, requests: Sequence[Request], start: int, device: torch.device) -> None:
        self.start, self.draw = start, Drawing(sampling)
        longest = max(request.limit for request in requests)
        self.numbers = torch.stack([uniform(request, longest) for request in requests]).to(device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        token = self.draw(scores, self.numbers[:, input_ids.shape[1] - self.start])[:, None]
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)


def _until_stop(ids: list[int], stops: list[int]) -> list[int]:
    end = next((place for place, token in enumerate(ids, start=1) if token in stops), len(ids))
    return ids[:end]
