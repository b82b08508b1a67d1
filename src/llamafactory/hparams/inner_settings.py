# SPDX-License-Identifier: Apache-2.0
"""Settings inside of a key: what each schedule and each optimizer takes in `lr_scheduler_kwargs` and `optim_args`."""

from __future__ import annotations

from typing import Any, Literal

from .field import require
from .ranges import AT_LEAST_0, AT_LEAST_1, BELOW_1, POSITIVE, SHARE, Range
from .schema import Key
from .training_args import TrainingArguments

# Name of a setting -> its type, and which numbers it takes.
Settings = dict[str, tuple[Any, Range]]

_CYCLES: Settings = {"num_cycles": (float, POSITIVE)}
_FLOOR: Settings = {"min_lr": (float | None, AT_LEAST_0), "min_lr_rate": (float | None, SHARE)}
_CURVE = (Literal["linear", "cosine", "1-sqrt"], Range())
_WATCH: Settings = {
    "mode": (Literal["min", "max"], Range()),
    "factor": (float, Range(above=0, below=1)),
    "patience": (int, AT_LEAST_0),
    "threshold": (float, AT_LEAST_0),
    "threshold_mode": (Literal["rel", "abs"], Range()),
    "cooldown": (int, AT_LEAST_0),
    "min_lr": (float, AT_LEAST_0),
    "eps": (float, AT_LEAST_0),
}
# A schedule that is not here takes none.
SCHEDULES: dict[str, Settings] = {
    "cosine": _CYCLES,
    "cosine_with_restarts": {"num_cycles": (int, AT_LEAST_1)},
    "cosine_with_min_lr": _CYCLES | _FLOOR,
    "cosine_warmup_with_min_lr": _CYCLES | _FLOOR | {"warmup_lr_rate": (float | None, SHARE)},
    "greedy": _WATCH
    | {
        "warmup": (int, AT_LEAST_0),
        "max_lr": (float, POSITIVE),
        "verbose": (bool, Range()),
        "smooth": (bool, Range()),
        "window_size": (int, AT_LEAST_1),
        "reset_start": (int, AT_LEAST_0),
    },
    "inverse_sqrt": {"timescale": (int | None, AT_LEAST_1)},
    "polynomial": {"lr_end": (float, AT_LEAST_0), "power": (float, POSITIVE)},
    "reduce_lr_on_plateau": _WATCH,
    "warmup_stable_decay": _CYCLES
    | {
        "num_decay_steps": (int, AT_LEAST_0),
        "num_stable_steps": (int | None, AT_LEAST_0),
        "warmup_type": _CURVE,
        "decay_type": _CURVE,
        "min_lr_ratio": (float, SHARE),
    },
}

_PROJECTED: Settings = {
    "rank": (int, AT_LEAST_1),
    "update_proj_gap": (int, AT_LEAST_1),
    "scale": (float, POSITIVE),
    "proj_type": (Literal["std", "reverse_std", "right", "left", "full"], Range()),
}
_SCHEDULE_FREE: Settings = {"weight_lr_power": (float, AT_LEAST_0), "r": (float, AT_LEAST_0)}
_ADEMAMIX: Settings = {
    "beta1": (float, BELOW_1),
    "beta2": (float, BELOW_1),
    "beta3": (float, BELOW_1),
    "alpha": (float, AT_LEAST_0),
    "eps": (float, AT_LEAST_0),
    "t_alpha": (int, AT_LEAST_1),
    "t_beta3": (int, AT_LEAST_1),
}
_DECAYED: Settings = {"weight_decay": (float, AT_LEAST_0), "eps": (float, AT_LEAST_0)}
_DTYPE = (Literal["float32", "bfloat16", "float16"], Range())
_TRUE = (Literal["True"], Range())  # transformers takes any text for true
# An optimizer takes the settings of the longest of these beginnings of its name; one without any takes none.
OPTIMIZERS: dict[str, Settings] = {
    "adagrad": _DECAYED | {"lr_decay": (float, AT_LEAST_0)},
    "adamw_anyprecision": {
        "use_kahan_summation": (bool, Range()),
        "momentum_dtype": _DTYPE,
        "variance_dtype": _DTYPE,
        "compensation_buffer_dtype": _DTYPE,
    },
    "adamw_torch_4bit": {"bf16_stochastic_round": (bool, Range())},
    "adamw_torch_8bit": {"bf16_stochastic_round": (bool, Range())},
    "ademamix": _ADEMAMIX,
    "apollo_adamw": _PROJECTED
    | {
        "proj": (Literal["random", "svd"], Range()),
        "scale_type": (Literal["channel", "tensor"], Range()),
        "proj_type": (Literal["std", "right", "left"], Range()),
    },
    "galore_": _PROJECTED,
    "grokadamw": {
        "alpha_init": (float, BELOW_1),
        "lamb": (float, AT_LEAST_0),
        "gamma": (float, AT_LEAST_0),
        "grokking_signal_decay_rate": (float, AT_LEAST_0),
        "gradient_clipping": (float, AT_LEAST_0),
    },
    "paged_ademamix": _ADEMAMIX,
    "rmsprop": _DECAYED | {"momentum": (float, AT_LEAST_0), "alpha": (float, BELOW_1), "centered": (bool, Range())},
    "rmsprop_bnb": {},
    "schedule_free": _SCHEDULE_FREE,
    "sgd": {
        "momentum": (float, AT_LEAST_0),
        "dampening": (float, AT_LEAST_0),
        "weight_decay": (float, AT_LEAST_0),
        "nesterov": (bool, Range()),
    },
    "stable_adamw": {"max_lr": (float, POSITIVE), "kahan_sum": _TRUE, "decouple_lr": _TRUE},
}


def schedule_settings(training: TrainingArguments) -> dict[str, Any]:
    """Return `lr_scheduler_kwargs` with the types that the schedule takes; YAML has ``1e-6`` as text.

    Raises:
        ConfigError: A setting is unknown to the schedule, is out of range, or is missing.
    """
    key, kind, given = "lr_scheduler_kwargs", training.lr_scheduler_type, training.lr_scheduler_kwargs or {}
    require(isinstance(given, dict), f"{key}: expected a mapping, got {given!r}")
    assert isinstance(given, dict)
    values = _typed(key, given, SCHEDULES.get(kind, {}), f"lr_scheduler_type {kind}")
    if kind.endswith("with_min_lr"):
        floors = [name for name in _FLOOR if values.get(name) is not None]
        require(
            bool(floors), f"{key}: missing, lr_scheduler_type {kind} needs min_lr or min_lr_rate (a share of the peak)"
        )
        require(len(floors) == 1, f"{key}: min_lr and min_lr_rate are both given; choose one")
    if kind == "polynomial":
        end = values.get("lr_end", 1e-7)
        require(end < training.learning_rate, f"{key}.lr_end: expected below learning_rate, got {end}")
    if kind == "warmup_stable_decay" and values:
        require("num_decay_steps" in values, f"{key}: num_decay_steps is missing, the others need it")
    return values


def optimizer_settings(training: TrainingArguments) -> dict[str, Any]:
    """Return `optim_args` (``name=value, …``) as a mapping.

    Raises:
        ConfigError: A part is no ``name=value``, or a setting is unknown to the optimizer or out of range.
    """
    given: dict[str, str] = {}
    for part in filter(str.strip, (training.optim_args or "").split(",")):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        require(bool(name and equals and value), f"optim_args: expected name=value, got {part.strip()!r}")
        require(name not in given, f"optim_args: {name} is given twice")
        given[name] = value
    beginnings = [name for name in OPTIMIZERS if training.optim.startswith(name)]
    known = OPTIMIZERS[max(beginnings, key=len)] if beginnings else {}
    return _typed("optim_args", given, known, f"optim {training.optim}")


def _typed(key: str, given: dict[str, Any], known: Settings, owner: str) -> dict[str, Any]:
    values = {}
    for name, value in given.items():
        choices = f"expected {', '.join(known)}" if known else "it has none there"
        require(name in known, f"{key}: {name} is no setting of {owner}; {choices}")
        hint, within = known[name]
        values[name] = Key(f"{key}.{name}", hint, None, "", False, within).read(value)
    return values
