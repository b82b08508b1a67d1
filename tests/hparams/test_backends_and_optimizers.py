# SPDX-License-Identifier: Apache-2.0
"""Parallel dimensions and optimizers that cannot be had are refused in one line before anything is loaded."""

from __future__ import annotations

import sys
import types
from itertools import chain

import pytest
from transformers import Trainer
from transformers import TrainingArguments as Theirs
from transformers.training_args import OptimizerNames

from llamafactory.extras.errors import ConfigError, UsageError
from llamafactory.hparams import get_infer_args, get_train_args
from llamafactory.hparams.rules.optimizer import PACKAGES, PROJECTING

BASE = {"model_name_or_path": "org/tiny", "dataset": "identity"}


@pytest.mark.parametrize("keys", [{"deepspeed": None}, {"fsdp": False}, {"fsdp": ""}, {"fsdp_config": {}}], ids=str)
def test_sharding_that_is_switched_off_is_no_wish(keys):
    assert get_train_args({**BASE, **keys})


@pytest.mark.parametrize("name", ["ACCELERATE_USE_PARALLELISM_CONFIG"])
def test_sharding_that_accelerate_launch_asks_for_is_refused(name, monkeypatch):
    monkeypatch.setenv(name, "true")
    with pytest.raises(UsageError, match=rf"^{name}: asks for .*, (which|whose) .*$"):
        get_train_args(BASE)
    assert get_infer_args(BASE)
    monkeypatch.setenv(name, "false")
    assert get_train_args(BASE)


ROWS = [(name, package, pip) for (package, pip), names in PACKAGES.items() for name in names]


@pytest.mark.parametrize(("name", "package", "pip"), ROWS)
def test_an_optimizer_whose_package_is_missing_names_it(name, package, pip, monkeypatch):
    monkeypatch.setattr("llamafactory.extras.packages.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, package, raising=False)
    with pytest.raises(ConfigError) as caught:
        get_train_args({**BASE, "optim": name})
    assert str(caught.value) == f"optim: {name}: needs the package {package}; pip install {pip}"
    assert get_infer_args({**BASE, "optim": name})
    assert get_train_args({**BASE, "optim": name, "do_eval": True, "val_size": 0.1})  # nothing is optimized


@pytest.mark.parametrize(("name", "package", "_"), ROWS)
def test_an_optimizer_whose_package_is_there_is_taken(name, package, _, monkeypatch):
    monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    assert get_train_args({**BASE, "optim": name}).training.optim == name


def test_modules_to_project_belong_to_the_optimizers_that_do():
    with pytest.raises(ConfigError, match=r"^optim_target_modules: only for optim galore_\* and apollo_\*, not sgd$"):
        get_train_args({**BASE, "optim": "sgd", "optim_target_modules": ["q_proj"]})
    with pytest.raises(ConfigError, match=r"^optim_target_modules: missing, optim galore_adamw needs it; for example"):
        get_train_args({**BASE, "optim": "galore_adamw"})


@pytest.mark.parametrize("name", [item.value for item in OptimizerNames if item.value not in PROJECTING])
def test_the_table_of_packages_is_that_of_transformers(name, tmp_path, monkeypatch):
    """Without any optional package transformers makes exactly the optimizers that the table does not name."""
    for package, _ in PACKAGES:
        monkeypatch.setitem(sys.modules, package, None)
    for kind in ("bitsandbytes", "galore_torch", "apollo_torch", "lomo", "grokadamw", "schedulefree", "torch_optimi",
                 "torchao"):  # fmt: skip
        monkeypatch.setattr(f"transformers.trainer_optimizer.is_{kind}_available", lambda *_: False)
    arguments = Theirs(output_dir=str(tmp_path), use_cpu=True, optim_target_modules="all-linear")
    arguments.optim = OptimizerNames(name)
    if name in chain(*PACKAGES.values()):
        with pytest.raises((ImportError, ValueError)) as caught:
            Trainer.get_optimizer_cls_and_kwargs(arguments)
        package = next(package for (package, _), names in PACKAGES.items() if name in names)
        assert package.replace("_", "").replace("optimi", "") in str(caught.value).replace("_", "").lower()
    else:
        assert Trainer.get_optimizer_cls_and_kwargs(arguments)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("adamw_hf", "optim: expected one of adamw_torch, adamw_8bit, adamw_torch_fused (41 more: see -h), got"),
        ("adamw_apex_fused", "optim: expected one of adamw_torch_fused, adamw_torch_npu_fused (42 more: see -h), got"),
        ("galore", "optim: expected one of galore_adamw, galore_adamw_8bit, galore_adafactor, "),
        ("zzz", "optim: expected one of adamw_torch, adamw_torch_fused, adamw_torch_xla, adamw_torch_npu_fused, "),
    ],
)  # fmt: skip
def test_an_unknown_optimizer_names_the_nearest(name, line):
    with pytest.raises(ConfigError) as caught:
        get_train_args({**BASE, "optim": name})
    assert str(caught.value).startswith(line)
