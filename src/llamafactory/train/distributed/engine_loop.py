# SPDX-License-Identifier: Apache-2.0
"""Transformers' loop where DeepSpeed's engine reduces gradients and takes the steps; without one, as it is."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from torch import Tensor, nn

from ...extras.device import probe
from ...hparams.deepspeed import Zero, zero_of
from ...hparams.derive import resolve_dtypes
from ...model.sharding.layers import Gradients
from ...model.wrapping import beneath_adapters
from .context_loop import ContextLoop
from .zero import EngineOptimizer, start_engine


class EngineLoop(ContextLoop):
    """What the loop does otherwise for an engine.

    Attributes:
        zero_engine: DeepSpeed's, from the first step on.
    """

    zero_engine: Any = None
    optimizer: Any  # transformers sets it without saying what it is

    @cached_property
    def zero(self) -> Zero | None:
        """How DeepSpeed is asked to shard the run."""
        return zero_of(self.run_args)

    @cached_property
    def gradients(self) -> Gradients | None:
        """What brings them together where processes share layers."""
        found: Gradients | None = getattr(beneath_adapters(self.model), "_gradients", None)
        return found

    def _wrap_model(self, model: nn.Module, *args: Any, **options: Any) -> Any:
        if self.zero is None:
            return super()._wrap_model(model, *args, **options)
        if self.zero_engine is None:
            bf16 = resolve_dtypes(self.run_args, probe(self.args.use_cpu)).compute == "bfloat16"
            self.zero_engine = start_engine(self.model, self.optimizer, self.zero, self.args, bf16)
            self.optimizer = EngineOptimizer(self.zero_engine)
            self.accelerator.backward = self.zero_engine.backward
        return self.accelerator.prepare_model(self.zero_engine, device_placement=False, evaluation_mode=True)

    def training_step(self, model: nn.Module, *args: Any, **options: Any) -> Tensor:
        if self.zero_engine is not None:
            self.zero_engine.set_gradient_accumulation_boundary(self.accelerator.sync_gradients)
        loss: Tensor = super().training_step(model, *args, **options)
        if self.gradients is not None and self.accelerator.sync_gradients:
            self.gradients.reduce()
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """With an engine, clipping is part of its step, and the norm is known after it."""
        return super()._clip_grad_norm(model) if self.zero_engine is None else None

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        return super()._get_grad_norm(model, grad_norm) if self.zero_engine is None else None

    def _maybe_log_save_evaluate(self, loss: Tensor, grad_norm: Any, *args: Any, **options: Any) -> None:
        if self.zero_engine is not None:
            grad_norm = self.zero_engine.get_global_grad_norm()
        super()._maybe_log_save_evaluate(loss, grad_norm, *args, **options)
