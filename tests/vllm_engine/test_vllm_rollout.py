# SPDX-License-Identifier: Apache-2.0
"""Rollouts by the real vLLM: needs an environment that has it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llamafactory.data.messages import Message
from llamafactory.data.template_loader import get_template
from llamafactory.hparams import get_train_args
from llamafactory.model import load_model, load_tokenizer
from llamafactory.train.rl.rollouts.hf_rollout import HuggingfaceRollout
from llamafactory.train.rl.rollouts.rollout import Request, sampling_of
from llamafactory.train.rl.rollouts.vllm_rollout import VllmRollout

pytestmark = pytest.mark.vllm
QUESTIONS = ("What is 3 + 4?", "Name a river in Europe.", "Tell me a joke.")


def test_answers_are_those_of_the_policy_once_it_was_handed_over(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    args = get_train_args(
        {
            "model_name_or_path": str(smollm2), "template": "smollm2", "dataset": "none", "stage": "grpo",
            "reward_funcs": "length", "output_dir": str(tmp_path), "max_new_tokens": 16, "bf16": False,
            "disable_gradient_checkpointing": True, "vllm_maxlen": 256, "vllm_gpu_util": 0.08,
            "vllm_enforce_eager": True, "vllm_config": {"dtype": "float32"},
        }
    )  # fmt: skip
    tokenizer = load_tokenizer(args.model)
    template = get_template(tokenizer, args.data)
    policy = load_model(tokenizer, args)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.03, generator=generator)
    prompts = [template.encode_prompt([Message.of("user", question)]) for question in QUESTIONS]
    requests = [Request(ids, seed, 0, 16) for seed, ids in enumerate(prompts)]
    expected = HuggingfaceRollout(policy, template, sampling_of(args), args).generate(requests, greedy=True)
    engine = VllmRollout(policy, template, sampling_of(args), args)
    assert engine.generate(requests, greedy=True) != expected
    engine.sync()
    assert engine.generate(requests, greedy=True) == expected
    drawn = engine.generate(requests, greedy=False)
    assert drawn == engine.generate(requests, greedy=False) != expected
