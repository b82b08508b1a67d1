# SPDX-License-Identifier: Apache-2.0
"""The weights that a rollout engine takes over are those of PEFT's own merge, experts among them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from llamafactory.train.rl.rollouts.vllm_rollout import policy_weights


@pytest.mark.filterwarnings("ignore")
def test_experts_are_handed_over_with_their_adapter(make_tiny_model: Any) -> None:
    folder = make_tiny_model("qwen3_moe", moe_intermediate_size=32, num_experts=4, num_experts_per_tok=2)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        target_modules=["q_proj"],
        target_parameters=["experts.gate_up_proj", "experts.down_proj"],
        init_lora_weights=False,
    )
    policy = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config)
    handed = {name: weight.clone() for name, weight in policy_weights(policy)}
    merged = dict(policy.merge_and_unload().named_parameters())
    assert handed.keys() == merged.keys()
    for name, weight in merged.items():
        torch.testing.assert_close(handed[name], weight.detach(), atol=1e-6, rtol=1e-5)
