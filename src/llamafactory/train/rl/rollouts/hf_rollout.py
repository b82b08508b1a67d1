# SPDX-License-Identifier: Apache-2.0
"""Rollouts by ``model.generate``: left-padded batches of like length, each completion with its own random numbers."""

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
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ....data.collators import PromptCollator
from ....model import eval_mode, generation_attention
from ....model.media_inputs import prompt_inputs
from ....model.sharding.shard import is_sharded
from .rollout import Request, Sampling

if TYPE_CHECKING:
    from ....data.template.base import Template
    from ....hparams import TrainArgs


class HuggingfaceRollout:
    """Generates with the very model in training, without dropout."""

    def __init__(self, model: Any, template: Template, sampling: Sampling, args: TrainArgs) -> None:
        self.model, self.template, self.sampling = model, template, sampling
        self.batch = args.rlhf.rollout_batch_size
        self.never = template.media.token_ids if template.media else []
        self.collate = PromptCollator(template.tokenizer, template.batch_media() if template.media else None)

    def sync(self) -> None:
        """The weights are the policy's own."""

    @torch.no_grad()
    def generate(self, requests: Sequence[Request], greedy: bool) -> list[list[int]]:
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
        return completions

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
        draw = LogitsProcessorList([] if greedy else [Draw(self.sampling, requests, start, device)])
        config = GenerationConfig(
            do_sample=False,  # Draw leaves one token to choose from
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


class Draw(LogitsProcessor):
    """Draws each row's next token by one uniform number: the first token whose cumulative probability exceeds it.

    The numbers come from the request's seed and the place in the completion alone, so it does not depend on the
    batch it is in, on the rank, or on what was drawn before.
    """

    def __init__(self, sampling: Sampling, requests: Sequence[Request], start: int, device: torch.device) -> None:
        self.start = start
        self.warpers: list[Any] = []
        if sampling.temperature != 1.0:
            self.warpers.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k > 0:
            self.warpers.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1.0:
            self.warpers.append(TopPLogitsWarper(sampling.top_p))
        longest = max(request.limit for request in requests)
        self.numbers = torch.stack([_uniform(request, longest) for request in requests]).to(device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logits: Any = scores.float()
        for warper in self.warpers:
            logits = warper(input_ids, logits)
        mass = torch.softmax(logits, -1).double().cumsum(-1)
        wanted = self.numbers[:, input_ids.shape[1] - self.start, None] * mass[:, -1:]
        token = torch.searchsorted(mass, wanted, right=True).clamp(max=mass.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)


def _uniform(request: Request, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(request.seed)
    return torch.rand(request.drawn + count, generator=generator, dtype=torch.float64)[request.drawn :]


def _until_stop(ids: list[int], stops: list[int]) -> list[int]:
    end = next((place for place, token in enumerate(ids, start=1) if token in stops), len(ids))
    return ids[:end]
