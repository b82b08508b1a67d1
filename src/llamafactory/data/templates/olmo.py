# SPDX-License-Identifier: Apache-2.0
"""OLMo: EOS serves as the start token, too; OLMo 2 has a start token of its own, which is the same."""

from dataclasses import replace

from ..template.chat_template import ChatTemplate

olmo = ChatTemplate(
    name="olmo",
    bos_eos=("", "<|endoftext|>"),
    prefix="{{eos}}",
    system="{{content}}\n",
    user="<|user|>\n{{content}}\n",
    generation="<|assistant|>\n",
    assistant="{{content}}{{eos}}",
    gap="\n",
    tool="<|tool|>\n{{content}}\n",
)

olmo2 = replace(olmo, name="olmo2", prefix="{{bos}}", system="<|system|>\n{{content}}\n")
