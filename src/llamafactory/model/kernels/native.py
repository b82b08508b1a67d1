# SPDX-License-Identifier: Apache-2.0
"""``kernels.cpp``, compiled once a machine by its C++ compiler and called through ctypes.

Every caller has plain PyTorch beside its call, for machines without a compiler and for tensors without values.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from ...extras.errors import first_line
from ...extras.files import write_atomic

SOURCE = Path(__file__).with_name("kernels.cpp")
_FLAGS = [
    *("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC", "-shared", "-std=c++17"),
]
_TYPES = {torch.float32: "float", torch.bfloat16: "bfloat16"}
_SECONDS = 120
# p: a tensor's memory; l: a size; f: a number; i: a switch. The number of threads follows.
_PARAMETERS = {
    "rms_norm": "ppppllff",
    "rms_norm_back": "pppppllf",
    "glu": "pppllli",
    "glu_back": "pppppllli",
    "rotary": "pppplllllllllf",
    "attention_back": "ppllllff",
    "log_prob": "pppppplli",
}
_CTYPES = {"p": ctypes.c_void_p, "l": ctypes.c_long, "f": ctypes.c_float, "i": ctypes.c_int}


class Missing(Exception):
    """Why there is no compiled library."""


def leave_out(model: nn.Module) -> None:
    """Let this model compute by PyTorch's own operations where the code that calls asks :func:`wanted`."""
    for module in model.modules():
        module.plain_operations = True


def wanted(module: nn.Module) -> bool:
    """Whether the model that a module is of may use kernels (the key ``kernels``)."""
    return not getattr(module, "plain_operations", False)


def begin() -> None:
    """Have the library compiled beside what else is done, if it is not there yet."""
    _building()


def why_missing() -> str:
    """Return why there is no library, ``""`` if there is one; waits for the compiler."""
    try:
        _library()
    except Missing as error:
        return str(error)
    return ""


def takes(*tensors: Tensor) -> bool:
    """Whether tensors are alike and of the kind that the library computes: in the memory of a CPU, or planned there."""
    dtype = tensors[0].dtype
    plain = all(type(x) in (Tensor, nn.Parameter) or isinstance(x, FakeTensor) for x in tensors)
    alike = plain and all(x.device.type == "cpu" and x.dtype == dtype for x in tensors)
    return alike and dtype in _TYPES and not why_missing()


def call(name: str, dtype: torch.dtype, *arguments: Any) -> None:
    """Call a function of the library; tensors are given by where they begin, the number of threads is added.

    On tensors without values, by which a run is planned, there is nothing to compute.
    """
    if any(isinstance(x, FakeTensor) for x in arguments):
        return
    places = [x.data_ptr() if isinstance(x, Tensor) else x for x in arguments]
    _function(name, dtype)(*places, torch.get_num_threads())


@functools.cache
def _function(name: str, dtype: torch.dtype) -> Any:
    function = getattr(_library(), f"{name}_{_TYPES[dtype]}")
    function.argtypes, function.restype = [_CTYPES[kind] for kind in _PARAMETERS[name] + "i"], None
    return function


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(str(_building().result()))


@functools.cache
def _building() -> Future[Path]:
    one = ThreadPoolExecutor(1, thread_name_prefix="kernels")
    future = one.submit(_build)
    one.shutdown(wait=False)
    return future


def _build() -> Path:
    """Return the compiled library, from the cache if it was compiled before by this compiler for this processor."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if sys.platform != "linux" or compiler is None:
        raise Missing("there is no C++ compiler (c++, g++)" if sys.platform == "linux" else "they are for Linux")
    openmp = Path(torch.__file__).with_name("lib")
    asked = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    made_of = [SOURCE.read_text("utf-8"), *_FLAGS, asked, str(openmp), platform.machine(), _processor()]
    name = hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:24]
    target = Path.home() / ".cache" / "llamafactory" / "kernels" / f"{name}.so"
    if target.is_file():
        return target
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / target.name
        # torch's own OpenMP: its threads are there already, and are as many as it was told.
        command = [compiler, *_FLAGS, str(SOURCE), "-o", str(made), f"-L{openmp}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
            if done.returncode:
                raise Missing(f"{compiler} cannot compile them: {done.stderr.strip().splitlines()[:1]}")
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomic(target, made.read_bytes())
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Missing(f"they cannot be compiled: {first_line(error)}") from error
    return target


def _processor() -> str:
    """What ``-march=native`` depends on: a home folder may be shared by machines."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
