# SPDX-License-Identifier: Apache-2.0
"""Families whose official template no package brings: the prompts that the documentation of transformers shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ..templates.binding import bind
from .proofs import DOCUMENTED, provable
from .test_families import array, film, ours, picture, turn

FAMILIES = provable(DOCUMENTED)
SYSTEM = "A chat between a curious human and an artificial intelligence assistant."
QUESTION = "What is shown in this image?"
# Without BOS, which the tokenizer writes.
PROMPTS = {
    "llava": f"{SYSTEM} USER: {{medium}}\n{QUESTION} ASSISTANT:",
    "llava_next": f"{SYSTEM} USER: {{medium}}\n{QUESTION} ASSISTANT:",
    "llava_next_video": f"{SYSTEM} USER: {{medium}}\n{QUESTION} ASSISTANT:",
    "video_llava": f"{SYSTEM} USER: {{medium}}\n{QUESTION} ASSISTANT:",
    "llava_next_llama3": (
        f"<|start_header_id|>system<|end_header_id|>\n\n{SYSTEM}<|eot_id|>"
        f"<|start_header_id|>user<|end_header_id|>\n\n{{medium}}\n{QUESTION}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "llava_next_qwen": (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{{medium}}\n{QUESTION}<|im_end|>\n"
        "<|im_start|>assistant\n"
    ),
    "llava_next_yi": (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{{medium}}\n{QUESTION}<|im_end|>\n"
        "<|im_start|>assistant\n"
    ),
    "paligemma": f"{{medium}}{QUESTION}",
}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, one in FAMILIES.items() for kind in one.kinds])
def test_the_documented_prompt(name: str, kind: str) -> None:
    processor = FAMILIES[name].processor()
    template = bind(processor.tokenizer, name)
    medium = {"image": picture, "video": film}[kind](1)
    system = [] if name == "paligemma" else [turn("system", SYSTEM)]
    found = ours(template, processor, [*system, turn("user", QUESTION, medium)])
    bos = processor.tokenizer.bos_token if name == "llava_next_llama3" else ""
    given: dict[str, Any] = {"images": [medium]} if kind == "image" else {"videos": [medium], "do_sample_frames": False}
    text = bos + PROMPTS[name].format(medium=f"<{kind}>")
    theirs = processor(text=[text], return_tensors="pt", add_special_tokens=False, **given)
    assert found.ids == theirs["input_ids"][0].tolist()
    rest = set(theirs) - {"input_ids", "attention_mask", "labels"}
    assert rest == set(found.inputs)
    for key in rest:
        np.testing.assert_array_equal(array(found.inputs[key]), array(theirs[key]))
