# SPDX-License-Identifier: Apache-2.0
"""DeepSeek LLM and V2, V2.5 and V3, R1 and its distillations."""

from dataclasses import replace

from ..template.chat_template import ChatTemplate

deepseek = ChatTemplate(
    name="deepseek",
    bos_eos=("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    prefix="{{bos}}",
    system="{{content}}\n\n",
    user="User: {{content}}\n\n",
    generation="Assistant:",
    assistant=" {{content}}{{eos}}",
    tool="User: {{content}}\n\n",
)

deepseek3 = ChatTemplate(
    name="deepseek3",
    bos_eos=("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    prefix="{{bos}}",
    user="<｜User｜>{{content}}",
    generation="<｜Assistant｜>",
    assistant="{{content}}{{eos}}",
    gather_system="\n\n",
    tool_open="<｜tool▁outputs▁begin｜>",
    tool="<｜tool▁output▁begin｜>{{content}}<｜tool▁output▁end｜>",
    tool_join="\n",
    tool_close="<｜tool▁outputs▁end｜>",
    generation_after_tool="",
    tool_format="deepseek",
    special_tokens=("<｜User｜>", "<｜Assistant｜>"),
)

deepseekr1 = replace(
    deepseek3, name="deepseekr1", thought=("<think>\n", "\n</think>\n\n"), thought_prompt="<think>\n", tool_join=""
)

deepseekr1_0528 = replace(deepseekr1, name="deepseekr1_0528", thought_prompt="", tool_join="\n")

# A hybrid: as officially, the prompt lets it think only where the caller asks for it.
deepseek3_1 = replace(
    deepseekr1,
    name="deepseek3_1",
    thought=("<think>", "</think>"),
    no_thought="<think></think>",
    thought_prompt="<think></think>",
    asked_prompt="<think>",
    tool_open="",
    tool_close="",
    tool_format="deepseek3_1",
)

deepseekcoder = ChatTemplate(
    name="deepseekcoder",
    bos_eos=("<｜begin▁of▁sentence｜>", "<|EOT|>"),
    prefix="{{bos}}",
    default_system=(
        "You are an AI programming assistant, utilizing the Deepseek Coder model, developed by Deepseek Company, and you "
        "only answer questions related to computer science. For politically sensitive questions, security and privacy "
        "issues, and other non-computer science questions, you will refuse to answer\n"
    ),
    user="### Instruction:\n{{content}}\n",
    generation="### Response:\n",
    assistant="{{content}}\n<|EOT|>",
    gap="\n",
    tool="### Response:\n{{content}}\n<|EOT|>\n",
    eos="<|EOT|>",
    stop=("<|EOT|>",),
    special_tokens=("<|EOT|>",),
)
