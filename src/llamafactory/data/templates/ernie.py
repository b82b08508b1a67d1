# SPDX-License-Identifier: Apache-2.0
"""ERNIE 4.5 of Baidu: without thoughts (4.5), the thinking models, and the vision models (their text part)."""

from dataclasses import replace

from ..template.chat_template import ChatTemplate
from .chatml import chatml

ernie_nothink = ChatTemplate(
    name="ernie_nothink",
    prefix="<|begin_of_sentence|>",
    system="{{content}}\n",
    user="User: {{content}}\n",
    generation="Assistant: ",
    assistant="{{content}}<|end_of_sentence|>",
    tool="Tool: {{content}}\n",
    stop=("<|end_of_sentence|>",),
    special_tokens=("<|begin_of_sentence|>", "<|end_of_sentence|>"),
)

ernie_vl = replace(
    ernie_nothink,
    name="ernie_vl",
    user="User: {{content}}",
    generation="\nAssistant: ",
    tool="\nTool: {{content}}",
    thought=("<think>\n", "\n</think>\n\n"),
    keep_thoughts=True,
    empty_thought="never",
    thought_prompt="<think>",
    eos="<|end_of_sentence|>",
    media="ernie_vl",
)

ernie = replace(
    chatml,
    name="ernie",
    gap="\n\n",
    system="<|im_start|>system\n{{content}}<|im_end|>\n\n",
    user="<|im_start|>user\n{{content}}<|im_end|>\n\n",
    tool="<|im_start|>tool\n{{content}}<|im_end|>\n\n",
    default_system="<global_setting>\nthink_mode=True\n</global_setting>",
)
