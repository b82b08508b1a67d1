# SPDX-License-Identifier: Apache-2.0
"""InternLM 2 and 3, Intern-S1 and InternVL: ChatML with a start token."""

from dataclasses import replace

from .chatml import chatml

intern2 = replace(chatml, name="intern2", prefix="{{bos}}")

intern_vl = replace(
    chatml,
    name="intern_vl",
    default_system=(
        "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
    ),
    media="intern_vl",
)

intern_s1 = replace(
    chatml,
    name="intern_s1",
    default_system=(
        "You are an expert reasoner with extensive experience in all areas. You approach problems through systematic "
        "thinking and rigorous reasoning. Your response should reflect deep understanding and precise logical thinking, "
        "making your solution path and reasoning clear to others. Please put your thinking process within "
        "<think>...</think> tags."
    ),
    first_system_with_tools="<|im_start|>system name=<|plugin|>\n{{content}}<|im_end|>\n",
    tool="<|im_start|>environment name=<|plugin|>\n{{content}}<|im_end|>\n",
    tool_format="intern_s1",
    thought=("<think>\n", "\n</think>\n"),
    empty_thought="open",
    thought_prompt="<think>",
    skip_empty_system=True,
    strip=("answer",),
    no_thought_prompt="",
    special_tokens=("<|im_start|>", "<|im_end|>", "<|action_start|>", "<|action_end|>", "<|plugin|>"),
    media="intern_s1",
)
