# SPDX-License-Identifier: Apache-2.0
"""Completions by continuous batching: who has ended makes room, and a prompt is read once for all its completions."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ....chat.continuous_batching import ModelRunner, Reading
from .drawing import Drawing, uniform
from .rollout import Drawn, Request, Sampling

PROMPT_TOKENS = 1024  # read in one forward pass


@dataclass(eq=False)
class _Growing:
    request: Request
    numbers: Tensor
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)


class Continuous:
    """Completes many prompts with one model.

    Args:
        runner: The model.
        sampling: How to draw.
        stops: Tokens that end a completion.
        never: Tokens that are not drawn.
        most: Completions that grow together.
    """

    def __init__(
        self, runner: ModelRunner, sampling: Sampling, stops: Collection[int], never: Sequence[int], most: int
    ) -> None:
        self._runner, self._most = runner, most
        self._draw, self._temperature = Drawing(sampling), sampling.temperature
        self._stops, self._never = frozenset(stops), list(never)

    @torch.inference_mode()
    def complete(self, requests: Sequence[Request], greedy: bool) -> list[Drawn]:
        """Return the completion of each request."""
        growing = [_Growing(request, uniform(request, request.limit)) for request in requests]
        waiting = deque(self._by_prompt(growing))
        try:
            while waiting or len(self._runner):
                while waiting and len(self._runner) + len(waiting[0]) <= self._most:
                    self._read(waiting, greedy)
                if len(self._runner):
                    rows, logits = self._runner.step(None)
                    for row, goes_on in zip(rows, self._append(rows, logits, greedy), strict=True):
                        if goes_on:
                            self._runner.advance(row, row.ids[-1])
                        else:
                            self._runner.drop(row)
        finally:
            for row in growing:
                self._runner.drop(row)
        return [Drawn(row.ids, row.log_probs) for row in growing]

    def _by_prompt(self, growing: Sequence[_Growing]) -> list[list[_Growing]]:
        """Put completions of one prompt together, the longest prompts first, never more than may grow together."""
        groups: dict[tuple[int, ...], list[_Growing]] = {}
        for row in growing:
            groups.setdefault(tuple(row.request.ids), []).append(row)
        ordered = [groups[ids] for ids in sorted(groups, key=len, reverse=True)]
        return [rows[start : start + self._most] for rows in ordered for start in range(0, len(rows), self._most)]

    def _read(self, waiting: deque[list[_Growing]], greedy: bool) -> None:
        """Read waiting prompts that fit into one forward pass, and give their completions a first token."""
        taken = [waiting.popleft()]
        tokens, room = len(taken[0][0].request.ids), self._most - len(self._runner) - len(taken[0])
        while waiting and tokens + len(waiting[0][0].request.ids) <= PROMPT_TOKENS and len(waiting[0]) <= room:
            tokens, room = tokens + len(waiting[0][0].request.ids), room - len(waiting[0])
            taken.append(waiting.popleft())
        prompts = [rows[0].request.ids for rows in taken]
        if len(prompts) == 1 and len(prompts[0]) > PROMPT_TOKENS:
            readings = [Reading()]
            for start in range(0, len(prompts[0]), PROMPT_TOKENS):
                part = prompts[0][start : start + PROMPT_TOKENS]
                logits = self._runner.read_part(readings[0], part, None)
        else:
            readings, logits = self._runner.read_whole(prompts, None)
        rows = [row for some in taken for row in some]
        places = [place for place, some in enumerate(taken) for _ in some]
        for row, place, goes_on in zip(rows, places, self._append(rows, logits[places], greedy), strict=True):
            if goes_on:
                self._runner.admit(row, readings[place], row.ids[-1], None)

    def _append(self, rows: Sequence[_Growing], logits: Tensor, greedy: bool) -> list[bool]:
        """Draw a token for each row of logits; returns which rows go on."""
        logits = logits.float()
        allowed = logits
        if self._never:
            allowed = logits.index_fill(1, torch.tensor(self._never, device=logits.device), -torch.inf)
        if greedy:
            tokens = allowed.argmax(-1)
        else:
            numbers = torch.stack([row.numbers[len(row.ids)] for row in rows]).to(logits.device)
            tokens = self._draw(allowed, numbers)
        scaled = logits if self._temperature == 1.0 else logits / self._temperature
        chosen = scaled.gather(1, tokens[:, None])[:, 0] - scaled.logsumexp(-1)
        for row, token, log_prob in zip(rows, tokens.tolist(), chosen.tolist(), strict=True):
            row.ids.append(token)
            row.log_probs.append(log_prob)
        return [row.ids[-1] not in self._stops and len(row.ids) < row.request.limit for row in rows]
