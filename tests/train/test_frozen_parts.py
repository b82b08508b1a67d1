# SPDX-License-Identifier: Apache-2.0
"""Which parts of a model that takes media are trained: exactly those that are said to be."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from media_models import build
from media_rows import Official, rows_of
from torch import nn

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_train_args
from llamafactory.model import load_model, load_tokenizer
from llamafactory.model.towers import fingerprint, still_tensors
from llamafactory.train.callbacks.frozen import FrozenCallback
from llamafactory.train.token_scores import attach

KEYS = ("freeze_vision_tower", "freeze_multi_modal_projector", "freeze_language_model")
COMBINATIONS = list(itertools.product((True, False), repeat=3))


def part_by_hand(name: str) -> str:
    """As one reads the names of Qwen2-VL and LLaVA; an order of :data:`KEYS`."""
    if "merger" in name or "multi_modal_projector" in name:
        return KEYS[1]
    return KEYS[0] if "visual" in name or "vision_tower" in name else KEYS[2]


@pytest.fixture(scope="module")
def folder_of(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return cache(lambda family: build(family, tmp_path_factory.mktemp(family), tiny_llama))


@pytest.fixture(scope="module")
def batch_of(folder_of: Callable[[str], Path]) -> Callable[[str], dict[str, Any]]:
    return cache(lambda family: Official(folder_of(family)).batch(rows_of("image")))


def loaded(folder: Path, **keys: Any) -> Any:
    args = get_train_args(
        {"model_name_or_path": str(folder), "dataset": "none", "output_dir": "none", "bf16": False} | keys
    )
    return load_model(load_tokenizer(args.model), args)


def step(model: Any, batch: dict[str, Any]) -> set[str]:
    """Train one step; return the names of what has changed, buffers too."""
    before = {name: one.clone() for name, one in model.state_dict(keep_vars=False).items()}
    attach(model).train()
    (-model(**batch, score=True).log_probs.sum()).backward()
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    optimizer.step()
    return {name for name, one in model.state_dict().items() if not torch.equal(one, before[name])}


@pytest.mark.parametrize("kind", ["full", "lora", "freeze"])
@pytest.mark.parametrize("frozen", COMBINATIONS, ids=str)
@pytest.mark.parametrize("family", ["qwen2_vl", pytest.param("llava", marks=pytest.mark.slow)])
def test_exactly_the_parts_that_are_said_change(
    family: str, frozen: tuple[bool, ...], kind: str, folder_of: Callable[[str], Path], batch_of: Any
) -> None:
    keys = dict(zip(KEYS, frozen, strict=True))
    if all(frozen):
        with pytest.raises(ConfigError, match="all true leaves nothing to train"):
            loaded(folder_of(family), finetuning_type=kind, **keys)
        return
    model = loaded(folder_of(family), finetuning_type=kind, **keys)
    changed = step(model, batch_of(family))
    assert {part_by_hand(name) for name in changed} == {key for key in KEYS if not keys[key]}
    if kind == "lora":
        assert changed and all("lora_B" in name for name in changed)
        adapted = {name for name, module in model.named_modules() if hasattr(module, "lora_A")}
        linear = {
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and ".lora_" not in name and "lm_head" not in name
        }
        taken = {f"{name}.base_layer" for name in adapted}
        assert {name for name in linear if not keys[part_by_hand(name)]} == taken
    if kind == "full":  # but what has no gradient: the last norm of CLIP
        every = {name for name, _ in model.named_parameters() if not keys[part_by_hand(name)]}
        assert all("post_layernorm" in name or "k_proj.bias" in name for name in every - changed), every - changed


def test_statistics_of_a_frozen_tower_stand_still(folder_of: Callable[[str], Path], batch_of: Any) -> None:
    """A norm over the batch moves in training mode although no weight of it is trained."""
    model = loaded(folder_of("llava"), finetuning_type="lora")
    tower = model.base_model.model.model.vision_tower
    assert not tower.training and not tower.train().training and model.train().training
    open_ = loaded(folder_of("llava"), finetuning_type="lora", freeze_vision_tower=False)
    assert open_.train().base_model.model.model.vision_tower.training
    # the comparison at the end sees a buffer that moves, and one weight
    tower.register_buffer("running_mean", torch.zeros(3))
    check = FrozenCallback()
    for change in (lambda: tower.running_mean.add_(1), lambda: next(tower.parameters()).data.view(-1)[5].add_(1e-6)):
        check.on_train_begin(None, None, None, model=model)
        check.on_train_end(None, None, None, model=model)
        with torch.no_grad():
            change()
        with pytest.raises(RuntimeError, match="vision tower: said to be frozen, but 1 tensors changed"):
            check.on_train_end(None, None, None, model=model)


def test_a_fingerprint_sees_order_and_every_type() -> None:
    values = torch.arange(6.0)
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        one = values.to(dtype)
        assert fingerprint(one) == fingerprint(one.clone()) != fingerprint(one.flip(0))
    assert fingerprint(torch.tensor(1.0)) != fingerprint(torch.tensor(2.0))
    assert fingerprint(torch.tensor([True, False])) != fingerprint(torch.tensor([False, True]))


def test_what_additional_target_names_is_trained_in_a_frozen_part(
    folder_of: Callable[[str], Path], batch_of: Any
) -> None:
    model = loaded(folder_of("llava"), finetuning_type="lora", additional_target="multi_modal_projector")
    changed = step(model, batch_of("llava"))
    assert {part_by_hand(name) for name in changed} == {KEYS[1], KEYS[2]}
    assert not any("original_module" in name for name in changed)
    assert set(still_tensors(model)) == {"vision tower", "projector"}


def test_keys_of_parts_are_refused_where_they_mean_nothing(tiny_llama: Path, folder_of: Callable[[str], Path]) -> None:
    for key in ({"freeze_vision_tower": False}, {"freeze_language_model": True}, {"vision_tower_lr": 1e-5}):
        with pytest.raises(ConfigError, match=f"^{next(iter(key))}: models of type llama take text alone; leave it"):
            loaded(tiny_llama, **key)
    with pytest.raises(ConfigError, match=r"^projector_lr: the projector is frozen; set freeze_multi_modal_projector"):
        loaded(folder_of("llava"), projector_lr=1e-4)
    with pytest.raises(ConfigError, match=r"^vision_tower_lr: not with use_badam"):
        loaded(folder_of("llava"), vision_tower_lr=1e-4, use_badam=True, finetuning_type="full")


def test_parts_have_rates_of_their_own(folder_of: Callable[[str], Path]) -> None:
    from llamafactory.model.towers import rates_of_parts
    from llamafactory.train.optim.groups import set_rates

    keys = {"vision_tower_lr": 1e-5, "projector_lr": 3e-4, "learning_rate": 1e-4}
    keys |= {"freeze_vision_tower": False, "freeze_multi_modal_projector": False}
    args = get_train_args(
        {"model_name_or_path": str(folder_of("qwen2_vl")), "dataset": "none", "output_dir": "o"} | keys
    )
    model = loaded(folder_of("qwen2_vl"), finetuning_type="full", **keys)
    names = {one: name for name, one in model.named_parameters()}
    halves = [[one for one in names if (one.ndim > 1) is wide] for wide in (True, False)]
    optimizer = torch.optim.AdamW(
        [{"params": halves[0], "weight_decay": 0.1}, {"params": halves[1], "lr": 2e-4}], lr=1e-4
    )
    set_rates(optimizer, rates_of_parts(model, args.finetuning), 1e-4)
    found = {
        names[one]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for one in group["params"]
    }
    own = {KEYS[0]: 1e-5, KEYS[1]: 3e-4, KEYS[2]: 1e-4}
    assert found.keys() == set(names.values())
    for name, (rate, decay) in found.items():
        wide = model.get_parameter(name).ndim > 1
        assert rate == pytest.approx(own[part_by_hand(name)] * (1 if wide else 2))
        assert decay == (0.1 if wide else 0.01)
