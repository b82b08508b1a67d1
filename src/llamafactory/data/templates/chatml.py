# SPDX-License-Identifier: Apache-2.0
"""ChatML, the format of many families; those with a default system text of their own are in their files."""

from dataclasses import replace

from ..template.chat_template import ChatTemplate

chatml = ChatTemplate(
    name="chatml",
    system="<|im_start|>system\n{{content}}<|im_end|>\n",
    user="<|im_start|>user\n{{content}}<|im_end|>\n",
    generation="<|im_start|>assistant\n",
    assistant="{{content}}<|im_end|>",
    gap="\n",
    tool="<|im_start|>tool\n{{content}}<|im_end|>\n",
    stop=("<|im_end|>",),
    eos="<|im_end|>",
    special_tokens=("<|im_start|>", "<|im_end|>"),
)

chatml_de = replace(chatml, name="chatml_de", default_system="Du bist ein freundlicher und hilfsbereiter KI-Assistent.")
