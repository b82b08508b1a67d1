# SPDX-License-Identifier: Apache-2.0
"""The trainer all stages share: loss, guard, evaluation and logs, on the loop of ``base_trainer.py``.

A stage that differs overrides :meth:`Trainer.loss_sums` (and :meth:`Trainer.num_items` where its loss is not a mean
over trained tokens), and :meth:`Trainer.prepare_model` and :meth:`Trainer.token_scores` where it needs other scores;
nothing else.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..extras.errors import ConfigError, writing
from ..extras.files import read_json
from ..extras.heap import give_back_gaps
from ..extras.logging import get_logger
from ..model import eval_mode
from .base_trainer import BaseTrainer
from .distributed.whole import sharded
from .evaluation import evaluate as evaluation
from .evaluation import prediction
from .evaluation.samples import log_samples
from .losses.cross_entropy import cross_entropy
from .metrics.channels import ChannelMeter
from .metrics.means import Means
from .nonfinite import NonFiniteGuard
from .optim.averaging import averaged
from .token_scores import attach, trained_positions

if TYPE_CHECKING:
    import transformers

    from ..hparams import TrainArgs

logger = get_logger(__name__)


class Trainer(BaseTrainer):
    """What is trained, measured and reported.

    Args:
        model: Causal language model, with or without adapters; it gets the keyword ``score=True``.
        arguments: What transformers needs to know (see ``training_arguments``).
        run_args: The whole resolved configuration.
        channels: Names of the training sets whose losses are logged apart.
        everything: As for :class:`BaseTrainer`.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        arguments: transformers.TrainingArguments,
        run_args: TrainArgs,
        channels: Sequence[str] = (),
        **everything: Any,
    ) -> None:
        self.loss_is_scaled_for_ga = True
        self.guard = NonFiniteGuard(run_args.training.on_nonfinite, arguments)
        self.means = Means()
        self.channels = ChannelMeter(list(channels)) if channels else None
        ready = sharded(self.prepare_model(model), run_args, arguments)
        super().__init__(model=ready, arguments=arguments, run_args=run_args, **everything)

    # Loss

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Let the model give what :meth:`token_scores` returns."""
        return attach(model)

    def token_scores(self, model: nn.Module, inputs: dict[str, Any], evaluating: bool = False) -> Any:
        """Return what :meth:`loss_sums` is a function of: here :class:`TokenScores` of the trained positions."""
        return model(**inputs, score=True, **self.score_options(inputs, evaluating))

    def score_options(self, inputs: dict[str, Any], evaluating: bool) -> dict[str, Any]:
        """Return what :func:`attach` is asked for beside log-probabilities."""
        if evaluating:
            return {"accuracy": self.run_args.finetuning.compute_accuracy}
        return {"smoothing": self.args.label_smoothing_factor}

    def loss_sums(self, scores: Any, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """Return sums over the items of a batch: ``loss``, with gradient, and what else evaluation reports the mean of.

        Args:
            scores: From :meth:`token_scores`.
            inputs: The batch, for stages that need more than the scores.
        """
        sums = {"loss": cross_entropy(scores.log_probs, scores.weights, 1.0)}
        if scores.correct is not None:
            sums["accuracy"] = (scores.correct & (scores.weights != 0)).sum()
        return sums

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        """Return the means of :meth:`loss_sums` with what is computed from them."""
        return means

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        assert num_items_in_batch is not None
        items, channels = inputs.pop("items"), inputs.pop("channels", None)
        scores = self.token_scores(model, inputs)
        if self.channels is not None and channels is not None:
            self.channels.add(scores, channels, inputs)
        sums = self.loss_sums(scores, inputs)
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
        give_back_gaps()
        loss = super().training_step(model, inputs, num_items_in_batch)
        return self.guard.watch(loss, inputs, rows)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        policy = self.accelerator.unwrap_model(self.model)
        # Gradients that are scaled may be infinite, and those that were used in the backward pass are gone.
        by_loss = self.accelerator.scaler is not None or self.zero_engine is not None
        by_loss = by_loss or all(weight.grad is None for weight in policy.parameters())
        self.guard.check(norm, policy, self.state.global_step + 1, partial(self._loss_of, policy), by_loss)
        give_back_gaps()  # what the backward pass freed would stay beside what the optimizer's step makes
        return norm

    def _loss_of(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        loss: Tensor = self.compute_loss(model, self._prepare_inputs(inputs), num_items_in_batch=1)
        return loss

    # Evaluation, logs

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate each set apart (``eval_<name>_loss``), and all together when there are several."""
        sets = self.eval_dataset if eval_dataset is None else eval_dataset
        sets = sets if isinstance(sets, dict) else {"": sets}
        batches: dict[str, Iterable[dict[str, Any]]] = {name: self._eval_batches(rows) for name, rows in sets.items()}
        with averaged(self.optimizer), eval_mode(self.accelerator.unwrap_model(self.model)) as model:
            metrics = self.measure(model, batches, metric_key_prefix)
        if self.run_args.training.predict_with_generate:
            for name, prompts in self.prompts.items():
                metrics |= self.score_responses(prompts, f"{metric_key_prefix}_{name}" if name else metric_key_prefix)
        if self.run_args.finetuning.generate_samples:
            log_samples(self)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def measure(self, model: nn.Module, batches: dict[str, Iterable[dict[str, Any]]], prefix: str) -> dict[str, float]:
        """Return the figures of sets, given this rank's batches by name."""
        sums_of = partial(self._eval_sums, model)
        return evaluation.evaluate(batches, sums_of, self.derived, self.args.device, prefix)

    def _eval_batches(self, rows: Any) -> Iterator[dict[str, Any]]:
        yield from self._with_progress(self.get_eval_dataloader(rows))

    def _with_progress(self, batches: Any) -> Iterator[Any]:
        """Yield batches, and let transformers' callbacks (the progress bar) know of each one that is done."""
        self.callback_handler.eval_dataloader = batches
        for batch in batches:
            yield batch
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)

    def _eval_sums(self, model: nn.Module, batch: dict[str, Any]) -> dict[str, Any]:
        batch["positions"] = trained_positions(batch["labels"])
        items = self.num_items(batch)
        inputs = self._prepare_inputs(batch)
        with self.accelerator.autocast():
            sums = self.loss_sums(self.token_scores(model, inputs, evaluating=True), inputs)
        return {**sums, evaluation.ITEMS: items}

    @cached_property
    def prompts(self) -> dict[str, Any]:
        """The evaluation sets as prompts, by name."""
        return prediction.prompt_sets(self.template, self.processing_class, self.run_args)

    def score_responses(self, prompts: Any, prefix: str, path: Path | None = None) -> dict[str, float]:
        """Generate a response to each prompt of a set, over all ranks, and return mean BLEU-4 and ROUGE.

        Args:
            prompts: One of :attr:`prompts`.
            prefix: Of the metrics' names.
            path: Where the responses go; None = they are only scored.
        """
        legacy = self.run_args.generating.legacy_text_scores
        return prediction.score(self.responses(prompts), self.args, prefix, path, legacy)

    def responses(self, prompts: Any) -> Iterator[prediction.Response]:
        """Yield this rank's responses to the prompts of a set, from the weights that would be saved."""
        with averaged(self.optimizer):
            yield from prediction.generate(
                self.accelerator.unwrap_model(self.model),
                self.processing_class,
                prompts,
                self._with_progress(prediction.prompt_batches(prompts, self.args)),
                prediction.generation_config(self.run_args, self.processing_class, self.template),
                skip_special_tokens=self.run_args.generating.skip_special_tokens,
                seed=self.args.seed,
                autocast=self.accelerator.autocast,
                media=self.template.batch_media() if "media" in prompts.column_names else None,
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self.tokens.rates() | self.derived(self.means.take())
            logs |= self.channels.take() if self.channels else {}
            if self.args.include_num_input_tokens_seen == "no":  # else transformers counts, as that key says
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
        if self.is_world_process_zero():
            _set_aside_damaged(str(self.args.output_dir))
        with writing(str(self.args.output_dir)):
            self.save_metrics(split, metrics)


def _set_aside_damaged(output_dir: str) -> None:
    """``all_results.json`` is added to, so what stands there must be readable."""
    path = Path(output_dir) / "all_results.json"
    if not path.is_file():
        return
    try:
        read_json(path)
    except ConfigError as error:
        aside = path.with_name(path.name + ".damaged")
        logger.warning_rank0("%s; it is called %s now", error, aside.name)
        os.replace(path, aside)


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
