# SPDX-License-Identifier: Apache-2.0
"""The spine of every training run, read top to bottom."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK

from ..data.collators import PaddedCollator, PaddingFreeCollator, PairCollator
from ..data.loader import get_dataset, resolve_stage, tokenized_folder
from ..data.prepare.prepared import is_prepared
from ..data.streaming.rows import StreamRows
from ..data.template.thinking import resolve_thinking
from ..data.template_loader import get_template, take_media
from ..extras.device import probe
from ..extras.errors import ConfigError, writing
from ..extras.hub import require_hub
from ..extras.logging import get_logger, is_rank0
from ..extras.manifest import NAME as MANIFEST
from ..extras.manifest import write_manifest
from ..extras.plotting import plot_loss
from ..extras.seeds import set_seed
from ..hparams import to_dict
from ..hparams.rules.packages import require_packages
from ..model import can_share_prefixes, is_isolating, load_model, load_processor, load_tokenizer
from ..model.context_check import check_model
from ..model.families.family import media_packing, reads_prefix_both_ways
from ..model.wrapping import beneath_adapters
from ..plugins import resolve
from .batching.batches import largest_batch
from .batching.packing import settle_packing
from .callbacks.frozen import FrozenCallback
from .callbacks.log import LogCallback
from .callbacks.neftune import NoiseCallback
from .callbacks.plan import PlanCallback
from .callbacks.profiling import profiling_callbacks
from .callbacks.progress import ProgressCallback
from .callbacks.reporters import ReporterCallback, get_swanlab_callback, trackers
from .callbacks.rounding import SameRoundingCallback
from .callbacks.signals import SignalCallback
from .callbacks.threads import ThreadsCallback
from .callbacks.watchdog import LossWatchdog
from .process_group import any_rank, said_first
from .recipe import settle_recipe
from .saving.checkpoints import checkpoint_folder, clear_leftovers, is_restarted, resume_point
from .saving.outputs import create_modelcard_and_push, next_commands, same_command, save_model, train_results
from .saving.rehearsal import rehearse_saving
from .saving.run_config import check_start, run_config
from .trainer import Trainer
from .training_arguments import transformers_arguments

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Seq2SeqTrainingArguments

    from ..data.loader import DatasetModule
    from ..data.template.base import Template
    from ..hparams import TrainArgs
    from .stage import Stage

logger = get_logger(__name__)

# Laying out keys and values for attention costs a little, so that less than this saved share of tokens does not pay.
LEAST_SHARED = 0.05


def run(args: TrainArgs, callbacks: list[TrainerCallback] | None = None) -> None:
    """Load, encode, train, save, evaluate, predict.

    Args:
        args: The resolved configuration.
        callbacks: Further callbacks of the caller.

    Raises:
        ConfigError: Anything the user can mend.
        SystemExit: Training was ended by a signal, after a checkpoint was saved (130 or 143).
    """
    stage: Stage = resolve("stages", args.finetuning.stage)
    require_packages(args)
    arguments = transformers_arguments(args)
    if arguments.push_to_hub and is_rank0():
        require_hub("push_to_hub", arguments.hub_model_id, arguments.hub_token)
    resume = (
        resume_point(
            str(args.training.output_dir), args.training.resume_from_checkpoint, args.training.overwrite_output_dir
        )
        if args.training.do_train
        else None
    )
    check_model(args)
    set_seed(args.training.seed, args.training.full_determinism)
    args = settle_packing(stage.processor, replace(args, data=resolve_thinking(args.data)))
    tokenizer = load_tokenizer(args.model)
    processor = load_processor(args.model, tokenizer)
    template = get_template(tokenizer, args.data)
    take_media(template, processor, args.media)
    only_prepares = _only_prepares(args)
    dataset = get_dataset(stage.processor, template, tokenizer, args)
    if only_prepares:
        if arguments.process_index == 0:
            again = same_command(overwrites=False)
            print(f"The data is prepared in {dataset.folder}; nothing is trained yet.\nNext:\n  {again}")
        return
    rows = len(dataset.train) if args.training.do_train and dataset.train else 0
    chosen: dict[str, Any] = {}
    if rows:
        args, chosen = settle_recipe(args, rows, arguments.data_size, resume)
        arguments = transformers_arguments(args)
    config = run_config(args, resolve_stage(stage.processor, args), dataset.fingerprint, arguments.data_size)
    start = check_start(config, resume, args.training.resume_changed or is_restarted())
    tokens = largest_batch(dataset.train, arguments.train_batch_size) if dataset.train else None
    if tokens and stage.generates(args):
        tokens += arguments.train_batch_size * args.generating.max_new_tokens
    tokens = tokens and -(-tokens // arguments.context_size)
    model = load_model(tokenizer, args, head=stage.head(args, dataset), batch_tokens=tokens)
    trainer = build_trainer(stage, model, tokenizer, template, dataset, args, arguments, callbacks)
    trainer.start = start
    if trainer.is_world_process_zero():
        mark_folder(args, dataset, chosen)
    if args.training.do_train:
        train_and_save(trainer, stage, dataset, args, resume)
    if args.training.do_eval and dataset.eval:
        trainer.report("eval", stage.finish(trainer.evaluate()))
    if args.training.do_predict:
        if stage.predict is None:
            raise ConfigError(f"do_predict: stage {stage.name} has no predictions; use do_eval")
        stage.predict(trainer, args)
    if trainer.is_world_process_zero():
        print(next_commands(args), flush=True)


def _only_prepares(args: TrainArgs) -> bool:
    """Whether ``tokenized_path`` is yet to be made. All ranks ask before one can have made it, and agree.

    Workers that were killed and started anew find what their predecessors made, and still only prepare.
    """
    folder = tokenized_folder(args.data)
    return folder is not None and said_first("only prepares", any_rank(not is_prepared(folder)))


def build_trainer(
    stage: Stage,
    model: Any,
    tokenizer: Any,
    template: Template,
    dataset: DatasetModule,
    args: TrainArgs,
    arguments: Seq2SeqTrainingArguments,
    callbacks: list[TrainerCallback] | None,
) -> Trainer:
    """Put model, data and callbacks into the stage's trainer."""
    extra: list[TrainerCallback] = [
        LogCallback(),
        SignalCallback(),
        ThreadsCallback(),
        FrozenCallback(),
        PlanCallback(args, dataset, stage.generates(args)),
        ProgressCallback(bars=not args.training.disable_tqdm),
    ]
    if args.training.neftune_noise_alpha:
        extra.append(NoiseCallback(args.training.neftune_noise_alpha))
    if args.finetuning.stochastic_rounding or "stochastic_round" in (arguments.optim_args or ""):
        extra.append(SameRoundingCallback())
    extra += profiling_callbacks(args)
    if "swanlab" in trackers(args):
        extra.append(get_swanlab_callback(args))
    tuner = resolve("tuners", args.finetuning.finetuning_type)
    if hasattr(tuner, "callbacks"):
        extra += tuner.callbacks(model, args)
    extra += callbacks or []
    if args.finetuning.loss_watchdog_threshold is not None:
        extra.append(LossWatchdog(args.finetuning.loss_watchdog_threshold, args.finetuning.loss_watchdog_patience))
    if args.finetuning.early_stopping_steps is not None:
        extra.append(EarlyStoppingCallback(early_stopping_patience=args.finetuning.early_stopping_steps))
    trainer = stage.trainer(
        model=model,
        arguments=arguments,
        run_args=args,
        template=template,
        keep_template=stage.chat,
        tokenizer=tokenizer,
        train=dataset.train if args.training.do_train else None,
        evaluate=dataset.eval,
        collator=choose_collator(stage, model, template, dataset, args),
        callbacks=extra,
        channels=dataset.channels if logs_channels(args) else (),
    )
    for shown_by_us in (PrinterCallback, DEFAULT_PROGRESS_CALLBACK):
        trainer.remove_callback(shown_by_us)
    trainer.add_callback(ReporterCallback(args, trainer.callback_handler))
    return trainer


def mark_folder(args: TrainArgs, dataset: DatasetModule, chosen: dict[str, Any]) -> None:
    """Write the run's manifest, by which the folder is known as ours; a run that only evaluates keeps an older one."""
    folder = Path(str(args.training.output_dir))
    if args.training.do_train or not (folder / MANIFEST).is_file():
        seeds = {"seed": args.training.seed, "data_seed": args.training.data_seed}
        device = probe(args.training.use_cpu)
        write_manifest(
            folder, to_dict(args), dataset.report.fingerprint, device=device, seeds=seeds, extra={"chosen": chosen}
        )


def logs_channels(args: TrainArgs) -> bool:
    """Whether the loss of each training set is logged apart: where the loss is a mean over tokens, unless unwanted."""
    return args.finetuning.stage in ("pt", "sft") and args.data.channel_loss is not False


def choose_collator(stage: Stage, model: Any, template: Template, dataset: DatasetModule, args: TrainArgs) -> Any:
    """Return padding-free batches where the model keeps sequences apart, padded ones elsewhere.

    Raises:
        ConfigError: Packed rows and an attention that would let their sequences see each other; rows of several answers
            and one that lets these see themselves.
    """
    tokenizer, media = template.tokenizer, template.batch_media() if dataset.has_media else None
    obstacle = _obstacle(model, dataset, args)
    padding_free = obstacle is None
    padded = PaddedCollator(tokenizer, prefix_types=reads_prefix_both_ways(model.config), media=media)
    if padded.prefix_types and not (dataset.train is None or isinstance(dataset.train, StreamRows)):
        padded.check(dataset.train)  # not in the middle of the training
    if stage.collator is not None:
        single = PaddingFreeCollator(tokenizer, media) if padding_free else padded
        collator = stage.collator(single)
        if isinstance(collator, PairCollator):
            collator.least_shared = _least_shared(model, padding_free and media is None, args)
        return collator
    if padding_free:
        return PaddingFreeCollator(tokenizer, media)
    if _is_packed(dataset.train):
        raise ConfigError(f"packing: packed rows need isolating attention, but {obstacle}; set packing: false")
    return padded


def _obstacle(model: Any, dataset: DatasetModule, args: TrainArgs) -> str | None:
    """What keeps sequences from being laid end to end, if anything does."""
    if not is_isolating(model):
        return "this model's attention cannot keep sequences apart"
    if args.data.padding_free is False:
        return "padding_free is false"
    can = media_packing(beneath_adapters(model).config)
    if not can.works and dataset.has_media:
        logger.info_rank0("Sequences are padded, not packed end to end: %s", can.reason)
        return can.reason
    return None


def _is_packed(rows: Dataset | StreamRows | None) -> bool:
    if rows is None or isinstance(rows, StreamRows):
        return rows is not None and rows.packs
    return any(len(lengths) > 1 for lengths in rows["seq_lens"])


def _least_shared(model: Any, padding_free: bool, args: TrainArgs) -> float | None:
    """Return which share of a batch's tokens computing prompts once must save to be done; None = never.

    Raises:
        ConfigError: It is asked for and cannot be done.
    """
    can, wanted = padding_free and can_share_prefixes(model), args.rlhf.share_prompt
    if wanted and not can:
        raise ConfigError(
            "share_prompt: this model's attention, padding_free: false or rows with media do not allow it; leave it out"
        )
    if wanted or (wanted is None and can):
        return 0.0 if wanted else LEAST_SHARED
    return None


def train_and_save(
    trainer: Trainer, stage: Stage, dataset: DatasetModule, args: TrainArgs, resume: Path | None
) -> None:
    """Train from scratch or from ``resume`` and leave everything a user looks for in output_dir."""
    output_dir = str(trainer.args.output_dir)
    if trainer.train_dataset is None or not len(trainer.train_dataset):
        raise ConfigError("do_train: there is no training data; give dataset")
    if trainer.is_world_process_zero():
        clear_leftovers(output_dir, old_checkpoints=args.training.overwrite_output_dir and resume is None)
    rehearse_saving(trainer)
    if resume is not None:
        logger.info_rank0("resuming from %s", resume)
    signals = next(cb for cb in trainer.callback_handler.callbacks if isinstance(cb, SignalCallback))
    try:
        result = trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        trainer.background.wait()
    finally:
        signals.restore()
    if signals.received is not None:
        _leave(trainer, signals.received)
    metrics = {**result.metrics, **trainer.run_metrics(), **(train_results(output_dir) if trainer.was_done else {})}
    with writing(output_dir):
        save_model(trainer)
        trainer.report("train", metrics)
        trainer.save_state()
    if trainer.is_world_process_zero() and args.finetuning.plot_loss:
        plot_loss(output_dir, _logged(stage.plots, trainer))
    create_modelcard_and_push(trainer, metrics)


def _logged(keys: tuple[str, ...], trainer: Trainer) -> list[str]:
    """Return ``keys``, and the losses of named sets, that were logged at all."""
    seen = {key for entry in trainer.state.log_history for key in entry}
    named = sorted(
        key for key in seen if (key.startswith("eval_") and key.endswith("_loss")) or key.startswith("loss/")
    )
    return [key for key in dict.fromkeys([*keys, *named]) if key in seen]


def _leave(trainer: Trainer, received: int) -> NoReturn:
    """End the process after Ctrl-C or SIGTERM, once the checkpoint is on disk."""
    state, training = trainer.state, trainer.run_args.training
    logger.warning_rank0(
        "stopped by %s at step %d of %d; checkpoint: %s",
        signal.Signals(received).name,
        *(state.global_step, state.max_steps, checkpoint_folder(training.output_dir, state.global_step)),
    )
    if trainer.is_world_process_zero():
        print(f"To go on:\n  {same_command(training.overwrite_output_dir)}", file=sys.stderr, flush=True)
    raise SystemExit(128 + received)
