# SPDX-License-Identifier: Apache-2.0
"""Expressions in an adapter's configuration: matched under a limit, to what PEFT would match, and not again by PEFT."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel

from llamafactory.extras.errors import ConfigError
from llamafactory.model import patterns
from llamafactory.model.adapter_config import read_adapter_config
from llamafactory.model.adapters import load_adapter, load_named_adapters

from .peft_adapters import base, save

SLOW = (
    r"model\.(\w|\.){1,3}" + r"(\w|\.)*" * 7 + "Z"
)  # each star more multiplies the time: hundreds of millions of steps


def shapes(model: Any) -> dict[str, Any]:
    own = {
        name: tuple(weight.shape) for name, weight in model.named_parameters() if ".lora_" in name or ".ia3_" in name
    }
    return own | {f"{n}.scaling": m.scaling for n, m in model.named_modules() if getattr(m, "scaling", None)}


CONFIGS: dict[str, dict[str, Any]] = {
    "targets": {"target_modules": r".*layers\.1\..*(q|down)_proj"},
    "excluded": {"target_modules": ["q_proj", "up_proj"], "exclude_modules": r".*layers\.0\..*"},
    "both": {"target_modules": r".*(q|up)_proj", "exclude_modules": r".*layers\.0\.self.*"},
    "patterns": {
        "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {r"layers\.1\..*": 2, "q_proj": 3},
        "alpha_pattern": {"v_proj": 32, r".*layers\.[01]\.self_attn\.v_.*": 5},
    },
    "first": {"target_modules": r"model\.layers\.0\.self_attn\.q_proj", "rank_pattern": {r"^model\.layers\.\d.*": 5}},
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.filterwarnings("ignore")
def test_they_mean_what_they_mean_to_peft(name: str, tiny_llama: Path, tmp_path: Path, monkeypatch: Any) -> None:
    adapter = save(tiny_llama, tmp_path / "adapter", LoraConfig(task_type="CAUSAL_LM", r=4, **CONFIGS[name]))
    expected = PeftModel.from_pretrained(base(tiny_llama), adapter)
    seen: list[str] = []
    for function in ("match", "fullmatch", "search"):
        original = getattr(re, function)
        monkeypatch.setattr(re, function, lambda p, *rest, original=original: (seen.append(p), original(p, *rest))[1])
    ours = load_adapter(base(tiny_llama), str(adapter), trainable=False)
    monkeypatch.undo()
    assert shapes(ours) == shapes(expected)
    given = [value for value in CONFIGS[name].values() if isinstance(value, str) and "*" in value]
    given += [key for value in CONFIGS[name].values() if isinstance(value, dict) for key in value if "*" in key]
    assert given
    assert not [text for text in seen if isinstance(text, str) and any(pattern in text for pattern in given)]
    ids = torch.tensor([[5, 17, 80]])
    with torch.inference_mode():
        torch.testing.assert_close(ours(ids).logits, expected(ids).logits)


def test_an_expression_of_feedforward_modules(tiny_llama: Path, tmp_path: Path) -> None:
    config = IA3Config(task_type="CAUSAL_LM", target_modules=r".*(k|down)_proj", feedforward_modules=r".*down_proj")
    adapter = save(tiny_llama, tmp_path / "adapter", config)
    assert shapes(load_adapter(base(tiny_llama), str(adapter), False)) == shapes(
        PeftModel.from_pretrained(base(tiny_llama), adapter)
    )


def test_named_adapters_beside_each_other(tiny_llama: Path, tmp_path: Path) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=r".*layers\.1\..*(q|down)_proj")
    adapter = str(save(tiny_llama, tmp_path / "adapter", config))
    both = load_named_adapters(base(tiny_llama), {"one": adapter, "two": adapter})
    names = [name for name, _ in both.named_parameters() if ".lora_A." in name]
    assert len(names) == 4
    assert {name.replace(".two.", ".one.") for name in names} == {name for name in names if ".one." in name}


@pytest.mark.parametrize("key", ["target_modules", "exclude_modules", "rank_pattern", "alpha_pattern"])
def test_a_slow_expression_is_refused_in_time(
    key: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"target_modules": ["q_proj"], key: {SLOW: 4} if key.endswith("pattern") else SLOW}
    LoraConfig(task_type="CAUSAL_LM", **values).save_pretrained(tmp_path)
    monkeypatch.setattr(patterns, "SECONDS", 0.5)
    model, start = base(tiny_llama), time.monotonic()
    with pytest.raises(ConfigError, match=r"adapter_name_or_path: .* took more than 0\.5 s") as caught:
        read_adapter_config(str(tmp_path), model)
    assert time.monotonic() - start < 5
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"target_modules": r"(q_proj"}, "an expression in it is none"),
        ({"target_modules": r".*nothing.*"}, "matches no module"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["(lm_head)+"]}, "is not the name of a module"),
        ({"target_modules": ["q_proj"], "rank_pattern": {"[": 4}}, "an expression in it is none"),
        (
            {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "(layers)+"},
            "is not the name of a module",
        ),
    ],
)
def test_what_is_said(values: dict[str, Any], words: str, tiny_llama: Path, tmp_path: Path) -> None:
    LoraConfig(task_type="CAUSAL_LM", **values).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=words) as caught:
        read_adapter_config(str(tmp_path), base(tiny_llama))
    assert "\n" not in str(caught.value)
