# SPDX-License-Identifier: Apache-2.0
"""Our declaration of the training keys against the installed transformers."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import get_args

from transformers import Seq2SeqTrainingArguments
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from llamafactory.hparams.derive import OWN_OPTIMIZERS
from llamafactory.hparams.schema import keys_of
from llamafactory.hparams.training_args import OptimizerName, SchedulerName, TrainingArguments

OWN_KEYS = {"overwrite_output_dir", "on_nonfinite", "resume_changed", "async_save", "context_parallel_size"}
OWN_KEYS |= {"tensor_parallel_size", "expert_parallel_size"}
# Unset means: ask the device.
OTHER_DEFAULTS = {"bf16": None, "fp16": None}


def test_every_installed_field_is_declared_with_its_default():
    ours = {name: key.default for name, key in keys_of(TrainingArguments).items()}
    theirs = {
        item.name: item.default if item.default_factory is MISSING else item.default_factory()
        for item in fields(Seq2SeqTrainingArguments)
        if item.init
    }
    expected = {name: getattr(value, "value", value) for name, value in theirs.items()} | OTHER_DEFAULTS
    assert {name: value for name, value in ours.items() if name not in OWN_KEYS} == expected


def test_choices_are_the_installed_ones():
    assert set(get_args(SchedulerName)) == {item.value for item in SchedulerType}
    assert set(get_args(OptimizerName)) == {item.value for item in OptimizerNames} | set(OWN_OPTIMIZERS)
