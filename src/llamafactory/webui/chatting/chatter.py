# SPDX-License-Identifier: Apache-2.0
"""The model that a page talks to: loaded and unloaded while the page is served, asked by all its tabs."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ...chat.base_engine import load_engine
from ...data.template.thinking import resolve_thinking
from ...extras.errors import ConfigError, first_line, shown
from ...extras.heap import give_back_gaps
from ...extras.logging import get_logger
from ...extras.secrets import mask
from ...hparams import InferArgs, get_infer_args, split_list
from ...hparams.stages import require_text
from ...model.catalogue.catalogue import of_path
from .steps import Abandoned, watched

if TYPE_CHECKING:
    from ...chat.base_engine import Engine

logger = get_logger(__name__)

State = Literal["empty", "loading", "loaded", "unloading"]
# What answers are given to end before the engine is closed: each looks once a second whether it shall.
GRACE_SECONDS = 10.0
LEAVE_SECONDS = 30.0  # what a load is given to stop when the server ends


class Loaded:
    """A model in memory.

    Attributes:
        engine: Answers.
        args: Its configuration.
        ending: It is going to be unloaded; answers shall end.
        asked: Answers that grow.
    """

    def __init__(self, engine: Engine, args: InferArgs) -> None:
        self.engine, self.args = engine, args
        self.ending = False
        self.asked = 0

    @property
    def name(self) -> str:
        """What the page calls it."""
        return model_name(self.args)


@dataclass(frozen=True)
class View:
    """What there is to show of the model.

    Attributes:
        state: What happens.
        version: Another one when anything but ``seconds`` and ``step`` has changed.
        name: Of the model that is loaded, or being loaded.
        seconds: How long loading has taken, or took.
        step: What loading does.
        error: Why the last load failed.
    """

    state: State
    version: int
    name: str = ""
    seconds: float = 0
    step: str = ""
    error: str = ""


class Chatter:
    """Holds at most one model; loading and unloading go on in a thread.

    Args:
        loaded: A model that is there already.
    """

    def __init__(self, loaded: Loaded | None = None) -> None:
        self._loaded = loaded
        self._state: State = "empty" if loaded is None else "loaded"
        self._changed = threading.Condition()
        self._version = 0
        self._name = self._step = self._error = ""
        self._began = self._took = 0.0
        self._abandoned = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def loaded(self) -> Loaded | None:
        """The model, if there is one."""
        return self._loaded

    @property
    def view(self) -> View:
        """What there is to show."""
        with self._changed:
            seconds = time.monotonic() - self._began if self._state == "loading" else self._took
            name = self._loaded.name if self._loaded is not None else self._name
            return View(self._state, self._version, name, seconds, self._step, self._error)

    def load(self, config: Mapping[str, Any]) -> None:
        """Begin to load a model; :attr:`view` tells how far it is.

        Args:
            config: Flat keys, as ``chat`` takes them.

        Raises:
            ConfigError: They cannot be used, or there is a model, or one is being loaded.
        """
        args = get_infer_args(dict(config))
        require_text(args.finetuning.stage)
        with self._changed:
            self._refuse_if_busy()
            self._abandoned.clear()
            self._name, self._began = model_name(args), time.monotonic()
            self._change("loading")
            self._start(self._load, args)

    def unload(self) -> None:
        """Begin to give the model's memory back, or give up loading it. Answers end as far as they came.

        Raises:
            ConfigError: There is nothing to unload.
        """
        with self._changed:
            if self._state == "loading":
                self._abandoned.set()
                return
            if self._loaded is None:
                raise ConfigError("no model is loaded")
            loaded, self._loaded = self._loaded, None
            loaded.ending = True
            self._name = loaded.name
            self._change("unloading")
            self._start(self._unload, loaded)

    @contextmanager
    def borrowed(self) -> Iterator[Loaded]:
        """The model for one answer; it stays until the end of the block, or for a while after ``ending`` is set.

        Raises:
            ConfigError: There is none.
        """
        with self._changed:
            if self._loaded is None:
                raise ConfigError("no model is loaded" + "; wait until it is" * (self._state == "loading"))
            loaded = self._loaded
            loaded.asked += 1
        try:
            yield loaded
        finally:
            with self._changed:
                loaded.asked -= 1
                self._changed.notify_all()

    def settle(self, seconds: float | None = None) -> bool:
        """Wait until nothing is being loaded or unloaded; false when it still is after ``seconds``."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)
        return thread is None or not thread.is_alive()

    def close(self) -> None:
        """The server ends: give up what is being loaded, and end the engine with its processes."""
        with self._changed:
            self._abandoned.set()
        if not self.settle(LEAVE_SECONDS):
            logger.warning_rank0("%s is still being loaded; it is left behind", self._name)
            return
        if self._loaded is not None:
            self.unload()
            self.settle(LEAVE_SECONDS)

    def _refuse_if_busy(self) -> None:
        if self._state == "loading":
            seconds = time.monotonic() - self._began
            raise ConfigError(f"{self._name} is being loaded since {seconds:.0f} s; wait for it, or unload it first")
        if self._state == "unloading":
            raise ConfigError(f"{self._name} is being unloaded; try again in a moment")
        if self._loaded is not None:
            raise ConfigError(f"{self._loaded.name} is loaded; unload it first")

    def _change(self, state: State, error: str = "") -> None:
        self._state, self._error, self._step = state, error, ""
        self._version += 1

    def _start(self, work: Callable[[Any], None], what: Any) -> None:
        # A daemon: the end of the program waits for it in close(), not without end.
        self._thread = threading.Thread(target=work, args=(what,), name="model", daemon=True)
        self._thread.start()

    def _report(self, step: str) -> None:
        self._step = step

    def _load(self, args: InferArgs) -> None:
        loaded, error = None, ""
        try:
            with watched(self._report, self._abandoned.is_set):
                args = replace(args, data=resolve_thinking(args.data))
                loaded = Loaded(load_engine(args), args)
        except Abandoned:
            logger.info_rank0("Loading %s was given up", self._name)
        except Exception as problem:  # whatever a library says, it belongs on the page, and the server goes on
            error = told(problem)
            if not isinstance(problem, ConfigError):
                logger.exception("%s could not be loaded", self._name)
        if loaded is not None and self._abandoned.is_set():
            loaded.engine.close()
            loaded = None
        if loaded is None:
            give_back_memory()
        with self._changed:
            self._loaded = loaded
            self._took = time.monotonic() - self._began
            self._change("empty" if loaded is None else "loaded", error)

    def _unload(self, loaded: Loaded) -> None:
        with self._changed:
            self._changed.wait_for(lambda: loaded.asked == 0, GRACE_SECONDS)
        error = ""
        try:
            loaded.engine.close()
        except Exception as problem:  # an engine of other processes may have lost them
            error = told(problem)
            logger.exception("%s could not be closed", loaded.name)
        del loaded.engine
        give_back_memory()
        with self._changed:
            self._change("empty", error)


def model_name(args: InferArgs) -> str:
    """What a model is called, with the adapters merged into it; pages do not tell folders of this machine."""
    path = str(args.model.model_name_or_path or "")
    known = of_path(path)
    if known is not None:
        name = known.name
    else:
        name = _last(path.rpartition("/")[0] if "*" in path.rpartition("/")[2] else path)
    return " + ".join([name, *map(_last, split_list(args.model.adapter_name_or_path))])


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def told(error: BaseException) -> str:
    """One line for the page."""
    line = shown(error)
    if line is not None:
        return line[0].removeprefix("error: ")
    return mask(f"{type(error).__name__}: {first_line(error)[:300]}")


def give_back_memory() -> None:
    """Hand memory that nothing uses any more back to the system and to the devices."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.accelerator.is_available():
        torch.accelerator.empty_cache()
    give_back_gaps()
