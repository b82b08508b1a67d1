# SPDX-License-Identifier: Apache-2.0
"""Command R of Cohere."""

from ..template.chat_template import ChatTemplate

cohere = ChatTemplate(
    name="cohere",
    bos_eos=("<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"),
    prefix="{{bos}}",
    system="<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{{content}}<|END_OF_TURN_TOKEN|>",
    user="<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{{content}}<|END_OF_TURN_TOKEN|>",
    generation="<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    assistant="{{content}}<|END_OF_TURN_TOKEN|>",
    tool="<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{{content}}<|END_OF_TURN_TOKEN|>",
    strip=("user", "assistant"),
    eos="<|END_OF_TURN_TOKEN|>",
    stop=("<|END_OF_TURN_TOKEN|>",),
    special_tokens=(
        "<|START_OF_TURN_TOKEN|>",
        "<|END_OF_TURN_TOKEN|>",
        "<|SYSTEM_TOKEN|>",
        "<|USER_TOKEN|>",
        "<|CHATBOT_TOKEN|>",
    ),
)
