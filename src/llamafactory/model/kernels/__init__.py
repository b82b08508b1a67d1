# SPDX-License-Identifier: Apache-2.0
"""What a model computes in many passes over memory, in one: put into single modules of one loaded model, on a CPU.

Whether a module computes what a kernel does is tried on numbers (never read from a name), so that a new family takes
part by itself. A call that does not fit (another type, tensors without values) goes the module's own way.
"""

from __future__ import annotations

import types
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...extras.logging import get_logger
from . import gated_mlp, native, rms_norm, rotary

logger = get_logger(__name__)

_ROTARY = "apply_rotary_pos_emb"


def use_kernels(model: nn.Module, say: bool = True) -> dict[str, int]:
    """Put the kernels into every module of ``model`` that they fit.

    Args:
        model: Its weights need not have values yet.
        say: Log which modules have kernels now, and which of these kinds have not.

    Returns:
        How many modules of each kind have them now; empty without the compiled library.
    """
    if why := native.why_missing():
        logger.warning_once("kernels: PyTorch's own, which take more passes over memory: %s", why)
        return {}
    found: Counter[str] = Counter()
    others: Counter[str] = Counter()
    functions: dict[Any, Callable[..., Any] | None] = {}
    for module in model.modules():
        name = type(module).__name__
        for kind, patch in (("RMSNorm", _patch_norm), ("gated MLP", _patch_mlp), ("rotary positions", _patch_rotary)):
            applies = patch(module, functions)
            if applies is not None:
                found[kind] += applies
                others[f"{name} ({kind})"] += not applies
    if say:
        _say(found, others)
    return {kind: count for kind, count in found.items() if count}


def _say(found: Counter[str], others: Counter[str]) -> None:
    taken = ", ".join(f"{kind} {count}" for kind, count in found.items() if count)
    left = ", ".join(f"{name} {count}" for name, count in others.items() if count)
    logger.info_once("kernels: %s%s", taken or "none fit this model", f"; as they are: {left}" if left else "")


def _patch_norm(module: nn.Module, _: Any) -> bool | None:
    """Whether the module has the kernel now; ``None``: it is no such module."""
    eps = rms_norm.eps_of(module)
    if "norm" not in type(module).__name__.lower() or eps is None or _is_changed(module):
        return None
    shift = rms_norm.shift_of(module)
    if shift is None:
        return False

    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        if not rms_norm.fits(hidden_states, self.weight):
            return type(self).forward(self, hidden_states)
        return rms_norm.rms_norm(hidden_states, self.weight, eps, shift)

    _put(module, forward)
    return True


def _patch_mlp(module: nn.Module, _: Any) -> bool | None:
    parts = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    if not all(isinstance(part, nn.Module) for part in parts) or _is_changed(module):
        return None
    kind = gated_mlp.kind_of(getattr(module, "act_fn", None))
    if kind is None or not _is_gated(module):
        return False

    def forward(self: Any, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)
        hidden = gated_mlp.glu(gate, up, kind) if gated_mlp.fits(gate, up) else self.act_fn(gate) * up
        return self.down_proj(hidden)

    _put(module, forward)
    return True


def _is_gated(module: nn.Module) -> bool:
    """Whether a module computes ``down(act(gate(x)) * up(x))``: its forward is called with stand-ins of one number."""
    stand_ins = types.SimpleNamespace(
        gate_proj=lambda x: x * 3, up_proj=lambda x: x - 5, down_proj=lambda x: x * 7, act_fn=torch.sin, training=False
    )
    x = torch.tensor([2.0, -1.0])
    try:
        found = type(module).forward(stand_ins, x)
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return False
    return isinstance(found, Tensor) and torch.equal(found, torch.sin(x * 3) * (x - 5) * 7)


def _patch_rotary(module: nn.Module, functions: dict[Any, Callable[..., Any] | None]) -> bool | None:
    """Give an attention module its own ``apply_rotary_pos_emb``: the same code with one name meaning another thing."""
    own = type(module).forward
    code = getattr(own, "__code__", None)
    if code is None or _ROTARY not in code.co_names or _is_changed(module):
        return None
    if own not in functions:
        better = rotary.replacement(own.__globals__[_ROTARY]) if _ROTARY in own.__globals__ else None
        functions[own] = better and _with_global(own, _ROTARY, better)
    forward = functions[own]
    if forward is None:
        return False
    _put(module, forward)
    return True


def _with_global(function: Any, name: str, value: Any) -> Any:
    """Return a copy of a function for which one global name stands for something else; others keep theirs."""
    copy = types.FunctionType(
        function.__code__,
        {**function.__globals__, name: value},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _is_changed(module: nn.Module) -> bool:
    """Whether somebody has given this very module another forward already."""
    return "forward" in vars(module)


def _put(module: nn.Module, forward: Any) -> None:
    module.forward = types.MethodType(forward, module)
