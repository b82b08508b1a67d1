# SPDX-License-Identifier: Apache-2.0
"""Writing checkpoints beside training (``async_save``): tensors are copied at once, and written by a thread.

Whatever saves a model or a state goes on calling the functions that it always calls; what these would write of tensors
is copied to host memory and kept for the thread. Small files of text are written at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import peft.peft_model
import torch
import torch.distributed as dist
import transformers.modeling_utils
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map

from ...extras.errors import writing
from ..distributed import parts
from .checkpoints import naming_the_last

Task = Callable[[], Any]
# What writes tensors: where its callers find it.
_WRITERS: tuple[tuple[Any, str, dict[str, Any]], ...] = (
    (torch, "save", {}),
    (transformers.modeling_utils, "safe_save_file", {}),
    (peft.peft_model, "safe_save_file", {}),
)


class Background:
    """One save at a time.

    Args:
        timeout_seconds: How long the processes may wait for each other.
    """

    def __init__(self, timeout_seconds: int) -> None:
        self.timeout = timedelta(seconds=timeout_seconds)
        self.group: dist.ProcessGroup | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @contextmanager
    def deferring(self) -> Iterator[list[Task]]:
        """Inside, tensors are copied instead of written; gives what is left to do. All processes do this together."""
        if self.group is None and dist.is_initialized():  # what waits must not come between the steps of training
            self.group = dist.new_group(backend="gloo", timeout=self.timeout)
        waiting: list[Task] = []

        def put_off(write: Callable[..., Any], **more: Any) -> Callable[..., None]:
            def later(tensors: Any, *args: Any, **keys: Any) -> None:
                waiting.append(partial(write, _copied(tensors), *args, **keys, **more))

            return later

        with ExitStack() as stack:
            for place, name, more in (*_WRITERS, (parts, "save_together", {"group": self.group})):
                write = getattr(place, name)
                stack.callback(setattr, place, name, write)
                setattr(place, name, put_off(write, **more))
            yield waiting

    def start(self, tasks: list[Task], final: Path) -> None:
        """Do tasks in their order beside what follows.

        Args:
            tasks: The last one makes the checkpoint appear.
            final: The checkpoint.
        """
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(tasks, final), name="async_save", daemon=True)
        self._thread.start()

    def _run(self, tasks: list[Task], final: Path) -> None:
        try:
            with naming_the_last(final), writing(final):
                while tasks:
                    tasks.pop(0)()  # what is written needs its copy no longer
        except BaseException as error:  # it is raised where training sees it
            self._error = error

    def check(self) -> None:
        """Raise what went wrong."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Wait until everything is written, and raise what went wrong."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()


def _copied(tensors: Any) -> Any:
    """The same with copies in host memory; what was one tensor stays one."""
    known: dict[int, Tensor] = {}

    def copy(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) not in known:
            known[id(value)] = _copy(value.detach())
        return known[id(value)]

    return tree_map(copy, tensors)


def _copy(value: Tensor) -> Tensor:
    if not isinstance(value, DTensor):
        return value.to("cpu", copy=True)
    local = value.to_local().to("cpu", copy=True)
    mesh, places = value.device_mesh, value.placements
    return DTensor.from_local(local, mesh, places, run_check=False, shape=value.shape, stride=value.stride())
