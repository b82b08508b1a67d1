# SPDX-License-Identifier: Apache-2.0
"""Transformers' loop with our batches, streams, optimizers and checkpoints: what no stage needs to change."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import transformers
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from ..extras.logging import get_logger
from ..hparams.sharding import sharding_of
from ..model.towers import rates_of_parts
from .batching.batches import Batches
from .batching.loaders import count_step, eval_batches, order_seed, train_batches
from .batching.stream_batches import StreamBatches
from .batching.stream_run import StreamRun
from .distributed.checkpoints import deferring
from .metrics.token_meter import TokenMeter
from .optim import create_optimizer
from .optim.groups import set_rates
from .saving.checkpoint_loop import CheckpointLoop
from .saving.run_config import Start

if TYPE_CHECKING:
    from datasets import Dataset

    from ..data.streaming.rows import StreamRows
    from ..data.template.base import Template
    from ..hparams import TrainArgs

logger = get_logger(__name__)


class BaseTrainer(CheckpointLoop):
    """One loop for every stage.

    Args:
        model: Causal language model, with or without adapters.
        arguments: What transformers needs to know (see ``training_arguments``).
        run_args: The whole resolved configuration.
        template: The chat template the data was encoded with.
        keep_template: Whether the template is saved with the tokenizer.
        tokenizer: Of the model.
        train: Training features, or None.
        evaluate: Evaluation sets by name; the name ``""`` is the one unnamed set.
        collator: Rows -> batch.
        callbacks: Beside those that transformers adds itself.
    """

    optimizer: Any  # transformers sets these without saying what they are
    control: Any
    lr_scheduler: Any
    train_dataset: Any
    eval_dataset: Any

    def __init__(
        self,
        *,
        model: nn.Module,
        arguments: transformers.TrainingArguments,
        run_args: TrainArgs,
        template: Template,
        keep_template: bool,
        tokenizer: Any,
        train: Dataset | StreamRows | None,
        evaluate: dict[str, Dataset],
        collator: Any,
        callbacks: list[transformers.TrainerCallback] | None = None,
    ) -> None:
        self.run_args, self.template, self.collator = run_args, template, collator
        self.keep_template = keep_template
        self.save_total_limit = run_args.training.save_total_limit
        self.start = Start({})
        self.was_done = False  # the run was resumed after its last step
        self.steps_an_epoch = self.shift = 0  # see Start.shift
        self.tokens = TokenMeter()
        self.stream: StreamRun | None = None
        self.sharding = sharding_of(run_args)
        super().__init__(
            model=model,
            args=arguments,
            data_collator=collator,
            train_dataset=train,
            eval_dataset=evaluate or None,
            processing_class=tokenizer,
            callbacks=callbacks,
        )
        # What transformers does for models that it sharded itself: no wrapper, gradients are reduced by the model.
        self.is_distributed_loading_by_transformers = self.sharding is not None
        self._weight_count = sum(weight.numel() for weight in model.parameters())

    # Batches

    def get_train_dataloader(self) -> Any:
        return self.train_batches(self.args.dataloader_drop_last)

    def train_batches(self, drop_last: bool) -> Batches | StreamBatches:
        """Return this rank's batches of the training data, in the order of the first epoch."""
        args, seed = self.args, order_seed(self.args, self.run_args)
        batches = train_batches(self.train_dataset, self.collator, args, self._train_batch_size, seed, drop_last)
        if isinstance(batches, StreamBatches):
            self.stream = StreamRun(batches, args.gradient_accumulation_steps, args.num_train_epochs, args.max_steps)
            self.add_callback(self.stream)
        return batches

    def set_initial_training_values(self, args: Any, dataloader: Any) -> Any:
        if self.stream is not None:
            return self.stream.training_values(self.get_total_train_batch_size(args))
        epochs, self.steps_an_epoch, *counts, max_steps = super().set_initial_training_values(args, dataloader)
        self.shift = self.start.shift(self.steps_an_epoch)
        if args.max_steps > 0:
            epochs = math.ceil((max_steps - self.shift) / self.steps_an_epoch)
        else:
            max_steps += self.shift
        return epochs, self.steps_an_epoch, *counts, max_steps

    def _init_training_state(
        self, max_steps: int, steps_an_epoch: int, epochs: int, resume: str | None, trial: Any
    ) -> tuple[int, int]:
        found = super()._init_training_state(max_steps, steps_an_epoch, epochs, resume, trial)
        if resume is not None and self.state.global_step >= max_steps:
            self.was_done = True
            logger.info_rank0(
                "all %d steps were done before: nothing is left to train (more: num_train_epochs or max_steps; anew: "
                "overwrite_output_dir: true)",
                self.state.global_step,
            )
        if resume is None:
            return found
        for part in self.callback_handler.callbacks:
            if hasattr(part, "load_progress"):
                part.load_progress(Path(resume))
        if self.stream is not None:
            return self.stream.resume(Path(resume)), 0
        epochs_done, steps_done = divmod(self.state.global_step - self.shift, steps_an_epoch)
        return epochs_done, 0 if self.args.ignore_data_skip else steps_done * self.args.gradient_accumulation_steps

    def _run_epoch(self, *args: Any, **options: Any) -> None:
        """Train to the end of an epoch; from a checkpoint of the last step transformers would take one step more."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **options)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return this rank's batches of one evaluation set, given by name or as rows."""
        rows = self.eval_dataset[eval_dataset] if isinstance(eval_dataset, str) else eval_dataset
        return eval_batches(rows, self.collator, self.args)

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor]:
        """Take the micro-batches of one optimizer step and count, over all ranks, what its loss is a mean over."""
        with self.tokens.waiting():
            if self.stream is None:
                batches, more = list(islice(epoch_iterator, num_batches)), False
            else:
                batches = self.stream.take(epoch_iterator, num_batches)
                more = epoch_iterator.more
        if not batches:
            self.control.should_epoch_stop = True
            return [], torch.ones((), device=device)
        counts = torch.tensor([*count_step(batches, self.num_items), more], dtype=torch.float64, device=device)
        if self.args.world_size > 1:
            dist.all_reduce(counts)
        if self.stream is not None:
            self.stream.end_epoch_and_run(bool(counts[3]), self.state)
        self.tokens.add(counts[1:3] / self.args.sharers)
        return batches, counts[0].clamp(min=1).float()

    def num_items(self, batch: dict[str, Any]) -> int:
        """Return how many items of a CPU batch the loss is a mean over: here trained tokens, weight not 0."""
        if "weights" not in batch:
            return int(batch["positions"].numel())
        return int(batch["weights"].flatten()[batch["positions"]].count_nonzero())

    def _prepare_input(self, data: Any) -> Any:
        if isinstance(data, Tensor):
            return data.to(self.args.device, non_blocking=True)
        return super()._prepare_input(data)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 6 * inputs["input_ids"].numel() * self._weight_count

    # Optimizer

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        if 0 < self.args.warmup_steps < 1 and "schedule_free" in self.args.optim:
            # Such an optimizer warms up by itself, over steps and not over a share of them.
            self.args.warmup_steps = self.args.get_warmup_steps(max_steps)
        return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = create_optimizer(self.model if model is None else model, self.run_args, self.args)
        made = super().create_optimizer(model)
        set_rates(made, rates_of_parts(self.model, self.run_args.finetuning), self.args.learning_rate)
        return made

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.args.lr_scheduler_type == "warmup_stable_decay" and not self.args.lr_scheduler_kwargs:
            rest = num_training_steps - self.args.get_warmup_steps(num_training_steps)
            stable = rest // 3
            self.args.lr_scheduler_kwargs = {"num_stable_steps": stable, "num_decay_steps": rest - stable}
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if self.stream is not None and isinstance(scheduler, LambdaLR):
            self.stream.hold_rates(scheduler, num_training_steps)
        return scheduler

    def _defer_fsdp_gradient_reduction(self) -> AbstractContextManager[None]:
        return deferring(self.model)
