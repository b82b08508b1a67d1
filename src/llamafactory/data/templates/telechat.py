# SPDX-License-Identifier: Apache-2.0
"""TeleChat 2."""

from ..template.chat_template import ChatTemplate

telechat2 = ChatTemplate(
    name="telechat2",
    default_system=(
        "你是中国电信星辰语义大模型，英文名是TeleChat，你是由中电信人工智能科技有限公司和中国电信人工智能研究院（TeleAI）"
        "研发的人工智能助手。"
    ),
    system="<_system>{{content}}",
    user="<_user>{{content}}",
    generation="<_bot>",
    assistant="{{content}}<_end>",
    tool="<_tool>{{content}}",
    eos="<_end>",
    stop=("<_end>",),
    special_tokens=("<_system>", "<_user>", "<_bot>", "<_end>"),
)
