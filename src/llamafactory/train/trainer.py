# SPDX-License-Identifier: Apache-2.0
"""The trainer all stages share: transformers' loop with our batches, loss scale, guard, evaluation and checkpoints.

A stage that differs overrides :meth:`Trainer.item_sums` (and :meth:`Trainer.count_items` where its loss is not a mean
over trained tokens), and :meth:`Trainer.teach` and :meth:`Trainer.scores` where it needs other scores; nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import transformers
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers.trainer_callback import ExportableState

from ..data.streaming.rows import StreamRows
from ..extras.logging import get_logger
from ..model.processor import copy_processor
from . import checkpoints
from .batching.batches import Batches, MicroBatches
from .batching.stream_batches import StreamBatches
from .batching.stream_run import StreamRun
from .evaluation import evaluate as evaluation
from .evaluation import prediction
from .losses.cross_entropy import cross_entropy
from .metrics.channels import ChannelMeter
from .metrics.means import Means
from .metrics.token_meter import TokenMeter
from .nonfinite import NonFiniteGuard
from .optim import create_optimizer
from .outputs import save_tokenizer
from .token_scores import attach, trained_positions

if TYPE_CHECKING:
    from datasets import Dataset

    from ..data.template.encoding import Template
    from ..hparams import TrainArgs

logger = get_logger(__name__)


class Trainer(transformers.Trainer):
    """One loop for every stage.

    Args:
        model: Causal language model, with or without adapters; it is taught ``score=True``.
        arguments: What transformers needs to know (see ``training_arguments``).
        run_args: The whole resolved configuration.
        template: The chat template the data was encoded with.
        keep_template: Whether the template is saved with the tokenizer.
        train: Training features, or None.
        evaluate: Evaluation sets by name; the name ``""`` is the one unnamed set.
        collator: Rows -> batch.
        channels: Names of the training sets whose losses are logged apart.
    """

    optimizer: Any  # transformers sets these without saying what they are
    control: Any
    train_dataset: Any
    eval_dataset: Any

    def __init__(
        self,
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
        channels: Sequence[str] = (),
    ) -> None:
        self.run_args, self.template, self.collator = run_args, template, collator
        self.keep_template = keep_template
        self.save_total_limit = run_args.training.save_total_limit
        self.loss_is_scaled_for_ga = True
        self.guard = NonFiniteGuard(run_args.training.on_nonfinite)
        self.tokens, self.means = TokenMeter(), Means()
        self.channels = ChannelMeter(list(channels)) if channels else None
        self.stream: StreamRun | None = None
        super().__init__(
            model=self.teach(model),
            args=arguments,
            data_collator=collator,
            train_dataset=train,
            eval_dataset=evaluate or None,
            processing_class=tokenizer,
            callbacks=callbacks,
        )
        self._weight_count = sum(weight.numel() for weight in model.parameters())

    # Loss

    def teach(self, model: nn.Module) -> nn.Module:
        """Make the model answer as :meth:`scores` asks it."""
        return attach(model)

    def scores(self, model: nn.Module, inputs: dict[str, Any], evaluating: bool = False) -> Any:
        """Return what :meth:`item_sums` is a function of: here :class:`TokenScores` of the trained positions."""
        options: dict[str, Any] = {"smoothing": self.args.label_smoothing_factor}
        if evaluating:
            options = {"accuracy": self.run_args.finetuning.compute_accuracy}
        return model(**inputs, score=True, **options)

    def item_sums(self, scores: Any, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """Return sums over the items of a batch: ``loss``, with gradient, and what else evaluation reports the mean of.

        Args:
            scores: From :meth:`scores`.
            inputs: The batch, for stages that need more than the scores.
        """
        sums = {"loss": cross_entropy(scores.log_probs, scores.weights, 1.0)}
        if scores.correct is not None:
            sums["accuracy"] = (scores.correct & (scores.weights != 0)).sum()
        return sums

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        """Return the means of :meth:`item_sums` with what is computed from them."""
        return means

    def count_items(self, batch: dict[str, Any]) -> int:
        """Return how many items of a CPU batch the loss is a mean over: here trained tokens, weight not 0."""
        if "weights" not in batch:
            return int(batch["positions"].numel())
        return int(batch["weights"].flatten()[batch["positions"]].count_nonzero())

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        assert num_items_in_batch is not None
        items, channels = inputs.pop("items"), inputs.pop("channels", None)
        scores = self.scores(model, inputs)
        if self.channels is not None and channels is not None:
            self.channels.add(scores, channels, inputs)
        sums = self.item_sums(scores, inputs)
        loss = sums.pop("loss") / num_items_in_batch
        self.means.add(sums, items)
        aux_loss = getattr(scores, "aux_loss", None)
        if aux_loss is not None:  # a mean of its own: weighed by this batch's share of the step
            loss = loss + aux_loss * (items / num_items_in_batch)
        loss = self.guard.mark(loss) * self.accelerator.num_processes  # DDP takes the mean of the ranks' gradients
        return (loss, scores) if return_outputs else loss

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        rows = inputs.pop("rows")
        loss = super().training_step(model, inputs, num_items_in_batch)
        return self.guard.watch(loss, inputs, rows)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        self.guard.check(norm, self)
        return norm

    # Batches

    def get_train_dataloader(self) -> Any:
        return self.train_batches(self.args.dataloader_drop_last)

    def train_batches(self, drop_last: bool) -> Batches | StreamBatches:
        """Return this rank's batches of the training data, in the order of the first epoch."""
        args = self.args
        if isinstance(self.train_dataset, StreamRows):
            return self._streamed(self.train_dataset)
        sampler = MicroBatches(
            len(self.train_dataset),
            self._train_batch_size,
            args.process_index,
            args.world_size,
            seed=self._order_seed(),
            lengths=self._row_lengths() if args.train_sampling_strategy == "group_by_length" else None,
            drop_last=drop_last,
        )
        return self._batches(self.train_dataset, sampler)

    def _streamed(self, rows: StreamRows) -> StreamBatches:
        args = self.args
        batches = StreamBatches(
            rows,
            self.collator,
            self._train_batch_size,
            args.process_index,
            args.world_size,
            seed=self._order_seed(),
            epochs=args.num_train_epochs if args.max_steps <= 0 else None,
            workers=args.dataloader_num_workers,
            ahead=args.dataloader_prefetch_factor,
        )
        self.stream = StreamRun(batches, args.gradient_accumulation_steps, args.num_train_epochs, args.max_steps)
        self.add_callback(self.stream)
        return batches

    def set_initial_training_values(self, args: Any, dataloader: Any) -> Any:
        if self.stream is None:
            return super().set_initial_training_values(args, dataloader)
        return self.stream.training_values(self.get_total_train_batch_size(args))

    def _init_training_state(
        self, max_steps: int, steps_an_epoch: int, epochs: int, resume: str | None, trial: Any
    ) -> tuple[int, int]:
        found = super()._init_training_state(max_steps, steps_an_epoch, epochs, resume, trial)
        if resume is not None and self.state.global_step >= max_steps:
            logger.info_rank0("all %d steps were done before: nothing is left to train", self.state.global_step)
        return found if self.stream is None or resume is None else (self.stream.resume(Path(resume)), 0)

    def _run_epoch(self, *args: Any, **options: Any) -> None:
        """Train to the end of an epoch; from a checkpoint of the last step transformers would take one step more."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **options)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return this rank's batches of one evaluation set: every row exactly once over all ranks."""
        rows = self.eval_dataset[eval_dataset] if isinstance(eval_dataset, str) else eval_dataset
        sampler = MicroBatches(len(rows), self.args.eval_batch_size, self.args.process_index, self.args.world_size)
        return self._batches(rows, sampler)

    def _batches(self, rows: Any, sampler: MicroBatches) -> Batches:
        args, workers = self.args, self.args.dataloader_num_workers
        return Batches(
            rows,
            sampler,
            self.collator,
            num_workers=workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers and workers > 0,
            prefetch_factor=args.dataloader_prefetch_factor if workers > 0 else None,
        )

    def _order_seed(self) -> int | None:
        if self.run_args.finetuning.disable_shuffling or self.args.train_sampling_strategy == "sequential":
            return None
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    def _row_lengths(self) -> list[int]:
        return [sum(lengths) for lengths in self.train_dataset["seq_lens"]]

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
        items, trained, real = 0, 0, 0
        for batch in batches:
            batch["positions"] = trained_positions(batch["labels"])
            batch["items"] = self.count_items(batch)
            items += batch["items"]
            trained += int(batch["positions"].numel())
            real += int(batch["attention_mask"].sum()) if "attention_mask" in batch else batch["input_ids"].numel()
        counts = torch.tensor([items, trained, real, more], dtype=torch.float64, device=device)
        if self.args.world_size > 1:
            dist.all_reduce(counts)
        if self.stream is not None:
            self.stream.settle(bool(counts[3]), self.state)
        self.tokens.add(counts[1:3])
        return batches, counts[0].clamp(min=1).float()

    def _prepare_input(self, data: Any) -> Any:
        if isinstance(data, Tensor):
            return data.to(self.args.device, non_blocking=True)
        return super()._prepare_input(data)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 6 * inputs["input_ids"].numel() * self._weight_count

    # Optimizer

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = create_optimizer(self.model if model is None else model, self.run_args, self.args)
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.args.lr_scheduler_type == "warmup_stable_decay" and not self.args.lr_scheduler_kwargs:
            rest = num_training_steps - self.args.get_warmup_steps(num_training_steps)
            stable = rest // 3
            self.args.lr_scheduler_kwargs = {"num_stable_steps": stable, "num_decay_steps": rest - stable}
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if self.stream is not None and isinstance(scheduler, LambdaLR):
            # The data may give more steps than were estimated; the rate then stays where the schedule ended.
            scheduler.lr_lambdas = [_held(rate, num_training_steps) for rate in scheduler.lr_lambdas]
        return scheduler

    # Evaluation, logs, checkpoints

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate each set apart (``eval_<name>_loss``), and all together when there are several."""
        sets = self.eval_dataset if eval_dataset is None else eval_dataset
        metrics = evaluation.evaluate(self, sets if isinstance(sets, dict) else {"": sets}, metric_key_prefix)
        if self.run_args.training.predict_with_generate:
            for name, prompts in self.prompts.items():
                prefix = f"{metric_key_prefix}_{name}" if name else metric_key_prefix
                metrics |= prediction.generate_and_score(self, prompts, prefix)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @cached_property
    def prompts(self) -> dict[str, Any]:
        """The evaluation sets as prompts, by name."""
        return prediction.prompt_sets(self)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self.tokens.rates() | self.derived(self.means.take())
            logs |= self.channels.take() if self.channels else {}
            self.state.num_input_tokens_seen = self.tokens.total(self.state.num_input_tokens_seen)
        super().log(logs, start_time)

    def run_metrics(self) -> dict[str, float]:
        """Return the mean loss and the tokens of the whole run, and the speed of this session."""
        skipped = {"skipped_steps": self.guard.skipped} if self.guard.skipped else {}
        return {
            "train_loss": whole_run_loss(self.state.log_history),
            "total_tokens": self.state.num_input_tokens_seen,
            **self.tokens.speed(self.run_args.finetuning.include_effective_tokens_per_second),
            **skipped,
        }

    def report(self, split: str, metrics: dict[str, float]) -> None:
        """Print metrics and write ``<split>_results.json`` and ``all_results.json``."""
        self.log_metrics(split, metrics)
        self.save_metrics(split, metrics)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        checkpoints.save_checkpoint(self)

    def export_callback_states(self) -> None:
        """Put the present state of stateful callbacks into ``state``, as transformers does before it saves."""
        states: dict[str, Any] = {}
        for callback in [*self.callback_handler.callbacks, self.control]:
            if isinstance(callback, ExportableState):
                states[type(callback).__name__] = callback.state()
        self.state.stateful_callbacks = states

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Write weights (safetensors), config, tokenizer and chat template; nothing is pickled."""
        folder = Path(output_dir or self.args.output_dir)
        if not self.args.should_save:
            return
        folder.mkdir(parents=True, exist_ok=True)
        extra = {"save_embedding_layers": False} if hasattr(self.model, "peft_config") else {}
        with _cache_in_config(self.model):
            self.accelerator.unwrap_model(self.model).save_pretrained(folder, state_dict=state_dict, **extra)
        if not extra:
            copy_processor(self.accelerator.unwrap_model(self.model), self.run_args.model, folder)
        save_tokenizer(self.processing_class, self.template if self.keep_template else None, folder)


@contextmanager
def _cache_in_config(model: Any) -> Iterator[None]:
    """Training runs without the key/value cache; who loads the saved model wants it."""
    before, model.config.use_cache = model.config.use_cache, True
    try:
        yield
    finally:
        model.config.use_cache = before


def _held(rate: Callable[[int], float], steps: int) -> Callable[[int], float]:
    return lambda step: rate(min(step, steps))


def whole_run_loss(log_history: list[dict[str, float]]) -> float:
    """Return the mean training loss over all steps of a run, those before a resume included.

    Each logged loss is a mean over the steps since the log before it.
    """
    total, last = 0.0, 0
    for entry in log_history:
        if "loss" in entry:
            step = int(entry["step"])
            total, last = total + entry["loss"] * (step - last), step
    return total / last if last else math.nan
