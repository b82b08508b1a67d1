# SPDX-License-Identifier: Apache-2.0
"""Combinations with a quantized model that cannot be: one line each, before anything is loaded."""

from __future__ import annotations

import re
from typing import Any

import pytest

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_infer_args, get_train_args

BASE = {"model_name_or_path": "org/tiny", "dataset": "identity"}
FOUR = {"quantization_bit": 4}
PPO = {"stage": "ppo", "reward_model": "org/scores", "reward_model_quantization_bit": 4}

TRAINING: list[tuple[dict[str, Any], str]] = [
    (
        {**FOUR, "finetuning_type": "full"},
        "quantization_bit: not with finetuning_type full: weights in few bits cannot take a step",
    ),
    (
        {**FOUR, "finetuning_type": "freeze"},
        "quantization_bit: not with finetuning_type freeze: weights in few bits cannot take a step",
    ),
    ({**FOUR, "finetuning_type": "glora"}, "quantization_bit: not with finetuning_type glora: PEFT puts it on plain"),
    ({"quantization_bit": 3}, "quantization_bit: 3, but quantization_method bnb has 4 or 8"),
    ({"quantization_bit": 7}, "quantization_bit: expected 1, 2, 3, 4, 5, 6 or 8, got 7"),
    ({**FOUR, "quantization_type": "int"}, "quantization_type: int is no format of bnb with 4 bits; it has nf4 or fp4"),
    (
        {"quantization_bit": 8, "quantization_type": "fp4"},
        "quantization_type: fp4 is no format of bnb with 8 bits; it has one, so leave the key out",
    ),
    ({**FOUR, "quantization_method": "gptq"}, "quantization_method: gptq is a format of checkpoints"),
    ({**FOUR, "quantization_method": "mxfp4"}, "quantization_method: mxfp4 is a format of checkpoints"),
    ({**FOUR, "resize_vocab": True}, "quantization_bit: not together with resize_vocab"),
    ({**FOUR, "train_from_scratch": True}, "quantization_bit: random weights of train_from_scratch"),
    ({**FOUR, "pissa_init": True}, "pissa_init: takes a part out of weights that quantization_bit rounds"),
    ({**FOUR, "adapter_name_or_path": "a,b"}, "quantization_bit: takes one adapter at most"),
    (
        {**FOUR, "adapter_name_or_path": "a", "create_new_adapter": True},
        "create_new_adapter: the adapter before it would be rounded into the quantized weights",
    ),
    ({**FOUR, "quantization_device_map": "auto"}, "quantization_device_map: only for inference"),
    ({"stage": "dpo", "ref_model_quantization_bit": 4}, "ref_model_quantization_bit: needs ref_model"),
    ({**PPO, "reward_model_type": "lora"}, "reward_model_quantization_bit: needs reward_model_type full"),
]
SERVING: list[tuple[dict[str, Any], str]] = [
    ({**FOUR, "infer_backend": "vllm"}, "quantization_bit: vllm quantizes nothing while it loads"),
    (
        {**FOUR, "adapter_name_or_path": "a", "lora_modules": "b=c"},
        "lora_modules: with quantization_bit the adapter of",
    ),
    ({**FOUR, "adapter_name_or_path": "a,b"}, "quantization_bit: takes one adapter at most"),
]


@pytest.mark.parametrize(("keys", "line"), TRAINING, ids=str)
def test_wrong_combinations_in_training(keys: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape(line)) as caught:
        get_train_args({**BASE, **keys})
    assert caught.value.exit_code == 1 and "\n" not in str(caught.value)


@pytest.mark.parametrize(("keys", "line"), SERVING, ids=str)
def test_wrong_combinations_in_serving(keys: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape(line)):
        get_infer_args({**BASE, **keys})


def test_the_spellings_of_other_files_are_read() -> None:
    args = get_train_args({**BASE, "quantization_bit": "4", "quantization_method": "bitsandbytes"})
    assert args.quantization.quantization_method == "bnb"
    assert get_train_args({**BASE, **FOUR, "double_quantization": False, "quantization_type": "fp4"})
