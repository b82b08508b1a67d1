# SPDX-License-Identifier: Apache-2.0
"""GPT-OSS (Harmony): thoughts and answers go to channels; the date is frozen, as a trained text cannot follow the calendar."""

from ..template.chat_template import ChatTemplate

_IDENTITY = (
    "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
    "Knowledge cutoff: 2024-06\nCurrent date: 2025-08-05\n\nReasoning: medium\n\n"
)
_CHANNELS = "# Valid channels: analysis, commentary, final. Channel must be included for every message."

gpt_oss = ChatTemplate(
    name="gpt_oss",
    prefix=_IDENTITY + _CHANNELS + "<|end|>",
    prefix_with_tools=_IDENTITY
    + _CHANNELS
    + "\nCalls to these tools must go to the commentary channel: 'functions'.<|end|>",
    system="<|start|>developer<|message|># Instructions\n\n{{content}}\n\n<|end|>",
    first_system_with_tools="<|start|>developer<|message|># Instructions\n\n{{content}}<|end|>",
    tools_alone="<|start|>developer<|message|>{{content}}<|end|>",
    skip_empty_system=True,
    user="<|start|>user<|message|>{{content}}<|end|>",
    generation="<|start|>assistant",
    text_start="<|channel|>final<|message|>",
    assistant="{{content}}<|end|>",
    end="<|return|>",
    calls_end="<|call|>",
    tool="<|start|>functions.{{name}} to=assistant<|channel|>commentary<|message|>{{json}}<|end|>",
    tool_format="gpt_oss",
    tools_join="\n\n",
    thought=("<|channel|>analysis<|message|>", "<|end|><|start|>assistant"),
    empty_thought="never",
    no_thought_prompt="",
    eos="<|return|>",
    stop=("<|return|>", "<|call|>"),
    special_tokens=("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>"),
)
