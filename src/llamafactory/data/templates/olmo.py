# SPDX-License-Identifier: Apache-2.0
"""OLMo: EOS serves as the start token, too."""

from ..template import ChatTemplate

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
