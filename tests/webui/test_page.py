# SPDX-License-Identifier: Apache-2.0
"""The page, asked by gradio's own client: of the real engine, and of one that says what the test wrote."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from typing import Any

import httpx
import pytest
from scripted_engine import ScriptedEngine, until

from llamafactory.data.messages import Message, Part, ToolCall
from llamafactory.webui.chatting.conversation import message_at, shown
from llamafactory.webui.texts.texts import text

from .conftest import running

gradio_client = pytest.importorskip("gradio_client")

SETTINGS = {
    "role": "user",
    "system": "",
    "tools": "",
    "max_new_tokens": 24,
    "top_p": 0.7,
    "temperature": 0,
    "skip_special_tokens": True,
    "enable_thinking": True,
    "seed": -1,
    "escape_html": True,
    "language": "en",
}
LONG = {"max_new_tokens": 8000, "skip_special_tokens": False}
ADD = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]


def connect(url: str, **options: Any) -> Any:
    return gradio_client.Client(url, verbose=False, **options)


def values(question: Any, **changes: Any) -> list[Any]:
    return [question, *(SETTINGS | changes).values()]


def ask(client: Any, question: str, **changes: Any) -> tuple[list[dict], str, str]:
    """Return the bubbles, what stayed in the box, and the error line."""
    return client.predict(*values(question, **changes), api_name="/chat")


def texts(chat: list[dict]) -> list[tuple[str, str]]:
    return [(one["role"], "".join(part["text"] for part in one["content"])) for one in chat]


def titles(chat: list[dict]) -> list[str | None]:
    return [(one["metadata"] or {}).get("title") for one in chat]


def join(url: str, data: list[Any]) -> tuple[str, str]:
    """Send a question as a browser does; return the session and the event."""
    config = httpx.get(f"{url}/config").json()
    number = next(one["id"] for one in config["dependencies"] if one["api_name"] == "chat")
    session = uuid.uuid4().hex
    body = {"data": [None, *data], "fn_index": number, "session_hash": session, "event_data": None}
    answer = httpx.post(
        f"{url}/gradio_api/queue/join", content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 200, answer.text
    return session, answer.json()["event_id"]


def follow(url: str, session: str) -> list[dict]:
    """Read the events of a session to the end."""
    with httpx.stream("GET", f"{url}/gradio_api/queue/data", params={"session_hash": session}, timeout=30) as stream:
        return [json.loads(line.removeprefix("data: ")) for line in stream.iter_lines() if line.startswith("data: ")]


def test_answers_are_the_engine_s_and_the_conversation_goes_on(page, engine):
    client = connect(page)
    chat, left, error = ask(client, "Tell me of rivers", skip_special_tokens=False)
    expected = asyncio.run(
        engine.chat([Message.of("user", "Tell me of rivers")], do_sample=False, skip_special_tokens=False)
    )[0].text
    assert len(expected) > 20 and (left, error) == ("", "")
    assert texts(chat)[:2] == [("user", "Tell me of rivers"), ("assistant", expected.strip().replace("<", "&lt;"))]
    assert [title for title in titles(chat) if title] == [
        text("en", "chat.cut")
    ]  # it has as many tokens as were allowed
    chat, _, _ = ask(client, "And of stars?")
    assert [role for role, _ in texts(chat)] == [
        *["user", "assistant"] * 2,
        "assistant",
    ]  # the last says that it was cut
    assert connect(page).predict(*values("New"), api_name="/chat")[0][0]["content"][0]["text"] == "New"


def test_tabs_share_the_batch_and_stop_frees_their_places(page, engine):
    jobs = [connect(page).submit(*values("Count", **LONG), api_name="/chat") for _ in range(3)]
    until(lambda: engine.load == (3, 0))
    jobs[0].cancel()
    until(lambda: engine.load == (2, 0))
    for job in jobs[1:]:
        job.cancel()
    until(lambda: engine.load == (0, 0))
    assert ask(connect(page), "Still there?")[2] == ""


def test_a_closed_tab_frees_its_place(page, engine):
    session, _ = join(page, values("Count", **LONG))
    with httpx.stream("GET", f"{page}/gradio_api/queue/data", params={"session_hash": session}, timeout=30) as stream:
        lines = stream.iter_lines()
        until(lambda: "process_generating" in next(lines))
        assert engine.load == (1, 0)
    until(lambda: engine.load == (0, 0))


def test_a_conversation_that_does_not_fit_is_one_line_and_the_question_stays(page):
    client = connect(page)
    chat, left, error = ask(client, "long " * 20_000)
    assert left.startswith("long long") and chat == []
    assert error.startswith("**Error:** the conversation has ") and "\n" not in error
    assert ask(client, "short")[2] == ""


@pytest.fixture
def thinker(make_template, page_args):
    """Engine and address of a page whose model thinks and calls tools."""
    engine = ScriptedEngine(make_template("qwen3"))
    with running(engine, page_args) as url:
        yield engine, url


def test_a_thought_is_folded_away_and_opened_while_it_lasts(thinker):
    engine, url = thinker
    engine.pieces, engine.gate = ["<think>\nLet me", " see.\n</think>\n\n", "It is ", "four."], threading.Semaphore(1)
    client = connect(url)
    job = client.submit(*values("2 + 2?", temperature=0.5, system="Be brief."), api_name="/chat")
    until(lambda: len(job.outputs()) > 1)
    assert texts(job.outputs()[-1][0])[1] == ("assistant", "Let me")
    assert job.outputs()[-1][0][1]["metadata"]["status"] == "pending"
    engine.gate.release(3)
    chat, _, _ = job.result()
    assert texts(chat)[1:] == [("assistant", "Let me see."), ("assistant", "It is four.")]
    assert titles(chat) == [None, "Thought", None] and chat[1]["metadata"]["status"] == "done"
    messages, tools, overrides = engine.asked[0]
    assert messages == [Message.of("system", "Be brief."), Message.of("user", "2 + 2?")] and tools == []
    assert (overrides["temperature"], overrides["do_sample"], overrides["enable_thinking"]) == (0.5, True, True)
    engine.gate.release(4)
    ask(client, "Again?", enable_thinking=False)
    messages, _, overrides = engine.asked[1]
    assert [message.role for message in messages] == ["user", "assistant", "user"]
    assert (messages[1].reasoning, messages[1].text) == ("Let me see.", "It is four.")
    assert overrides["enable_thinking"] is False


def test_tools_are_called_and_answered(thinker):
    engine, url = thinker
    engine.pieces = ['<tool_call>\n{"name": "add", "argu', 'ments": {"a": "```\\n<b>"}}\n</tool_call>']
    client = connect(url)
    chat, _, error = ask(client, "Add", tools=json.dumps(ADD))
    assert error == "" and titles(chat) == [None, "Call of add"] and engine.asked[0][1] == ADD
    assert texts(chat)[1][1] == '````json\n{"a": "```\\n<b>"}\n````'
    engine.pieces = ["Three."]
    chat, _, _ = ask(client, "3", role="observation")
    assert titles(chat) == [None, "Call of add", "Tool result", None]
    messages = engine.asked[1][0]
    assert [message.role for message in messages] == ["user", "assistant", "tool"]
    (call,) = messages[1].tool_calls
    assert ToolCall(call.name, json.loads(call.arguments)) == ToolCall("add", {"a": "```\n<b>"})


@pytest.mark.parametrize("tools", ["{", '{"name": "f"}', "[1]", "[" * 100_000, "null"])
def test_tools_that_are_none_are_one_line(thinker, tools):
    engine, url = thinker
    chat, left, error = ask(connect(url), "Add", tools=tools)
    assert (chat, left) == ([], "Add") and error.startswith("**Error:** tools: ") and "\n" not in error
    assert engine.asked == [] and len(error) < 300


def test_a_stopped_answer_stays_as_far_as_it_came(thinker):
    engine, url = thinker
    engine.pieces, engine.gate = ["One", " two", " three"], threading.Semaphore(2)
    client = connect(url)
    job = client.submit(*values("Count"), api_name="/chat")
    until(lambda: len(job.outputs()) > 1)
    assert engine.open == 1
    job.cancel()
    until(lambda: engine.open == 0)
    engine.gate = None
    chat, _, _ = ask(client, "Go on")
    assert texts(chat)[1][1].startswith("One") and "three" not in texts(chat)[1][1]
    assert client.predict(api_name="/clear") == ([], "")
    ask(client, "Fresh")
    assert [message.text for message in engine.asked[-1][0]] == ["Fresh"]


def test_a_bubble_leads_to_its_message():
    said = [
        Message.of("user", "a"),
        Message("assistant", (Part("text", "b"),), (ToolCall("f", "{}"),), "hm"),
        Message.of("tool", "c"),
        Message.of("assistant", "d"),
        Message.of("user", "e"),
    ]
    assert [message_at(said, bubble) for bubble in range(len(shown(said)))] == [0, 1, 1, 1, 2, 3, 4]
    assert message_at(said, 7) is message_at(said, -1) is message_at(said, [0, 1]) is message_at(said, None) is None


def test_a_failure_of_the_model_tells_nothing_and_the_page_lives_on(thinker):
    engine, url = thinker
    engine.error = RuntimeError("/secret/path exploded")
    with pytest.raises(gradio_client.exceptions.AppError) as caught:
        ask(connect(url), "Hi")
    assert "secret" not in str(caught.value) and engine.open == 0
    engine.error = None
    assert texts(ask(connect(url), "Hi")[0])[1][1] == "ab"


HOSTILE = [
    {"temperature": "hot"},
    {"temperature": -1},
    {"top_p": float("inf")},
    {"top_p": 0},
    {"max_new_tokens": 10**12},
    {"max_new_tokens": None},
    {"role": "system"},
    {"role": ["user"]},
    {"system": {"name": "/etc/passwd"}},
    {"tools": ["/etc/passwd"]},
    {"enable_thinking": [[[]]]},
]


@pytest.mark.parametrize("changes", HOSTILE, ids=str)
def test_hostile_values_are_refused_and_tell_nothing(thinker, changes):
    engine, url = thinker
    events = follow(url, join(url, values("Hi", **changes))[0])
    shown = json.dumps(events)
    assert "Traceback" not in shown and "site-packages" not in shown and "root:" not in shown
    asked = [overrides for _, _, overrides in engine.asked]
    assert all(0 <= one["temperature"] <= 2 and 0 < one["top_p"] <= 1 for one in asked)
    assert all(one["max_new_tokens"] <= 8192 for one in asked) and engine.open == 0
    assert texts(ask(connect(url), "Hi")[0])[-1][1] == "ab"


def test_a_number_that_is_none_is_one_line(page):
    events = follow(page, join(page, values("Hi", temperature=float("nan")))[0])
    assert "**Error:** temperature: nan is out of range" in json.dumps(events)
