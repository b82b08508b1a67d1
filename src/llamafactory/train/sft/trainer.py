# SPDX-License-Identifier: Apache-2.0
"""The trainer of stage sft is the one that all stages share; this is its name in LLaMA-Factory."""

from __future__ import annotations

from ..trainer import Trainer

CustomSeq2SeqTrainer = Trainer
