# SPDX-License-Identifier: Apache-2.0
"""What ``deepspeed`` may say: our keys fill its gaps, what contradicts them or is not obeyed is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_train_args
from llamafactory.hparams.deepspeed import Zero, zero_of

BASE = {"model_name_or_path": "org/tiny", "dataset": "identity"}
EXAMPLES = Path(__file__).parents[2] / "examples" / "deepspeed"


def asked(settings: Any, **keys: Any) -> Zero | None:
    return zero_of(get_train_args({**BASE, "deepspeed": settings, **keys}))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_every_example_is_read(path: Path) -> None:
    stage = json.loads(path.read_text())["zero_optimization"]["stage"]
    zero = asked(str(path))
    assert (zero.stage if zero else 0) == stage


def test_gaps_are_filled_by_keys() -> None:
    zero = asked(str(EXAMPLES / "ds_z3_config.json"), gradient_accumulation_steps=4)
    assert zero is not None
    config = zero.config(batch=2, ranks=8, max_grad_norm=0.5, hidden_size=64, bf16=True)
    assert config["bf16"] == {"enabled": True} and config["gradient_clipping"] == 0.5
    assert config["train_batch_size"] == 16 and config["gradient_accumulation_steps"] == 1
    assert config["zero_optimization"]["reduce_bucket_size"] == 64 * 64
    assert "auto" not in json.dumps(config)
    assert not zero.config(2, 8, 0.5, 64, bf16=False)["bf16"]["enabled"]


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"zero_optimization": {"stage": 4}}, {}, "stage: 4"),
    ({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "nvme"}}}, {}, "nvme"),
    ({"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}, {}, "offload_param needs stage: 3"),
    ({"zero_optimization": {"stage": 3, "sub_group_size": "auto"}}, {}, "sub_group_size: auto"),
    ({"zero_optimisation": {"stage": 2}}, {}, "zero_optimisation is not read"),
    ({"zero_optimization": {"stage": 2}, "scheduler": {"type": "WarmupLR"}}, {}, "scheduler is not read"),
    ({"zero_optimization": {"stage": 2}, "gradient_clipping": 3.0}, {}, "max_grad_norm is 1.0"),
    ({"zero_optimization": {"stage": 2}, "gradient_accumulation_steps": 3}, {}, "gradient_accumulation_steps is"),
    ({"zero_optimization": {"stage": 2}, "optimizer": {"type": "Lamb"}}, {}, "optimizer: type: Lamb"),
    (
        {"zero_optimization": {"stage": 2}, "optimizer": {"type": "AdamW", "params": {"lr": 1e-2}}},
        {"learning_rate": 1e-4},
        "lr: 0.01",
    ),
    ({"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}}, {"bf16": False}, "bf16: enabled: true"),
    ({"zero_optimization": {"stage": 2}, "fp16": {"enabled": True}}, {}, "fp16: enabled: true"),
    ({"zero_optimization": {"stage": 2}}, {"finetuning_type": "full", "pure_bf16": True}, "not with pure_bf16"),
    ({"zero_optimization": {"stage": 2}}, {"on_nonfinite": "skip"}, "not with on_nonfinite: skip"),
    ({"zero_optimization": {"stage": 2}}, {"finetuning_type": "full", "use_galore": True}, "galore"),
    ({"zero_optimization": {"stage": 3}}, {"quantization_bit": 4, "quantization_method": "hqq"}, "packed weights"),
    ({"zero_optimization": {"stage": 3}}, {"predict_with_generate": True, "val_size": 0.1}, "ZeRO stage 3"),
    ({"zero_optimization": {"stage": 2}}, {"fsdp": True}, "fsdp and deepspeed: choose one"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "keys", "line"), REFUSED, ids=lambda value: str(value)[:50])
def test_what_is_not_obeyed_is_refused(settings: dict[str, Any], keys: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        asked(settings, **keys)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"deepspeed.*gone\.json"):
        asked("gone.json")


def test_accelerate_launch_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "cpu")
    zero = zero_of(get_train_args(BASE))
    assert zero is not None and zero.stage == 3 and zero.given["zero_optimization"]["offload_param"]["device"] == "cpu"
    with pytest.raises(ConfigError, match="choose one"):
        asked(str(EXAMPLES / "ds_z2_config.json"))
