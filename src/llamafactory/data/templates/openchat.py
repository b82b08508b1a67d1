# SPDX-License-Identifier: Apache-2.0
"""OpenChat 3.5 and 3.6."""

from ..template.chat_template import ChatTemplate

openchat = ChatTemplate(
    name="openchat",
    prefix="{{bos}}",
    system="GPT4 Correct System: {{content}}<|end_of_turn|>",
    user="GPT4 Correct User: {{content}}<|end_of_turn|>",
    generation="GPT4 Correct Assistant:",
    assistant=" {{content}}<|end_of_turn|>",
    tool="GPT4 Correct Tool: {{content}}<|end_of_turn|>",
    eos="<|end_of_turn|>",
    stop=("<|end_of_turn|>",),
    special_tokens=("<|end_of_turn|>",),
)

openchat_3_6 = ChatTemplate(
    name="openchat-3.6",
    bos_eos=("<|begin_of_text|>", "<|eot_id|>"),
    prefix="{{bos}}",
    system="<|start_header_id|>System<|end_header_id|>\n\n{{content}}<|eot_id|>",
    user="<|start_header_id|>GPT4 Correct User<|end_header_id|>\n\n{{content}}<|eot_id|>",
    generation="<|start_header_id|>GPT4 Correct Assistant<|end_header_id|>\n\n",
    assistant="{{content}}<|eot_id|>",
    tool="<|start_header_id|>GPT4 Correct Tool<|end_header_id|>\n\n{{content}}<|eot_id|>",
    strip=("system", "user", "assistant", "tool"),
    eos="<|eot_id|>",
    stop=("<|eot_id|>",),
    special_tokens=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)
