# SPDX-License-Identifier: Apache-2.0
"""What `lr_scheduler_kwargs`, `optim_args`, `torch_compile_*` and `report_to` take, against what reads them."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from typing import Any, get_args

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import get_scheduler, trainer_optimizer
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, GreedyLR
from transformers.trainer_utils import SchedulerType

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_train_args
from llamafactory.hparams.derive import OWN_OPTIMIZERS
from llamafactory.hparams.inner_settings import OPTIMIZERS, SCHEDULES, optimizer_settings, schedule_settings
from llamafactory.hparams.rules.training import COMPILERS, TRACKERS
from llamafactory.hparams.training_args import CompileMode, OptimizerName

BASE = {"model_name_or_path": "org/tiny", "dataset": "identity"}
WATCHING = ("reduce_lr_on_plateau", "greedy")
NEEDED = {
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_warmup_with_min_lr": {"min_lr": 1e-6},
    "warmup_stable_decay": {"num_decay_steps": 3},
}
TEXTS = {bool: "true", int: "1", float: "1e-6"}
# Settings that transformers hands on with a type that its optimizer cannot take.
UNUSABLE = {"_get_torchao_optimizer": {"block_size"}}


def training(**keys: Any) -> Any:
    needs = {"eval_strategy": "steps", "val_size": 0.1} if keys.get("lr_scheduler_type") in WATCHING else {}
    return get_train_args({**BASE, **needs, **keys}).training


@pytest.mark.parametrize("name", [kind.value for kind in SchedulerType])
def test_the_settings_of_a_schedule_are_those_of_transformers(name: str) -> None:
    made = {"reduce_lr_on_plateau": ReduceLROnPlateau, "greedy": GreedyLR}
    parameters = inspect.signature(made.get(name) or TYPE_TO_SCHEDULER_FUNCTION[SchedulerType(name)]).parameters
    given = {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}
    assert set(SCHEDULES.get(name, {})) == set(parameters) - given


@pytest.mark.parametrize("name", [kind.value for kind in SchedulerType])
def test_each_setting_can_be_written_as_text_and_makes_a_schedule(name: str) -> None:
    """YAML reads ``1e-6`` as text, and transformers would divide by it."""
    for setting, (hint, _) in SCHEDULES.get(name, {}).items():
        first = (get_args(hint) or (hint,))[0]
        value = TEXTS.get(first, first)
        needed = {} if setting in ("min_lr", "min_lr_rate") else NEEDED.get(name, {})
        settings = schedule_settings(training(lr_scheduler_type=name, lr_scheduler_kwargs={**needed, setting: value}))
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        assert get_scheduler(name, optimizer, 2, 10, scheduler_specific_kwargs=settings)


BAD_SCHEDULES = [
    ({"lr_scheduler_kwargs": {"min_lr": 0.1}}, "min_lr is no setting of lr_scheduler_type linear"),
    ({"lr_scheduler_kwargs": "foo"}, "expected a mapping, got 'foo'"),
    ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycle": 1}}, "num_cycle is no setting .* num_cycles"),
    ({"lr_scheduler_type": "constant", "lr_scheduler_kwargs": {"a": 1}}, "a is no setting of lr_scheduler_type const"),
    ({"lr_scheduler_type": "cosine_with_min_lr"}, "missing, lr_scheduler_type cosine_with_min_lr needs min_lr"),
    (
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 0, "min_lr_rate": 0.1}},
        "min_lr and min_lr_rate are both given",
    ),
    ({"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_cycles": 1}}, "num_decay_steps is miss"),
]


@pytest.mark.parametrize(("keys", "message"), BAD_SCHEDULES, ids=str)
def test_a_schedule_that_cannot_be_made(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^lr_scheduler_kwargs: {message}"):
        training(**keys)


@pytest.mark.parametrize(
    ("kind", "setting", "value"),
    [
        ("cosine_with_min_lr", "min_lr", -1),
        ("cosine_with_min_lr", "min_lr", "nan"),
        ("cosine_with_min_lr", "min_lr_rate", 1.5),
        ("cosine", "num_cycles", "half"),
        ("polynomial", "power", 0),
        ("polynomial", "lr_end", 1),
        ("reduce_lr_on_plateau", "factor", 1),
        ("reduce_lr_on_plateau", "mode", "mean"),
        ("warmup_stable_decay", "decay_type", "sqrt"),
        ("inverse_sqrt", "timescale", 0),
    ],
)
def test_a_setting_of_a_schedule_out_of_range(kind: str, setting: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^lr_scheduler_kwargs\.{setting}: expected .*{value}"):
        training(lr_scheduler_type=kind, lr_scheduler_kwargs={**NEEDED.get(kind, {}), setting: value})


def read_by(handler: Any) -> set[str]:
    """Return the names that one maker of optimizers looks up in `optim_args`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(handler)))):
        shown = ast.unparse(node)
        parts: list[Any] = []
        if isinstance(node, ast.Call) and re.match(r"ctx\.optim_args\.(get|pop)\(", shown):
            parts = node.args[:1]
        elif isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple):
            parts = node.iter.elts
        elif isinstance(node, ast.Compare) and shown.endswith(" in ctx.optim_args"):
            parts = [node.left]
        names |= {part.value for part in parts if isinstance(part, ast.Constant)}
    return names


@pytest.mark.parametrize("name", sorted(set(get_args(OptimizerName)) - set(OWN_OPTIMIZERS)))
def test_the_settings_of_an_optimizer_are_those_of_transformers(name: str) -> None:
    handler = trainer_optimizer._OPTIMIZER_HANDLERS[name]
    found = [start for start in OPTIMIZERS if name.startswith(start)]
    ours = OPTIMIZERS[max(found, key=len)] if found else {}
    reads = read_by(handler) - UNUSABLE.get(handler.__name__, set())
    if handler.__name__ == "_get_bitsandbytes_optimizer" and "ademamix" not in name:
        reads = set()  # only AdEMAMix looks at single ones
    assert set(ours) == reads


@pytest.mark.parametrize(
    ("optim", "text", "message"),
    [
        ("adamw_torch", "foo=bar", "optim_args: foo is no setting of optim adamw_torch; it has none there"),
        ("sgd", "foo=bar", "optim_args: foo is no setting of optim sgd; expected momentum, "),
        ("sgd", "momentum", "optim_args: expected name=value, got 'momentum'"),
        ("sgd", "momentum=x", "optim_args.momentum: expected float, got 'x'"),
        ("sgd", "momentum=-1", "optim_args.momentum: expected 0 or more, got -1"),
        ("sgd", "momentum=inf", "optim_args.momentum: expected 0 or more, got inf"),
        ("rmsprop", "alpha=2", "optim_args.alpha: expected at least 0 and below 1, got 2"),
        ("rmsprop", "alpha=0.9, alpha=0.8", "optim_args: alpha is given twice"),
    ],
)
def test_optim_args_that_cannot_be_read(optim: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        training(optim=optim, optim_args=text)
    assert str(caught.value).startswith(message)


def test_optim_args_reach_the_optimizer_with_their_types(tmp_path: Any) -> None:
    """``nesterov=on`` is true here; transformers alone would take it for false."""
    from transformers import Trainer

    from llamafactory.train.training_arguments import transformers_arguments

    keys = {**BASE, "optim": "sgd", "optim_args": "momentum=9e-1, nesterov=on", "use_cpu": True}
    arguments = transformers_arguments(get_train_args({**keys, "output_dir": str(tmp_path)}))
    kind, settings = Trainer.get_optimizer_cls_and_kwargs(arguments)
    assert kind is torch.optim.SGD and settings["momentum"] == 0.9 and settings["nesterov"] is True
    assert optimizer_settings(training(optim="sgd")) == {}


def test_the_compilers_are_those_of_torch() -> None:
    from torch._dynamo import list_backends
    from torch._inductor import list_mode_options

    ours = {name for name in list_backends(exclude_tags=None) if "TESTING" not in name and "minifier" not in name}
    assert set(COMPILERS) == ours - {"aot_eager_decomp_partition_crossref", "aot_eager_decomp_partition_with_mode"}
    assert set(get_args(CompileMode)) == set(list_mode_options())


def test_trackers_are_those_of_transformers() -> None:
    """Kubeflow's reports to the cluster that started it, without being asked for."""
    assert set(TRACKERS) == set(INTEGRATION_TO_CALLBACK) - {"kubeflow"}


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("torch_compile_backend", "foo", "torch_compile_backend: expected one of inductor, eager, .* got 'foo'"),
        ("torch_compile_mode", "fast", "torch_compile_mode: expected one of default, reduce-overhead, .* got 'fast'"),
        ("report_to", "foo", "report_to: unknown tracker 'foo'; choices: none, all, tensorboard, "),
        ("report_to", ["wandb", "comet"], "report_to: unknown tracker 'comet'"),
        ("accelerator_config", "foo", "accelerator_config: foo asks for Accelerate's own handling"),
    ],
)
def test_choices(key: str, value: Any, line: str) -> None:
    with pytest.raises(ConfigError, match=f"^{line}"):
        training(**{key: value})
