# SPDX-License-Identifier: Apache-2.0
"""Where the time of a step goes: traces of torch's profiler, and the seconds of single modules."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, schedule, tensorboard_trace_handler
from transformers import TrainerCallback

from ...extras.errors import ConfigError, first_names
from ...extras.files import write_json
from ...extras.logging import get_logger
from ...hparams import split_list
from ...model.wrapping import beneath_adapters

if TYPE_CHECKING:
    from ...hparams import TrainArgs

logger = get_logger(__name__)


def profiling_callbacks(args: TrainArgs) -> list[TrainerCallback]:
    """Return what measures, as the keys of the section ``profiler`` say."""
    found: list[TrainerCallback] = []
    if args.profiler.enable_torch_profiler:
        found.append(TraceCallback(args))
    if args.profiler.profile_modules:
        found.append(ModuleTimesCallback(args))
    return found


def _folder(args: TrainArgs) -> Path:
    return Path(args.profiler.profiler_output_dir or f"{args.training.output_dir}/profiler").expanduser()


class TraceCallback(TrainerCallback):
    """A trace file for each cycle and process, to be opened at https://ui.perfetto.dev or in TensorBoard."""

    def __init__(self, args: TrainArgs) -> None:
        self.settings, self.folder = args.profiler, _folder(args)
        self._trace: profile | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        settings = self.settings
        on_gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
        self._trace = profile(
            activities=[ProfilerActivity.CPU, *on_gpu],
            schedule=schedule(
                wait=settings.profiler_wait_steps,
                warmup=settings.profiler_warmup_steps,
                active=settings.profiler_active_steps,
                repeat=settings.profiler_repeat,
            ),
            on_trace_ready=tensorboard_trace_handler(str(self.folder), worker_name=f"rank{args.process_index}"),
            record_shapes=settings.profiler_record_shapes,
            profile_memory=settings.profiler_profile_memory,
            with_stack=settings.profiler_with_stack,
        )
        self._trace.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._trace is not None:
            self._trace.step()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._trace is None:
            return
        self._trace.stop()
        self._trace = None
        written = sorted(self.folder.glob(f"rank{args.process_index}.*.json"))
        cycle = self.settings.profiler_wait_steps + self.settings.profiler_warmup_steps
        cycle += self.settings.profiler_active_steps
        if written:
            logger.info("profiler: %d traces in %s (https://ui.perfetto.dev opens them)", len(written), self.folder)
        else:
            logger.warning("profiler: no trace; a cycle takes %d steps, and the run had fewer", cycle)


@dataclass
class _Times:
    calls: int = 0
    forward_seconds: float = 0.0
    backward_seconds: float = 0.0


class ModuleTimesCallback(TrainerCallback):
    """The seconds that chosen modules take, forward and backward, into ``module_times.json``.

    What is computed again for the backward pass counts as a further call. On a GPU the time is that of its own clock.
    """

    def __init__(self, args: TrainArgs) -> None:
        self.patterns, self.folder = split_list(args.profiler.profile_modules), _folder(args)
        self.times: dict[str, _Times] = {}
        self._hooks = ExitStack()
        self._begun: dict[tuple[str, str], Any] = {}
        self._events: list[tuple[str, str, Any, Any]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        modules = dict(beneath_adapters(model).named_modules())
        for pattern in self.patterns:
            if not any(fnmatchcase(name, pattern) for name in modules):
                names = first_names([name for name in modules if name], 8)
                raise ConfigError(f"profile_modules: {pattern} matches no module; there are {names}")
        for name, module in modules.items():
            if any(fnmatchcase(name, pattern) for pattern in self.patterns):
                self.times[name] = _Times()
                self._watch(name, module)

    def _watch(self, name: str, module: nn.Module) -> None:
        pairs: list[tuple[str, Callable[..., Any], Callable[..., Any]]] = [
            ("forward", module.register_forward_pre_hook, module.register_forward_hook),
            ("backward", module.register_full_backward_pre_hook, module.register_full_backward_hook),
        ]
        for way, before, after in pairs:
            self._hooks.callback(before(partial(self._start, name, way)).remove)
            self._hooks.callback(after(partial(self._stop, name, way)).remove)

    def _start(self, name: str, way: str, *_: Any) -> None:
        self._begun[name, way] = _now()

    def _stop(self, name: str, way: str, *_: Any) -> None:
        begun = self._begun.pop((name, way), None)
        if begun is not None:
            self._events.append((name, way, begun, _now()))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for name, way, begun, ended in self._events:
            seconds = begun.elapsed_time(ended) / 1000 if torch.cuda.is_available() else ended - begun
            times = self.times[name]
            times.calls += way == "forward"
            if way == "forward":
                times.forward_seconds += seconds
            else:
                times.backward_seconds += seconds
        self._events.clear()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._hooks.close()
        if args.process_index:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "module_times.json"
        write_json(path, {name: asdict(times) for name, times in self.times.items()})
        slowest = sorted(self.times.items(), key=lambda item: -item[1].forward_seconds - item[1].backward_seconds)[:5]
        shown = ", ".join(
            f"{name} {time.forward_seconds:.2f} + {time.backward_seconds:.2f} s" for name, time in slowest
        )
        logger.info("modules, forward + backward: %s; all in %s", shown, path)


def _now() -> Any:
    if not torch.cuda.is_available():
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # the device's clock; it is read after the step
    event.record()
    return event
