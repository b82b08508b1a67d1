# SPDX-License-Identifier: Apache-2.0
"""Samples to features, one processor a kind of training."""

from .base import IGNORED, Encoded, Processor, Tally
from .classification import ClassificationProcessor
from .documents import EmbeddingProcessor, RankingProcessor
from .feedback import FeedbackProcessor
from .pairwise import PairwiseProcessor
from .pretrain import PretrainProcessor
from .prompt import PromptProcessor
from .rollout import RolloutProcessor
from .supervised import SupervisedProcessor

__all__ = [
    "IGNORED",
    "ClassificationProcessor",
    "EmbeddingProcessor",
    "Encoded",
    "FeedbackProcessor",
    "PairwiseProcessor",
    "PretrainProcessor",
    "Processor",
    "PromptProcessor",
    "RankingProcessor",
    "RolloutProcessor",
    "SupervisedProcessor",
    "Tally",
]
