# SPDX-License-Identifier: Apache-2.0
"""The teachers of a run: which of them is asked about which sequence, and what they say of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...extras.errors import ConfigError
from ...hparams.args import TrainArgs
from ...model.reference import beside_args, load_beside
from ..distributed.whole import sharded
from ..losses.linear_log_probs import Anchor, MixedAnchor
from ..metrics.means import count_sequences, sequence_numbers
from ..token_scores import attach, trained_positions

if TYPE_CHECKING:
    from transformers import TrainingArguments

_OF_SEQUENCES = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "labels")


def teacher_args(args: TrainArgs) -> dict[str, TrainArgs]:
    """Return what each teacher is loaded by, by its path; two data sets of one teacher share it."""
    rlhf = args.rlhf
    paths = dict.fromkeys(path for path in (rlhf.teacher_model_name_or_path, *_table(args).values()) if path)
    adapters, bits = rlhf.teacher_model_adapters, rlhf.teacher_model_quantization_bit
    return {path: beside_args(args, path, adapters, bits) for path in paths}


def _table(args: TrainArgs) -> dict[str, str]:
    return args.rlhf.teacher_model or {}


class Teachers:
    """Frozen models that score the batches of the student.

    Args:
        student: Not trained yet.
        tokenizer: Its tokenizer.
        args: The whole resolved configuration.
        arguments: What transformers knows of the run.
    """

    def __init__(self, student: nn.Module, tokenizer: Any, args: TrainArgs, arguments: TrainingArguments) -> None:
        self.settings, self.sets = args.rlhf, _table(args)
        teachers = teacher_args(args)
        self.paths = list(teachers)
        self.models: list[Any] = []
        for own in teachers.values():
            key = (
                "teacher_model_name_or_path"
                if own.model.model_name_or_path not in self.sets.values()
                else "teacher_model"
            )
            model = load_beside(student, tokenizer, args, own, key)
            self.models.append(sharded(attach(model), args, arguments))

    def number_of(self, name: str) -> int:
        """Return the number of the teacher of a data set; "" is what was held out, or several sets in one."""
        path = self.sets.get(name) or self.settings.teacher_model_name_or_path
        return self.paths.index(path) if path else 0

    @torch.no_grad()
    def anchor(self, inputs: dict[str, Any], numbers: Tensor) -> Anchor:
        """Return the distributions of the trained tokens of a batch.

        Args:
            inputs: What the student is given.
            numbers: [S] the teacher of each sequence.
        """
        if len(self.models) == 1:  # nobody waits for the device to tell
            return self._ask(0, inputs)
        numbers = numbers.cpu()
        asked = numbers.unique().tolist()
        if len(asked) == 1:
            return self._ask(asked[0], inputs)
        anchors = [self._ask(number, _some(inputs, numbers == number)) for number in asked]
        owner = torch.searchsorted(torch.tensor(asked), numbers).to(inputs["labels"].device)
        of_token = owner[sequence_numbers(inputs["positions"], inputs)]
        states = torch.stack([of_token, torch.zeros_like(of_token)], -1)
        for number in range(len(asked)):
            mine = of_token == number
            states[mine, 1] = torch.arange(int(mine.sum()), device=states.device)
        return MixedAnchor(states, anchors[0].logits_of, self.settings.gkd_beta, anchors)

    def _ask(self, number: int, inputs: dict[str, Any]) -> Anchor:
        temperature = self.settings.gkd_temperature
        found: Anchor = self.models[number](**inputs, score=True, as_anchor=True, temperature=temperature)
        return replace(found, beta=self.settings.gkd_beta)


def _some(inputs: dict[str, Any], chosen: Tensor) -> dict[str, Any]:
    """Return the batch of some of its sequences, ``chosen`` [S].

    Raises:
        ConfigError: It has media.
    """
    others = set(inputs) - {*_OF_SEQUENCES, "cu_seqlens", "max_seqlen", "positions", "weights", "rows"}
    if others:
        raise ConfigError("teacher_model: rows with images, videos or sound can have one teacher only")
    batch = {name: inputs[name] for name in _OF_SEQUENCES if name in inputs}
    if "cu_seqlens" not in inputs:
        chosen = chosen.to(inputs["labels"].device)
        found = {name: value[chosen] for name, value in batch.items()}
    else:
        lengths = inputs["cu_seqlens"].diff().cpu()
        mask = chosen.repeat_interleave(lengths).to(inputs["labels"].device)
        found = {name: value[:, mask] for name, value in batch.items()}
        ends = lengths[chosen].cumsum(0)
        found["cu_seqlens"] = torch.cat([ends.new_zeros(1), ends]).to(inputs["cu_seqlens"])
        found["max_seqlen"] = int(lengths[chosen].max())
    return {**found, "positions": trained_positions(found["labels"])}


def same_for_all(inputs: dict[str, Any], number: int) -> Tensor:
    """Return [S]: each sequence of a batch has this teacher."""
    return torch.full((count_sequences(inputs),), number)


def numbers_of(teachers: Teachers, sets: Sequence[str], channels: Tensor) -> Tensor:
    """Return [S] the teacher of each sequence, given ``channels`` [S], its number among the training ``sets``."""
    return torch.tensor([teachers.number_of(name) for name in sets])[channels.cpu()]
