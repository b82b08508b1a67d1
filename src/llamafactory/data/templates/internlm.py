# SPDX-License-Identifier: Apache-2.0
"""InternLM 2 and 3, Intern-S1 and InternVL: ChatML with a start token."""

from dataclasses import replace

from .chatml import chatml

intern2 = replace(chatml, name="intern2", prefix="{{bos}}")

intern_vl = replace(
    chatml,
    name="intern_vl",
    default_system=(
        "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
    ),
)

intern_s1 = replace(chatml, name="intern_s1", prefix="{{bos}}")
