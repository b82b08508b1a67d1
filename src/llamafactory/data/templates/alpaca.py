# SPDX-License-Identifier: Apache-2.0
"""The prompt of Stanford Alpaca."""

from ..template.chat_template import ChatTemplate

alpaca = ChatTemplate(
    name="alpaca",
    prefix="{{auto_bos}}",
    default_system=(
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    ),
    system="{{content}}\n\n",
    user="### Instruction:\n{{content}}\n\n",
    generation="### Response:\n",
    gap="\n\n",
    tool="### Observation:\n{{content}}\n\n",
)
