# SPDX-License-Identifier: Apache-2.0
"""Samples to features, one processor a kind of training."""

from .base import IGNORED, Encoded, Processor, Tally
from .pretrain import PretrainProcessor
from .prompt import PromptProcessor
from .supervised import SupervisedProcessor

__all__ = ["IGNORED", "Encoded", "PretrainProcessor", "Processor", "PromptProcessor", "SupervisedProcessor", "Tally"]
