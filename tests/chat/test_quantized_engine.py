# SPDX-License-Identifier: Apache-2.0
"""Answers over weights in few bits are those of stock PEFT over the same weights made dense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from llamafactory.chat.chat_model import ChatModel
from llamafactory.extras.errors import ConfigError

functional = pytest.importorskip("bitsandbytes").functional
QUESTION = [{"role": "user", "content": "who are you?"}]
KEYS = {"template": "chatml", "quantization_bit": 4, "infer_dtype": "float32", "do_sample": False, "max_new_tokens": 24}


@pytest.fixture(scope="module")
def adapter(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes what is answered."""
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    config = LoraConfig(target_modules="all-linear", init_lora_weights=False, lora_alpha=32)
    get_peft_model(model, config).save_pretrained(folder)
    return folder


def dense(folder: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            packed = functional.quantize_4bit(module.weight.detach(), quant_type="nf4", compress_statistics=True)
            module.weight = nn.Parameter(functional.dequantize_4bit(*packed), requires_grad=False)
    return model


def greedy(model: Any, folder: Path) -> str:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        ids = model.generate(**prompt, do_sample=False, max_new_tokens=24)
    return tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)


def test_an_adapter_beside_quantized_weights(tiny_llama: Path, adapter: Path) -> None:
    wanted = greedy(PeftModel.from_pretrained(dense(tiny_llama), adapter), tiny_llama)
    plain = greedy(dense(tiny_llama), tiny_llama)
    assert wanted != plain
    base = {"model_name_or_path": str(tiny_llama), **KEYS}
    model = ChatModel(base | {"adapter_name_or_path": str(adapter)})
    assert model.engine._batches, "requests share forward passes, as over full weights"
    assert [model.chat(QUESTION)[0].text for _ in range(2)] == [wanted] * 2
    named = ChatModel(base | {"lora_modules": f"mine={adapter}"})
    assert named.chat(QUESTION)[0].text == plain
    assert named.chat(QUESTION, adapter="mine")[0].text == wanted


def test_an_adapter_that_takes_a_part_of_whole_weights_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    """Nothing can be taken out of weights in few bits, nor of a base that others stand on."""
    config = LoraConfig(target_modules="all-linear", init_lora_weights="pissa")
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_llama), config).save_pretrained(tmp_path)
    base = {"model_name_or_path": str(tiny_llama), **KEYS}
    with pytest.raises(ConfigError, match=r"began as a part of whole weights \(pissa\), not of weights in few bits"):
        ChatModel(base | {"adapter_name_or_path": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"^lora_modules: .*takes a part out of the base"):
        ChatModel(base | {"lora_modules": f"mine={tmp_path}", "quantization_bit": None})
