# SPDX-License-Identifier: Apache-2.0
"""Sequential decoding by ``model.generate``: beams, media, and models whose requests cannot share a forward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from ..model import generation_attention
from ..model.families.family import prompt_types
from ..model.media_inputs import on_device
from ..model.whole import not_finite, require_finite
from .request import Outbox, Request
from .sampler import NO_TOKEN, SampledToken, sample


def complete_alone(model: Any, request: Request, pad_token_id: int, use_cache: bool) -> None:
    """Complete a request from beginning to end; its deltas go to its mailbox."""
    config: dict[str, Any] = {
        "max_new_tokens": request.limit,
        "pad_token_id": pad_token_id,
        "use_cache": use_cache,
    }
    outbox = Outbox()
    with generation_attention(model):
        if request.sampling.num_beams > 1:
            _search(model, request, config, outbox)
        else:
            _sample(model, request, config, outbox)
    outbox.send()


def _sample(model: Any, request: Request, config: dict[str, Any], outbox: Outbox) -> None:
    rows = len(request.completions)
    input_ids = torch.tensor([request.prompt] * rows, device=model.device)
    model.generate(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        **prompt_types(model, input_ids)
        | {name: _repeat(value, rows) for name, value in on_device(request.inputs, model).items()},
        generation_config=GenerationConfig(**config, do_sample=False),
        logits_processor=LogitsProcessorList([_SampleByRequest(request, outbox)]),
        stopping_criteria=StoppingCriteriaList([_Finished(request)]),
    )


def _repeat(value: Any, rows: int) -> Any:
    """An input of one row of tokens for several.

    Some families have a row of media for each row of tokens, others lay the media of all rows end to end; repeating the
    whole is right for both (``num_return_sequences`` would mix up the media of the latter).
    """
    return torch.cat([value] * rows) if isinstance(value, Tensor) else value * rows


def _search(model: Any, request: Request, config: dict[str, Any], outbox: Outbox) -> None:
    """Beam search; nothing is certain before its end."""
    sampling = request.sampling
    if not sampling.greedy:
        config |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    if sampling.logit_bias:
        config["sequence_bias"] = [[[token], value] for token, value in sampling.logit_bias.items()]
    input_ids = torch.tensor([request.prompt], device=model.device)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices, enabled=sampling.seed is not None):
        if sampling.seed is not None:
            torch.manual_seed(sampling.seed)
        output = model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            **prompt_types(model, input_ids),
            generation_config=GenerationConfig(
                **config,
                do_sample=not sampling.greedy,
                num_beams=sampling.num_beams,
                num_return_sequences=sampling.num_return_sequences,
                length_penalty=sampling.length_penalty,
                repetition_penalty=sampling.repetition_penalty,
                eos_token_id=list(request.ends) or None,
            ),
            logits_processor=LogitsProcessorList([_Numbers()]),
            stopping_criteria=StoppingCriteriaList([_Finished(request)]),
        )
    for completion, row in zip(request.completions, output[:, len(request.prompt) :].tolist(), strict=True):
        for token_id in row:
            if completion.finish_reason is None:
                outbox.add(request.mailbox, completion.take(SampledToken(token_id, None)))


class _SampleByRequest(LogitsProcessor):
    """Samples each token by our own rules and leaves ``generate`` no other."""

    def __init__(self, request: Request, outbox: Outbox) -> None:
        self._request = request
        self._outbox = outbox

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return ``scores [rows, V]`` with only the sampled tokens left."""
        growing = [completion for completion in self._request.completions if completion.finish_reason is None]
        sampled = sample(
            scores[[completion.index for completion in growing]], [completion.sampler for completion in growing]
        )
        for completion, token in zip(growing, sampled, strict=True):
            if token.id == NO_TOKEN:
                raise not_finite("logits")
            self._outbox.add(self._request.mailbox, completion.take(token))
        self._outbox.send()
        only = torch.full_like(scores, float("-inf"))
        for completion in self._request.completions:
            only[completion.index, completion.last] = 0
        return only


class _Numbers(LogitsProcessor):
    """Lets a beam search go on only while the model computes numbers."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return ``scores [rows, V]`` as they are."""
        require_finite(scores.amax(-1), "logits")
        return scores


class _Finished(StoppingCriteria):
    """Ends rows whose completions have ended, and everything when nobody waits any more."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Return ``[rows]``: done."""
        done = torch.full((input_ids.shape[0],), self._request.cancelled)
        if self._request.sampling.num_beams == 1:
            done |= torch.tensor([completion.finish_reason is not None for completion in self._request.completions])
        return done.to(input_ids.device)
