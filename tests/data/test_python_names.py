# SPDX-License-Identifier: Apache-2.0
"""What people's scripts import from the data room."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from llamafactory.data import TEMPLATES, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args


def test_templates_by_name() -> None:
    assert len(TEMPLATES) > 100 and {"qwen3", "llama3", "default"} <= set(TEMPLATES)
    assert "<|im_start|>user" in TEMPLATES["qwen3"].user and TEMPLATES.get("no such template") is None
    with pytest.raises(KeyError):
        TEMPLATES["no such template"]


def test_the_tokenizer_gets_the_template_s_end_token(tiny_llama: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    keys = {"model_name_or_path": str(tiny_llama), "dataset": "d", "template": "qwen3", "output_dir": "never"}
    template = get_template_and_fix_tokenizer(tokenizer, get_train_args(keys).data)
    assert tokenizer.eos_token == "<|im_end|>" and template.name == "qwen3"
