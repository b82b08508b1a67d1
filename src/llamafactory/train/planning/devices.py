# SPDX-License-Identifier: Apache-2.0
"""Devices that a run can be planned for: what they hold and how fast they are, from their makers' data sheets."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from ...extras.device import Device, probe
from ...extras.errors import ConfigError

GIB = 2**30


@dataclass(frozen=True)
class Speed:
    """A device's limits.

    Attributes:
        half: Operations a second in bfloat16 or float16, dense.
        single: In float32 (TF32 where matrix products use it).
        bytes_per_second: To and from its memory.
    """

    half: float
    single: float
    bytes_per_second: float

    def flops(self, narrow: bool) -> float:
        """Operations a second of one number format: two bytes or more."""
        return self.half if narrow else self.single


# Name -> GiB, TFLOP/s in bfloat16 (float16 where it has none), in float32 products, GB/s.
_SHEETS: dict[str, tuple[int, float, float, float]] = {
    "T4": (16, 65, 8.1, 320),
    "V100-16GB": (16, 125, 15.7, 900),
    "V100-32GB": (32, 125, 15.7, 900),
    "A10": (24, 125, 62.5, 600),
    "A100-40GB": (40, 312, 156, 1555),
    "A100-80GB": (80, 312, 156, 2039),
    "L4": (24, 121, 60, 300),
    "L40S": (48, 362, 183, 864),
    "RTX3090": (24, 71, 35.6, 936),
    "RTX4060Ti": (16, 88, 44, 288),
    "RTX4090": (24, 165, 82.6, 1008),
    "RTX5090": (32, 209, 104.8, 1792),
    "H100": (80, 989, 495, 3350),
    "H200": (141, 989, 495, 4800),
    "B200": (180, 2250, 1125, 8000),
    "MI250X": (128, 383, 95.7, 3277),
    "MI300X": (192, 1307, 653, 5300),
}
_NO_BF16 = ("T4", "V100-16GB", "V100-32GB")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(GiB|GB|G|MiB|MB)", re.IGNORECASE)
_COUNT = re.compile(r"(\d+)\s*[x×*]\s*(.+)")
# Bytes that Python and the libraries' own context take of an accelerator's memory.
_CONTEXT = round(0.6 * GIB)
# Bytes of a CPU's memory that loading data and weights touches of libraries, and that planning does not.
_TOUCHED = 28 << 20


@dataclass(frozen=True)
class Planned:
    """Where a run is planned to run.

    Attributes:
        name: As it is shown.
        device: Its kind and number formats; ``memory_bytes`` of one of them.
        count: How many, each with a process of its own.
        speed: None if it is not known.
        runtime_bytes: What is taken before anything is loaded.
    """

    name: str
    device: Device
    count: int = 1
    speed: Speed | None = None
    runtime_bytes: int = _CONTEXT


def find_device(text: str | None, use_cpu: bool = False) -> Planned:
    """Return the device that ``text`` names.

    Args:
        text: A size (``24GiB``), a name of the table (``H100``, ``2xA100-80GB``), ``cpu``; None = this machine's.
        use_cpu: Without a text: the CPU, even where there is an accelerator.

    Raises:
        ConfigError: It is none of these.
    """
    if text is None or text.lower() == "cpu":
        return _this_machine(use_cpu or text is not None)
    several = _COUNT.fullmatch(text.strip())
    count, name = (int(several[1]), several[2]) if several else (1, text.strip())
    size = _SIZE.fullmatch(name)
    found = _of_size(name, size) if size else _of_table(name)
    if count < 1:
        raise ConfigError(f"device: expected at least one device, got {text!r}")
    return replace(found, name=text.strip(), count=count)


def _of_size(name: str, size: re.Match[str]) -> Planned:
    return Planned(name, _accelerator(round(float(size[1]) * _unit(size[2])), name))


def _of_table(name: str) -> Planned:
    names = {known.lower().replace("-", ""): known for known in _SHEETS}
    wanted = name.lower().replace("-", "").replace(" ", "").removeprefix("nvidia").removeprefix("amd")
    near = [known for plain, known in names.items() if wanted and plain.startswith(wanted)]
    known = names.get(wanted) or (near[-1] if near else None)
    if known is None:
        raise ConfigError(f"device: expected a size such as 24GiB, cpu, or one of {', '.join(_SHEETS)}; got {name!r}")
    gib, half, single, bandwidth = _SHEETS[known]
    device = _accelerator(gib * GIB, known, bf16=known not in _NO_BF16)
    return Planned(known, device, speed=Speed(half * 1e12, single * 1e12, bandwidth * 1e9))


def _accelerator(memory: int, name: str, bf16: bool = True) -> Device:
    return Device("cuda", 0, 1, bf16=bf16, fp16=True, memory_bytes=memory, name=name)


def _unit(text: str) -> float:
    return {"gib": GIB, "g": GIB, "gb": 1e9, "mib": 2**20, "mb": 1e6}[text.lower()]


def _this_machine(use_cpu: bool) -> Planned:
    import psutil

    device = probe(use_cpu)
    if device.type != "cpu":
        sheet = next((name for name in _SHEETS if name.lower() in device.name.lower().replace(" ", "")), None)
        speed = _of_table(sheet).speed if sheet else None
        return Planned(device.name, device, device.count, speed)
    speed = measured_speed()
    compute_a_little()
    # This process has loaded most of what the run's will have loaded.
    return Planned(device.name, device, 1, speed, psutil.Process().memory_info().rss + _TOUCHED)


def compute_a_little() -> None:
    """Take a step of a layer of attention, so that the code that a run executes is in memory."""
    import torch
    from torch.nn import functional

    for dtype in (torch.bfloat16, torch.float32):
        weight = torch.ones(64, 64, requires_grad=True)
        states = functional.rms_norm(torch.ones(1, 1, 64, 64, dtype=dtype), (64,)) @ weight.to(dtype)
        attended = functional.scaled_dot_product_attention(states, states, states, is_causal=True)
        loss = functional.log_softmax(functional.silu(attended).float(), -1).sum()
        loss.backward()
        torch.optim.AdamW([weight], fused=True).step()


def measured_speed(seconds: float = 0.1) -> Speed:
    """Measure this machine's own products and copies, for about ``seconds`` each."""
    import time

    import torch

    def rate(work: Callable[[], object], of_one: float) -> float:
        work()
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            work()
            done += 1
        return done * of_one / (time.perf_counter() - start)

    size, rates = 1024, []
    for dtype in (torch.bfloat16, torch.float32):
        left = torch.ones(size, size, dtype=dtype)
        rates.append(rate(partial(torch.matmul, left, left), 2.0 * size**3))
    block = torch.ones(16 << 20)
    target = torch.empty_like(block)
    return Speed(rates[0], rates[1], rate(lambda: target.copy_(block), 2.0 * block.nbytes))
