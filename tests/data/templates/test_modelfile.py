# SPDX-License-Identifier: Apache-2.0
"""The Modelfile of every named template, read by Ollama's documented grammar and executed as Go does it."""

from __future__ import annotations

from typing import Any

import pytest

from llamafactory.data.messages import Message, Part
from llamafactory.export.ollama import modelfile
from llamafactory.extras.errors import ConfigError
from llamafactory.plugins import TEMPLATES, resolve

from .binding import bind
from .go_template import execute, read_modelfile
from .trained_tokenizers import build_tokenizer

CHATS = {
    "one turn": [("user", "Hi {there}")],
    "a system text": [("system", "Be brief."), ("user", "Hi")],
    "turns": [("user", "Hi"), ("assistant", "Hello."), ("user", "And?")],
    "all": [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello."), ("user", "And?")],
}


def as_ollama(chat: list[tuple[str, str]], default_system: str) -> dict[str, Any]:
    """What Ollama gives a template: system texts joined beside the messages, or the SYSTEM of the Modelfile."""
    system = "\n\n".join(text for role, text in chat if role == "system") or default_system
    return {"System": system, "Messages": [{"Role": role, "Content": text} for role, text in chat]}


PLAIN = [(name, {}) for name in sorted(TEMPLATES)]
ASKED = [
    (name, {"enable_thinking": True, "asked": True})
    for name in sorted(TEMPLATES)
    if resolve("templates", name).asked_prompt is not None
]


@pytest.mark.parametrize(("name", "flags"), [*PLAIN, *ASKED], ids=str)
def test_modelfile(name: str, flags: dict[str, Any]) -> None:
    template = bind(build_tokenizer(name), name, **flags)
    found = read_modelfile(modelfile(template, num_ctx=8192, weights="./model-F16.gguf"))
    values = {one.name: one.value for one in found}
    assert values["FROM"] == "./model-F16.gguf"
    assert values.get("SYSTEM", "") == (template.chat.default_system or "")
    stops = [one.value for one in found if one.parameter == "stop"]
    assert stops == list(dict.fromkeys(stops)) and template.tokenizer.eos_token in stops
    assert [one.value for one in found if one.parameter == "num_ctx"] == ["8192"]
    bos = template.tokenizer.bos_token or ""
    # Ollama writes the BOS before everything; one that only opens a turn of the format is the template's.
    first = template.chat.prefix or ("" if template.chat.merge_system is None else template.chat.user)
    by_ollama = bool(bos) and first.startswith(bos)
    compared = 0
    for chat in CHATS.values():
        messages = [Message(role, (Part("text", text),)) for role, text in chat]  # type: ignore[arg-type]
        try:
            ours = template.render(messages, add_generation_prompt=True)
        except ConfigError:
            continue
        theirs = execute(values["TEMPLATE"], as_ollama(chat, values.get("SYSTEM", "")))
        assert theirs == (ours.removeprefix(bos) if by_ollama else ours)
        compared += 1
    assert compared >= 2
