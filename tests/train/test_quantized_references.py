# SPDX-License-Identifier: Apache-2.0
"""The models beside a trained one: each is quantized as its own key says, and by no other."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from llamafactory.data.template_loader import get_template
from llamafactory.hparams import get_train_args
from llamafactory.model import load_model, load_tokenizer, make_reference
from llamafactory.model.quantizers.layers import is_quantized
from llamafactory.train.rl.rewards.reward_model import load_reward_model

from .conftest import Keys
from .pairs import pair_set
from .running import log_of, train

pytest.importorskip("bitsandbytes")


@pytest.mark.parametrize("more", [{"bf16": True}, {"cache_ref_log_probs": False, "quantization_bit": 8}], ids=str)
def test_a_quantized_policy_starts_as_its_own_reference(keys: Keys, tmp_path: Path, more: dict[str, Any]) -> None:
    given = keys(**pair_set(tmp_path), **{"stage": "dpo", "quantization_bit": 4, "max_steps": 3} | more)
    rows = [row for row in log_of(train(given)) if "loss" in row]
    assert rows[0]["rewards/margins"] == 0.0 != rows[-1]["rewards/margins"]
    assert math.isclose(rows[0]["loss"], math.log(2), rel_tol=1e-6)


@pytest.mark.parametrize(("policy_bits", "reference_bits"), [(None, 4), (4, None), (8, 4)])
def test_the_reference_has_bits_of_its_own(
    keys: Keys, tiny_llama: Path, tmp_path: Path, policy_bits: int | None, reference_bits: int | None
) -> None:
    bits = {"quantization_bit": policy_bits, "ref_model_quantization_bit": reference_bits}
    args = get_train_args(keys(**pair_set(tmp_path), stage="dpo", ref_model=str(tiny_llama), **bits))
    tokenizer = load_tokenizer(args.model)
    policy = load_model(tokenizer, args)
    reference = make_reference(policy, tokenizer, args)
    assert reference is not None
    assert (is_quantized(policy), is_quantized(reference)) == (policy_bits is not None, reference_bits is not None)


@pytest.mark.parametrize("bits", [None, 8])
def test_the_reward_model_has_bits_of_its_own(keys: Keys, tiny_llama: Path, tmp_path: Path, bits: int | None) -> None:
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_pretrained(tiny_llama, num_labels=1).save_pretrained(tmp_path / "scores")
    args = get_train_args(
        keys(
            stage="ppo", quantization_bit=4, reward_model=str(tmp_path / "scores"), reward_model_type="full",
            reward_model_quantization_bit=bits, max_new_tokens=8,
        )
    )  # fmt: skip
    tokenizer = load_tokenizer(args.model)
    tokenizer.save_pretrained(tmp_path / "scores")
    reward: Any = load_reward_model(args, tokenizer, get_template(tokenizer, args.data), None)
    assert is_quantized(reward._model) == (bits is not None)
    assert reward._model.score.weight.is_floating_point()
