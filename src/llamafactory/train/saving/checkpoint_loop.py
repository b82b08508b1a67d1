# SPDX-License-Identifier: Apache-2.0
"""Transformers' loop with our checkpoints: what is in them, when they appear, and going on from one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.trainer import SCHEDULER_NAME

from ...extras.errors import ConfigError, writing
from ...extras.hub import pushing
from ...extras.logging import get_logger
from ...model.heads import save_head
from ...model.older_readers import add_older_names
from ...model.processor import copy_processor
from ...model.wrapping import beneath_adapters
from ..distributed.checkpoints import load_parts, require_kind, save_parts
from ..distributed.engine_loop import EngineLoop
from ..distributed.parts import load_optimizer, save_optimizer
from ..distributed.whole import gather
from ..distributed.zero import load_state, save_state, whole
from ..optim.averaging import averaged, take_average
from . import checkpoints, optimizer_state
from .background import Background
from .renamed import load_renamed
from .run_config import Start, write_run_config
from .upload import upload_checkpoint
from .weights_first import weights_first

if TYPE_CHECKING:
    from ...data.template.base import Template
    from ...hparams.sharding import Sharding

logger = get_logger(__name__)


class CheckpointLoop(EngineLoop):
    """What the loop does otherwise about checkpoints.

    Attributes:
        sharding: How the model is cut, None = it is whole.
        start: Where the run begins.
    """

    sharding: Sharding | None
    start: Start
    template: Template
    keep_template: bool
    save_total_limit: int | None
    steps_an_epoch: int
    shift: int
    control: Any
    lr_scheduler: Any

    @cached_property
    def background(self) -> Background:
        """What writes checkpoints beside training."""
        return Background(self.run_args.training.ddp_timeout)

    def _maybe_log_save_evaluate(self, *args: Any, **options: Any) -> None:
        self.background.check()
        super()._maybe_log_save_evaluate(*args, **options)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        with averaged(self.optimizer):
            self._write_checkpoint()

    def _load_best_model(self) -> None:
        self.background.wait()
        take_average(self.optimizer)  # nothing is trained after it, so that the loaded weights stay as they are
        best = Path(str(self.state.best_model_checkpoint))
        if self.sharding is not None:
            load_parts(self.model, best)
        elif not load_renamed(self.accelerator.unwrap_model(self.model), best):
            super()._load_best_model()

    def _write_checkpoint(self) -> None:
        args, state = self.args, self.state
        self.background.wait()  # for the checkpoint before
        state.best_model_checkpoint = checkpoints.best_checkpoint(args.output_dir, state)
        self.store_flos()
        with self._staged(state.global_step) as folder:
            if self.saves_parts and not args.save_only_model:
                with _cache_in_config(self.model):
                    save_parts(self.model, folder)
                if args.should_save:
                    self.save_texts(folder)
            else:
                self.save_model(str(folder), _internal_call=True)
            if not args.save_only_model:
                self._save_progress(folder)
            if args.should_save:
                write_run_config(folder, self.start.config, self.steps_an_epoch, self.shift)
                state.stateful_callbacks = checkpoints.callback_states([*self.callback_handler.callbacks, self.control])
                state.save_to_json(str(folder / checkpoints.STATE))
        if args.push_to_hub:
            self._try_to_push(str(checkpoints.checkpoint_folder(args.output_dir, state.global_step)))

    @contextmanager
    def _staged(self, step: int) -> Iterator[Path]:
        """Give a folder to write a checkpoint into. It appears when all is written, and older ones go after that."""
        args, best = self.args, self.state.best_model_checkpoint
        final = checkpoints.checkpoint_folder(args.output_dir, step)
        rotate = partial(checkpoints.rotate, final.parent, self.save_total_limit, best, final)
        if not self.run_args.training.async_save:
            with checkpoints.naming_the_last(final):
                with checkpoints.staged_checkpoint(args, step) as folder:
                    yield folder
                if args.should_save:
                    rotate()
            return
        with checkpoints.naming_the_last(final), writing(final), self.background.deferring() as tasks:
            yield checkpoints.staging_folder(args.output_dir, step)
        tasks += [partial(checkpoints.publish, args, step, self.background.group), *[rotate] * args.should_save]
        self.background.start(tasks, final)

    def _try_to_push(self, folder: str) -> None:
        """Upload a checkpoint; training goes on without, for the checkpoint is on disk."""
        try:
            with pushing("push_to_hub", folder):
                if self.is_world_process_zero():
                    upload_checkpoint(self, Path(folder))
        except ConfigError as error:
            logger.warning_rank0("%s", error)

    def _save_progress(self, folder: Path) -> None:
        """Write what a resumed run goes on from besides the weights."""
        self._save_optimizer_and_scheduler(str(folder))
        self._save_scaler(str(folder))
        self._save_rng_state(str(folder))
        for part in self.callback_handler.callbacks:
            if hasattr(part, "save_progress"):
                part.save_progress(folder)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the whole model on the first process; all call this together."""
        if self.sharding is not None or (self.zero is not None and self.zero.stage == 3):
            self._save(output_dir, gather(self.model, whole if self.zero else None))
        else:
            super().save_model(output_dir, _internal_call)

    @property
    def saves_parts(self) -> bool:
        """Whether the weights of a checkpoint are written in parts; an adapter is small, and whole on each machine."""
        return self.sharding is not None and not hasattr(self.model, "peft_config")

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.zero_engine is not None:
            save_state(self.model, self.zero_engine, Path(output_dir))
        elif self.sharding is not None:
            save_optimizer(self.model, self.optimizer.optimizer, Path(output_dir), self.sharding.key)
        else:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        require_kind(folder, self.sharding.key if self.sharding else "deepspeed" if self.zero else "")
        for part in self.callback_handler.callbacks:
            if hasattr(part, "before_weights"):
                part.before_weights(folder)
        if self.sharding is not None:
            load_parts(self.model, folder)
        elif not load_renamed(self.accelerator.unwrap_model(model or self.model), folder):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        optimizer, scheduler = self.optimizer, self.lr_scheduler
        made = optimizer_state.Settings(optimizer, scheduler)
        unread = self._without_state(Path(checkpoint)) or self.start.new_optimizer
        new_schedule = unread or self.start.new_schedule
        self.optimizer = optimizer_state.Unread() if unread else optimizer
        self.lr_scheduler = optimizer_state.Unread() if new_schedule else scheduler
        if unread:
            logger.warning_rank0("the optimizer begins anew: %s holds no state for it", checkpoint)
        with optimizer_state.readable(Path(checkpoint)):
            if self.sharding is None and self.zero_engine is None:
                super()._load_optimizer_and_scheduler(checkpoint)
            else:
                self._load_sharded_state(Path(checkpoint))
        self.optimizer, self.lr_scheduler = optimizer, scheduler
        made.put_back(self.state.global_step, new_schedule)

    def _load_sharded_state(self, folder: Path) -> None:
        if self.zero_engine is not None and not isinstance(self.optimizer, optimizer_state.Unread):
            load_state(self.model, self.zero_engine, folder)
        elif not isinstance(self.optimizer, optimizer_state.Unread):
            load_optimizer(self.model, self.optimizer.optimizer, folder)
        self.lr_scheduler.load_state_dict(torch.load(folder / SCHEDULER_NAME, weights_only=True))

    def _without_state(self, folder: Path) -> bool:
        """Whether a checkpoint of weights alone may do: when no step is left, or by the user's word.

        Raises:
            ConfigError: It may not.
        """
        lacking = optimizer_state.check_state(folder)
        done = self.state.global_step >= self.state.max_steps
        if lacking and not done and not self.run_args.training.resume_changed:
            raise ConfigError(
                f"resume_from_checkpoint: {folder} has no {lacking}, so training cannot go on as it was "
                "(save_only_model leaves it out); resume_changed: true goes on with a new optimizer"
            )
        return lacking in ("optimizer.pt", "scheduler.pt")

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with optimizer_state.readable(Path(str(checkpoint))):
            super()._load_rng_state(checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Write weights (safetensors), config, tokenizer and chat template; nothing is pickled."""
        folder = Path(output_dir or self.args.output_dir)
        if not self.args.should_save:
            return
        folder.mkdir(parents=True, exist_ok=True)
        model: Any = self.accelerator.unwrap_model(self.model)
        extra = {"save_embedding_layers": False} if hasattr(model, "peft_config") else {}
        with averaged(self.optimizer), _cache_in_config(self.model), weights_first(model):
            model.save_pretrained(folder, state_dict=state_dict, **extra)
        self.save_texts(folder)

    def save_texts(self, folder: Path) -> None:
        """Write what stands beside weights and configuration: processor, tokenizer and the template of training."""
        model: Any = self.accelerator.unwrap_model(self.model)
        if not hasattr(model, "peft_config"):
            copy_processor(model, self.run_args.model, folder)
        else:
            save_head(beneath_adapters(model), folder)
        if self.keep_template:  # so that any loader renders what was trained
            self.processing_class.chat_template = self.template.jinja()
        self.processing_class.save_pretrained(folder)
        add_older_names(folder)


@contextmanager
def _cache_in_config(model: Any) -> Iterator[None]:
    """Training runs without the key/value cache; who loads the saved model wants it."""
    before, model.config.use_cache = model.config.use_cache, True
    try:
        yield
    finally:
        model.config.use_cache = before
