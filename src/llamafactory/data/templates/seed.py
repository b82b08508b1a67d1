# SPDX-License-Identifier: Apache-2.0
"""Seed-Coder and Seed-OSS of ByteDance: BOS and EOS around every turn."""

from ..template.chat_template import ChatTemplate

seed_coder = ChatTemplate(
    name="seed_coder",
    bos_eos=("<[begin▁of▁sentence]>", "<[end▁of▁sentence]>"),
    default_system=(
        "You are an AI programming assistant, utilizing the Seed-Coder model, developed by ByteDance Seed, and you only "
        "answer questions related to computer science. For politically sensitive questions, security and privacy issues, "
        "and other non-computer science questions, you will refuse to answer.\n\n"
    ),
    system="{{bos}}system\n{{content}}{{eos}}",
    user="{{bos}}user\n{{content}}{{eos}}",
    generation="{{bos}}assistant\n",
    tool="{{bos}}tool\n{{content}}{{eos}}",
    strip=("system", "user", "assistant", "tool"),
)

seed_oss = ChatTemplate(
    name="seed_oss",
    bos_eos=("<seed:bos>", "<seed:eos>"),
    system="{{bos}}system\n{{content}}{{eos}}",
    user="{{bos}}user\n{{content}}{{eos}}",
    generation="{{bos}}assistant\n",
    tool="{{bos}}tool\n{{content}}{{eos}}",
    tool_format="seed_oss",
    tools_join="",
    tools_alone=(
        "{{bos}}system\nYou are Doubao, a helpful AI assistant. You may call one or more functions to assist with the user "
        "query.{{content}}{{eos}}"
    ),
    thought=("<seed:think>", "</seed:think>\n"),
    keep_thoughts=True,
    empty_thought="never",
    strip=("assistant", "thought"),
)
