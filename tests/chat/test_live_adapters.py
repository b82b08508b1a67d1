# SPDX-License-Identifier: Apache-2.0
"""Adapters that no weight can hold answer in chat as PEFT's own model does; what vLLM does not take is said."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, OSFConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, VeraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from llamafactory.chat.chat_model import ChatModel
from llamafactory.chat.vllm_engine import merged_first
from llamafactory.eval.multiple_choice import _last_logits
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_infer_args
from llamafactory.model.adapter_config import read_adapter_values
from llamafactory.model.vllm_adapter import require_for_vllm, why_not_in_vllm

QUESTION = [{"role": "user", "content": "Who are you?"}]
CONFIGS = {
    "prompt": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=6),
    "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=6),
    "osf": OSFConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]),
}


def adapter(model: Path, folder: Path, config: Any) -> Path:
    """By PEFT, with weights that show."""
    torch.manual_seed(3)
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    with torch.no_grad():
        for weight in tuned.parameters():
            if weight.requires_grad:
                weight.add_(0.5 * torch.randn_like(weight))
    tuned.save_pretrained(folder)
    return folder


@torch.no_grad()
def greedy(model: Path, folder: Path, length: int) -> list[int]:
    """Token by token through PEFT's forward, without a cache."""
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False)
    answer: list[int] = []
    for _ in range(length):
        answer.append(int(tuned(input_ids=torch.tensor([ids + answer])).logits[0, -1].argmax()))
    return answer


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.filterwarnings("ignore")
def test_an_answer_is_that_of_pefts_model(kind: str, tiny_llama: Path, tmp_path: Path) -> None:
    folder = adapter(tiny_llama, tmp_path / "adapter", CONFIGS[kind])
    chat = ChatModel(
        get_infer_args({
            "model_name_or_path": str(tiny_llama), "adapter_name_or_path": str(folder), "template": "chatml",
            "infer_dtype": "float32", "do_sample": False, "max_new_tokens": 12, "skip_special_tokens": False,
        })
    )  # fmt: skip
    (found,) = chat.chat(QUESTION)
    expected = AutoTokenizer.from_pretrained(tiny_llama).decode(greedy(tiny_llama, folder, found.response_length))
    assert found.text == expected.removesuffix("<|im_end|>")
    model = chat.engine.model
    rows = [[5, 17, 80], [3, 44, 261, 9, 120, 6]]
    batched, alone = _last_logits(model, rows, 0), torch.cat([_last_logits(model, [row], 0) for row in rows])
    assert torch.allclose(batched, alone, atol=1e-5), "eval pads on the left"
    if kind != "osf":
        with pytest.raises(ConfigError, match="embeddings are of texts alone, without the trained prompt"):
            asyncio.run(chat.engine.embed(["who"]))
    chat.engine.close()


LORA = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj"]}


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (LoraConfig(**LORA), None),
        (LoraConfig(**LORA, init_lora_weights="gaussian", use_rslora=True), None),
        (LoraConfig(**LORA, use_dora=True), "DoRA"),
        (LoraConfig(**LORA, init_lora_weights="olora"), "adapters that begin as olora"),
        (LoraConfig(**LORA, init_lora_weights="pissa_niter_4"), "adapters that begin as pissa"),
        (LoraConfig(**LORA, lora_bias=True), "trained biases"),
        (LoraConfig(**LORA, modules_to_save=["norm"]), "modules trained whole"),
        (LoraConfig(**LORA, trainable_token_indices=[5]), "trained rows of tokens"),
        (LoraConfig(**LORA, r=64), "ranks above vllm_max_lora_rank: 32 (this one needs 64)"),
        (LoraConfig(**LORA, rank_pattern={"layers.1": 40}), "ranks above vllm_max_lora_rank: 32 (this one needs 40)"),
        (VeraConfig(**LORA), "adapters of type VERA"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore")
def test_what_vllm_does_not_take_is_said_before_it_loads(
    config: Any, why: str | None, tiny_llama: Path, tmp_path: Path
) -> None:
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_llama), config).save_pretrained(tmp_path)
    found = why_not_in_vllm(read_adapter_values(tmp_path), 32)
    assert found is None if why is None else str(found).startswith(why)
    if why is None:
        require_for_vllm(tmp_path, "lora_modules", 32)
        return
    with pytest.raises(ConfigError, match=r"^lora_modules: '.*': vllm does not take .*; infer_backend: huggingface"):
        require_for_vllm(tmp_path, "lora_modules", 32)


@pytest.mark.parametrize(
    "configs",
    [
        [LoraConfig(**LORA, use_dora=True)],
        [LoraConfig(**LORA, modules_to_save=["norm"])],
        [VeraConfig(**LORA)],
        [LoraConfig(**LORA), LoraConfig(**LORA, r=4)],
    ],
    ids=["dora", "whole modules", "vera", "two"],
)
@pytest.mark.filterwarnings("ignore")
def test_what_vllm_does_not_take_is_merged_before_it_loads(configs: Any, tiny_llama: Path, tmp_path: Path) -> None:
    folders = [adapter(tiny_llama, tmp_path / str(number), config) for number, config in enumerate(configs)]
    args = vllm_args(tiny_llama, folders)
    merged = merged_first(args, tmp_path / "merged")
    assert merged.model.adapter_name_or_path is None and merged.model.model_name_or_path == str(tmp_path / "merged")
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_llama)
    for folder in folders:
        model = PeftModel.from_pretrained(model, folder).merge_and_unload()
    ids = torch.tensor([[5, 17, 80, 3]])
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()(input_ids=ids).logits
        torch.testing.assert_close(found, model.eval()(input_ids=ids).logits, rtol=0, atol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template
    with pytest.raises(ConfigError, match=r"^lora_modules: vllm does not take .*, so adapter_name_or_path is merged"):
        merged_first(vllm_args(tiny_llama, folders, lora_modules=f"a={folders[0]}"), tmp_path / "again")


@pytest.mark.filterwarnings("ignore")
def test_what_vllm_takes_stays_beside_its_base(tiny_llama: Path, tmp_path: Path) -> None:
    plain = vllm_args(tiny_llama, [adapter(tiny_llama, tmp_path / "plain", LoraConfig(**LORA))])
    assert merged_first(plain, tmp_path / "merged") is plain and not (tmp_path / "merged").exists()
    prompt = vllm_args(tiny_llama, [adapter(tiny_llama, tmp_path / "prompt", CONFIGS["prompt"])])
    with pytest.raises(ConfigError, match="of type PROMPT_TUNING, which cannot be merged into the weights"):
        merged_first(prompt, tmp_path / "merged")


def vllm_args(model: Path, adapters: list[Path], **more: Any) -> Any:
    return get_infer_args({
        "model_name_or_path": str(model), "adapter_name_or_path": ",".join(map(str, adapters)), "template": "chatml",
        "infer_backend": "vllm", "infer_dtype": "float32", **more,
    })  # fmt: skip
